"""A node: the live connections of one process, and everything that has to outlive the handler of a connection."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from math import inf
from typing import Any, Final, TypeVar

import attrs
import trio

from mdashcore import jsonrpc, notifications, ota
from mdashcore._errors import (
    CallTimeout,
    DeviceOffline,
    InvalidInput,
    MdashError,
    NotFound,
    RpcError,
    StorageError,
    TooLarge,
    Unauthenticated,
)
from mdashcore.hub import Hub
from mdashcore.hub.device_session import DeviceSession
from mdashcore.hub.feed import TOPIC, Feed
from mdashcore.identity import Device
from mdashcore.shadow import Change
from mdashcore.trio.link import GOING_AWAY, POLICY_VIOLATION, TRY_AGAIN_LATER, Link, PeerEvent
from mdashcore.trio.notify import Listener
from mdashcore.trio.stream import Keepalive, PingableStream
from mdashcore.trio.updater import Updater

__all__ = ["Node", "NodeSettings", "open_node"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

PING_SLOTS: Final = 15  # connections are pinged in turns, so that a large fleet does not answer all at once

SHUTDOWN_TIMEOUT: Final = 3.0  # seconds for goodbyes and last writes; a service manager waits 5 and more

RETRY_DELAY: Final = 1.0  # seconds until the bus is tried again: it has to be back within 5

_REVOKED: Final = "the credentials were revoked"

_GOING_DOWN: Final = "the server is going down"

_CALLS_THAT_COUNT: Final[dict[str, ota.Event]] = {
    "OTA.Commit": ota.CommitAccepted(),
    "OTA.Revert": ota.RevertAccepted(),
}
"""What the success of a person's call means for the device's update."""


@attrs.frozen
class NodeSettings:
    """What an operator may want to change."""

    ping_interval: float = 15.0
    """Seconds between two pings; a silent connection is found after two to three of them."""

    introduction_delay: float = 0.75
    """Seconds that a new connection has to report `ota` by itself, before it is asked (as mDash did)."""

    call_timeout: float = 10.0
    """Seconds for a call that the node makes on its own."""


@attrs.define(eq=False)
class _Connected:
    """One device's live session on this node."""

    device: Device
    session: int
    link: Link
    stream: PingableStream
    api: DeviceSession
    told: trio.Event = attrs.field(factory=trio.Event)
    """Set when `online` has been told, or never will be: `offline` comes after it."""
    pushed: int = -1
    """The version of the newest delta that was sent, or need not be."""

    @property
    def key(self) -> tuple[str, str]:
        return self.device.account, self.device.id


class Node:
    """The devices and listeners that are connected to this process. Make it with `open_node`.

    Implements `mdashcore.hub.HubListener`.
    """

    def __init__(self, hub: Hub, id: str, settings: NodeSettings, nursery: trio.Nursery) -> None:
        self.hub = hub
        self.id = id
        self.settings = settings
        self._nursery = nursery
        self._devices: dict[tuple[str, str], _Connected] = {}
        self._listeners: dict[str, set[Listener]] = {}
        self._watched: list[set[Keepalive]] = [set() for _ in range(PING_SLOTS)]
        self._farewells = 0
        self._quiet = trio.Event()
        self._closing = False
        self._shutdown_deadline = inf
        self.updater = Updater(hub, self, self.spawn)

    # Connections

    async def serve_device(self, device: Device, stream: PingableStream) -> None:
        """Run the connection of an authenticated device, until it ends."""
        if self._closing:
            stream.close(GOING_AWAY, _GOING_DOWN)
            await stream.send([])
            return
        session = await self.hub.presence.claim(device.account, device.id, self.id)
        link = Link(stream, spawn=self.spawn)
        api = DeviceSession(self.hub, device.account, device.id)
        connected = _Connected(device, session, link, stream, api)
        unwatch = self._watch(Keepalive(stream))
        try:
            if not self._admit(connected):
                link.close(POLICY_VIOLATION, "a newer connection has replaced this one")
                connected.told.set()
            elif not await self._is_valid(device):
                link.close(POLICY_VIOLATION, "the device token was revoked")  # since the handshake
                connected.told.set()
            else:
                self.updater.tell(*connected.key, ota.DeviceConnected())  # before anything that the device says now
                self.spawn(lambda: self._greet(connected))
            await link.run(lambda event: self._handle(connected, event))
        finally:
            if self._devices.get(connected.key) is connected:
                del self._devices[connected.key]
                self.updater.tell(*connected.key, ota.DeviceDisconnected())
            unwatch()
            # Not here: this task may be cancelled already, and then no await would succeed.
            self._farewells += 1
            self.spawn(lambda: self._farewell(connected))

    async def serve_listener(
        self, listener: Listener, *, authenticate: Callable[[], Awaitable[object]] | None = None
    ) -> None:
        """Run an authenticated notification socket, until it ends.

        Args:
            authenticate: raises `Unauthenticated` if its credentials were revoked before it was known here.
        """
        listeners = self._listeners.setdefault(listener.account, set())
        listeners.add(listener)
        unwatch = self._watch(listener.keepalive)
        try:
            if authenticate is not None:
                await self._check(listener, authenticate)
            await listener.run()
        finally:
            unwatch()
            listeners.discard(listener)
            if not listeners:
                self._listeners.pop(listener.account, None)

    def spawn(self, function: Callable[[], Awaitable[None]]) -> None:
        """Run something that no handler waits for. What it raises is logged and ends nothing else."""
        self._nursery.start_soon(self._guarded, function)

    # Calls

    async def call(
        self, account: str, id: str, method: str, params: bytes | None = None, *, timeout: float | None = None
    ) -> bytes:
        """Call a device; its result as raw JSON.

        Raises:
            NotFound: the account has no such device.
            DeviceOffline: it is not connected.
            RpcError, CallTimeout, Busy, TooLarge: as `Link.call`.
        """
        link = await self._link(account, id)
        return await link.call(method, params, timeout=self.settings.call_timeout if timeout is None else timeout)

    async def call_for_user(
        self, account: str, id: str, method: str, params: bytes | None = None, *, timeout: float
    ) -> bytes:
        """`call`, on behalf of a person: it shows among the notifications, and what it changes is noticed."""
        await self._show_call(account, id, method, params)
        result = await self.call(account, id, method, params, timeout=timeout)
        if (event := _CALLS_THAT_COUNT.get(method)) is not None:
            self.updater.tell(account, id, event)
        return result

    async def notify_for_user(self, account: str, id: str, method: str, params: bytes | None = None) -> None:
        """Tell a device something, on behalf of a person. Raises as `call`, but for the device's answer."""
        link = await self._show_call(account, id, method, params)
        link.notify(method, params)

    def last_heard(self, account: str, id: str) -> float | None:
        """Unix seconds when a device that is connected here last sent anything; None for any other."""
        connected = self._devices.get((account, id))
        return None if connected is None else self._wall_clock(connected.stream.last_received)

    def is_connected(self, account: str, id: str) -> bool:
        """Whether the device is connected to this node."""
        return (account, id) in self._devices

    @property
    def connections(self) -> tuple[int, int]:
        """How many devices and listeners are connected."""
        return len(self._devices), sum(map(len, self._listeners.values()))

    # What the hub tells

    def shadow_changed(self, account: str, id: str, change: Change) -> None:
        connected = self._devices.get((account, id))
        if connected is None:
            return
        if (delta := change.delta_document()) is not None:
            self._push_delta(connected, delta)
        else:
            connected.pushed = max(connected.pushed, change.version)  # an older delta, told later, is none any more

    def device_revoked(self, account: str, id: str) -> None:
        connected = self._devices.pop((account, id), None)
        if connected is not None:
            connected.link.close(POLICY_VIOLATION, "the device token was revoked")

    def build_reported(self, account: str, id: str, build: ota.Build) -> None:
        self.updater.tell(account, id, ota.BuildReported(build))

    def device_removed(self, account: str, id: str) -> None:
        self.updater.forget(account, id)

    def key_revoked(self, account: str, key: str | None) -> None:
        for listener in tuple(self._listeners.get(account, ())):
            if key is None or listener.key == key:
                listener.stream.close(POLICY_VIOLATION, _REVOKED)

    # Inside

    async def _link(self, account: str, id: str) -> Link:
        connected = self._devices.get((account, id))
        if connected is None:
            await self.hub.registry.get(account, id)
            raise DeviceOffline(f"device {id!r} is not connected")
        return connected.link

    async def _show_call(self, account: str, id: str, method: str, params: bytes | None) -> Link:
        """Put a person's call among the notifications, if it can be made at all; the link for it."""
        link = await self._link(account, id)
        limit = link.connection.limits.max_frame
        if params is not None and len(params) > limit:
            raise TooLarge(f"params of {len(params)} bytes; a frame has at most {limit}")
        await self.hub.feed.emit(account, notifications.RPC_IN + method, id, params)
        return link

    async def _check(self, listener: Listener, authenticate: Callable[[], Awaitable[object]]) -> None:
        try:
            await authenticate()
        except Unauthenticated:
            listener.stream.close(POLICY_VIOLATION, _REVOKED)

    def _admit(self, connected: _Connected) -> bool:
        """Make this session the device's one; False if a newer one already is."""
        previous = self._devices.get(connected.key)
        if previous is not None and previous.session > connected.session:
            return False
        self._devices[connected.key] = connected
        if previous is not None:
            previous.link.close(POLICY_VIOLATION, "a newer connection has replaced this one")
        if self._closing:  # since it asked to come in
            connected.link.close(GOING_AWAY, _GOING_DOWN)
        return True

    async def _greet(self, connected: _Connected) -> None:
        """What a new connection brings about: `online`, the delta that waits, and the question what it runs."""
        try:
            await self._introduce(connected)
        except StorageError as exc:
            self._give_up(connected, exc)
        finally:
            connected.told.set()

    async def _is_valid(self, device: Device) -> bool:
        """Whether the token that a connection came with still is the device's."""
        try:
            current = await self.hub.registry.get(device.account, device.id)
        except NotFound:
            return False
        return current.token_hash == device.token_hash

    async def _introduce(self, connected: _Connected) -> None:
        account, id = connected.key
        await self.hub.feed.emit(account, notifications.ONLINE, id)
        connected.told.set()
        delta = (await self.hub.shadows.get(account, id)).delta_document()
        if delta is not None:
            self._push_delta(connected, delta)
        await trio.sleep(self.settings.introduction_delay)
        if not connected.api.introduced and not connected.link.connection.closed:
            await self._ask_introduction(connected)

    async def _ask_introduction(self, connected: _Connected) -> None:
        params = jsonrpc.dumps({"utc_time": int(self.hub.now())})
        try:
            result = await connected.link.call("Sys.GetInfo", params, timeout=self.settings.call_timeout)
            await connected.api.introduce(jsonrpc.loads(result))
        except (RpcError, CallTimeout, DeviceOffline, InvalidInput):
            pass  # not every JSON-RPC device knows the method: it is simply not known what it runs

    async def _farewell(self, connected: _Connected) -> None:
        try:
            account, id = connected.key
            last_seen = self._wall_clock(connected.stream.last_received)
            presence, feed = self.hub.presence, self.hub.feed
            await connected.told.wait()
            if await self._persist(lambda: presence.release(account, id, connected.session, last_seen)):
                await self._persist(lambda: feed.emit(account, notifications.OFFLINE, id))
        finally:
            self._farewells -= 1
            if not self._farewells:
                self._quiet.set()

    async def _persist(self, function: Callable[[], Awaitable[T]]) -> T:
        """Do what must not be left undone, as soon as the storage lets us; for as long as this process lives."""
        while True:
            try:
                return await function()
            except StorageError as exc:
                _log.warning("storage failed, trying again: %s", exc)
                await trio.sleep(RETRY_DELAY)

    async def _sweep(self) -> None:
        """Tell what the end of an earlier process could not: that its devices are offline."""
        async for account, id in self.hub.presence.sweep(self.id):
            await self.hub.feed.emit(account, notifications.OFFLINE, id)

    async def _handle(self, connected: _Connected, event: PeerEvent) -> None:
        try:
            await connected.api.handle(event, connected.link)
        except StorageError as exc:
            self._give_up(connected, exc)

    def _give_up(self, connected: _Connected, error: StorageError) -> None:
        """What it reported, or was to be told, is lost: better that it connects again, and both begin anew."""
        _log.error("storage failed, closing %s: %s", connected.key, error)
        connected.link.close(TRY_AGAIN_LATER, "storage is not available")

    def _push_delta(self, connected: _Connected, delta: dict[str, Any]) -> None:
        if delta["version"] <= connected.pushed:
            return  # two changes at once, and the newer one was first
        connected.pushed = delta["version"]
        try:
            connected.link.notify("Shadow.Delta", jsonrpc.dumps(delta))
        except MdashError:
            connected.link.abort()  # it does not read: after its next connect it gets the delta of then

    def _wall_clock(self, time: float) -> float:
        """A time of Trio's clock in Unix seconds."""
        return self.hub.now() - (trio.current_time() - time)

    async def _guarded(self, function: Callable[[], Awaitable[None]]) -> None:
        try:
            await function()
        except MdashError as exc:
            _log.error("a background task failed: %s", exc)
        except Exception:
            _log.exception("a background task failed")

    async def _ping(self) -> None:
        slot = 0
        while True:
            await trio.sleep(self.settings.ping_interval / PING_SLOTS)
            slot = (slot + 1) % PING_SLOTS
            for keepalive in tuple(self._watched[slot]):
                keepalive.check()

    def _watch(self, keepalive: Keepalive) -> Callable[[], None]:
        """Have a connection pinged; returns what ends that."""
        slot = min(self._watched, key=len)
        slot.add(keepalive)
        return lambda: slot.discard(keepalive)

    async def _pump_feed(self) -> None:
        """Give what comes over the bus to the listeners; after a failure of the bus they look into the log."""
        while True:
            try:
                async with self.hub.bus.subscribe(TOPIC) as messages:
                    for listener in self._all_listeners():
                        listener.catch_up()
                    async for message in messages:
                        try:
                            account, item = Feed.parse(message)
                        except ValueError:
                            continue  # not ours: a shared bus may carry what others publish there
                        for listener in tuple(self._listeners.get(account, ())):
                            listener.offer(item)
            except StorageError as exc:
                _log.warning("notifications are delayed: %s", exc)
            await trio.sleep(RETRY_DELAY)

    def _all_listeners(self) -> list[Listener]:
        return [listener for listeners in self._listeners.values() for listener in listeners]

    async def shut_down(self) -> None:
        """Say goodbye to everybody, and see the last presence written."""
        if not self._closing:
            self._closing = True
            self._shutdown_deadline = trio.current_time() + SHUTDOWN_TIMEOUT
        with trio.CancelScope(deadline=self._shutdown_deadline):  # one for all who ask, the first of them counts
            for connected in tuple(self._devices.values()):
                connected.link.close(GOING_AWAY, _GOING_DOWN)
            for listener in self._all_listeners():
                listener.stream.close(GOING_AWAY, _GOING_DOWN)
            while self._devices or self._farewells:
                await self._quiet.wait()
                self._quiet = trio.Event()


@asynccontextmanager
async def open_node(hub: Hub, *, id: str = "node", settings: NodeSettings = NodeSettings()) -> AsyncIterator[Node]:
    """A running node, for as long as the context lasts; leaving it says goodbye to every connection.

    Args:
        id: names this process in presence records: unique among the nodes that share a backend.
    """
    async with trio.open_nursery() as nursery:
        node = Node(hub, id, settings, nursery)
        hub.add_listener(node)
        nursery.start_soon(node._ping)
        nursery.start_soon(node._pump_feed)
        await node._sweep()
        await node.updater.take_up_all()
        try:
            yield node
        finally:
            with trio.CancelScope(shield=True):
                await node.shut_down()
            hub.remove_listener(node)
            nursery.cancel_scope.cancel()
