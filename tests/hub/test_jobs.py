"""Jobs as they are stored: previewed, performed, stopped at any step by a kill or a user, moved and checked."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from types import SimpleNamespace

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from selecting import of_all

from mdashcore import _json
from mdashcore._errors import Conflict, InvalidInput, LimitReached, NotFound, StorageError
from mdashcore.hub import Hub, HubObserver
from mdashcore.hub.device_list import ListedDevice
from mdashcore.hub.jobs import performer
from mdashcore.hub.jobs.performer import JobPerformer, JobRunner
from mdashcore.hub.jobs.preview import JobPreview
from mdashcore.hub.leases import Leases
from mdashcore.hub.limits import AccountLimits
from mdashcore.hub.maintenance.backup import export_store, import_store
from mdashcore.hub.maintenance.check import check_store
from mdashcore.hub.notification_reader import log_name
from mdashcore.hub.presence import OFFLINE_RECORD
from mdashcore.hub.registry import Device
from mdashcore.identity import DeviceKey
from mdashcore.job import JobCounts, JobOutcome, JobState
from mdashcore.job import _values as job_values
from mdashcore.shadow import Shadow, ShadowLimits
from mdashcore.storage import open_backend

NOW = 1_700_000_000.0
PIECE = 3  # devices: so that a few are more than one piece
PATCH = {"interval": 30, "old": None}


@attrs.define
class Place:
    """A hub with devices of alice, and bob's of the same ids."""

    hub: Hub
    tools: object
    time: list[float]

    def run(self, coroutine):
        return self.tools.run(coroutine)

    async def open(self, devices=4):
        for account in ("alice", "bob"):
            await self.hub.accounts.register(account, "hash", admin=True)
            for n in range(devices):
                await self.hub.create_device(account, f"d{n}")
        await self.set("d1", {"interval": 30})
        await self.set("d2", {"interval": 10, "old": 1, "other": 2})

    async def set(self, id, desired, account="alice"):
        self.time[0] += 1
        return await self.hub.shadows.update(DeviceKey(account, id), {"state": {"desired": desired}})

    async def make(self, desired=PATCH, account="alice", **asked):
        request = self.hub.jobs.parse(of_all(asked, desired=desired))
        return await self.hub.jobs.create(account, request, by=account)

    async def drive(self, id, leases=None, account="alice"):
        """Drive a job to its end."""
        run = await self.load(id, leases, account)
        while not run.gone:
            await run.step()
        return await self.hub.jobs.get(account, id)

    async def drive_all(self):
        """Drive what a process finds when it starts."""
        for account, id in await self.hub.jobs.unfinished():
            await self.drive(id, account=account)

    async def load(self, id, leases=None, account="alice", runner=None):
        return await JobPerformer.load(self.hub.jobs, runner or JobRunner(), account, id, leases)

    async def drive_stopped(self, id, meanwhile, leases=None):
        """Drive a job to its end in a process that is stopped once, after the first write of a piece."""
        stops = [meanwhile]

        async def together(writes):
            for write in writes:
                await write()
                if stops:
                    await stops.pop()()

        run = await self.load(id, leases, runner=JobRunner(together=together))
        while not run.gone:
            await run.step()

    async def outcomes(self, id, account="alice"):
        present = await self.hub.jobs.get(account, id)
        results, _ = await self.hub.jobs.results(account, present, 0, 1000)
        return {each.device: each.outcome.value for each in results}

    async def desired(self, account="alice"):
        devices = await self.hub.registry.of(account)
        return {each.id: (await self.hub.shadows.get(each.key)).desired for each in devices}

    async def versions(self):
        devices = await self.hub.registry.of("alice")
        return {each.id: (await self.hub.shadows.get(each.key)).version for each in devices}

    def said(self):
        """The names of the notifications about jobs."""
        entries = self.run(self.hub.backend.logs.read(log_name("alice"), 0, 10_000))
        names = [json.loads(entry.body)["name"] for entry in entries]
        return [name for name in names if name.startswith("job.")]


@attrs.define(eq=False)
class Told(HubObserver):
    """The devices of whose shadows an observer was notified."""

    devices: set[str] = attrs.Factory(set)

    def shadow_changed(self, key, change):
        self.devices.add(key.id)


def make_place(tools, backend=None, **options):
    time = [NOW]
    hub = Hub(
        backend or tools.backend(),
        now=lambda: time[0],
        monotonic=lambda: time[0],
        entropy=tools.entropy(),
        signal=tools.signal,
        **options,
    )
    return Place(hub, tools, time)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """A job of a few devices has several pieces."""
    monkeypatch.setattr(job_values, "PIECE_SIZE", PIECE)


@pytest.fixture
def place(tools):
    """Opened."""
    place = make_place(tools)
    place.run(place.open())
    return place


DONE = {"d0": "CHANGED", "d1": "UNCHANGED", "d2": "CHANGED", "d3": "CHANGED"}


def test_a_job_changes_the_devices_that_differ(place):
    """Each once; one that has the values already is not written, other values and other accounts stay."""
    before, bobs = place.run(place.versions()), place.run(place.desired("bob"))
    made = place.run(place.make(name="slower"))
    assert (made.state, made.counts, made.created_by) == (JobState.RUNNING, JobCounts(4), "alice")
    ended = place.run(place.drive(made.id))
    assert ended.state is JobState.COMPLETED
    assert ended.counts == JobCounts(0, 3, 1, 0)
    assert place.run(place.outcomes(made.id)) == DONE
    set_ = {"interval": 30}
    assert place.run(place.desired()) == {"d0": set_, "d1": set_, "d2": {"interval": 30, "other": 2}, "d3": set_}
    after = place.run(place.versions())
    assert {id: after[id] - before[id] for id in after} == {"d0": 1, "d1": 0, "d2": 1, "d3": 1}
    assert place.run(place.desired("bob")) == bobs
    assert place.said() == ["job.RUNNING", "job.COMPLETED"]


def test_a_preview_says_what_a_job_does(place):
    """From what to what and how often, and which devices have it already. It changes nothing."""
    before = place.run(place.versions())
    request = place.hub.jobs.parse({"desired": PATCH, "filter": ["id!=d3"], "preview": True})
    preview = place.run(place.hub.jobs.preview("alice", request))
    assert (preview.devices, preview.changed, preview.unchanged, preview.failed) == (3, 2, 1, 0)
    changes = [(each.difference.path, each.difference.before, each.difference.after) for each in preview.changes]
    assert sorted(changes, key=str) == [(("interval",), 10, 30), (("interval",), None, 30), (("old",), 1, None)]
    assert [(each.device, len(each.differences)) for each in preview.shown] == [("d0", 1), ("d2", 2)]
    assert place.run(place.versions()) == before
    assert place.run(place.hub.jobs.of("alice")) == []


def test_a_preview_is_bounded(place, monkeypatch):
    """Values that are all different, and large: the rest is counted."""
    for n in range(4):
        place.run(place.set(f"d{n}", {"text": f"{n}" * 5000}))
    monkeypatch.setattr("mdashcore.hub.jobs.preview.MAX_PREVIEW_BYTES", 12_000)
    request = place.hub.jobs.parse({"desired": {"text": "x"}, "all": True})
    preview = place.run(place.hub.jobs.preview("alice", request))
    assert preview.changed == 4
    assert len(preview.changes) + preview.other_changes == 4
    assert 0 < len(preview.changes) + len(preview.shown) <= 2


def listed(id, desired):
    """A device as the list has it."""
    shadow, _ = Shadow().update({"state": {"desired": desired}}, now=NOW)
    return ListedDevice(Device("alice", id, id, "hash", "2026-03-01T10:05:00.000Z"), OFFLINE_RECORD, shadow)


@given(st.lists(st.integers(0, 30), max_size=300), st.sampled_from([4, 10, 50]))
def test_the_most_frequent_changes_are_found(values, counters):
    """However many different ones are before and among them; no change is lost or counted twice."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("mdashcore.hub.jobs.preview.MAX_COUNTERS", counters)
        preview = JobPreview({"n": -1}, ShadowLimits(), NOW)
        for n, value in enumerate(values):
            preview.add(listed(f"d{n}", {"n": value}))
        found = {each.difference.before: each for each in preview.changes}
        other = preview.other_changes
    real = Counter(values)
    assert sum(each.devices for each in found.values()) + other == len(values)
    for value, each in found.items():
        assert each.devices <= real[value] <= each.devices + each.missed
    bound = 2 * len(values) / counters
    assert {value for value, number in real.items() if number > bound} <= set(found)
    if len(real) <= counters:
        assert ({value: each.devices for value, each in found.items()}, other) == (real, 0)


def test_a_common_change_behind_many_rare_ones():
    """It is the first, and rare ones fill the table behind it."""
    preview = JobPreview({"n": -1}, ShadowLimits(), NOW)
    for n in range(3000):
        preview.add(listed(f"d{n}", {"n": n if n < 2000 else 5000}))
    first, *rest = preview.changes
    assert (first.difference.before, first.devices) == (5000, 1000)
    assert {each.devices for each in rest} == {1}
    assert len(rest) + preview.other_changes == 2000


def test_a_preview_does_no_work_for_what_it_does_not_show(monkeypatch):
    """Values are encoded for the first devices only; the changes of all are counted."""
    encoded = []
    encode = _json.encode
    monkeypatch.setattr("mdashcore.hub.jobs.preview.MAX_COUNTED_CHANGES", 2000)
    monkeypatch.setattr("mdashcore.hub.jobs.preview.MAX_PREVIEW_BYTES", 1000)
    monkeypatch.setattr(
        "mdashcore.hub.jobs.preview._json", SimpleNamespace(encode=lambda value: encoded.append(1) or encode(value))
    )
    preview = JobPreview({f"{n}": 1 for n in range(1000)}, ShadowLimits(), NOW)
    device = listed("d", {f"{n}": 0 for n in range(1000)})
    for _ in range(10):
        preview.add(device)
    assert (preview.changed, len(encoded)) == (10, 2000 + 3 * 1000)
    assert sum(each.devices for each in preview.changes) + preview.other_changes == 10_000


def test_a_preview_has_the_outcome_of_the_job(tools):
    """A shadow beyond a limit that was lowered has all the values already: the job leaves it as it is."""
    place = make_place(tools)
    place.run(place.open())
    place.run(place.set("d1", {"text": "x" * 100}))
    there = make_place(tools, place.hub.backend, shadow_limits=ShadowLimits(max_bytes=60))
    request = there.hub.jobs.parse({"desired": {"interval": 30}, "devices": ["d1"]})
    assert place.run(there.hub.jobs.preview("alice", request)).unchanged == 1
    made = place.run(there.make({"interval": 30}, devices=["d1"]))
    assert place.run(there.drive(made.id)).counts == JobCounts(unchanged=1)


def test_what_a_device_cannot_take_is_its_failure(tools):
    """A shadow that would be too large, a device that was removed, one that is damaged: the others are changed."""
    place = make_place(tools, shadow_limits=ShadowLimits(max_bytes=60))
    place.run(place.open())
    place.run(place.set("d0", {"text": "x" * 40}))
    request = place.hub.jobs.parse({"desired": {"interval": 1000}, "all": True})
    (failure,) = place.run(place.hub.jobs.preview("alice", request)).failures
    assert failure == ("d0", "The payload exceeds the maximum size allowed: 60 bytes")
    made = place.run(place.make({"interval": 1000}))
    place.run(place.hub.remove_device(DeviceKey("alice", "d1")))
    place.run(place.hub.backend.documents.put("shadows", "alice/d2", b"{"))
    ended = place.run(place.drive(made.id))
    assert ended.counts == JobCounts(0, 1, 0, 3)
    results, _ = place.run(place.hub.jobs.results("alice", ended, 0, 10, JobOutcome.FAILED))
    assert [(each.device, each.reason) for each in results] == [
        ("d0", "The payload exceeds the maximum size allowed: 60 bytes"),
        ("d1", "the device was removed"),
        ("d2", "what was stored of it is damaged"),
    ]


def test_a_removed_device_gets_no_shadow(place):
    """A device of that id that is registered later begins without values."""
    made = place.run(place.make())
    place.run(place.hub.remove_device(DeviceKey("alice", "d0")))
    place.run(place.drive(made.id))
    place.run(place.hub.create_device("alice", "d0"))
    assert place.run(place.desired())["d0"] is None


# Stopped at any step

CUTS = range(1, 68)
"""The numbers of steps after which a process is killed: a job of four devices has fewer than the last of them."""


@pytest.mark.parametrize("cut", CUTS)
def test_killed_at_any_step(tools, cut):
    """The next process ends the job: every device has the values, each was changed once, and results and log say so."""
    place = make_place(tools)
    place.run(place.open())
    before = place.run(place.versions())
    made = place.run(place.make())
    was_killed = tools.stop(place.drive(made.id), cut, tools.stops[0]())
    assert was_killed or cut > 1
    assert cut < CUTS[-1] or not was_killed, "a job has more steps than CUTS"
    there = make_place(tools, place.hub.backend)  # another process: nothing is in its memory
    place.run(there.drive_all())
    assert place.run(there.hub.jobs.get("alice", made.id)).counts == JobCounts(0, 3, 1, 0)
    assert place.run(there.outcomes(made.id)) == DONE
    assert "job.COMPLETED" in place.said()
    assert place.run(there.hub.jobs.unfinished()) == []
    after = place.run(there.versions())
    assert {id: after[id] - before[id] for id in after} == {"d0": 1, "d1": 0, "d2": 1, "d3": 1}


@pytest.mark.parametrize("cut", CUTS)
def test_a_storage_that_fails_at_any_step(tools, cut):
    """Whether it has stored the write or not: the same process goes on, and the end is announced."""
    place = make_place(tools)
    place.run(place.open())
    made = place.run(place.make())
    run = place.run(place.load(made.id))

    async def drive():
        while not run.gone:
            await run.step()

    tools.stop(drive(), cut, tools.stops[1]())
    place.run(drive())
    assert place.run(place.outcomes(made.id)) == DONE
    assert "job.COMPLETED" in place.said()
    assert place.run(place.hub.jobs.unfinished()) == []


@pytest.mark.parametrize("cut", range(1, 62, 4))
def test_what_a_user_sets_after_a_kill_stays(tools, cut):
    """A value that was set after the job has changed the device is not overwritten when the job is taken up again."""
    place = make_place(tools)
    place.run(place.open())
    made = place.run(place.make())
    tools.stop(place.drive(made.id), cut, tools.stops[0]())
    has_happened = place.run(place.desired())["d0"] is not None
    place.run(place.set("d0", {"interval": 5}))
    there = make_place(tools, place.hub.backend)
    there.time[0] = place.time[0]
    place.run(there.drive_all())
    if has_happened:
        assert place.run(there.desired())["d0"] == {"interval": 5}
        assert place.run(there.outcomes(made.id))["d0"] in ("CHANGED", "FAILED")


@pytest.mark.parametrize("cut", range(1, 98, 4))
def test_canceled_at_any_step(tools, cut):
    """The counts and results are what has happened: a pending device was not changed, a changed one was."""
    place = make_place(tools)
    place.run(place.open(devices=8))
    made = place.run(place.make({"n": 1}))

    async def cancel():
        return await place.hub.jobs.cancel("alice", made.id, by="key_1")

    tools.interleave([place.drive(made.id), cancel()], [0] * cut + [1] * 300)
    ended = place.run(place.hub.jobs.get("alice", made.id))
    assert ended.ended
    outcomes = place.run(place.outcomes(made.id))
    assert ended.counts == JobCounts.of(map(JobOutcome, outcomes.values()))
    for id, desired in place.run(place.desired()).items():
        assert ((desired or {}).get("n") == 1) is (outcomes[id] == "CHANGED"), (id, outcomes)
    if ended.canceled_by is None:
        assert ended.state is JobState.COMPLETED
    else:
        assert ended.canceled_by == "key_1"
        assert "job.CANCELING" in place.said()


@pytest.mark.parametrize("cut", range(1, 98, 6))
def test_canceled_after_a_kill(tools, cut):
    """Nothing more is changed, and the results of the piece that was interrupted are found out."""
    place = make_place(tools)
    place.run(place.open(devices=8))
    made = place.run(place.make({"n": 1}))
    tools.stop(place.drive(made.id), cut, tools.stops[0]())
    there = make_place(tools, place.hub.backend)
    before = place.run(there.desired())
    if place.run(there.hub.jobs.get("alice", made.id)).ended:
        return
    place.run(there.hub.jobs.cancel("alice", made.id, by="alice"))
    ended = place.run(there.drive(made.id))
    assert place.run(there.desired()) == before
    changed = {id for id, desired in before.items() if (desired or {}).get("n") == 1}
    outcomes = place.run(there.outcomes(made.id))
    assert {id for id, outcome in outcomes.items() if outcome == "CHANGED"} == changed
    assert ended.counts == JobCounts(8 - len(changed), len(changed))
    assert ended.state is (JobState.CANCELED if len(changed) < 8 else JobState.COMPLETED)


@pytest.mark.parametrize("cut", range(1, 62, 4))
def test_two_nodes_at_the_same_time(tools, cut):
    """One of them was only slow: it stops as soon as it reads, and the results are right."""
    place = make_place(tools)
    place.run(place.open())
    before = place.run(place.versions())
    made = place.run(place.make())
    alive = {"one"}

    async def living():
        return alive

    async def second():
        alive.clear()
        alive.add("two")
        return await place.drive(made.id, Leases("two", living))

    place.tools.interleave([place.drive(made.id, Leases("one", living)), second()], [0] * cut + [1] * 9 + [0, 1] * 400)
    ended = place.run(place.hub.jobs.get("alice", made.id))
    assert ended.state is JobState.COMPLETED
    assert place.run(place.outcomes(made.id)) == DONE
    assert ended.counts == JobCounts(0, 3, 1, 0)
    after = place.run(place.versions())
    assert {id: after[id] - before[id] for id in after} == {"d0": 1, "d1": 0, "d2": 1, "d3": 1}


@pytest.mark.parametrize("seconds", [0, performer.JOB_RECHECK])
def test_a_process_that_was_stopped_overwrites_nothing(place, seconds):
    """It resumes within a piece, after another node has ended the job and a user has set a value of it anew."""
    before = place.run(place.versions())
    made = place.run(place.make({"n": 1}))
    alive = {"one"}

    async def living():
        return alive

    async def meanwhile():
        alive.clear()
        alive.add("two")
        place.time[0] += seconds
        assert (await place.drive(made.id, Leases("two", living))).state is JobState.COMPLETED
        await place.set("d2", {"n": 77})

    place.run(place.drive_stopped(made.id, meanwhile, Leases("one", living)))
    after = place.run(place.versions())
    assert {id: after[id] - before[id] for id in after} == {"d0": 1, "d1": 1, "d2": 2, "d3": 1}
    assert place.run(place.desired())["d2"]["n"] == 77
    assert set(place.run(place.outcomes(made.id)).values()) == {"CHANGED"}


@pytest.mark.parametrize("other", [False, True])
def test_a_job_that_is_canceled_within_a_piece(place, other):
    """A process that comes back after a while changes no more devices, whether it still drives the job or not."""
    made = place.run(place.make({"n": 1}))
    alive = {"one"}

    async def living():
        return alive

    async def meanwhile():
        place.time[0] += performer.JOB_RECHECK
        await place.hub.jobs.cancel("alice", made.id, by="alice")
        if other:
            alive.clear()
            alive.add("two")
            await place.drive(made.id, Leases("two", living))

    place.run(place.drive_stopped(made.id, meanwhile, Leases("one", living)))
    ended = place.run(place.hub.jobs.get("alice", made.id))
    assert (ended.state, ended.counts) == (JobState.CANCELED, JobCounts(3, 1))
    changed = {id for id, desired in place.run(place.desired()).items() if (desired or {}).get("n") == 1}
    assert changed == {"d0"}


def test_a_value_that_is_set_just_before_the_job_stays(place):
    """The writer was quicker than the job, after it had looked at the device: the result says so."""
    made = place.run(place.make({"n": 1}))
    place.run(place.drive_stopped(made.id, lambda: place.set("d2", {"n": 5})))
    assert place.run(place.desired())["d2"]["n"] == 5
    ended = place.run(place.hub.jobs.get("alice", made.id))
    (result,), _ = place.run(place.hub.jobs.results("alice", ended, 0, 10, JobOutcome.FAILED))
    assert (result.device, result.reason) == ("d2", performer.CHANGED_BY_OTHERS)


def test_a_device_that_is_removed_within_a_piece_gets_no_shadow(place):
    """It was planned to be changed, and went before its turn."""
    made = place.run(place.make({"n": 1}))
    key = DeviceKey("alice", "d2")
    place.run(place.drive_stopped(made.id, lambda: place.hub.remove_device(key)))
    ended = place.run(place.hub.jobs.get("alice", made.id))
    (result,), _ = place.run(place.hub.jobs.results("alice", ended, 0, 10, JobOutcome.FAILED))
    assert (result.device, result.reason) == ("d2", performer.REMOVED_DEVICE)
    assert place.run(place.hub.shadows.get(key)).desired is None


def test_a_device_is_told_of_a_change_whose_end_was_lost(place, monkeypatch):
    """The shadow is stored, and then the storage fails: the next try finds the change, and announces it."""
    told, append, lost = Told(), place.hub.feed.append, []
    place.hub.add_observer(told)

    async def fail_once(*entry):
        if not lost:
            lost.append(entry)
            raise StorageError("the storage takes too long")
        return await append(*entry)

    made = place.run(place.make())
    monkeypatch.setattr(place.hub.feed, "append", fail_once)
    run = place.run(place.load(made.id))
    with pytest.raises(StorageError):
        place.run(run.step())
    assert told.devices == set()
    while not run.gone:
        place.run(run.step())
    assert place.run(place.outcomes(made.id)) == DONE
    assert told.devices == {"d0", "d2", "d3"}


def test_another_living_node_keeps_its_job(place):
    """Its driver is the record's, until it is gone."""
    made = place.run(place.make())
    alive = {"one", "two"}

    async def living():
        return alive

    one, two = Leases("one", living), Leases("two", living)
    place.run(place.load(made.id, one))
    with pytest.raises(Conflict, match="driven by one"):
        place.run(place.load(made.id, two))

    async def found(leases):
        return await place.hub.jobs.unfinished(leases)

    assert place.run(found(two)) == []
    alive.discard("one")
    assert place.run(found(two)) == [("alice", made.id)]
    assert place.run(place.drive(made.id, two)).driver == "two"


def test_a_device_that_the_storage_refuses_ends_too(place, monkeypatch, caplog):
    """After some tries; while the storage is away nothing ends. The storage's words are in the log only."""
    made = place.run(place.make())
    update = place.hub.shadows.update

    async def refuse(key, *rest, **options):
        if key.id == "d2":
            raise StorageError("disk error at d2")
        return await update(key, *rest, **options)

    monkeypatch.setattr(place.hub.shadows, "update", refuse)
    run = place.run(place.load(made.id))
    for _ in range(performer.WRITE_TRIES):
        with pytest.raises(StorageError):
            place.run(run.step())
    while not run.gone:
        place.run(run.step())
    assert place.run(place.outcomes(made.id)) == {**DONE, "d2": "FAILED"}
    ended = place.run(place.hub.jobs.get("alice", made.id))
    (result,), _ = place.run(place.hub.jobs.results("alice", ended, 0, 10, JobOutcome.FAILED))
    assert result.reason == performer.REFUSED
    assert [record.message for record in caplog.records if "disk error at d2" in record.message] == [
        f"job {made.id}: the storage has refused alice/d2 5 times: disk error at d2"
    ]


def test_a_change_that_happened_at_the_last_try_is_no_failure(place, monkeypatch):
    """The storage has refused it some times, then stored it, and its answer was lost."""
    made = place.run(place.make())
    update, tries = place.hub.shadows.update, []

    async def refuse(key, *rest, **options):
        if key.id == "d2":
            tries.append(key)
            if len(tries) == performer.WRITE_TRIES:
                await update(key, *rest, **options)
            raise StorageError("the storage takes too long")
        return await update(key, *rest, **options)

    monkeypatch.setattr(place.hub.shadows, "update", refuse)
    run = place.run(place.load(made.id))
    for _ in range(performer.WRITE_TRIES):
        with pytest.raises(StorageError):
            place.run(run.step())
    while not run.gone:
        place.run(run.step())
    assert place.run(place.outcomes(made.id)) == DONE


def test_a_piece_that_is_damaged_ends_the_job_too(place):
    """Its devices count as failed, because they are not known."""
    made = place.run(place.make())
    place.run(place.hub.backend.documents.put("job_pieces", f"alice/{made.id}/0000", b"{"))
    ended = place.run(place.drive(made.id))
    assert (ended.state, ended.counts) == (JobState.COMPLETED, JobCounts(0, 1, 0, PIECE))


@pytest.mark.parametrize("is_missing", [False, True])
@pytest.mark.parametrize("place_of_it", [0, 1])
def test_a_piece_that_is_damaged_hides_no_other(place, is_missing, place_of_it):
    """The results of the others are read, and the number of those that are not known is said."""
    made = place.run(place.make())
    ended = place.run(place.drive(made.id))
    documents, key = place.hub.backend.documents, f"alice/{made.id}/{place_of_it:04}"
    place.run(documents.delete("job_pieces", key) if is_missing else documents.put("job_pieces", key, b"{"))
    lost = [[0, 1, 2], [3]][place_of_it]
    known = {id: outcome for id, outcome in DONE.items() if int(id[1:]) not in lost}

    async def pages(limit, start=0, outcome=None):
        found, damaged = {}, []
        while start is not None:
            some, start = await place.hub.jobs.results("alice", ended, start, limit, outcome, damaged=damaged)
            found |= {each.device: each.outcome.value for each in some}
        return found, damaged

    for limit in (1, 2, 100):
        assert place.run(pages(limit)) == (known, lost)
        assert place.run(pages(limit, outcome=JobOutcome.FAILED)) == ({}, lost)
    assert place.run(pages(1, start=2))[1] == [each for each in lost if each >= 2]
    place.run(place.hub.jobs.remove("alice", made.id))
    with pytest.raises(NotFound):
        place.run(pages(100))


# Kept


def test_what_is_refused_leaves_nothing(place):
    """No devices, or a device that does not exist."""
    for asked, error in (({"filter": ["online"]}, InvalidInput), ({"devices": ["d1", "d77"]}, NotFound)):
        with pytest.raises(error):
            place.run(place.make(**asked))
    assert place.run(place.hub.jobs.of("alice")) == []
    assert place.run(place.hub.jobs.pieces.keys()) == []


def test_what_is_refused_removes_no_old_job(tools):
    """An account that has its maximum of jobs keeps them, until another one is made."""
    place = make_place(tools, limits=AccountLimits(jobs=1))
    place.run(place.open())
    kept = place.run(place.make()).id
    place.run(place.drive(kept))
    for asked, error in (({"filter": ["online"]}, InvalidInput), ({"devices": ["d77"]}, NotFound)):
        with pytest.raises(error):
            place.run(place.make(**asked))
    assert [each.id for each in place.run(place.hub.jobs.of("alice"))] == [kept]
    assert place.run(place.outcomes(kept)) == DONE


def test_an_account_keeps_a_number_of_jobs(tools):
    """The oldest that has ended goes; one that has not ended does not, and too many of those are refused."""
    place = make_place(tools, limits=AccountLimits(jobs=3, open_jobs=2))
    place.run(place.open())
    made = []
    for n in range(5):
        place.time[0] += 1
        made.append(place.run(place.make({"n": n})).id)
        place.run(place.drive(made[-1]))
    assert [each.id for each in place.run(place.hub.jobs.of("alice"))] == made[:1:-1]
    assert {key.split("/")[1] for key in place.run(place.hub.jobs.pieces.keys())} == set(made[2:])
    for n in range(2):
        place.time[0] += 1
        place.run(place.make({"n": n}))
    with pytest.raises(LimitReached, match="2 jobs of the account have not ended"):
        place.run(place.make())
    assert place.run(place.hub.jobs.use("alice")) == (3, 2)
    place.run(place.make(account="bob"))


def test_removed(place):
    """Only after its end; with its results."""
    made = place.run(place.make())
    with pytest.raises(Conflict, match="cancel it first"):
        place.run(place.hub.jobs.remove("alice", made.id))
    with pytest.raises(NotFound):
        place.run(place.hub.jobs.remove("bob", made.id))
    place.run(place.drive(made.id))
    with pytest.raises(Conflict, match="cannot be canceled"):
        place.run(place.hub.jobs.cancel("alice", made.id, by="alice"))
    place.run(place.hub.jobs.remove("alice", made.id))
    assert place.run(place.hub.jobs.pieces.keys()) == []
    for id in (made.id, "", "a/b", "job_" + "x" * 80, "job_é"):
        with pytest.raises(NotFound):
            place.run(place.hub.jobs.get("alice", id))


@pytest.mark.parametrize("cut", range(1, 28))
@pytest.mark.parametrize("verb", ["make", "remove"])
def test_what_is_interrupted_is_found(tools, cut, verb):
    """The rest of a creation or a removal, by reading no pieces; what belongs to a job stays."""
    place = make_place(tools)
    place.run(place.open())
    kept = place.run(place.make())
    place.run(place.drive(kept.id))
    work = place.make({"n": 1}) if verb == "make" else place.hub.jobs.remove("alice", kept.id)
    tools.stop(work, cut, tools.stops[0]())
    there = make_place(tools, place.hub.backend)
    there.hub.jobs.pieces.keys = None
    for orphan in place.run(there.hub.jobs.orphans()):
        place.run(there.hub.jobs.remove_orphan(*orphan))
    assert place.run(there.hub.jobs.orphans()) == set()
    present = {each.id for each in place.run(there.hub.jobs.of("alice"))}
    assert {key.split("/")[1] for key in place.run(place.hub.jobs.pieces.keys())} == present
    assert kept.id in present or verb == "remove"
    place.run(there.drive_all())
    for id in present:
        assert len(place.run(there.outcomes(id))) == 4


def test_a_removed_account_leaves_no_jobs(place):
    """In any state."""
    for account in ("alice", "bob"):
        place.run(place.make(account=account))
    place.run(place.hub.remove_account("alice"))
    assert {key.split("/")[0] for key in place.run(place.hub.jobs.pieces.keys())} == {"bob"}
    assert place.run(place.hub.jobs.of("alice")) == []


@pytest.mark.parametrize("cut", range(2, 82, 2))
def test_an_account_that_is_removed_during_a_creation_leaves_no_job(tools, cut):
    """At whatever step: an account that is registered under the name then inherits nothing."""
    place = make_place(tools)
    place.run(place.open())

    async def leave():
        await place.hub.remove_account("alice")
        await place.hub.accounts.register("alice", "other")
        await place.hub.create_device("alice", "d0")

    async def unfinished():
        return await place.hub.jobs.unfinished()

    tools.interleave([place.make({"wifi": "secret"}), leave()], [0] * cut + [1] * 1000)
    assert place.run(place.hub.jobs.of("alice")) == []
    assert place.run(place.hub.jobs.pieces.keys()) == []
    assert place.run(unfinished()) == []


@pytest.mark.parametrize("cut", range(4, 20, 2))
def test_a_creation_that_is_killed_after_its_account_has_gone(tools, cut):
    """A later account of that name sees nothing of it, and the next process removes it."""
    for more in range(1, 24):
        place = make_place(tools)
        place.run(place.open())
        creation = place.make({"wifi": "secret"})
        for _ in range(cut):
            creation.send(None)
        place.run(place.hub.remove_account("alice"))
        place.run(place.hub.accounts.register("alice", "other"))
        place.run(place.hub.create_device("alice", "d0"))
        try:
            tools.stop(creation, more, tools.stops[0]())
        except NotFound:
            pass
        there = make_place(tools, place.hub.backend)
        assert place.run(there.hub.jobs.of("alice")) == []
        for account, id in place.run(there.hub.jobs.unfinished()):
            with pytest.raises(NotFound):
                place.run(there.hub.jobs.get(account, id))
            with pytest.raises(NotFound):
                place.run(there.load(id))
        assert place.run(there.hub.jobs.unfinished()) == []
        assert place.run(there.desired())["d0"] is None


def test_moved_to_another_store(tools, place):
    """A job that has not ended goes on there, and the check of the store finds no fault."""
    made = place.run(place.make())
    run = place.run(place.load(made.id))
    place.run(run.step())

    async def move():
        lines = export_store(place.hub.backend)
        there = tools.backend()
        await import_store(there, lines)
        return there

    there = make_place(tools, place.run(move()))
    assert place.run(check_store(there.hub.backend))[1] == []
    present = place.run(there.hub.jobs.get("alice", made.id))
    if not present.ended:
        present = place.run(there.drive(made.id))
    assert present.counts == JobCounts(0, 3, 1, 0)


@pytest.mark.parametrize("scheme", ["file", "sqlite"])
async def test_kept_on_a_disk(tools, tmp_path, scheme):
    """A job that was begun by one process is ended by the next, and its results are read by a third."""
    url = f"{scheme}://{tmp_path / 'store'}"

    async def on(function):
        async with open_backend(url) as backend:
            place = Place(Hub(backend, now=time.time, monotonic=time.monotonic, entropy=os.urandom), tools, [NOW])
            return await function(place)

    async def begin(place):
        await place.open()
        made = await place.make()
        run = await place.load(made.id)
        await run._do_piece()
        return made.id

    id = await on(begin)
    ended = await on(lambda place: place.drive(id))
    assert (ended.state, ended.counts) == (JobState.COMPLETED, JobCounts(0, 3, 1, 0))
    assert await on(lambda place: place.outcomes(id)) == DONE
    assert set((await on(lambda place: place.versions())).values()) == {1, 2}
    await on(lambda place: place.hub.jobs.remove("alice", id))
    assert await on(lambda place: place.hub.jobs.pieces.keys()) == []


def test_pages_of_results(place):
    """In the order of ids, from any place, also of one outcome."""
    made = place.run(place.make())
    ended = place.run(place.drive(made.id))

    async def pages(limit, outcome=None):
        found, start = [], 0
        while start is not None:
            some, start = await place.hub.jobs.results("alice", ended, start, limit, outcome)
            assert len(some) <= limit
            found += [each.device for each in some]
        return found

    for limit in (1, 2, 3, 4, 100):
        assert place.run(pages(limit)) == ["d0", "d1", "d2", "d3"]
        assert place.run(pages(limit, JobOutcome.CHANGED)) == ["d0", "d2", "d3"]
    assert place.run(place.hub.jobs.results("alice", ended, 2, 1))[1] == 3
