"""What holds for every shadow and every update."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mdashcore._errors import InvalidShadowUpdate, ShadowConflict, StorageError, TooLarge
from mdashcore._json import decode, encode
from mdashcore._sections import check_state
from mdashcore._shadow_request import least_size
from mdashcore.shadow import Shadow, ShadowLimits, delta, merge, values_equal

# Few keys, few values and many objects, so that updates meet each other below the top level.
scalars = st.sampled_from([0, 1, 1.0, True, "ü", 2**70])
arrays = st.sampled_from([[], [1], [True], [[1], {"a": 1.0}], [{}, {"a": ['"', {}]}]])


def objects(leaves: st.SearchStrategy[Any], depth: int = 4) -> st.SearchStrategy[dict[str, Any]]:
    """Objects that often have an object at "a", down to `depth` levels: left to chance, most are flat."""
    if depth == 0:
        return st.just({})
    inner = objects(leaves, depth - 1)
    flat = st.fixed_dictionaries({}, optional={"a": leaves, "é": leaves | inner})
    deep = st.fixed_dictionaries({"a": inner}, optional={"é": leaves | inner})
    return flat | deep | deep | deep


values = scalars | arrays
sections = objects(values)
patches = objects(values | st.none())
some_patch = patches | patches | patches | st.none()
states = st.one_of(
    st.fixed_dictionaries({"desired": some_patch}),
    st.fixed_dictionaries({"reported": some_patch}),
    st.fixed_dictionaries({}, optional={"desired": some_patch, "reported": some_patch}),
    st.none(),
)
updates = st.fixed_dictionaries({"state": states})
with_version = st.fixed_dictionaries({"state": states, "version": st.integers(0, 4)})
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["state", "desired", "reported"]), inner)
    ),
    max_leaves=20,
)

REFUSALS = (InvalidShadowUpdate, ShadowConflict, TooLarge)
ROOMY = ShadowLimits(max_bytes=10**6, max_depth=32)


def same(a: Any, b: Any) -> bool:
    """Equal as JSON texts are, keys in any order: 1 is neither 1.0 nor True."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return bool(encode(a) == encode(b))


# --- merge and delta -----------------------------------------------------------------------------------------


def rfc_7396(target: Any, patch: Any) -> Any:
    """Section 2 of the RFC, as its pseudo-code has it."""
    if isinstance(patch, dict):
        if not isinstance(target, dict):
            target = {}
        for name, value in patch.items():
            if value is None:
                if name in target:
                    del target[name]
            else:
                target[name] = rfc_7396(target.get(name), value)
        return target
    return patch


def only_removes(patch: Any) -> bool:
    """Whether a patch has members and each of them removes, at whatever depth."""
    return isinstance(patch, dict) and patch != {} and all(v is None or only_removes(v) for v in patch.values())


def effective(target: Any, patch: Any) -> Any:
    """A patch without the objects that would remove from what is no object."""
    if not isinstance(patch, dict):
        return patch
    target = target if isinstance(target, dict) else {}
    return {
        name: effective(target.get(name), value)
        for name, value in patch.items()
        if isinstance(target.get(name), dict) or not only_removes(value)
    }


def merged_plainly(target: Any, patch: Any) -> Any:
    """What `merge` is to give, by way of the RFC."""
    return rfc_7396(deepcopy(target), effective(target, patch))


@given(sections, patches)
@example({}, {"a": {"é": None}})
@example({"a": 1}, {"a": {"é": {"a": None}}})
@example({"a": {"é": 1}}, {"a": {"é": None}})
def test_merge_is_that_of_rfc_7396_without_phantoms(target: Any, patch: Any) -> None:
    """The result is that of the RFC's algorithm for what the patch can do here, and neither input has changed."""
    before = encode([target, patch])
    merged = merge(target, patch)
    assert encode([target, patch]) == before
    assert encode(merged) == encode(merged_plainly(target, patch))


@given(sections, sections)
def test_merge_without_removals_is_that_of_rfc_7396(target: Any, patch: Any) -> None:
    """A patch without a null, with whatever empty objects, gives what the RFC gives."""
    assert encode(merge(target, patch)) == encode(rfc_7396(deepcopy(target), patch))


@given(sections, objects(st.none()))
def test_a_patch_that_only_removes_adds_nothing(target: Any, patch: Any) -> None:
    """No path is there afterwards that was not there before; an empty object that is asked for is no removal."""
    assume(only_removes(patch))

    def check(after: Any, before: Any) -> None:
        for key, value in after.items():
            assert key in before
            if isinstance(value, dict):
                check(value, before[key])
            else:
                assert value is before[key]

    check(merge(target, patch), target)


@given(sections, patches)
def test_merge_is_idempotent(target: Any, patch: Any) -> None:
    """Merging the same patch again changes nothing."""
    once = merge(target, patch)
    assert encode(merge(once, patch)) == encode(once)


@given(sections, patches)
def test_merge_shares_what_it_does_not_touch(target: Any, patch: Any) -> None:
    """A subtree whose key no part of the patch names is the very same object."""

    def check(old: Any, new: Any, changes: Any) -> None:
        for key, value in old.items():
            if key not in changes:
                assert new[key] is value
            elif isinstance(value, dict) and isinstance(changes[key], dict):
                check(value, new[key], changes[key])

    check(target, merge(target, patch), patch)


@given(sections)
def test_nothing_differs_from_itself(section: Any) -> None:
    """delta(s, s) is empty, for an equal copy as well."""
    assert delta(section, section) == {}
    assert delta(section, deepcopy(section)) == {}


@given(sections, sections)
def test_reporting_the_delta_empties_it(desired: Any, reported: Any) -> None:
    """A device that reports all of its delta has none left."""
    assert delta(desired, merge(reported, delta(desired, reported))) == {}


@given(sections, sections)
def test_delta_is_what_it_says(desired: Any, reported: Any) -> None:
    """It is empty exactly where merging desired into reported changes nothing, and has no husks."""
    difference = delta(desired, reported)
    assert (not difference) == values_equal(merge(reported, desired), reported)

    def check(part: Any, wanted: Any, found: Any) -> None:
        for key, value in part.items():
            both = isinstance(wanted[key], dict) and isinstance(found.get(key), dict)
            if both:
                assert value != {}
                check(value, wanted[key], found[key])
            else:
                assert value is wanted[key]
                assert not values_equal(value, found.get(key))

    check(difference, desired, reported)


@given(sections | values, sections | values)
def test_equality_is_one(a: Any, b: Any) -> None:
    """It is reflexive on copies, symmetrical, and true of equal texts."""
    assert values_equal(a, deepcopy(a))
    assert values_equal(a, b) == values_equal(b, a)
    if encode(a) == encode(b):
        assert values_equal(a, b)


# --- sequences of updates ------------------------------------------------------------------------------------


def leaves(value: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every path of keys that ends in something other than an object."""
    if not isinstance(value, dict):
        return {path: value}
    return {where: leaf for key in value for where, leaf in leaves(value[key], (*path, key)).items()}


class Model:
    """A shadow by the plainest means: everything from the whole, timestamps in a flat table."""

    def __init__(self) -> None:
        self.sections: dict[str, Any] = {"desired": {}, "reported": {}}
        self.stamps: dict[tuple[str, ...], int] = {}
        self.version = 0

    def update(self, document: Any, now: int) -> None:
        state = document["state"] if document["state"] is not None else {"desired": None, "reported": None}
        touched = {path for path, leaf in leaves(effective(self.sections, state)).items() if leaf is not None}
        for name, patch in state.items():
            self.sections[name] = {} if patch is None else merged_plainly(self.sections[name], patch)
        self.stamps = {path: now if path in touched else self.stamps[path] for path in leaves(self.sections)}
        self.version += 1


@given(st.lists(updates | updates | with_version | st.sampled_from(["report the delta", "want what is"]), max_size=10))
@example([{"state": {"desired": {"a": {"b": 1}}, "reported": {"a": {}}}}, "report the delta"])
def test_kept_along_is_what_the_whole_gives(sequence: list[Any]) -> None:
    """After any updates, delta, size, metadata and version are what a full recomputation says."""
    shadow, model = Shadow(), Model()
    history = []
    for now, document in enumerate(sequence):
        history.append((shadow, encode(shadow.to_stored()), encode(shadow.delta)))
        if document == "report the delta":
            document = {"state": {"reported": shadow.delta or {}}}
        elif document == "want what is":
            document = {"state": {"desired": shadow.reported or {}}}
        try:
            shadow, change = shadow.update(document, now=now, limits=ROOMY)
        except REFUSALS:
            assert document["version"] not in (model.version, model.version or 1)
            continue
        assert "version" not in document or document["version"] in (model.version, model.version or 1)
        model.update(document, now)

        assert shadow.version == change.version == model.version
        assert shadow.timestamp == now
        for name in ("desired", "reported"):
            assert same(getattr(shadow, name), model.sections[name] or None)
        desired, reported = model.sections["desired"], model.sections["reported"]
        assert same(shadow.delta, delta(desired, reported) or None)
        assert shadow.size == sum(len(encode(section)) for section in (desired, reported) if section)

        stored = shadow.to_stored()
        assert shadow.to_stored_json() == encode(stored)
        assert leaves(stored["timestamps"]) == model.stamps
        loaded = Shadow.from_stored(decode(encode(stored)))
        assert loaded == shadow
        assert same(loaded.document(), shadow.document())
        assert change.accepted_json() == encode(change.accepted_document())
    for old, stored_then, delta_then in history:
        assert (encode(old.to_stored()), encode(old.delta)) == (stored_then, delta_then)


@given(sections, sections, updates)
def test_an_update_of_any_shadow(desired: Any, reported: Any, document: Any) -> None:
    """Also where the delta and the sizes were not kept along from the start."""
    before = Shadow(desired, reported, version=3)
    after, _ = before.update(document, now=1, limits=ROOMY)
    assert same(after.delta, delta(after.desired or {}, after.reported or {}) or None)
    assert after.size == sum(len(encode(s)) for s in (after.desired, after.reported) if s)


@given(sections, updates)
def test_no_null_is_stored(desired: Any, document: Any) -> None:
    """Whatever was accepted, the stored form is valid, and so holds no null."""
    after, _ = Shadow(desired).update(document, now=1, limits=ROOMY)
    assert b"null" not in encode(after.to_stored())


# --- anything at all -----------------------------------------------------------------------------------------


@given(any_json | st.builds(lambda state: {"state": state}, any_json) | with_version)
def test_update_is_total(document: Any) -> None:
    """Any value gives a new shadow or one of three errors, and in either case leaves the old one alone."""
    before, _ = Shadow().update({"state": {"desired": {"a": {"b": 1}}, "reported": {"a": 1}}}, now=1)
    stored = encode(before.to_stored())
    limits = ShadowLimits(max_bytes=60, max_depth=3)
    try:
        after, change = before.update(document, now=2, limits=limits)
    except REFUSALS:
        pass
    else:
        assert after.version == before.version + 1
        assert after.size <= limits.max_bytes
        decode(encode([after.document(), change.accepted_document(), change.delta_document(metadata=True)]))
    assert encode(before.to_stored()) == stored


odd_leaves = st.sampled_from([1, "x", None, float("nan"), "\ud800", b"", (1,), [None], [[1, {"a": None}]], {5: 1}])
odd_patches = objects(odd_leaves, 3) | odd_leaves
odd_states = st.dictionaries(st.sampled_from(["desired", "reported", "reported", "delta"]), odd_patches, max_size=2)


@given(sections, odd_states, st.integers(1, 4))
@example({}, {"reported": {"a": [None]}, "desired": 5}, 4)
def test_the_walk_and_the_check_agree(desired: Any, state: Any, max_depth: int) -> None:
    """An update is refused exactly where the check of its state finds a fault, and for the first one."""
    try:
        text = encode(state)
    except ValueError:
        text = None
    try:
        check_state(state, text, max_depth, nulls=True)
        fault = None
    except InvalidShadowUpdate as exc:
        fault = str(exc)
    try:
        Shadow(desired).update({"state": state}, now=1, limits=ShadowLimits(max_depth=max_depth))
        refused = None
    except InvalidShadowUpdate as exc:
        refused = str(exc)
    assert refused == fault


@given(any_json)
def test_loading_is_total(stored: Any) -> None:
    """What was not written by this is refused as damaged."""
    with pytest.raises(StorageError):
        Shadow.from_stored(stored)


HARD_TEXTS = st.sampled_from(['":null', ':null,"', '":{},', '\\":null', ",}", "{}", '"'])


@example({"state": {"desired": None}}, {"state": {"desired": {}, "reported": {}}}, {})
@given(some_shadow=updates, update=updates, hard=st.dictionaries(HARD_TEXTS, HARD_TEXTS | st.none(), max_size=3))
def test_what_is_too_large_at_a_glance_is_too_large(some_shadow: Any, update: Any, hard: dict[str, Any]) -> None:
    """What is refused before it is merged, is too large after: no update is refused by a glance that fits."""
    before, _ = Shadow().update(some_shadow, now=1)
    if isinstance(update["state"], dict) and isinstance(update["state"].get("reported"), dict):
        update = {"state": {**update["state"], "reported": {**update["state"]["reported"], **hard}}}
    after, _ = before.update(update, now=2)
    assert least_size(encode(update["state"])) <= after.size


def test_a_large_update_is_refused_without_being_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is made of 128 KiB in many small members, also with nulls among them."""

    def never(*_: Any) -> Any:
        raise AssertionError("it was merged")

    monkeypatch.setattr("mdashcore._sections._Walk.merge", never)
    state = {f"k{number}": number if number % 3 else None for number in range(2**14)}
    with pytest.raises(TooLarge):
        Shadow().update({"state": {"reported": state}}, now=1)
