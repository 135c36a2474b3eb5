"""A node: the live connections of one process, and everything that has to outlive the handler of a connection.

Several nodes may share one store. A device is connected to one of them; each can call it for people, and hears of
what the others do.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from math import inf
from typing import Final

import attrs
import msgspec
import trio

from mdashcore import notifications, ota
from mdashcore._checked import checked, mapping, whole
from mdashcore._connection import Connection, ConnectionLimits
from mdashcore._errors import Conflict, InvalidInput, LimitReached, NotFound, RpcError, StorageError
from mdashcore.hub import Hub
from mdashcore.hub.deltas import MAX_DELTA_LIMIT, MIN_DELTA_LIMIT
from mdashcore.hub.feed import TOPIC, Feed, FeedItem
from mdashcore.hub.maintenance.retention import AGE_INTERVAL
from mdashcore.hub.nodes import BEAT_INTERVAL
from mdashcore.hub.usage import USE_INTERVAL
from mdashcore.identity import Device, DeviceKey
from mdashcore.shadow import Change
from mdashcore.storage import INSTANT, SHARED
from mdashcore.trio.background import Background
from mdashcore.trio.cluster import relay
from mdashcore.trio.cluster.membership import Cluster
from mdashcore.trio.cluster.peers import Peers
from mdashcore.trio.cluster.relay import CALL
from mdashcore.trio.connections.calls import BegunCall, Calls, LocalCaller
from mdashcore.trio.connections.conduct import Conduct
from mdashcore.trio.connections.device_connection import REPLACED, REVOKED, DeviceConnection
from mdashcore.trio.connections.device_connections import DeviceConnections
from mdashcore.trio.connections.link import GOING_AWAY, POLICY_VIOLATION, TRY_AGAIN_LATER, Link, Outcome
from mdashcore.trio.connections.presence_feed import PresenceFeed
from mdashcore.trio.connections.subscribers import Authenticate, Subscriber, Subscribers
from mdashcore.trio.drivers.clock_watch import CLOCK_INTERVAL, ClockWatch
from mdashcore.trio.drivers.orphans import TIDY_DELAY, Tidier, check_usage, remove_aged
from mdashcore.trio.drivers.rollout_supervisor import RolloutSupervisor
from mdashcore.trio.drivers.update_supervisor import UpdateSupervisor
from mdashcore.trio.transport.skipped import MAX_SKIPPED
from mdashcore.trio.transport.stream import Keepalive, PingableStream, Pinger

__all__ = ["Node", "NodeSettings", "open_node"]

_log = logging.getLogger(__name__)

SWEEPERS: Final = 32  # records released at once: a store that commits in groups is then several times as quick

SHUTDOWN_TIMEOUT: Final = 3.0  # seconds for goodbyes and last writes; a service manager waits 5 and more

_REVOKE: Final = "Credentials.Revoked"

_GOING_DOWN: Final = "the server is going down"

_CALLS_THAT_COUNT: Final[dict[str, ota.Event]] = {
    "OTA.Commit": ota.CommitAccepted(),
    "OTA.Revert": ota.RevertAccepted(),
    "OTA.End": ota.TransferEnded(),
}
"""What the success of a person's call means for the device's update."""

_ABOUT_UPDATES: Final = b'{"name":"ota.'


@attrs.frozen(field_transformer=checked)
class NodeSettings:
    """What an operator may want to change."""

    ping_interval: float = 15.0
    """Seconds between two pings; a silent connection is found after two to three of them."""

    introduction_delay: float = 0.75
    """Seconds that a new connection has to report `ota` by itself, before it is asked (as mDash did)."""

    call_timeout: float = 10.0
    """Seconds for a call that the node makes on its own."""

    max_answer: int = attrs.field(default=ConnectionLimits().max_answer, validator=whole(1, MAX_SKIPPED))
    """Bytes of a device's answer to a call, up to 16 MiB: each connection may hold one in memory."""

    delta_limits: Mapping[str, int] = attrs.field(
        factory=dict, validator=mapping(whole(MIN_DELTA_LIMIT, MAX_DELTA_LIMIT))
    )
    """By platform, as `reported.ota` names it: bytes of the largest frame with a delta that a device is sent."""


class _Revoked(msgspec.Struct):
    """What a node tells the others: the token of a device (`id`), a key, or any of the account's credentials."""

    account: str
    id: str | None = None
    key: str | None = None


class Node:
    """The devices and subscribers that are connected to this process. Make it with `open_node`.

    Implements `mdashcore.hub.HubObserver`, and `mdashcore.trio.cluster.peers.PeerHandler`.
    """

    def __init__(self, hub: Hub, id: str, settings: NodeSettings, nursery: trio.Nursery) -> None:
        self.hub = hub
        self.id = id
        self.settings = settings
        self.limits: ConnectionLimits = ConnectionLimits(max_answer=settings.max_answer)
        """Those of a device's connection."""
        self.background: Background = Background(nursery)
        self._devices = DeviceConnections()
        self._subscribers = Subscribers(self.background)
        self._pinger = Pinger(settings.ping_interval)
        self.conduct: Conduct = Conduct()
        self._presence_feed = PresenceFeed(hub, self.background, self._presence_held)
        self._farewells = 0
        self._quiet = trio.Event()
        self._closing = False
        self._shutdown_deadline = inf
        self._peers = (
            Peers(hub.bus, id, self, self.background, max_answer=settings.max_answer)
            if SHARED in hub.backend.capabilities
            else None
        )
        self.calls: Calls = Calls(hub, id, self._link, self._peers, default_timeout=settings.call_timeout)
        self.update_supervisor: UpdateSupervisor = UpdateSupervisor(hub, LocalCaller(self.calls), self.background)
        self.rollouts: RolloutSupervisor = RolloutSupervisor(hub, NodeUpdates(self), self.background)

    # Connections

    async def serve_device(self, device: Device, stream: PingableStream) -> None:
        """Run the connection of an authenticated device, until it ends."""
        if self._closing:
            stream.close(GOING_AWAY, _GOING_DOWN)
            await stream.send([])
            return
        session = await self.hub.presence.claim(device.key, self.id)
        link = Link(
            stream,
            spawn=self.background.spawn,
            connection=Connection(self.limits),
            instant=INSTANT in self.hub.backend.capabilities,
            on_rejected=lambda event: connected.rejected(event),
        )
        connected = DeviceConnection(
            self.hub,
            self.background,
            device,
            session,
            link,
            stream,
            self.conduct,
            self._presence_feed,
            self.settings.delta_limits,
        )
        unwatch = self._pinger.watch(Keepalive(stream))
        try:
            await self._welcome(connected)
            await link.run(connected.handle)
        finally:
            if self._devices.remove(connected):
                self.update_supervisor.disconnected(connected.key)
            unwatch()
            # Not here: this task may be cancelled already, and then no await would succeed.
            self._farewells += 1
            self.background.spawn(lambda: self._farewell(connected))

    def check_room(self, account: str) -> None:
        """Raises `LimitReached` where the account has as many notification sockets here as it may."""
        most = self.hub.limits.subscribers
        if (present := self._subscribers.of(account)) >= most:
            raise LimitReached("subscribers", f"the account has {present} notification sockets, and may have {most}")

    def subscribers_of(self, account: str) -> int:
        """How many notification sockets of the account are open here."""
        return self._subscribers.of(account)

    async def serve_subscriber(self, subscriber: Subscriber, *, authenticate: Authenticate | None = None) -> None:
        """Run an authenticated notification socket, until it ends.

        Args:
            authenticate: raises `Unauthenticated` if its credentials were revoked before it was known here.
        """
        try:
            self.check_room(subscriber.account)  # again: others may have come since the handshake began
        except LimitReached as exc:
            subscriber.stream.close(TRY_AGAIN_LATER, str(exc))
            await subscriber.stream.send([])
            return
        unwatch = self._pinger.watch(subscriber.keepalive)
        try:
            await self._subscribers.run(subscriber, authenticate)
        finally:
            unwatch()

    # Calls

    async def call(
        self, key: DeviceKey, method: str, params: bytes | None = None, *, timeout: float | None = None
    ) -> bytes:
        """`Calls.call`: a device, whichever node it is connected to; its result as raw JSON."""
        return await self.calls.call(key, method, params, timeout=timeout)

    async def call_for_user(self, key: DeviceKey, method: str, params: bytes | None = None, *, timeout: float) -> bytes:
        """`call`, on behalf of a person: it shows among the notifications, and what it changes is noticed."""
        try:
            result = await self.calls.call_shown(key, method, params, timeout=timeout)
        except RpcError as exc:
            if method == ota.Commit.method and ota.lacks_method(exc.code, exc.message):
                self.update_supervisor.tell(key, ota.CommitUnsupported())
            raise
        if (event := _CALLS_THAT_COUNT.get(method)) is not None:
            self.update_supervisor.tell(key, event)
        return result

    async def end_transfer(self, key: DeviceKey) -> bool:
        """Call `OTA.End` for a person, to end a transfer that the device holds and no update goes on with.

        What becomes of the device then is its own: most refuse a part of an image, some restart.

        Raises:
            Conflict: the transfer is that of an update.
            MdashError: as `call`.
        """
        update = await self.hub.updates.get(key)
        if update is not None and not ota.can_end_transfer(update):
            raise Conflict(f"the transfer is that of the present update, which is {update.state}")
        await self.call_for_user(key, ota.End.method, timeout=ota.End.call_timeout)
        return True

    async def begin_for_user(
        self, key: DeviceKey, method: str, params: bytes | None, done: Outcome, *, timeout: float
    ) -> BegunCall | None:
        """`call_for_user` for who does not wait for the answer; None where it is not as simple as that.

        Args:
            done: told what the call has brought.
            timeout: seconds, which only the caller counts.

        Raises:
            MdashError: as `call_for_user`, of what can be said before an answer.
        """
        if method in _CALLS_THAT_COUNT:
            return None
        return await self.calls.begin_shown(key, method, params, done, timeout)

    async def notify_for_user(self, key: DeviceKey, method: str, params: bytes | None = None) -> None:
        """Tell a device something, on behalf of a person. Raises as `call`, but for the device's answer."""
        await self.calls.notify_shown(key, method, params)

    def last_heard(self, key: DeviceKey) -> float | None:
        """Unix seconds when a device that is connected here last sent anything; None for any other."""
        connected = self._devices.get(key)
        return None if connected is None else connected.last_heard

    def is_connected(self, key: DeviceKey) -> bool:
        """Whether the device is connected to this node."""
        return key in self._devices

    @property
    def connections(self) -> tuple[int, int]:
        """How many devices and subscribers are connected."""
        return len(self._devices), len(self._subscribers)

    # What the hub tells

    def shadow_changed(self, key: DeviceKey, change: Change) -> None:
        if (connected := self._devices.get(key)) is not None:
            connected.shadow_changed(change)

    def device_revoked(self, key: DeviceKey) -> None:
        connected = self._devices.pop(key, None)
        if connected is not None:
            self.update_supervisor.disconnected(key)
            connected.link.close(POLICY_VIOLATION, REVOKED)
        if self._peers is not None:
            self._peers.tell_all(_REVOKE, _Revoked(key.account, id=key.id))

    def notified(self, account: str, item: FeedItem) -> None:
        if self._peers is None:  # else the bus tells, in the order that all nodes hear
            self._notice(account, item)

    def build_reported(self, key: DeviceKey, build: ota.Build) -> None:
        self.update_supervisor.tell(key, ota.BuildReported(build))

    def device_removed(self, key: DeviceKey) -> None:
        self._presence_feed.forget(key)
        self.update_supervisor.forget(key)

    def key_revoked(self, account: str, key: str | None) -> None:
        self._subscribers.revoke(account, key)
        if self._peers is not None:
            self._peers.tell_all(_REVOKE, _Revoked(account, key=key))

    # What other nodes ask and tell

    async def answer_peer(self, method: str, params: bytes | None) -> bytes:
        if method != CALL:
            raise NotFound(f"no method {method} between nodes")
        return await relay.answer(params, self.calls.do_here)

    def hear_peer(self, method: str, params: bytes | None) -> None:
        if method != _REVOKE:
            return
        revoked = msgspec.json.decode(params or b"null", type=_Revoked)
        if revoked.id is None:
            self._subscribers.revoke(revoked.account, revoked.key)
        elif (connected := self._devices.get(DeviceKey(revoked.account, revoked.id))) is not None:
            self.background.spawn(connected.check)

    def hear_again(self) -> None:
        self.background.spawn(self._check_all)

    # Inside

    def _presence_held(self, key: DeviceKey) -> None:
        """A change of presence is not told now, and other nodes have to know it: one may hold the connection before."""
        if self._peers is not None:
            self._peers.tell_all(_REVOKE, _Revoked(key.account, id=key.id))

    def _link(self, key: DeviceKey) -> Link | None:
        connected = self._devices.get(key)
        return None if connected is None else connected.link

    async def _welcome(self, connected: DeviceConnection) -> None:
        """Let a device in, or send it away."""
        try:
            if not self._devices.admit(connected):
                connected.link.close(POLICY_VIOLATION, REPLACED)
            elif self._closing:  # since it asked to come in
                connected.link.close(GOING_AWAY, _GOING_DOWN)
            elif not await connected.is_valid():
                connected.link.close(POLICY_VIOLATION, REVOKED)  # since the handshake
            else:
                await self.update_supervisor.connected(connected.key)  # before anything that the device says now
                self.background.spawn(lambda: self._greet(connected))
                return
        except StorageError as exc:
            connected.give_up(exc)
        connected.end_telling()

    async def _greet(self, connected: DeviceConnection) -> None:
        settings = self.settings
        await connected.greet(introduction_delay=settings.introduction_delay, call_timeout=settings.call_timeout)

    async def _farewell(self, connected: DeviceConnection) -> None:
        try:
            await connected.take_leave()
        finally:
            self._farewells -= 1
            if not self._farewells:
                self._quiet.set()

    async def _sweep(self) -> None:
        """Tell what nodes that are dead could not: that their devices are offline. Then go on with their work."""

        async def alive() -> set[str]:
            return {self.id} if self._peers is None else await self.hub.nodes.ids()

        left = await self.background.persist(lambda: self.hub.presence.left_behind(alive))

        async def release() -> None:
            while left:
                key, record = left.pop()
                last_seen = record.last_seen or self.hub.now()
                await self._presence_feed.release(key, record.session, last_seen)

        async with trio.open_nursery() as nursery:
            for _ in range(SWEEPERS):
                nursery.start_soon(release)
        await self.background.persist(self.update_supervisor.take_up_all)

    def _reconnect_all(self) -> None:
        """Others took this node for dead, and its devices for offline: have them come again."""
        self._devices.close(TRY_AGAIN_LATER, "connect again")

    async def _check_all(self) -> None:
        """Look at what may have been missed: revoked credentials, newer connections, changed shadows."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._subscribers.check)
            nursery.start_soon(self._devices.check)

    async def _check_in_turn(self) -> None:
        """The same, for ever and a little at a time: a bus may lose a message without a word."""
        while True:
            await self._subscribers.check()
            await self._devices.check_slowly()

    def _hear(self, message: bytes) -> None:
        """Take a message of the bus."""
        try:
            self._notice(*Feed.parse(message))
        except (ValueError, InvalidInput):
            return  # not ours: a shared bus may carry what others publish there

    def _notice(self, account: str, item: FeedItem) -> None:
        """Take a notification, of this node or another."""
        self._subscribers.offer(account, item)
        self.rollouts.notice(account, item)
        if item.frame.startswith(_ABOUT_UPDATES):
            head = notifications.head(item.frame)
            self.update_supervisor.heard(DeviceKey(account, head.id), head.name)
        elif self._peers is not None and (connected := self._devices.concerned(account, item.frame)) is not None:
            self.background.spawn(connected.check)

    def _catch_up(self) -> None:
        """Notifications may have been missed."""
        self._subscribers.catch_up()
        self.rollouts.look_everywhere()
        self.background.spawn(self._check_all)

    async def shut_down(self) -> None:
        """Say goodbye to everybody, and see the last presence written."""
        if not self._closing:
            self._closing = True
            self._shutdown_deadline = trio.current_time() + SHUTDOWN_TIMEOUT
        with trio.CancelScope(deadline=self._shutdown_deadline):  # one for all who ask, the first of them counts
            self._devices.close(GOING_AWAY, _GOING_DOWN)
            self._subscribers.close(GOING_AWAY, _GOING_DOWN)
            await self._presence_feed.close()
            while self._devices or self._farewells:
                await self._quiet.wait()
                self._quiet = trio.Event()


class NodeUpdates:
    """The updates of the devices that are connected to a node, as a rollout starts and cancels them."""

    def __init__(self, node: Node) -> None:
        self.is_connected = node.is_connected
        self.start = node.update_supervisor.start
        self.cancel = node.update_supervisor.cancel


@asynccontextmanager
async def open_node(hub: Hub, *, settings: NodeSettings = NodeSettings()) -> AsyncIterator[Node]:
    """A running node, for as long as the context lasts; leaving it says goodbye to every connection."""
    async with trio.open_nursery() as nursery:
        node = Node(hub, hub.new_node_id(), settings, nursery)
        hub.add_observer(node)
        node.background.run_for_ever("the pinging of connections", node._pinger.run)
        try:
            async with _clustered(node, node._peers) if node._peers is not None else nullcontext():
                background = node.background
                background.spawn(node._sweep)  # of a large fleet it takes a while; everybody may come in meanwhile
                background.run_for_ever("the driving of rollouts", node.rollouts.run)
                for keeper in (hub.updates, hub.rollouts):
                    background.run_every(TIDY_DELAY, "the removal of orphans", Tidier(keeper).run)
                watch = ClockWatch(hub.clock, node.update_supervisor.follow_clock, node.rollouts.follow_clock)
                background.run_every(CLOCK_INTERVAL, "the watching of the wall clock", watch.check)
                # Of each of these two, two checks right after each other would be one.
                work = partial(remove_aged, hub)
                background.run_every(AGE_INTERVAL, "the removal of old notifications", work, again_soon=False)
                work = partial(check_usage, hub)
                background.run_every(USE_INTERVAL, "the counting of what accounts have", work, again_soon=False)
                try:
                    yield node
                finally:
                    with trio.CancelScope(shield=True):
                        await node.shut_down()
        finally:
            hub.remove_observer(node)
            node.background.end()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _clustered(node: Node, peers: Peers) -> AsyncIterator[None]:
    """The node is one of several on its store."""
    cluster = Cluster(
        node.hub.nodes,
        node.id,
        on_gone=peers.forget,
        sweep=lambda: node.background.spawn(node._sweep),
        on_expelled=node._reconnect_all,
    )
    await cluster.join()
    background = node.background
    feed = partial(background.listen, node.hub.bus, TOPIC, node._hear, live=node._catch_up)
    background.run_for_ever("the hearing of notifications", feed)
    background.run_for_ever("the hearing of other nodes", peers.run)
    background.run_for_ever("the checking of connections", node._check_in_turn)
    background.run_every(BEAT_INTERVAL, "the node's sign of life", cluster.live)
    try:
        yield
    finally:
        with trio.CancelScope(deadline=node._shutdown_deadline, shield=True):
            await cluster.leave()
