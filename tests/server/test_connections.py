"""Which connections end when file descriptors are short."""

from __future__ import annotations

from contextlib import ExitStack

import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from mdashcore.server.http.connection import HttpConnection
from mdashcore.server.http.connections import Connections
from mdashcore.trio.transport.readiness import Inflow


def connection(account: str | None) -> HttpConnection:
    """An idle connection that waits for its client; a stranger's without an account."""
    stream, _ = trio.testing.memory_stream_pair()
    made = HttpConnection(stream, Inflow(stream, 2**16), trio.CancelScope())
    made.answered_at = -10.0  # long quiet, at the times below
    if account is not None:
        made.identify(account)
    return made


@given(strangers=st.integers(1, 40), known=st.integers(1, 5), times=st.integers(1, 10))
def test_known_clients_stay_until_ended_strangers_have_gone(strangers: int, known: int, times: int) -> None:
    """However often room is asked for before an ended stranger's task has run, no known client ends; after that, the
    first to end is one that waits for its client."""

    async def run() -> None:
        connections = Connections()
        with ExitStack() as theirs, ExitStack() as ours:
            crowd = [connection(None) for _ in range(strangers)]
            clients = [connection(f"account-{number}") for number in range(known)]
            for one in crowd:
                theirs.enter_context(connections.member(one))
            for one in clients:
                ours.enter_context(connections.member(one))
                ours.enter_context(one.waiting())
            for _ in range(times):
                assert connections.make_room(0.0)
            while not all(one.scope.cancel_called for one in crowd):
                assert connections.make_room(0.0)
            assert connections.make_room(0.0)
            assert not any(one.scope.cancel_called for one in clients)
            theirs.close()
            assert connections.make_room(0.0)
            assert all(one.scope.cancel_called for one in clients)

    trio.run(run)


async def test_without_any_there_is_no_room() -> None:
    """A client at work, of an account without more than half of the connections, does not end."""
    connections = Connections()
    with connections.member(connection("a")), connections.member(connection("b")):
        assert not connections.make_room(0.0)


async def test_a_newcomer_goes_last_of_the_strangers() -> None:
    """It has had no time to send its request; strangers that take no answer are there for longer."""
    connections = Connections()
    with ExitStack() as members:
        deaf = [connection(None) for _ in range(3)]
        newcomer = connection(None)
        for one in (*deaf, newcomer):
            members.enter_context(connections.member(one))
            one.answered_at = -0.5 if one in deaf else 0.0
        with newcomer.waiting():
            for _ in deaf:
                assert connections.make_room(0.0)
                assert not newcomer.scope.cancel_called
            assert all(one.scope.cancel_called for one in deaf)
            assert connections.make_room(0.0)
            assert newcomer.scope.cancel_called


async def test_a_known_client_stays_one_while_its_next_request_is_checked() -> None:
    """A request begins without an owner; strangers end before the connection of a client that was known."""
    connections = Connections()
    with ExitStack() as members:
        stranger, client = connection(None), connection("alice")
        client.owner = None
        for one in (client, stranger):
            members.enter_context(connections.member(one))
        with stranger.waiting(), client.waiting():
            assert connections.make_room(0.0)
            assert (stranger.scope.cancel_called, client.scope.cancel_called) == (True, False)


async def test_a_newcomer_is_not_ended_for_an_account_that_leaves_its_requests_unfinished() -> None:
    """Of an account with more than half of the connections one ends that has not sent its first request whole; those of
    its connections on which a request was answered stay."""
    connections = Connections()
    with ExitStack() as members:
        unfinished, idle = connection("mallory"), connection("mallory")
        idle.used = True
        newcomer = connection(None)
        newcomer.answered_at = 0.0
        for one in (unfinished, idle, newcomer):
            members.enter_context(connections.member(one))
            members.enter_context(one.waiting())
        assert connections.make_room(0.0)
        assert [one.scope.cancel_called for one in (unfinished, idle, newcomer)] == [True, False, False]
        assert connections.make_room(0.0)
        assert [one.scope.cancel_called for one in (unfinished, idle, newcomer)] == [True, False, True]
