"""The cost of one report with many devices connected, and with large shadows.

    python -m benchmarks.growth [--long]

Ten devices report; the others are connected and idle. The cost is the processor time of the server for each accepted
report, with the time that the idle devices need.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from benchmarks._figures import OURS, Form, Line, in_turns
from benchmarks._machine import Child, settle
from benchmarks._targets import SQLITE, Running, load, mdash, missing_load
from benchmarks.reports import measured, reporting

ROW = "GROWTH"
ACTIVE = 10
USUAL = 1_000  # bytes of a shadow
SIZES = (USUAL, 8_000, 30_000)  # the limit is 32 KiB


def cost(server: Running, reporters: Child, seconds: float) -> float:
    """Return microseconds of the server's processor time for a report."""
    found, part = measured(reporters, server, seconds)
    return float(1e6 * part * found["seconds"] / found["updates"])


def by_devices(form: Form) -> Line:
    """Compare the most devices with ten, and one step between."""
    steps = sorted({ACTIVE, max(ACTIVE, min(1_000, form.devices // 10)), form.devices})
    names = {steps[-1]: OURS} | {n: f"{n} devices" for n in steps[:-1]}
    middle = tuple(names[n] for n in steps[1:-1])
    line = Line(
        ROW, f"a report with {steps[-1]} devices connected", "µs", {}, less_is_better=True, goal=1.3, reference=middle,
    )  # fmt: skip
    with ExitStack() as stack:
        work = {}
        for n in steps[::-1]:
            server = stack.enter_context(mdash(SQLITE).open(n))
            idle = stack.enter_context(load("answer"))
            assert idle.ask(server.to_load(ACTIVE), timeout=300.0)["connected"] == n - ACTIVE
            settle(server.process)
            reporters = reporting(stack, server, 0, ACTIVE, USUAL)
            work[names[n]] = partial(cost, server, reporters, form.seconds)
        line.samples = in_turns(form.turns, work)
    return line


def by_size(form: Form) -> Line:
    """Compare large shadows with a usual one."""
    names = {SIZES[-1]: OURS} | {size: f"{size // 1000} KB" for size in SIZES[:-1]}
    line = Line(
        ROW, f"a report to a shadow of {SIZES[-1] // 1000} KB", "µs", {}, less_is_better=True,
        reference=tuple(f"{size // 1000} KB" for size in SIZES[1:-1]),
    )  # fmt: skip
    with ExitStack() as stack:
        work = {}
        for size in reversed(SIZES):
            server = stack.enter_context(mdash(SQLITE).open(ACTIVE))
            work[names[size]] = partial(cost, server, reporting(stack, server, 0, ACTIVE, size), form.seconds)
        line.samples = in_turns(form.turns, work)
    return line


def run(form: Form) -> list[Line]:
    """Measure mdash alone."""
    if why := missing_load():
        return [Line(ROW, "a report", "µs", {}, missing={OURS: why})]
    return [by_devices(form), by_size(form)]


if __name__ == "__main__":
    from benchmarks.__main__ import run_alone

    run_alone(ROW, __doc__)
