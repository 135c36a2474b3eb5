"""Shadows in a store: one version a time, whoever writes."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdashcore import _json
from mdashcore._errors import Busy, InvalidShadowUpdate, ShadowConflict, StorageError, TooLarge
from mdashcore.hub import shadows as module
from mdashcore.hub._records import MAX_TRIES
from mdashcore.hub.feed import Feed, LogQuery
from mdashcore.hub.shadows import Shadows
from mdashcore.shadow import Limits, Shadow


@attrs.define
class Desk:
    """Two nodes' shadows on one store, with what they told."""

    one: Shadows
    other: Shadows
    documents: object
    feed: Feed
    changes: list


@pytest.fixture(scope="session")
def make(tools):
    """Makes a `Desk`."""

    def build(limits=None):
        backend, changes = tools.backend(), []
        feed = Feed(backend.logs, backend.bus, now=lambda: 1000.0)
        both = [
            Shadows(
                backend.documents,
                feed,
                now=lambda: 1000.0,
                on_change=lambda account, id, change: changes.append(change),
                limits=limits or Limits(),
            )
            for _ in range(2)
        ]
        return Desk(*both, backend.documents, feed, changes)

    return build


async def listed(shadows):
    return {id: shadow async for id, shadow in shadows}


def desired(**state):
    return {"state": {"desired": state}}


def test_a_new_shadow(tools, make):
    """Is empty, and in no store."""
    desk = make()
    assert tools.run(desk.one.get("alice", "d1")) == Shadow()
    assert tools.run(listed(desk.one.of("alice"))) == {}


def test_an_update_is_stored_and_told(tools, make):
    """To whoever asked, to the listeners, and in the log; the store gives it back as it was."""
    desk = make()
    change = tools.run(desk.one.update("alice", "d1", desired(on=True)))
    assert (change.version, desk.changes) == (1, [change])
    assert tools.run(desk.other.get("alice", "d1")) == change.shadow
    (frame,) = tools.run(desk.feed.query("alice", LogQuery()))
    note = _json.decode(frame)
    assert (note["name"], note["id"]) == ("updated", "d1")
    assert note["data"] == {"shadow": {"state": {"desired": {"on": True}}, "version": 1, "timestamp": 1000}}


@pytest.mark.parametrize(
    ("document", "error"),
    [
        (None, InvalidShadowUpdate),
        ({}, InvalidShadowUpdate),
        ({"state": {"delta": {}}}, InvalidShadowUpdate),
        ({"state": {}, "version": 7}, ShadowConflict),
        ({"state": {"desired": {"a": "x" * 200}}}, TooLarge),
    ],
)
def test_a_refused_update_changes_nothing(tools, make, document, error):
    """Not the store, the log or the version; nobody hears of it."""
    desk = make(Limits(max_bytes=100))
    tools.run(desk.one.update("alice", "d1", desired(n=1)))
    puts = desk.documents.puts
    for shadows in (desk.one, desk.other):
        with pytest.raises(error):
            tools.run(shadows.update("alice", "d1", document))
    assert desk.documents.puts == puts
    assert len(desk.changes) == 1
    assert tools.run(desk.other.get("alice", "d1")).version == 1


def test_a_node_that_knows_an_old_shadow_judges_by_the_new_one(tools, make):
    """What it remembers serves to be quick, never to say no."""
    desk = make(Limits(max_bytes=100))
    tools.run(desk.one.update("alice", "d1", desired(a="x" * 60)))
    tools.run(desk.other.update("alice", "d1", desired(a=None)))
    assert tools.run(desk.one.update("alice", "d1", desired(b="x" * 60))).version == 3
    tools.run(desk.other.update("alice", "d1", desired(b=None)))
    assert tools.run(desk.one.update("alice", "d1", {**desired(c=1), "version": 4})).version == 5
    with pytest.raises(ShadowConflict):
        tools.run(desk.other.update("alice", "d1", {**desired(c=2), "version": 4}))


@given(
    updates=st.lists(
        st.tuples(st.booleans(), st.sampled_from("abc"), st.none() | st.integers(0, 3) | st.just({"x": 1})),
        min_size=1,
        max_size=8,
    ),
    choices=st.lists(st.integers(0, 7), max_size=120),
    conflicts=st.integers(0, 6),
)
def test_writers_at_the_same_time_lose_nothing(tools, make, updates, choices, conflicts):
    """Of two nodes, in any order of their reads and writes: every update has a version of its own, and the shadow is
    what comes of applying them in the order of their versions."""
    desk = make()
    desk.documents.conflicts = conflicts
    documents = [desired(**{key: value}) for _, key, value in updates]
    coroutines = [
        (desk.one if first else desk.other).update("alice", "d1", document)
        for (first, _, _), document in zip(updates, documents, strict=True)
    ]
    outcomes = tools.interleave(coroutines, choices)
    assert not [outcome.error for outcome in outcomes if outcome.error]
    order = sorted(range(len(updates)), key=lambda n: outcomes[n].value.version)
    assert [outcomes[n].value.version for n in order] == [*range(1, len(updates) + 1)]
    expected = Shadow()
    for n in order:
        expected, _ = expected.update(documents[n], now=1000.0)
    for shadows in (desk.one, desk.other):
        assert tools.run(shadows.get("alice", "d1")) == expected
    frames = tools.run(desk.feed.query("alice", LogQuery()))
    assert {_json.decode(frame)["data"]["shadow"]["version"] for frame in frames} == {*range(1, len(updates) + 1)}


@given(choices=st.lists(st.integers(0, 4), max_size=80))
def test_of_many_updates_of_one_version_one_succeeds(tools, make, choices):
    """The others conflict."""
    desk = make()
    tools.run(desk.one.update("alice", "d1", desired(n=0)))
    coroutines = [(desk.one, desk.other)[n % 2].update("alice", "d1", {**desired(n=n), "version": 1}) for n in range(5)]
    outcomes = tools.interleave(coroutines, choices)
    (won,) = [outcome.value for outcome in outcomes if outcome.value]
    assert won.version == 2
    assert sum(isinstance(outcome.error, ShadowConflict) for outcome in outcomes) == 4
    assert tools.run(desk.one.get("alice", "d1")) == won.shadow


@given(choices=st.lists(st.integers(0, 2), max_size=60), updates=st.integers(1, 3))
def test_no_version_is_used_twice(tools, make, choices, updates):
    """Also where the device is removed while updates are under way, and created anew."""
    desk = make()
    tools.run(desk.one.update("alice", "d1", desired(n=0)))
    coroutines = [desk.one.update("alice", "d1", desired(n=n)) for n in range(updates)]
    outcomes = tools.interleave([desk.other.forget("alice", "d1"), *coroutines], choices)
    assert not [outcome.error for outcome in outcomes if outcome.error]
    tools.run(desk.other.forget("alice", "d1"))
    shadow = tools.run(desk.one.get("alice", "d1"))
    assert shadow == Shadow(version=1 + updates)
    assert tools.run(desk.one.update("alice", "d1", desired(n=9))).version == 2 + updates


def test_a_flood_of_writers_is_busy(tools, make):
    """After `MAX_TRIES` lost races the update is refused, and nothing has changed."""
    desk = make()
    desk.documents.conflicts = MAX_TRIES + 1
    with pytest.raises(Busy):
        tools.run(desk.one.update("alice", "d1", desired(n=1)))
    assert desk.documents.puts == MAX_TRIES
    assert (desk.changes, tools.run(desk.one.get("alice", "d1"))) == ([], Shadow())


def test_what_is_remembered_is_bounded(tools, make, monkeypatch):
    """The least recently updated is forgotten, and read again when it is needed."""
    monkeypatch.setattr(module, "MAX_CACHED", 3)
    desk = make()
    for n in (1, 2, 3, 1, 4):
        tools.run(desk.one.update("alice", f"d{n}", desired(n=n)))
    assert list(desk.one._cache) == ["alice/d3", "alice/d1", "alice/d4"]
    assert tools.run(desk.one.update("alice", "d2", desired(m=1))).version == 2


def test_what_is_remembered_is_bounded_in_bytes(tools, make, monkeypatch):
    """A few large shadows push out what many small ones would not; and what is forgotten is not counted any more."""
    monkeypatch.setattr(module, "MAX_CACHED_BYTES", 1000)
    desk = make()
    for n in range(10):
        tools.run(desk.one.update("alice", f"d{n}", desired(n=n)))
    assert len(desk.one._cache) == 10
    tools.run(desk.one.update("alice", "big", desired(a="x" * 950)))
    assert list(desk.one._cache) == [*(f"alice/d{n}" for n in range(4, 10)), "alice/big"]
    tools.run(desk.one.update("alice", "big", desired(a=None)))
    tools.run(desk.one.update("alice", "d9", desired(n="x" * 100)))
    tools.run(desk.one.forget("alice", "d8"))
    assert desk.one._cached_bytes == sum(record.value.size for record in desk.one._cache.values()) < 200
    tools.run(desk.one.update("alice", "huge", desired(a="x" * 2000)))
    assert (desk.one._cached_bytes, list(desk.one._cache)) == (0, [])
    assert tools.run(desk.one.update("alice", "huge", desired(a=None))).version == 2


@pytest.mark.parametrize("body", [b"7", b"{}", b'{"version":"x"}', b"{", b'{"state":{"desired":{"a":null}}}'])
def test_a_damaged_shadow_is_the_store_s_fault(tools, make, body):
    """Not the client's; the error names the document."""
    desk = make()
    tools.run(desk.documents.put("shadows", "alice/d1", body))
    shadows = desk.one
    for coroutine in (
        shadows.get("alice", "d1"),
        shadows.update("alice", "d1", desired(n=1)),
        listed(shadows.of("alice")),
    ):
        with pytest.raises(StorageError, match="shadows/alice/d1"):
            tools.run(coroutine)


def test_shadows_are_listed_by_account(tools, make):
    """No name of an account is taken for the beginning of another."""
    desk = make()
    for account, id in (("al", "d1"), ("alice", "d2")):
        tools.run(desk.one.update(account, id, desired(n=1)))
    assert list(tools.run(listed(desk.one.of("al")))) == ["d1"]
