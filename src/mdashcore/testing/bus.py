"""The conformance suite for message buses: every sentence of the contract in `mdashcore.storage`, as a test."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import anyio

from mdashcore._errors import StorageError
from mdashcore.storage import INSTANT, SHARED, Backend, MessageBus
from mdashcore.testing._suite import ODD_KEYS, StorageSuite, at_once

__all__ = ["MessageBusSuite"]

PATIENCE = 10.0  # seconds for a message that has to come


class MessageBusSuite(StorageSuite):
    """First messages, order, and slow subscribers."""

    flood: ClassVar[int] = 6000
    """Messages past a subscriber that reads none: more than any queue for it can reasonably hold."""

    def test_bus_the_first_message_arrives(self) -> None:
        """A subscription is live when it has been entered: the very next message comes."""

        async def test(bus: MessageBus) -> None:
            for n in range(20):
                async with bus.subscribe("t") as messages:
                    await bus.publish("t", b"%d" % n)
                    with anyio.fail_after(PATIENCE):
                        assert await anext(messages) == b"%d" % n

        self._on_bus(test)

    def test_bus_nothing_is_kept(self) -> None:
        """Publishing to nobody succeeds, and who comes later gets only what comes later."""

        async def test(bus: MessageBus) -> None:
            await bus.publish("t", b"early")
            async with bus.subscribe("t") as messages:
                await bus.publish("t", b"late")
                with anyio.fail_after(PATIENCE):
                    assert await anext(messages) == b"late"

        self._on_bus(test)

    def test_bus_order(self) -> None:
        """The messages of one publisher arrive in their order, whatever their bytes and sizes."""

        async def test(bus: MessageBus) -> None:
            sent = [b"%d:" % n + bytes(range(256)) * (n % 5) for n in range(200)] + [b"", b"x" * 200_000]
            async with bus.subscribe("t") as messages:
                for message in sent:
                    await bus.publish("t", message)
                with anyio.fail_after(PATIENCE):
                    assert [await anext(messages) for _ in sent] == sent

        self._on_bus(test)

    def test_bus_everybody_gets_it(self) -> None:
        """Every subscriber of a topic gets every message; nobody else does."""

        async def test(bus: MessageBus) -> None:
            async with bus.subscribe("t") as one, bus.subscribe("t") as two, bus.subscribe("T") as other:
                await bus.publish("t", b"1")
                await bus.publish("T", b"2")
                with anyio.fail_after(PATIENCE):
                    assert [await anext(one), await anext(two), await anext(other)] == [b"1", b"1", b"2"]

        self._on_bus(test)

    def test_bus_odd_topics(self) -> None:
        """Every text is a topic of its own: none is a pattern for others."""

        async def test(bus: MessageBus) -> None:
            for topic in ODD_KEYS:
                async with bus.subscribe(topic) as messages:
                    for other in ("a", "A", "aa", "*", topic):
                        await bus.publish(other, other.encode("utf-8", "surrogatepass"))
                    with anyio.fail_after(PATIENCE):
                        assert (await anext(messages)).decode() == topic

        self._on_bus(test)

    def test_bus_who_leaves_is_gone(self) -> None:
        """After a subscription has ended, its topic goes on for the others, and can be subscribed to again."""

        async def test(bus: MessageBus) -> None:
            async with bus.subscribe("t") as stays:
                async with bus.subscribe("t") as leaves:
                    await bus.publish("t", b"1")
                    with anyio.fail_after(PATIENCE):
                        assert await anext(leaves) == b"1"
                await bus.publish("t", b"2")
                async with bus.subscribe("t") as comes:
                    await bus.publish("t", b"3")
                    with anyio.fail_after(PATIENCE):
                        assert await anext(comes) == b"3"
                        assert [await anext(stays) for _ in range(3)] == [b"1", b"2", b"3"]

        self._on_bus(test)

    def test_bus_a_slow_subscriber_delays_nobody(self) -> None:
        """A subscriber that reads nothing stops neither the publisher nor those who do read."""

        async def test(bus: MessageBus) -> None:
            async with bus.subscribe("t"), bus.subscribe("t") as reads:
                for n in range(self.flood):
                    with anyio.fail_after(PATIENCE):
                        await bus.publish("t", b"%d" % n + b"." * 200)
                        message = await anext(reads)
                    assert message.startswith(b"%d." % n)

        self._on_bus(test)

    def test_bus_a_slow_subscriber_is_told(self) -> None:
        """One that has fallen behind gets every message up to a gap, and `StorageError` in place of what is missing."""

        async def test(bus: MessageBus) -> None:
            async with bus.subscribe("t") as slow, bus.subscribe("t") as reads:
                for n in range(self.flood):
                    await bus.publish("t", b"%d" % n)
                    with anyio.fail_after(PATIENCE):
                        await anext(reads)
                try:
                    for n in range(self.flood):
                        with anyio.fail_after(PATIENCE):
                            assert await anext(slow) == b"%d" % n, "there is a gap, and no word of it"
                except StorageError:
                    pass
            async with bus.subscribe("t") as again:
                await bus.publish("t", b"again")
                with anyio.fail_after(PATIENCE):
                    assert await anext(again) == b"again"

        self._on_bus(test)

    def test_bus_shared(self) -> None:
        """What is published through one that has the store open arrives at another."""

        async def test(name: str) -> None:
            async with self.open(name) as one, self.open(name) as two, two.bus.subscribe("t") as messages:
                await one.bus.publish("t", b"1")
                with anyio.fail_after(PATIENCE):
                    assert await anext(messages) == b"1"

        self.run_if(SHARED, test)

    def test_bus_instant(self) -> None:
        """Nobody who publishes ever waits, and least of all for a subscriber that is behind."""

        async def test(name: str) -> None:
            async with self.open(name) as backend, backend.bus.subscribe("t"):
                bus: Any = backend.bus
                for n in range(self.flood):
                    at_once(bus.publish("t", b"%d" % n))
                    at_once(bus.publish("nobody's", b"%d" % n))

        self.run_if(INSTANT, test)

    def _on_bus(self, test: Callable[[MessageBus], Awaitable[None]]) -> None:
        async def opened(backend: Backend) -> None:
            await test(backend.bus)

        self.run_open(opened)
