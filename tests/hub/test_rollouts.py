"""Rollouts as they are stored: selected, moved to another backend, checked; and requests at the same time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncGenerator

import attrs
import pytest
from selecting import of_all

from mdashcore import ota
from mdashcore._errors import Conflict, InvalidInput, LimitReached, NotFound
from mdashcore.hub import Hub
from mdashcore.hub.limits import AccountLimits
from mdashcore.hub.maintenance.backup import export_store, import_store
from mdashcore.hub.maintenance.check import check_store
from mdashcore.hub.rollouts import service
from mdashcore.hub.rollouts.members import START_GRACE
from mdashcore.hub.rollouts.performer import RolloutPerformer
from mdashcore.hub.updates.store import blob_key
from mdashcore.identity import DeviceKey
from mdashcore.rollout import Counts, Member, Outcome, RolloutState, ordered, parse_request
from mdashcore.rollout._judgement import SETTLED_TIME
from mdashcore.storage import open_backend

NOW = 1_700_000_000.0
IMAGE = ota.UpdateImage(name="fw.zip", size=3, sha256=hashlib.sha256(b"fw.").hexdigest())


@attrs.define
class Clock:
    now: float = NOW


@pytest.fixture
def clock():
    """What the hub goes by."""
    return Clock()


@pytest.fixture
async def backend():
    """An empty store."""
    async with open_backend("memory://") as opened:
        yield opened


@pytest.fixture
async def hub(backend, clock):
    """Alice with ten devices, bob with one of the same id."""
    hub = Hub(backend, now=lambda: clock.now, monotonic=lambda: clock.now, entropy=os.urandom)
    for account, ids in (("alice", [f"d{n}" for n in range(10)]), ("bob", ["d1"])):
        await hub.accounts.register(account, "hash", admin=True)
        for id in ids:
            await hub.create_device(account, id)
    return hub


async def pieces(data: bytes) -> AsyncGenerator[bytes, None]:
    yield data


async def roll_out(hub, account="alice", **asked):
    id = hub.rollouts.new_id()
    await hub.blobs.put(blob_key(account, id), pieces(b"fw."))
    return await hub.rollouts.create(account, id, parse_request(of_all(asked)), IMAGE)


async def test_devices_are_selected(hub):
    """By what is known of them now; in the order of the hash, of the account alone."""
    await hub.presence.claim(DeviceKey("alice", "d3"), "node")
    for id, version in (("d3", "1.0"), ("d4", "1.0"), ("d5", "2.0")):
        await hub.shadows.update(DeviceKey("alice", id), {"state": {"reported": {"ota": {"fw_version": version}}}})

    async def chosen(terms=(), devices=None):
        request = parse_request(of_all({"filter": list(terms), "devices": devices} if terms or devices else {}))
        return sorted(await hub.rollouts.select("alice", request.selection))

    assert len(await chosen()) == 10
    assert await chosen(["fw_version=1.0"]) == ["d3", "d4"]
    assert await chosen(["fw_version=1.0", "online"]) == ["d3"]
    assert await chosen(["offline"], ["d3", "d9"]) == ["d9"]
    with pytest.raises(NotFound, match="no device 'd77'"):
        await chosen(devices=["d1", "d77"])
    made = await roll_out(hub)
    assert await hub.rollouts.devices("alice", made.id) == ordered("alice", [f"d{n}" for n in range(10)])


async def test_a_large_rollout_is_kept_in_pieces(hub, monkeypatch):
    """Its devices come out in the order in which they went in."""
    monkeypatch.setattr(service, "ROSTER_PIECE", 3)
    made = await roll_out(hub)
    assert len([key async for key, _ in hub.rollouts.rosters.scan()]) == 4
    assert await hub.rollouts.devices("alice", made.id) == ordered("alice", [f"d{n}" for n in range(10)])


async def test_what_no_device_is_in_is_not_made(hub):
    """And nothing of it is stored."""
    with pytest.raises(InvalidInput, match="no devices"):
        await roll_out(hub, filter=["online"])
    assert await hub.rollouts.of("alice") == []
    assert not [key async for key, _ in hub.rollouts.rosters.scan()]


async def test_a_resume_forgives_what_has_failed_until_then(hub):
    """Counted anew at that moment, not as of the last report; only by its number."""
    made = await roll_out(hub, phases=[100])
    await hub.rollouts.pause("alice", made.id)
    failed = Member(device="d1", outcome=Outcome.FAILED, attempt=1)
    await hub.rollouts.members.put(f"alice/{made.id}/d1", failed)
    with pytest.raises(Conflict, match="1 failures are to be forgiven now, not 2"):
        await hub.rollouts.resume("alice", made.id, forgive=2)
    assert (await hub.rollouts.resume("alice", made.id)).forgiven == ()
    await hub.rollouts.pause("alice", made.id)
    resumed = await hub.rollouts.resume("alice", made.id, forgive=1)
    assert resumed.state is RolloutState.RUNNING
    assert [(each.failed, each.pending) for each in resumed.forgiven] == [(1, 9)]


async def test_a_resume_that_is_refused_reads_no_members(hub, monkeypatch):
    """A rollout that is not paused is not resumed, however many devices it has."""
    made = await roll_out(hub)
    monkeypatch.setattr(hub.rollouts, "counts", None)
    with pytest.raises(Conflict, match="is RUNNING, it cannot be resumed"):
        await hub.rollouts.resume("alice", made.id, forgive=1)


async def test_two_people_at_the_same_time(tools):
    """Of two pauses one counts; of an abort and a resume, each request sees the result of the other."""
    backend = tools.backend()
    hub = Hub(backend, now=lambda: NOW, monotonic=lambda: NOW, entropy=tools.entropy(), signal=tools.signal)
    tools.run(hub.accounts.register("alice", "hash"))
    tools.run(hub.create_device("alice", "d1"))
    made = tools.run(roll_out(hub))
    for choices in ([0, 1] * 40, [0] * 9 + [1] * 80):
        done = tools.interleave([hub.rollouts.pause("alice", made.id) for _ in range(2)], choices)
        assert sorted(isinstance(each.error, Conflict) for each in done) == [False, True]
        tools.run(hub.rollouts.resume("alice", made.id))
    done = tools.interleave([hub.rollouts.abort("alice", made.id), hub.rollouts.retry("alice", made.id)], [0, 1] * 40)
    assert done[0].error is None
    assert tools.run(hub.rollouts.get("alice", made.id)).state is RolloutState.ABORTING


class Slow:
    """UpdateStarter whose devices have always gone when their update has been queued."""

    def __init__(self, hub):
        self.hub = hub
        self.here = True

    def is_connected(self, key):
        return self.here

    async def start(self, key, id, image, options, *, blob):
        self.here = False
        return await self.hub.updates.create(key, id, image, options, blob=blob)

    async def cancel(self, key):
        return await self.hub.updates.cancel(key)


@pytest.fixture
async def run(hub):
    """A rollout to one device that is being driven by slow hands, one step after the other."""
    made = await roll_out(hub, devices=["d1"], phases=[100], offline_wait=60)
    run = await RolloutPerformer.load(hub.rollouts, Slow(hub), "alice", made.id)
    run.id = made.id
    await run.step()
    assert (await hub.updates.get(DeviceKey("alice", "d1"))).state is ota.UpdateState.QUEUED
    return run


async def member(hub, run):
    await run.reload_device("d1")
    (found,) = [each async for each in hub.rollouts.begun_members("alice", run.id)]
    return found


async def test_a_pause_takes_back_what_waits_in_a_queue(hub, run):
    """It has its turn again after the pause, with an update of another id."""
    assert (await member(hub, run)).outcome is Outcome.UPDATING
    first = (await hub.updates.get(DeviceKey("alice", "d1"))).id
    await hub.rollouts.pause("alice", run.id)
    await run.reload()
    await run.step()
    assert (await hub.updates.get(DeviceKey("alice", "d1"))).state is ota.UpdateState.CANCELED
    assert (await member(hub, run)).outcome is Outcome.PENDING
    await hub.rollouts.resume("alice", run.id)
    await run.reload()
    run._starter.here = True
    await run.step()
    again = await hub.updates.get(DeviceKey("alice", "d1"))
    assert (again.state, again.id != first) == (ota.UpdateState.QUEUED, True)
    assert (await member(hub, run)).attempt == 2


async def test_a_device_that_went_before_its_update_began_is_waited_for_in_vain(hub, run, clock):
    """Until the deadline for those that are offline; then its update is taken back, and it is skipped."""
    clock.now += 30
    await run.refresh()
    await run.step()
    assert (await member(hub, run)).outcome is Outcome.UPDATING
    clock.now += 31
    await run.refresh()
    await run.step()
    skipped = await member(hub, run)
    assert (skipped.outcome, skipped.reason) == (Outcome.SKIPPED, "CANCELED: canceled in the queue")
    assert await run.step() is None
    assert (await hub.rollouts.get("alice", run.id)).state is RolloutState.COMPLETED


async def test_an_update_that_took_the_place_of_a_rollout_s(hub, run, clock):
    """The device is skipped: what it has now is another image."""
    clock.now += 1
    await hub.updates.create(DeviceKey("alice", "d1"), "ota_other", IMAGE)
    skipped = await member(hub, run)
    assert (skipped.outcome, skipped.reason) == (Outcome.SKIPPED, "SUPERSEDED: a newer update was queued")


@pytest.mark.parametrize("step", [-86_400.0, 0.0, 86_400.0])
async def test_another_update_is_told_by_its_id_and_not_by_the_time(backend, step):
    """Where a rollout's update was never made, the one before is no other one, and one that came since is, whatever
    the wall clock was set to.
    """
    wall, time = NOW, 0.0
    hub = Hub(backend, now=lambda: wall + time, monotonic=lambda: time, entropy=os.urandom)
    await hub.accounts.register("alice", "hash")
    for id in ("d1", "d2", "d3"):
        await hub.create_device("alice", id)
    for id in ("d1", "d3"):
        await hub.updates.create(DeviceKey("alice", id), f"ota_before_{id}", IMAGE)
        await hub.updates.cancel(DeviceKey("alice", id))
    wall += step
    made = await roll_out(hub, devices=["d1", "d2", "d3"], phases=[100])
    members = (await RolloutPerformer.load(hub.rollouts, Slow(hub), "alice", made.id))._members
    for id in ("d1", "d2", "d3"):
        assert await members.begin(id)
    time += 1
    wall -= step
    for id in ("d2", "d3"):
        await hub.updates.create(DeviceKey("alice", id), f"ota_other_{id}", IMAGE)
    time += START_GRACE
    for id in ("d1", "d2", "d3"):
        assert await members.resolve(id) is None
    outcomes = [members.outcome(id) for id in ("d1", "d2", "d3")]
    assert outcomes == [Outcome.UPDATING, Outcome.SKIPPED, Outcome.SKIPPED]


async def test_a_member_that_a_version_without_that_id_has_stored(hub, clock):
    """Where the id of the update before is not known, the times count."""
    await hub.updates.create(DeviceKey("alice", "d1"), "ota_before", IMAGE)
    await hub.updates.cancel(DeviceKey("alice", "d1"))
    clock.now += 1
    made = await roll_out(hub, devices=["d1", "d2", "d3"], phases=[100])
    members = (await RolloutPerformer.load(hub.rollouts, Slow(hub), "alice", made.id))._members
    for id in ("d1", "d2", "d3"):
        assert await members.begin(id)
        assert await members._put(attrs.evolve(members.get(id), before=None))
    clock.now += 1
    await hub.updates.create(DeviceKey("alice", "d3"), "ota_other", IMAGE)
    clock.now += START_GRACE
    for id in ("d1", "d2", "d3"):
        assert await members.resolve(id) is None
    outcomes = [members.outcome(id) for id in ("d1", "d2", "d3")]
    assert outcomes == [Outcome.UPDATING, Outcome.UPDATING, Outcome.SKIPPED]


async def test_a_boot_in_1970_that_ends_before_the_clock_is_right(backend):
    """A board without a battery boots, goes on with what there is, and loses its power before it has asked for the
    time: the boot after that finds nothing too old.
    """
    wall, time = NOW, 0.0

    def boot():
        return Hub(backend, now=lambda: wall, monotonic=lambda: time, entropy=os.urandom)

    key = DeviceKey("alice", "d1")
    hub = boot()
    account = await hub.accounts.register("alice", "hash")
    await hub.create_device("alice", "d1")
    await hub.updates.create(key, "ota_1", IMAGE)
    session, secret = (await hub.sessions.create(account)).secret, (await hub.accounts.create_key("alice")).secret
    made = await roll_out(hub, devices=["d1"], phases=[100], offline_wait=3600)
    for date in (30.0, NOW + 600):
        time = 0.0
        wall = date
        hub = boot()
        for _ in range(2):
            time += 60.0
            wall += 60.0
            update = await hub.updates.load(key)
            for event in (ota.DeviceDisconnected(), ota.UpdateDeadlinePassed()):
                await update.apply(event)
            await update.follow_clock()
            assert update.update.state is ota.UpdateState.QUEUED
            assert (await hub.sessions.authenticate(session))[1].name == "alice"
            assert (await hub.accounts.authenticate_key(secret)).account == "alice"
            run = await RolloutPerformer.load(hub.rollouts, Slow(hub), "alice", made.id)
            run._starter.here = False
            await run.step()
            assert (await hub.rollouts.get("alice", made.id)).state is RolloutState.RUNNING


async def test_an_end_without_a_notification_is_in_the_history(hub, run, clock):
    """Also where another update has begun since."""
    await hub.updates.cancel(DeviceKey("alice", "d1"))
    clock.now += 1
    await hub.updates.create(DeviceKey("alice", "d1"), "ota_other", IMAGE)
    assert (await member(hub, run)).reason == "CANCELED: canceled in the queue"


async def test_a_rollout_moves_with_its_store(hub, backend):
    """Exported and imported, it goes on where it was."""
    made = await roll_out(hub)
    await hub.rollouts.members.put(f"alice/{made.id}/d1", Member(device="d1", outcome=Outcome.SUCCEEDED, attempt=1))
    lines = [line async for line in export_store(backend)]

    async def again():
        for line in lines:
            yield line

    async with open_backend("memory://") as other:
        await import_store(other, again())
        assert sorted([line async for line in export_store(other)]) == sorted(lines)
        moved = Hub(other, now=lambda: NOW, monotonic=lambda: NOW, entropy=os.urandom)
        assert await moved.rollouts.get("alice", made.id) == made
        assert [member.device async for member in moved.rollouts.begun_members("alice", made.id)] == ["d1"]
        assert (await check_store(other))[1] == []


async def test_damage_is_named(hub, backend):
    """What a rollout that goes on needs, and is not there."""
    made = await roll_out(hub)
    await hub.blobs.delete(blob_key("alice", made.id))
    await hub.rollouts.rosters.delete(f"alice/{made.id}/0000")
    assert (await check_store(backend))[1] == [
        f"rollouts/alice/{made.id} has not ended, and its image is gone",
        f"rollouts/alice/{made.id} has not ended, and does not know its devices",
    ]


async def test_a_removed_account_leaves_no_rollout(hub, backend):
    """Of another, everything stays."""
    await roll_out(hub)
    kept = await roll_out(hub, "bob")
    await hub.remove_account("alice")
    assert await hub.rollouts.of("alice") == []
    assert [key async for key in hub.blobs.scan()] == [blob_key("bob", kept.id)]
    assert [key async for key, _ in hub.rollouts.rosters.scan()] == [f"bob/{kept.id}/0000"]


NIGHT = {"start": "00:00", "end": "04:00"}


@pytest.mark.parametrize(
    ("changes", "asked", "later", "counts_as_open"),
    [
        ({}, {}, 0, True),
        ({}, {}, SETTLED_TIME, False),
        ({"counts": (Counts(pending=9, updating=1),)}, {}, SETTLED_TIME, True),
        ({"phase_started": ()}, {}, SETTLED_TIME, True),
        ({"state": RolloutState.PAUSED}, {}, SETTLED_TIME, True),
        ({"state": RolloutState.COMPLETED}, {}, SETTLED_TIME, False),
        ({"next_start": NOW + 60}, {}, SETTLED_TIME, True),
        ({}, {"window": NIGHT}, SETTLED_TIME, True),
    ],
    ids=["just begun", "only waits", "one updates", "no phase", "paused", "ended", "begins soon", "window closed"],
)
async def test_a_rollout_that_only_waits_is_not_open(backend, clock, changes, asked, later, counts_as_open):
    """One whose devices are all offline, or done, takes no place from another; any other that has not ended does."""
    limits = AccountLimits(open_rollouts=1)
    hub = Hub(backend, now=lambda: clock.now, monotonic=lambda: clock.now, entropy=os.urandom, limits=limits)
    await hub.accounts.register("alice", "hash", admin=True)
    await hub.create_device("alice", "d1")
    made = await roll_out(hub, **asked)
    running = attrs.evolve(made, state=RolloutState.RUNNING, phase_started=(NOW,), counts=(Counts(pending=10),))
    await hub.rollouts.records.put(f"alice/{made.id}", attrs.evolve(running, **changes))
    clock.now += later
    assert (await hub.rollouts.use("alice"))[1] == counts_as_open
    if counts_as_open:
        with pytest.raises(LimitReached, match="have not ended"):
            await roll_out(hub)
    else:
        await roll_out(hub)
