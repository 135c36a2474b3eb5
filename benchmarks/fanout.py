"""Notifications: one device sends messages, and every subscriber gets them.

    python -m benchmarks.fanout [--long]

Eight messages are on their way at the same time. Every subscriber checks that it gets each of them, in order.
Mosquitto is a reference: it keeps nothing, and speaks a protocol that was made for this.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from statistics import median

from benchmarks._figures import OURS, Form, Line, in_turns
from benchmarks._machine import Child
from benchmarks._targets import (
    MEMORY,
    REDIS,
    REFERENCES,
    STORES,
    Running,
    contenders,
    load,
    missing_load,
    mosquitto,
    open_all,
)
from benchmarks.reports import measured

ROW = "FANOUT"


def turn(server: Running, clients: Child, seconds: float, used: list[float]) -> float:
    """Return deliveries per second."""
    found, part = measured(clients, server, seconds)
    used.append(part)
    return float(found["deliveries"] / found["seconds"])


def served(form: Form, store: str, subscribers: int) -> Line:
    """Measure mdash and its peers on a store; in memory also Mosquitto."""
    what = f"deliveries, {subscribers} subscribers, {store}"
    line = Line(ROW, what, "/s", {}, goal=None if store == REDIS else 1.0, reference=(*REFERENCES, mosquitto.name))
    if why := missing_load():
        line.missing[OURS] = why
        return line
    with ExitStack() as stack:
        targets = [*contenders(store), *([mosquitto] if store == MEMORY else [])]
        servers, line.missing = open_all(stack, targets, 1)
        used: dict[str, list[float]] = {name: [] for name in servers}
        work = {}
        for name, server in servers.items():
            protocol = "mqtt" if name == mosquitto.name else "websocket"
            clients = stack.enter_context(load("subscribe"))
            clients.ask(server.to_load() | {"subscribers": subscribers, "protocol": protocol})
            work[name] = partial(turn, server, clients, form.seconds, used[name])
        line.samples = in_turns(form.turns, work)
        line.busy = {name: median(values) for name, values in used.items()}
    return line


def run(form: Form) -> list[Line]:
    """Measure every number of subscribers on every store, in the quick form not on Redis."""
    return [served(form, store, subscribers) for subscribers in form.subscribers for store in form.stores_of(STORES)]


if __name__ == "__main__":
    from benchmarks.__main__ import run_alone

    run_alone(ROW, __doc__)
