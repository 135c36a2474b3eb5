"""What the peer of a `Connection` did: frozen values in the past tense, from `Connection.events()`."""

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
    """The peer calls a method and waits: answer with `Connection.reply` or `reply_error`."""

    ref: int
    """Names this request to `reply`. Unique per connection, also where the peer uses an id twice."""

    method: str

    params: bytes | None
    """Raw JSON, of any type; None where there are none."""


class NotificationReceived(msgspec.Struct, frozen=True, gc=False):
    """The peer tells something, and expects no answer."""

    method: str

    params: bytes | None
    """Raw JSON, of any type; None where there are none."""


class ResponseReceived(msgspec.Struct, frozen=True):
    """The peer answered a call of this side. Answers to unknown or abandoned calls make no event."""

    id: int
    """What `Connection.call` returned."""

    method: str

    result: bytes
    """Raw JSON; ``b"null"`` where `error` is set."""

    error: Exception | None
    """An `RpcError` with the peer's own code and message, an `InvalidAnswer` for an answer that is broken or too large,
    or None."""


class CallTimedOut(msgspec.Struct, frozen=True, gc=False):
    """A call's deadline passed unanswered. An answer that comes later is ignored."""

    id: int
    method: str


class ConnectionClosed(msgspec.Struct, frozen=True, gc=False):
    """The last event: nothing more is received or sent."""

    reason: str

    calls: tuple[int, ...]
    """The calls that will never be answered."""


NOT_JSON: Final = "not-json"
NOT_JSON_RPC: Final = "not-json-rpc"
TOO_LARGE: Final = "too-large"
BINARY: Final = "binary"
NOT_UTF8: Final = "not-utf-8"


class FrameRejected(msgspec.Struct, frozen=True, gc=False):
    """The peer sent a frame that was not taken: a person should see that. The conversation goes on."""

    kind: str
    """What is wrong with it: one of the constants above."""

    reason: str
    """The same in words, with the place where it is broken."""

    size: int | None
    """Bytes of the frame; None where only a part of it came."""

    head: bytes
    """The first bytes of the frame, up to 128."""

    number: int
    """Which rejected frame of this connection it is, from 1."""


Event: TypeAlias = (
    RequestReceived | NotificationReceived | ResponseReceived | CallTimedOut | FrameRejected | ConnectionClosed
)
