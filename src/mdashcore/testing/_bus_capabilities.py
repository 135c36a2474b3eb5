"""The conformance suite for what a message bus promises with a capability."""

from __future__ import annotations

from typing import Any

import anyio

from mdashcore.storage import INSTANT, SHARED, MessageBus
from mdashcore.testing._bus_suite import BusSuite, arriving
from mdashcore.testing._suite import run_immediately

__all__ = ["BusCapabilitySuite"]

SHARED_MESSAGES = 50


class BusCapabilitySuite(BusSuite):
    """The contract of message buses that are `SHARED` or `INSTANT`."""

    def test_bus_shared(self) -> None:
        """A message that is published through one opener of the store arrives at another."""

        async def test(name: str) -> None:
            async with self.open(name) as one, self.open(name) as two, two.bus.subscribe("t") as messages:
                await one.bus.publish("t", b"1")
                with arriving():
                    assert await anext(messages) == b"1"

        self.run_if(SHARED, test)

    def test_bus_shared_under_load(self) -> None:
        """Messages that two openers publish at the same time arrive at both, each publisher's in its order."""

        async def test(name: str) -> None:
            async with self.open(name) as one, self.open(name) as two:
                async with one.bus.subscribe("t") as first, two.bus.subscribe("t") as second:

                    async def publish(bus: MessageBus, letter: bytes) -> None:
                        for n in range(SHARED_MESSAGES):
                            await bus.publish("t", letter + b"%d" % n)

                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(publish, one.bus, b"a")
                        tasks.start_soon(publish, two.bus, b"b")
                    for messages in (first, second):
                        with arriving():
                            heard = [await anext(messages) for _ in range(2 * SHARED_MESSAGES)]
                        for letter in (b"a", b"b"):
                            own = [message for message in heard if message.startswith(letter)]
                            assert own == [letter + b"%d" % n for n in range(SHARED_MESSAGES)]

        self.run_if(SHARED, test)

    def test_bus_instant(self) -> None:
        """A publisher never waits, least of all for a subscriber that is behind."""

        async def test(name: str) -> None:
            async with self.open(name) as backend, backend.bus.subscribe("t"):
                bus: Any = backend.bus
                for n in range(self.flood):
                    run_immediately(bus.publish("t", b"%d" % n))
                    run_immediately(bus.publish("nobody's", b"%d" % n))

        self.run_if(INSTANT, test)
