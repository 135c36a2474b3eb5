"""Browser sessions, as the hub keeps them."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdashcore._errors import StorageError, Unauthenticated
from mdashcore.hub.accounts import Accounts
from mdashcore.hub.clock import Clock
from mdashcore.hub.sessions import SESSION_TOUCH, Sessions


def make(tools):
    """Sessions on a new store with an account, what was revoked, and the clock."""
    documents, revoked, clock = tools.documents(), [], [1000.0]
    entropy = tools.entropy()
    accounts = Accounts(documents, now=lambda: clock[0], entropy=entropy, on_revoked=lambda *_: None)
    sessions = Sessions(
        documents,
        accounts,
        clock=Clock(lambda: clock[0], lambda: clock[0]),
        entropy=entropy,
        on_revoked=lambda *session: revoked.append(session),
    )
    account = tools.run(accounts.register("alice", "hash"))
    return sessions, tools.run(sessions.create(account)), documents, revoked, clock


def test_a_store_that_only_reads_fails_no_request(tools):
    """When a session was used is noted where that is possible; it opens all the same where it is not."""
    sessions, created, documents, _, clock = make(tools)
    clock[0] += SESSION_TOUCH

    async def full(*args, **kwargs):
        raise StorageError("the disk is full")

    documents.put = full
    assert tools.run(sessions.authenticate(created.secret))[0].id == created.session.id


def test_of_too_many_the_one_not_used_for_longest_ends(tools):
    """It is not the one that was opened first, if that is in use; and the sockets that it had opened are closed."""
    sessions, first, _, revoked, clock = make(tools)
    sessions._most = 3
    _, account = tools.run(sessions.authenticate(first.secret))
    others = []
    for _ in range(2):
        clock[0] += SESSION_TOUCH
        others.append(tools.run(sessions.create(account)))
    clock[0] += SESSION_TOUCH
    tools.run(sessions.authenticate(first.secret))
    clock[0] += SESSION_TOUCH
    newest = tools.run(sessions.create(account))
    assert revoked == [("alice", others[0].session.id)]
    for kept in (first, others[1], newest):
        assert tools.run(sessions.authenticate(kept.secret))[0].id == kept.session.id
    with pytest.raises(Unauthenticated):
        tools.run(sessions.authenticate(others[0].secret))


@pytest.mark.parametrize("why", [0, 1])
def test_an_end_that_is_stopped_anywhere(tools, why):
    """What the session had opened was closed, if it is not valid any more."""
    for steps in count(1):
        sessions, created, _, revoked, _ = make(tools)
        stopped = tools.stop(sessions.end(created.session), steps, tools.stops[why]())
        try:
            tools.run(sessions.authenticate(created.secret))
        except Unauthenticated:
            assert revoked == [("alice", created.session.id)], steps
        if not stopped:
            return


@given(st.lists(st.integers(0, 5), max_size=100))
def test_logins_at_the_same_time_stay_within_the_bound(tools, choices):
    """Of six at the same time, with room for three, three are left, in whatever order they take their steps."""
    sessions, first, *_ = make(tools)
    sessions._most = 3
    _, account = tools.run(sessions.authenticate(first.secret))
    outcomes = tools.interleave([sessions.create(account) for _ in range(6)], choices)
    assert [each.error for each in outcomes] == [None] * 6
    assert tools.run(sessions.count("alice")) <= 3
