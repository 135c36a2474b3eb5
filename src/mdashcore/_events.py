"""What the peer of a `Connection` did: frozen values in the past tense, from `Connection.events()`."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

__all__ = [
    "CallTimedOut",
    "ConnectionClosed",
    "Event",
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
    """An `RpcError` with the peer's own code and message, or None."""


class CallTimedOut(msgspec.Struct, frozen=True, gc=False):
    """A call's deadline passed unanswered. An answer that comes later is ignored."""

    id: int
    method: str


class ConnectionClosed(msgspec.Struct, frozen=True, gc=False):
    """The last event: nothing more is received or sent."""

    reason: str

    calls: tuple[int, ...]
    """The calls that will never be answered."""


Event: TypeAlias = RequestReceived | NotificationReceived | ResponseReceived | CallTimedOut | ConnectionClosed
