"""Presence: the newest connection decides whether a device is online."""

from __future__ import annotations

from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from mdashcore.hub.presence import OFFLINE_RECORD, Presence
from mdashcore.identity import DeviceKey


def make(tools):
    return Presence(tools.documents(), now=count(1000).__next__, contention=tools.contention())


def test_a_device_that_never_connected(tools):
    """Offline, and never seen."""
    presence = make(tools)
    assert tools.run(presence.get(DeviceKey("alice", "d1"))) == OFFLINE_RECORD
    assert tools.run(presence.of("alice")) == {}
    assert (OFFLINE_RECORD.online, OFFLINE_RECORD.last_seen, OFFLINE_RECORD.session) == (False, None, 0)


def test_a_connection_comes_and_goes(tools):
    """Online at its node from the claim on; offline from the release on, and when it was seen last."""
    presence = make(tools)
    session = tools.run(presence.claim(DeviceKey("alice", "d1"), "node-a")).session
    record = tools.run(presence.get(DeviceKey("alice", "d1")))
    assert (record.online, record.node, record.session) == (True, "node-a", session)
    assert tools.run(presence.release(DeviceKey("alice", "d1"), session, 1234.5))
    record = tools.run(presence.get(DeviceKey("alice", "d1")))
    assert (record.online, record.node, record.last_seen) == (False, None, 1234.5)
    assert not tools.run(presence.release(DeviceKey("alice", "d1"), session, 1235.0))  # once
    assert tools.run(presence.get(DeviceKey("alice", "d1"))) == record


def test_the_last_sign_moves_on(tools):
    """Of the newest session, and only forward; a record that cannot be read, and one of an offline device, stay."""
    key, presence = DeviceKey("alice", "d1"), make(tools)
    old = tools.run(presence.claim(key, "node-a")).session
    new = tools.run(presence.claim(key, "node-b")).session
    since = tools.run(presence.get(key)).since
    for session, time, seen in ((new, 2e9, 2e9), (old, 3e9, 2e9), (new, 1e9, 2e9)):
        tools.run(presence.store_last_seen(key, session, time))
        record = tools.run(presence.get(key))
        assert (record.last_seen, record.since, record.node) == (seen, since, "node-b")
    tools.run(presence.release(key, new, 2e9))
    tools.run(presence.store_last_seen(key, new, 4e9))
    assert tools.run(presence.get(key)).last_seen == 2e9


def test_a_late_offline_is_none(tools):
    """The end of an older connection, noticed after a newer one began, changes nothing."""
    presence = make(tools)
    old = tools.run(presence.claim(DeviceKey("alice", "d1"), "node-a")).session
    new = tools.run(presence.claim(DeviceKey("alice", "d1"), "node-b")).session
    assert new == old + 1
    assert not tools.run(presence.release(DeviceKey("alice", "d1"), old, 0.0))
    record = tools.run(presence.get(DeviceKey("alice", "d1")))
    assert (record.online, record.node) == (True, "node-b")


@given(
    releases=st.lists(st.booleans(), min_size=1, max_size=5),
    choices=st.lists(st.integers(0, 4), max_size=80),
)
def test_the_newest_session_wins_in_every_interleaving(tools, releases, choices):
    """Connections that come and go at the same time, in any order of their reads and writes.

    The device is online afterwards if, and only if, its newest connection is still there; and of all the ends of
    connections exactly one is told as "offline" then.
    """
    presence = make(tools)

    async def connection(number, ends):
        session, _ = await presence.claim(DeviceKey("alice", "d1"), f"node-{number}")
        for _ in range(number):
            await tools.pause()
        return session, ends and await presence.release(DeviceKey("alice", "d1"), session, 0.0)

    outcomes = tools.interleave([connection(n, ends) for n, ends in enumerate(releases)], choices)
    assert not [outcome.error for outcome in outcomes if outcome.error]
    sessions = [outcome.value[0] for outcome in outcomes]
    assert sorted(sessions) == [*range(1, len(releases) + 1)]
    newest = sessions.index(max(sessions))
    record = tools.run(presence.get(DeviceKey("alice", "d1")))
    assert record.session == max(sessions)
    assert record.online == (not releases[newest])
    assert record.node == (None if releases[newest] else f"node-{newest}")
    assert bool(outcomes[newest].value[1]) == releases[newest]


@given(choices=st.lists(st.integers(0, 2), max_size=40))
def test_sessions_go_on_after_a_removal(tools, choices):
    """A device that is removed while connections come is offline, or online by a session that is newer than any."""
    presence = make(tools)
    first = tools.run(presence.claim(DeviceKey("alice", "d1"), "a")).session
    coroutines = [
        presence.forget(DeviceKey("alice", "d1")),
        presence.claim(DeviceKey("alice", "d1"), "b"),
        presence.release(DeviceKey("alice", "d1"), first, 0.0),
    ]
    outcomes = tools.interleave(coroutines, choices)
    assert not [outcome.error for outcome in outcomes if outcome.error]
    assert outcomes[1].value.session == first + 1
    record = tools.run(presence.get(DeviceKey("alice", "d1")))
    assert record.session == first + 1
    assert tools.run(presence.claim(DeviceKey("alice", "d1"), "c")).session == first + 2


def test_accounts_are_apart(tools):
    """The same id in two accounts, and a name that begins like another."""
    presence = make(tools)
    for account in ("al", "alice"):
        tools.run(presence.claim(DeviceKey(account, "d1"), f"node-{account}"))
    assert {id: record.node for id, record in tools.run(presence.of("al")).items()} == {"d1": "node-al"}


@given(choices=st.lists(st.integers(0, 3), max_size=60))
def test_what_a_process_left_behind_is_swept(tools, choices):
    """The devices of a node that ended without a word are offline; other nodes', and those that have come back, not."""
    presence = make(tools)
    for id, node in (("d1", "a"), ("d2", "a"), ("d3", "b"), ("d4", "a"), ("d5", "a")):
        session = tools.run(presence.claim(DeviceKey("alice", id), node)).session
    tools.run(presence.release(DeviceKey("alice", "d5"), session, 5.0))

    async def alive():
        return {"b"}

    async def sweep():
        left = await presence.left_behind(alive)
        return [key for key, record in left if await presence.release(key, record.session, 9.0)]

    swept = sweep()
    outcomes = tools.interleave(
        [swept, presence.claim(DeviceKey("alice", "d1"), "b"), presence.release(DeviceKey("alice", "d2"), 1, 7.0)],
        choices,
    )
    assert not [outcome.error for outcome in outcomes if outcome.error]
    online = {id: record.node for id, record in tools.run(presence.of("alice")).items() if record.online}
    assert online == {"d1": "b", "d3": "b"}
    told = outcomes[0].value
    assert DeviceKey("alice", "d4") in told
    assert set(told) <= {DeviceKey("alice", "d1"), DeviceKey("alice", "d2"), DeviceKey("alice", "d4")}
    assert (DeviceKey("alice", "d2") in told) != outcomes[2].value  # told offline by one of them, and only by one
    record = tools.run(presence.get(DeviceKey("alice", "d4")))
    assert record.last_seen == 9.0
