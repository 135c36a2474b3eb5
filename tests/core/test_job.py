"""Jobs: the machine, every state and event of it; and the laws of patches."""

from __future__ import annotations

from itertools import product

import attrs
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rows import every_row

from mdashcore._errors import InvalidInput, TooLarge
from mdashcore._trees import merge, values_equal
from mdashcore.job import (
    JOB_ENDS,
    JOB_TRANSITIONS,
    MAX_JOB_DEVICES,
    PIECE_SIZE,
    AllPiecesDone,
    Job,
    JobCancelRequested,
    JobCounts,
    JobOutcome,
    JobPiece,
    JobResult,
    JobState,
    JobStopped,
    PieceDone,
    advance,
    after_interruption,
    differences,
    fingerprint,
    next_event,
    parse_request,
)
from mdashcore.shadow import Shadow, ShadowLimits

NOW = 1_700_000_000.0

EVENTS = {
    PieceDone: PieceDone(JobCounts(changed=2, failed=1)),
    AllPiecesDone: AllPiecesDone(),
    JobCancelRequested: JobCancelRequested("alice"),
    JobStopped: JobStopped(),
}

WAYS = {
    (JobState.RUNNING, PieceDone): JobState.RUNNING,
    (JobState.RUNNING, AllPiecesDone): JobState.COMPLETED,
    (JobState.RUNNING, JobCancelRequested): JobState.CANCELING,
    (JobState.CANCELING, PieceDone): JobState.CANCELING,
    (JobState.CANCELING, AllPiecesDone): JobState.COMPLETED,
    (JobState.CANCELING, JobStopped): JobState.CANCELED,
}


def job(devices=3, **fields):
    made = Job.begun("job_a", "", {"a": 1}, ["online"], devices, by="alice", now=NOW)
    return attrs.evolve(made, **fields)


@pytest.mark.parametrize(("state", "kind"), list(product(JobState, EVENTS)))
def test_every_state_and_event(state, kind):
    """An event without an arrow changes nothing; one with an arrow leads where the table says."""
    before = job(state=state)
    after = advance(before, EVENTS[kind], now=NOW + 5)
    if (state, kind) not in WAYS:
        assert after is before
    else:
        assert after.state is WAYS[state, kind]
        assert after.changed == (NOW if after.state is state else NOW + 5)
    assert set(JOB_TRANSITIONS) == set(WAYS)


@given(st.integers(1, 3 * PIECE_SIZE), st.data())
def test_every_job_ends(devices, data):
    """Whatever its devices come to and whenever it is canceled, and the counts are those of its devices."""
    present = job(devices)
    seen = JobCounts(devices)
    for _ in range(present.pieces + 2):
        if present.ended:
            break
        if data.draw(st.booleans()):
            present = advance(present, JobCancelRequested("bob"), now=NOW)
        event = next_event(present)
        if event is None:
            size = present.size_of(present.piece)
            one, two = sorted(data.draw(st.tuples(st.integers(0, size), st.integers(0, size))))
            event = PieceDone(JobCounts(0, one, two - one, size - two))
            seen = seen.after(event.counts)
        present = advance(present, event, now=NOW)
        assert Job.from_stored(present.to_stored()) == present
    assert present.ended
    assert next_event(present) is None
    assert present.counts == seen
    assert sum(attrs.astuple(seen)) == devices
    assert (present.state is JobState.COMPLETED) is (seen.pending == 0)
    assert present.state in JOB_ENDS


@every_row(("devices", "words"), [(0, "no devices"), (MAX_JOB_DEVICES + 1, f"a job has at most {MAX_JOB_DEVICES}")])
def test_a_number_of_devices_that_no_job_has(devices, words):
    """It is refused."""
    with pytest.raises(InvalidInput, match=words):
        job(devices)


@every_row(
    ("request_", "words"),
    [
        ([], "a job is a JSON object"),
        ({"desired": {"a": 1}}, "devices or a filter"),
        ({"all": True}, "desired is an object"),
        ({"all": True, "desired": {}}, "desired is an object"),
        ({"all": True, "desired": None}, "desired is an object"),
        ({"all": True, "desired": [1]}, "desired is an object"),
        ({"all": True, "desired": {"a": [None]}}, "array must not contain null"),
        ({"all": True, "desired": {"a": {"b": {"c": 1}}}}, "levels of nesting"),
        ({"all": True, "desired": {"a": "x" * 100}}, "100 bytes"),
        ({"filter": "online", "desired": {"a": 1}}, "list of terms"),
        ({"filter": ["colour=red"], "desired": {"a": 1}}, "unknown field"),
        ({"devices": [], "desired": {"a": 1}}, "1 to"),
        ({"devices": ["d1"], "desired": {"a": 1}, "name": 5}, "name"),
        ({"devices": ["d1"], "desired": {"a": 1}, "preview": 1}, "preview is true or false"),
        ({"devices": ["d1"], "desired": {"a": 1}, "dry_run": True}, "unknown member 'dry_run'"),
    ],
)
def test_what_is_no_job(request_, words):
    """It is refused before anything is made of it, and the words name what is wrong."""
    with pytest.raises((InvalidInput, TooLarge), match=words):
        parse_request(request_, ShadowLimits(max_bytes=100, max_depth=2))


# Patches

KEYS = st.sampled_from("abc")
LEAVES = st.one_of(st.integers(0, 2), st.booleans(), st.just(1.0), st.just([1]), st.just("x"))


def objects(leaves):
    return st.recursive(
        st.dictionaries(KEYS, leaves, max_size=3), lambda inner: st.dictionaries(KEYS, inner | leaves, max_size=3)
    )


@given(objects(LEAVES), objects(LEAVES | st.none()))
@example({"a": 1}, {"a": {"b": None}})
@example({}, {"a": {"b": None}})
@example({}, {"a": {}})
def test_differences_are_what_a_merge_changes(desired, patch):
    """There are none exactly if it changes nothing; and each one is what is there before and after."""
    merged = merge(desired, patch)
    found = list(differences(desired, patch))
    assert (not found) is values_equal(merged, desired)
    for each in found:
        assert values_equal(place(desired, each.path), each.before)
        assert values_equal(place(merged, each.path), each.after)


def place(tree, path):
    """The value at a place; None if there is none."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def updated(shadow, now, **state):
    return shadow.update({"state": state}, now=now)[0]


@given(objects(LEAVES), objects(LEAVES | st.none()), objects(LEAVES | st.none()))
def test_a_change_is_told_from_one_that_has_not_happened(desired, patch, reported):
    """Through every report of the device, and through the store."""
    before = updated(Shadow(), 1, desired=desired)
    mark = fingerprint(before, patch)
    assert after_interruption(updated(before, 5, reported=reported), patch, mark) is JobOutcome.PENDING
    if list(differences(desired, patch)):
        after = Shadow.from_stored(updated(updated(before, 5, desired=patch), 6, reported=reported).to_stored())
        assert after_interruption(after, patch, mark) is JobOutcome.CHANGED


@every_row(
    "later",
    [{"a": 3}, {"a": None}, {"a": 1}],
)
def test_what_others_have_set_since_is_not_set_again(later):
    """Also if they have set the value that it had before."""
    patch = {"a": 2}
    before = updated(Shadow(), 1, desired={"a": 1, "b": 1})
    mark = fingerprint(before, patch)
    since = updated(updated(before, 2, desired=patch), 3, desired=later)
    assert after_interruption(since, patch, mark) is JobOutcome.FAILED
    assert after_interruption(updated(before, 3, desired={"b": 2}), patch, mark) is JobOutcome.PENDING


def test_a_pending_device_is_stored_as_its_id():
    """So the pieces of a large job are small."""
    piece = JobPiece((JobResult("d1"), JobResult("d2", JobOutcome.CHANGED, changed=NOW)))
    stored = msgspec.to_builtins(piece)
    assert stored["results"][0] == {"device": "d1"}
    assert JobPiece.from_stored(stored) == piece
    with pytest.raises(InvalidInput, match="not a piece"):
        JobPiece.from_stored({"results": [{"outcome": "CHANGED"}]})
