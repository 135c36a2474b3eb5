"""The cost of an idle connected device, and the speed at which a whole fleet comes back.

    python -m benchmarks.idle [--long]

Memory is that of the server's process alone, without shared pages: with all devices connected, less with none,
after a few hundred have come and gone. For mdash it includes the presence of each device in the store.

The storm: all connections are cut, and come back together. A device is back when its first request is answered.
"""

from __future__ import annotations

from functools import partial
from statistics import median

from benchmarks._figures import OURS, Form, Line, in_turns
from benchmarks._machine import Failed, settle
from benchmarks._targets import (
    MEMORY,
    REFERENCES,
    STORES,
    Running,
    Target,
    contenders,
    load,
    mdash,
    missing_load,
    sockets,
)

ROW = "IDLE"
WARM_UP = 200  # connections before the first measurement of the memory
STORMS = 2  # storms of each process


def bytes_each(server: Running) -> float:
    """Return the memory of a connected device."""
    few = min(WARM_UP, len(server.devices))
    with load("answer") as devices:
        assert devices.ask(server.to_load(0, few))["connected"] == few
    settle(server.process)
    before = server.process.memory()
    with load("answer") as devices:
        connected = devices.ask(server.to_load(), timeout=300.0)["connected"]
        assert connected == len(server.devices)
        settle(server.process, pause=0.5)
        devices.ask({})
        return float((server.process.memory() - before) / connected)


def storms(server: Running, used: list[float]) -> list[float]:
    """Return connections per second, each time that all devices come back."""
    rates = []
    with load("storm") as fleet:
        fleet.ask(server.to_load(), timeout=300.0)
        for _ in range(STORMS):
            settle(server.process)
            before = server.process.cpu()
            seconds = fleet.ask({}, timeout=300.0)["seconds"]
            used.append((server.process.cpu() - before) / seconds)
            rates.append(len(server.devices) / seconds)
    return rates


def starts(target: Target) -> str | None:
    """Return why a peer does not start, such as a Node without SQLite; `None` if it does."""
    try:
        with target.open(1):
            return None
    except Failed as exc:
        if target.name == OURS:
            raise
        return f"does not start: {exc}"


def one(target: Target, devices: int, rates: list[float], used: list[float]) -> float:
    """Start a server, and measure both."""
    with target.open(devices) as server:
        memory = bytes_each(server)
        rates += storms(server, used)
        return memory


def served(form: Form, store: str) -> list[Line]:
    """Measure mdash and its peers on a store: in memory, servers that only serve sockets."""
    memory = Line(
        ROW, f"memory of an idle device, {form.devices} connected, {store}", "bytes", {},
        less_is_better=True, goal=0.9 if store == MEMORY else None, reference=REFERENCES,
    )  # fmt: skip
    storm = Line(
        ROW, f"connections when {form.devices} come back, {store}", "/s", {},
        goal=0.8 if store == MEMORY else None, reference=REFERENCES,
    )  # fmt: skip
    if why := missing_load():
        memory.missing[OURS] = storm.missing[OURS] = why
        return [memory, storm]
    work = {}
    used: dict[str, list[float]] = {}
    for target in (mdash(store), *sockets) if store == MEMORY else contenders(store):
        if why := target.missing() or starts(target):
            memory.missing[target.name] = storm.missing[target.name] = why
        else:
            rates, parts = storm.samples.setdefault(target.name, []), used.setdefault(target.name, [])
            work[target.name] = partial(one, target, form.devices, rates, parts)
    memory.samples = in_turns((form.turns + 2) // 3, work)
    storm.busy = {name: median(parts) for name, parts in used.items()}
    return [memory, storm]


def run(form: Form) -> list[Line]:
    """Measure on every store, in the quick form not on Redis."""
    return [line for store in form.stores_of(STORES) for line in served(form, store)]


if __name__ == "__main__":
    from benchmarks.__main__ import run_alone

    run_alone(ROW, __doc__)
