"""Shadows in a store: one version at a time, with any number of writers."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdashcore import _json
from mdashcore._errors import Busy, Damaged, InvalidShadowUpdate, ShadowConflict, StorageError, TooLarge
from mdashcore.hub import shadows as module
from mdashcore.hub.feed import Feed, LogQuery
from mdashcore.hub.records.contention import FIRST_PAUSE, LOGGED_RACES, MAX_PAUSE, MAX_RACES, Contention
from mdashcore.hub.shadows import Shadows
from mdashcore.identity import DeviceKey
from mdashcore.shadow import Shadow, ShadowLimits


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

    def build(limits=None, contention=None):
        backend, changes = tools.backend(), []
        feed = Feed(backend.logs, backend.bus, now=lambda: 1000.0)
        both = [
            Shadows(
                backend.documents,
                feed,
                now=lambda: 1000.0,
                on_change=lambda key, change: changes.append(change),
                limits=limits or ShadowLimits(),
                contention=contention or tools.contention(),
            )
            for _ in range(2)
        ]
        return Desk(*both, backend.documents, feed, changes)

    return build


async def listed(shadows, damaged=None):
    return [key async for key, _ in shadows.records.scan("alice/", damaged)]


def desired(**state):
    return {"state": {"desired": state}}


def test_a_new_shadow(tools, make):
    """Is empty, and in no store."""
    desk = make()
    assert tools.run(desk.one.get(DeviceKey("alice", "d1"))) == Shadow()
    assert tools.run(listed(desk.one)) == []


def test_an_update_is_stored_and_told(tools, make):
    """The caller, the observer and the log get it; the store gives it back as it was."""
    desk = make()
    change = tools.run(desk.one.update(DeviceKey("alice", "d1"), desired(on=True)))
    assert (change.version, desk.changes) == (1, [change])
    assert tools.run(desk.other.get(DeviceKey("alice", "d1"))) == change.shadow
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
    """The store, the log and the version stay, and there is no notification."""
    desk = make(ShadowLimits(max_bytes=100))
    tools.run(desk.one.update(DeviceKey("alice", "d1"), desired(n=1)))
    puts = desk.documents.puts
    for shadows in (desk.one, desk.other):
        with pytest.raises(error):
            tools.run(shadows.update(DeviceKey("alice", "d1"), document))
    assert desk.documents.puts == puts
    assert len(desk.changes) == 1
    assert tools.run(desk.other.get(DeviceKey("alice", "d1"))).version == 1


def test_a_node_that_knows_an_old_shadow_judges_by_the_new_one(tools, make):
    """What it remembers serves to be quick, never to say no."""
    desk = make(ShadowLimits(max_bytes=100))
    tools.run(desk.one.update(DeviceKey("alice", "d1"), desired(a="x" * 60)))
    tools.run(desk.other.update(DeviceKey("alice", "d1"), desired(a=None)))
    assert tools.run(desk.one.update(DeviceKey("alice", "d1"), desired(b="x" * 60))).version == 3
    tools.run(desk.other.update(DeviceKey("alice", "d1"), desired(b=None)))
    assert tools.run(desk.one.update(DeviceKey("alice", "d1"), {**desired(c=1), "version": 4})).version == 5
    with pytest.raises(ShadowConflict):
        tools.run(desk.other.update(DeviceKey("alice", "d1"), {**desired(c=2), "version": 4}))


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
        (desk.one if first else desk.other).update(DeviceKey("alice", "d1"), document)
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
        assert tools.run(shadows.get(DeviceKey("alice", "d1"))) == expected
    frames = tools.run(desk.feed.query("alice", LogQuery()))
    assert {_json.decode(frame)["data"]["shadow"]["version"] for frame in frames} == {*range(1, len(updates) + 1)}


@given(choices=st.lists(st.integers(0, 4), max_size=80))
def test_of_many_updates_of_one_version_one_succeeds(tools, make, choices):
    """The others conflict."""
    desk = make()
    tools.run(desk.one.update(DeviceKey("alice", "d1"), desired(n=0)))
    coroutines = [
        (desk.one, desk.other)[n % 2].update(DeviceKey("alice", "d1"), {**desired(n=n), "version": 1}) for n in range(5)
    ]
    outcomes = tools.interleave(coroutines, choices)
    (won,) = [outcome.value for outcome in outcomes if outcome.value]
    assert won.version == 2
    assert sum(isinstance(outcome.error, ShadowConflict) for outcome in outcomes) == 4
    assert tools.run(desk.one.get(DeviceKey("alice", "d1"))) == won.shadow


@given(choices=st.lists(st.integers(0, 2), max_size=60), updates=st.integers(1, 3))
def test_no_version_is_used_twice(tools, make, choices, updates):
    """Also where the device is removed while updates are under way, and created anew."""
    desk = make()
    tools.run(desk.one.update(DeviceKey("alice", "d1"), desired(n=0)))
    coroutines = [desk.one.update(DeviceKey("alice", "d1"), desired(n=n)) for n in range(updates)]
    outcomes = tools.interleave([desk.other.forget(DeviceKey("alice", "d1")), *coroutines], choices)
    assert not [outcome.error for outcome in outcomes if outcome.error]
    tools.run(desk.other.forget(DeviceKey("alice", "d1")))
    shadow = tools.run(desk.one.get(DeviceKey("alice", "d1")))
    assert shadow == Shadow(version=1 + updates)
    assert tools.run(desk.one.update(DeviceKey("alice", "d1"), desired(n=9))).version == 2 + updates


class PatientSignal:
    """Time passes immediately, and is written down."""

    def __init__(self, times):
        self._times = times

    async def wait(self, seconds):
        self._times.append(seconds)
        return False


def test_a_writer_that_others_are_quicker_than_tries_on(tools, make, caplog):
    """Immediately, then after pauses that grow to a bound and are spread; the log says so once; nothing is lost."""
    times = []
    desk = make(contention=Contention(tools.entropy(), lambda: PatientSignal(times)))
    desk.documents.conflicts = 100
    assert tools.run(desk.one.update(DeviceKey("alice", "d1"), desired(n=1))).version == 1
    assert desk.documents.puts == 101
    assert len(times) == 99
    assert FIRST_PAUSE / 2 <= times[0] <= FIRST_PAUSE
    assert times[:5] == sorted(times[:5])
    assert all(MAX_PAUSE / 2 <= time <= MAX_PAUSE for time in times[-50:])
    assert len(set(times[-50:])) > 10
    (line,) = [record for record in caplog.records if record.name.endswith("contention")]
    assert line.getMessage() == f"shadows/alice/d1 was changed by others {LOGGED_RACES} times in a row, trying on"


def test_a_store_that_never_takes_a_write_is_at_fault(tools, make):
    """No number of processes makes one lose for ever: it is no client's error, and nothing has changed."""
    desk = make()
    desk.documents.conflicts = MAX_RACES + 1
    with pytest.raises(StorageError, match="shadows/alice/d1 was changed by others"):
        tools.run(desk.one.update(DeviceKey("alice", "d1"), desired(n=1)))
    assert desk.documents.puts == MAX_RACES
    assert (desk.changes, tools.run(desk.one.get(DeviceKey("alice", "d1")))) == ([], Shadow())
    desk.documents.conflicts = 0
    assert tools.run(desk.one.update(DeviceKey("alice", "d1"), desired(n=1))).version == 1


@given(choices=st.lists(st.integers(0, 9), max_size=200))
def test_the_writers_of_one_node_have_their_turns_in_order(tools, make, choices):
    """However the store delays each: none is overtaken, none meets another version, and notifications are in order."""
    desk = make()
    outcomes = tools.interleave([desk.one.update(DeviceKey("alice", "d1"), desired(n=n)) for n in range(10)], choices)
    assert not [outcome.error for outcome in outcomes if outcome.error]
    assert desk.documents.puts == 10
    frames = tools.run(desk.feed.query("alice", LogQuery()))
    assert [_json.decode(frame)["data"]["shadow"]["version"] for frame in frames] == [*range(1, 11)]
    assert [change.version for change in desk.changes] == [*range(1, 11)]


def test_the_first_to_come_is_the_first_to_write(tools, make):
    """However long each task takes to be woken."""
    desk = make()
    updates = [desk.one.update(DeviceKey("alice", "d1"), desired(n=n)) for n in range(5)]
    for update in updates:
        update.send(None)  # it stands in the queue
    outcomes = tools.interleave(updates, [4, 3, 2, 1, 0] * 20)
    assert [outcome.value.version for outcome in outcomes] == [1, 2, 3, 4, 5]


def test_shadows_do_not_wait_for_each_other(tools, make):
    """Only writers of the same one do."""
    desk = make()
    held = desk.one.update(DeviceKey("alice", "d1"), desired(n=1))
    held.send(None)
    assert tools.run(desk.one.update(DeviceKey("alice", "d2"), desired(n=1))).version == 1
    assert tools.run(desk.one.update(DeviceKey("bob", "d1"), desired(n=1))).version == 1
    assert tools.run(held).version == 1


@given(steps=st.integers(0, 8), which=st.integers(0, 3), choices=st.lists(st.integers(0, 9), max_size=40))
def test_a_writer_that_is_stopped_leaves_the_turn_to_the_next(tools, make, steps, which, choices):
    """While it waits or while it writes, at any step, and whether the store has failed or its client has left."""
    for stop in tools.stops:
        desk = make()
        updates = [desk.one.update(DeviceKey("alice", "d1"), desired(**{str(n): n})) for n in range(4)]
        for update in updates:
            update.send(None)
        stopped = updates.pop(which)
        tools.stop(stopped, steps, stop())
        outcomes = tools.interleave(updates, choices)
        assert not [outcome.error for outcome in outcomes if outcome.error]
        assert not desk.one._turns._waiting
        assert len(tools.run(desk.other.get(DeviceKey("alice", "d1"))).desired) in (3, 4)


def test_a_writer_with_limited_patience_gets_an_error(tools, make, monkeypatch):
    """An update with some patience is busy when that is over, or when too many wait already; it has changed nothing."""
    monkeypatch.setattr(module, "MAX_WAITING_WRITERS", 1)
    desk = make()
    held = desk.one.update(DeviceKey("alice", "d1"), desired(n=0))
    held.send(None)
    waiting = desk.one.update(DeviceKey("alice", "d1"), desired(n=1))
    waiting.send(None)
    with pytest.raises(Busy):
        tools.run(desk.one.update(DeviceKey("alice", "d1"), desired(n=2), patience=10.0))
    monkeypatch.setattr(module, "MAX_WAITING_WRITERS", 9)
    with pytest.raises(Busy):
        tools.run(desk.one.update(DeviceKey("alice", "d1"), desired(n=3), patience=10.0))
    outcomes = tools.interleave([held, waiting], [])
    assert [outcome.value.version for outcome in outcomes] == [1, 2]
    assert tools.run(desk.one.update(DeviceKey("alice", "d1"), desired(n=4), patience=10.0)).version == 3


def test_what_must_not_be_cancelled_is_run_by_the_caller_s_means(tools, make):
    """And nothing else is: the waiting may be."""
    desk, protected = make(), []

    async def protect(change):
        protected.append(await change())
        return protected[-1]

    change = tools.run(desk.one.update(DeviceKey("alice", "d1"), desired(n=0), protect=protect))
    assert protected == [change] == desk.changes


def test_what_is_remembered_is_bounded(tools, make, monkeypatch):
    """The least recently updated is forgotten, and read again when it is needed."""
    monkeypatch.setattr(module, "MAX_CACHED", 3)
    desk = make()
    for n in (1, 2, 3, 1, 4):
        tools.run(desk.one.update(DeviceKey("alice", f"d{n}"), desired(n=n)))
    assert [key.id for key in desk.one._cache] == ["d3", "d1", "d4"]
    assert tools.run(desk.one.update(DeviceKey("alice", "d2"), desired(m=1))).version == 2


def test_what_is_remembered_is_bounded_in_bytes(tools, make, monkeypatch):
    """A few large shadows push out what many small ones would not; and what is forgotten is not counted any more."""
    monkeypatch.setattr(module, "MAX_CACHED_BYTES", 1000)
    desk = make()
    for n in range(10):
        tools.run(desk.one.update(DeviceKey("alice", f"d{n}"), desired(n=n)))
    assert len(desk.one._cache) == 10
    tools.run(desk.one.update(DeviceKey("alice", "big"), desired(a="x" * 950)))
    assert [key.id for key in desk.one._cache] == [*(f"d{n}" for n in range(4, 10)), "big"]
    tools.run(desk.one.update(DeviceKey("alice", "big"), desired(a=None)))
    tools.run(desk.one.update(DeviceKey("alice", "d9"), desired(n="x" * 100)))
    tools.run(desk.one.forget(DeviceKey("alice", "d8")))
    assert desk.one._cached_bytes == sum(record.value.size for record in desk.one._cache.values()) < 200
    tools.run(desk.one.update(DeviceKey("alice", "huge"), desired(a="x" * 2000)))
    assert (desk.one._cached_bytes, [*desk.one._cache]) == (0, [])
    assert tools.run(desk.one.update(DeviceKey("alice", "huge"), desired(a=None))).version == 2


@pytest.mark.parametrize("body", [b"7", b"{}", b'{"version":"x"}', b"{", b'{"state":{"desired":{"a":null}}}'])
def test_a_damaged_shadow_is_the_store_s_fault(tools, make, body, caplog):
    """Not the client's; the error names the document, a list passes it over, and it goes with its device."""
    desk = make()
    tools.run(desk.documents.put("shadows", "alice/d1", body))
    shadows = desk.one
    for coroutine in (shadows.get(DeviceKey("alice", "d1")), shadows.update(DeviceKey("alice", "d1"), desired(n=1))):
        with pytest.raises(Damaged, match="shadows/alice/d1"):
            tools.run(coroutine)
    damaged = []
    tools.run(shadows.update(DeviceKey("alice", "d2"), desired(n=1)))
    assert tools.run(listed(shadows, damaged)) == ["alice/d2"]
    assert damaged == ["d1"]
    assert caplog.text.count("shadows/alice/d1 cannot be read") == 1
    tools.run(shadows.forget(DeviceKey("alice", "d1")))
    assert tools.run(shadows.update(DeviceKey("alice", "d1"), desired(n=1))).version == 1
