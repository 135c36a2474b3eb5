"""The connections of devices to a node, from the handshake to the last presence."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import trio

from mdashcore._connection import Connection
from mdashcore._connection_limits import ConnectionLimits
from mdashcore._errors import Damaged, StorageError
from mdashcore.hub import Hub
from mdashcore.identity import Device, DeviceKey
from mdashcore.trio.background import Background
from mdashcore.trio.connections.conduct import Conduct
from mdashcore.trio.connections.device_connection import CONNECTION_REPLACED, TOKEN_REVOKED, DeviceConnection
from mdashcore.trio.connections.link import GOING_AWAY, POLICY_VIOLATION, Link
from mdashcore.trio.connections.presence_feed import PresenceFeed
from mdashcore.trio.pacing import Gate, store_callers
from mdashcore.trio.settings import NodeSettings
from mdashcore.trio.spreading import spread
from mdashcore.trio.transport.stream import Keepalive, PingableStream, Pinger

__all__ = ["DeviceConnections"]

CHECKERS: Final = 32  # devices checked at the same time: a store that reads in groups is then several times as fast

CHECK_INTERVAL: Final = 120.0  # seconds in which each device is checked once, four reads each; on shared stores only


SEEN_INTERVAL: Final = 900.0  # seconds in which the last sign of each device is stored once: 11 writes a second for
# 10 000 devices. What other nodes show is at most twice as old, as is what is known of a node that was killed


class DeviceConnections(dict[DeviceKey, DeviceConnection]):
    """Each device's newest connection to this node.

    Args:
        node: the id of the node, as in presence records.
        pinger: pings the sockets.
        presence_feed: sends the notifications `online` and `offline`.
        on_connected: called before any message of a new connection is handled. Raises `StorageError`.
        on_disconnected: called when the device has no connection to this node any more.
        on_check: looks for what else of the device another node may have changed. Raises `StorageError`.
        on_moved: called with a device and a node that has to check it: the one that held the device's earlier
            connection, or, for `None`, the one that holds its newest.
    """

    def __init__(
        self,
        hub: Hub,
        node: str,
        settings: NodeSettings,
        background: Background,
        pinger: Pinger,
        presence_feed: PresenceFeed,
        *,
        on_connected: Callable[[DeviceKey], Awaitable[None]],
        on_disconnected: Callable[[DeviceKey], None],
        on_check: Callable[[DeviceKey], Awaitable[None]],
        on_moved: Callable[[DeviceKey, str | None], None],
    ) -> None:
        self._hub = hub
        self._node = node
        self._settings = settings
        self._background = background
        self._pinger = pinger
        self._presence_feed = presence_feed
        self._on_connected = on_connected
        self._on_disconnected = on_disconnected
        self._on_check = on_check
        self._on_moved = on_moved
        self._draining: tuple[int, str] | None = None
        self._closing: str | None = None
        self._arrivals = Gate(store_callers(hub.backend.capabilities))  # they begin a session, or are announced
        self._releasing = 0
        self._all_released = trio.Event()
        self.limits: ConnectionLimits = ConnectionLimits(max_answer=settings.max_answer)
        """The limits of a device's connection."""
        self.conduct: Conduct = Conduct()

    async def serve(self, device: Device, stream: PingableStream, link_type: type[Link] = Link) -> None:
        """Run the connection of an authenticated device until it ends.

        Args:
            link_type: the class of the device's link.
        """
        if (refusal := self._refusal) is not None:
            stream.close(*refusal)
            await stream.send([])
            return
        key, token_hash = device.key, device.token_hash
        del device  # the rest of it is memory of an idle device
        async with self._arrivals:
            session, previous = await self._hub.presence.claim(key, self._node)
        if previous is not None and previous != self._node:
            self._on_moved(key, previous)
        link = link_type(
            stream,
            spawn=self._background.spawn,
            connection=Connection(self.limits),
        )
        connected = DeviceConnection(
            self._hub,
            self._background,
            key,
            token_hash,
            session,
            link,
            stream,
            self.conduct,
            self._presence_feed,
            self._settings.delta_limits,
        )
        keepalive = Keepalive(stream)
        self._pinger.watch(keepalive)
        try:
            async with self._arrivals:
                await self._accept(connected)
            await link.run(connected.handle)
        finally:
            if self.get(connected.key) is connected:
                del self[connected.key]
                self._on_disconnected(connected.key)
            self._pinger.unwatch(keepalive)
            # Not here: this task may be cancelled already, and then every await would raise.
            self._releasing += 1
            self._background.spawn(lambda: self._release(connected))

    @property
    def _refusal(self) -> tuple[int, str] | None:
        """The code and the reason with which new connections are closed, if they are."""
        return self._draining if self._closing is None else (GOING_AWAY, self._closing)

    async def _accept(self, connected: DeviceConnection) -> None:
        """Accept a device, or close its connection."""
        try:
            if not self._admit(connected):
                connected.link.close(POLICY_VIOLATION, CONNECTION_REPLACED)
            elif (refusal := self._refusal) is not None:  # the shutdown began after the handshake
                connected.link.close(*refusal)
            elif not await connected.is_valid():
                connected.link.close(POLICY_VIOLATION, TOKEN_REVOKED)  # the token was revoked after the handshake
            else:
                await self._on_connected(connected.key)
                self._background.spawn(lambda: self._announce(connected))
                return
        except StorageError as exc:
            connected.give_up(exc)
        connected.allow_offline()

    def _admit(self, connected: DeviceConnection) -> bool:
        """Make this session the device's only one, and close the previous. Returns `False` if a newer one exists."""
        previous = self.get(connected.key)
        if previous is not None and previous.session > connected.session:
            return False
        self[connected.key] = connected
        if previous is not None:
            previous.link.close(POLICY_VIOLATION, CONNECTION_REPLACED)
        return True

    async def _announce(self, connected: DeviceConnection) -> None:
        settings = self._settings
        async with self._arrivals:
            await connected.announce()
        await connected.introduce(introduction_delay=settings.introduction_delay, call_timeout=settings.call_timeout)

    async def _release(self, connected: DeviceConnection) -> None:
        try:
            if not await connected.release() and connected.key not in self:
                # Another node holds the device. For a moment both did, and a change may have come to this one only.
                self._on_moved(connected.key, None)
        finally:
            self._releasing -= 1
            if not self._releasing:
                self._all_released.set()

    # For the other parts of the node

    def link(self, key: DeviceKey) -> Link | None:
        """Return the link of a device that is connected here, or `None` for any other."""
        connected = self.get(key)
        return None if connected is None else connected.link

    def last_heard(self, key: DeviceKey) -> float | None:
        """Return the Unix time in seconds when a device that is connected here last sent any bytes, else `None`."""
        connected = self.get(key)
        return None if connected is None else connected.last_heard

    def last_seen(self, key: DeviceKey, stored: float | None) -> float | None:
        """Return when any node last heard of a device: `stored`, or later here.

        A connection that nothing comes from any more may still be here while the device has a newer one elsewhere.
        """
        heard = self.last_heard(key)
        return stored if heard is None else max(heard, stored or heard)

    def revoke(self, key: DeviceKey) -> None:
        """Close the connection of a device whose token is not valid any more."""
        connected = self.pop(key, None)
        if connected is not None:
            self._on_disconnected(key)
            connected.link.close(POLICY_VIOLATION, TOKEN_REVOKED)

    def close(self, code: int, reason: str) -> None:
        """Close all connections. The devices may connect again."""
        for connected in tuple(self.values()):
            connected.link.close(code, reason)

    async def drain(self, seconds: float, code: int, reason: str) -> None:
        """Close all connections, evenly spread over the seconds, and later ones immediately."""
        self._draining = code, reason
        await spread([partial(connected.link.close, code, reason) for connected in self.values()], seconds)

    async def shut_down(self, reason: str) -> None:
        """Close all connections for good, and wait until the last presence is written."""
        self._closing = self._closing or reason
        self.close(GOING_AWAY, reason)
        while self or self._releasing:
            await self._all_released.wait()
            self._all_released = trio.Event()

    # Changes that may have been missed

    async def check(self, account: str | None = None) -> None:
        """Check devices for revoked tokens, newer connections, changed shadows and queued updates.

        Args:
            account: check the devices of one account; by default, all.
        """
        left = [each for each in self.values() if account in (None, each.key.account)]

        async def check() -> None:
            while left:
                await self._check(left.pop())

        async with trio.open_nursery() as nursery:
            for _ in range(CHECKERS):
                nursery.start_soon(check)

    async def check_slowly(self, seconds: float = CHECK_INTERVAL) -> None:
        """Check all devices as `check` does, evenly spread over the seconds."""
        devices = list(self.values())
        for connected in devices:
            await self._check(connected)
            await trio.sleep(seconds / len(devices))
        if not devices:
            await trio.sleep(seconds)

    async def store_last_seen(self) -> None:
        """Store when each device was last heard of, evenly spread over `SEEN_INTERVAL`."""
        devices = list(self.values())
        for connected in devices:
            await trio.sleep(SEEN_INTERVAL / len(devices))
            await self._background.persist(partial(self._store_last_seen, connected))
        if not devices:
            await trio.sleep(SEEN_INTERVAL)

    async def _store_last_seen(self, connected: DeviceConnection) -> None:
        if self.get(connected.key) is connected:
            await self._hub.presence.store_last_seen(connected.key, connected.session, connected.last_heard)

    async def _check(self, connected: DeviceConnection) -> None:
        await connected.check()
        if self.get(connected.key) is connected and not connected.link.connection.closed:
            try:
                await self._background.persist(lambda: self._on_check(connected.key))
            except Damaged:
                return  # it is logged; the next device is checked
