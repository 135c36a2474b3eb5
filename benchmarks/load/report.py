"""Devices that report, each its next update when the last was accepted, and a subscriber to all of them.

Reads ``{"port", "key", "devices", "size"}``; writes ``{"connected"}``. At each further line, ``{"seconds"}``, it writes
``"begin"``, ``"end"`` after the time, and ``{"updates", "seconds"}``: the updates accepted in it. Every report is
checked: that it was accepted, that the device got its delta if one is left, that the subscriber was notified,
and that the shadow has the right values at the end.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import uvloop

from benchmarks._api import Api
from benchmarks.load.devices import Client, command, connect_all, tell, until
from benchmarks.shadow import tree

LEAF = 48  # bytes of a leaf in both sections, with its share of the objects above it
WARM_UP = 0.2  # share of the time, before it


class Reporter(Client):
    """One device. Every other report leaves a delta."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self.sent = 0
        self.accepted = 0
        self.delta = 0  # the version of the newest one

    def report(self) -> None:
        self.sent = n = self.sent + 1
        on = b"false" if n % 2 else b"true"
        state = b'{"reported":{"n":%d,"on":%b,"temperature":%d.5}}' % (n, on, n % 40)
        self.send(b'{"id":%d,"method":"Dash.Shadow.Update","params":{"state":%b}}' % (n, state))

    def has_its_delta(self, version: int) -> bool:
        """Whether the newest delta has come, if there is one: one that a later report has ended need not be sent."""
        return self.delta == version + self.sent if self.sent % 2 else self.delta < version + self.sent

    def text(self, data: bytes) -> None:
        if b'"Shadow.Delta"' in data:
            self.delta = int(data[data.index(b'"version":') + 10 :].split(b",")[0].rstrip(b"}"))
        elif b'"method"' in data:  # a request of the server to a new device
            number = data[data.index(b'"id":') + 5 :].split(b",")[0]
            self.send(b'{"id":%b,"error":{"code":404,"message":"No handler"}}' % number)
        elif b'"result"' in data and b'"version"' in data:
            self.accepted += 1
            self.run.updates += 1
            if self.run.running:
                self.report()
        else:
            self.run.errors.append(data)


class Subscriber(Client):
    """Counts the notifications of updates."""

    heard = 0

    def text(self, data: bytes) -> None:
        if data.startswith(b'{"name":"updated"') and b'"version"' in data:
            self.heard += 1


class Run:
    """Connected devices, and their subscriber."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.running = False
        self.updates = 0
        self.errors: list[bytes] = []
        self._order = order
        self._api = Api(order["port"], order["key"])
        self._base: Any = tree(max(2, order["size"] // LEAF), "a value of it")
        self._listener = Subscriber()
        self._reporters = {id: Reporter(self) for id, _ in order["devices"]}
        self._versions: dict[str, int] = {}

    async def connect(self) -> int:
        """Give every device its shadow, and connect. Returns the number of devices."""
        for id in self._reporters:
            self._api.update(id, {"state": {section: self._base | {"on": True} for section in ("desired", "reported")}})
            self._versions[id] = self._api.shadow(id)["version"]
        await connect_all(self._order["port"], "/api/v2/notify", [(self._listener, self._order["key"])])
        pairs = [(self._reporters[id], token) for id, token in self._order["devices"]]
        return len(await connect_all(self._order["port"], "/api/v2/rpc", pairs))

    async def measure(self, seconds: float) -> dict[str, Any]:
        """Report for the time, and check the results."""
        self.running = True
        for reporter in self._reporters.values():
            reporter.report()
        await asyncio.sleep(seconds * WARM_UP)
        tell("begin")
        first, start = self.updates, time.perf_counter()
        await asyncio.sleep(seconds)
        result = {"updates": self.updates - first, "seconds": time.perf_counter() - start}
        self.running = False
        tell("end")
        await until(lambda: all(each.accepted == each.sent for each in self._reporters.values()) or bool(self.errors))
        await until(lambda: self._listener.heard >= self.updates or bool(self.errors))
        await until(lambda: all(each.has_its_delta(self._versions[id]) for id, each in self._reporters.items()))
        self._check()
        return result

    def _check(self) -> None:
        assert not self.errors, self.errors[0]
        assert self._listener.heard == self.updates, (self._listener.heard, self.updates)
        for id, reporter in self._reporters.items():
            sent = reporter.sent
            found = self._api.shadow(id)
            assert found["version"] == self._versions[id] + sent, (found["version"], self._versions[id], sent)
            values = {"n": sent, "on": sent % 2 == 0, "temperature": sent % 40 + 0.5}
            assert found["state"]["reported"] == self._base | values


async def main() -> None:
    run = Run(await command())
    tell({"connected": await run.connect()})
    while (order := await command()) is not None:
        tell(await run.measure(order["seconds"]))


if __name__ == "__main__":
    uvloop.run(main())
