"""The latency of the same bridge at a thousand calls a second, sent whether or not the last is answered.

    python -m benchmarks.latency [--long]

Times count from when a call was due, so that a stall of the server counts for all calls that wait meanwhile.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from statistics import median

from benchmarks._figures import OURS, Form, Line, in_turns
from benchmarks._machine import Child
from benchmarks._targets import REFERENCES, STORES, Running, contenders, load, missing_load, open_all
from benchmarks.rpc import DEVICES, attach, check

ROW = "LATENCY"
RATE = 1_000  # calls a second
SHORTEST = 1.0  # seconds: of a thousand calls ten are above the 99th percentile


def turn(
    server: Running,
    clients: Child,
    seconds: float,
    name: str,
    used: dict[str, list[float]],
    middle: dict[str, list[float]],
) -> float:
    """Return the 99th percentile in milliseconds."""
    check(server)
    before = server.process.cpu()
    found = clients.ask(server.to_load() | {"seconds": seconds, "rate": RATE})
    used.setdefault(name, []).append((server.process.cpu() - before) / seconds)
    middle.setdefault(name, []).append(found["p50"])
    assert found["requests"] > 0.8 * RATE * seconds, found
    return float(found["p99"])


def served(form: Form, store: str) -> list[Line]:
    """Measure mdash and its peers on a store. Returns the lines of the 99th percentile and of the median."""
    line = Line(
        ROW, f"99th percentile at {RATE} calls a second, {store}", "ms", {},
        less_is_better=True, goal=1.0, reference=REFERENCES,
    )  # fmt: skip
    if why := missing_load():
        line.missing[OURS] = why
        return [line]
    with ExitStack() as stack:
        servers, line.missing = open_all(stack, contenders(store), DEVICES)
        for server in servers.values():
            attach(stack, server)
        clients = stack.enter_context(load("rate"))
        used: dict[str, list[float]] = {}
        middle: dict[str, list[float]] = {}
        seconds = max(SHORTEST, form.seconds)
        work = {name: partial(turn, server, clients, seconds, name, used, middle) for name, server in servers.items()}
        line.samples = in_turns(form.turns, work)
        line.busy = {name: median(values) for name, values in used.items()}
    what = f"median at {RATE} calls a second, {store}"
    return [line, Line(ROW, what, "ms", middle, less_is_better=True, reference=REFERENCES)]


def run(form: Form) -> list[Line]:
    """Measure on every store."""
    return [line for store in STORES for line in served(form, store)]


if __name__ == "__main__":
    from benchmarks.__main__ import run_alone

    run_alone(ROW, __doc__)
