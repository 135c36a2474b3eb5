"""What happened to a device, as told to people: one form for the live stream and for the stored log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import attrs
import msgspec

from mdashcore import _json
from mdashcore._errors import InvalidInput

__all__ = [
    "CREATED",
    "DELETED",
    "DELTA_WITHHELD",
    "OFFLINE",
    "ONLINE",
    "REJECTED",
    "RPC_IN",
    "RPC_OUT",
    "UPDATED",
    "Notification",
]

ONLINE: Final = "online"
OFFLINE: Final = "offline"
CREATED: Final = "created"
DELETED: Final = "deleted"
UPDATED: Final = "updated"
DELTA_WITHHELD: Final = "delta.withheld"  # a delta that is larger than the device takes
REJECTED: Final = "rejected"  # a frame of the device that could not be read
RPC_IN: Final = "rpc.in."  # followed by the method: somebody called the device
RPC_OUT: Final = "rpc.out."  # followed by the method: the device told or asked something


_EVENTS: Final = frozenset((ONLINE, OFFLINE, CREATED, DELETED))

_PROGRESS: Final = frozenset(("ota.progress", "rollout.progress"))


def is_event(name: str, data: bytes | None) -> bool:
    """Whether this is one of the few notifications that are kept for long: of presence, devices, updates, rollouts.

    What devices say, what they are asked, shadows and progress are not.
    """
    if name == UPDATED:
        return data is None or not data.startswith(b'{"shadow"')
    if name.startswith("rpc."):
        return False
    return name in _EVENTS or (name.startswith(("ota.", "rollout.")) and name not in _PROGRESS)


def is_stored_event(stored: bytes) -> bool:
    """The same of a notification's stored form."""
    return is_event(head(stored).name, stored.partition(b',"data":')[2])


@attrs.frozen
class Notification:
    """Something that happened to one device.

    As JSON: ``{"name", "id", "data"?}``; in a stream and in a log with ``"offset"`` and ``"time"``.
    """

    name: str

    id: str
    """The device's id."""

    data: bytes | None = None
    """Raw JSON, or None for no data."""

    def encode(self) -> bytes:
        """The stored form: a JSON object without offset and time, which the log knows."""
        head = b'{"name":%b,"id":%b' % (_json.encode(self.name), _json.encode(self.id))
        return head + (b"}" if self.data is None else b',"data":%b}' % self.data)


def frame(stored: bytes, offset: int, time: float) -> bytes:
    """A stored notification as people see it.

    Args:
        offset: its place in the account's log.
        time: Unix seconds; milliseconds are kept.
    """
    return b'%b,"offset":%d,"time":%.3f}' % (stored[:-1], offset, time)


class Head(msgspec.Struct, gc=False):
    """What a frame is about. The data are skipped: they may hold what is JSON and yet no value, as ``1e999``."""

    name: str
    id: str


head: Callable[[bytes], Head] = msgspec.json.Decoder(Head).decode
"""The `Head` of a frame, or of its stored form, as this module makes them."""


def decode(text: bytes) -> dict[str, Any]:
    """A frame, or its stored form, as a dict. Raises `InvalidInput` for anything else."""
    value = _json.decode(text)
    if not (isinstance(value, dict) and isinstance(value.get("name"), str) and isinstance(value.get("id"), str)):
        raise InvalidInput("not a notification")
    return value
