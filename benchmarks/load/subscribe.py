"""One device that sends messages, and many subscribers.

Reads ``{"port", "key", "devices", "subscribers", "protocol"}``; writes ``{"connected"}``. At each further line,
``{"seconds"}``, it writes ``"begin"``, ``"end"`` after the time, and ``{"deliveries", "seconds"}``.

A few messages are on their way at the same time; the next is sent when all have the oldest. Every subscriber has to
get every message, in order.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import uvloop

from benchmarks.load import mqtt
from benchmarks.load.devices import Client, command, connect_all, tell, until

WINDOW = 8  # messages on their way: enough that no subscriber waits for this process
WARM_UP = 0.2  # share of the time, before it


class Run:
    """The messages on their way, with the number of subscribers that lack each."""

    def __init__(self, subscribers: int) -> None:
        self.subscribers = subscribers
        self.running = False
        self.sent = 0
        self.delivered = 0
        self.lacking: dict[int, int] = {}
        self.publish: Callable[[int], None] = lambda _: None

    def send(self) -> None:
        self.sent += 1
        self.lacking[self.sent] = self.subscribers
        self.publish(self.sent)

    def got(self, n: int) -> None:
        """Count a delivery of a message."""
        self.delivered += 1
        self.lacking[n] -= 1
        if not self.lacking[n]:
            del self.lacking[n]
            if self.running:
                self.send()


class Expectation:
    """The next message that a subscriber has to get."""

    __slots__ = ("_next", "_run", "_text")

    def __init__(self, run: Run) -> None:
        self._run, self._next, self._text = run, 1, b'"n":1}'

    def check(self, data: bytes) -> None:
        """Check a message: it is the next one of the device, or about something else."""
        if self._text in data:
            n = self._next
            self._next = n + 1
            self._text = b'"n":%d}' % (n + 1)
            self._run.got(n)
        else:
            assert b'"n":' not in data, (self._text, data)


class Subscriber(Client):
    """A subscriber on a WebSocket."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._check = Expectation(run).check

    def text(self, data: bytes) -> None:
        self._check(data)


async def by_socket(order: dict[str, Any], run: Run) -> None:
    """Connect all over WebSockets."""
    subscribers = [(Subscriber(run), order["key"]) for _ in range(run.subscribers)]
    await connect_all(order["port"], "/api/v2/notify", subscribers)
    source = Client()
    await connect_all(order["port"], "/api/v2/rpc", [(source, order["devices"][0][1])])
    run.publish = lambda n: source.send(b'{"method":"Tick","params":{"n":%d}}' % n)


async def by_mqtt(order: dict[str, Any], run: Run) -> None:
    """Connect all to an MQTT broker."""
    for n in range(run.subscribers):
        await mqtt.connect(order["port"], f"s{n}", Expectation(run).check, "out")
    source = await mqtt.connect(order["port"], "source", lambda _: None)
    run.publish = lambda n: source.publish("out", b'{"name":"rpc.out.Tick","id":"d0","data":{"n":%d}}' % n)


async def measure(run: Run, seconds: float) -> dict[str, Any]:
    """Send messages for the time, and check that all subscribers get all of them."""
    run.running = True
    for _ in range(WINDOW):
        run.send()
    await asyncio.sleep(seconds * WARM_UP)
    tell("begin")
    first, start = run.delivered, time.perf_counter()
    await asyncio.sleep(seconds)
    result = {"deliveries": run.delivered - first, "seconds": time.perf_counter() - start}
    run.running = False
    tell("end")
    await until(lambda: not run.lacking)
    assert run.delivered == run.sent * run.subscribers
    return result


async def main() -> None:
    order = await command()
    run = Run(order["subscribers"])
    await (by_mqtt if order["protocol"] == "mqtt" else by_socket)(order, run)
    tell({"connected": run.subscribers})
    while (turn := await command()) is not None:
        tell(await measure(run, turn["seconds"]))


if __name__ == "__main__":
    uvloop.run(main())
