"""The conformance suite for message buses: every sentence of the contract in `mdashcore.storage`, as a test."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any

import anyio

from mdashcore._errors import StorageError
from mdashcore.storage import Backend, MessageBus
from mdashcore.testing._bus_capabilities import BusCapabilitySuite
from mdashcore.testing._bus_suite import arriving
from mdashcore.testing._bus_topics import BusTopicSuite
from mdashcore.testing._suite import CANCEL_STEPS, ODD_KEYS, cancel_after, expect_failure

__all__ = ["MessageBusSuite"]

LARGEST_MESSAGE = 2**20  # bytes of a message: eight of the largest frames that a device may send

LEFT_SUBSCRIPTIONS = 20  # subscriptions that are left by an exception

MAX_KEPT = 2  # of those: a variable of the store may still name the last


class MessageBusSuite(BusTopicSuite, BusCapabilitySuite):
    """The contract of message buses: first messages, order, and slow subscribers."""

    def test_bus_the_first_message_arrives(self) -> None:
        """A subscription is live when it has been entered: the very next message comes."""

        async def test(bus: MessageBus) -> None:
            for n in range(20):
                async with bus.subscribe("t") as messages:
                    await bus.publish("t", b"%d" % n)
                    with arriving():
                        assert await anext(messages) == b"%d" % n

        self.on_bus(test)

    def test_bus_nothing_is_kept(self) -> None:
        """Publishing without a subscriber succeeds, and a later subscriber gets only later messages."""

        async def test(bus: MessageBus) -> None:
            await bus.publish("t", b"early")
            async with bus.subscribe("t") as messages:
                await bus.publish("t", b"late")
                with arriving():
                    assert await anext(messages) == b"late"

        self.on_bus(test)

    def test_bus_order(self) -> None:
        """The messages of one publisher arrive in their order, whatever their bytes and sizes."""

        async def test(bus: MessageBus) -> None:
            sent = [b"%d:" % n + bytes(range(256)) * (n % 5) for n in range(200)] + [b"", b"x" * LARGEST_MESSAGE]
            async with bus.subscribe("t") as messages:
                for message in sent:
                    await bus.publish("t", message)
                with arriving():
                    assert [await anext(messages) for _ in sent] == sent

        self.on_bus(test)

    def test_bus_every_subscriber_gets_it(self) -> None:
        """Every subscriber of a topic gets every message; subscribers of other topics do not."""

        async def test(bus: MessageBus) -> None:
            async with bus.subscribe("t") as one, bus.subscribe("t") as two, bus.subscribe("T") as other:
                await bus.publish("t", b"1")
                await bus.publish("T", b"2")
                with arriving():
                    assert [await anext(one), await anext(two), await anext(other)] == [b"1", b"1", b"2"]

        self.on_bus(test)

    def test_bus_odd_topics(self) -> None:
        """Every text is a topic of its own: none is a pattern for others."""

        async def test(bus: MessageBus) -> None:
            for topic in ODD_KEYS:
                async with bus.subscribe(topic) as messages:
                    for other in ("a", "A", "aa", "*", topic):
                        await bus.publish(other, other.encode("utf-8", "surrogatepass"))
                    with arriving():
                        assert (await anext(messages)).decode() == topic

        self.on_bus(test)

    def test_bus_a_subscription_that_is_left_is_gone(self) -> None:
        """After a subscription has ended, its topic goes on for the others, and can be subscribed to again."""

        async def test(bus: MessageBus) -> None:
            async with bus.subscribe("t") as stays:
                async with bus.subscribe("t") as leaves:
                    await bus.publish("t", b"1")
                    with arriving():
                        assert await anext(leaves) == b"1"
                await bus.publish("t", b"2")
                async with bus.subscribe("t") as comes:
                    await bus.publish("t", b"3")
                    with arriving():
                        assert await anext(comes) == b"3"
                        assert [await anext(stays) for _ in range(3)] == [b"1", b"2", b"3"]

        self.on_bus(test)

    def test_bus_a_subscription_ends_with_its_context(self) -> None:
        """What is published after a subscription was left does not come out of its iterator, which has ended."""

        async def test(bus: MessageBus) -> None:
            async with bus.subscribe("t") as stays:
                async with bus.subscribe("t") as left:
                    await bus.publish("t", b"1")
                    with arriving():
                        assert await anext(left) == await anext(stays) == b"1"
                await bus.publish("t", b"2")
                with arriving():
                    assert await anext(stays) == b"2"
                    assert await anext(left, None) is None

        self.on_bus(test)

    def test_bus_a_slow_subscriber_delays_no_other(self) -> None:
        """A subscriber that reads nothing stops neither the publisher nor the subscribers that read."""

        async def test(bus: MessageBus) -> None:
            async with bus.subscribe("t"), bus.subscribe("t") as reads:
                for n in range(self.flood):
                    with arriving():
                        await bus.publish("t", b"%d" % n + b"." * 200)
                        message = await anext(reads)
                    assert message.startswith(b"%d." % n)

        self.on_bus(test)

    def test_bus_a_slow_subscriber_is_told(self) -> None:
        """A subscriber that has fallen behind gets every message up to a gap, and `StorageError` in place of the
        lost ones.
        """

        async def test(bus: MessageBus) -> None:
            async with bus.subscribe("t") as slow, bus.subscribe("t") as reads:
                for n in range(self.flood):
                    await bus.publish("t", b"%d" % n)
                    with arriving():
                        await anext(reads)
                try:
                    for n in range(self.flood):
                        with arriving():
                            assert await anext(slow) == b"%d" % n, "there is a gap, and no word of it"
                except StorageError:
                    pass
            async with bus.subscribe("t") as again:
                await bus.publish("t", b"again")
                with arriving():
                    assert await anext(again) == b"again"

        self.on_bus(test)

    def test_bus_a_message_is_not_shared(self) -> None:
        """A buffer that the publisher changes afterwards does not change a message; a message arrives as `bytes`."""

        async def test(bus: MessageBus) -> None:
            async with bus.subscribe("t") as messages:
                buffer: Any = bytearray(b"1")
                await bus.publish("t", buffer)
                buffer[:] = b"2"
                with arriving():
                    message = await anext(messages)
                assert type(message) is bytes
                assert message == b"1"

        self.on_bus(test)

    def test_bus_a_cancelled_publish_is_never_half_done(self) -> None:
        """Wherever a publish is cancelled: every subscriber gets the message, or none does."""

        async def test(bus: MessageBus) -> None:
            async with bus.subscribe("t") as one, bus.subscribe("t") as two:
                for steps in range(CANCEL_STEPS):
                    ended = await cancel_after(steps, lambda steps=steps: bus.publish("t", b"%d" % steps))  # type: ignore[misc]
                    with anyio.CancelScope(shield=True):
                        await bus.publish("t", b"next")
                    heard = [await _until(messages, b"next") for messages in (one, two)]
                    assert heard[0] == heard[1], f"one subscriber got {heard[0]}, another {heard[1]}"
                    assert heard[0] in ([], [b"%d" % steps])
                    if ended:
                        break

        self.on_bus(test)

    def test_bus_what_an_exception_leaves_is_gone(self) -> None:
        """A subscription that is left by an exception lets it out as it is, and leaves nothing behind."""

        async def test(bus: MessageBus) -> None:
            left = []
            for n in range(LEFT_SUBSCRIPTIONS):
                try:
                    async with bus.subscribe("t") as messages:
                        await bus.publish("t", b"%d" % n)
                        with arriving():
                            assert await anext(messages) == b"%d" % n
                        left.append(weakref.ref(messages))
                        raise ZeroDivisionError
                except ZeroDivisionError:
                    pass
                del messages
            await bus.publish("t", b"for none of them")
            with suppress(TimeoutError), arriving():
                while _alive(left) > MAX_KEPT:  # noqa: ASYNC110 - there is no event for the end of an object
                    await anyio.sleep(0.01)
            assert _alive(left) <= MAX_KEPT, (
                f"{_alive(left)} of {LEFT_SUBSCRIPTIONS} subscriptions that were left are kept"
            )

        self.on_bus(test)

    def test_bus_failures_are_storage_errors(self) -> None:
        """While the system below the bus fails, the bus raises `StorageError` and nothing else; afterwards it works."""

        async def test(backend: Backend, fail: Callable[[], AbstractAsyncContextManager[None]]) -> None:
            bus = backend.bus
            failures: list[StorageError] = []
            async with fail():
                async with expect_failure(failures):
                    await bus.publish("t", b"1")
                async with expect_failure(failures):
                    async with bus.subscribe("t"):
                        pass
            async with bus.subscribe("t") as messages:
                await bus.publish("t", b"2")
                with arriving():
                    assert await anext(messages) == b"2"

        self.run_failing(test)


async def _until(messages: AsyncIterator[bytes], last: bytes) -> list[bytes]:
    """Return the messages before `last`."""
    heard: list[bytes] = []
    with arriving():
        while (message := await anext(messages)) != last:
            heard.append(message)
    return heard


def _alive(references: list[weakref.ref[Any]]) -> int:
    gc.collect()
    return sum(reference() is not None for reference in references)
