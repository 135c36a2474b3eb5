"""The connections of devices to a node, from the handshake to the last presence."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import trio

from mdashcore import notifications
from mdashcore._connection import Connection, ConnectionLimits
from mdashcore._errors import StorageError
from mdashcore.hub import Hub
from mdashcore.identity import Device, DeviceKey
from mdashcore.trio.background import Background
from mdashcore.trio.connections.conduct import Conduct
from mdashcore.trio.connections.device_connection import CONNECTION_REPLACED, TOKEN_REVOKED, DeviceConnection
from mdashcore.trio.connections.link import GOING_AWAY, POLICY_VIOLATION, Link
from mdashcore.trio.connections.presence_feed import PresenceFeed
from mdashcore.trio.settings import NodeSettings
from mdashcore.trio.transport.stream import Keepalive, PingableStream, Pinger

__all__ = ["DeviceConnections"]

CHECKERS: Final = 32  # devices checked at the same time: a store that reads in groups is then several times as fast

CHECK_INTERVAL: Final = 120.0  # seconds in which each device is checked once, three reads each; on shared stores only

_ABOUT_DEVICES: Final = tuple(
    b'{"name":"%b"' % name.encode() for name in (notifications.ONLINE, notifications.UPDATED, notifications.DELETED)
)
"""The beginnings of the frames from which a node learns that other nodes have changed its devices."""


class _Shadow(msgspec.Struct, gc=False):
    version: int


class _Update(msgspec.Struct, gc=False):
    shadow: _Shadow | None = None


class _NotificationHead(msgspec.Struct, gc=False):
    """The members of a notification that a node reads."""

    id: str
    data: _Update | None = None


_read_head = msgspec.json.Decoder(_NotificationHead).decode


class DeviceConnections(dict[DeviceKey, DeviceConnection]):
    """Each device's newest connection to this node.

    Args:
        node: the id of the node, as in presence records.
        pinger: pings the sockets.
        presence_feed: sends the notifications `online` and `offline`.
        on_connected: called before any message of a new connection is handled. Raises `StorageError`.
        on_disconnected: called when the device has no connection to this node any more.
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
    ) -> None:
        self._hub = hub
        self._node = node
        self._settings = settings
        self._background = background
        self._pinger = pinger
        self._presence_feed = presence_feed
        self._on_connected = on_connected
        self._on_disconnected = on_disconnected
        self._closing: str | None = None
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
        if self._closing is not None:
            stream.close(GOING_AWAY, self._closing)
            await stream.send([])
            return
        session = await self._hub.presence.claim(device.key, self._node)
        link = link_type(
            stream,
            spawn=self._background.spawn,
            connection=Connection(self.limits),
            on_rejected=lambda event: connected.on_rejected(event),
        )
        connected = DeviceConnection(
            self._hub,
            self._background,
            device,
            session,
            link,
            stream,
            self.conduct,
            self._presence_feed,
            self._settings.delta_limits,
        )
        unwatch = self._pinger.watch(Keepalive(stream))
        try:
            await self._accept(connected)
            await link.run(connected.handle)
        finally:
            if self.get(connected.key) is connected:
                del self[connected.key]
                self._on_disconnected(connected.key)
            unwatch()
            # Not here: this task may be cancelled already, and then every await would raise.
            self._releasing += 1
            self._background.spawn(lambda: self._release(connected))

    async def _accept(self, connected: DeviceConnection) -> None:
        """Accept a device, or close its connection."""
        try:
            if not self._admit(connected):
                connected.link.close(POLICY_VIOLATION, CONNECTION_REPLACED)
            elif self._closing is not None:  # the shutdown began after the handshake
                connected.link.close(GOING_AWAY, self._closing)
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
        await connected.announce(introduction_delay=settings.introduction_delay, call_timeout=settings.call_timeout)

    async def _release(self, connected: DeviceConnection) -> None:
        try:
            await connected.release()
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

    async def shut_down(self, reason: str) -> None:
        """Close all connections for good, and wait until the last presence is written."""
        self._closing = self._closing or reason
        self.close(GOING_AWAY, reason)
        while self or self._releasing:
            await self._all_released.wait()
            self._all_released = trio.Event()

    # Changes that may have been missed

    def concerned(self, account: str, frame: bytes) -> DeviceConnection | None:
        """Return the device that a notification requires to be checked, or `None`. Another node may have changed it."""
        if not frame.startswith(_ABOUT_DEVICES):
            return None
        head = _read_head(frame)
        connected = self.get(DeviceKey(account, head.id))
        shadow = head.data.shadow if head.data is not None else None
        if connected is None or (shadow is not None and shadow.version <= connected.pushed):
            return None
        return connected

    async def check(self) -> None:
        """Check all devices for revoked tokens, newer connections and changed shadows."""
        left = list(self.values())

        async def check() -> None:
            while left:
                await left.pop().check()

        async with trio.open_nursery() as nursery:
            for _ in range(CHECKERS):
                nursery.start_soon(check)

    async def check_slowly(self) -> None:
        """Check all devices as `check` does, evenly spread over `CHECK_INTERVAL`."""
        devices = list(self.values())
        for connected in devices:
            await connected.check()
            await trio.sleep(CHECK_INTERVAL / len(devices))
        if not devices:
            await trio.sleep(CHECK_INTERVAL)
