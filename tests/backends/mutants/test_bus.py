"""Message buses that break one sentence of the contract each, and stores that claim what they are not."""

from __future__ import annotations

import unittest
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio
import pytest

from mdash_backends._bus_queue import BusQueue
from mdash_backends.memory import MemoryBlobs, MemoryBus, MemoryDocuments, MemoryLogs
from mdashcore._errors import NotFound, StorageError
from mdashcore.storage import DURABLE, Backend
from mdashcore.testing import BackendSuite


class DropsTheFirstMessage(MemoryBus):
    """Subscribes in the background, after the context has been entered."""

    @asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[AsyncIterator[bytes]]:
        async with super().subscribe(topic) as messages:
            subscriber = set(self._topics[topic])
            self._topics[topic].clear()

            async def later() -> None:
                await anyio.lowlevel.checkpoint()
                self._topics.setdefault(topic, set()).update(subscriber)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(later)
                yield messages
                tasks.cancel_scope.cancel()


class WaitsForSlowOnes(MemoryBus):
    """Publishing waits until every subscriber has room."""

    async def publish(self, topic: str, message: bytes) -> None:
        for queue in tuple(self._topics.get(topic, ())):
            while queue.is_full:
                await anyio.lowlevel.checkpoint()
            queue.offer(message)


class DropsForAll(MemoryBus):
    """One queue that is full stops the delivery to those behind it."""

    async def publish(self, topic: str, message: bytes) -> None:
        queues = list(self._topics.get(topic, ()))
        if any(queue.is_full for queue in queues):
            return
        for queue in queues:
            queue.offer(message)


class DropsWithoutAWord(MemoryBus):
    """Skips subscribers that are behind, and goes on without an error."""

    async def publish(self, topic: str, message: bytes) -> None:
        for queue in tuple(self._topics.get(topic, ())):
            if not queue.is_full:
                queue.offer(message)


class KeepsMessages(MemoryBus):
    """Gives the last message to whatever subscribes later."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, bytes] = {}

    async def publish(self, topic: str, message: bytes) -> None:
        self._last[topic] = message
        await super().publish(topic, message)

    @asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[AsyncIterator[bytes]]:
        async with super().subscribe(topic) as messages:
            if topic in self._last:
                await super().publish(topic, self._last[topic])
            yield messages


class AliasesMessages(MemoryBus):
    """Hands the publisher's buffer on."""

    async def publish(self, topic: str, message: bytes) -> None:
        for queue in tuple(self._topics.get(topic, ())):
            queue.offer(message)


class PublishesOneByOne(MemoryBus):
    """Gives others a turn between two subscribers."""

    async def publish(self, topic: str, message: bytes) -> None:
        for queue in tuple(self._topics.get(topic, ())):
            queue.offer(bytes(message))
            await anyio.lowlevel.checkpoint()


class CutsMessages(MemoryBus):
    """Has room for half a megabyte."""

    async def publish(self, topic: str, message: bytes) -> None:
        await super().publish(topic, message[: 2**19])


class LeaksWhatIsLeft(MemoryBus):
    """Cleans up only where a subscription ends well."""

    @asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[AsyncIterator[bytes]]:
        queue = BusQueue()
        self._topics.setdefault(topic, set()).add(queue)
        yield queue
        self._topics[topic].discard(queue)


class GoesOnAfterTheEnd(MemoryBus):
    """Leaves the queue of a subscription that was left among the others, until the topic has no other subscriber."""

    @asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[AsyncIterator[bytes]]:
        queue = BusQueue()
        self._topics.setdefault(topic, set()).add(queue)
        yield queue


class MixesTopics(MemoryBus):
    """Has room for a few topics, and takes those that fall on one place for one."""

    def _place(self, topic: str) -> str:
        return str(sum(topic.encode("utf-8", "surrogatepass")) % 97) if topic.startswith("many") else topic

    async def publish(self, topic: str, message: bytes) -> None:
        await super().publish(self._place(topic), message)

    def subscribe(self, topic: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        return super().subscribe(self._place(topic))


class ForgetsToSubscribeAgain(MemoryBus):
    """Ends a topic of which many come and go, and leaves the next subscriber of that name without messages."""

    def __init__(self) -> None:
        super().__init__()
        self._left: set[str] = set()

    async def publish(self, topic: str, message: bytes) -> None:
        if topic not in self._left:
            await super().publish(topic, message)

    @asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[AsyncIterator[bytes]]:
        async with super().subscribe(topic) as messages:
            yield messages
        if topic.startswith("many"):
            self._left.add(topic)


class KeepsTopics(MemoryBus):
    """Keeps the entry of a topic that has no subscribers any more."""

    @asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[AsyncIterator[bytes]]:
        async with super().subscribe(topic) as messages:
            yield messages
        self._topics.setdefault(topic, set())


class LosesATopic(MemoryBus):
    """Subscribes again to all topics but one after a failure, and says that all go on."""

    _fails = False

    @property
    def fails(self) -> bool:
        """Whether it fails at the moment."""
        return self._fails

    @fails.setter
    def fails(self, fails: bool) -> None:
        if self._fails and not fails:
            for queues in self._topics.values():
                for queue in queues:
                    queue.interrupt("the connection was lost")
            if self._topics:
                self._topics.popitem()
        self._fails = fails


class SwallowsExceptions(MemoryBus):
    """Takes what its user raises for its own."""

    @asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[AsyncIterator[bytes]]:
        async with super().subscribe(topic) as messages:
            try:
                yield messages
            except ZeroDivisionError:
                raise StorageError("the subscription failed") from None


class LetsErrorsOut(MemoryBus):
    """Raises what its library raises."""

    fails = False

    async def publish(self, topic: str, message: bytes) -> None:
        if self.fails:
            raise ConnectionResetError
        await super().publish(topic, message)


class Shared(MemoryBus):
    """A bus of which every opener has a view of its own: here one that is right."""

    def opened(self) -> MemoryBus:
        """The view of one more opener."""
        return self


class HasItsOwn(Shared):
    """Gives every opener a bus of its own."""

    def opened(self) -> MemoryBus:
        return MemoryBus()


class GoesOneWay(Shared):
    """Only the first opener's messages reach the others."""

    first = True

    def opened(self) -> MemoryBus:
        if self.first:
            self.first = False
            return self
        whole = self

        class View(MemoryBus):
            subscribe = whole.subscribe

            async def publish(self, topic: str, message: bytes) -> None:
                return

        return View()


MUTANTS: list[tuple[type, str, str]] = [
    (DropsTheFirstMessage, "test_bus_the_first_message_arrives", "memory"),
    (WaitsForSlowOnes, "test_bus_a_slow_subscriber_delays_no_other", "memory"),
    (DropsForAll, "test_bus_a_slow_subscriber_delays_no_other", "memory"),
    (DropsWithoutAWord, "test_bus_a_slow_subscriber_is_told", "memory"),
    (KeepsMessages, "test_bus_nothing_is_kept", "memory"),
    (AliasesMessages, "test_bus_a_message_is_not_shared", "memory"),
    (PublishesOneByOne, "test_bus_a_cancelled_publish_is_never_half_done", "memory"),
    (CutsMessages, "test_bus_order", "memory"),
    (LeaksWhatIsLeft, "test_bus_what_an_exception_leaves_is_gone", "memory"),
    (GoesOnAfterTheEnd, "test_bus_a_subscription_ends_with_its_context", "memory"),
    (MixesTopics, "test_bus_thousands_of_topics", "memory"),
    (ForgetsToSubscribeAgain, "test_bus_thousands_of_topics", "memory"),
    (KeepsTopics, "test_bus_topics_that_are_left_cost_nothing", "memory"),
    (LosesATopic, "test_bus_topics_outlast_a_failure", "memory"),
    (SwallowsExceptions, "test_bus_what_an_exception_leaves_is_gone", "memory"),
    (LetsErrorsOut, "test_bus_failures_are_storage_errors", "memory"),
    (HasItsOwn, "test_bus_shared", "shared"),
    (GoesOneWay, "test_bus_shared_under_load", "shared"),
    (WaitsForSlowOnes, "test_bus_instant", "instant"),
]


@pytest.mark.parametrize(("mutant", "caught_by", "kind"), MUTANTS, ids=lambda value: getattr(value, "__name__", value))
def test_a_mutant_is_caught(mutant, caught_by, kind, assert_caught):
    """The named test of the suite fails on this store."""
    assert_caught(caught_by, mutant, kind)


@pytest.mark.parametrize(("caught_by", "kind"), sorted({(test, kind) for _, test, kind in MUTANTS}))
def test_a_correct_store_passes(caught_by, kind, run_suite):
    """The same test passes on the store that the mutants are made of."""
    run_suite(caught_by, MemoryBus, kind)


class Claims(BackendSuite):
    """A store in memory that says it were durable."""

    @asynccontextmanager
    async def open(self, name: str) -> AsyncIterator[Backend]:
        yield Backend(MemoryDocuments(), MemoryLogs(), MemoryBlobs(), MemoryBus(), frozenset({DURABLE}))


@pytest.mark.parametrize(
    "test", [name for name in dir(Claims) if name.startswith("test_") and ("durable" in name or "kill" in name)]
)
def test_a_false_capability_is_caught(test):
    """A store that says it were durable, and is not, fails every test of that."""
    with pytest.raises((AssertionError, NotFound)):
        getattr(Claims(), test)()


@pytest.mark.parametrize(
    "test",
    [name for name in dir(Claims) if name.endswith(("_shared", "_under_load", "_instant")) and "not" not in name],
)
def test_what_is_not_claimed_is_skipped(test):
    """A test of a capability that the backend does not claim is skipped, not passed."""
    with pytest.raises(unittest.SkipTest, match="the backend does not say"):
        getattr(Claims(), test)()


@pytest.mark.parametrize("test", [name for name in dir(Claims) if "failures" in name])
def test_without_a_way_to_fail_nothing_is_proved(test):
    """A test of failures is skipped where the suite does not say how to make the store fail."""
    with pytest.raises(unittest.SkipTest, match=r"StorageSuite\.failing"):
        getattr(Claims(), test)()
