"""The events of a `Connection`: frozen values that say what the peer did, returned by `Connection.events()`."""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

__all__ = [
    "BINARY",
    "NOT_JSON",
    "NOT_JSON_RPC",
    "NOT_UTF8",
    "TOO_LARGE",
    "CallTimedOut",
    "ConnectionClosed",
    "Event",
    "FrameRejected",
    "NotificationReceived",
    "RequestReceived",
    "ResponseReceived",
]


class RequestReceived(msgspec.Struct, frozen=True, gc=False):
    """The peer calls a method and waits. Answer with `Connection.reply` or `reply_error`."""

    ref: int
    """The argument for `reply`. Unique within the connection, even if the peer uses an id twice."""

    method: str

    params: bytes | None
    """Raw JSON of any type; `None` if the request has no params."""


class NotificationReceived(msgspec.Struct, frozen=True, gc=False):
    """The peer sent a notification. It expects no answer."""

    method: str

    params: bytes | None
    """Raw JSON of any type; `None` if the notification has no params."""


class ResponseReceived(msgspec.Struct, frozen=True):
    """The peer answered a call of this side. An answer to an unknown or abandoned call makes no event."""

    id: int
    """The id that `Connection.call` returned."""

    method: str

    result: bytes
    """Raw JSON; ``b"null"`` if `error` is set."""

    error: Exception | None
    """`None` for a result. Otherwise an `RpcError` with the peer's own code and message, or an `InvalidAnswer` if the
    answer is broken or too large.
    """


class CallTimedOut(msgspec.Struct, frozen=True, gc=False):
    """The deadline of a call passed without an answer. A later answer is ignored."""

    id: int
    method: str


class ConnectionClosed(msgspec.Struct, frozen=True, gc=False):
    """The connection has ended. This is the last event: nothing more is received or sent."""

    reason: str

    calls: tuple[int, ...]
    """The ids of the calls that will never be answered."""


NOT_JSON: Final = "not-json"
NOT_JSON_RPC: Final = "not-json-rpc"
TOO_LARGE: Final = "too-large"
BINARY: Final = "binary"
NOT_UTF8: Final = "not-utf-8"


class FrameRejected(msgspec.Struct, frozen=True, gc=False):
    """The peer sent a frame that cannot be accepted, which an operator should see. The connection stays open."""

    kind: str
    """The defect: one of the constants above."""

    reason: str
    """The defect in words, with its place in the frame."""

    size: int | None
    """Bytes of the frame; `None` if only a part of it arrived."""

    head: bytes
    """The first bytes of the frame, up to 128."""

    number: int
    """The count of rejected frames of this connection, this one included."""


Event: TypeAlias = (
    RequestReceived | NotificationReceived | ResponseReceived | CallTimedOut | FrameRejected | ConnectionClosed
)
"""Any of the six events."""
