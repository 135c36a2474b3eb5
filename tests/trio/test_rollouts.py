"""Rollouts over a fleet of simulated devices, in virtual time, with the real hub, node and updater."""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from device_stream import DeviceStream
from hypothesis import given, settings
from hypothesis import strategies as st
from mortal import Mortal
from selecting import of_all
from wall_clock import WallClock

from mdashcore import _json, ota
from mdashcore._errors import Conflict, NotFound, StorageError
from mdashcore.hub import Hub
from mdashcore.hub.feed import LogQuery, events_topic
from mdashcore.hub.updates.store import blob_key
from mdashcore.identity import Device, DeviceKey
from mdashcore.rollout import Cause, Outcome, Rollout, RolloutState, ordered, parse_request, to_forgive
from mdashcore.storage import SHARED, Backend, open_backend
from mdashcore.trio.drivers.clock_watch import CLOCK_INTERVAL
from mdashcore.trio.drivers.orphans import ORPHAN_INTERVAL
from mdashcore.trio.drivers.rollout_supervisor import RolloutSupervisor
from mdashcore.trio.node import Node, NodeSettings, open_node

OLD, NEW = "1.0", "2.0"
YEAR = 365 * 86_400.0
BYTES = b"an image, as far as these devices care. " * 40
IMAGE = ota.UpdateImage(name="fw.zip", size=len(BYTES), sha256="00", build_id=NEW, version=NEW)
SETTINGS = NodeSettings(ping_interval=86_400.0)  # in virtual time, silence is no sign of anything


@attrs.define(eq=False)
class SimDevice:
    """A device that takes updates as Mongoose OS does.

    `fate` is what becomes of a new image: "good", "dead" (it never comes back), "reverts" (it does not start, and
    the old one comes back) or "refused".
    """

    device: Device
    fate: str = "good"
    runs: str = OLD
    committed: bool = True
    began: list[float] = attrs.Factory(list)
    """When it was sent an image."""
    taken: bytearray = attrs.Factory(bytearray)
    has_had_it: bool = False
    stream: DeviceStream | None = None
    rebooting: trio.Event = attrs.Factory(trio.Event)
    reverts_at: float = 0.0
    home: Node | None = None
    """The node that it connects to, if not the fleet's."""
    online: bool = True
    """Whether it connects at all."""

    @property
    def id(self) -> str:
        return self.device.id

    def build(self) -> dict[str, Any]:
        return {"fw_id": self.runs, "fw_version": self.runs, "is_committed": self.committed, "status": 0}

    def hear(self, frame: dict[str, Any], stream: DeviceStream) -> None:
        if "id" not in frame:
            return
        method, params = frame["method"], frame.get("params") or {}
        result: object = None
        match method:
            case "OTA.Begin":
                self.began.append(trio.current_time())
                self.taken.clear()
                if self.fate == "refused":
                    stream.put(_json.encode({"id": frame["id"], "error": {"code": -1, "message": "no space left"}}))
                    return
            case "OTA.Write":
                self.taken += base64.b64decode(params["data"])
            case "OTA.End":
                assert bytes(self.taken) == BYTES
                self.has_had_it = True
                self.rebooting.set()
            case "OTA.Commit":
                self.committed = True
            case "Sys.GetInfo" | "OTA.Status":
                result = self.build()
        stream.put(_json.encode({"id": frame["id"], "result": result}))

    def _dial(self) -> DeviceStream:
        stream = DeviceStream(lambda message: self.hear(_json.decode(message), stream))
        return stream

    async def live(self, fleet: Fleet) -> None:
        """Connect, again and again; reboot after each image."""
        while self.online:
            self.rebooting = trio.Event()
            self.stream = stream = self._dial()
            stream.put(
                _json.encode({"method": "Dash.Shadow.Update", "params": {"state": {"reported": {"ota": self.build()}}}})
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._reboot, stream)
                nursery.start_soon(self._roll_back, stream)
                try:
                    await (self.home or fleet.node).devices.serve(self.device, stream)
                except StorageError:
                    pass
                nursery.cancel_scope.cancel()
            if self.rebooting.is_set() and self.fate == "dead":
                return
            if self.rebooting.is_set() and self.fate == "good":
                self.runs, self.committed, self.reverts_at = NEW, False, trio.current_time() + 300
            await trio.sleep(3)

    async def _reboot(self, stream: DeviceStream) -> None:
        await self.rebooting.wait()
        await trio.sleep(0.5)
        stream.abort()

    async def _roll_back(self, stream: DeviceStream) -> None:
        if not self.committed:
            await trio.sleep_until(self.reverts_at)
            if not self.committed:
                self.runs, self.committed = OLD, True
                stream.abort()

    def go(self) -> None:
        """Lose the connection, and stay away."""
        self.online = False
        if self.stream is not None:
            self.stream.abort()


def make_hub(backend: Backend, wall: WallClock | None = None) -> Hub:
    """A hub whose clocks are Trio's, as far as a test does not set the wall clock."""
    return Hub(backend, now=wall or WallClock(), monotonic=trio.current_time, entropy=os.urandom)


@attrs.define(eq=False)
class Fleet:
    """Devices of alice, and a node that they connect to; another one takes its place after `crash`."""

    hub: Hub
    backend: Backend
    documents: Mortal
    nursery: trio.Nursery
    wall: WallClock
    devices: dict[str, SimDevice] = attrs.Factory(dict)
    node: Node = None  # type: ignore[assignment]
    _scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    _down: trio.Event = attrs.Factory(trio.Event)

    async def start(self) -> None:
        """Bring a node up."""
        self._down = trio.Event()
        await self.nursery.start(self._serve)

    async def die(self) -> None:
        """End the process without a word: nothing that it does from now on reaches the store."""
        self.documents.alive = False
        self._scope.cancel()
        await self._down.wait()

    async def crash(self) -> None:
        """End the process without a word. Another takes over."""
        await self.die()
        self.documents = Mortal(self.documents.inner)
        self.hub = make_hub(attrs.evolve(self.backend, documents=self.documents), self.wall)
        await self.start()

    async def _serve(self, task_status: trio.TaskStatus[None]) -> None:
        with trio.CancelScope() as self._scope:
            async with open_node(self.hub, settings=SETTINGS) as self.node:
                task_status.started()
                await trio.sleep_forever()
        self._down.set()

    async def add(self, number: int, **fields: Any) -> list[SimDevice]:
        """Register devices, and let them connect."""
        made = []
        for n in range(number):
            created = await self.hub.registry.create("alice", f"d{len(self.devices) + n}")
            made.append(SimDevice(created.device, **fields))
        for device in made:
            self.devices[device.id] = device
            if device.online:
                self.nursery.start_soon(device.live, self)
        return made

    async def connected(self) -> None:
        """Wait until every device that is to connect has."""
        await trio.testing.wait_all_tasks_blocked()
        assert len(self.node.devices) == sum(device.online for device in self.devices.values())

    async def roll_out(self, **asked: Any) -> Rollout:
        """Make a rollout, to all unless something else is said."""
        id = self.hub.rollouts.new_id()

        async def chunks() -> AsyncIterator[bytes]:
            yield BYTES

        await self.hub.blobs.put(blob_key("alice", id), chunks())
        return await self.hub.rollouts.create("alice", id, parse_request(of_all(asked)), IMAGE)

    async def told(self, id: str, *states: RolloutState, within: float = 40 * 86_400.0) -> Rollout:
        """Wait until the rollout is in one of some states."""
        with trio.fail_after(within):
            async with self.hub.bus.subscribe(events_topic("alice")) as messages:
                while (rollout := await self.hub.rollouts.get("alice", id)).state not in states:
                    while b'"rollout.' not in await anext(messages):
                        pass
        return rollout

    async def decide(self, action: str, id: str) -> Rollout:
        """Let a person decide: by the name of a verb, or to forgive all failures."""
        rollouts = self.hub.rollouts
        if action == "forgive":
            present = await rollouts.get("alice", id)
            return await rollouts.resume(
                "alice", id, forgive=to_forgive(present, await rollouts.counts("alice", present))
            )
        return await getattr(rollouts, action)("alice", id)

    async def outcomes(self, id: str) -> dict[str, Any]:
        """The members that have had their turn, by device."""
        return {member.device: member async for member in self.hub.rollouts.begun_members("alice", id)}

    async def names(self, prefix: str = "rollout.") -> list[str]:
        """The notifications of that kind."""
        frames = await self.hub.feed.query("alice", LogQuery(name=f"{prefix}*", limit=1000))
        return [_json.decode(frame)["name"] for frame in frames]

    def with_image(self) -> list[str]:
        """The devices that have ever taken the image."""
        return [device.id for device in self.devices.values() if device.has_had_it]


@asynccontextmanager
async def open_fleet(*capabilities: str) -> AsyncIterator[Fleet]:
    """A node without devices, on a store with these capabilities besides its own."""
    async with open_backend("memory://") as memory, trio.open_nursery() as nursery:
        backend = attrs.evolve(memory, capabilities=memory.capabilities | {*capabilities})
        documents = Mortal(backend.documents)
        wall = WallClock()
        hub = make_hub(attrs.evolve(backend, documents=documents), wall)
        fleet = Fleet(hub, backend, documents, nursery, wall)
        await hub.accounts.register("alice", "hash", admin=True)
        await fleet.start()
        yield fleet
        for device in fleet.devices.values():
            device.go()
        nursery.cancel_scope.cancel()


@pytest.fixture
async def fleet(autojump_clock: trio.testing.MockClock) -> AsyncIterator[Fleet]:
    """A node without devices, in virtual time."""
    async with open_fleet() as opened:
        yield opened


# Hundreds of devices


@pytest.mark.parametrize("fate", ["dead", "reverts", "refused"])
async def test_a_bad_image_stops_by_itself(fleet, autojump_clock, fate):
    """Of five hundred devices, less than 2 % have ever had it, when the rollout waits for a person."""
    await fleet.add(500, fate=fate)
    await fleet.connected()
    rollout = await fleet.roll_out()
    paused = await fleet.told(rollout.id, RolloutState.PAUSED)
    assert "failed: more than 10 %, the error threshold" in paused.reason
    await trio.sleep(3600)
    began = [device.id for device in fleet.devices.values() if device.began]
    assert 5 <= len(began) < 10
    assert set(began) <= set(ordered("alice", fleet.devices)[:10]), "the same devices are always first"
    assert fleet.with_image() == ([] if fate == "refused" else began)
    assert await fleet.names() == ["rollout.RUNNING", "rollout.PAUSED"] or "rollout.progress" in await fleet.names()
    aborted = await fleet.hub.rollouts.abort("alice", rollout.id)
    assert aborted.state is RolloutState.ABORTING
    assert (await fleet.told(rollout.id, RolloutState.ABORTED)).reason == "aborted on request"


async def test_a_good_image_reaches_every_device(fleet, autojump_clock):
    """All run it, committed; phase after phase, at the rate; the image is not kept any longer."""
    devices = await fleet.add(200)
    await fleet.connected()
    rollout = await fleet.roll_out(rate=600, max_active=200)
    done = await fleet.told(rollout.id, RolloutState.COMPLETED)
    assert done.reason == "200 of 200 devices succeeded, 0 failed"
    assert {(device.runs, device.committed, len(device.began)) for device in devices} == {(NEW, True, 1)}
    first, second, last = (
        [fleet.devices[id].began[0] for id in ordered("alice", fleet.devices)[start:end]]
        for start, end in ((0, 2), (2, 20), (20, 200))
    )
    assert max(first) < min(second)
    assert max(second) < min(last)
    assert max(last) - min(last) >= 16, "600 a minute"
    await trio.testing.wait_all_tasks_blocked()
    assert await fleet.hub.blobs.size(blob_key("alice", rollout.id)) is None
    names = [name for name in await fleet.names() if name != "rollout.progress"]
    assert names == ["rollout.RUNNING", "rollout.phase", "rollout.phase", "rollout.COMPLETED"]


# Processes


@pytest.mark.parametrize("writes", range(1, 50))
async def test_any_process_can_go_on(fleet, autojump_clock, writes):
    """Killed at any write, and taken up by another: all end well, no device begins more often than it was cut off."""
    devices = await fleet.add(2)
    await fleet.connected()
    rollout = await fleet.roll_out(phases=[50, 100], max_active=1)
    fleet.documents.writes = writes
    with trio.move_on_after(600):
        await fleet.documents.dying.wait()
    await fleet.crash()
    done = await fleet.told(rollout.id, RolloutState.COMPLETED)
    assert done.reason == "2 of 2 devices succeeded, 0 failed"
    assert {(device.runs, device.committed) for device in devices} == {(NEW, True)}
    assert all(len(device.began) <= 2 for device in devices)
    assert {each.outcome for each in (await fleet.outcomes(rollout.id)).values()} == {Outcome.SUCCEEDED}


async def test_two_processes_at_the_same_time_do_no_harm(fleet, autojump_clock):
    """Both drive the same rollout: each device begins once, each phase after the one before."""
    devices = await fleet.add(60)
    await fleet.connected()
    first, second = (
        fleet.node.rollouts.on_notification,
        RolloutSupervisor(fleet.hub, fleet.node.update_supervisor, fleet.node.background),
    )
    fleet.node.rollouts.on_notification = lambda *told: (first(*told), second.on_notification(*told))
    fleet.node.background.spawn(second.run)
    rollout = await fleet.roll_out(phases=[10, 100], rate=600, max_active=20)
    await fleet.told(rollout.id, RolloutState.COMPLETED)
    assert {(device.runs, len(device.began)) for device in devices} == {(NEW, 1)}
    order = [fleet.devices[id].began[0] for id in ordered("alice", fleet.devices)]
    assert max(order[:6]) < min(order[6:])
    names = [name for name in await fleet.names() if name != "rollout.progress"]
    assert names == ["rollout.RUNNING", "rollout.phase", "rollout.COMPLETED"]


class Running:
    """The devices whose update is running, as all processes store it."""

    def __init__(self, *hubs: Hub) -> None:
        self.now: set[str] = set()
        self.most = 0
        for hub in hubs:
            hub.updates.on_change.append(self.changed)

    def changed(self, key: DeviceKey, update: ota.Update) -> None:
        if update.ended:
            self.now.discard(key.id)
        else:
            self.now.add(key.id)
        self.most = max(self.most, len(self.now))


@asynccontextmanager
async def open_other(fleet: Fleet) -> AsyncIterator[Node]:
    """Another process on the same store."""
    hub = make_hub(attrs.evolve(fleet.backend, documents=Mortal(fleet.documents.inner)))
    async with open_node(hub, settings=SETTINGS) as node:
        yield node


async def test_one_node_drives_a_rollout_for_all(autojump_clock):
    """Devices of both nodes begin, each once, phase after phase; never more at the same time than `max_active`."""
    async with open_fleet(SHARED) as fleet, open_other(fleet) as home:
        running = Running(fleet.hub, home.hub)
        devices = [*await fleet.add(20), *await fleet.add(20, home=home)]
        await trio.testing.wait_all_tasks_blocked()
        assert [len(fleet.node.devices), len(home.devices)] == [20, 20]
        rollout = await fleet.roll_out(phases=[10, 100], rate=None, max_active=7)
        done = await fleet.told(rollout.id, RolloutState.COMPLETED)
        assert done.driver == fleet.node.id
        assert done.reason == "40 of 40 devices succeeded, 0 failed"
        assert {(device.runs, len(device.began)) for device in devices} == {(NEW, 1)}
        assert running.most == 7
        order = [fleet.devices[id].began[0] for id in ordered("alice", fleet.devices)]
        assert max(order[:4]) < min(order[4:])
        names = [name for name in await fleet.names() if name != "rollout.progress"]
        assert names == ["rollout.RUNNING", "rollout.phase", "rollout.COMPLETED"]
        await trio.testing.wait_all_tasks_blocked()
        assert (len(fleet.node.update_supervisor), len(home.update_supervisor)) == (0, 0)


@pytest.mark.parametrize("writes", [*range(1, 20, 3), *range(20, 120, 10)])
async def test_a_rollout_of_a_dead_node_is_taken_over(autojump_clock, writes):
    """Killed at any write, while its devices are those of another node: within 20 s that one goes on, and never with
    more devices than `max_active`, however many the dead one had begun.
    """
    async with open_fleet(SHARED) as fleet, open_other(fleet) as home:
        running = Running(fleet.hub, home.hub)
        devices = await fleet.add(10, home=home)
        await trio.testing.wait_all_tasks_blocked()
        rollout = await fleet.roll_out(phases=[100], rate=None, max_active=3)
        fleet.documents.writes = writes
        with trio.move_on_after(30):
            await fleet.documents.dying.wait()
        await fleet.die()
        await trio.sleep(20)
        assert (await home.hub.rollouts.get("alice", rollout.id)).driver == home.id
        fleet.hub, fleet.node = home.hub, home
        done = await fleet.told(rollout.id, RolloutState.COMPLETED)
        assert done.reason == "10 of 10 devices succeeded, 0 failed"
        assert {(device.runs, len(device.began)) for device in devices} == {(NEW, 1)}
        assert running.most == 3


async def test_a_node_that_was_taken_for_dead_decides_nothing_more(autojump_clock):
    """It goes on when another one drives its rollout already: its next write is refused, and it lets go."""
    async with open_fleet(SHARED) as fleet, open_other(fleet) as home:
        running = Running(fleet.hub, home.hub)
        devices = await fleet.add(10, home=home)
        await trio.testing.wait_all_tasks_blocked()
        rollout = await fleet.roll_out(phases=[100], rate=None, max_active=3)
        await trio.sleep(1)
        leases = home.rollouts._leases

        async def alive() -> set[str]:
            return {home.id}

        home.rollouts._leases = attrs.evolve(leases, alive=alive)
        home.rollouts.take_over()
        done = await fleet.told(rollout.id, RolloutState.COMPLETED)
        assert (done.driver, done.reason) == (home.id, "10 of 10 devices succeeded, 0 failed")
        assert {(device.runs, len(device.began)) for device in devices} == {(NEW, 1)}
        assert running.most == 3
        assert fleet.node.rollouts._driven == {}


async def test_a_node_that_goes_down_leaves_its_rollouts_to_others(autojump_clock):
    """One of them takes them over immediately."""
    async with open_fleet(SHARED) as fleet, open_other(fleet) as home:
        await fleet.add(3, home=home, online=False)
        await trio.testing.wait_all_tasks_blocked()
        rollout = await fleet.roll_out(phases=[100])
        await trio.testing.wait_all_tasks_blocked()
        assert (await home.hub.rollouts.get("alice", rollout.id)).driver == fleet.node.id
        fleet._scope.cancel()
        await fleet._down.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert (await home.hub.rollouts.get("alice", rollout.id)).driver == home.id


async def test_what_the_bus_loses_is_found(fleet, autojump_clock):
    """Messages come at most once: without any, a rollout goes on all the same, a little later."""

    async def lose(topic: str, message: bytes) -> None:
        await trio.lowlevel.checkpoint()

    await fleet.add(3)
    await fleet.connected()
    fleet.backend.bus.publish = lose
    rollout = await fleet.roll_out(phases=[100])
    await trio.sleep(600)
    done = await fleet.hub.rollouts.get("alice", rollout.id)
    assert (done.state, done.reason) == (RolloutState.COMPLETED, "3 of 3 devices succeeded, 0 failed")


async def test_a_failing_store_delays(fleet, autojump_clock):
    """What could not be stored is done when the store is back."""
    await fleet.add(3)
    await fleet.connected()
    rollout = await fleet.roll_out(phases=[100])
    await trio.sleep(5)
    fleet.documents.alive = False
    await trio.sleep(20)
    fleet.documents.alive = True
    assert (await fleet.told(rollout.id, RolloutState.COMPLETED)).reason == "3 of 3 devices succeeded, 0 failed"


async def damaged(fleet, rollout, collection):
    """Damage one document of a rollout."""
    key, *_ = [document.key async for document in fleet.documents.scan(collection, f"alice/{rollout.id}")]
    await fleet.backend.documents.put(collection, key, b'"not what it was"')


@pytest.mark.parametrize("collection", ["rollouts", "rollout_rosters", "rollout_members"])
async def test_a_damaged_rollout_holds_up_no_other(fleet, autojump_clock, collection):
    """After a restart, all others are taken up and go on."""
    await fleet.add(1)
    away = await fleet.add(5, online=False)
    await fleet.connected()
    bad = await fleet.roll_out(devices=["d0", "d1"], phases=[100])
    good = [await fleet.roll_out(devices=[device.id], phases=[100]) for device in away[1:]]
    await trio.sleep(120)
    await damaged(fleet, bad, collection)
    await fleet.crash()
    for device in away[1:]:
        device.online = True
        fleet.nursery.start_soon(device.live, fleet)
    for rollout in good:
        await fleet.told(rollout.id, RolloutState.COMPLETED, within=600)


async def test_a_clock_that_is_set_back(fleet, autojump_clock):
    """No step waits until the clock has reached its former time again."""
    devices = await fleet.add(3)
    await fleet.connected()
    rollout = await fleet.roll_out(phases=[100], rate=1)
    await trio.sleep(55)
    fleet.wall.ahead = -86_400.0
    await fleet.told(rollout.id, RolloutState.COMPLETED, within=600)
    assert {device.runs for device in devices} == {NEW}


# People


async def test_approval(fleet, autojump_clock):
    """Nothing begins before the approval, which is asked for once."""
    devices = await fleet.add(3)
    await fleet.connected()
    rollout = await fleet.roll_out(approval=True, phases=[100])
    await trio.sleep(3600)
    assert not any(device.began for device in devices)
    assert await fleet.names() == ["rollout.AWAITING_APPROVAL"]
    await fleet.hub.rollouts.approve("alice", rollout.id)
    with pytest.raises(Conflict, match="is RUNNING, it cannot be approved"):
        await fleet.hub.rollouts.approve("alice", rollout.id)
    await fleet.told(rollout.id, RolloutState.COMPLETED)


async def test_a_rollout_without_approval_ends(fleet, autojump_clock):
    """At the deadline of the whole; the image goes too."""
    await fleet.add(1)
    rollout = await fleet.roll_out(approval=True, timeout=3600)
    ended = await fleet.told(rollout.id, RolloutState.ABORTED, within=3700)
    assert ended.reason == "not done in time (3600 s); it was AWAITING_APPROVAL"
    await trio.testing.wait_all_tasks_blocked()
    assert await fleet.hub.blobs.size(blob_key("alice", rollout.id)) is None


async def test_pause_resume(fleet, autojump_clock):
    """During a pause the devices that have begun go on, and no other begins."""
    devices = await fleet.add(10)
    await fleet.connected()
    rollout = await fleet.roll_out(phases=[100], rate=6)
    await trio.sleep(15)
    await fleet.hub.rollouts.pause("alice", rollout.id)
    began = [device for device in devices if device.began]
    assert 1 <= len(began) <= 4
    await trio.sleep(3600)
    assert [device for device in devices if device.began] == began
    assert all(device.runs == NEW for device in began)
    await fleet.hub.rollouts.resume("alice", rollout.id)
    await fleet.told(rollout.id, RolloutState.COMPLETED)
    assert all(device.runs == NEW for device in devices)


async def test_retry(fleet, autojump_clock):
    """What has failed begins again, what has succeeded does not."""
    good = await fleet.add(5)
    bad = await fleet.add(5, fate="reverts")
    await fleet.connected()
    rollout = await fleet.roll_out(phases=[100])
    paused = await fleet.told(rollout.id, RolloutState.PAUSED)
    await trio.sleep(600)
    seen = await fleet.hub.rollouts.get("alice", paused.id)
    assert [(each.devices, each.reason.split(":")[0]) for each in seen.failures] == [(5, "ROLLED_BACK")]
    for device in bad:
        device.fate = "good"
    assert (await fleet.hub.rollouts.retry("alice", paused.id)).failures == ()
    done = await fleet.told(rollout.id, RolloutState.COMPLETED)
    assert (done.reason, done.round) == ("10 of 10 devices succeeded, 0 failed", 2)
    assert {len(device.began) for device in good} == {1}
    assert {len(device.began) for device in bad} == {2}


async def test_two_clicks_do_not_carry_failures_into_the_next_phase(fleet, autojump_clock):
    """A resume is refused in the devices' own words; forgiven by their number, the same phase pauses at its end."""
    await fleet.add(10, fate="refused")
    await fleet.connected()
    rollout = await fleet.roll_out(phases=[30, 100], min_sample=1, rate=1)
    begun = rollout.phase_started
    await fleet.told(rollout.id, RolloutState.PAUSED)
    for forgive in (None, 2):
        with pytest.raises(Conflict, match=r"1 failures are|1 times '"):
            await fleet.hub.rollouts.resume("alice", rollout.id, forgive=forgive)
    for _ in range(3):
        assert len(fleet.devices) - len(await fleet.outcomes(rollout.id)) >= 7, "the second phase has not begun"
        await fleet.decide("forgive", rollout.id)
        present = await fleet.told(rollout.id, RolloutState.PAUSED)
    assert (present.cause, present.phase, present.phase_started) == (Cause.SUCCESS, 0, begun)
    with pytest.raises(Conflict, match="forgive the 3 failures"):
        await fleet.hub.rollouts.resume("alice", rollout.id)
    accepted = await fleet.decide("forgive", rollout.id)
    present = await fleet.told(rollout.id, RolloutState.PAUSED)
    assert (accepted.accepted, present.phase, present.phase_started[0]) == (1, 1, begun[0])


async def test_abort(fleet, autojump_clock):
    """What can be taken back is, the rest ends by itself, and then the whole has ended."""
    await fleet.add(10)
    await fleet.connected()
    rollout = await fleet.roll_out(phases=[100], rate=30)
    await trio.sleep(9)
    await fleet.hub.rollouts.abort("alice", rollout.id)
    with pytest.raises(Conflict, match="abort it first"):
        await fleet.hub.rollouts.remove("alice", rollout.id)
    await fleet.told(rollout.id, RolloutState.ABORTED)
    counts = await fleet.hub.rollouts.counts("alice", await fleet.hub.rollouts.get("alice", rollout.id))
    assert counts[0].updating == 0
    assert counts[0].succeeded == len(fleet.with_image()) > 0
    assert counts[0].pending > 0
    await fleet.hub.rollouts.remove("alice", rollout.id)
    assert not [key async for key, _ in fleet.hub.rollouts.members.scan()]
    assert not [key async for key, _ in fleet.hub.rollouts.rosters.scan()]
    with pytest.raises(NotFound):
        await fleet.hub.rollouts.get("alice", rollout.id)


# Devices that are not there


async def test_an_offline_device_is_waited_for(fleet, autojump_clock):
    """It begins when it comes online."""
    await fleet.add(2)
    (late,) = await fleet.add(1, online=False)
    rollout = await fleet.roll_out(phases=[100])
    await trio.sleep(7200)
    assert (await fleet.hub.rollouts.get("alice", rollout.id)).state is RolloutState.RUNNING
    late.online = True
    fleet.nursery.start_soon(late.live, fleet)
    assert (
        await fleet.told(rollout.id, RolloutState.COMPLETED, within=600)
    ).reason == "3 of 3 devices succeeded, 0 failed"


@pytest.mark.parametrize("wait", [0, 3600])
async def test_a_device_that_does_not_come_is_skipped(fleet, autojump_clock, wait):
    """Immediately, or after the time to wait; and it does not begin when it comes later."""
    await fleet.add(2)
    (late,) = await fleet.add(1, online=False)
    await fleet.connected()
    rollout = await fleet.roll_out(phases=[100], offline_wait=wait)
    done = await fleet.told(rollout.id, RolloutState.COMPLETED, within=wait + 600)
    assert done.reason == "2 of 3 devices succeeded, 0 failed, 1 skipped"
    assert trio.current_time() >= wait
    skipped = (await fleet.outcomes(rollout.id))[late.id]
    assert (skipped.outcome, skipped.reason) == (Outcome.SKIPPED, "it did not come online in time")


async def test_a_phase_of_absent_devices_is_no_proof(fleet, autojump_clock):
    """All of the first phase skipped: a person has to say that it goes on."""
    devices = await fleet.add(10, online=False)
    first = ordered("alice", [device.id for device in devices])[0]
    for device in devices:
        if device.id != first:
            device.online = True
            fleet.nursery.start_soon(device.live, fleet)
    await fleet.connected()
    rollout = await fleet.roll_out(phases=[10, 100], offline_wait=0)
    paused = await fleet.told(rollout.id, RolloutState.PAUSED)
    assert paused.reason == "no device of phase 1 had the chance to take the image, 1 were skipped"
    await fleet.hub.rollouts.resume("alice", rollout.id)
    assert (await fleet.told(rollout.id, RolloutState.COMPLETED)).counts[1].succeeded == 9


async def test_removed_devices_are_skipped(fleet, autojump_clock):
    """Before their turn and after; the rollout does not wait for them."""
    devices = await fleet.add(3)
    (late,) = await fleet.add(1, online=False)
    await fleet.connected()
    rollout = await fleet.roll_out(phases=[100])
    await trio.sleep(5)
    (begun, *_) = [device for device in devices if device.began]
    begun.online = False
    for device in (begun, late):
        await fleet.hub.remove_device(DeviceKey("alice", device.id))
    done = await fleet.told(rollout.id, RolloutState.COMPLETED, within=600)
    assert done.reason == "2 of 4 devices succeeded, 0 failed, 2 skipped"
    outcomes = await fleet.outcomes(rollout.id)
    assert {outcomes[device.id].reason for device in (begun, late)} == {"the device was removed"}


async def test_a_device_that_is_removed_while_it_is_connected(fleet, autojump_clock):
    """Before its turn: the rollout does not wait a week for it to come back."""
    devices = await fleet.add(3)
    await fleet.connected()
    rollout = await fleet.roll_out(phases=[100], rate=1)
    await trio.sleep(5)
    waiting = next(device for device in devices if not device.began)
    waiting.online = False
    await fleet.hub.remove_device(DeviceKey("alice", waiting.id))
    done = await fleet.told(rollout.id, RolloutState.COMPLETED, within=600)
    assert done.reason == "2 of 3 devices succeeded, 0 failed, 1 skipped"
    assert (await fleet.outcomes(rollout.id))[waiting.id].reason == "the device was removed"


async def test_a_device_that_is_busy_has_its_turn_later(fleet, autojump_clock):
    """Its present update is not disturbed; no other device waits for it."""
    devices = await fleet.add(2)
    await fleet.connected()
    busy = devices[0]
    await fleet.hub.blobs.put(blob_key("alice", "own"), pieces(BYTES))
    await fleet.node.update_supervisor.start(DeviceKey("alice", busy.id), "own", IMAGE, ota.Options())
    rollout = await fleet.roll_out(phases=[100])
    await trio.sleep(120)
    outcomes = await fleet.outcomes(rollout.id)
    assert outcomes.get(busy.id) is None or outcomes[busy.id].outcome is Outcome.PENDING
    assert outcomes[devices[1].id].outcome is Outcome.SUCCEEDED
    assert (await fleet.told(rollout.id, RolloutState.COMPLETED)).reason == "2 of 2 devices succeeded, 0 failed"


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def test_a_maintenance_window(fleet, autojump_clock):
    """Outside of it no device begins; EPOCH is 22:13:20 in UTC."""
    devices = await fleet.add(3)
    await fleet.connected()
    rollout = await fleet.roll_out(phases=[100], window={"start": "02:00", "end": "03:00"})
    await fleet.told(rollout.id, RolloutState.COMPLETED)
    opens = (26 * 60 - 22 * 60 - 13) * 60 - 20
    assert all(opens <= device.began[0] < opens + 60 for device in devices)


# Accounts, and what is left behind


async def test_the_rollouts_of_a_removed_account(fleet, autojump_clock):
    """Go with it: nothing of them is left, and nothing is begun any more."""
    await fleet.hub.accounts.register("root", "hash", admin=True)
    devices = await fleet.add(5)
    await fleet.connected()
    await fleet.roll_out(phases=[100], rate=6)
    await trio.sleep(1)
    await fleet.hub.remove_account("alice")
    for device in devices:
        device.online = False
    began = sum(len(device.began) for device in devices)
    await trio.sleep(2 * ORPHAN_INTERVAL)
    assert sum(len(device.began) for device in devices) == began
    assert not [key async for key in fleet.hub.blobs.scan()]
    for records in (fleet.hub.rollouts.records, fleet.hub.rollouts.rosters):
        assert not [key async for key, _ in records.scan()]


async def test_what_a_killed_process_has_left_is_removed(fleet, autojump_clock):
    """An image without its rollout, an hour later; images of rollouts that go on stay."""
    await fleet.add(1, online=False)
    kept = await fleet.roll_out()
    await fleet.hub.blobs.put(blob_key("alice", "rol_lost"), pieces(BYTES))
    await fleet.crash()
    await trio.sleep(ORPHAN_INTERVAL / 2)
    assert len([key async for key in fleet.hub.blobs.scan()]) == 2
    await trio.sleep(ORPHAN_INTERVAL)
    assert [key async for key in fleet.hub.blobs.scan()] == [blob_key("alice", kept.id)]


@settings(max_examples=settings().max_examples // 2)  # each takes as long as ten of others
@given(
    fates=st.lists(st.sampled_from(["good", "dead", "reverts", "refused", "away"]), min_size=1, max_size=6),
    actions=st.lists(
        st.tuples(
            st.floats(0, 900),
            st.sampled_from(["approve", "pause", "resume", "forgive", "retry", "abort", "crash", "remove"]),
        ),
        max_size=6,
    ),
    asked=st.fixed_dictionaries(
        {
            "phases": st.sampled_from([[100], [10, 100], [1, 50, 100]]),
            "error_percent": st.sampled_from([0, 50, 100]),
            "min_sample": st.integers(1, 3),
            "rate": st.sampled_from([None, 1, 60]),
            "max_active": st.integers(1, 4),
            "offline_wait": st.sampled_from([0, 300, 86_400]),
            "approval": st.booleans(),
        }
    ),
)
def test_it_always_ends(fates, actions, asked):
    """Whatever the devices do, whatever people want and whenever the process dies: with a reason, and without a lie."""

    async def scenario() -> None:
        async with open_fleet() as fleet:
            for fate in fates:
                await fleet.add(1, fate=fate, online=fate != "away")
            rollout = await fleet.roll_out(timeout=7200, **asked)
            for pause, action in actions:
                await trio.sleep(pause)
                if action == "crash":
                    await fleet.crash()
                elif action == "remove":
                    if "d0" in [device.id for device in await fleet.hub.registry.of("alice")]:
                        fleet.devices["d0"].online = False
                        await fleet.hub.remove_device(DeviceKey("alice", "d0"))
                else:
                    try:
                        await fleet.decide(action, rollout.id)
                    except Conflict:
                        pass
            ended = await fleet.told(rollout.id, RolloutState.COMPLETED, RolloutState.ABORTED, within=86_400 + 7200)
            assert ended.reason
            outcomes = await fleet.outcomes(rollout.id)
            for id, device in fleet.devices.items():
                has_it = device.runs == NEW and device.committed
                said = id in outcomes and ended.outcome(outcomes[id]) is Outcome.SUCCEEDED
                assert not said or has_it
            total = sum(attrs.astuple(each)[2] for each in ended.counts)
            assert total == sum(ended.outcome(each) is Outcome.SUCCEEDED for each in outcomes.values())

    trio.run(scenario, clock=trio.testing.MockClock(autojump_threshold=0))


STEPS = st.one_of(st.floats(-60 * YEAR, 60 * YEAR), st.sampled_from([-3600.0, -5.0, 5.0, 3600.0]))


@settings(max_examples=settings().max_examples // 4)  # each is played twice, and takes as long as twenty of others
@given(
    fates=st.lists(st.sampled_from(["good", "dead", "reverts", "refused", "away"]), min_size=1, max_size=4),
    actions=st.lists(
        st.tuples(
            STEPS, st.floats(0, 400), st.sampled_from(["nothing", "pause", "resume", "forgive", "retry", "crash"])
        ),
        max_size=5,
    ),
    asked=st.fixed_dictionaries(
        {
            "phases": st.sampled_from([[100], [10, 100]]),
            "error_percent": st.sampled_from([0, 50, 100]),
            "rate": st.sampled_from([None, 1, 20]),
            "max_active": st.integers(1, 3),
            "offline_wait": st.sampled_from([0, 300]),
        }
    ),
)
def test_a_wall_clock_that_is_set_changes_nothing(fates, actions, asked):
    """Devices begin in the same seconds as where the clock was never set, and everything comes to the same; also where
    the process dies, if it had the time to notice. Which of two devices goes first whose turns come in the same moment
    is left to the scheduler.
    """

    async def scenario(factor: float, seen: list[Any]) -> None:
        async with open_fleet() as fleet:
            for fate in fates:
                await fleet.add(1, fate=fate, online=fate != "away")
            await fleet.connected()
            start = trio.current_time()
            rollout = await fleet.roll_out(timeout=7200, **asked)
            for step, pause, action in actions:
                fleet.wall.ahead += factor * step
                await trio.sleep(CLOCK_INTERVAL + 1.5 + pause)
                if action == "crash":
                    await fleet.crash()
                    await trio.sleep(1.5)  # until it has read its records: a clock set before that is never noticed
                elif action != "nothing":
                    try:
                        await fleet.decide(action, rollout.id)
                    except Conflict:
                        pass
            ended = await fleet.told(rollout.id, RolloutState.COMPLETED, RolloutState.ABORTED, within=86_400 + 7200)
            outcomes = {id: each.outcome for id, each in (await fleet.outcomes(rollout.id)).items()}
            began = {id: device.began for id, device in fleet.devices.items()}
            seen += [ended.state, ended.counts, outcomes]
            seen.append(sorted(time - start for times in began.values() for time in times))

    runs: list[list[Any]] = [[], []]
    for factor, seen in enumerate(runs):
        trio.run(scenario, factor, seen, clock=trio.testing.MockClock(autojump_threshold=0))
    (*expected, times), (*found, exact) = runs
    assert found == expected
    assert exact == pytest.approx(times, abs=5.0)
