"""A node: presence, greetings, deltas, pings and goodbyes, over memory and in virtual time."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st

from mdash_backends.memory import MemoryBlobs, MemoryBus, MemoryDocuments, MemoryLogs
from mdashcore import ota
from mdashcore._errors import Busy, CallTimeout, DeviceOffline, NotFound, RpcError, StorageError
from mdashcore.hub import Hub
from mdashcore.hub.event_log import KEEP_EVENTS
from mdashcore.hub.feed import feed_topic
from mdashcore.identity import Device, DeviceKey
from mdashcore.notifications import decode
from mdashcore.shadow import Change, Shadow
from mdashcore.storage import SHARED, Backend
from mdashcore.trio.connections.calls import Calls
from mdashcore.trio.connections.device_connections import SEEN_INTERVAL
from mdashcore.trio.connections.presence_feed import FLAP_INTERVAL, MAX_CHANGES, MAX_FLAP_INTERVAL, PresenceFeed
from mdashcore.trio.connections.subscribers import MAX_QUEUE, RECHECK_INTERVAL, Subscriber
from mdashcore.trio.connections.user_calls import UserCalls
from mdashcore.trio.node import SHUTDOWN_TIMEOUT, Node, NodeSettings, open_node
from mdashcore.trio.pacing import STORE_CALLERS
from mdashcore.trio.shielding import WRITES_TIMEOUT

EPOCH = 1_700_000_000.0
"""The wall clock when a test begins."""

SETTINGS = NodeSettings()


class Documents(MemoryDocuments):
    """Documents that can fail, and be slow to say that they have stored something."""

    failing = False
    gate: trio.Event | None = None

    async def put(self, collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
        await trio.lowlevel.checkpoint()
        if self.failing:
            raise StorageError("the store is away")
        version = await super().put(collection, key, body, expected=expected)
        if self.gate is not None:
            await self.gate.wait()
        return version


class Bus(MemoryBus):
    """A bus that can lose messages, and break."""

    losing = False

    async def publish(self, topic: str, message: bytes) -> None:
        if not self.losing:
            await super().publish(topic, message)

    async def break_down(self) -> None:
        """End every subscription."""
        await super().publish(feed_topic("alice"), b"")

    @asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[AsyncIterator[bytes]]:
        async def until_broken() -> AsyncIterator[bytes]:
            async for message in messages:
                if not message:
                    raise StorageError("the bus is away")
                yield message

        async with super().subscribe(topic) as messages, aclosing(until_broken()) as watched:
            yield watched


@attrs.define
class Fleet:
    """A node, with devices and subscribers that connect to it."""

    node: Node
    hub: Hub
    documents: Documents
    bus: Bus
    nursery: trio.Nursery
    open_pair: Any
    ahead: list[float] = attrs.Factory(lambda: [0.0])
    """Seconds by which the wall clock was set since the start."""

    async def register(self, id: str = "d1") -> Device:
        """A device that may connect."""
        return (await self.hub.registry.create("alice", id)).device

    async def connect(self, device: Device) -> Any:
        """Its connection: the client's end. Only the test reads it."""
        ws, client = await self.open_pair()

        async def serve() -> None:  # as the gateway does
            try:
                await self.node.devices.serve(device, ws)
            except StorageError:
                pass
            await trio.aclose_forcefully(client.server_end)

        self.nursery.start_soon(serve)
        return client

    async def listen(self, start: int | None = None) -> Any:
        """A listener's connection: the client's end."""
        ws, client = await self.open_pair()
        listener = Subscriber(self.hub.feed, "alice", ws, start=start)

        async def serve() -> None:
            await self.node.subscribers.serve(listener)
            await trio.aclose_forcefully(client.server_end)

        self.nursery.start_soon(serve)
        await trio.testing.wait_all_tasks_blocked()
        return client

    def attend(self, client: Any) -> None:
        """Have a client read, and answer pings, from now on."""

        async def pump() -> None:
            while await client.pump():
                pass

        self.nursery.start_soon(pump)

    async def emit(self, count: int) -> None:
        """Something to listen to."""
        for _ in range(count):
            await self.hub.feed.emit("alice", "rpc.out.Log", "d1")
            await trio.lowlevel.checkpoint()

    async def named(self, name: str) -> list[Any]:
        """The notifications with that name."""
        items = [decode(item.frame) for item in await self.hub.feed.page("alice", 0)]
        return [item for item in items if item["name"] == name]

    async def told(self) -> list[str]:
        """The names of what happened to devices, but for shadows."""
        names = [decode(item.frame)["name"] for item in await self.hub.feed.page("alice", 0)]
        return [name for name in names if name in ("online", "offline")]


@asynccontextmanager
async def open_fleet(
    open_pair: Any, settings: NodeSettings = SETTINGS, *, capabilities: frozenset[str] = frozenset()
) -> AsyncIterator[Fleet]:
    """A node on memory."""
    documents, bus = Documents(), Bus()
    start, ahead = trio.current_time(), [0.0]
    hub = Hub(
        Backend(documents, MemoryLogs(), MemoryBlobs(), bus, capabilities),
        now=lambda: EPOCH + trio.current_time() - start + ahead[0],
        monotonic=trio.current_time,
        entropy=os.urandom,
    )
    async with trio.open_nursery() as nursery:
        async with open_node(hub, settings=settings) as node:
            yield Fleet(node, hub, documents, bus, nursery, open_pair, ahead)
        nursery.cancel_scope.cancel()


@pytest.fixture
async def fleet(open_pair: Any) -> AsyncIterator[Fleet]:
    """`open_fleet`; its test has to ask for `autojump_clock` itself."""
    async with open_fleet(open_pair) as opened:
        yield opened


@pytest.fixture
async def shared_fleet(open_pair: Any) -> AsyncIterator[Fleet]:
    """The same on a store that others may share: what is told comes over the bus."""
    async with open_fleet(open_pair, capabilities=frozenset({SHARED})) as opened:
        yield opened


def virtual(function: Callable[[], Awaitable[None]]) -> None:
    """Run in virtual time: waiting costs none."""
    trio.run(function, clock=trio.testing.MockClock(autojump_threshold=0))


# Presence


async def test_a_device_is_online_while_it_is_connected(autojump_clock: Any, fleet: Fleet) -> None:
    """Its record says so, and one notification tells of each change."""
    device = await fleet.register()
    assert DeviceKey("alice", "d1") not in fleet.node.devices
    client = await fleet.connect(device)
    await client.expect("Sys.GetInfo")
    record = await fleet.hub.presence.get(DeviceKey("alice", "d1"))
    assert (record.online, record.node, record.session) == (True, fleet.node.id, 1)
    assert DeviceKey("alice", "d1") in fleet.node.devices
    assert (len(fleet.node.devices), len(fleet.node.subscribers)) == (1, 0)
    await client.close()
    assert await client.close_code() == 1000
    await trio.testing.wait_all_tasks_blocked()
    assert not (await fleet.hub.presence.get(DeviceKey("alice", "d1"))).online
    assert (len(fleet.node.devices), len(fleet.node.subscribers)) == (0, 0)
    assert await fleet.told() == ["online", "offline"]


async def test_last_seen_is_when_it_was_last_heard(autojump_clock: Any, fleet: Fleet) -> None:
    """Not when it was found out that it is gone; and while it is connected, it is what the stream knows."""
    client = await fleet.connect(await fleet.register())
    await trio.sleep(10)
    await client.send({"method": "Log"})
    await trio.testing.wait_all_tasks_blocked()
    heard = fleet.hub.now()
    await trio.sleep(5)
    assert fleet.node.devices.last_heard(DeviceKey("alice", "d1")) == pytest.approx(heard)
    await trio.sleep(100)
    record = await fleet.hub.presence.get(DeviceKey("alice", "d1"))
    assert record.last_seen == pytest.approx(heard)
    assert record.since is not None
    assert record.since > heard + SETTINGS.ping_interval
    assert fleet.node.devices.last_heard(DeviceKey("alice", "d1")) is None


async def test_the_later_sign_counts(fleet: Fleet) -> None:
    """That of a connection which is dead here, or that of the device's newer connection elsewhere."""
    key = DeviceKey("alice", "d1")
    assert fleet.node.devices.last_seen(key, 5.0) == 5.0
    client = await fleet.connect(await fleet.register())
    await client.expect("Sys.GetInfo")
    heard = fleet.node.devices.last_heard(key)
    assert heard is not None
    for stored in (None, heard - 60, heard):
        assert fleet.node.devices.last_seen(key, stored) == pytest.approx(heard)
    assert fleet.node.devices.last_seen(key, heard + 60) == pytest.approx(heard + 60)


async def test_the_last_sign_of_a_connected_device_is_stored_every_so_often(
    autojump_clock: Any, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other nodes, and those that find this one dead, know it to half an hour; no message costs a write. A write that
    fails is made again, and delays no later one by a round."""
    key = DeviceKey("alice", "d1")
    client = await fleet.connect(await fleet.register())
    fleet.attend(client)
    await trio.testing.wait_all_tasks_blocked()
    before = await fleet.hub.presence.get(key)
    stored, store = [], fleet.hub.presence.store_last_seen

    async def store_and_count(*args: Any) -> None:
        stored.append(args)
        if len(stored) == 1:
            raise StorageError("the disk is full")
        await store(*args)

    monkeypatch.setattr(fleet.hub.presence, "store_last_seen", store_and_count)
    for _ in range(100):
        await client.send({"method": "Log"})
    await trio.sleep(3.5 * SEEN_INTERVAL)
    record = await fleet.hub.presence.get(key)
    assert record.last_seen == pytest.approx(fleet.hub.now(), abs=SEEN_INTERVAL)
    assert (record.since, record.session, record.online) == (before.since, before.session, True)
    assert len(stored) == 1 + 2


async def test_the_newest_connection_wins(autojump_clock: Any, fleet: Fleet) -> None:
    """The older ones are told why they are closed; the device is online all the time, and goes offline once."""
    device = await fleet.register()
    old = [await fleet.connect(device) for _ in range(3)]
    new = await fleet.connect(device)
    await new.expect("Sys.GetInfo")
    for client in old:
        assert await client.close_code() == 1008
    assert (await fleet.hub.presence.get(DeviceKey("alice", "d1"))).online
    assert "offline" not in await fleet.told()
    await new.close()
    await trio.testing.wait_all_tasks_blocked()
    assert (await fleet.told()).count("offline") == 1


async def test_an_old_connection_that_ends_late_hides_nothing(autojump_clock: Any, fleet: Fleet) -> None:
    """A replaced connection whose peer says no goodbye ends seconds later: the device stays online."""
    device = await fleet.register()
    await fleet.connect(device)  # reads nothing, answers nothing
    await trio.testing.wait_all_tasks_blocked()
    new = await fleet.connect(device)
    fleet.attend(new)
    await trio.sleep(100)
    assert (len(fleet.node.devices), len(fleet.node.subscribers)) == (1, 0)
    assert (await fleet.hub.presence.get(DeviceKey("alice", "d1"))).session == 2
    assert (await fleet.hub.presence.get(DeviceKey("alice", "d1"))).online
    assert "offline" not in await fleet.told()


async def test_a_connection_that_is_overtaken_is_closed(
    autojump_clock: Any, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The numbers of the sessions decide which is the newest, not the order in which the store lets them go on."""
    device = await fleet.register()
    claim, gate = fleet.hub.presence.claim, trio.Event()

    async def claim_and_wait(*args: Any) -> int:
        session = await claim(*args)
        await gate.wait()
        return session

    with monkeypatch.context() as patch:
        patch.setattr(fleet.hub.presence, "claim", claim_and_wait)
        first = await fleet.connect(device)
        await trio.testing.wait_all_tasks_blocked()
    second = await fleet.connect(device)
    await second.expect("Sys.GetInfo")
    gate.set()
    assert await first.close_code() == 1008
    await trio.testing.wait_all_tasks_blocked()
    assert DeviceKey("alice", "d1") in fleet.node.devices
    assert await fleet.told() == ["online"]


async def test_a_revoked_device_is_closed_out(autojump_clock: Any, fleet: Fleet) -> None:
    """By deleting it or renewing its token, immediately; also when that was between its handshake and its greeting."""
    device = await fleet.register()
    client = await fleet.connect(device)
    await client.expect("Sys.GetInfo")
    await fleet.hub.registry.renew_token(DeviceKey("alice", "d1"))
    image = ota.UpdateImage("lamp", 3, "-", bare=True)
    await fleet.node.update_supervisor.start(DeviceKey("alice", "d1"), "ota_1", image)
    assert await client.close_code() == 1008
    late = await fleet.connect(device)
    assert await late.close_code() == 1008
    await trio.testing.wait_all_tasks_blocked()
    assert DeviceKey("alice", "d1") not in fleet.node.devices
    update = await fleet.hub.updates.get(DeviceKey("alice", "d1"))
    assert update is not None
    assert update.state is ota.UpdateState.QUEUED  # for when it comes with the new one


async def test_a_fleet_that_comes_together_is_let_in_at_a_pace(autojump_clock: Any, open_pair: Any) -> None:
    """Of a store that takes its time, so many writes of arriving devices are under way, and no more. All come online,
    and what other clients want meanwhile waits for none of them."""
    async with open_fleet(open_pair) as fleet:
        devices = [await fleet.register(f"d{i}") for i in range(4 * STORE_CALLERS)]
        inside, busiest = 0, 0
        put = fleet.documents.put

        async def slow_put(collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
            nonlocal inside, busiest
            if collection != "presence":
                return await put(collection, key, body, expected=expected)
            inside += 1
            busiest = max(busiest, inside)
            await trio.sleep(1)
            inside -= 1
            return await put(collection, key, body, expected=expected)

        fleet.documents.put = slow_put  # type: ignore[method-assign]
        for device in devices:
            fleet.attend(await fleet.connect(device))
        await trio.sleep(0.5)
        started = trio.current_time()
        await fleet.hub.shadows.update(devices[-1].key, {"state": {"desired": {"n": 1}}})
        assert trio.current_time() == started
        await trio.sleep(10)
        assert len(await fleet.told()) == len(fleet.node.devices) == len(devices)
        assert busiest == STORE_CALLERS


# Greetings


async def test_a_device_is_asked_what_it_runs(autojump_clock: Any, fleet: Fleet) -> None:
    """A moment after it has connected; its answer is kept under `reported.ota`."""
    client = await fleet.connect(await fleet.register())
    started = trio.current_time()
    question = await client.expect("Sys.GetInfo")
    assert trio.current_time() - started == pytest.approx(SETTINGS.introduction_delay)
    assert question["params"] == {"utc_time": int(fleet.hub.now())}
    await client.send({"id": question["id"], "result": {"app": "demo", "fw_version": "1.0", "gone": None}})
    await trio.testing.wait_all_tasks_blocked()
    shadow = await fleet.hub.shadows.get(DeviceKey("alice", "d1"))
    assert shadow.document()["state"]["reported"]["ota"] == {"app": "demo", "fw_version": "1.0"}


@pytest.mark.parametrize("method", ["Dash.Shadow.Update", "Dash.Heartbeat"])
async def test_a_device_that_introduces_itself_is_not_asked(autojump_clock: Any, fleet: Fleet, method: str) -> None:
    """The real library reports `ota` by itself, the oldest send a heartbeat."""
    client = await fleet.connect(await fleet.register())
    info = {"app": "demo", "fw_version": "1.0"}
    params = info if method == "Dash.Heartbeat" else {"state": {"reported": {"ota": info}}}
    await client.send({"id": 77, "method": method, "params": params})
    assert (await client.receive())["id"] == 77
    with trio.move_on_after(60):
        assert not await client.receive(), "there is nothing left to ask"


@pytest.mark.parametrize("answer", [{"error": {"code": 404, "message": "No handler"}}, {"result": 7}, {"result": {}}])
async def test_a_device_that_cannot_say_what_it_runs_is_left_alone(
    autojump_clock: Any, fleet: Fleet, answer: dict[str, Any]
) -> None:
    """Not every JSON-RPC device knows the method."""
    client = await fleet.connect(await fleet.register())
    question = await client.expect("Sys.GetInfo")
    await client.send({"id": question["id"], **answer})
    fleet.attend(client)
    await trio.sleep(100)
    assert DeviceKey("alice", "d1") in fleet.node.devices
    assert (await fleet.hub.shadows.get(DeviceKey("alice", "d1"))).version == 0


async def test_a_device_whose_shadow_is_damaged_stays(autojump_clock: Any, fleet: Fleet) -> None:
    """It is introduced, and checked again and again; it can be called, and is told when it reports."""
    key, device = DeviceKey("alice", "d1"), await fleet.register()
    await fleet.documents.put("shadows", "alice/d1", b'{"torn":')
    client = await fleet.connect(device)
    question = await client.expect("Sys.GetInfo")
    await client.send({"id": question["id"], "result": {"app": "demo", "fw_version": "1.0"}})
    async with trio.open_nursery() as nursery:

        async def answer() -> None:
            request = await client.expect("X")
            await client.send({"id": request["id"], "result": 7})

        nursery.start_soon(answer)
        await trio.testing.wait_all_tasks_blocked()
        connection = fleet.node.devices[key]
        with trio.fail_after(1):
            await connection.check()
        assert await fleet.node.calls.call(key, "X") == b"7"
    await client.send({"id": 1, "method": "Dash.Shadow.Get"})
    assert (await client.receive())["error"]["code"] == 500
    assert await fleet.told() == ["online"]


async def test_a_delta_waits_for_the_device(autojump_clock: Any, fleet: Fleet) -> None:
    """What was desired while it was away is the first that it hears; without a delta it hears of none."""
    device = await fleet.register()
    await fleet.hub.shadows.update(DeviceKey("alice", "d1"), {"state": {"desired": {"on": True}}})
    client = await fleet.connect(device)
    delta = await client.receive()
    assert (delta["method"], delta["params"]["state"], delta["params"]["version"]) == ("Shadow.Delta", {"on": True}, 1)
    assert "id" not in delta
    await client.send({"method": "Dash.Shadow.Update", "params": {"state": {"reported": {"on": True}}}})
    assert (await client.receive())["method"] == "Sys.GetInfo"


# Deltas


patches = st.dictionaries(st.sampled_from("ab"), st.sampled_from([None, 1]), max_size=2)

updates = st.fixed_dictionaries({}, optional={"desired": patches, "reported": patches})


@st.composite
def disordered(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[int]]:
    """Updates of a shadow, and the order in which they are told of."""
    documents = draw(st.lists(updates, min_size=1, max_size=8))
    return documents, draw(st.permutations(range(len(documents))))


@given(disordered())
@example(([{"desired": {"a": 1}}, {"desired": {"a": None}}], [1, 0]))
def test_delta_versions_never_go_backwards(open_pair: Any, told: tuple[list[dict[str, Any]], list[int]]) -> None:
    """Changes that the node hears of in the wrong order are pushed only if nothing newer is known: a delta that is
    outdated never reaches the device, and the newest state always does. One with a successor may be left out."""
    documents, order = told

    async def main() -> None:
        async with open_fleet(open_pair, NodeSettings(introduction_delay=1e6)) as fleet:
            client = await fleet.connect(await fleet.register())
            await trio.testing.wait_all_tasks_blocked()
            shadow = Shadow()
            changes: list[Change] = []
            for document in documents:
                shadow, change = shadow.update({"state": document}, now=EPOCH)
                changes.append(change)
            newest = -1
            wanted = []
            for index in order:
                fleet.node.shadow_changed(DeviceKey("alice", "d1"), changes[index])
                if changes[index].version > newest and changes[index].delta_document() is not None:
                    wanted.append(changes[index].version)
                newest = max(newest, changes[index].version)
            versions = []
            with trio.move_on_after(1):
                while True:
                    versions.append((await client.expect("Shadow.Delta"))["params"]["version"])
            assert set(versions) <= set(wanted)
            if newest in wanted:
                assert versions[-1] == newest
            assert all(a < b for a, b in itertools.pairwise(versions))
            if shadow.delta_document() is not None:
                assert versions[-1] == shadow.version

    virtual(main)


async def test_a_delta_that_waits_is_dropped_where_none_is_left(autojump_clock: Any, fleet: Fleet) -> None:
    """A device that has not read it yet must not apply what is not desired any more."""
    client = await fleet.connect(await fleet.register())
    await client.expect("Sys.GetInfo")
    shadow = Shadow()
    for desired in ({"a": 1}, {"a": 2}, {"a": None}):
        shadow, change = shadow.update({"state": {"desired": desired}}, now=EPOCH)
        fleet.node.shadow_changed(DeviceKey("alice", "d1"), change)
    versions = []
    with trio.move_on_after(1):
        while True:
            versions.append((await client.expect("Shadow.Delta"))["params"]["version"])
    assert versions == [1]


async def test_a_device_is_told_of_changes_while_it_is_connected(autojump_clock: Any, fleet: Fleet) -> None:
    """Immediately, with what is still missing; its own report may leave a delta, too."""
    client = await fleet.connect(await fleet.register())
    await client.expect("Sys.GetInfo")
    await fleet.hub.shadows.update(DeviceKey("alice", "d1"), {"state": {"desired": {"a": 1, "b": 2}}})
    assert (await client.receive())["params"]["state"] == {"a": 1, "b": 2}
    await client.send({"method": "Dash.Shadow.Update", "params": {"state": {"reported": {"a": 1}}}})
    assert (await client.receive())["params"]["state"] == {"b": 2}
    await fleet.hub.shadows.update(DeviceKey("alice", "other"), {"state": {"desired": {"a": 1}}})
    with trio.move_on_after(10):
        assert not await client.receive()


# Pings


async def test_a_half_open_connection_is_found(autojump_clock: Any, fleet: Fleet) -> None:
    """A device that answers no ping is gone after two to three intervals."""
    await fleet.connect(await fleet.register())
    await trio.sleep(2 * SETTINGS.ping_interval - 1)
    assert DeviceKey("alice", "d1") in fleet.node.devices
    await trio.sleep(2 * SETTINGS.ping_interval)
    assert DeviceKey("alice", "d1") not in fleet.node.devices
    assert await fleet.told() == ["online", "offline"]


async def test_a_listener_that_is_gone_is_found(autojump_clock: Any, fleet: Fleet) -> None:
    """In the same way."""
    await fleet.listen()
    assert (len(fleet.node.devices), len(fleet.node.subscribers)) == (0, 1)
    await trio.sleep(4 * SETTINGS.ping_interval)
    assert (len(fleet.node.devices), len(fleet.node.subscribers)) == (0, 0)


async def test_a_device_that_answers_pings_stays(autojump_clock: Any, fleet: Fleet) -> None:
    """For ever, without saying anything else."""
    fleet.attend(await fleet.connect(await fleet.register()))
    fleet.attend(await fleet.listen())
    await trio.sleep(3600)
    assert (len(fleet.node.devices), len(fleet.node.subscribers)) == (1, 1)


async def test_a_device_that_talks_need_not_answer_pings(autojump_clock: Any, fleet: Fleet) -> None:
    """Anything from the peer is a sign of life: the pongs may be stuck behind a long message."""
    client = await fleet.connect(await fleet.register())
    for _ in range(100):
        await trio.sleep(SETTINGS.ping_interval)
        await client.stream.send_all(b"\x8a\x80mask")
    assert DeviceKey("alice", "d1") in fleet.node.devices


async def test_pings_are_spread(autojump_clock: Any, open_pair: Any) -> None:
    """A fleet is not pinged, and does not answer, all together; each device once in an interval."""
    async with open_fleet(open_pair) as fleet:
        clients = [await fleet.connect(await fleet.register(f"d{i}")) for i in range(30)]
        times: dict[int, list[float]] = {i: [] for i in range(30)}

        async def pump(i: int, client: Any) -> None:
            while (frame := await client.frame()) is not None:
                if frame.opcode.name == "PING":
                    times[i].append(trio.current_time())

        for i, client in enumerate(clients):
            fleet.nursery.start_soon(pump, i, client)
        await trio.sleep(4 * SETTINGS.ping_interval)
        together = [sum(moment in pinged for pinged in times.values()) for moment in set().union(*times.values())]
        assert max(together) == 2
        for pinged in times.values():
            assert len(pinged) in (3, 4)
            assert all(b - a == pytest.approx(SETTINGS.ping_interval) for a, b in itertools.pairwise(pinged))


# Calls


async def test_calls_find_their_device(autojump_clock: Any, fleet: Fleet) -> None:
    """An unknown, an offline and a silent device each have their error; the others answer."""
    device = await fleet.register()
    with pytest.raises(NotFound):
        await fleet.node.calls.call(DeviceKey("alice", "nobody"), "X")
    with pytest.raises(NotFound):
        await fleet.node.calls.call(DeviceKey("bob", "d1"), "X")
    with pytest.raises(DeviceOffline):
        await fleet.node.calls.call(DeviceKey("alice", "d1"), "X")
    client = await fleet.connect(device)
    await client.expect("Sys.GetInfo")
    started = trio.current_time()
    with pytest.raises(CallTimeout):
        await fleet.node.calls.call(DeviceKey("alice", "d1"), "X")
    assert trio.current_time() - started == SETTINGS.call_timeout
    async with trio.open_nursery() as nursery:

        async def answer() -> None:
            while (request := await client.expect("Y"))["params"] != {"n": 1}:
                pass
            await client.send({"id": request["id"], "result": [2]})

        nursery.start_soon(answer)
        assert await fleet.node.calls.call(DeviceKey("alice", "d1"), "Y", b'{"n":1}') == b"[2]"


async def test_a_device_answers_while_its_call_is_being_stored(
    autojump_clock: Any, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller gets the answer when both are there; if the notification cannot be stored, an error."""
    client = await fleet.connect(await fleet.register())
    await client.expect("Sys.GetInfo")
    append, seconds, works = fleet.hub.feed._logs.append, 0.0, True

    async def slow(*arguments: Any) -> int:
        await trio.sleep(seconds)
        if not works:
            raise StorageError("the disk is full")
        return await append(*arguments)

    monkeypatch.setattr(fleet.hub.feed._logs, "append", slow)

    async def answer() -> None:
        while True:
            request = await client.expect("X")
            await client.send({"id": request["id"], "result": trio.current_time() - started})

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        for seconds, works in ((3.0, True), (0.0, True), (1.0, False)):
            started = trio.current_time()
            if works:
                assert await fleet.node.calls.call_shown(DeviceKey("alice", "d1"), "X") == b"0.0"
            else:
                with pytest.raises(StorageError):
                    await fleet.node.calls.call_shown(DeviceKey("alice", "d1"), "X")
            assert trio.current_time() - started == seconds
        nursery.cancel_scope.cancel()
    assert len(await fleet.named("rpc.in.X")) == 2


@pytest.mark.parametrize(
    ("method", "answer", "event"),
    [
        ("OTA.Commit", {"result": None}, ota.CommitAccepted()),
        ("OTA.Commit", {"error": {"code": 404, "message": "No handler for OTA.Commit"}}, ota.CommitUnsupported()),
        ("OTA.Revert", {"result": True}, ota.RevertAccepted()),
        ("OTA.End", {"error": {"code": -1, "message": "incomplete"}}, ota.TransferEnded()),
        ("OTA.Commit", None, None),
    ],
    ids=str,
)
@pytest.mark.parametrize("works", [True, False])
async def test_a_call_has_its_effect_on_an_update_even_if_it_cannot_be_notified(
    autojump_clock: Any,
    fleet: Fleet,
    monkeypatch: pytest.MonkeyPatch,
    works: bool,
    method: str,
    answer: dict[str, Any] | None,
    event: ota.UpdateEvent | None,
) -> None:
    """The device was called, so its answer is waited for until the time-out. Then the storage's error is raised."""
    client = await fleet.connect(await fleet.register())
    await client.expect("Sys.GetInfo")
    append = fleet.hub.feed._logs.append

    async def store(*arguments: Any) -> int:
        if not works:
            raise StorageError("the disk is full")
        return await append(*arguments)

    async def answer_late() -> None:
        request = await client.expect(method)
        await trio.sleep(3)
        if answer is not None:
            await client.send({"id": request["id"], **answer})

    monkeypatch.setattr(fleet.hub.feed._logs, "append", store)
    events: list[ota.UpdateEvent] = []
    calls = UserCalls(fleet.node.calls, fleet.hub.updates, lambda key, event: events.append(event))
    started, error = trio.current_time(), None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer_late)
        try:
            await calls.call(DeviceKey("alice", "d1"), method, timeout=5)
        except (StorageError, RpcError, CallTimeout) as exc:
            error = type(exc)
    of_device = CallTimeout if answer is None else RpcError if "error" in answer else None
    assert error is (of_device if works else StorageError)
    assert events == ([] if event is None else [event])
    assert trio.current_time() - started == (5 if answer is None else 3)


@pytest.mark.parametrize("make", [Calls.call_shown, Calls.notify_shown])
@pytest.mark.parametrize("at", [0.5, 1.5])
async def test_a_caller_that_leaves_stops_no_notification(
    autojump_clock: Any,
    fleet: Fleet,
    monkeypatch: pytest.MonkeyPatch,
    at: float,
    make: Callable[[Calls, DeviceKey, str, bytes], Awaitable[object]],
) -> None:
    """Whether it leaves before or after the call is in the log: subscribers hear of the call, and it counts there."""
    client, listener = await fleet.connect(await fleet.register()), await fleet.listen()
    await client.expect("Sys.GetInfo")
    append = fleet.hub.feed._logs.append

    async def slow(*arguments: Any) -> int:
        await trio.sleep(1)
        offset = await append(*arguments)
        await trio.sleep(1)  # stored together with others, of which one is still being written
        return offset

    monkeypatch.setattr(fleet.hub.feed._logs, "append", slow)
    counted = fleet.hub.feed._gauges["alice"]._size
    started = trio.current_time()
    with trio.move_on_after(at):
        await make(fleet.node.calls, DeviceKey("alice", "d1"), "X", b"[1]")
    assert trio.current_time() - started == 2
    assert len(await fleet.named("rpc.in.X")) == 1
    assert (await listener.receive())["name"] == "rpc.in.X"
    assert fleet.hub.feed._gauges["alice"]._size > counted


async def test_a_store_that_hangs_holds_a_caller_for_a_bounded_time(
    autojump_clock: Any, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a caller that has left."""
    client = await fleet.connect(await fleet.register())
    await client.expect("Sys.GetInfo")

    async def hang(*arguments: Any) -> int:
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(fleet.hub.feed._logs, "append", hang)
    started = trio.current_time()
    with trio.move_on_after(1):
        await fleet.node.calls.call_shown(DeviceKey("alice", "d1"), "X", timeout=1e6)
    assert trio.current_time() - started == WRITES_TIMEOUT
    monkeypatch.undo()


async def test_a_call_ends_with_its_connection(autojump_clock: Any, fleet: Fleet) -> None:
    """Not with its time-out."""
    client = await fleet.connect(await fleet.register())
    await client.expect("Sys.GetInfo")
    async with trio.open_nursery() as nursery:

        async def call() -> None:
            with pytest.raises(DeviceOffline):
                await fleet.node.calls.call(DeviceKey("alice", "d1"), "X", timeout=1e6)

        nursery.start_soon(call)
        await client.expect("X")
        await client.close()
    assert trio.current_time() < 60


# Subscribers


async def test_a_listener_hears_what_happens_from_now_on(autojump_clock: Any, fleet: Fleet) -> None:
    """Or from an offset on; one beyond the end of the log is now."""
    await fleet.emit(5)
    now, then, beyond = await fleet.listen(), await fleet.listen(3), await fleet.listen(1000)
    await fleet.emit(2)
    assert [(await now.receive())["offset"] for _ in range(2)] == [5, 6]
    assert [(await then.receive())["offset"] for _ in range(4)] == [3, 4, 5, 6]
    assert [(await beyond.receive())["offset"] for _ in range(2)] == [5, 6]


async def test_a_listener_that_falls_behind_misses_nothing(autojump_clock: Any, fleet: Fleet) -> None:
    """More than its queue holds, while it reads nothing: the log has the rest."""
    client = await fleet.listen()
    await fleet.emit(3 * MAX_QUEUE)
    assert [(await client.receive())["offset"] for _ in range(3 * MAX_QUEUE)] == list(range(3 * MAX_QUEUE))


async def test_what_a_bus_has_lost_is_read_from_the_log(autojump_clock: Any, shared_fleet: Fleet) -> None:
    """With the next notification, if there is one; otherwise within `RECHECK_INTERVAL`."""
    fleet = shared_fleet
    client = await fleet.listen()
    fleet.bus.losing = True
    await fleet.emit(3)
    fleet.bus.losing = False
    await fleet.emit(1)
    started = trio.current_time()
    assert [(await client.receive())["offset"] for _ in range(4)] == [0, 1, 2, 3]
    assert trio.current_time() == started
    fleet.bus.losing = True
    await fleet.emit(2)
    assert [(await client.receive())["offset"] for _ in range(2)] == [4, 5]
    assert trio.current_time() - started <= RECHECK_INTERVAL


async def test_a_bus_that_breaks_delays_and_loses_nothing(autojump_clock: Any, shared_fleet: Fleet) -> None:
    """As soon as there is one again, listeners look into the log."""
    fleet = shared_fleet
    client = await fleet.listen()
    fleet.bus.losing = True
    await fleet.bus.break_down()
    await fleet.emit(2)
    fleet.bus.losing = False
    started = trio.current_time()
    assert [(await client.receive())["offset"] for _ in range(2)] == [0, 1]
    assert trio.current_time() - started < 2
    await fleet.emit(1)
    assert (await client.receive())["offset"] == 2


async def test_what_was_trimmed_is_not_waited_for(autojump_clock: Any, shared_fleet: Fleet) -> None:
    """A listener behind the beginning of the log goes on from there, also where the log is empty."""
    fleet = shared_fleet
    await fleet.emit(10)
    fleet.bus.losing = True
    client = await fleet.listen()
    await fleet.emit(5)
    await fleet.hub.feed.forget("alice")
    fleet.bus.losing = False
    offset = await fleet.hub.feed.emit("alice", "rpc.out.Log", "d1")
    await fleet.hub.feed.forget("alice")
    with trio.move_on_after(60):
        await client.receive()
    assert await fleet.hub.feed.emit("alice", "rpc.out.Log", "d1") == offset + 1
    while (await client.receive())["offset"] != offset + 1:
        pass


async def test_a_revoked_key_closes_what_it_opened(autojump_clock: Any, fleet: Fleet) -> None:
    """And nothing else."""
    pairs = [await fleet.open_pair() for _ in range(3)]
    for key, (ws, _) in zip(("one", "two", None), pairs, strict=True):
        listener = Subscriber(fleet.hub.feed, "alice", ws, key=key)
        fleet.nursery.start_soon(fleet.node.subscribers.serve, listener)
    await trio.testing.wait_all_tasks_blocked()
    fleet.node.key_revoked("alice", "one")
    assert await pairs[0][1].close_code() == 1008
    await trio.testing.wait_all_tasks_blocked()
    assert (len(fleet.node.devices), len(fleet.node.subscribers)) == (0, 2)
    fleet.node.key_revoked("alice", None)
    assert await pairs[1][1].close_code() == 1008
    assert await pairs[2][1].close_code() == 1008


# What goes wrong


async def test_storage_that_fails_sends_the_device_away(
    autojump_clock: Any, fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    """1013: it connects again later, and reports anew; and it is shown offline once that can be stored."""
    client = await fleet.connect(await fleet.register())
    await client.expect("Sys.GetInfo")
    fleet.documents.failing = True
    await client.send({"method": "Dash.Shadow.Update", "params": {"state": {"reported": {"x": 1}}}})
    assert await client.close_code() == 1013
    await trio.sleep(30)
    assert await fleet.told() == ["online"]
    fleet.documents.failing = False
    await trio.sleep(5)
    assert await fleet.told() == ["online", "offline"]
    assert not (await fleet.hub.presence.get(DeviceKey("alice", "d1"))).online


async def test_a_background_task_that_crashes_harms_no_other(
    autojump_clock: Any, fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged."""

    async def crash() -> None:
        raise RuntimeError("a bug")

    client = await fleet.connect(await fleet.register())
    fleet.node.background.spawn(crash)
    await client.expect("Sys.GetInfo")
    assert "a bug" in caplog.text


async def test_a_spawned_task_outlives_its_spawner(autojump_clock: Any, fleet: Fleet) -> None:
    """The node's nursery is not the handler's."""
    done = trio.Event()

    async def work() -> None:
        await trio.sleep(10)
        done.set()

    with trio.CancelScope() as handler:
        fleet.node.background.spawn(work)
        handler.cancel()
        await trio.lowlevel.checkpoint()
    await done.wait()


# The end


async def test_leaving_says_goodbye_to_every_peer(autojump_clock: Any, open_pair: Any) -> None:
    """1001 for devices and subscribers; a peer that answers delays nothing, and every device is stored as offline."""
    async with open_fleet(open_pair) as fleet:
        clients = [await fleet.connect(await fleet.register(f"d{i}")) for i in range(5)]
        clients.append(await fleet.listen())
        codes: list[int | None] = []

        async def be_told(client: Any) -> None:
            codes.append(await client.close_code())

        for client in clients:
            fleet.nursery.start_soon(be_told, client)
        await trio.testing.wait_all_tasks_blocked()
        started = trio.current_time()
        await fleet.node.shut_down()
        assert trio.current_time() == started
        records = await fleet.hub.presence.of("alice")
        assert not any(record.online for record in records.values())
        assert (await fleet.told()).count("offline") == 5
        await trio.testing.wait_all_tasks_blocked()
        assert codes == [1001] * 6


async def test_leaving_does_not_wait_for_the_rude(autojump_clock: Any, open_pair: Any) -> None:
    """Devices that say no goodbye are waited for no longer than `SHUTDOWN_TIMEOUT`, and stored as offline too."""
    async with open_fleet(open_pair) as fleet:
        for i in range(3):
            await fleet.connect(await fleet.register(f"d{i}"))
        await fleet.listen()
        await trio.testing.wait_all_tasks_blocked()
        started = trio.current_time()
        await fleet.node.shut_down()
        assert trio.current_time() - started <= SHUTDOWN_TIMEOUT
        records = await fleet.hub.presence.of("alice")
        assert not any(record.online for record in records.values())


async def test_a_device_that_comes_while_it_goes_down_is_sent_away(autojump_clock: Any, open_pair: Any) -> None:
    """1001, whether it began to connect before or after."""
    async with open_fleet(open_pair) as fleet:
        before, after = await fleet.register("before"), await fleet.register("after")
        fleet.documents.gate = gate = trio.Event()
        early = await fleet.connect(before)
        await trio.testing.wait_all_tasks_blocked()
        await fleet.node.shut_down()
        gate.set()
        late = await fleet.connect(after)
        assert await early.close_code() == 1001
        assert await late.close_code() == 1001


async def test_draining_has_devices_come_again_one_after_the_other(autojump_clock: Any, open_pair: Any) -> None:
    """1012 for devices and subscribers, evenly spread over the seconds; a device that comes meanwhile is told so
    immediately. Without any there is nothing to wait for."""
    async with open_fleet(open_pair) as fleet:
        started = trio.current_time()
        await fleet.node.drain(10.0)
        assert trio.current_time() == started
    async with open_fleet(open_pair) as fleet:
        late = await fleet.register("late")
        clients = [await fleet.connect(await fleet.register(f"d{i}")) for i in range(4)]
        clients.append(await fleet.listen())
        started, told = trio.current_time(), []

        async def be_told(client: Any) -> None:
            assert await client.close_code() == 1012
            told.append(trio.current_time() - started)

        for client in clients:
            fleet.nursery.start_soon(be_told, client)

        async def come_late() -> None:
            await trio.sleep(5.0)
            client = await fleet.connect(late)
            fleet.nursery.start_soon(be_told, client)

        fleet.nursery.start_soon(come_late)
        await fleet.node.drain(10.0)
        assert trio.current_time() - started == pytest.approx(10.0)
        assert sorted(told) == pytest.approx([0.0, 0.0, 2.5, 5.0, 5.0, 7.5])
        assert not fleet.node.devices


async def test_what_comes_after_the_end_is_not_run(autojump_clock: Any, open_pair: Any) -> None:
    """A connection may outlive its node: it ends quietly, and the next node sends what is left to notify."""
    ran = []

    async def work() -> None:
        ran.append(True)

    async with open_fleet(open_pair) as fleet:
        pass
    fleet.node.background.spawn(work)
    await trio.testing.wait_all_tasks_blocked()
    assert ran == []


async def test_devices_of_a_process_that_died_are_offline(autojump_clock: Any) -> None:
    """A node that starts tells what its predecessor could not."""
    backend = Backend(MemoryDocuments(), MemoryLogs(), MemoryBlobs(), MemoryBus())
    hub = Hub(backend, now=lambda: EPOCH, monotonic=lambda: 0.0, entropy=os.urandom)
    await hub.registry.create("alice", "d1")
    await hub.presence.claim(DeviceKey("alice", "d1"), "predecessor")
    async with open_node(hub):
        await trio.testing.wait_all_tasks_blocked()
        assert not (await hub.presence.get(DeviceKey("alice", "d1"))).online
        names = [decode(item.frame)["name"] for item in await hub.feed.page("alice", 0)]
        assert names == ["offline"]


# Unreadable frames, and devices that come and go


async def test_a_broken_report_is_seen_by_people(autojump_clock: Any, fleet: Fleet) -> None:
    """With what is wrong, where, and how it begins: once in a minute for each kind, and then how often."""
    client = await fleet.connect(await fleet.register())
    report = b'{"method":"Dash.Shadow.Update","params":{"state":{"reported":{"t":nan}}}}'
    await client.send(report, report, b"7", report)
    await trio.testing.wait_all_tasks_blocked()
    fleet.attend(client)
    first, second = await fleet.named("rejected")
    assert first["id"] == "d1"
    assert first["data"]["kind"] == "not-json"
    assert '{"t":nan}' in first["data"]["reason"]
    assert first["data"]["data"] == report.decode()
    assert first["data"]["size"] == len(report)
    assert second["data"] == {"kind": "not-json-rpc", "reason": "Invalid Request", "data": "7", "size": 1}
    await trio.sleep(61)
    await client.send(report)
    await trio.testing.wait_all_tasks_blocked()
    assert [each["data"].get("count") for each in await fleet.named("rejected")] == [None, None, 3]


async def test_garbage_does_not_feed_garbage(
    autojump_clock: Any, fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    """Eight frames are answered, one warning is logged; after 64 in a minute the device is closed, and not let in."""
    device = await fleet.register()
    client = await fleet.connect(device)
    await client.send(*[b"{"] * 63)
    await client.send({"id": 1, "method": "Dash.Shadow.Get"})
    answers = [await client.receive() for _ in range(9)]
    assert [answer.get("error", {}).get("code") for answer in answers] == [-32700] * 8 + [None]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    fleet.node.devices.conduct.check(device.token_hash, trio.current_time())
    await client.send(b"{")
    assert await client.close_code() == 1008
    with pytest.raises(Busy) as refused:
        fleet.node.devices.conduct.check(device.token_hash, trio.current_time())
    assert 0 < refused.value.retry_after <= 10
    assert len(caplog.records) == 2
    assert len(await fleet.named("rejected")) == 1


@pytest.mark.parametrize("clones", [True, False], ids=["two devices with one token", "one that comes and goes"])
async def test_presence_that_flaps_costs_the_log_little(autojump_clock: Any, fleet: Fleet, clones: bool) -> None:
    """The first changes are told one by one, then what the last was and how many there were: nothing is wrong in the
    end, and the log is not full of it."""
    device = await fleet.register()
    for _ in range(100):
        client = await fleet.connect(device)
        await trio.testing.wait_all_tasks_blocked()
        if not clones:
            await client.close()
            assert await client.close_code() == 1000
            await trio.testing.wait_all_tasks_blocked()
    told = await fleet.told()
    assert len(told) == MAX_CHANGES
    if clones:
        fleet.attend(client)
    await trio.sleep(61)
    told = await fleet.told()
    assert len(told) == MAX_CHANGES + 1
    last = (await fleet.named("online" if clones else "offline"))[-1]
    assert last["data"]["changes"] == (100 if clones else 200) - MAX_CHANGES
    await trio.sleep(121)
    client = await fleet.connect(device)
    await trio.testing.wait_all_tasks_blocked()
    assert (await fleet.named("online"))[-1].get("data") is None
    assert len(await fleet.told()) == MAX_CHANGES + 2


def test_what_is_held_back_of_presence_is_told_at_the_end(open_pair: Any) -> None:
    """A node that goes down says last that the device is offline, however often it came and went before."""

    async def main() -> None:
        async with open_fleet(open_pair) as fleet:
            device = await fleet.register()
            for _ in range(3 * MAX_CHANGES):
                client = await fleet.connect(device)
                await trio.testing.wait_all_tasks_blocked()
            fleet.attend(client)
        assert (await fleet.told())[-1] == "offline"
        assert len(await fleet.told()) <= MAX_CHANGES + 2

    virtual(main)


@pytest.mark.parametrize("failures", [0, 1])
async def test_no_change_of_presence_is_counted_twice(
    autojump_clock: Any, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    """Nor is one missed, if the node goes down while changes are being stored, or they cannot be stored at first."""
    feed, key = PresenceFeed(fleet.hub, fleet.node.background), DeviceKey("alice", "d1")
    append, left = fleet.hub.feed._logs.append, failures
    for number in range(2 * MAX_CHANGES):
        await feed.notify(key, "offline" if number % 2 else "online")

    async def slow(*arguments: Any) -> int:
        nonlocal left
        await trio.sleep(2)
        if left:
            left -= 1
            raise StorageError("the disk is full")
        return await append(*arguments)

    monkeypatch.setattr(fleet.hub.feed._logs, "append", slow)
    await trio.sleep(FLAP_INTERVAL + 1)  # the changes are being stored
    await feed.close()
    await feed.notify(key, "online")
    await trio.sleep(FLAP_INTERVAL)
    told = [decode(item.frame) for item in await fleet.hub.feed.page("alice", 0)]
    counts = [each.get("data", {}).get("changes", 1) for each in told]
    assert sum(counts) == 2 * MAX_CHANGES + 1
    assert min(counts) > 0
    assert len(told) <= MAX_CHANGES + 2


@pytest.mark.parametrize(
    ("pause", "hours", "most"),
    [(0.05, 0.1, 16 + 4), (3.0, 2.0, 16 + 8), pytest.param(30.0, 24.0, 16 + 30, marks=pytest.mark.proof)],
)
async def test_presence_that_flaps_for_long(
    autojump_clock: Any, fleet: Fleet, pause: float, hours: float, most: int
) -> None:
    """Of the events that an account's log keeps for a month it costs a small share, however fast it is; the last change
    is told a minute after it, and the sum of all is right.
    """
    feed, key = PresenceFeed(fleet.hub, fleet.node.background), DeviceKey("alice", "d1")
    for _ in range(MAX_CHANGES):
        await feed.notify(key, "online")
    count = int(hours * 3600 / pause)
    for number in range(count):
        await feed.notify(key, "offline" if number % 2 else "online")
        await trio.sleep(pause)
    await feed.notify(key, "online")
    await trio.sleep(FLAP_INTERVAL + 1)
    told = [decode(item.frame) for item in await fleet.hub.feed.page("alice", 0)]
    assert len(told) <= most
    assert sum(each.get("data", {}).get("changes", 1) for each in told) == MAX_CHANGES + count + 1
    assert told[-1]["name"] == "online"
    assert 31 * 24 * 3600 / MAX_FLAP_INTERVAL < KEEP_EVENTS / 20
    await feed.notify(key, "offline")
    assert decode((await fleet.hub.feed.page("alice", 0))[-1].frame).get("data") is None


async def test_a_device_whose_presence_is_forgotten_leaves_no_task(autojump_clock: Any, fleet: Fleet) -> None:
    """Also where changes of it were held back."""
    feed = PresenceFeed(fleet.hub, fleet.node.background)
    tasks = len(fleet.node.background._nursery.child_tasks)
    for number in range(20):
        key = DeviceKey("alice", f"d{number}")
        for _ in range(2 * MAX_CHANGES):
            await feed.notify(key, "online")
        feed.forget(key)
    await trio.sleep(2 * FLAP_INTERVAL)
    assert len(fleet.node.background._nursery.child_tasks) <= tasks


async def test_a_device_that_was_removed_is_not_told_of_later(autojump_clock: Any, fleet: Fleet) -> None:
    """What was held back of its presence is dropped with it."""
    created = await fleet.hub.create_device("alice", "d1")
    for _ in range(3 * MAX_CHANGES):
        client = await fleet.connect(created.device)
        await trio.testing.wait_all_tasks_blocked()
    await fleet.hub.remove_device(DeviceKey("alice", "d1"))
    await client.close_code()
    await trio.sleep(200)
    names = [decode(item.frame)["name"] for item in await fleet.hub.feed.page("alice", 0)]
    assert "deleted" in names
    assert names.index("deleted") >= len(names) - 2


# Progress


async def test_a_notification_a_chunk_is_merged(autojump_clock: Any, fleet: Fleet) -> None:
    """A device that tells its progress for every chunk makes one notification a second, the last of all among them;
    what else it says stays in its order."""
    client = await fleet.connect(await fleet.register())
    fleet.attend(client)
    for percent in range(101):
        await client.send({"method": "State.Set", "params": {"ota": {"percent": percent}}})
        await trio.sleep(0.1)
    await trio.sleep(2)
    told = [each["data"]["ota"]["percent"] for each in await fleet.named("rpc.out.State.Set")]
    assert told[0] == 0
    assert told[-1] == 100
    assert told == sorted(told)
    assert 10 <= len(told) <= 12
    for n in range(3):
        await client.send({"method": "State.Set", "params": {"ota": {"percent": n}}})
    await client.send({"method": "Done"}, {"method": "State.Set", "params": {"ota": {"percent": 9}, "on": True}})
    await trio.testing.wait_all_tasks_blocked()
    names = [decode(item.frame)["name"] for item in await fleet.hub.feed.page("alice", 0)]
    assert names[-4:] == ["rpc.out.State.Set", "rpc.out.State.Set", "rpc.out.Done", "rpc.out.State.Set"]
    await client.send({"method": "State.Set", "params": {"ota": {"percent": 50}}})
    await client.close()
    await trio.testing.wait_all_tasks_blocked()
    names = [decode(item.frame)["name"] for item in await fleet.hub.feed.page("alice", 0)]
    assert names[-2:] == ["rpc.out.State.Set", "offline"]


async def test_progress_that_is_reported_to_the_shadow_is_merged(autojump_clock: Any, fleet: Fleet) -> None:
    """A device that reports the percentage of each chunk changes its shadow once a second; the last value counts, in
    its place among the other reports, and also when the link ends.
    """

    def report(percent: int) -> dict[str, Any]:
        return {
            "method": "Dash.Shadow.Update",
            "params": {"state": {"reported": {"ota": {"progress_percent": percent}}}},
        }

    async def shadow() -> tuple[Any, int]:
        found = await fleet.hub.shadows.get(DeviceKey("alice", "d1"))
        return (found.reported or {})["ota"]["progress_percent"], found.version

    client = await fleet.connect(await fleet.register())
    for percent in range(101):
        await client.send(report(percent), {"method": "Log", "params": {"data": "chunk"}})
        await trio.sleep(0.05)
    await trio.sleep(1)
    percent, version = await shadow()
    assert (percent, version <= 8) == (100, True)
    await client.send(report(7), {"method": "Dash.Shadow.Get", "id": 1})
    while (answer := await client.receive()).get("id") != 1:
        pass
    assert answer["result"]["reported"]["ota"]["progress_percent"] == 7
    await client.send(report(8), {"method": "Dash.Shadow.Update", "params": {"state": {"reported": {"ota": None}}}})
    await trio.testing.wait_all_tasks_blocked()
    assert "ota" not in ((await fleet.hub.shadows.get(DeviceKey("alice", "d1"))).reported or {})
    await client.send(report(9), report(10))
    await client.close()
    await trio.testing.wait_all_tasks_blocked()
    assert (await shadow())[0] == 10


@pytest.mark.parametrize("leaves", [False, True])
async def test_progress_that_is_held_back_outlives_a_failure_of_the_storage(
    autojump_clock: Any, fleet: Fleet, leaves: bool
) -> None:
    """It is stored once the storage works again, whether the device stays or its connection ends meanwhile."""
    client = await fleet.connect(await fleet.register())
    for percent in (50, 100):
        params = {"state": {"reported": {"ota": {"percent": percent}}}}
        await client.send({"method": "Dash.Shadow.Update", "params": params})
    await trio.testing.wait_all_tasks_blocked()
    fleet.documents.failing = True
    await trio.sleep(2)
    if leaves:
        await client.close()
        await trio.sleep(2)
    fleet.documents.failing = False
    await trio.sleep(10)
    assert (DeviceKey("alice", "d1") in fleet.node.devices) is not leaves
    reported = (await fleet.hub.shadows.get(DeviceKey("alice", "d1"))).reported
    assert reported == {"ota": {"percent": 100}}


@pytest.mark.parametrize("step", [-86_400.0, 3600.0])
async def test_presence_follows_a_wall_clock_that_is_set(autojump_clock: Any, fleet: Fleet, step: float) -> None:
    """A device that is connected stays online, and was last heard as long ago as it was, by either clock."""
    key, device = DeviceKey("alice", "d1"), await fleet.register()
    client = await fleet.connect(device)
    await client.send({"method": "Log"})
    await trio.testing.wait_all_tasks_blocked()
    await trio.sleep(5)
    fleet.ahead[0] = step
    now = fleet.hub.now()
    assert fleet.node.devices.last_heard(key) == pytest.approx(now - 5, abs=1.5)
    assert (await fleet.hub.presence.get(key)).online
    await client.close()
    await trio.testing.wait_all_tasks_blocked()
    record = await fleet.hub.presence.get(key)
    assert (record.online, record.last_seen) == (False, pytest.approx(now, abs=1.5))
    fleet.attend(await fleet.connect(device))
    await trio.testing.wait_all_tasks_blocked()
    assert (await fleet.hub.presence.get(key)).online
    assert fleet.node.devices.last_heard(key) == pytest.approx(fleet.hub.now(), abs=1.5)


# Deltas that do not fit


def big(size: int) -> dict[str, Any]:
    """A shadow update that leaves a delta of about that size."""
    return {"state": {"desired": {"config": "x" * size}}}


@pytest.mark.parametrize("by", ["people", "platform"])
async def test_a_delta_that_does_not_fit_is_not_sent(autojump_clock: Any, open_pair: Any, by: str) -> None:
    """People are told, once a minute; what fits is still sent, and the device can ask for the rest."""
    settings = attrs.evolve(SETTINGS, delta_limits={"esp8266": 4096} if by == "platform" else {})
    async with open_fleet(open_pair, settings) as fleet:
        device = await fleet.register()
        if by == "people":
            await fleet.hub.set_delta_limit(DeviceKey("alice", "d1"), 4096)
        report = {"state": {"reported": {"ota": {"arch": "esp8266"}}}}
        await fleet.hub.shadows.update(DeviceKey("alice", "d1"), report)
        await fleet.hub.shadows.update(DeviceKey("alice", "d1"), big(5000))
        for _ in range(5):  # each connect would be another try
            client = await fleet.connect(device)
            await trio.testing.wait_all_tasks_blocked()
            await client.close()
            await client.close_code()
        client = await fleet.connect(device)
        await client.send({"id": 1, "method": "Dash.Shadow.Get"})
        answer = await client.receive()
        assert answer["id"] == 1, "a delta was sent"
        assert len(answer["result"]["delta"]["config"]) == 5000
        [told] = await fleet.named("delta.withheld")
        assert told["data"]["limit"] == 4096
        assert told["data"]["size"] > 5000
        assert told["data"]["version"] == 2
        await fleet.hub.shadows.update(DeviceKey("alice", "d1"), big(3000))
        assert len((await client.expect("Shadow.Delta"))["params"]["state"]["config"]) == 3000


@pytest.mark.parametrize(
    ("answer", "limit"),
    [
        ({"result": {"arch": "esp8266"}}, 4096),
        ({"result": {"arch": "esp32"}}, 6000),
        ({"result": {"arch": "linux"}}, None),
        ({"result": {"fw_version": "1.0"}}, 4096),
        ({"result": {"arch": "x" * 80_000}}, 4096),
        ({"error": {"code": 404, "message": "No handler for Sys.GetInfo"}}, 4096),
        (None, 4096),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_a_delta_waits_until_the_platform_is_known(
    autojump_clock: Any, open_pair: Any, answer: dict[str, Any] | None, limit: int | None
) -> None:
    """On its first connect a device is introduced before a delta is sent that may be too large. If its platform stays
    unknown, the smallest limit counts.
    """
    settings = attrs.evolve(SETTINGS, delta_limits={"esp8266": 4096, "esp32": 6000})
    async with open_fleet(open_pair, settings) as fleet:
        device = await fleet.register()
        for size in (5000, 6500):
            await fleet.hub.shadows.update(DeviceKey("alice", "d1"), big(size))
        client = await fleet.connect(device)
        asked = await client.receive()
        assert asked["method"] == "Sys.GetInfo", "a delta was sent before"
        if answer is not None:
            await client.send({"id": asked["id"], **answer})
        if limit is None:
            assert len((await client.expect("Shadow.Delta"))["params"]["state"]["config"]) == 6500
        else:
            await trio.sleep(2 * SETTINGS.call_timeout)
            assert [each["data"]["limit"] for each in await fleet.named("delta.withheld")] == [limit]
        await client.send({"id": 1, "method": "Dash.Shadow.Get"})
        assert (await client.receive())["id"] == 1, "the delta was sent, or sent twice"


@pytest.mark.parametrize("platforms", [{}, {"esp32": 4096}, {"esp8266": 4096}])
async def test_without_a_limit_any_delta_is_sent(
    autojump_clock: Any, open_pair: Any, platforms: dict[str, int]
) -> None:
    """There is none unless people set one; and a device's own, also "none", counts more than that of its platform."""
    settings = attrs.evolve(SETTINGS, delta_limits=platforms)
    async with open_fleet(open_pair, settings) as fleet:
        client = await fleet.connect(await fleet.register())
        await fleet.hub.shadows.update(DeviceKey("alice", "d1"), {"state": {"reported": {"ota": {"arch": "esp8266"}}}})
        if "esp8266" in platforms:
            await fleet.hub.set_delta_limit(DeviceKey("alice", "d1"), 0)
        await fleet.hub.shadows.update(DeviceKey("alice", "d1"), big(20_000))
        assert len((await client.expect("Shadow.Delta"))["params"]["state"]["config"]) == 20_000
        assert await fleet.named("delta.withheld") == []


async def test_the_newest_delta_counts_whatever_its_size(autojump_clock: Any, fleet: Fleet) -> None:
    """A large one that is looked at is not sent after a smaller, newer one."""
    client = await fleet.connect(await fleet.register())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fleet.hub.shadows.update, DeviceKey("alice", "d1"), big(5000))
        nursery.start_soon(fleet.hub.shadows.update, DeviceKey("alice", "d1"), big(5))
    await trio.testing.wait_all_tasks_blocked()
    await client.send({"id": 1, "method": "Dash.Shadow.Get"})
    versions = []
    while (message := await client.receive()).get("id") != 1:
        if message["method"] == "Shadow.Delta":
            versions.append(message["params"]["version"])
    assert versions == sorted(versions)
    assert versions[-1] == 2
