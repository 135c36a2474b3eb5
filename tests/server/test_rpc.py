"""``/devices/:id/rpc``: calls from REST to a device, and whole frames."""

from __future__ import annotations

import json

import pytest
import trio
import trio.testing
from rows import every_row

from mdashcore.testing.device import FRAME_TIMEOUT
from mdashcore.trio.node import NodeSettings

pytestmark = pytest.mark.every_lane("no epoll")


# Results


RESULTS = [
    "null",
    "true",
    '"GPIO \\u00fc ü ☕ \\/ \\ud83d\\ude00"',
    "123456789012345678901234567890",
    "-0.0",
    "1.0",
    "1e400",
    "0.1000000000000000055511151231257827",
    '{"z":1,"a":{"y":[ 1, 2 ],"b":1E+2},"z":2}',
    "[]",
    "{ }",
    "[" * 60 + "]" * 60,
]


async def test_the_result_comes_back_byte_for_byte(alice, device):
    """Not one digit, key or blank of what the device wrote is changed: big integers, floats and key order stay."""
    for result in RESULTS:
        async with alice.calling("POST", "/devices/d1/rpc/GPIO.Toggle", content=b'{"pin":2}') as response:
            request = await device.expect("GPIO.Toggle")
            assert request["params"] == {"pin": 2}
            await device.send(f'{{"id":{request["id"]},"result":{result}}}')
            answer = await response()
        assert (answer.status_code, answer.content) == (200, result.encode())
        assert answer.headers["content-type"] == "application/json"


async def test_an_answer_without_a_result_is_null(alice, device):
    """Some devices leave out a result that would be null."""
    async with alice.calling("POST", "/devices/d1/rpc/GPIO.Write") as response:
        request = await device.expect("GPIO.Write")
        await device.send({"id": request["id"]})
        assert (await response()).content == b"null"


@every_row(
    "error",
    [
        {"code": -1, "message": "Update already in progress"},
        {"code": 404, "message": "No handler for X ☕"},
        {"code": -32602, "message": "bad", "data": {"pin": [1, None, 123456789012345678901234567890]}},
        {"code": 0, "message": ""},
    ],
)
async def test_a_device_error_is_passed_through(alice, device, error):
    """Code, message and data are the device's own; the status says that the server did its part."""
    async with alice.calling("POST", "/devices/d1/rpc/X") as response:
        request = await device.expect("X")
        await device.send({"id": request["id"], "error": error})
        answer = await response()
    assert (answer.status_code, answer.json()) == (422, {"error": error})


# Params


async def test_get_calls_without_params(alice, device):
    """The later form of the API, for methods that take none."""
    async with alice.calling("GET", "/devices/d1/rpc/Sys.GetInfo") as response:
        request = await device.expect("Sys.GetInfo")
        assert "params" not in request
        await device.reply(request, {"app": "demo"})
        assert (await response()).json() == {"app": "demo"}


async def test_params_are_json_whatever_the_content_type_says(alice, device):
    """``curl -d '{…}'`` says that it were a form."""
    for kind in ("application/json", "application/x-www-form-urlencoded", "text/plain", "multipart/form-data", ""):
        headers = {"Content-Type": kind} if kind else {}
        async with alice.calling("POST", "/devices/d1/rpc/X", content=b' {"a":1}\n', headers=headers) as response:
            request = await device.expect("X")
            assert (kind, request["params"]) == (kind, {"a": 1})
            await device.reply(request)
            assert (await response()).status_code == 200


async def test_params_of_any_kind_reach_the_device_unchanged(alice, device):
    """They are read to be checked, never written anew."""
    for params in ("[1,2]", '"text"', "7", "false", "{}", "[]", "1" * 100, '{"z":1,"a":2}', "1.0", "-0"):
        async with alice.calling("POST", "/devices/d1/rpc/X", content=params) as response:
            with trio.fail_after(FRAME_TIMEOUT):
                frame = await device.ws.get_message()
            assert frame.endswith(f'"params":{params}}}')
            await device.reply(json.loads(frame))
            assert (await response()).status_code == 200


async def test_no_params_are_no_params(alice, device):
    """An empty body, and null, call the method without any."""
    for body in ("", "  \n", "null"):
        async with alice.calling("POST", "/devices/d1/rpc/X", content=body) as response:
            request = await device.expect("X")
            assert (body, "params" in request) == (body, False)
            await device.reply(request)
            assert (await response()).status_code == 200


NO_JSON = [
    b"{",
    b"{'a':1}",
    b"pin=2",
    b'{"a":NaN}',
    b"Infinity",
    b"1e999",
    b'{"a":"\xff\xfe"}',
    b'"\\ud800"',
    b"[" * 64 + b"]" * 64,
    b"[" * 16_000 + b"]" * 16_000,
    b"1 2",
    b"\xef\xbb\xbf{}",
    b'{"a":1}\x00',
]


async def test_params_that_are_no_json_are_refused(alice, device):
    """With 400 and a reason; neither the device nor any subscriber hears of it."""
    async with alice.listen() as ear:
        for body in NO_JSON:
            answer = await alice.http.post("/devices/d1/rpc/X", content=body)
            assert (body, answer.status_code, answer.json()["error"]["code"]) == (body, 400, 400)
            assert "JSON" in answer.json()["error"]["message"]
        await alice.http.put("/devices/d1", json={"name": "mark"})
        assert (await ear.hear())["name"] == "updated"


async def test_the_deepest_params_can_be_called_and_read_in_the_log(alice, device):
    """What may be sent to a device can be found in the log afterwards, and filtered."""
    deepest = b"[" * 63 + b"]" * 63
    async with alice.calling("POST", "/devices/d1/rpc/Deep", content=deepest) as response:
        await device.reply(await device.expect("Deep"))
        assert (await response()).status_code == 200
    (told,) = (await alice.http.post("/logs", json={"id": "d1", "name": "rpc.in.Deep"})).json()
    assert json.dumps(told["data"]) == deepest.decode()


async def test_params_larger_than_a_frame_are_refused(alice, device):
    """With 413, and without a trace in the log, which would be filled by what was never sent."""
    answer = await alice.http.post("/devices/d1/rpc/X", content=b'"%b"' % (b"x" * 2**17))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, 413)
    assert (await alice.http.post("/logs", json={"name": "rpc.in.*"})).json() == []


@every_row("method", ["X" * 257, "%00", "a%2Fb"])
async def test_names_that_no_method_has(alice, device, method):
    """A name that is too long is refused, one with a slash is no such path; any other is the device's business."""
    if method == "%00":
        async with alice.calling("GET", "/devices/d1/rpc/%00") as response:
            await device.reply_error(await device.expect("\0"), 404, "No handler")
            assert (await response()).json()["error"]["code"] == 404
    else:
        answer = await alice.http.get(f"/devices/d1/rpc/{method}")
        assert answer.status_code == (400 if len(method) > 256 else 404)
        assert "message" in answer.json()["error"]


# When there is no answer


async def test_an_offline_device_is_told_immediately(alice):
    """503, not after a time-out; and an unknown one is 404."""
    await alice.register("d1")
    began = trio.current_time()
    offline = await alice.http.post("/devices/d1/rpc/X?timeout=60")
    assert (offline.status_code, offline.json()["error"]["code"]) == (503, 503)
    unknown = await alice.http.post("/devices/d2/rpc/X?timeout=60")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, 404)
    assert trio.current_time() - began < 30
    assert (await alice.http.post("/logs", json={"name": "rpc.in.*"})).json() == []


async def test_a_late_answer_harms_nothing(alice, device):
    """After 504 the answer is ignored; the next call gets its own."""
    began = trio.current_time()
    async with alice.calling("POST", "/devices/d1/rpc/Slow?timeout=0.05") as response:
        late = await device.expect("Slow")
        answer = await response()
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, 504)
    assert 0.04 < trio.current_time() - began < 10
    await device.reply(late, "late")
    await device.reply(late, "later")
    await device.reply({"id": 4711}, "never asked for")
    async with alice.calling("POST", "/devices/d1/rpc/Quick") as response:
        request = await device.expect("Quick")
        assert request["id"] != late["id"]
        await device.reply(late, "late again")
        await device.reply(request, "in time")
        assert (await response()).json() == "in time"


async def test_a_timeout_is_a_number_of_seconds(alice, device):
    """Up to two minutes; anything else is refused before the device is called."""
    for timeout in ("0", "-1", "121", "nan", "inf", "soon", ""):
        answer = await alice.http.post(f"/devices/d1/rpc/X?timeout={timeout}")
        assert (timeout, answer.status_code) == (timeout, 400)
        assert "timeout" in answer.json()["error"]["message"]
    assert (await alice.http.post("/logs", json={"name": "rpc.in.*"})).json() == []


async def test_a_device_that_disconnects_mid_call_is_offline(alice):
    """Every caller that waits gets 503 immediately."""
    async with await alice.connect("d1") as device:
        await alice.told("online", "d1")
        async with (
            alice.calling("POST", "/devices/d1/rpc/A?timeout=60") as one,
            alice.calling("POST", "/devices/d1/rpc/B?timeout=60") as other,
        ):
            await device.receive()
            await device.receive()
            await device.ws.aclose()
            for response in (await one(), await other()):
                assert (response.status_code, response.json()["error"]["code"]) == (503, 503)
    await alice.told("offline", "d1")
    assert (await alice.http.post("/devices/d1/rpc/X")).status_code == 503


async def test_a_call_survives_what_comes_between(alice, device):
    """Answers in another order, notifications, garbage and requests of the device do not cross a call."""
    async with alice.calling("POST", "/devices/d1/rpc/A") as a, alice.calling("POST", "/devices/d1/rpc/B") as b:
        first, second = await device.receive(), await device.receive()
        await device.send('{"method":')
        await device.send({"method": "Log", "params": {"data": "hello"}})
        await device.send({"id": first["id"], "method": "Dash.Shadow.Get"})
        await device.reply(second, second["method"])
        await device.send({"id": str(first["id"]), "src": "d1", "result": first["method"]})
        assert ((await a()).json(), (await b()).json()) == ("A", "B")


async def test_a_client_that_leaves_leaves_no_call_behind(alice, device):
    """The call of a client that has hung up is forgotten."""
    with trio.move_on_after(5):
        async with trio.open_nursery() as nursery:

            async def call():
                await alice.http.post("/devices/d1/rpc/X?timeout=60")

            nursery.start_soon(call)
            await device.expect("X")
            nursery.cancel_scope.cancel()
    (connected,) = alice.server.service.node.devices.values()
    with trio.fail_after(FRAME_TIMEOUT):
        while connected.link.connection._calls:
            await trio.testing.wait_all_tasks_blocked(0.01)


# What people hear of it


async def test_calls_are_told_as_rpc_in(alice, device):
    """With the method and the params, before the device has answered."""
    async with alice.listen() as ear:
        async with alice.calling("POST", "/devices/d1/rpc/GPIO.Write", content=b'{"pin":2,"value":1}') as response:
            heard = await ear.expect("rpc.in.GPIO.Write", "d1")
            assert heard["data"] == {"pin": 2, "value": 1}
            await device.reply(await device.expect("GPIO.Write"))
            await response()
        async with alice.calling("GET", "/devices/d1/rpc/Sys.GetInfo") as response:
            assert "data" not in await ear.expect("rpc.in.Sys.GetInfo", "d1")
            await device.reply(await device.expect("Sys.GetInfo"))
            await response()


# Whole frames


async def test_a_frame_is_answered_with_a_frame(alice, device):
    """With the id as it was written, the method's params or args, and the device's result."""
    frame = b'{"v":2,"id":"1-x","method":"FS.List","args":{"path":"/"},"dst":"d1","src":"mos"}'
    async with alice.calling("POST", "/devices/d1/rpc", content=frame) as response:
        request = await device.expect("FS.List")
        assert request["params"] == {"path": "/"}
        assert "dst" not in request
        await device.reply(request, ["a", "b"])
        answer = await response()
    assert answer.content == b'{"jsonrpc":"2.0","id":"1-x","result":["a","b"]}'
    assert answer.status_code == 200


async def test_a_device_error_in_a_frame_is_a_frame(alice, device):
    """The status is 200: the connection went well."""
    async with alice.calling("POST", "/devices/d1/rpc", content=b'{"id":7,"method":"X"}') as response:
        request = await device.expect("X")
        await device.send({"id": request["id"], "error": {"code": -1, "message": "no", "data": [1]}})
        answer = await response()
    error = {"code": -1, "message": "no", "data": [1]}
    assert (answer.status_code, answer.json()) == (200, {"jsonrpc": "2.0", "id": 7, "error": error})


@pytest.mark.parametrize("frame", [b'{"method":"Ping","params":[1]}', b'{"id":1,"nr":true,"method":"Ping","args":[1]}'])
async def test_a_notification_has_no_answer(alice, device, frame):
    """204, and the device gets it without an id."""
    async with alice.listen() as ear:
        answer = await alice.http.post("/devices/d1/rpc", content=frame)
        assert (answer.status_code, answer.content) == (204, b"")
        assert await device.expect("Ping") == {"jsonrpc": "2.0", "method": "Ping", "params": [1]}
        assert (await ear.expect("rpc.in.Ping"))["data"] == [1]


async def test_a_batch_is_answered_with_a_batch(alice, device):
    """The members run side by side; answers come in the order of the members, none for a notification."""
    batch = [
        {"id": 1, "method": "A"},
        {"method": "N"},
        {"id": "two", "method": "B"},
        7,
        {"id": 3, "result": 4},
        {"id": 5, "method": "C"},
    ]
    async with alice.calling("POST", "/devices/d1/rpc", json=batch) as response:
        frames = {frame["method"]: frame for frame in [await device.receive() for _ in range(4)]}
        assert "id" not in frames["N"]
        await device.reply(frames["C"], "c")
        await device.reply_error(frames["B"], 500, "b")
        await device.reply(frames["A"], "a")
        answer = await response()
    assert answer.status_code == 200
    invalid = {"code": -32600, "message": "Invalid Request"}
    assert answer.json() == [
        {"jsonrpc": "2.0", "id": 1, "result": "a"},
        {"jsonrpc": "2.0", "id": "two", "error": {"code": 500, "message": "b"}},
        {"jsonrpc": "2.0", "id": None, "error": invalid},
        {"jsonrpc": "2.0", "id": 3, "error": {"code": -32600, "message": "Invalid Request: not a call"}},
        {"jsonrpc": "2.0", "id": 5, "result": "c"},
    ]


async def test_a_batch_of_notifications_has_no_answer(alice, device):
    """204, as for a single one."""
    answer = await alice.http.post("/devices/d1/rpc", json=[{"method": "A"}, {"method": "B"}])
    assert (answer.status_code, answer.content) == (204, b"")
    assert {(await device.receive())["method"] for _ in range(2)} == {"A", "B"}


NO_FRAMES = [
    (b"{", -32700),
    (b"", -32700),
    (b'{"method":"X","params":NaN}', -32700),
    (b'{"id":1,"method":"\xff"}', -32700),
    (b"[" * 65 + b"]" * 65, -32700),
    (b"[]", -32600),
    (b"{}", -32600),
    (b"7", -32600),
    (b'{"id":1,"method":7}', -32600),
    (b'{"id":{},"method":"X"}', -32600),
    (b'{"id":1,"result":true}', -32600),
    (b'{"id":1,"error":{"code":5,"message":"mine"}}', -32600),
    (b"[" + b'{"method":"X"},' * 100 + b"{}]", -32600),
]


async def test_a_frame_that_is_none_is_refused_with_a_frame(alice, device):
    """400, with the code that JSON-RPC has for it."""
    for frame, code in NO_FRAMES:
        answer = await alice.http.post("/devices/d1/rpc", content=frame)
        assert (frame, answer.status_code, answer.json()["error"]["code"]) == (frame, 400, code)
        assert answer.json()["jsonrpc"] == "2.0"


async def test_a_batch_is_bounded(alice, device):
    """To what a device queues."""
    answer = await alice.http.post("/devices/d1/rpc", json=[{"method": "X"}] * 26)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, 400)


async def test_a_frame_for_a_device_that_is_not_there(alice, device):
    """404 for an unknown device; 503 and 504 in a frame, so that a JSON-RPC client sees its id again."""
    frame = b'{"id":7,"method":"X"}'
    assert (await alice.http.post("/devices/d9/rpc", content=frame)).status_code == 404
    await alice.register("d2")
    offline = await alice.http.post("/devices/d2/rpc", content=frame)
    assert (offline.status_code, offline.json()["id"], offline.json()["error"]["code"]) == (503, 7, 503)
    silent = await alice.http.post("/devices/d1/rpc?timeout=0.02", content=frame)
    assert (silent.status_code, silent.json()["id"], silent.json()["error"]["code"]) == (504, 7, 504)


# Requests of the device


async def test_requests_of_a_device(alice, device):
    """What the server does not offer is error -32601 with the request's id; a notification is told to people."""
    async with alice.listen() as ear:
        await device.send({"id": 9, "method": "Nobody.Knows", "params": {"a": 1}})
        answer = await device.receive()
        assert (answer["id"], answer["error"]["code"]) == (9, -32601)
        await device.send({"src": "d1", "method": "Button.Pressed", "args": {"n": 1}})
        assert (await ear.hear())["data"] == {"n": 1}
        await device.send({"id": 10, "nr": True, "method": "Button.Pressed"})
        heard = await ear.hear()
        assert (heard["name"], heard["id"], "data" in heard) == ("rpc.out.Button.Pressed", "d1", False)
        for name in ("Log", "Dash.Log"):
            await device.send({"method": name, "params": {"fd": 1, "data": "hello", "t": 1.5, "seq": 7}})
            heard = await ear.hear()
            assert (heard["name"], heard["data"]["data"]) == ("rpc.out.Log", "hello")
        await device.send({"id": 11, "method": "Log", "params": {"data": "x"}})
        assert (await device.receive())["result"] is True


def test_the_defaults_are_what_is_documented():
    """A call has ten seconds, an introduction three quarters of one."""
    assert (NodeSettings().call_timeout, NodeSettings().introduction_delay) == (10.0, 0.75)
