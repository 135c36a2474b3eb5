"""Jobs on nodes, in virtual time: driven, taken over from a dead node, paced."""

from __future__ import annotations

import gc
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import attrs
import pytest
import trio
import trio.lowlevel
import trio.testing
from mortal import Mortal
from wall_clock import WallClock

from mdashcore import _json
from mdashcore._errors import StorageError
from mdashcore.hub import Hub
from mdashcore.hub.feed import LogQuery, events_topic
from mdashcore.hub.jobs.performer import JobPerformer
from mdashcore.identity import DeviceKey
from mdashcore.job import Job, JobState
from mdashcore.storage import ATOMIC, SHARED, Backend, open_backend
from mdashcore.trio.node import Node, open_node
from mdashcore.trio.together import together
from mdashcore.trio.turns import Pace


@attrs.define(eq=False)
class Place:
    """A node on a store that other nodes may share, with devices of alice that are offline."""

    backend: Backend
    documents: Mortal
    hub: Hub
    nursery: trio.Nursery
    node: Node = None  # type: ignore[assignment]
    _scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    _down: trio.Event = attrs.Factory(trio.Event)

    async def start(self) -> None:
        await self.nursery.start(self._serve)

    async def _serve(self, task_status: trio.TaskStatus[None]) -> None:
        with trio.CancelScope() as self._scope:
            async with open_node(self.hub) as self.node:
                task_status.started()
                await trio.sleep_forever()
        self._down.set()

    async def die(self) -> None:
        """End the process without a word: nothing that it does from now on reaches the store."""
        self.documents.alive = False
        self._scope.cancel()
        await self._down.wait()

    async def add(self, number: int) -> list[str]:
        ids = [f"d{n:03}" for n in range(number)]
        for id in ids:
            await self.hub.registry.create("alice", id)
        return ids

    async def begin(self, desired: object = None, account: str = "alice") -> Job:
        request = self.hub.jobs.parse({"desired": desired or {"n": 1}, "all": True})
        return await self.hub.jobs.create(account, request, by=account)


def make_hub(backend: Backend) -> Hub:
    return Hub(backend, now=WallClock(), monotonic=trio.current_time, entropy=os.urandom)


@asynccontextmanager
async def open_place(*capabilities: str) -> AsyncIterator[Place]:
    """A node whose store has these capabilities besides its own."""
    async with open_backend("memory://") as memory, trio.open_nursery() as nursery:
        capable = (memory.capabilities | {*capabilities}) - {ATOMIC}  # every write goes through `Mortal`
        backend = attrs.evolve(memory, capabilities=capable, put_and_append=None)
        documents = Mortal(backend.documents)
        hub = make_hub(attrs.evolve(backend, documents=documents))
        place = Place(backend, documents, hub, nursery)
        for account in ("alice", "bob"):
            await hub.accounts.register(account, "hash", admin=True)
        await place.start()
        yield place
        nursery.cancel_scope.cancel()


async def told(hub: Hub, id: str, *states: JobState, account: str = "alice", within: float = 3600) -> Job:
    """Wait until a job is in one of some states."""
    with trio.fail_after(within):
        async with hub.bus.subscribe(events_topic(account)) as messages:
            while (job := await hub.jobs.get(account, id)).state not in states:
                while b'"job.' not in await anext(messages):
                    pass
    return job


async def versions(hub: Hub, ids: Sequence[str]) -> set[int]:
    return {(await hub.shadows.get(DeviceKey("alice", id))).version for id in ids}


async def test_a_job_is_driven_to_its_end(autojump_clock):
    """Every device is changed once; a handful of notifications say so, however many devices there are."""
    async with open_place() as place:
        ids = await place.add(300)
        made = await place.begin()
        ended = await told(place.hub, made.id, JobState.COMPLETED)
        assert ended.reason == "300 changed, 0 had the values already, 0 failed"
        assert ended.driver == place.node.id
        assert await versions(place.hub, ids) == {1}
        frames = await place.hub.feed.query("alice", LogQuery(name="job.*", limit=1000))
        names = [_json.decode(frame)["name"] for frame in frames]
        assert (names[0], names[-1]) == ("job.RUNNING", "job.COMPLETED")
        assert set(names[1:-1]) <= {"job.progress"}
        assert len(names) <= 5


@pytest.mark.parametrize("writes", [1, 2, 3, 4, 20, 100, 131, 132, 133, 134, 200, 262])
async def test_a_job_of_a_dead_node_is_taken_over(autojump_clock, writes):
    """Killed at any write: within 20 s another node goes on, and every device was changed once."""
    async with open_place(SHARED) as place:
        other = make_hub(place.backend)
        async with open_node(other) as home:
            ids = await place.add(260)
            await trio.testing.wait_all_tasks_blocked()  # the other node has looked for jobs
            place.documents.writes = (
                6 + writes
            )  # those of its creation come first: a mark, three pieces, the job, no mark
            made = await place.begin()
            await place.documents.dying.wait()
            await place.die()
            ended = await told(other, made.id, JobState.COMPLETED, within=20)
            assert ended.driver == home.id
            assert (ended.counts.changed, ended.counts.failed) == (260, 0)
            assert await versions(other, ids) == {1}


async def test_a_restart(autojump_clock):
    """The next process on the store goes on immediately."""
    async with open_place() as place:
        ids = await place.add(260)
        place.documents.writes = 6 + 150
        made = await place.begin()
        await place.documents.dying.wait()
        await place.die()
        place.hub = make_hub(place.backend)
        await place.start()
        ended = await told(place.hub, made.id, JobState.COMPLETED, within=5)
        assert (ended.counts.changed, ended.driver) == (260, place.node.id)
        assert await versions(place.hub, ids) == {1}


async def test_a_job_is_canceled_on_another_node(autojump_clock, monkeypatch):
    """The node that drives it stops before the next piece, without a message."""
    async with open_place(SHARED) as place:
        other = make_hub(place.backend)
        canceled = trio.Event()
        update = place.hub.shadows.update

        async def slow(*arguments: object, **options: object) -> object:
            await canceled.wait()
            return await update(*arguments, **options)

        monkeypatch.setattr(place.hub.shadows, "update", slow)
        async with open_node(other):
            await place.add(260)
            await trio.testing.wait_all_tasks_blocked()  # the other node has looked for jobs
            made = await place.begin()
            await trio.testing.wait_all_tasks_blocked()
            await other.jobs.cancel("alice", made.id, by="alice")
            canceled.set()
            ended = await told(other, made.id, JobState.CANCELED)
            assert (ended.counts.changed, ended.counts.pending) == (128, 132)
            results, _ = await other.jobs.results("alice", ended, 0, 1000)
            assert [each.outcome for each in results] == ["CHANGED"] * 128 + ["PENDING"] * 132


async def test_a_store_that_is_away_for_a_while(autojump_clock):
    """The job waits, and goes on; nothing has failed."""
    async with open_place() as place:
        ids = await place.add(260)
        place.documents.writes = 3 + 1 + 140
        made = await place.begin()
        await place.documents.dying.wait()
        await trio.sleep(300)
        assert (await place.hub.jobs.get("alice", made.id)).state is JobState.RUNNING
        place.documents.writes, place.documents.alive = 10**9, True
        ended = await told(place.hub, made.id, JobState.COMPLETED, within=10)
        assert (ended.counts.changed, ended.counts.failed) == (260, 0)
        assert await versions(place.hub, ids) == {1}


async def test_a_large_job_delays_no_other(autojump_clock, monkeypatch):
    """The small job of another account ends while the large one goes on."""
    monkeypatch.setattr("mdashcore.hub.jobs.performer.STEP_TIME", 0.0)  # in virtual time no step takes any
    async with open_place() as place:
        await place.add(1000)
        await place.hub.registry.create("bob", "lamp")
        large = await place.begin()
        small = await place.begin(account="bob")
        await told(place.hub, small.id, JobState.COMPLETED, account="bob", within=1)
        assert (await place.hub.jobs.get("alice", large.id)).counts.pending > 500
        await told(place.hub, large.id, JobState.COMPLETED)


async def test_what_one_account_waits_for_delays_no_other(autojump_clock, monkeypatch):
    """The shadows of alice are busy without an end: her jobs wait, and bob's ends."""
    async with open_place() as place:
        await place.add(300)
        await place.hub.registry.create("bob", "lamp")
        update, free = place.hub.shadows.update, trio.Event()

        async def wait(key: DeviceKey, *arguments: object, **options: object) -> object:
            if key.account == "alice":
                await free.wait()
            return await update(key, *arguments, **options)

        monkeypatch.setattr(place.hub.shadows, "update", wait)
        waiting = [await place.begin({"n": n}) for n in range(3)]
        await trio.testing.wait_all_tasks_blocked()
        small = await place.begin(account="bob")
        await told(place.hub, small.id, JobState.COMPLETED, account="bob", within=1)
        free.set()
        for each in waiting:
            assert (await told(place.hub, each.id, JobState.COMPLETED)).counts.failed == 0


@pytest.mark.parametrize("most", [1, 2])
async def test_accounts_have_a_bounded_number_of_steps(autojump_clock, monkeypatch, most):
    """One at a time of each account, and so many of all; those that wait are served in order."""
    monkeypatch.setattr("mdashcore.hub.jobs.performer.STEP_TIME", 0.0)
    monkeypatch.setattr("mdashcore.trio.drivers.record_supervisor.MAX_DRIVEN_ACCOUNTS", most)
    active, peak = Counter[str](), Counter[str]()
    step = JobPerformer.step

    async def counted(performer: JobPerformer) -> None:
        names = (performer._account, "all")
        active.update(names)
        peak.update({name: active[name] - peak[name] for name in names if active[name] > peak[name]})
        await trio.sleep(0.1)
        await step(performer)
        active.subtract(names)

    monkeypatch.setattr(JobPerformer, "step", counted)
    async with open_place() as place:
        await place.hub.accounts.register("carol", "hash", admin=True)
        await place.add(1000)
        large = [await place.begin({"n": n}) for n in range(2)]
        for account in ("bob", "carol"):
            await place.hub.registry.create(account, "lamp")
            small = await place.begin(account=account)
            await told(place.hub, small.id, JobState.COMPLETED, account=account, within=2)
        assert all([(await place.hub.jobs.get("alice", each.id)).counts.pending for each in large])
        for each in large:
            await told(place.hub, each.id, JobState.COMPLETED)
    assert peak == {"alice": 1, "bob": 1, "carol": 1, "all": most}


@contextmanager
def no_collection() -> Iterator[None]:
    """Without garbage collection: one of all that the store in memory holds would count as work of a job."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.proof
async def test_fifty_thousand_devices():
    """Each is changed once; the notifications are few, and no other task waits for more than a moment of work."""
    async with open_place() as place, trio.open_nursery() as nursery:
        ids = [f"d{n:05}" for n in range(50_000)]
        for id in ids:
            await place.hub.registry.create("alice", id)
        longest = 0.0

        async def tick() -> None:
            nonlocal longest
            while True:
                before = time.thread_time()  # others may have the core: only work counts
                await trio.lowlevel.checkpoint()
                longest = max(longest, time.thread_time() - before)

        request = place.hub.jobs.parse({"desired": {"n": 1}, "all": True})
        made = await place.hub.jobs.create("alice", request, by="alice", pause=Pace("alice"))
        with no_collection():
            nursery.start_soon(tick)
            ended = await told(place.hub, made.id, JobState.COMPLETED, within=400)
        nursery.cancel_scope.cancel()
    assert (ended.counts.changed, ended.counts.failed) == (50_000, 0)
    assert await versions(place.hub, ids) == {1}
    entries = await place.hub.feed.query("alice", LogQuery(name="job.*", limit=1000))
    assert len(entries) <= 2 + ended.changed - ended.created + 1
    assert longest < 0.1


# Work at the same time


async def test_no_more_than_so_many_at_the_same_time(autojump_clock):
    """All of it is done."""
    active = most = done = 0

    async def work() -> None:
        nonlocal active, most, done
        active += 1
        most = max(most, active)
        await trio.sleep(1)
        active -= 1
        done += 1

    await together(3, (work for _ in range(10)))
    assert (most, done) == (3, 10)


async def test_the_first_error_is_raised_as_it_is(autojump_clock):
    """And the rest is not begun."""
    begun = []

    async def work(n: int) -> None:
        begun.append(n)
        await trio.sleep(n)
        if n == 2:
            raise StorageError("away")

    with pytest.raises(StorageError, match="away"):
        await together(2, (lambda n=n: work(n) for n in range(10)))
    assert begun == [0, 1, 2, 3]
