-- For wrk: calls of every device in turn. Arguments: the API key, the body, and the ids of the devices.
local requests, at, told = {}, 0, nil

function init(args)
  local headers = { ["Authorization"] = "Bearer " .. args[1], ["Content-Type"] = "application/json" }
  for n = 3, #args do
    requests[n - 2] = wrk.format("POST", "/api/v2/devices/" .. args[n] .. "/rpc/Echo", headers, args[2])
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end

function done(summary, latency)
  local e = summary.errors
  local errors = e.connect + e.read + e.write + e.status + e.timeout
  print(string.format('JSON {"requests":%d,"seconds":%.6f,"errors":%d,"p99":%.3f}',
    summary.requests, summary.duration / 1e6, errors, latency:percentile(99) / 1000))
end
