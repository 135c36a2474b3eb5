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
