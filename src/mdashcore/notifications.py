"""Notifications about devices, for users. The live stream and the stored log have the same form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from mdashcore import _json
from mdashcore._errors import InvalidInput

__all__ = [
    "CREATED",
    "DELETED",
    "DELTA_WITHHELD",
    "FIRMWARE_ADDED",
    "FIRMWARE_DELETED",
    "FIRMWARE_UPDATED",
    "OFFLINE",
    "ONLINE",
    "REJECTED",
    "ROLLOUT_PHASE",
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
FIRMWARE_ADDED: Final = "firmware.added"  # to the library: the id is that of the image
FIRMWARE_UPDATED: Final = "firmware.updated"
FIRMWARE_DELETED: Final = "firmware.deleted"
ROLLOUT_PHASE: Final = "rollout.phase"  # the next phase of a rollout has begun
REJECTED: Final = "rejected"  # a frame of the device that could not be read
RPC_IN: Final = "rpc.in."  # followed by the method: the device was called
RPC_OUT: Final = "rpc.out."  # followed by the method: the device sent a notification or a request


_EVENTS: Final = frozenset((ONLINE, OFFLINE, CREATED, DELETED))

_PROGRESS: Final = frozenset(("ota.progress", "rollout.progress", "job.progress"))


def is_event(name: str, data: bytes | None) -> bool:
    """Return whether this notification is kept for long: about presence, devices, firmware, updates, rollouts or jobs.

    There are few of those. Calls, messages of devices, changes of shadows and progress are not kept for long.
    """
    if name == UPDATED:
        return data is None or not data.startswith(b'{"shadow"')
    if name.startswith("rpc."):
        return False
    return name in _EVENTS or (name.startswith(("ota.", "rollout.", "firmware.", "job.")) and name not in _PROGRESS)


def is_stored_event(stored: bytes) -> bool:
    """Return `is_event` of a notification in its stored form."""
    return is_event(head(stored).name, stored.partition(b',"data":')[2])


class Notification(msgspec.Struct, frozen=True, gc=False):
    """A notification about one device.

    As JSON: ``{"name", "id", "data"?}``; in a stream and in a log with ``"offset"`` and ``"time"``.
    """

    name: str

    id: str
    """The id of the device; of the rollout or the image, if the notification is about one."""

    data: bytes | None = None
    """Raw JSON; `None` for a notification without data."""

    def encode(self) -> bytes:
        """Return the stored form: a JSON object without offset and time, which the log keeps beside it."""
        head = b'{"name":%b,"id":%b' % (_json.encode(self.name), _json.encode(self.id))
        return head + (b"}" if self.data is None else b',"data":%b}' % self.data)


def frame(stored: bytes, offset: int, time: float) -> bytes:
    """Return the form of a stored notification that users see.

    Args:
        stored: as `Notification.encode` made it.
        offset: its place in the account's log.
        time: Unix seconds; milliseconds are kept.
    """
    return b'%b,"offset":%d,"time":%.3f}' % (stored[:-1], offset, time)


class Head(msgspec.Struct, gc=False):
    """Name and device of a frame. The data are skipped, because they may hold JSON that no value can hold, such as
    ``1e999``.
    """

    name: str
    id: str


head: Callable[[bytes], Head] = msgspec.json.Decoder(Head).decode
"""Decode the `Head` of a frame, or of its stored form, as this module makes them."""


def decode(text: bytes) -> dict[str, Any]:
    """Return a frame, or its stored form, as a dict. Raises `InvalidInput` for other text."""
    value = _json.decode(text)
    if not (isinstance(value, dict) and isinstance(value.get("name"), str) and isinstance(value.get("id"), str)):
        raise InvalidInput("not a notification")
    return value
