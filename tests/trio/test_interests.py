"""The topics of accounts that a node reads: they come and go with its clients, in any order, within a bound."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from mdash_backends.memory import MemoryBus
from mdashcore._errors import StorageError
from mdashcore.trio.background import Background
from mdashcore.trio.cluster.interests import Interests

LINGER = 10.0


class Bus(MemoryBus):
    """A bus that takes a while to subscribe, and knows what is subscribed to; it can be away."""

    def __init__(self) -> None:
        super().__init__()
        self.topics: list[str] = []
        self.away = False

    @asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[AsyncIterator[bytes]]:
        await trio.sleep(0.1)
        if self.away:
            raise StorageError("away")
        async with super().subscribe(topic) as messages:
            self.topics.append(topic)
            try:
                yield messages
            finally:
                self.topics.remove(topic)


class Reader:
    """Interests, with what they have received."""

    def __init__(self, nursery: trio.Nursery, most: int = 3) -> None:
        self.bus = Bus()
        self.received: list[tuple[str, bytes]] = []
        self.begun: list[str] = []
        self.interests = Interests(
            self.bus,
            Background(nursery),
            topic=lambda account: f"t.{account}",
            receive=lambda account, message: self.received.append((account, message)),
            on_subscribed=self.begun.append,
            most=most,
            linger=LINGER,
        )


@asynccontextmanager
async def reading(most: int = 3) -> AsyncIterator[Reader]:
    """A reader with room for that many topics."""
    async with trio.open_nursery() as nursery:
        yield Reader(nursery, most)
        nursery.cancel_scope.cancel()


async def test_a_topic_is_read_once_for_all_its_users(autojump_clock: trio.testing.MockClock) -> None:
    """Until the last of them has been gone for a while."""
    async with reading() as reader:
        with reader.interests.hold("a"), reader.interests.hold("a"):
            await trio.sleep(1)
            await reader.bus.publish("t.a", b"1")
            await reader.bus.publish("t.b", b"2")
            await trio.sleep(1)
        assert (reader.bus.topics, reader.begun, reader.received) == (["t.a"], ["a"], [("a", b"1")])
        await trio.sleep(LINGER - 1)
        assert reader.bus.topics == ["t.a"]
        await trio.sleep(2)
        assert (reader.bus.topics, len(reader.interests), reader.interests._accounts) == ([], 0, {})


async def test_beyond_the_bound_a_topic_waits(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """For one that lingers, which ends early, or for one that is not needed any more; this is logged once."""
    async with reading() as reader:
        with ExitStack() as stack:
            for account in "abcde":
                stack.enter_context(reader.interests.hold(account))
            await trio.sleep(1)
            assert sorted(reader.bus.topics) == ["t.a", "t.b", "t.c"]
        await trio.sleep(1)
        with reader.interests.hold("x"):
            await trio.sleep(1)
            assert "t.x" in reader.bus.topics
            assert len(reader.bus.topics) <= 3
        await trio.sleep(LINGER + 1)
        assert (reader.bus.topics, reader.interests._waiting, reader.interests._lingering) == ([], {}, {})
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "3 topics of accounts are read, and no more can be"
    ]


async def test_after_an_outage_all_topics_are_read_again(autojump_clock: trio.testing.MockClock) -> None:
    """And each says that messages were missed."""
    async with reading(most=50) as reader:
        reader.bus.away = True
        with ExitStack() as stack:
            for number in range(50):
                stack.enter_context(reader.interests.hold(f"a{number}"))
            await trio.sleep(30)
            assert reader.begun == []
            reader.bus.away = False
            await trio.sleep(10)
            assert sorted(reader.begun) == sorted(f"a{number}" for number in range(50))


@given(
    st.lists(
        st.tuples(st.sampled_from("abcde"), st.booleans(), st.sampled_from([0.0, 0.05, 0.2, 1.0, LINGER, LINGER + 1])),
        max_size=40,
    )
)
def test_whatever_comes_and_goes(steps: list[tuple[str, bool, float]]) -> None:
    """Never more topics than the bound; those that are needed and fit are read; at the end nothing is left."""

    async def main() -> None:
        async with reading() as reader:
            held: dict[str, list[ExitStack]] = {}
            for account, enters, pause in steps:
                if enters:
                    stack = ExitStack()
                    stack.enter_context(reader.interests.hold(account))
                    held.setdefault(account, []).append(stack)
                elif held.get(account):
                    held[account].pop().close()
                await trio.sleep(pause)
                needed = {account for account, users in held.items() if users}
                assert len(reader.bus.topics) == len(set(reader.bus.topics)) <= 3
                await trio.sleep(0.5)
                read = {topic.removeprefix("t.") for topic in reader.bus.topics}
                assert read >= needed if len(needed) <= 3 else read <= needed
            for users in held.values():
                for stack in users:
                    stack.close()
            await trio.sleep(LINGER + 1)
            interests = reader.interests
            assert (reader.bus.topics, len(interests), interests._accounts, interests._waiting) == ([], 0, {}, {})
            assert interests._lingering == {}

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_the_end_of_the_node_subscribes_to_nothing_anew(autojump_clock: object) -> None:
    """Its tasks are cancelled while clients still use the topics: each topic is left, and none is begun again."""
    calls = 0
    with ExitStack() as stack:
        async with trio.open_nursery() as nursery:
            reader = Reader(nursery, most=2)
            subscribe = reader.bus.subscribe

            def counted(topic: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
                nonlocal calls
                calls += 1
                if calls > 10:
                    reader.interests._background.end()  # else this test would have no end
                return subscribe(topic)

            reader.bus.subscribe = counted  # type: ignore[method-assign]
            for account in ("a", "b", "c"):
                stack.enter_context(reader.interests.hold(account))
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
    assert calls == 2
