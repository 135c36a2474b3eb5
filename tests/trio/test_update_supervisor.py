"""Updates as nodes drive them, of virtual devices, in virtual time; also of several nodes that share a store."""

from __future__ import annotations

import base64
import io
import os
import random
from contextlib import asynccontextmanager, contextmanager

import attrs
import pytest
import trio
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st

from mdash_backends.memory import MemoryBlobs, MemoryBus, MemoryDocuments, MemoryLogs
from mdashcore import _json, firmware, ota
from mdashcore._errors import CallTimeout, Conflict, DeviceOffline, NotFound, RpcError, StorageError
from mdashcore.hub import Hub, LogQuery
from mdashcore.hub.device_session import DeviceSession
from mdashcore.hub.feed import Feed, events_topic
from mdashcore.hub.leases import Leases
from mdashcore.hub.updates.store import blob_key
from mdashcore.identity import DeviceKey
from mdashcore.notifications import decode
from mdashcore.ota import Options, UpdateState
from mdashcore.storage import Backend
from mdashcore.trio.background import Background
from mdashcore.trio.drivers.update_supervisor import UpdateSupervisor
from mdashcore.virtual_device import CHARACTERS, FirmwareBuild, VirtualDevice, join

EPOCH = 1_700_000_000.0
OLD, NEW = "20180501-000000/old", "20180601-120000/new"
KEY = DeviceKey("alice", "d1")
DAY = 86_400.0


class Documents(MemoryDocuments):
    """Documents of which the updates can be away, or the answer to a write that was made be lost."""

    losing = False
    away = False

    async def get(self, collection, key):
        self.check(collection)
        return await super().get(collection, key)

    def check(self, collection):
        if self.away and collection == "updates":
            raise StorageError("connection refused")

    async def put(self, collection, key, body, *, expected=None):
        self.check(collection)
        version = await super().put(collection, key, body, expected=expected)
        if self.losing and collection == "updates":
            self.losing = False
            raise StorageError("the connection broke")
        return version


class Bus(MemoryBus):
    """A bus that can lose messages."""

    losing = False

    async def publish(self, topic, message):
        if not self.losing:
            await super().publish(topic, message)


def zip_of(size=5000, **fields):
    """A firmware zip, and what the reader says of it."""
    file = io.BytesIO()
    manifest = {"name": "ccm", "platform": "esp32", "version": "2.0", "build_id": NEW} | fields
    firmware.write_image(file, manifest, {"app": random.Random(size).randbytes(size)})
    return file.getvalue(), firmware.read_image(file, name="fw.zip")


@attrs.define(eq=False)
class Lamp:
    """A virtual device with a link to one node at most. What it is called is kept; it can be deaf to a method."""

    folder: object
    device: VirtualDevice
    node: object = None
    calls: list = attrs.Factory(list)
    deaf: set = attrs.Factory(set)
    called: trio.Event = attrs.Factory(trio.Event)
    scope: trio.CancelScope = attrs.Factory(trio.CancelScope)

    async def handle(self, method, params):
        self.calls.append(method)
        self.called.set()
        if method in self.deaf:
            await trio.sleep_forever()
        return await self.device.handle(method, params)

    def count(self, method):
        return self.calls.count(method)

    async def chunks(self, count):
        """Wait until it was sent so many."""
        while self.count("OTA.Write") < count:
            self.called = trio.Event()
            await self.called.wait()

    async def run(self):
        """Live; after a reboot it comes back to its node in a second."""

        async def notify(method, params):
            if self.node is None:
                raise DeviceOffline("no link")
            await self.node.hear(method, params)

        async def reboot():
            node = self.node
            if node is not None:
                await self.leave()
                await trio.sleep(1)
                if self.node is None and not node.dead:
                    await self.join(node)

        await self.device.run(notify, reboot)

    async def join(self, node):
        """Connect, and say what it runs."""
        self.node, node.lamp = node, self
        node.session, _ = await node.hub.presence.claim(KEY, node.name)
        await node.update_supervisor.on_connected(KEY)
        for method, params in self.device.hello():
            await node.hear(method, params)

    async def leave(self):
        """Drop the link."""
        node, self.node = self.node, None
        node.lamp = None
        for call in node.calls:
            call.cancel()
        node.update_supervisor.on_disconnected(KEY)
        await node.hub.presence.release(KEY, node.session, 0.0)


class Ears:
    """Hears from the hub what concerns updates, and nothing else."""

    def __init__(self, updater):
        self.device_removed = lambda key, node: updater.forget(key)
        self.build_reported = lambda key, build: updater.on_event(key, ota.BuildReported(build))

    def __getattr__(self, name):
        return lambda *args: None


class Node:
    """What a node is to its updater: calls go to the lamp that is connected here, reports and news come in."""

    def __init__(self, name, site):
        self.name = name
        self.lamp = None
        self.calls = set()
        self.session = 0
        self.dead = False
        self.site = site
        self.followed = 0
        self.hub = Hub(
            site.backend, now=lambda: EPOCH + trio.current_time(), monotonic=trio.current_time, entropy=os.urandom
        )

    async def run(self, task_status):
        """Live until cancelled."""
        async with trio.open_nursery() as nursery, self.hub.bus.subscribe(events_topic(KEY.account)) as messages:
            self.update_supervisor = UpdateSupervisor(
                self.hub,
                self,
                Background(nursery),
                leases=Leases(self.name, self.site.alive),
                notify_node=lambda key, node: nursery.start_soon(self.tell, key, node),
                follow=self.follow,
            )
            self.hub.add_observer(Ears(self.update_supervisor))
            task_status.started()
            async for message in messages:
                note = decode(Feed.parse(message).frame)
                if self.followed and note["name"].startswith("ota."):
                    self.update_supervisor.on_notification(DeviceKey(KEY.account, note["id"]), note["name"])

    @contextmanager
    def follow(self, account):
        """As a cluster does: notifications come only while they are wanted."""
        self.followed += 1
        try:
            yield
        finally:
            self.followed -= 1

    async def tell(self, key, node):
        """As a cluster does: a message to a node, or to the one that holds the device. The bus may lose it."""
        node = node or (await self.hub.presence.get(key)).node
        other = self.site.nodes.get(node)
        if other not in (None, self) and not self.site.bus.losing:
            other.update_supervisor.on_changed(key)

    async def call(self, key, method, params=None, *, timeout=None):
        if self.lamp is None or key != KEY:
            raise DeviceOffline("not here")
        result = None
        with trio.CancelScope() as link, trio.move_on_after(timeout) as timer:
            self.calls.add(link)
            try:
                result = await self.lamp.handle(method, None if params is None else _json.decode(params))
            except RpcError:
                await trio.lowlevel.checkpoint()
                raise
            finally:
                self.calls.discard(link)
        if timer.cancelled_caught:
            raise CallTimeout(method)
        if link.cancelled_caught or self.lamp is None:
            raise DeviceOffline("gone")
        return _json.encode(result)

    async def hear(self, method, params):
        await DeviceSession(self.hub, KEY).notification(method, _json.encode(params))

    async def stands(self):
        return (await self.hub.updates.get(KEY)).state

    async def ends(self):
        """The update, when it has ended."""
        return await self.update_supervisor.wait(KEY, lambda update: False)

    async def comes_to(self, state):
        return await self.update_supervisor.wait(KEY, lambda update: update.state is state)


class Site:
    """A store, nodes on it, and a lamp."""

    def __init__(self, folder, nursery):
        self.documents, self.bus, self.blobs = Documents(), Bus(), MemoryBlobs()
        self.backend = Backend(self.documents, MemoryLogs(), self.blobs, self.bus)
        self.nursery = nursery
        self.folder = folder
        self.nodes = {}

    async def alive(self):
        """The nodes that have not ended."""
        await trio.lowlevel.checkpoint()
        return set(self.nodes)

    @asynccontextmanager
    async def node(self, name):
        async with trio.open_nursery() as nursery:
            node = Node(name, self)
            await nursery.start(node.run)
            self.nodes[name] = node
            try:
                yield node
            finally:
                del self.nodes[name]
            nursery.cancel_scope.cancel()

    async def lamp(self, **options):
        device = VirtualDevice("d1", self.folder, build=FirmwareBuild("ccm", "1.0", OLD, "esp32"), **options)
        lamp = Lamp(self.folder, device)
        self.nursery.start_soon(lamp.run)
        return lamp

    async def start(self, node, options=Options(), *, blob=None, **fields):
        """Put an image into the store, and have it installed."""
        data, image = zip_of(**fields)
        if not await node.hub.registry.of("alice"):
            await node.hub.registry.create(KEY.account, KEY.id)
        id = node.hub.updates.new_id()

        async def chunks():
            yield data

        await self.blobs.put(blob_key("alice", blob or id), chunks())
        return await node.update_supervisor.start(KEY, id, image, options, blob=blob)

    async def images(self):
        return [key async for key in self.blobs.scan()]

    async def told(self, node):
        """The states that were told, in their order."""
        frames = await node.hub.feed.query("alice", LogQuery(limit=1000, name="ota.*"))
        names = [decode(frame)["name"].removeprefix("ota.") for frame in frames]
        return [name for name in names if name != "progress"]


@pytest.fixture
async def site(tmp_path):
    async with trio.open_nursery() as nursery:
        yield Site(tmp_path, nursery)
        nursery.cancel_scope.cancel()


@pytest.fixture
async def here(site):
    """The first node."""
    async with site.node("here") as node:
        yield node


@pytest.fixture
async def there(site):
    """Another node."""
    async with site.node("there") as node:
        yield node


AUTO = Options(auto_commit=True, commit_after=20)
COURSE = ["QUEUED", "TRANSFERRING", "VERIFYING", "REBOOTING", "UNCOMMITTED", "COMMITTED"]


# One node


async def test_a_connected_device_is_updated_and_committed(autojump_clock, site, here):
    """By itself, through every state, each notified once; then the image is deleted."""
    lamp = await site.lamp()
    await lamp.join(here)
    changes = []
    here.hub.updates.on_change.append(lambda key, update: changes.append((key, update.state)))
    began = trio.current_time()
    queued = await site.start(here, AUTO)
    assert queued.state is UpdateState.QUEUED
    assert (await here.ends()).state is UpdateState.COMMITTED
    assert 20 < trio.current_time() - began < 60
    assert await site.told(here) == COURSE
    assert changes == [(KEY, state) for state in COURSE]
    assert (lamp.count("OTA.Begin"), lamp.count("OTA.Commit")) == (1, 1)
    assert (await lamp.device.handle("Sys.GetInfo", None))["fw_id"] == NEW
    assert await site.images() == []


async def test_a_device_that_does_not_answer_is_not_healthy(autojump_clock, site, here):
    """It is there, and deaf to Sys.GetInfo: not committed, and it rolls back."""
    lamp = await site.lamp()
    await lamp.join(here)
    lamp.deaf.add("Sys.GetInfo")
    await site.start(here, attrs.evolve(AUTO, commit_timeout=120))
    update = await here.ends()
    assert (update.state, lamp.count("OTA.Commit")) == (UpdateState.ROLLED_BACK, 0)
    assert lamp.count("Sys.GetInfo") >= 2


async def test_an_offline_device_gets_its_update_when_it_comes(autojump_clock, site, here):
    """It begins when the device has said what it runs, and is that of the newest report."""
    await site.start(here, AUTO)
    await trio.sleep(3 * DAY)
    assert await here.stands() is UpdateState.QUEUED
    lamp = await site.lamp()
    await lamp.join(here)
    update = await here.ends()
    assert (update.state, update.previous_build.id) == (UpdateState.COMMITTED, OLD)
    assert update.started - update.created == pytest.approx(3 * DAY, abs=1)


@pytest.mark.parametrize("deaf", [False, True])
async def test_a_device_that_does_not_introduce_itself(autojump_clock, site, here, deaf):
    """Nothing is decided on an unknown build: it is asked before the first byte goes out. If it does not answer either,
    the transfer begins all the same."""
    await site.start(here)
    lamp = await site.lamp()
    lamp.device.hello = list
    lamp.deaf |= {"Sys.GetInfo", "OTA.Status"} if deaf else set()
    await lamp.join(here)
    update = await here.comes_to(UpdateState.TRANSFERRING)
    assert lamp.calls[:2] == ["Sys.GetInfo", "OTA.Status"]
    if deaf:
        assert (update.started - update.created, update.previous_build) == (pytest.approx(33), None)
    else:
        assert (update.started - update.created, update.previous_build.id) == (pytest.approx(3), OLD)


@pytest.mark.parametrize(
    ("fields", "state"), [({"platform": "esp8266"}, "REJECTED"), ({"build_id": OLD}, "ALREADY_INSTALLED")]
)
async def test_the_first_second(autojump_clock, site, here, fields, state):
    """An update that comes before the device has said what it runs waits for that: no byte goes out in vain. What the
    shadow still has from another build does not count."""
    lamp = await site.lamp()
    await lamp.join(here)
    await lamp.leave()
    stale = {"state": {"reported": {"ota": {"fw_id": "stale", "arch": fields.get("platform", "esp32")}}}}
    await here.hub.shadows.update(KEY, stale)
    hello, lamp.device.hello = lamp.device.hello, list
    await lamp.join(here)
    await site.start(here, **fields)
    await trio.sleep(1)
    assert await here.stands() is UpdateState.QUEUED
    for method, params in hello():
        await here.hear(method, params)
    assert (await here.ends()).state == state
    assert lamp.calls == []


async def test_no_device_comes(autojump_clock, site, here):
    """A week in the queue without the device: TIMED_OUT, said so, and the image goes."""
    await site.start(here)
    update = await here.ends()
    assert (update.state, trio.current_time()) == (UpdateState.TIMED_OUT, pytest.approx(7 * DAY, abs=5))
    assert await site.told(here) == ["QUEUED", "TIMED_OUT"]
    assert await site.images() == []


@pytest.mark.parametrize("method", ["OTA.Begin", "OTA.Write", "OTA.End"])
async def test_a_device_that_falls_silent(autojump_clock, site, here, method):
    """It ends, with what was waited for as the reason."""
    lamp = await site.lamp()
    await lamp.join(here)
    lamp.deaf.add(method)
    await site.start(here)
    update = await here.ends()
    assert (update.state, method in update.reason) == (UpdateState.TIMED_OUT, True)
    assert trio.current_time() < DAY


async def test_a_link_that_drops_costs_nothing(autojump_clock, site, here):
    """The transfer goes on at the offset: one OTA.Begin, and no chunk twice but those that were on their way."""
    lamp = await site.lamp()
    await lamp.join(here)
    data, _ = zip_of(20_000)
    lamp.deaf.add("OTA.Write")
    await site.start(here, AUTO, size=20_000)
    for _ in range(3):
        await trio.sleep(1)
        lamp.deaf.clear()
        chunks = lamp.count("OTA.Write") + 5
        await lamp.chunks(chunks)
        lamp.deaf.add("OTA.Write")
        await lamp.leave()
        await trio.sleep(60)
        await lamp.join(here)
    lamp.deaf.clear()
    await lamp.leave()
    await lamp.join(here)
    assert (await here.ends()).state is UpdateState.COMMITTED
    assert lamp.count("OTA.Begin") == 1
    assert lamp.count("OTA.Write") <= -(-len(data) // 1024) + 10


async def test_several_chunks_in_flight(autojump_clock, site, here):
    """So many at the same time and no more, and the image is right: its digests are checked by the device."""
    lamp = await site.lamp()
    await lamp.join(here)
    most, now = 0, 0
    handle = lamp.device.handle

    async def slow(method, params):
        nonlocal most, now
        now += method == "OTA.Write"
        most = max(most, now)
        try:
            if method == "OTA.Write":
                await trio.sleep(0.01 * (lamp.count(method)))
            return await handle(method, params)
        finally:
            now -= method == "OTA.Write"

    lamp.device.handle = slow
    await site.start(here, attrs.evolve(AUTO, chunks_in_flight=4, chunk_size=512), size=20_000)
    assert (await here.ends()).state is UpdateState.COMMITTED
    assert most == 4


@pytest.mark.parametrize("state", COURSE[1:5])
async def test_a_storage_that_is_away(autojump_clock, site, here, caplog, state):
    """In whatever state: the update waits, and goes on when the storage is back. The log says that it waits once, and
    once that it goes on."""
    lamp = await site.lamp()
    await lamp.join(here)

    gone = trio.Event()

    def go_away(key, update):
        if update.state == state:
            site.documents.away = True
            gone.set()

    here.hub.updates.on_change.append(go_away)
    await site.start(here, AUTO)
    await gone.wait()
    await trio.sleep(60)
    assert len([line for line in caplog.messages if "waiting until it works" in line]) == 1
    site.documents.away, back = False, trio.current_time()
    assert (await here.ends()).state is UpdateState.COMMITTED
    assert trio.current_time() - back < 60
    lines = [line for line in caplog.messages if line.startswith("the storage")]
    assert [line.partition(" after")[0] for line in lines] == [
        "the storage failed, waiting until it works: connection refused",
        "the storage works again",
    ]
    assert await site.told(here) == COURSE


async def test_an_image_that_the_store_has_lost(autojump_clock, site, here):
    """The update fails, and says why."""
    await site.start(here)
    for key in await site.images():
        await site.blobs.delete(key)
    lamp = await site.lamp()
    await lamp.join(here)
    update = await here.ends()
    assert (update.state, "not in the store any more" in update.reason) == (UpdateState.FAILED, True)


@pytest.mark.parametrize("chunks", [0, 10])
async def test_an_image_that_the_store_has_a_part_of(autojump_clock, site, here, chunks):
    """The update fails and says how much is left, before the transfer or in its middle: the device is sent no chunk
    of another size than announced, and not told that this was all."""
    lamp = await site.lamp()
    handle, sizes = lamp.device.handle, []

    async def keep_sizes(method, params):
        if method == "OTA.Write":
            sizes.append(len(base64.b64decode(params["data"])))
        return await handle(method, params)

    lamp.device.handle = keep_sizes
    update = await site.start(here, size=200_000)
    if chunks:
        await lamp.join(here)
        await lamp.chunks(chunks)

    async def part():
        yield zip_of(200_000)[0][:100_000]

    await site.blobs.put(blob_key("alice", update.id), part())
    if not chunks:
        await lamp.join(here)
    update = await here.ends()
    assert update.state is UpdateState.FAILED
    assert f"the image in the store is damaged: 100000 bytes instead of {update.image.size}" in update.reason
    assert (lamp.count("OTA.Begin") > 0, lamp.count("OTA.End")) == (chunks > 0, 0)
    assert set(sizes) <= {1024}
    assert (len(sizes) > chunks) is (chunks > 0)


async def test_a_shared_image_stays(autojump_clock, site, here):
    """The rollout that shares it deletes it, not the update's end."""
    lamp = await site.lamp()
    await lamp.join(here)
    await site.start(here, AUTO, blob="rollout_1")
    assert (await here.ends()).state is UpdateState.COMMITTED
    assert await site.images() == [blob_key("alice", "rollout_1")]


async def test_a_write_whose_answer_was_lost_is_no_conflict(autojump_clock, site, here):
    """The store had taken it: nothing is told twice or left out, at any point of the course."""
    lamp = await site.lamp()
    await lamp.join(here)

    def lose(*args):
        site.documents.losing = True

    await site.start(here, AUTO)
    here.hub.updates.on_change.append(lose)
    assert (await here.ends()).state is UpdateState.COMMITTED
    assert await site.told(here) == COURSE


async def test_cancel(autojump_clock, site, here):
    """In the queue and in the transfer; then no call is made any more. After OTA.End it is refused."""
    with pytest.raises(NotFound):
        await here.update_supervisor.cancel(KEY)
    await site.start(here)
    assert (await here.update_supervisor.cancel(KEY)).reason == "canceled in the queue"
    assert await site.images() == []
    lamp = await site.lamp()
    await lamp.join(here)
    lamp.deaf.add("OTA.Write")
    await site.start(here)
    await trio.sleep(1)
    assert (await here.update_supervisor.cancel(KEY)).state is UpdateState.CANCELED
    calls = len(lamp.calls)
    await trio.sleep(2000)
    assert len(lamp.calls) == calls
    lamp.deaf = {"OTA.End"}
    await site.start(here)
    for state in (UpdateState.VERIFYING, UpdateState.REBOOTING, UpdateState.UNCOMMITTED):
        await here.comes_to(state)
        with pytest.raises(Conflict, match=r"taken back|OTA\.Revert"):
            await here.update_supervisor.cancel(KEY)
        if state is UpdateState.VERIFYING:
            await lamp.device.handle("OTA.End", None)  # heard, and the answer is lost


async def test_a_newer_update_takes_the_place_of_a_queued_one(autojump_clock, site, here):
    """Told, its image freed, and remembered; one that is being performed is not disturbed."""
    first = await site.start(here)
    waited = []

    async def wait():
        with pytest.raises(Conflict, match="taken the place"):
            await here.update_supervisor.wait(KEY, lambda update: False, id=first.id)
        waited.append(True)

    site.nursery.start_soon(wait)
    await trio.testing.wait_all_tasks_blocked()
    second = await site.start(here, version="3.0")
    await trio.sleep(20)
    assert waited
    assert await site.images() == [blob_key("alice", second.id)]
    assert await site.told(here) == ["QUEUED", "SUPERSEDED", "QUEUED"]
    (past,) = (await here.hub.updates.history(KEY)).past
    assert (past.id, past.state) == (first.id, UpdateState.SUPERSEDED)
    lamp = await site.lamp()
    lamp.deaf.add("OTA.Write")
    await lamp.join(here)
    await here.comes_to(UpdateState.TRANSFERRING)
    with pytest.raises(Conflict, match="TRANSFERRING"):
        await site.start(here)
    assert (await here.hub.updates.get(KEY)).id == second.id


async def test_the_history_has_an_end(autojump_clock, site, here):
    """The newest twenty, newest first; a device that is removed leaves none."""
    ids = []
    for _ in range(23):
        ids.append((await site.start(here, size=10)).id)
        await here.update_supervisor.cancel(KEY)
    history = await here.hub.updates.history(KEY)
    assert [past.id for past in history.past] == ids[:-21:-1]
    await here.hub.updates.forget(KEY)
    assert (await here.hub.updates.history(KEY)).past == ()


async def test_a_removed_device_has_no_update(autojump_clock, site, here):
    """The waiter gets an error, and no driver is left."""
    await here.hub.registry.create("alice", "d1")
    await site.start(here)
    site.nursery.start_soon(here.hub.remove_device, KEY)
    with pytest.raises(NotFound):
        await here.ends()
    assert await site.images() == []


async def test_what_a_process_left_at_the_end_is_tidied(autojump_clock, site, here):
    """It was stopped when it had stored the end, and had not let go of the image: the next one does, at its start."""
    update = await site.start(here)
    here.update_supervisor.forget(KEY)
    run = await here.hub.updates.load(KEY)
    ended = ota.advance(run.update, ota.CancelRequested(), now=EPOCH)
    await here.hub.updates.store.records.put(str(run.key), ended)
    assert await site.images() == [blob_key("alice", update.id)]
    await here.update_supervisor.resume_all()
    assert await site.images() == []
    assert [past.state for past in (await here.hub.updates.history(KEY)).past] == [UpdateState.CANCELED]


# Several nodes


async def test_queued_on_one_node_and_driven_by_another(autojump_clock, site, here, there):
    """The device comes to another node than that which took the image; a waiter at the first learns all of it."""
    await site.start(here, AUTO)
    lamp = await site.lamp()
    await lamp.join(there)
    assert (await here.ends()).state is UpdateState.COMMITTED
    assert await site.told(here) == COURSE
    assert lamp.count("OTA.Begin") == 1
    assert (here.update_supervisor._drivers, there.update_supervisor._drivers) == ({}, {})


async def test_a_device_that_is_there_already(autojump_clock, site, here, there):
    """The node that holds it hears of the update, and begins immediately."""
    lamp = await site.lamp()
    await lamp.join(there)
    await trio.sleep(100)
    began = trio.current_time()
    await site.start(here, AUTO)
    await here.comes_to(UpdateState.TRANSFERRING)
    assert trio.current_time() - began < 1
    assert (await here.ends()).state is UpdateState.COMMITTED


async def test_a_device_that_moves_to_another_node(autojump_clock, site, here, there):
    """In the middle of the transfer: the other node goes on at the offset, the first lets go."""
    lamp = await site.lamp()
    await lamp.join(here)
    await site.start(here, AUTO, size=20_000)
    await lamp.chunks(8)
    lamp.deaf.add("OTA.Write")
    await trio.sleep(1)
    lamp.deaf.clear()
    await lamp.leave()
    await lamp.join(there)
    assert (await here.ends()).state is UpdateState.COMMITTED
    assert lamp.count("OTA.Begin") == 1
    assert here.update_supervisor._drivers == {}


async def test_a_move_between_living_nodes_is_no_outage(autojump_clock, site, here, there):
    """All of that time counts for the limits: a device that flaps between two nodes prolongs nothing."""
    lamp = await site.lamp()
    await lamp.join(here)
    await site.start(here, AUTO, size=20_000)
    await lamp.chunks(8)
    lamp.deaf |= {"OTA.Write", "OTA.Status", "Sys.GetInfo"}
    await trio.sleep(20)
    await lamp.leave()
    await lamp.join(there)
    await trio.sleep(1)
    update = await there.hub.updates.get(KEY)
    assert (update.driver, update.unattended) == ("there", 0.0)


async def test_a_device_that_reappears_elsewhere_without_a_goodbye(autojump_clock, site, here, there):
    """The old node does not know yet that its link is dead: no chunk goes astray, and the update ends as any."""
    lamp = await site.lamp()
    await lamp.join(here)
    lamp.deaf.add("OTA.Write")
    await site.start(here, AUTO, size=20_000)
    await trio.sleep(1)
    lamp.deaf.clear()
    await lamp.join(there)
    await trio.sleep(0.5)
    assert [len(node.update_supervisor) for node in (here, there)] == [0, 1]
    update = await there.ends()
    assert update.state is UpdateState.COMMITTED
    here.update_supervisor.on_disconnected(KEY)
    await trio.sleep(60)
    assert here.update_supervisor._drivers == {}


async def test_cancel_from_another_node(autojump_clock, site, here, there):
    """The driver hears of it, and calls no more."""
    lamp = await site.lamp()
    await lamp.join(there)
    lamp.deaf.add("OTA.Write")
    await site.start(there)
    await there.comes_to(UpdateState.TRANSFERRING)
    await here.update_supervisor.cancel(KEY)
    await trio.sleep(1)
    assert there.update_supervisor._drivers == {}
    calls = len(lamp.calls)
    await trio.sleep(1000)
    assert len(lamp.calls) == calls


@pytest.mark.parametrize(
    ("event", "end"), [(ota.CommitAccepted(), UpdateState.COMMITTED), (ota.RevertAccepted(), UpdateState.ROLLED_BACK)]
)
async def test_a_commit_by_way_of_another_node(autojump_clock, site, here, there, event, end):
    """A user's call through a node that does not drive the update counts, too."""
    lamp = await site.lamp()
    await lamp.join(there)
    await site.start(there)
    await here.comes_to(UpdateState.UNCOMMITTED)
    here.update_supervisor.on_event(KEY, event)
    assert (await here.ends()).state is end
    await trio.sleep(1)
    assert there.update_supervisor._drivers == {}


async def test_a_waiter_that_hears_nothing(autojump_clock, site, here, there):
    """The bus loses everything: the waiter reads the store now and then."""
    lamp = await site.lamp()
    await lamp.join(there)
    site.bus.losing = True
    await site.start(there, AUTO)
    assert (await here.ends()).state is UpdateState.COMMITTED


async def test_a_node_that_dies(autojump_clock, site, here):
    """Another one takes its updates up: the device goes on there at the offset, and a deadline holds if it does not."""
    lamp = await site.lamp()
    async with site.node("doomed") as doomed:
        await lamp.join(doomed)
        await site.start(doomed, AUTO, size=20_000)
        await lamp.chunks(8)
        lamp.deaf.add("OTA.Write")
        await trio.sleep(1)
    lamp.node = None
    lamp.deaf.clear()
    assert (await here.hub.presence.get(KEY)).node == "doomed"  # which is released later: there may be many
    await here.update_supervisor.resume_all()
    assert list(here.update_supervisor._drivers) == [KEY]
    await lamp.join(here)
    assert (await here.ends()).state is UpdateState.COMMITTED
    assert lamp.count("OTA.Begin") == 1


async def test_deadlines_outlive_the_device(autojump_clock, site, here):
    """It leaves in the middle and never comes back: its node ends the update."""
    lamp = await site.lamp()
    await lamp.join(here)
    lamp.deaf.add("OTA.Write")
    await site.start(here)
    await trio.sleep(1)
    await lamp.leave()
    update = await here.ends()
    assert (update.state, "stopped taking the image" in update.reason) == (UpdateState.TIMED_OUT, True)


# Whatever happens


class Chaos:
    """Two nodes and a lamp to which things happen; what is told is held against the lamp."""

    def __init__(self, site):
        self.site = site
        self.nodes = {}
        self.lamp = None

    async def begin(self):
        for name in ("here", "there"):
            await self.start_node(name)
        await self.power_on()

    async def start_node(self, name):
        """A process; one that takes over after another takes up what that has left."""
        node = Node(name, self.site)
        node.scope = trio.CancelScope()
        ended = node.ended = trio.Event()

        async def run(task_status):
            with node.scope:
                await node.run(task_status)
            ended.set()

        await self.site.nursery.start(run)
        self.nodes[name] = node
        node.hub.updates.on_change.append(self.check)

    async def power_on(self):
        build, quiet = FirmwareBuild("ccm", "1.0", OLD, "esp32"), {"stats_interval": DAY, "log_interval": DAY}
        device = VirtualDevice("d1", self.site.folder, build=build, **quiet)
        lamp = self.lamp = Lamp(self.site.folder, device)

        async def run():
            with lamp.scope:
                await lamp.run()

        self.site.nursery.start_soon(run)

    async def power_cut(self):
        """The device boots; the node of its link notices."""
        if self.lamp.node is not None:
            await self.lamp.leave()
        self.lamp.scope.cancel()
        await self.power_on()

    async def kill(self, name):
        """A process dies with its links; its successor cleans up after it."""
        node = self.nodes[name]
        held = self.lamp.node is node
        if held:
            self.lamp.node = None
        node.dead = True
        node.scope.cancel()
        await node.ended.wait()
        await self.start_node(name)
        if held:
            await self.nodes[name].hub.presence.release(KEY, node.session, 0.0)
        await self.nodes[name].update_supervisor.resume_all()

    async def join(self, name):
        node = self.nodes[name]
        if self.lamp.node is node:
            return
        if self.lamp.node is not None:
            await self.lamp.leave()
        await self.lamp.join(node)

    def check(self, key, update):
        """What is said to be so, is so."""
        boot = self.lamp.device._boot.state
        runs = self.lamp.device._boot.running.build_id
        if update.state is UpdateState.COMMITTED:
            assert (runs, boot.committed) == (NEW, True)
        elif update.state in (UpdateState.ROLLED_BACK, UpdateState.CANCELED):
            assert runs == OLD

    async def happen(self, what):
        lamp = self.lamp
        match what:
            case "here" | "there":
                await self.join(what)
            case "leave" if lamp.node is not None:
                await lamp.leave()
            case "power cut":
                await self.power_cut()
            case "kill here" | "kill there":
                await self.kill(what.removeprefix("kill "))
            case "lost write":
                self.site.documents.losing = True
            case "bus away" | "bus back":
                self.site.bus.losing = what == "bus away"
            case "hears":
                lamp.deaf.clear()
            case "cancel":
                try:
                    await self.nodes["there"].update_supervisor.cancel(KEY)
                except (Conflict, StorageError):
                    pass
            case str() if what.startswith("deaf to "):
                lamp.deaf.add(what.removeprefix("deaf to "))


HAPPENINGS = st.sampled_from(
    [
        *["here", "there", "leave", "hears"] * 2,
        "power cut",
        "kill here",
        "kill there",
        "lost write",
        "bus away",
        "bus back",
        "deaf to OTA.Begin",
        "deaf to OTA.Write",
        "deaf to OTA.End",
        "deaf to OTA.Commit",
        "deaf to Sys.GetInfo",
        "cancel",
    ]
)
PAUSES = st.sampled_from([0, 0.001, 0.3, 0.6, 1.5, 20, 40, 400])


@example(  # a node that takes the device to be rebooting, for as long as that may take, does not hear of the end
    course=[("bus away", 0), ("deaf to OTA.End", 0.001), ("power cut", 0), ("kill there", 40), ("here", 0)],
    calm=0,
    in_flight=1,
)
@given(
    course=st.lists(st.tuples(HAPPENINGS, PAUSES), max_size=12),
    calm=st.integers(0, 8),
    in_flight=st.sampled_from([1, 3]),
)
def test_whatever_happens(tmp_path_factory, course, calm, in_flight):
    """To the device, its link, the nodes and the store: the update ends, and nothing was said that is not so."""

    async def main():
        async with trio.open_nursery() as nursery:
            site = Site(tmp_path_factory.mktemp("lamp"), nursery)
            chaos = Chaos(site)
            await chaos.begin()
            await chaos.join("here")
            await site.start(chaos.nodes["here"], attrs.evolve(AUTO, chunks_in_flight=in_flight, chunk_size=1000))
            await chaos.lamp.chunks(min(calm, 5))
            for what, pause in course:
                await chaos.happen(what)
                await trio.sleep(pause)
            for what in ("bus back", "hears", "leave", "here"):
                await chaos.happen(what)
            began = trio.current_time()
            update = await chaos.nodes["here"].ends()
            assert trio.current_time() - began < 2 * DAY, update
            for node in chaos.nodes.values():  # one that the bus has not told looks by itself when its deadline passes
                for driver in tuple(node.update_supervisor._drivers.values()):
                    deadline, now = ota.next_deadline(driver.update), driver._performer.now()
                    await trio.sleep(60 if deadline is None else max(deadline - now, 0) + 60)
            assert all(node.update_supervisor._drivers == {} for node in chaos.nodes.values())
            assert await site.images() == []
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


# Devices that say less


def characters(*names):
    return {"character": join(*names)}


async def commits(node, lamp):
    """A person calls OTA.Commit."""
    event = ota.CommitAccepted()
    try:
        await lamp.handle("OTA.Commit", None)
    except RpcError as exc:
        event = ota.CommitUnsupported() if ota.lacks_method(exc.code, exc.message) else None
    node.update_supervisor.on_event(KEY, event)


async def runs(lamp):
    """The build that the device really runs, and whether it is committed."""
    boot = lamp.device._boot
    return boot.running.build_id, boot.state.committed


@pytest.mark.parametrize("how", ["auto", "a person", "nobody", "the device"])
@pytest.mark.parametrize("name", [*CHARACTERS, "no-status slow-flash", "no-trial holds-transfers heartbeat-first"])
async def test_every_character_is_updated(autojump_clock, site, here, name, how):
    """By every way to a commit, and by none: it ends, in the state that is what the device runs."""
    lamp = await site.lamp(**characters(*name.split()))
    await lamp.join(here)
    options = {"auto": AUTO, "the device": Options(commit_timeout=0)}.get(how, Options())
    await site.start(here, options)
    if how == "a person":
        await here.comes_to(UpdateState.UNCOMMITTED)
        await commits(here, lamp)
    update = await here.ends()
    kept = how != "nobody" or not lamp.device.character.has_trial
    assert update.state is (UpdateState.COMMITTED if kept else UpdateState.ROLLED_BACK), update.reason
    assert await runs(lamp) == (NEW if kept else OLD, True)
    assert trio.current_time() < 700
    reported = (await here.hub.shadows.get(KEY)).reported["ota"]
    assert reported["fw_id"] == (NEW if kept else OLD)
    assert reported.get("status") != 2
    assert await site.images() == []


@pytest.mark.parametrize("name", ["no-status", "no-trial"])
async def test_a_device_that_comes_and_goes_prolongs_nothing(autojump_clock, site, here, name):
    """Each minute a new link: it is committed when its commit time-out has passed, and not later."""
    lamp = await site.lamp(**characters(name))
    await lamp.join(here)
    lamp.device._updater._roll_back = lambda *args: None  # also the one with a trial keeps what it runs
    await site.start(here)
    update = await here.comes_to(UpdateState.UNCOMMITTED)
    assert (update.commit_unknown, "is not known" in update.reason) == (True, True)
    limit, began = update.changed + update.options.commit_timeout, trio.current_time()

    async def come_and_go():
        while True:
            await trio.sleep(50)
            await lamp.leave()
            await lamp.join(here)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(come_and_go)
        update = await here.ends()
        nursery.cancel_scope.cancel()
    assert update.state is UpdateState.COMMITTED
    assert limit - EPOCH - began == pytest.approx(300, abs=5)
    assert limit < EPOCH + trio.current_time() < limit + 60


@pytest.mark.parametrize("name", ["no-status", "no-trial", "heartbeat-first", "slow-flash"])
async def test_a_lost_link_of_a_device_that_says_less(autojump_clock, site, here, name):
    """The transfer goes on, without a second OTA.Begin that is accepted; ten minutes are not lost."""
    lamp = await site.lamp(**characters(name))
    await lamp.join(here)
    await site.start(here, AUTO, size=20_000)
    await lamp.chunks(7)
    await lamp.leave()
    await trio.sleep(20)
    await lamp.join(here)
    assert (await here.ends()).state is UpdateState.COMMITTED
    assert trio.current_time() < 300
    assert lamp.count("OTA.Write") < 24


@pytest.mark.parametrize("end", ["canceled", "lost link, then canceled", "superseded while it waits"])
async def test_the_transfer_before(autojump_clock, site, here, end):
    """The next update waits as long as the device was told, says so once, and then succeeds."""
    lamp = await site.lamp()
    await lamp.join(here)
    began = trio.current_time()
    await site.start(here, Options(timeout=900), size=20_000)
    await lamp.chunks(5)
    if end.startswith("lost"):
        await lamp.leave()
    await here.update_supervisor.cancel(KEY)
    canceled = trio.current_time()
    if end.startswith("lost"):
        await trio.sleep(60)
        await lamp.join(here)
    if end.startswith("superseded"):
        await site.start(here, version="1.5", build_id="1.5")
        await here.update_supervisor.wait(KEY, lambda update: update.waits_until is not None)
    await site.start(here, AUTO)
    waiting = await here.update_supervisor.wait(KEY, lambda update: update.waits_until is not None)
    assert waiting.waits_until == pytest.approx(EPOCH + canceled + 910, abs=12)
    assert waiting.reason.startswith("waits until the device has forgotten the transfer before, at the latest 22:")
    assert (await here.ends()).state is UpdateState.COMMITTED
    assert 890 < trio.current_time() - began < 1000
    told = [name for name in await site.told(here) if name == "waiting"]
    assert len(told) == (2 if end.startswith("superseded") else 1)


async def test_a_device_that_never_forgets(autojump_clock, site, here):
    """The update ends, and says what helps; after it was done, the next one succeeds."""
    lamp = await site.lamp(**characters("holds-transfers"))
    await lamp.join(here)
    await site.start(here, AUTO, size=20_000)
    await lamp.chunks(5)
    await here.update_supervisor.cancel(KEY)
    await site.start(here, AUTO)
    update = await here.ends()
    assert (update.state, "does not forget" in update.reason) == (UpdateState.FAILED, True)
    await site.start(here, AUTO)
    await trio.sleep(10)
    await lamp.handle("OTA.End", None)
    here.update_supervisor.on_event(KEY, ota.TransferEnded())
    assert (await here.ends()).state is UpdateState.COMMITTED
    assert trio.current_time() < 800


# Leases


async def test_one_node_takes_over_the_update_of_an_offline_device(autojump_clock, site, here, there):
    """The node that has queued it is gone: of two that look for its updates at the same time one drives it. The time
    without a node counts for no limit.
    """
    async with site.node("gone") as gone:
        await site.start(gone)
        assert (await gone.hub.updates.get(KEY)).driver == "gone"
    await trio.sleep(60)
    async with trio.open_nursery() as nursery:
        for node in (here, there):
            nursery.start_soon(node.update_supervisor.resume_all)
    await trio.testing.wait_all_tasks_blocked()
    update = await here.hub.updates.get(KEY)
    assert {update.driver} == {node.name for node in (here, there) if len(node.update_supervisor)}
    assert update.unattended == pytest.approx(60.0, abs=1.0)


async def test_the_update_of_a_living_node_is_left_to_it(autojump_clock, site, here, there):
    """Its device is offline, and another node starts, or cleans up after a third one."""
    await site.start(here)
    await there.update_supervisor.resume_all()
    assert [len(node.update_supervisor) for node in (here, there)] == [1, 0]
    assert (await here.hub.updates.get(KEY)).driver == "here"


async def test_the_node_that_holds_the_device_takes_the_update(autojump_clock, site, here, there):
    """The one that has queued it is told, and lets go; so is the driver if the update is canceled elsewhere."""
    await site.start(here)
    lamp = await site.lamp()
    lamp.deaf.add("OTA.Begin")
    await lamp.join(there)
    await trio.sleep(1)
    assert [len(node.update_supervisor) for node in (here, there)] == [0, 1]
    assert (await here.hub.updates.get(KEY)).driver == "there"
    await here.update_supervisor.cancel(KEY)
    await trio.sleep(1)
    assert [len(node.update_supervisor) for node in (here, there)] == [0, 0]


async def test_a_lost_message_about_an_update_is_made_up_for(autojump_clock, site, here, there):
    """The node that holds the device finds the update when it checks the device in turn."""
    lamp = await site.lamp()
    await lamp.join(there)
    site.bus.losing = True
    await site.start(here, AUTO)
    await trio.sleep(5)
    assert await there.stands() is UpdateState.QUEUED
    await there.update_supervisor.check(KEY)
    assert (await there.ends()).state is UpdateState.COMMITTED


async def test_an_update_is_taken_over_although_the_presence_is_damaged(autojump_clock, site, here):
    """Else its deadlines would be watched by no node, nor would the updates after it be taken over."""
    async with site.node("gone") as gone:
        await site.start(gone)
    await site.documents.put("presence", str(KEY), b"[]")
    await here.update_supervisor.resume_all()
    assert (await here.hub.updates.get(KEY)).driver == "here"
    assert len(here.update_supervisor) == 1


async def test_a_damaged_update_is_let_go(autojump_clock, site, here, caplog):
    """What its driver cannot read any more it drives no more; the log says so once."""
    lamp = await site.lamp()
    await lamp.join(here)
    lamp.deaf.add("OTA.Write")
    await site.start(here)
    await here.comes_to(UpdateState.TRANSFERRING)
    await site.documents.put("updates", str(KEY), b"[]")
    here.update_supervisor.on_changed(KEY)
    await trio.sleep(60)
    assert here.update_supervisor._drivers == {}
    assert [record.name for record in caplog.records].count("mdashcore.trio.drivers.update_driver") == 1
    lamp.deaf.clear()
    await lamp.leave()
    await lamp.join(here)
    assert (await site.start(here, AUTO)).state is UpdateState.QUEUED
    assert (await here.ends()).state is UpdateState.COMMITTED


@pytest.mark.parametrize("losing", [True, False])
async def test_a_device_that_comes_back_is_driven_by_one_node(autojump_clock, site, here, there, losing):
    """It went to another node without a goodbye, of which this one may not have heard, and returned: one driver."""
    lamp = await site.lamp()
    await lamp.join(here)
    lamp.deaf.add("OTA.Write")
    await site.start(here, AUTO, size=20_000)
    await lamp.chunks(1)
    site.bus.losing = losing
    await lamp.join(there)
    await trio.sleep(0.5)
    site.bus.losing = False
    there.lamp = None
    for call in there.calls:
        call.cancel()
    there.update_supervisor.on_disconnected(KEY)
    await lamp.join(here)
    await trio.sleep(0.5)
    assert [len(node.update_supervisor) for node in (here, there)] == [1, 0]
    assert (await here.hub.updates.get(KEY)).driver == "here"
    lamp.deaf.clear()
    assert (await here.ends()).state is UpdateState.COMMITTED


async def test_the_update_of_a_device_that_a_living_node_holds_is_left_to_it(autojump_clock, site, here, there):
    """Its driver is gone, and that node has not claimed it yet."""
    async with site.node("gone") as gone:
        await site.start(gone)
    await there.hub.presence.claim(KEY, "there")
    await here.update_supervisor.resume_all()
    assert len(here.update_supervisor) == 0
