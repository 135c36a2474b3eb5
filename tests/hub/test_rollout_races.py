"""Rollouts that several processes drive while users stop them: in every order of steps what is stored is true."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator

import attrs
import pytest
from selecting import of_all

from mdashcore import ota
from mdashcore._errors import NotFound, StorageError
from mdashcore.hub import Hub
from mdashcore.hub.notification_reader import log_name
from mdashcore.hub.rollouts.members import START_GRACE
from mdashcore.hub.rollouts.performer import RolloutPerformer
from mdashcore.hub.updates.store import blob_key
from mdashcore.identity import DeviceKey
from mdashcore.rollout import Member, Outcome, RolloutState, parse_request

NIGHT = 1_700_000_000.0  # 22:13:20 in UTC
IMAGE = ota.UpdateImage(name="fw.zip", size=3, sha256=hashlib.sha256(b"fw.").hexdigest())


@attrs.define
class Clock:
    now: float = NIGHT
    ahead: float = 0.0
    """By how much it was set; the rest of what it shows has gone by."""

    def set_by(self, seconds):
        self.now += seconds
        self.ahead += seconds


@attrs.define
class UpdateStarter:
    """Of a process that has some devices: updates are queued, and begin immediately."""

    hub: Hub
    here: set[str]
    began: list[str] = attrs.Factory(list)
    leaves: bool = False
    """Whether devices go just when they are to begin."""

    def is_connected(self, key):
        return key.id in self.here

    async def start(self, key, id, image, options, *, blob):
        self.began.append(key.id)
        if self.leaves:
            self.here.clear()
        run = await self.hub.updates.create(key, id, image, options, blob=blob)
        if key.id in self.here:
            await run.apply(ota.Started(ota.Build()))

    async def cancel(self, key):
        return await self.hub.updates.cancel(key)


def name_of(entry):
    """The name of a notification in a log."""
    return json.loads(entry.body)["name"]


class Meddled:
    """An `UpdateStarter`, of which `start` does something else."""

    def __init__(self, starter, start):
        self.start = start
        self.cancel = starter.cancel
        self.is_connected = starter.is_connected


async def pieces(data: bytes) -> AsyncGenerator[bytes, None]:
    yield data


@attrs.define
class Place:
    """A hub with devices d0, d1, d2 of alice, a rollout to them, and processes that drive it."""

    hub: Hub
    clock: Clock
    id: str = ""

    async def open(self, **asked):
        await self.hub.accounts.register("alice", "hash")
        for n in range(3):
            await self.hub.create_device("alice", f"d{n}")
        self.id = self.hub.rollouts.new_id()
        await self.hub.blobs.put(blob_key("alice", self.id), pieces(b"fw."))
        request = parse_request(of_all(asked, phases=[100], rate=None))
        await self.hub.rollouts.create("alice", self.id, request, IMAGE)

    async def drive(self, *here):
        """Another process, with these devices."""
        return await RolloutPerformer.load(self.hub.rollouts, UpdateStarter(self.hub, set(here)), "alice", self.id)

    async def present(self):
        return await self.hub.rollouts.get("alice", self.id)

    async def members(self):
        return {member.device: member async for member in self.hub.rollouts.begun_members("alice", self.id)}

    async def update(self, device="d0"):
        return await self.hub.updates.get(DeviceKey("alice", device))


@pytest.fixture
def place(tools):
    """Not opened yet."""
    clock = Clock()
    return Place(
        Hub(
            tools.backend(),
            now=lambda: clock.now,
            monotonic=lambda: clock.now - clock.ahead,
            entropy=tools.entropy(),
            signal=tools.signal,
        ),
        clock,
    )


CUTS = range(0, 160, 2)
"""The numbers of steps of the one process after which the other one runs."""


@pytest.mark.parametrize("cut", CUTS)
def test_nothing_begins_once_a_pause_is_answered(tools, place, cut):
    """But the one device that was past the last look; the others wait, and begin after the pause."""
    tools.run(place.open())
    run = tools.run(place.drive("d0", "d1", "d2"))

    async def pause():
        await place.hub.rollouts.pause("alice", place.id)
        return len(run._starter.began)

    _, paused = tools.interleave([run.step(), pause()], [0] * cut + [1] * 200)
    assert len(run._starter.began) <= paused.value + 1
    for _ in range(2):
        tools.run(run.reload())
        tools.run(run.step())
    assert len(run._starter.began) <= paused.value + 1
    tools.run(place.hub.rollouts.resume("alice", place.id))
    tools.run(run.reload())
    tools.run(run.step())
    assert sorted(set(run._starter.began)) == ["d0", "d1", "d2"]


@pytest.mark.parametrize("cut", CUTS)
def test_what_is_aborted_is_over(tools, place, cut):
    """Another process ends the rollout while this one lets devices begin: when it is ABORTED, none has an update."""
    tools.run(place.open())
    one, other = tools.run(place.drive("d0", "d1", "d2")), tools.run(place.drive())

    async def abort():
        await place.hub.rollouts.abort("alice", place.id)
        await other.reload()
        await other.step()

    tools.interleave([one.step(), abort()], [0] * cut + [1] * 400)
    for run in (one, other, one, other):
        place.clock.now += START_GRACE + 1
        tools.run(run.refresh())
        tools.run(run.step())
    present = tools.run(place.present())
    assert present.state is RolloutState.ABORTED
    updates = [tools.run(place.update(device)) for device in ("d0", "d1", "d2")]
    assert all(update is None or update.state is ota.UpdateState.CANCELED for update in updates)
    assert Outcome.UPDATING not in {member.outcome for member in tools.run(place.members()).values()}
    assert not present.counts[0].updating


def test_giving_up_at_the_deadline_takes_two_steps(tools, place):
    """ABORTING is stored and notified before ABORTED: a process that begins a device just then sees it."""
    tools.run(place.open(timeout=3600))
    run = tools.run(place.drive())
    place.clock.now += 3601
    versions = []
    put = place.hub.rollouts.records.put

    async def watch(key, value, *, expected=None):
        versions.append(value.state)
        return await put(key, value, expected=expected)

    place.hub.rollouts.records.put = watch
    assert tools.run(run.step()) is None
    assert list(dict.fromkeys(versions)) == [RolloutState.ABORTING, RolloutState.ABORTED]


def test_a_short_pause_costs_no_device_its_turn(tools, place):
    """An update that a pause took out of a queue begins again, though the resume came before any node noticed."""
    tools.run(place.open(devices=["d0"]))
    run = tools.run(place.drive("d0"))
    run._starter.leaves = True
    tools.run(run.step())
    assert tools.run(place.update()).state is ota.UpdateState.QUEUED
    tools.run(place.hub.rollouts.pause("alice", place.id))
    tools.run(run.reload())
    tools.run(run.step())
    tools.run(place.hub.rollouts.resume("alice", place.id))
    tools.run(run.reload())
    tools.run(run.reload_device("d0"))
    assert tools.run(place.members())["d0"].outcome is Outcome.PENDING


def test_what_fails_after_a_retry_has_failed(tools, place):
    """A device that was being updated then has had its try in the new round: it is no third one's turn."""
    tools.run(place.open(devices=["d0"], error_percent=0))
    run = tools.run(place.drive("d0"))
    tools.run(run.step())
    tools.run(place.hub.rollouts.retry("alice", place.id))
    tools.run(run.reload())
    tools.run(place.hub.updates.apply(DeviceKey("alice", "d0"), ota.StepFailed("OTA.Begin", -1, "no space left")))
    tools.run(run.reload_device("d0"))
    tools.run(run.step())
    assert tools.run(place.present()).state is RolloutState.PAUSED
    assert run._starter.began == ["d0"]


def test_a_decision_is_told_when_the_store_is_back(tools, place):
    """A pause that could not be told immediately is not kept a secret."""
    tools.run(place.open(devices=["d0"], error_percent=0))
    run = tools.run(place.drive("d0"))
    tools.run(run.step())
    tools.run(place.hub.updates.apply(DeviceKey("alice", "d0"), ota.StepFailed("OTA.Begin", -1, "no space left")))
    tools.run(run.reload_device("d0"))
    told, emit = [], place.hub.feed.emit

    async def fail(*args):
        raise StorageError("away")

    async def note(account, name, device, data=None):
        told.append(name)
        return await emit(account, name, device, data)

    place.hub.feed.emit = fail
    with pytest.raises(StorageError):
        tools.run(run.step())
    assert tools.run(place.present()).state is RolloutState.PAUSED
    place.hub.feed.emit = note
    tools.run(run.step())
    assert "rollout.PAUSED" in told


def test_clocks_that_differ_skip_no_device_that_begins(tools, place):
    """An older update, stored by a clock that is ahead, does not count as a newer one while devices may begin."""
    tools.run(place.open(devices=["d0"]))
    place.clock.now += 30
    tools.run(place.hub.updates.create(DeviceKey("alice", "d0"), "ota_before", IMAGE))
    tools.run(place.hub.updates.cancel(DeviceKey("alice", "d0")))
    place.clock.now -= 30
    one, other = tools.run(place.drive("d0")), tools.run(place.drive())
    begin = one._starter.start

    async def look_meanwhile(*args, **kwargs):
        await other.reload_device("d0")
        await begin(*args, **kwargs)

    one._starter = Meddled(one._starter, look_meanwhile)
    tools.run(one.step())
    assert tools.run(place.update()).state is ota.UpdateState.TRANSFERRING
    assert tools.run(place.members())["d0"].outcome is Outcome.UPDATING


# What a process that was killed has left


STOPS = range(1, 50)
"""The numbers of steps after which a process is stopped: two phases of skipped devices have fewer than the last."""


@pytest.mark.parametrize("stop", range(2), ids=["killed", "failed"])
@pytest.mark.parametrize("cut", STOPS)
def test_what_is_decided_is_announced(tools, place, cut, stop):
    """A pause, a phase and the end, although the process is killed at any step, or its storage fails at any."""

    async def go_on(run):
        while not run.gone and (await place.present()).state is RolloutState.RUNNING:
            await run.step()
        await run.step()

    def be_stopped():
        run = tools.run(place.drive())
        was_stopped = tools.stop(go_on(run), cut, tools.stops[stop]())
        if stop == 0:  # the next process looks for what is unfinished
            run = tools.run(place.drive()) if tools.run(place.hub.rollouts.unfinished()) else None
        if run is not None:
            tools.run(go_on(run))
        return was_stopped

    tools.run(place.open(phases=[50, 100], offline_wait=0))
    was_stopped = be_stopped()
    assert tools.run(place.present()).state is RolloutState.PAUSED
    tools.run(place.hub.rollouts.resume("alice", place.id))
    was_stopped = be_stopped() or was_stopped
    assert tools.run(place.present()).state is RolloutState.COMPLETED
    assert tools.run(place.hub.rollouts.unfinished()) == []
    entries = tools.run(place.hub.backend.logs.read(log_name("alice"), 0, 1000))
    told = list(dict.fromkeys(name for name in map(name_of, entries) if name.startswith("rollout.")))
    assert [name for name in told if name != "rollout.progress"] == [
        "rollout.RUNNING",
        "rollout.PAUSED",
        "rollout.phase",
        "rollout.COMPLETED",
    ]
    assert cut < STOPS[-1] or not was_stopped, "it has more steps than STOPS"


def test_what_was_created_for_an_earlier_account_is_removed(tools, place):
    """Its creation was killed after the account had gone: a later one of that name sees nothing of it."""
    tools.run(place.open())
    left = tools.run(place.hub.rollouts.records.get(f"alice/{place.id}")).value
    tools.run(place.hub.remove_account("alice"))
    tools.run(place.hub.accounts.register("alice", "other"))
    tools.run(place.hub.rollouts.records.put(f"alice/{place.id}", left))
    assert tools.run(place.hub.rollouts.of("alice")) == []
    with pytest.raises(NotFound):
        tools.run(place.present())
    with pytest.raises(NotFound):
        tools.run(place.drive())
    assert tools.run(place.hub.rollouts.unfinished()) == []


def test_a_window_holds_for_what_was_left_too(tools, place):
    """A process died between its decision and the deed: the next one waits for the window."""
    tools.run(place.open(devices=["d0"], window={"start": "22:00", "end": "23:00"}))
    left = Member(device="d0", outcome=Outcome.UPDATING, attempt=1, changed=NIGHT)
    tools.run(place.hub.rollouts.members.put(f"alice/{place.id}/d0", left))
    place.clock.now += 3600
    run = tools.run(place.drive("d0"))
    tools.run(run.step())
    assert tools.run(place.update()) is None
    place.clock.now += 23 * 3600
    tools.run(run.refresh())
    tools.run(run.step())
    assert tools.run(place.update()).state is ota.UpdateState.TRANSFERRING


def test_a_device_that_is_left_behind_keeps_no_place(tools, place):
    """A device that went before its update began: the next one has its turn, and its own comes when it is back."""
    tools.run(place.open(max_active=1))
    first, second, _ = tools.run(place.hub.rollouts.devices("alice", place.id))
    left = Member(device=first, outcome=Outcome.UPDATING, attempt=1, changed=NIGHT)
    tools.run(place.hub.rollouts.members.put(f"alice/{place.id}/{first}", left))
    run = tools.run(place.drive(second))
    tools.run(run.step())
    assert run._starter.began == [], "whoever has stored it may be about to begin it"
    place.clock.now += START_GRACE + 1
    tools.run(run.refresh())
    tools.run(run.step())
    assert run._starter.began == [second]
    assert tools.run(place.members())[first].outcome is Outcome.PENDING


@pytest.mark.parametrize("step", [-10 * 365 * 86_400, -3600, -3, 3, 3600, 10 * 365 * 86_400])
def test_a_clock_that_is_set_changes_nothing(tools, place, step):
    """The rate goes on as if it had not been set, and so do the reports; what is stored is of the new clock."""
    tools.run(place.open(rate=1, max_active=3))
    run = tools.run(place.drive("d0", "d1", "d2"))
    tools.run(run.step())
    before = tools.run(place.present())
    assert len(run._starter.began) == 1
    place.clock.set_by(step)
    tools.run(run.step())
    assert len(run._starter.began) == 1
    after = tools.run(place.present())
    assert (after.created, after.next_start) == (before.created + step, before.next_start + step)
    for began in (2, 3):
        place.clock.now += 60
        tools.run(run.step())
        assert len(run._starter.began) == began
    place.clock.now += 1
    tools.run(run.step())
    assert tools.run(place.present()).counts[0].updating == 3


def test_two_processes_follow_a_clock_once(tools, place):
    """On one machine both notice the step; the rollout's times are moved once, and it is as old as it was."""
    tools.run(place.open(rate=1, max_active=3))
    before = tools.run(place.present())
    runs = [tools.run(place.drive("d0", "d1", "d2")) for _ in range(2)]
    place.clock.set_by(-5000.0)
    tools.interleave([run.step() for run in runs], [0, 1] * 100)
    assert tools.run(place.present()).created == before.created - 5000.0
    assert {run.now() for run in runs} == {place.clock.now}
