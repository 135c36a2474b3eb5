"""The table of a connection's states is what a `Connection` does: each arrow, and each pair that has none."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import product

import pytest

from mdashcore import (
    CallTimedOut,
    Connection,
    ConnectionClosed,
    ConnectionLimits,
    FrameRejected,
    LocalProtocolError,
    MdashError,
    ResponseReceived,
    RpcError,
)
from mdashcore._lifecycle import LIFECYCLE, CallState, ConnectionState, LifecycleStep, RequestState, State

LIMITS = ConnectionLimits(max_requests=1, max_outbox=100, max_events=2)
DEADLINE = 10.0
RESULT, BROKEN = '{"id":1,"result":true}', '{"id":1,"result":}'
CALL, REQUEST = 1, 1  # the id of this side's call, and the ref of the peer's request


def flood(connection: Connection) -> None:
    """Requests of a peer that does not read the answers."""
    for number in range(9):
        connection.receive_data(f'{{"id":{number},"method":"M"}}')


def overdue(connection: Connection) -> None:
    """More calls become overdue than events are taken."""
    calls = [connection.call("M", deadline=DEADLINE) for _ in range(3)]
    connection.data_to_send()
    assert len(calls) == 3
    connection.handle_timer(DEADLINE)


CAUSES: dict[type, dict[str, Callable[[Connection], object]]] = {
    ConnectionState: {
        "`close()`": lambda connection: connection.close(),
        "`receive_data()`: the peer floods": flood,
        "`handle_timer()`: events were not taken": lambda connection: (
            overdue(connection) if not connection.closed else connection.handle_timer(DEADLINE)
        ),
    },
    CallState: {
        "`receive_data()`: a result or an error": lambda connection: connection.receive_data(RESULT),
        "`receive_data()`: an answer that cannot be read": lambda connection: connection.receive_data(BROKEN),
        "`handle_timer()`: its deadline": lambda connection: connection.handle_timer(DEADLINE),
        "`abandon()`": lambda connection: connection.abandon(CALL),
        "the connection closes": lambda connection: connection.close(),
    },
    RequestState: {
        "`reply()`": lambda connection: connection.reply(REQUEST, True),
        "`reply_error()`": lambda connection: connection.reply_error(REQUEST, RpcError(404, "no")),
        "the connection closes": lambda connection: connection.close(),
    },
}
"""What can happen to a thing that is there, by its words in the table."""

BEGINNINGS: dict[str, Callable[[Connection], object]] = {
    "`call()`": lambda connection: connection.call("M"),
    "`call()` on a closed connection": lambda connection: (
        connection.close(),
        connection.events(),
        connection.call("M"),
    ),
    "`receive_data()`: a request": lambda connection: connection.receive_data('{"id":5,"method":"M"}'),
    "`receive_data()`: one more than `max_requests`": lambda connection: (
        connection.receive_data('{"id":4,"method":"M"}'),
        connection.events(),
        connection.receive_data('{"id":5,"method":"M"}'),
    ),
}
"""How a call, or a request, comes to be."""


def brought_to(state: State) -> tuple[Connection, list[object]]:
    """A connection with a thing in that state, and the events that were told on the way."""
    connection = Connection(LIMITS)
    if isinstance(state, CallState):
        connection.call("M", deadline=DEADLINE)
        steps = {
            CallState.ANSWERED: "`receive_data()`: a result or an error",
            CallState.TIMED_OUT: "`handle_timer()`: its deadline",
            CallState.ABANDONED: "`abandon()`",
            CallState.LOST: "the connection closes",
        }
        if state in steps:
            CAUSES[CallState][steps[state]](connection)
    elif isinstance(state, RequestState):
        connection.receive_data('{"id":5,"method":"M"}')
        if state is RequestState.ANSWERED:
            connection.reply(REQUEST)
        elif state is RequestState.DROPPED:
            connection.close()
    elif state is ConnectionState.CLOSED:
        connection.close()
    told: list[object] = list(connection.events())
    connection.data_to_send()
    assert seen(state, connection, told) is state
    return connection, told


def seen(kind: State, connection: Connection, told: list[object]) -> State:
    """The state that a thing of that kind is in, as far as an embedder can find out."""
    if isinstance(kind, ConnectionState):
        return ConnectionState.CLOSED if connection.closed else ConnectionState.OPEN
    if isinstance(kind, CallState):
        if any(isinstance(event, ResponseReceived) and event.id == CALL for event in told):
            return CallState.ANSWERED
        if any(isinstance(event, CallTimedOut) and event.id == CALL for event in told):
            return CallState.TIMED_OUT
        if any(isinstance(event, ConnectionClosed) and CALL in event.calls for event in told):
            return CallState.LOST
        if connection.next_id == 1:
            return CallState.UNCALLED
        twin = copy.deepcopy(connection)
        twin.receive_data(RESULT)
        return CallState.WAITING if twin.events() and not twin.closed else CallState.ABANDONED
    twin = copy.deepcopy(connection)
    try:
        twin.reply(REQUEST, True)
    except LocalProtocolError:
        return RequestState.ANSWERED
    return RequestState.DROPPED if connection.closed else RequestState.UNANSWERED


def check(
    state: State, connection: Connection, told: list[object], act: Callable[[Connection], object]
) -> LifecycleStep:
    """What an act brings about."""
    raised = None
    try:
        act(connection)
    except MdashError as exc:
        raised = type(exc)
    sends = bool(connection.data_to_send())
    events = [event for event in connection.events() if not isinstance(event, FrameRejected)]  # told beside the others
    to = seen(state, connection, [*told, *events])
    tells = type(events[-1]) if events and (to is not state or isinstance(events[-1], ConnectionClosed)) else None
    return LifecycleStep(to, tells, sends, raised)


ARROWS = [(state, cause) for state, cause in LIFECYCLE if cause not in BEGINNINGS]


@pytest.mark.parametrize(("state", "cause"), ARROWS)
def test_every_arrow(state: State, cause: str) -> None:
    """It leads where the table says, with that event, that frame and that error."""
    connection, told = brought_to(state)
    wanted = LIFECYCLE[state, cause]
    found = check(state, connection, told, CAUSES[type(state)][cause])
    if isinstance(state, ConnectionState):  # a flood is answered for a while
        found = LifecycleStep(found.to, found.tells, wanted.sends, found.raises)
    assert found == wanted


NO_ARROWS = [
    (state, cause)
    for kind, causes in CAUSES.items()
    for state, cause in product(kind, causes)
    if (state, cause) not in LIFECYCLE and state not in (CallState.UNCALLED, RequestState.UNSEEN)
    if (state, cause) != (RequestState.ANSWERED, "the connection closes")  # that is the conversation's arrow
    and not (isinstance(state, CallState) and cause == "the connection closes")
]


@pytest.mark.parametrize(("state", "cause"), NO_ARROWS)
def test_every_pair_without_an_arrow(state: State, cause: str) -> None:
    """It changes nothing, tells nothing, sends nothing and raises nothing."""
    connection, told = brought_to(state)
    assert check(state, connection, told, CAUSES[type(state)][cause]) == LifecycleStep(state)


@pytest.mark.parametrize("cause", BEGINNINGS)
def test_how_calls_and_requests_come_to_be(cause: str) -> None:
    """Each beginning leads where the table says."""
    ((state, wanted),) = [(state, outcome) for (state, found), outcome in LIFECYCLE.items() if found == cause]
    connection = Connection(LIMITS)
    found = check(state, connection, [], BEGINNINGS[cause])
    if "max_requests" in cause:
        assert found.sends  # the refusal; the request that is in the way is still there
        return
    assert found == wanted


def test_every_cause_of_the_table_is_known() -> None:
    """And none is made up."""
    known = {cause for causes in CAUSES.values() for cause in causes} | set(BEGINNINGS)
    assert {cause for _, cause in LIFECYCLE} == known
