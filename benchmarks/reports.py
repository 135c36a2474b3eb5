"""Shadow updates from 64 devices: merged, compared, versioned, stored, answered, and sent to a subscriber.

    python -m benchmarks.reports [--long]

Each device has 1 KB of state in each of the two sections, reports three values, and sends the next report when the last
was accepted. Every other report leaves a delta, which is sent to the device. Then the pure function on the same
documents, against that of `moto`, which imitates AWS IoT for tests.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from statistics import median
from typing import Any

from benchmarks._figures import OURS, Form, Line, in_turns
from benchmarks._machine import SERVER_CORE, Child, on_core
from benchmarks._targets import (
    MEMORY,
    REFERENCES,
    SQLITE,
    STORES,
    Running,
    contenders,
    load,
    missing_load,
    open_all,
    with_share,
)
from benchmarks.shadow import tree
from mdashcore import _json
from mdashcore.shadow import Shadow

ROW = "SHADOW"
DEVICES = 64
SIZE = 1_000  # bytes of a section
GOALS = {SQLITE: 1.5, MEMORY: 0.8}  # of the best peer on the same store
BESIDE_MEMORY = {SQLITE: 0.6}  # of mdash in memory
LEAF = 24  # bytes of a leaf with its share of the objects above it


def measured(process: Child, server: Running, seconds: float) -> tuple[dict[str, Any], float]:
    """Return the result of one turn of a load generator, and the share of its core that the server used meanwhile."""
    process.write({"seconds": seconds})
    assert process.read() == "begin"
    before = server.process.cpu()
    assert process.read() == "end"
    used = server.process.cpu() - before
    found = process.read()
    return found, used / found["seconds"]


def reporting(stack: ExitStack, server: Running, first: int, count: int, size: int) -> Child:
    """Connect devices, each with a shadow of that many bytes, and ready to report."""
    reporters = stack.enter_context(load("report"))
    assert reporters.ask(server.to_load(first, count) | {"size": size})["connected"] == count
    return reporters


def turn(server: Running, reporters: Child, seconds: float, used: list[float]) -> float:
    """Return updates per second."""
    found, part = measured(reporters, server, seconds)
    used.append(part)
    return float(found["updates"] / found["seconds"])


def served(form: Form, store: str) -> Line:
    """Measure mdash and its peers on a store."""
    line = Line(ROW, f"reports of {DEVICES} devices, {store}", "/s", {}, goal=GOALS.get(store), reference=REFERENCES)
    if why := missing_load():
        line.missing[OURS] = why
        return line
    with ExitStack() as stack:
        servers, line.missing = open_all(stack, contenders(store), DEVICES)
        used: dict[str, list[float]] = {name: [] for name in servers}
        work = {
            name: partial(turn, server, reporting(stack, server, 0, DEVICES, 2 * SIZE), form.seconds, used[name])
            for name, server in servers.items()
        }
        line.samples = in_turns(form.turns, work)
        line.busy = {name: median(values) for name, values in used.items()}
    return line


def ours(sections: Any) -> Callable[[bytes], Any]:
    """Return a function that takes a report as JSON, and returns version and delta."""
    shadow, _ = Shadow().update({"state": sections}, now=1.0)

    def update(text: bytes) -> Any:
        nonlocal shadow
        shadow, change = shadow.update(_json.decode(text), now=2.0)
        return change.accepted_document()["version"], (change.delta_document() or {}).get("state")

    return update


def motos(sections: Any) -> Callable[[bytes], Any]:
    """Return the same function with `moto`."""
    from moto.iotdata.models import FakeShadow

    shadow = FakeShadow.create_from_previous_version(None, {"state": sections})

    def update(text: bytes) -> Any:
        nonlocal shadow
        shadow = FakeShadow.create_from_previous_version(shadow, _json.decode(text))
        return shadow.to_response_dict()["version"], shadow.to_dict()["state"].get("delta")

    return update


def pure(form: Form) -> Line:
    """Measure updates per second, in one process and without sockets."""
    line = Line(ROW, "the pure function", "/s", {}, goal=1.5)
    sides = {OURS: ours}
    if find_spec("moto") is None:
        line.missing["moto"] = "not installed: moto"
    else:
        sides["moto"] = motos
    base: Any = tree(SIZE // LEAF, "a value of it")
    updates = {
        name: make(_json.decode(_json.encode({s: base | {"on": True} for s in ("desired", "reported")})))
        for name, make in sides.items()
    }
    counts = dict.fromkeys(updates, 0)

    def samples(name: str) -> float:
        update, done, start = updates[name], 0, time.process_time()
        while (now := time.process_time()) < start + min(form.seconds, 1.0):
            counts[name] = n = counts[name] + 1
            state = b'{"reported":{"n":%d,"on":%b,"temperature":%d.5}}' % (n, b"false" if n % 2 else b"true", n % 40)
            version, delta = update(b'{"state":%b}' % state)
            assert version == n + 1
            assert delta == ({"on": True} if n % 2 else None)
            done += 1
        return done / (now - start)

    with on_core(SERVER_CORE):
        line.samples = in_turns(form.turns, {name: partial(samples, name) for name in updates})
    return line


def run(form: Form) -> list[Line]:
    """Measure the served update on every store, and the pure function."""
    return [*with_share([served(form, store) for store in STORES], BESIDE_MEMORY), pure(form)]


if __name__ == "__main__":
    from benchmarks.__main__ import run_alone

    run_alone(ROW, __doc__)
