"""What is tried until it works, and how an outage is logged: once, and its end once; in virtual time."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from mdash_backends.memory import MemoryBus
from mdashcore._errors import Busy, Damaged, DeviceOffline, InvalidInput, StorageError, VersionConflict
from mdashcore.trio.background import MAX_DELAY, STABLE_TIME, Background


class Locked(StorageError):
    """Another kind of failure."""


class Store:
    """Fails while it is away."""

    def __init__(self):
        self.away = None
        self.tried = 0

    async def work(self):
        self.tried += 1
        if self.away is not None:
            raise self.away
        return "done"


@asynccontextmanager
async def open_background():
    async with trio.open_nursery() as nursery:
        yield Background(nursery)
        nursery.cancel_scope.cancel()


@pytest.fixture
async def background():
    async with open_background() as background:
        yield background


@pytest.fixture
def log(caplog):
    """The lines that were logged."""
    caplog.set_level(logging.INFO, logger="mdashcore.trio.background")
    return lambda: [record.getMessage() for record in caplog.records]


async def test_a_hundred_wait_for_the_storage(autojump_clock, background, log):
    """Each succeeds within 5 seconds after it is back; one line when it went, one when it is back, none between."""
    store = Store()
    store.away = StorageError("connection refused")
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(background.persist, store.work)
        await trio.sleep(60)
        assert log() == ["the storage failed, waiting until it works: connection refused"]
        assert store.tried < 100 * 60 / (MAX_DELAY / 2)
        store.away, back = None, trio.current_time()
    assert trio.current_time() - back <= 5
    (line,) = log()[1:]
    assert line.startswith("the storage works again after 6")


async def test_the_tries_are_spread(autojump_clock, background):
    """What failed at the same moment is not tried again at the same moment."""
    store, times = Store(), []
    store.away = StorageError("away")

    async def work():
        times.append(trio.current_time())
        await store.work()

    with trio.move_on_after(60):
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(background.persist, work)
    later = [time for time in times if time > 0]
    assert len(set(later)) == len(later)


async def test_a_locked_table_does_not_hide_a_store_that_is_away(autojump_clock, background, log):
    """Two causes are two outages, each with its own two lines."""
    locked, away = Store(), Store()
    locked.away = Locked("the table is locked")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(background.persist, locked.work)
        await trio.sleep(100)
        for _ in range(2):
            away.away = StorageError("gone")
            nursery.start_soon(background.persist, away.work)
            await trio.sleep(100)
            away.away = None
            await trio.sleep(100)
        locked.away = None
    words = [line.partition(" after")[0] for line in log()]
    assert words == [
        "the storage failed, waiting until it works: the table is locked",
        "the storage failed, waiting until it works: gone",
        "the storage works again",
        "the storage failed, waiting until it works: gone",
        "the storage works again",
        "the storage works again",
    ]


@pytest.mark.parametrize(
    "error",
    [VersionConflict("c", "k", expected=1, actual=2), Damaged("c/k is damaged"), InvalidInput("no"), Busy("later")],
)
async def test_an_answer_is_no_outage(autojump_clock, background, log, error):
    """An error that the storage or the peer decides on is raised immediately."""
    store = Store()
    store.away = error
    with pytest.raises(type(error)):
        await background.persist(store.work)
    assert (store.tried, log()) == (1, [])


async def test_work_that_is_given_up_leaves_no_outage(autojump_clock, background, log):
    """A cancelled wait is not counted; the next failure is a new outage."""
    store = Store()
    store.away = StorageError("gone")
    for _ in range(2):
        with trio.move_on_after(10):
            await background.persist(store.work)
    assert [line[:18] for line in log()] == ["the storage failed"] * 2


async def test_a_task_without_an_end_that_fails(autojump_clock, background, log):
    """It begins again; a defect that it meets again and again is logged once, and its end after it has run a while."""
    runs = []

    async def work():
        runs.append(trio.current_time())
        if len(runs) < 5:
            raise RuntimeError("a bug")
        await trio.sleep_forever()

    background.run_for_ever("the work", work)
    await trio.sleep(200)
    assert (len(runs), len(log())) == (5, 2)
    assert log()[0] == "the work failed, waiting until it works"
    assert log()[1].startswith("the work works again after ")
    assert runs[-1] + STABLE_TIME < trio.current_time()


async def test_a_task_that_runs_every_hour(autojump_clock, background, log):
    """A failure of the storage is tried again soon, not in an hour; what comes out in time is not logged."""
    store, done = Store(), []

    async def work():
        await store.work()
        done.append(trio.current_time())

    background.run_every(3600, "the work", work)
    await trio.sleep(3600 * 1.5)
    store.away = StorageError("gone")
    await trio.sleep(3600)
    store.away, back = None, trio.current_time()
    await trio.sleep(3600)
    assert len(done) == 3
    assert done[2] - back <= MAX_DELAY
    assert len(log()) == 2


async def test_messages_after_an_outage(autojump_clock, background, log):
    """A listener says whenever messages begin to come, skips what is not understood, and shares one outage."""
    bus, heard, live, store = MemoryBus(), [], [], Store()
    subscribe = bus.subscribe

    @asynccontextmanager
    async def fragile(topic):
        await store.work()
        async with subscribe(topic) as messages:

            async def until_it_is_away():
                async for message in messages:
                    await store.work()
                    yield message

            yield until_it_is_away()

    bus.subscribe = fragile

    def receive(message):
        if message == b"bad":
            raise ValueError(message)
        heard.append(message)

    async with trio.open_nursery() as nursery:
        for topic in ("a", "b"):
            nursery.start_soon(
                lambda topic=topic: background.listen(bus, topic, receive, on_subscribed=lambda: live.append(1))
            )
        await trio.testing.wait_all_tasks_blocked()
        await bus.publish("a", b"bad")
        await bus.publish("a", b"1")
        await trio.testing.wait_all_tasks_blocked()
        store.away = StorageError("gone")
        for topic in ("a", "b"):
            await bus.publish(topic, b"lost")
        await trio.sleep(60)
        store.away = None
        await trio.sleep(10)
        await bus.publish("b", b"2")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert (heard, len(live)) == ([b"1", b"2"], 4)
    assert [line.split(":")[0].partition(" after")[0] for line in log()] == [
        "a message on a is not understood",
        "the storage failed, waiting until it works",
        "the storage works again",
    ]


async def test_nothing_is_started_after_the_end(autojump_clock, background):
    """The next node does what is left."""
    background.end()
    ran = []

    async def work():
        ran.append(True)

    background.spawn(work)
    await trio.testing.wait_all_tasks_blocked()
    assert ran == []


@given(st.lists(st.sampled_from(["ok", "away", "locked", "offline"]), max_size=30))
def test_begins_and_ends_alternate(outcomes):
    """Whatever comes in whatever order: of each cause a beginning, an end, a beginning; never two of one kind."""
    lines = []

    class Handler(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())

    errors = {"away": StorageError("away"), "locked": Locked("locked"), "offline": DeviceOffline("offline")}

    async def main():
        async with open_background() as background:
            retries = [background.retry("a") for _ in range(3)]
            for number, outcome in enumerate(outcomes):
                retry = retries[number % 3]
                if outcome == "ok":
                    retry.succeeded()
                else:
                    assert 0 < retry.failed(errors[outcome]) <= 60
            for retry in retries:
                retry.succeeded()
                assert not retry.failing

    handler = Handler()
    logger = logging.getLogger("mdashcore.trio.background")
    logger.addHandler(handler)
    try:
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        logger.removeHandler(handler)
    begun = sum("failed" in line for line in lines)
    assert begun == sum("works again" in line for line in lines) == len(lines) - begun
    assert all("failed" in line for line in lines[:1])
