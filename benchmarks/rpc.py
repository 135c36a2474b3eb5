"""The RPC bridge: an HTTP POST becomes a call on a device's socket, and its answer the response.

    python -m benchmarks.rpc [--long]

wrk has 64 connections open, and calls 64 devices in turn; the devices answer from the same core. Before every turn
each device is called once, and its answer compared.
"""

from __future__ import annotations

import json
import subprocess
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import Any

from benchmarks._api import Api
from benchmarks._figures import OURS, Form, Line, in_turns
from benchmarks._machine import LOAD_CORE, ROOT, Child, child
from benchmarks._targets import (
    MEMORY,
    REFERENCES,
    SQLITE,
    STORES,
    Running,
    contenders,
    find_program,
    load,
    missing_load,
    open_all,
    slow_lane,
    with_share,
)

ROW = "RPC"
DEVICES = 64
CLIENTS = 64
GOALS = {SQLITE: 1.5, MEMORY: 1.0}  # of the best peer on the same store
BESIDE_MEMORY = {SQLITE: 0.7}  # of mdash in memory
PARAMS = '{"pin":2,"on":true}'
TIMEOUT = 10  # seconds of a call, as in mdash; wrk counts more than two as an error, and a busy machine needs more
PATIENCE = 30.0  # seconds that wrk may take longer than ordered


def check(server: Running) -> None:
    """Call each device, and compare its answer."""
    api = Api(server.port, server.key)
    for n, (id, _) in enumerate(server.devices):
        params = {"n": n, "text": 'ä"\\', "list": [1.5, None, True]}
        assert api.call(id, "Echo", params) == params
    api.close()


def attach(stack: ExitStack, server: Running) -> Child:
    """Connect all devices of a server. They answer for as long as the stack lasts."""
    devices = stack.enter_context(load("answer"))
    assert devices.ask(server.to_load())["connected"] == len(server.devices)
    return devices


def wrk(server: Running, seconds: float) -> dict[str, Any]:
    """Run wrk for one turn, and return its result. It counts in whole seconds."""
    whole = max(1, round(seconds))
    command = [
        find_program("wrk") or "wrk",
        "-t1",
        f"-c{CLIENTS}",
        f"-d{whole}s",
        f"--timeout={TIMEOUT}s",
        "-s",
        f"{ROOT}/benchmarks/load/calls.lua",
    ]
    command += [f"http://127.0.0.1:{server.port}", "--", server.key, PARAMS, *(id for id, _ in server.devices)]
    with child("wrk", command, core=LOAD_CORE) as process:
        said, _ = process.process.communicate(timeout=whole + PATIENCE)
    for line in said.decode().splitlines():
        if line.startswith("JSON "):
            return dict(json.loads(line[5:]))
    raise subprocess.SubprocessError(f"wrk says {said!r}")


def turn(server: Running, devices: Child, seconds: float, used: dict[str, list[float]], name: str) -> float:
    """Return requests per second."""
    check(server)
    before, answered = server.process.cpu(), devices.ask({})["answered"]
    found = wrk(server, seconds)
    assert found["errors"] == 0, f"{name}: {found}"
    assert devices.ask({})["answered"] - answered >= found["requests"] > 0, "answers that no device gave"
    used.setdefault(name, []).append((server.process.cpu() - before) / found["seconds"])
    return float(found["requests"] / found["seconds"])


def served(form: Form, store: str) -> Line:
    """Measure mdash and its peers on a store; in memory also mdash with every request in the slow lane."""
    work = f"calls, {CLIENTS} clients and {DEVICES} devices, {store}"
    line = Line(ROW, work, "/s", {}, goal=GOALS.get(store), reference=REFERENCES)
    if why := missing_load("wrk"):
        line.missing[OURS] = why
        return line
    with ExitStack() as stack:
        targets = [*contenders(store), *([slow_lane(store)] if store == MEMORY else [])]
        servers, line.missing = open_all(stack, targets, DEVICES)
        attached = {name: attach(stack, server) for name, server in servers.items()}
        used: dict[str, list[float]] = {}
        turns = {
            name: partial(turn, server, attached[name], form.seconds, used, name) for name, server in servers.items()
        }
        line.samples = in_turns(form.turns, turns)
        line.busy = {name: median(values) for name, values in used.items()}
    return line


def run(form: Form) -> list[Line]:
    """Measure on every store."""
    return with_share([served(form, store) for store in STORES], BESIDE_MEMORY)


if __name__ == "__main__":
    from benchmarks.__main__ import run_alone

    run_alone(ROW, __doc__)
