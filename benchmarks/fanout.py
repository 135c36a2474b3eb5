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
from benchmarks._targets import Running, fastapi, load, mdash, missing_load, mosquitto, node, open_all
from benchmarks.reports import measured

ROW = "FANOUT"


def turn(server: Running, clients: Child, seconds: float, used: list[float]) -> float:
    """Return deliveries per second."""
    found, part = measured(clients, server, seconds)
    used.append(part)
    return float(found["deliveries"] / found["seconds"])


def run(form: Form) -> list[Line]:
    """Measure mdash, FastAPI, Node and Mosquitto."""
    lines = []
    for subscribers in form.subscribers:
        line = Line(ROW, f"deliveries, {subscribers} subscribers", "/s", {}, goal=1.0, reference=(mosquitto.name,))
        lines.append(line)
        if why := missing_load():
            line.missing[OURS] = why
            continue
        with ExitStack() as stack:
            servers, line.missing = open_all(stack, (mdash, fastapi, node, mosquitto), 1)
            used: dict[str, list[float]] = {name: [] for name in servers}
            work = {}
            for name, server in servers.items():
                protocol = "mqtt" if name == mosquitto.name else "websocket"
                clients = stack.enter_context(load("subscribe"))
                clients.ask(server.to_load() | {"subscribers": subscribers, "protocol": protocol})
                work[name] = partial(turn, server, clients, form.seconds, used[name])
            line.samples = in_turns(form.turns, work)
            line.busy = {name: median(values) for name, values in used.items()}
    return lines


if __name__ == "__main__":
    from benchmarks.__main__ import run_alone

    run_alone(ROW, __doc__)
