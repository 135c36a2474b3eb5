"""Several nodes on one store: two of them over shared memory, in virtual time."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from mdash_backends.memory import MemoryBlobs, MemoryBus, MemoryDocuments, MemoryLogs
from mdashcore import _json
from mdashcore._errors import (
    Busy,
    CallTimeout,
    DeviceOffline,
    NotFound,
    RpcError,
    StorageError,
    TooLarge,
    Unauthenticated,
)
from mdashcore.hub import Hub
from mdashcore.hub.fleet.account_summary import UNFOLLOWED_TIME
from mdashcore.hub.nodes import BEAT_INTERVAL, DEAD_AFTER
from mdashcore.identity import Device, DeviceKey
from mdashcore.notifications import decode
from mdashcore.storage import SHARED, Backend
from mdashcore.trio.cluster import peers as peers_module
from mdashcore.trio.cluster.interests import LINGER
from mdashcore.trio.cluster.notices import SENDERS
from mdashcore.trio.cluster.peers import MAX_INBOX
from mdashcore.trio.connections.calls import MAX_PARAMS
from mdashcore.trio.connections.device_connections import CHECK_INTERVAL
from mdashcore.trio.connections.subscribers import Subscriber
from mdashcore.trio.node import EXPELLED_CHECK_TIME, Node, open_node

EPOCH = 1_700_000_000.0


class Documents(MemoryDocuments):
    """Documents that can be away, or lose the answer to the next write of a collection."""

    away = False
    forgetful = ""

    async def get(self, collection: str, key: str) -> Any:
        self._check()
        return await super().get(collection, key)

    async def put(self, collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
        self._check()
        version = await super().put(collection, key, body, expected=expected)
        if collection == self.forgetful:
            self.forgetful = ""
            raise StorageError("the connection broke")
        return version

    async def scan(self, collection: str, prefix: str = "") -> AsyncIterator[Any]:
        self._check()
        async for document in super().scan(collection, prefix):
            yield document

    def _check(self) -> None:
        if self.away:
            raise StorageError("the store is away")


class Bus(MemoryBus):
    """A bus that can be away: what is told meanwhile is lost, and subscriptions end. Or it loses without a word."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.losing = False
        self._heard: set[str] = set()

    async def publish(self, topic: str, message: bytes) -> None:
        if not self.away and not self.losing:
            await super().publish(topic, message)

    async def go_away(self) -> None:
        """End every subscription, and take nothing more."""
        self.away = True
        for topic in self._heard:
            await super().publish(topic, b"")

    @asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[AsyncIterator[bytes]]:
        async def until_away() -> AsyncIterator[bytes]:
            async for message in messages:
                if not message:
                    raise StorageError("the bus is away")
                yield message

        if self.away:
            raise StorageError("the bus is away")
        self._heard.add(topic)
        async with super().subscribe(topic) as messages, aclosing(until_away()) as watched:
            yield watched


class Heard:
    """The bus as one node sees it, with the messages that its subscriptions gave it."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.messages: list[tuple[str, bytes]] = []
        self.topics: set[str] = set()

    async def publish(self, topic: str, message: bytes) -> None:
        await self._bus.publish(topic, message)

    @asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[AsyncIterator[bytes]]:
        async def count() -> AsyncIterator[bytes]:
            async for message in messages:
                self.messages.append((topic, message))
                yield message

        async with self._bus.subscribe(topic) as messages, aclosing(count()) as counted:
            self.topics.add(topic)
            try:
                yield counted
            finally:
                self.topics.discard(topic)


@attrs.define
class Cluster:
    """Nodes, each with a hub of its own, and what connects to them."""

    documents: Documents
    bus: Bus
    backend: Backend
    nursery: trio.Nursery
    open_pair: Any
    stack: AsyncExitStack
    nodes: list[Node] = attrs.field(factory=list)

    def make_hub(self) -> Hub:
        """The hub of one more node."""
        start = trio.current_time()
        return Hub(
            attrs.evolve(self.backend, bus=Heard(self.bus)),
            now=lambda: EPOCH + trio.current_time() - start,
            monotonic=trio.current_time,
            entropy=os.urandom,
        )

    async def add(self) -> None:
        """One more node, for as long as the cluster."""
        self.nodes.append(await self.stack.enter_async_context(open_node(self.make_hub())))

    async def register(self, id: str = "d1") -> Device:
        """A device that may connect."""
        return (await self.nodes[0].hub.registry.create("alice", id)).device

    async def connect(self, node: Node, device: Device) -> Any:
        """A connection to that node, introduced: the client's end. Only the test reads it."""
        ws, client = await self.open_pair()

        async def serve() -> None:
            try:
                await node.devices.serve(device, ws)
            except StorageError:
                pass
            await trio.aclose_forcefully(client.server_end)

        self.nursery.start_soon(serve)
        question = await client.expect("Sys.GetInfo")
        await client.send({"id": question["id"], "result": {"fw_id": "1"}})
        await trio.testing.wait_all_tasks_blocked()
        return client

    async def listen(self, node: Node, key: str, authenticate: Any = None) -> Any:
        """A listener's connection to that node: the client's end."""
        ws, client = await self.open_pair()
        listener = Subscriber(node.hub.feed, "alice", ws, key=key)

        async def serve() -> None:
            await node.subscribers.serve(listener, authenticate=authenticate)
            await trio.aclose_forcefully(client.server_end)

        self.nursery.start_soon(serve)
        await trio.testing.wait_all_tasks_blocked()
        return client

    def answer(self, client: Any, method: str, **answer: Any) -> None:
        """Have the device answer the next call of that method."""

        async def run() -> None:
            request = await client.expect(method)
            await client.send({"id": request["id"], **answer})

        self.nursery.start_soon(run)

    def attend(self, client: Any) -> None:
        """Have a client read, and answer pings, from now on."""

        async def pump() -> None:
            while await client.pump():
                pass

        self.nursery.start_soon(pump)

    async def told(self) -> list[str]:
        """Online and offline, as they were told."""
        names = [decode(item.frame)["name"] for item in await self.nodes[0].hub.feed.page("alice", 0)]
        return [name for name in names if name in ("online", "offline")]


@pytest.fixture
async def cluster(open_pair: Any) -> AsyncIterator[Cluster]:
    """Two nodes."""
    documents, bus = Documents(), Bus()
    backend = Backend(documents, MemoryLogs(), MemoryBlobs(), bus, frozenset({SHARED}))
    async with trio.open_nursery() as nursery:
        async with AsyncExitStack() as stack:
            cluster = Cluster(documents, bus, backend, nursery, open_pair, stack)
            await cluster.add()
            await cluster.add()
            yield cluster
        nursery.cancel_scope.cancel()


def heard(node: Node) -> Heard:
    """What the bus has given a node."""
    assert isinstance(node.hub.bus, Heard)
    return node.hub.bus


async def test_a_node_without_clients_hears_nothing(autojump_clock: Any, cluster: Cluster) -> None:
    """Reports, changed shadows, calls, subscribers, an update and a removal on another node: not one message."""
    busy, idle = cluster.nodes
    client = await cluster.connect(busy, await cluster.register())
    cluster.attend(client)
    listener = await cluster.listen(busy, "k1")
    cluster.attend(listener)
    key = DeviceKey("alice", "d1")
    for number in range(20):
        await client.send({"method": "Dash.Shadow.Update", "params": {"state": {"reported": {"n": number}}}})
        await busy.hub.shadows.update(key, {"state": {"desired": {"n": -number}}})
    await busy.hub.registry.renew_token(key)
    await busy.hub.remove_device(key)
    busy.key_revoked("alice", "k1")
    await trio.sleep(2 * CHECK_INTERVAL)
    assert len(heard(busy).messages) > 30
    assert heard(idle).messages == []
    assert heard(idle).topics == {"nodes", f"node.{idle.id}"}


async def test_only_the_node_that_holds_a_device_is_told_of_it(autojump_clock: Any, cluster: Cluster) -> None:
    """Of a changed shadow, a renewed token, a removal and a newer connection: one message each, to that node."""
    here, there = cluster.nodes
    async with open_node(cluster.make_hub()) as third:
        changed = await cluster.connect(there, await cluster.register("changed"))
        renewed = await cluster.connect(there, await cluster.register("renewed"))
        removed = await cluster.connect(there, await cluster.register("removed"))
        device = await cluster.register("moved")
        moved = await cluster.connect(there, device)
        await here.hub.shadows.update(DeviceKey("alice", "changed"), {"state": {"desired": {"on": True}}})
        assert (await changed.expect("Shadow.Delta"))["params"]["state"] == {"on": True}
        await here.hub.registry.renew_token(DeviceKey("alice", "renewed"))
        await here.hub.remove_device(DeviceKey("alice", "removed"))
        for client in (renewed, removed):
            assert await client.close_code() == 1008
        await cluster.connect(here, device)
        assert await moved.close_code() == 1008
        await trio.testing.wait_all_tasks_blocked()
        assert heard(third).messages == []
        told = [message.partition(b" ")[2] for topic, message in heard(there).messages if topic == f"node.{there.id}"]
        for id in ("changed", "renewed", "removed", "moved"):
            assert any(b"Device.Changed" in frame and id.encode() in frame for frame in told), id


async def test_a_subscriber_hears_of_all_nodes(autojump_clock: Any, cluster: Cluster) -> None:
    """From the moment of its connect, although the subscription to the topic begins later; and of its account only."""
    here, there = cluster.nodes
    listener = await cluster.listen(here, "k1")
    await there.hub.feed.emit("bob", "n", "d1")
    for number in range(3):
        await there.hub.feed.emit("alice", "n", f"d{number}")
        assert (await listener.receive())["id"] == f"d{number}"
    assert [topic for topic, _ in heard(here).messages] == ["feed.alice"] * 3


async def test_nothing_is_lost_before_the_subscription_is_live(autojump_clock: Any, cluster: Cluster) -> None:
    """The bus takes a second to acknowledge it: what was emitted meanwhile is read from the log."""
    here, there = cluster.nodes
    subscribe = heard(here).subscribe

    @asynccontextmanager
    async def slowly(topic: str) -> AsyncIterator[AsyncIterator[bytes]]:
        await trio.sleep(1)
        async with subscribe(topic) as messages:
            yield messages

    heard(here).subscribe = slowly  # type: ignore[method-assign]
    listener = await cluster.listen(here, "k1")
    for number in range(3):
        await there.hub.feed.emit("alice", "n", f"d{number}")
    began = trio.current_time()
    assert [(await listener.receive())["id"] for _ in range(3)] == ["d0", "d1", "d2"]
    assert trio.current_time() - began <= 1


async def test_a_topic_is_left_a_little_after_its_last_client(autojump_clock: Any, cluster: Cluster) -> None:
    """A page that is loaded again does not subscribe anew; one that has gone leaves no topic."""
    here, _ = cluster.nodes
    first = await cluster.listen(here, "k1")
    await first.close()
    await trio.sleep(LINGER / 2)
    assert "feed.alice" in heard(here).topics
    second = await cluster.listen(here, "k1")
    await trio.sleep(2 * LINGER)
    assert "feed.alice" in heard(here).topics
    await second.close()
    await trio.sleep(LINGER + 1)
    assert "feed.alice" not in heard(here).topics


async def test_more_notices_than_can_wait_are_one_for_the_account(autojump_clock: Any, cluster: Cluster) -> None:
    """The nodes then check all devices of it."""
    here, there = cluster.nodes
    clients = [await cluster.connect(there, await cluster.register(f"d{number}")) for number in range(5)]
    assert here.others.inbox is not None
    here.others.inbox.notices._most = 2
    for number in range(5):
        await here.hub.registry.renew_token(DeviceKey("alice", f"d{number}"))
    for client in clients:
        assert await client.close_code() == 1008


async def test_a_change_while_a_device_moves_reaches_it(autojump_clock: Any, cluster: Cluster) -> None:
    """It came to the node that still held the older connection, and took the newer one for its own business."""
    here, there = cluster.nodes
    device = await cluster.register()
    cluster.attend(await cluster.connect(here, device))
    cluster.bus.losing = True  # so that `here` does not notice the newer connection
    moved = await cluster.connect(there, device)
    cluster.bus.losing = False
    await here.hub.shadows.update(device.key, {"state": {"desired": {"on": True}}})
    assert (await moved.expect("Shadow.Delta"))["params"]["state"] == {"on": True}


async def test_any_node_can_call_any_device(autojump_clock: Any, cluster: Cluster) -> None:
    """Params and result pass through unchanged, and the call is shown once."""
    here, there = cluster.nodes
    client = await cluster.connect(there, await cluster.register())
    cluster.answer(client, "Add", result={"sum": 12345678901234567890, "float": 1.50})
    result = await here.user_calls.call(DeviceKey("alice", "d1"), "Add", b'{"a": 1.0}', timeout=5)
    assert result == b'{"sum":12345678901234567890,"float":1.5}'
    names = [decode(item.frame)["name"] for item in await here.hub.feed.page("alice", 0)]
    assert names.count("rpc.in.Add") == 1


async def test_a_notification_goes_to_the_device_of_another_node(autojump_clock: Any, cluster: Cluster) -> None:
    """As to one that is connected here."""
    here, there = cluster.nodes
    client = await cluster.connect(there, await cluster.register())
    await here.user_calls.notify(DeviceKey("alice", "d1"), "Blink", b'{"n":3}')
    assert (await client.expect("Blink"))["params"] == {"n": 3}


async def test_what_goes_wrong_elsewhere_is_the_same_error(autojump_clock: Any, cluster: Cluster) -> None:
    """The device's own error with its data, no answer in time, too much, no such device, not connected."""
    here, there = cluster.nodes
    client = await cluster.connect(there, await cluster.register())
    cluster.answer(client, "Bad", error={"code": -5, "message": "no", "data": [1]})
    with pytest.raises(RpcError) as caught:
        await here.calls.call(DeviceKey("alice", "d1"), "Bad")
    assert (caught.value.code, caught.value.message, caught.value.data) == (-5, "no", [1])
    cluster.attend(client)
    began = trio.current_time()
    with pytest.raises(CallTimeout, match="Silence was not answered within 3 s"):
        await here.calls.call(DeviceKey("alice", "d1"), "Silence", timeout=3)
    assert trio.current_time() - began == pytest.approx(3, abs=0.1)
    with pytest.raises(TooLarge):
        await here.calls.call(DeviceKey("alice", "d1"), "X", b'"%b"' % (b"x" * MAX_PARAMS))
    with pytest.raises(NotFound):
        await here.calls.call(DeviceKey("alice", "nobody"), "X")
    with pytest.raises(NotFound):
        await here.calls.call(DeviceKey("bob", "d1"), "X")
    await client.close()
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(DeviceOffline):
        await here.calls.call(DeviceKey("alice", "d1"), "X")


async def test_many_calls_at_the_same_time_keep_their_answers(autojump_clock: Any, cluster: Cluster) -> None:
    """From both nodes to devices of both: no caller gets the answer to another call."""
    clients = []
    for n, node in enumerate(cluster.nodes):
        clients.append(await cluster.connect(node, await cluster.register(f"d{n}")))

    async def echo(client: Any) -> None:
        while True:
            request = await client.receive()
            if "id" in request:
                await client.send({"id": request["id"], "result": request["params"]})

    async def call(node: Node, id: str, n: int) -> None:
        assert _json.decode(await node.calls.call(DeviceKey("alice", id), "Echo", b"[%d]" % n)) == [n]

    async with trio.open_nursery() as devices:
        for client in clients:
            devices.start_soon(echo, client)
        async with trio.open_nursery() as nursery:
            for n in range(60):
                nursery.start_soon(call, cluster.nodes[n % 2], f"d{n % 3 % 2}", n)
        devices.cancel_scope.cancel()


async def test_a_delta_reaches_the_device_of_another_node(autojump_clock: Any, cluster: Cluster) -> None:
    """Its desired state was changed here; it is told once, and by its own node."""
    here, there = cluster.nodes
    client = await cluster.connect(there, await cluster.register())
    await here.hub.shadows.update(DeviceKey("alice", "d1"), {"state": {"desired": {"on": True}}})
    delta = await client.expect("Shadow.Delta")
    assert delta["params"]["state"] == {"on": True}
    cluster.answer(client, "Last", result=1)
    await here.calls.call(DeviceKey("alice", "d1"), "Last")


async def test_a_device_that_changes_the_node_stays_online(autojump_clock: Any, cluster: Cluster) -> None:
    """The older connection is closed at its node, and calls go to the newer one."""
    here, there = cluster.nodes
    device = await cluster.register()
    old = await cluster.connect(there, device)
    new = await cluster.connect(here, device)
    assert await old.close_code() == 1008
    await trio.testing.wait_all_tasks_blocked()
    assert await cluster.told() == ["online", "online"]
    cluster.answer(new, "Where", result="here")
    assert await there.calls.call(DeviceKey("alice", "d1"), "Where") == b'"here"'


async def test_a_token_that_was_revoked_elsewhere_closes_the_connection(autojump_clock: Any, cluster: Cluster) -> None:
    """Immediately; and so does the removal of the device."""
    here, there = cluster.nodes
    rotated = await cluster.connect(there, await cluster.register("d1"))
    removed = await cluster.connect(there, await cluster.register("d2"))
    await here.hub.registry.renew_token(DeviceKey("alice", "d1"))
    assert await rotated.close_code() == 1008
    await here.hub.remove_device(DeviceKey("alice", "d2"))
    assert await removed.close_code() == 1008


async def test_a_key_that_was_revoked_elsewhere_closes_its_listeners(autojump_clock: Any, cluster: Cluster) -> None:
    """Subscribers with other keys stay."""
    here, there = cluster.nodes
    revoked, other = await cluster.listen(there, "k1"), await cluster.listen(there, "k2")
    here.key_revoked("alice", "k1")
    assert await revoked.close_code() == 1008
    await trio.testing.wait_all_tasks_blocked()
    assert (len(there.devices), len(there.subscribers)) == (0, 1)
    here.key_revoked("alice", None)
    assert await other.close_code() == 1008


async def test_what_was_told_while_the_bus_was_away_is_found_out(autojump_clock: Any, cluster: Cluster) -> None:
    """A revoked token, a revoked key, a changed shadow, a newer connection: all count once the bus is back."""
    here, there = cluster.nodes
    revoked = await cluster.connect(there, await cluster.register("revoked"))
    changed = await cluster.connect(there, await cluster.register("changed"))
    moved_device = await cluster.register("moved")
    moved = await cluster.connect(there, moved_device)

    async def refuse() -> None:
        if here.hub.now() > EPOCH + 5:
            raise Unauthenticated("revoked")

    listener = await cluster.listen(there, "k1", refuse)
    await trio.sleep(6)
    await cluster.bus.go_away()
    await here.hub.registry.renew_token(DeviceKey("alice", "revoked"))
    await here.hub.shadows.update(DeviceKey("alice", "changed"), {"state": {"desired": {"on": True}}})
    here.key_revoked("alice", "k1")
    await cluster.connect(here, moved_device)
    await trio.testing.wait_all_tasks_blocked()
    assert (len(there.devices), len(there.subscribers)) == (3, 1)
    cluster.bus.away = False
    assert await revoked.close_code() == 1008
    assert await moved.close_code() == 1008
    assert await listener.close_code() == 1008
    assert (await changed.expect("Shadow.Delta"))["params"]["state"] == {"on": True}


async def test_devices_of_a_dead_node_go_offline(autojump_clock: Any, cluster: Cluster) -> None:
    """Some seconds after its last sign of life, told by one of those that live; a call to it does not wait for ever."""
    here, _ = cluster.nodes
    await cluster.register()
    await here.hub.nodes.join("ghost")
    await here.hub.presence.claim(DeviceKey("alice", "d1"), "ghost")
    with pytest.raises(CallTimeout):
        await here.calls.call(DeviceKey("alice", "d1"), "X", timeout=3)
    await trio.sleep(DEAD_AFTER - 3 - BEAT_INTERVAL)
    assert (await here.hub.presence.get(DeviceKey("alice", "d1"))).online
    await trio.sleep(2 * BEAT_INTERVAL + 1)
    assert not (await here.hub.presence.get(DeviceKey("alice", "d1"))).online
    assert await cluster.told() == ["offline"]
    assert "ghost" not in await here.hub.nodes.ids()
    assert await here.hub.nodes.ids() == {node.id for node in cluster.nodes}


async def test_a_caller_hears_immediately_that_the_node_is_gone(autojump_clock: Any, cluster: Cluster) -> None:
    """A caller that waits for a device of a node that is declared dead meanwhile gets an error."""
    here, _ = cluster.nodes
    await cluster.register()
    await here.hub.nodes.join("ghost")
    await here.hub.presence.claim(DeviceKey("alice", "d1"), "ghost")
    began = trio.current_time()
    with pytest.raises(DeviceOffline):
        await here.calls.call(DeviceKey("alice", "d1"), "X", timeout=100)
    assert trio.current_time() - began < DEAD_AFTER + 2 * BEAT_INTERVAL


async def test_a_node_that_starts_sweeps_for_no_other_node(autojump_clock: Any, cluster: Cluster) -> None:
    """What nodes that live hold stays online; what a node left behind that is unknown does not."""
    _, there = cluster.nodes
    await cluster.connect(there, await cluster.register("d1"))
    await cluster.register("d2")
    await there.hub.presence.claim(DeviceKey("alice", "d2"), "unknown")
    async with open_node(Hub(cluster.backend, now=lambda: EPOCH, monotonic=lambda: 0.0, entropy=os.urandom)):
        await trio.testing.wait_all_tasks_blocked()
        assert (await there.hub.presence.get(DeviceKey("alice", "d1"))).online
        assert not (await there.hub.presence.get(DeviceKey("alice", "d2"))).online


async def test_no_node_is_dead_because_the_store_was_away(autojump_clock: Any, cluster: Cluster) -> None:
    """After a long outage of the store every node lives, and their devices have stayed online."""
    here, there = cluster.nodes
    client = await cluster.connect(there, await cluster.register())
    cluster.attend(client)
    cluster.documents.away = True
    await trio.sleep(10 * DEAD_AFTER)
    cluster.documents.away = False
    await trio.sleep(2 * DEAD_AFTER)
    assert await here.hub.nodes.ids() == {here.id, there.id}
    assert (await here.hub.presence.get(DeviceKey("alice", "d1"))).online
    assert await cluster.told() == ["online"]


async def test_the_devices_of_a_dead_node_that_is_back_are_left_to_it(
    autojump_clock: Any, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Storing them as offline takes a while; it stops when the node gives a sign of life again."""
    here, _ = cluster.nodes
    release, number = here.hub.presence.release, 1000

    async def slowly(*arguments: Any, **options: Any) -> bool:
        await trio.sleep(1)
        return await release(*arguments, **options)

    monkeypatch.setattr(here.hub.presence, "release", slowly)
    await here.hub.nodes.join("ghost")
    for place in range(number):
        await here.hub.presence.claim(DeviceKey("alice", f"d{place}"), "ghost")
    await trio.sleep(DEAD_AFTER + BEAT_INTERVAL + 2)
    assert await cluster.told()
    await here.hub.nodes.join("ghost")
    await trio.sleep(2 * BEAT_INTERVAL)
    released = len(await cluster.told())
    await trio.sleep(DEAD_AFTER / 2)
    assert len(await cluster.told()) == released < number


async def test_a_node_that_was_taken_for_dead_has_devices_connect_again(autojump_clock: Any, cluster: Cluster) -> None:
    """Those that others have stored as offline, spread over a time: the rest keep their connection."""
    here, there = cluster.nodes
    device = await cluster.register()
    first = await cluster.connect(there, device)
    for number in range(3):
        cluster.attend(await cluster.connect(there, await cluster.register(f"more{number}")))
    await here.hub.presence.release(device.key, there.devices[device.key].session, 0.0)
    await here.hub.presence.release(DeviceKey("alice", "more2"), 1, 0.0)
    await here.hub.nodes.leave(there.id)
    assert await first.close_code() == 1013  # not before the others have had time to see that it lives
    await trio.testing.wait_all_tasks_blocked()
    assert len(there.devices) == 3  # the other one follows later
    await trio.sleep(EXPELLED_CHECK_TIME)
    assert {key.id for key in there.devices} == {"more0", "more1"}
    await cluster.connect(there, device)
    assert await here.hub.nodes.ids() == {here.id, there.id}


async def test_a_node_that_looks_at_others_slowly_lives(
    autojump_clock: Any, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy store answers its look after a minute: it gives signs of life all the same."""
    here, there = cluster.nodes
    check = here.hub.nodes.check

    async def slowly(time: float) -> Any:
        await trio.sleep(4 * DEAD_AFTER)
        return await check(time)

    monkeypatch.setattr(here.hub.nodes, "check", slowly)
    for _ in range(8):
        await trio.sleep(DEAD_AFTER / 2)
        assert await there.hub.nodes.ids() == {here.id, there.id}


async def test_more_frames_than_can_wait_are_a_gap(autojump_clock: Any, cluster: Cluster) -> None:
    """What may have been in them is found out, and not only in turn."""
    here, there = cluster.nodes
    revoked = await cluster.connect(there, await cluster.register())
    inbox = there.others.inbox
    assert inbox is not None
    cluster.bus.losing = True
    await here.hub.registry.renew_token(DeviceKey("alice", "d1"))
    await trio.testing.wait_all_tasks_blocked()
    began = trio.current_time()
    for _ in range(MAX_INBOX + 2):
        inbox.peers._receive(b'%b {"method":"Nothing"}' % here.id.encode())  # before the reader has a turn
    assert await revoked.close_code() == 1008
    assert trio.current_time() - began < 1


async def test_a_node_that_goes_down_says_so(autojump_clock: Any, cluster: Cluster) -> None:
    """Its devices are offline immediately, and it is not waited for."""
    here, _ = cluster.nodes
    async with open_node(Hub(cluster.backend, now=lambda: EPOCH, monotonic=lambda: 0.0, entropy=os.urandom)) as third:
        client = await cluster.connect(third, await cluster.register())
        cluster.attend(client)
        assert third.id in await here.hub.nodes.ids()
    assert third.id not in await here.hub.nodes.ids()
    assert await cluster.told() == ["online", "offline"]


async def test_rubbish_between_nodes_harms_no_node(autojump_clock: Any, cluster: Cluster) -> None:
    """A shared bus may carry what others publish: it is passed over, and calls go on."""
    here, there = cluster.nodes
    client = await cluster.connect(there, await cluster.register())
    await cluster.bus.publish("nodes", b'x {"method":"Credentials.Revoked","params":{"id":5}}')
    await cluster.bus.publish("events.alice", b'9 {"name":"rollout.RUNNING","id":7}')
    await cluster.bus.publish(f"node.{there.id}", b'x {"method":"Device.Changed","params":{"id":5}}')
    for topic in ("nodes", "feed.alice", "events.alice", f"node.{there.id}", f"node.{here.id}"):
        for rubbish in (b"x", b"\xff \xff", b"a {}", b"", b" ", b"x [1,", f"{here.id} [[".encode()):
            if rubbish:
                await cluster.bus.publish(topic, rubbish)
    for frame in (b'{"id":1,"method":"Nothing"}', b'{"id":2,"method":"Device.Call","params":{"account":1}}'):
        await cluster.bus.publish(f"node.{there.id}", b"stranger " + frame)
    cluster.answer(client, "Still", result=True)
    assert await here.calls.call(DeviceKey("alice", "d1"), "Still") == b"true"


async def test_a_sign_of_life_whose_answer_was_lost_is_one(autojump_clock: Any, cluster: Cluster) -> None:
    """The node is not taken for dead, neither by the others nor by itself: its devices stay connected."""
    _, there = cluster.nodes
    client = await cluster.connect(there, await cluster.register())
    cluster.attend(client)
    cluster.documents.forgetful = "nodes"
    await trio.sleep(3 * DEAD_AFTER)
    assert cluster.documents.forgetful == ""
    assert (len(there.devices), len(there.subscribers)) == (1, 0)
    assert await cluster.told() == ["online"]


async def test_an_end_whose_answer_was_lost_is_told(autojump_clock: Any, cluster: Cluster) -> None:
    """The record was written, and its answer lost: `offline` is still notified, once."""
    _, there = cluster.nodes
    client = await cluster.connect(there, await cluster.register())
    cluster.documents.forgetful = "presence"
    await client.close()
    await trio.sleep(10)
    assert await cluster.told() == ["online", "offline"]


async def test_what_the_bus_has_lost_without_a_word_is_found_out(autojump_clock: Any, cluster: Cluster) -> None:
    """Within two turns of looking at everything: a revoked token, a changed shadow, a revoked listener."""
    here, there = cluster.nodes
    revoked = await cluster.connect(there, await cluster.register("revoked"))
    changed = await cluster.connect(there, await cluster.register("changed"))
    allowed = True

    async def authenticate() -> None:
        if not allowed:
            raise Unauthenticated("revoked")

    listener = await cluster.listen(there, "k1", authenticate)
    cluster.attend(listener)
    cluster.bus.losing = True
    allowed = False
    await here.hub.registry.renew_token(DeviceKey("alice", "revoked"))
    await here.hub.shadows.update(DeviceKey("alice", "changed"), {"state": {"desired": {"on": True}}})
    started = trio.current_time()
    cluster.attend(revoked)
    assert (await changed.expect("Shadow.Delta"))["params"]["state"] == {"on": True}
    cluster.attend(changed)
    await trio.sleep_until(started + 2 * CHECK_INTERVAL)
    assert (len(there.devices), len(there.subscribers)) == (1, 0)


async def test_a_damaged_record_stops_no_check_of_others(autojump_clock: Any, cluster: Cluster) -> None:
    """Of two devices with a damaged record each, one keeps its connection and the other its delta; a third is closed.

    A device whose presence is damaged goes offline, and comes back, as any.
    """
    here, there = cluster.nodes
    device = await cluster.register("presence")
    presence = await cluster.connect(there, device)
    registry = await cluster.connect(there, await cluster.register("registry"))
    revoked = await cluster.connect(there, await cluster.register("revoked"))
    cluster.bus.losing = True
    await here.hub.shadows.update(DeviceKey("alice", "presence"), {"state": {"desired": {"on": True}}})
    await here.hub.registry.renew_token(DeviceKey("alice", "revoked"))
    await cluster.documents.put("presence", "alice/presence", b"[]")
    await cluster.documents.put("devices", "alice/registry", b"[]")
    cluster.attend(registry)
    cluster.attend(revoked)
    assert (await presence.expect("Shadow.Delta"))["params"]["state"] == {"on": True}
    cluster.attend(presence)
    await trio.sleep(2 * CHECK_INTERVAL)
    assert {key.id for key in there.devices} == {"presence", "registry"}
    await presence.close()
    await trio.sleep(1)
    assert not (await here.hub.presence.get(device.key)).online
    assert (await cluster.told())[-1] == "offline"
    await cluster.connect(here, device)
    assert (await here.hub.presence.get(device.key)).node == here.id


async def test_damaged_presence_holds_up_no_message_about_others(autojump_clock: Any, cluster: Cluster) -> None:
    """As many devices with a damaged record have changed as messages are sent at the same time."""
    here, there = cluster.nodes
    client = await cluster.connect(there, await cluster.register())
    for number in range(SENDERS):
        await cluster.documents.put("presence", f"alice/bad{number}", b"[]")
        here.others.notify_device_changed(DeviceKey("alice", f"bad{number}"))
    await trio.testing.wait_all_tasks_blocked()
    began = trio.current_time()
    await here.hub.shadows.update(DeviceKey("alice", "d1"), {"state": {"desired": {"on": True}}})
    assert (await client.expect("Shadow.Delta"))["params"]["state"] == {"on": True}
    assert trio.current_time() - began < 1


async def test_a_node_that_cannot_be_judged_now_hides_no_other(autojump_clock: Any, cluster: Cluster) -> None:
    """A listener for whose name too many passwords were tried stays for now; the next one, revoked, is closed."""
    _, there = cluster.nodes
    judged = False

    async def busy() -> None:
        if judged:
            raise Busy("too many wrong passwords")

    async def revoked() -> None:
        if judged:
            raise Unauthenticated("revoked")

    clients = [await cluster.listen(there, "k", check) for check in (busy, revoked)]
    judged = True
    await cluster.bus.go_away()
    cluster.bus.away = False
    assert await clients[1].close_code() == 1008
    await trio.testing.wait_all_tasks_blocked()
    assert (len(there.devices), len(there.subscribers)) == (0, 1)


async def test_what_a_node_that_left_has_not_released_is(autojump_clock: Any, cluster: Cluster) -> None:
    """It said goodbye, but a device had come in at the last moment."""
    here, _ = cluster.nodes
    await cluster.register()
    await here.hub.nodes.join("third")
    await trio.sleep(2 * BEAT_INTERVAL)
    await here.hub.presence.claim(DeviceKey("alice", "d1"), "third")
    await here.hub.nodes.leave("third")
    await trio.sleep(2 * BEAT_INTERVAL)
    assert await cluster.told() == ["offline"]


async def test_a_defect_takes_no_node_down(
    autojump_clock: Any, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs for ever is begun again after it, and it is in the log."""
    here, there = cluster.nodes
    check = here.hub.nodes.check

    async def crash(time: float) -> Any:
        monkeypatch.setattr(here.hub.nodes, "check", check)
        raise ZeroDivisionError

    monkeypatch.setattr(here.hub.nodes, "check", crash)
    await trio.sleep(3 * DEAD_AFTER)
    assert await here.hub.nodes.ids() == {here.id, there.id}


async def test_a_summary_without_a_topic_is_read_again(autojump_clock: Any, cluster: Cluster) -> None:
    """As many topics are read as may be: what other nodes change in a further account is seen within seconds, and its
    place among those that wait for a topic is not lost by that.
    """
    here, there = cluster.nodes
    inbox = here.others.inbox
    assert inbox is not None
    inbox.feeds._most = 1
    with inbox.feeds.hold("bob"):
        await cluster.register("d1")
        assert set((await here.hub.summaries.of("alice")).rows) == {"d1"}
        with inbox.feeds.hold("carol"):
            for number in range(2, 5):
                await there.hub.create_device("alice", f"d{number}")
                await trio.sleep(UNFOLLOWED_TIME)
                assert len((await here.hub.summaries.of("alice")).rows) == number
    await trio.sleep(1)
    assert "feed.alice" in heard(here).topics
    summary = await here.hub.summaries.of("alice")
    await there.hub.create_device("alice", "d9")
    await trio.sleep(2 * UNFOLLOWED_TIME)
    assert await here.hub.summaries.of("alice") is summary  # it has a topic now, and is not read again
    assert "d9" in summary.rows


async def test_a_link_with_a_call_in_flight_is_kept(
    autojump_clock: Any, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many other nodes there are: those over which nothing is under way are forgotten first, and a late answer
    to a call of a forgotten link is not taken for one of the next link's.
    """
    here, there = cluster.nodes
    monkeypatch.setattr(peers_module, "MAX_IDLE_PEERS", 3)
    client = await cluster.connect(there, await cluster.register())
    inbox = here.others.inbox
    assert inbox is not None
    key, answers = DeviceKey("alice", "d1"), []

    async def call() -> None:
        answers.append(await here.calls.call(key, "Slow", timeout=100))

    cluster.nursery.start_soon(call)
    request = await client.expect("Slow")
    for number in range(20):
        inbox.peers.notify(f"other{number}", "Nothing", None)
        await trio.testing.wait_all_tasks_blocked()
    assert len(inbox.peers._links) == 3
    await client.send({"id": request["id"], "result": 1})
    await trio.testing.wait_all_tasks_blocked()
    assert answers == [b"1"]
    with pytest.raises(CallTimeout):
        await inbox.peers.call("other0", "Slow", b"{}", timeout=1)
    for number in range(20):
        inbox.peers.notify(f"other{number + 1}", "Nothing", None)
        await trio.testing.wait_all_tasks_blocked()

    async def answer_the_first() -> None:
        await trio.sleep(0.5)
        inbox.peers._receive(b'other0 {"id":1,"result":"late"}')

    cluster.nursery.start_soon(answer_the_first)
    with pytest.raises(CallTimeout):
        await inbox.peers.call("other0", "Slow", b"{}", timeout=1)


async def test_a_link_with_a_frame_under_way_is_kept(
    autojump_clock: Any, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request of a peer is answered that comes in the same moment in which a link to one more node is made, and what
    is sent to a peer while the bus is slow arrives in its order.
    """
    here, _ = cluster.nodes
    monkeypatch.setattr(peers_module, "MAX_IDLE_PEERS", 1)
    inbox, bus = here.others.inbox, heard(here)
    assert inbox is not None
    inbox.peers.notify("other0", "Nothing", None)
    await trio.testing.wait_all_tasks_blocked()
    async with cluster.bus.subscribe("node.other0") as received:
        inbox.peers._receive(b'other0 {"id":1,"method":"Nothing"}')
        inbox.peers.notify("other1", "Nothing", None)
        with trio.fail_after(10):
            assert b'"id":1' in await anext(received)

        publish, is_fast = bus.publish, trio.Event()

        async def slowly(topic: str, message: bytes) -> None:
            if b"First" in message:
                await is_fast.wait()
            await publish(topic, message)

        monkeypatch.setattr(bus, "publish", slowly)
        inbox.peers.notify("other0", "First", None)
        await trio.testing.wait_all_tasks_blocked()
        inbox.peers.notify("other2", "Nothing", None)
        inbox.peers.notify("other0", "Second", None)
        await trio.testing.wait_all_tasks_blocked()
        is_fast.set()
        assert b"First" in await anext(received)
        assert b"Second" in await anext(received)
