"""The devices that are connected to a node, and what the node looks at when others may have changed something."""

from __future__ import annotations

from typing import Final

import msgspec
import trio

from mdashcore import notifications
from mdashcore.identity import DeviceKey
from mdashcore.trio.connections.device_connection import REPLACED, DeviceConnection
from mdashcore.trio.connections.link import POLICY_VIOLATION

__all__ = ["DeviceConnections"]

CHECKERS: Final = 32  # devices looked at at once: a store that reads in groups is then several times as quick

CHECK_INTERVAL: Final = 120.0  # seconds in which each device is checked once, three reads each; on shared stores only

_ABOUT_DEVICES: Final = tuple(
    b'{"name":"%b"' % name.encode() for name in (notifications.ONLINE, notifications.UPDATED, notifications.DELETED)
)
"""How the frames begin from which a node learns what others have done to its devices."""


class _Shadow(msgspec.Struct, gc=False):
    version: int


class _Update(msgspec.Struct, gc=False):
    shadow: _Shadow | None = None


class _News(msgspec.Struct, gc=False):
    """What a node looks at in what it hears of its devices."""

    id: str
    data: _Update | None = None


_read_news = msgspec.json.Decoder(_News).decode


class DeviceConnections(dict[DeviceKey, DeviceConnection]):
    """Each device's newest connection to this node."""

    def admit(self, connected: DeviceConnection) -> bool:
        """Make this session the device's one, and close the one before; False if a newer one already is."""
        previous = self.get(connected.key)
        if previous is not None and previous.session > connected.session:
            return False
        self[connected.key] = connected
        if previous is not None:
            previous.link.close(POLICY_VIOLATION, REPLACED)
        return True

    def remove(self, connected: DeviceConnection) -> bool:
        """A connection has ended; whether it was the device's newest one here."""
        if self.get(connected.key) is not connected:
            return False
        del self[connected.key]
        return True

    def close(self, code: int, reason: str) -> None:
        """Say goodbye to all."""
        for connected in tuple(self.values()):
            connected.link.close(code, reason)

    def concerned(self, account: str, frame: bytes) -> DeviceConnection | None:
        """The device that has to be checked, as a notification tells what another node may have done to it."""
        if not frame.startswith(_ABOUT_DEVICES):
            return None
        news = _read_news(frame)
        connected = self.get(DeviceKey(account, news.id))
        shadow = news.data.shadow if news.data is not None else None
        if connected is None or (shadow is not None and shadow.version <= connected.pushed):
            return None
        return connected

    async def check(self) -> None:
        """Look at what may have been missed of all: revoked tokens, newer connections, changed shadows."""
        left = list(self.values())

        async def check() -> None:
            while left:
                await left.pop().check()

        async with trio.open_nursery() as nursery:
            for _ in range(CHECKERS):
                nursery.start_soon(check)

    async def check_slowly(self) -> None:
        """The same in `CHECK_INTERVAL`, a little at a time."""
        devices = list(self.values())
        for connected in devices:
            await connected.check()
            await trio.sleep(CHECK_INTERVAL / len(devices))
        if not devices:
            await trio.sleep(CHECK_INTERVAL)
