"""The conformance suite for message buses: every sentence of the contract in `mdashcore.storage`, as a test."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ClassVar

import anyio

from mdashcore._errors import StorageError
from mdashcore.storage import INSTANT, SHARED, Backend, MessageBus, goes_on
from mdashcore.testing._suite import CANCEL_STEPS, ODD_KEYS, StorageSuite, cancel_after, expect_failure, run_immediately

__all__ = ["MessageBusSuite"]

MESSAGE_TIMEOUT = 10.0  # seconds for a message that has to come

LARGEST_MESSAGE = 2**20  # bytes of a message: eight of the largest frames that a device may send

SHARED_MESSAGES = 50

LEFT_SUBSCRIPTIONS = 20  # subscriptions that are left by an exception

PUBLISHERS = 32  # messages that are published at the same time to thousands of topics

HELD_TOPICS = 50  # topics that are subscribed to while the system below the bus fails

MAX_KEPT = 2  # of those: a variable of the store may still name the last


class MessageBusSuite(StorageSuite):
    """The contract of message buses: first messages, order, and slow subscribers."""

    flood: ClassVar[int] = 6000
    """Messages past a subscriber that reads none: more than a queue for it can reasonably hold."""

    topics: ClassVar[int] = 1000
    """Topics that are subscribed to at the same time."""

    def test_bus_the_first_message_arrives(self) -> None:
        """A subscription is live when it has been entered: the very next message comes."""

        async def test(bus: MessageBus) -> None:
            for n in range(20):
                async with bus.subscribe("t") as messages:
                    await bus.publish("t", b"%d" % n)
                    with anyio.fail_after(MESSAGE_TIMEOUT):
                        assert await anext(messages) == b"%d" % n

        self._on_bus(test)

    def test_bus_nothing_is_kept(self) -> None:
        """Publishing without a subscriber succeeds, and a later subscriber gets only later messages."""

        async def test(bus: MessageBus) -> None:
            await bus.publish("t", b"early")
            async with bus.subscribe("t") as messages:
                await bus.publish("t", b"late")
                with anyio.fail_after(MESSAGE_TIMEOUT):
                    assert await anext(messages) == b"late"

        self._on_bus(test)

    def test_bus_order(self) -> None:
        """The messages of one publisher arrive in their order, whatever their bytes and sizes."""

        async def test(bus: MessageBus) -> None:
            sent = [b"%d:" % n + bytes(range(256)) * (n % 5) for n in range(200)] + [b"", b"x" * LARGEST_MESSAGE]
            async with bus.subscribe("t") as messages:
                for message in sent:
                    await bus.publish("t", message)
                with anyio.fail_after(MESSAGE_TIMEOUT):
                    assert [await anext(messages) for _ in sent] == sent

        self._on_bus(test)

    def test_bus_every_subscriber_gets_it(self) -> None:
        """Every subscriber of a topic gets every message; subscribers of other topics do not."""

        async def test(bus: MessageBus) -> None:
            async with bus.subscribe("t") as one, bus.subscribe("t") as two, bus.subscribe("T") as other:
                await bus.publish("t", b"1")
                await bus.publish("T", b"2")
                with anyio.fail_after(MESSAGE_TIMEOUT):
                    assert [await anext(one), await anext(two), await anext(other)] == [b"1", b"1", b"2"]

        self._on_bus(test)

    def test_bus_odd_topics(self) -> None:
        """Every text is a topic of its own: none is a pattern for others."""

        async def test(bus: MessageBus) -> None:
            for topic in ODD_KEYS:
                async with bus.subscribe(topic) as messages:
                    for other in ("a", "A", "aa", "*", topic):
                        await bus.publish(other, other.encode("utf-8", "surrogatepass"))
                    with anyio.fail_after(MESSAGE_TIMEOUT):
                        assert (await anext(messages)).decode() == topic

        self._on_bus(test)

    def test_bus_a_subscription_that_is_left_is_gone(self) -> None:
        """After a subscription has ended, its topic goes on for the others, and can be subscribed to again."""

        async def test(bus: MessageBus) -> None:
            async with bus.subscribe("t") as stays:
                async with bus.subscribe("t") as leaves:
                    await bus.publish("t", b"1")
                    with anyio.fail_after(MESSAGE_TIMEOUT):
                        assert await anext(leaves) == b"1"
                await bus.publish("t", b"2")
                async with bus.subscribe("t") as comes:
                    await bus.publish("t", b"3")
                    with anyio.fail_after(MESSAGE_TIMEOUT):
                        assert await anext(comes) == b"3"
                        assert [await anext(stays) for _ in range(3)] == [b"1", b"2", b"3"]

        self._on_bus(test)

    def test_bus_a_subscription_ends_with_its_context(self) -> None:
        """What is published after a subscription was left does not come out of its iterator, which has ended."""

        async def test(bus: MessageBus) -> None:
            async with bus.subscribe("t") as stays:
                async with bus.subscribe("t") as left:
                    await bus.publish("t", b"1")
                    with anyio.fail_after(MESSAGE_TIMEOUT):
                        assert await anext(left) == await anext(stays) == b"1"
                await bus.publish("t", b"2")
                with anyio.fail_after(MESSAGE_TIMEOUT):
                    assert await anext(stays) == b"2"
                    assert await anext(left, None) is None

        self._on_bus(test)

    def test_bus_thousands_of_topics(self) -> None:
        """They come and go together: each subscriber gets the messages of its topic while it is there, and no other."""

        async def test(bus: MessageBus) -> None:
            present = _TopicUsers(bus)
            all_topics = range(self.topics)
            for round, topics in enumerate((all_topics, all_topics[::2], all_topics)):
                async with present.subscribed(topics, round):
                    await present.publish(all_topics, round)

        self._on_bus(test)

    def test_bus_topics_that_are_left_cost_nothing(self) -> None:
        """After thousands of topics have come and gone the store keeps nothing of them."""

        async def test(bus: MessageBus) -> None:
            present, kept = _TopicUsers(bus), []
            for round in range(3):
                topics = range(round * self.topics, (round + 1) * self.topics)
                async with present.subscribed(topics, round):
                    await present.publish(topics, round)
                gc.collect()
                kept.append(len(gc.get_objects()))
            grown = kept[2] - kept[1]
            assert grown < self.topics / 2, f"{grown} objects are kept of {self.topics} topics that were left"

        self._on_bus(test)

    def test_bus_a_slow_subscriber_delays_no_other(self) -> None:
        """A subscriber that reads nothing stops neither the publisher nor the subscribers that read."""

        async def test(bus: MessageBus) -> None:
            async with bus.subscribe("t"), bus.subscribe("t") as reads:
                for n in range(self.flood):
                    with anyio.fail_after(MESSAGE_TIMEOUT):
                        await bus.publish("t", b"%d" % n + b"." * 200)
                        message = await anext(reads)
                    assert message.startswith(b"%d." % n)

        self._on_bus(test)

    def test_bus_a_slow_subscriber_is_told(self) -> None:
        """A subscriber that has fallen behind gets every message up to a gap, and `StorageError` in place of the
        lost ones.
        """

        async def test(bus: MessageBus) -> None:
            async with bus.subscribe("t") as slow, bus.subscribe("t") as reads:
                for n in range(self.flood):
                    await bus.publish("t", b"%d" % n)
                    with anyio.fail_after(MESSAGE_TIMEOUT):
                        await anext(reads)
                try:
                    for n in range(self.flood):
                        with anyio.fail_after(MESSAGE_TIMEOUT):
                            assert await anext(slow) == b"%d" % n, "there is a gap, and no word of it"
                except StorageError:
                    pass
            async with bus.subscribe("t") as again:
                await bus.publish("t", b"again")
                with anyio.fail_after(MESSAGE_TIMEOUT):
                    assert await anext(again) == b"again"

        self._on_bus(test)

    def test_bus_a_message_is_not_shared(self) -> None:
        """A buffer that the publisher changes afterwards does not change a message; a message arrives as `bytes`."""

        async def test(bus: MessageBus) -> None:
            async with bus.subscribe("t") as messages:
                buffer: Any = bytearray(b"1")
                await bus.publish("t", buffer)
                buffer[:] = b"2"
                with anyio.fail_after(MESSAGE_TIMEOUT):
                    message = await anext(messages)
                assert type(message) is bytes
                assert message == b"1"

        self._on_bus(test)

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

        self._on_bus(test)

    def test_bus_what_an_exception_leaves_is_gone(self) -> None:
        """A subscription that is left by an exception lets it out as it is, and leaves nothing behind."""

        async def test(bus: MessageBus) -> None:
            left = []
            for n in range(LEFT_SUBSCRIPTIONS):
                try:
                    async with bus.subscribe("t") as messages:
                        await bus.publish("t", b"%d" % n)
                        with anyio.fail_after(MESSAGE_TIMEOUT):
                            assert await anext(messages) == b"%d" % n
                        left.append(weakref.ref(messages))
                        raise ZeroDivisionError
                except ZeroDivisionError:
                    pass
                del messages
            await bus.publish("t", b"for none of them")
            with anyio.move_on_after(MESSAGE_TIMEOUT):
                while _alive(left) > MAX_KEPT:  # noqa: ASYNC110 - there is no event for the end of an object
                    await anyio.sleep(0.01)
            assert _alive(left) <= MAX_KEPT, (
                f"{_alive(left)} of {LEFT_SUBSCRIPTIONS} subscriptions that were left are kept"
            )

        self._on_bus(test)

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
                with anyio.fail_after(MESSAGE_TIMEOUT):
                    assert await anext(messages) == b"2"

        self.run_failing(test)

    def test_bus_topics_outlast_a_failure(self) -> None:
        """After a failure of the system below, each subscription has either lost nothing, or has an error at the place
        of the gap; then it goes on, if it says so, or can be made again.
        """

        async def test(backend: Backend, fail: Callable[[], AbstractAsyncContextManager[None]]) -> None:
            bus, live, failed = backend.bus, anyio.Semaphore(0), anyio.Event()

            async def follow(n: int) -> None:
                topic, message = f"held/{n}", b"%d" % n
                async with bus.subscribe(topic) as messages:
                    live.release()
                    await failed.wait()
                    try:
                        assert await anext(messages) == message
                        return
                    except StorageError:
                        if goes_on(messages):
                            await bus.publish(topic, message)
                            assert await anext(messages) == message
                            return
                async with bus.subscribe(topic) as messages:
                    await bus.publish(topic, message)
                    assert await anext(messages) == message

            with anyio.fail_after(2 * MESSAGE_TIMEOUT):
                async with anyio.create_task_group() as tasks:
                    for n in range(HELD_TOPICS):
                        tasks.start_soon(follow, n)
                    for _ in range(HELD_TOPICS):
                        await live.acquire()
                    async with fail():
                        async with expect_failure([]):
                            await bus.publish("t", b"1")
                    failed.set()
                    for n in range(HELD_TOPICS):
                        await bus.publish(f"held/{n}", b"%d" % n)

        self.run_failing(test)

    def test_bus_shared(self) -> None:
        """A message that is published through one opener of the store arrives at another."""

        async def test(name: str) -> None:
            async with self.open(name) as one, self.open(name) as two, two.bus.subscribe("t") as messages:
                await one.bus.publish("t", b"1")
                with anyio.fail_after(MESSAGE_TIMEOUT):
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
                        with anyio.fail_after(MESSAGE_TIMEOUT):
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

    def _on_bus(self, test: Callable[[MessageBus], Awaitable[None]]) -> None:
        async def opened(backend: Backend) -> None:
            await test(backend.bus)

        self.run_open(opened)


class _TopicUsers:
    """Subscribers of numbered topics, each of which has to get one message in each round."""

    def __init__(self, bus: MessageBus) -> None:
        self._bus = bus

    @asynccontextmanager
    async def subscribed(self, topics: Sequence[int], round: int) -> AsyncIterator[None]:
        """Subscribe to topics. The context ends when each has got the message of its number and round."""
        live = anyio.Semaphore(0)

        async def subscribe(n: int) -> None:
            async with self._bus.subscribe(f"many/{n}") as messages:
                live.release()
                assert await anext(messages) == b"%d of %d" % (n, round)

        with anyio.fail_after(2 * MESSAGE_TIMEOUT):
            async with anyio.create_task_group() as tasks:
                for n in topics:
                    tasks.start_soon(subscribe, n)
                for _ in topics:
                    await live.acquire()
                yield

    async def publish(self, topics: Sequence[int], round: int) -> None:
        """Publish the messages of a round, several at the same time."""
        left = list(topics)

        async def work() -> None:
            while left:
                n = left.pop()
                await self._bus.publish(f"many/{n}", b"%d of %d" % (n, round))

        async with anyio.create_task_group() as tasks:
            for _ in range(PUBLISHERS):
                tasks.start_soon(work)


async def _until(messages: AsyncIterator[bytes], last: bytes) -> list[bytes]:
    """Return the messages before `last`."""
    heard: list[bytes] = []
    with anyio.fail_after(MESSAGE_TIMEOUT):
        while (message := await anext(messages)) != last:
            heard.append(message)
    return heard


def _alive(references: list[weakref.ref[Any]]) -> int:
    gc.collect()
    return sum(reference() is not None for reference in references)
