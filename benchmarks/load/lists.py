"""A client that reads the list of all devices, again and again.

Reads ``{"port", "key"}``; writes ``{"devices"}``. At each further line, ``{"seconds"}``, it writes ``{"lists"}``: the
number of lists that it has read in that time.
"""

from __future__ import annotations

import json
import sys
import time

from benchmarks._api import Api


def main() -> None:
    order = json.loads(sys.stdin.readline())
    api = Api(order["port"], order["key"])
    print(json.dumps({"devices": len(api.device(""))}), flush=True)
    for line in sys.stdin:
        end, lists = time.perf_counter() + json.loads(line)["seconds"], 0
        while time.perf_counter() < end:
            api.raw_list()
            lists += 1
        print(json.dumps({"lists": lists}), flush=True)


if __name__ == "__main__":
    main()
