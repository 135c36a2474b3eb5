"""The conformance suite for message buses with many topics."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import ClassVar

import anyio

from mdashcore._errors import StorageError
from mdashcore.storage import Backend, MessageBus, goes_on
from mdashcore.testing._bus_suite import BusSuite, arriving
from mdashcore.testing._suite import expect_failure

__all__ = ["BusTopicSuite"]

PUBLISHERS = 32  # messages that are published at the same time to thousands of topics

HELD_TOPICS = 50  # topics that are subscribed to while the system below the bus fails


class BusTopicSuite(BusSuite):
    """The contract of message buses for topics that come and go, and for those that outlast a failure."""

    topics: ClassVar[int] = 1000
    """Topics that are subscribed to at the same time."""

    def test_bus_thousands_of_topics(self) -> None:
        """They come and go together: each subscriber gets the messages of its topic while it is there, and no other."""

        async def test(bus: MessageBus) -> None:
            present = _TopicUsers(bus)
            all_topics = range(self.topics)
            for round, topics in enumerate((all_topics, all_topics[::2], all_topics)):
                async with present.subscribed(topics, round):
                    await present.publish(all_topics, round)

        self.on_bus(test)

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

        self.on_bus(test)

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

            with arriving(2):
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

        with arriving(2):
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
