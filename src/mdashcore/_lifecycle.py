"""The states of a `Connection`, of the calls that it makes, and of the requests that it receives, as one table.

`docs/discussion/connection.md` draws the table. A test puts a connection through every arrow, and through every pair of
state and cause that has no arrow: such a pair changes nothing, emits no event and raises nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, TypeAlias

import attrs

from mdashcore._errors import LocalProtocolError, RemoteProtocolError
from mdashcore._events import CallTimedOut, ConnectionClosed, RequestReceived, ResponseReceived

__all__ = ["LIFECYCLE", "CallState", "ConnectionState", "LifecycleStep", "RequestState", "State"]


class ConnectionState(StrEnum):
    """The states of a connection."""

    OPEN = "OPEN"
    CLOSED = "CLOSED"


class CallState(StrEnum):
    """The states of a call that this side makes."""

    UNCALLED = "UNCALLED"
    WAITING = "WAITING"
    ANSWERED = "ANSWERED"
    TIMED_OUT = "TIMED_OUT"
    ABANDONED = "ABANDONED"
    LOST = "LOST"


class RequestState(StrEnum):
    """The states of a request that the peer makes."""

    UNSEEN = "UNSEEN"
    UNANSWERED = "UNANSWERED"
    ANSWERED = "ANSWERED"
    DROPPED = "DROPPED"


State: TypeAlias = ConnectionState | CallState | RequestState


@attrs.frozen
class LifecycleStep:
    """The effects of a cause in a state."""

    to: State
    tells: type | None = None
    """The class of the event that `events()` returns for it."""
    sends: bool = False
    """Whether a frame goes into the outbox."""
    raises: type[Exception] | None = None


def _table() -> dict[tuple[State, str], LifecycleStep]:
    con, call, req, to = ConnectionState, CallState, RequestState, LifecycleStep
    return {
        (con.OPEN, "`close()`"): to(con.CLOSED, ConnectionClosed),
        (con.OPEN, "`receive_data()`: the peer floods"): to(con.CLOSED, ConnectionClosed, raises=RemoteProtocolError),
        (con.OPEN, "`handle_timer()`: events were not taken"): to(
            con.CLOSED, ConnectionClosed, raises=RemoteProtocolError
        ),
        (call.UNCALLED, "`call()`"): to(call.WAITING, sends=True),
        (call.UNCALLED, "`call()` on a closed connection"): to(call.UNCALLED, raises=LocalProtocolError),
        (call.WAITING, "`receive_data()`: a result or an error"): to(call.ANSWERED, ResponseReceived),
        (call.WAITING, "`receive_data()`: an answer that cannot be read"): to(call.ANSWERED, ResponseReceived),
        (call.WAITING, "`handle_timer()`: its deadline"): to(call.TIMED_OUT, CallTimedOut),
        (call.WAITING, "`abandon()`"): to(call.ABANDONED),
        (call.WAITING, "the connection closes"): to(call.LOST, ConnectionClosed),
        (req.UNSEEN, "`receive_data()`: a request"): to(req.UNANSWERED, RequestReceived),
        (req.UNSEEN, "`receive_data()`: one more than `max_requests`"): to(req.ANSWERED, sends=True),
        (req.UNANSWERED, "`reply()`"): to(req.ANSWERED, sends=True),
        (req.UNANSWERED, "`reply_error()`"): to(req.ANSWERED, sends=True),
        (req.UNANSWERED, "the connection closes"): to(req.DROPPED, ConnectionClosed),
        (req.ANSWERED, "`reply()`"): to(req.ANSWERED, raises=LocalProtocolError),
        (req.ANSWERED, "`reply_error()`"): to(req.ANSWERED, raises=LocalProtocolError),
    }


LIFECYCLE: Final[Mapping[tuple[State, str], LifecycleStep]] = MappingProxyType(_table())
"""(state, cause) → effects. A pair that is not here changes nothing."""
