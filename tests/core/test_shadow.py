"""The shadow, example by example: the shared vectors first, then what they leave open."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import attrs
import pytest
from rows import every_row

from mdashcore import _sections
from mdashcore import shadow as shadow_module
from mdashcore._errors import InvalidShadowUpdate, MdashError, ShadowConflict, StorageError, TooLarge
from mdashcore._json import decode, encode
from mdashcore.shadow import CLEARED, Shadow, ShadowLimits, delta, merge, values_equal

Vector = dict[str, Any]

VECTORS: list[Vector] = json.loads((Path(__file__).parent / "vectors" / "shadow.json").read_text("utf-8"))

# Azure's own rules, where this shadow decides otherwise.
EXCLUDED = {
    "az_integer_below_minus_2_52_rejected": "integers are exact at any size, as `big_ints_beyond_2_53_differ` pins",
    "az_key_with_dollar_rejected": "AWS accepts it; metadata has a tree of its own, so no key is reserved",
    "az_string_over_4096_rejected": "a string is bounded by the size of the document, as with AWS",
    "az_etag_mismatch_rejected": "If-Match and 412 belong to HTTP; an update locks by its `version`, with 409",
    "az_replace_desired_put": "there is no replacing update; `desired: null` clears the section",
}
RUN = [vector for vector in VECTORS if vector["name"] not in EXCLUDED]

ERRORS: dict[int, type[MdashError]] = {400: InvalidShadowUpdate, 409: ShadowConflict, 413: TooLarge}


def limits_of(vector: Vector) -> ShadowLimits:
    match vector.get("limit", "").split("="):
        case ["depth", depth]:
            return ShadowLimits(max_depth=int(depth))
        case ["size", size]:
            return ShadowLimits(max_bytes=int(size))
    return ShadowLimits()


def shown(shadow: Shadow) -> dict[str, Any]:
    """A shadow in the form of a vector's `state_before` and `state_after`."""
    return {k: v for k, v in shadow.document()["state"].items() if k != "delta"} | {"version": shadow.version}


def test_no_vector_falls_out() -> None:
    """Every vector is run, but for the five of Azure's that this shadow's own rules contradict."""
    assert Counter(vector["profile"] for vector in VECTORS) == {"aws": 38, "both": 33, "azure": 6}
    assert Counter(vector["profile"] for vector in RUN) == {"aws": 38, "both": 33, "azure": 1}
    assert {vector["name"] for vector in VECTORS} - {vector["name"] for vector in RUN} == set(EXCLUDED)
    assert len({vector["name"] for vector in RUN}) == len(RUN) == 72


@every_row("vector", RUN)
def test_vector(vector: Vector) -> None:
    """The state, the delta, the version and the error are those that the vector's source shows."""
    before = Shadow(**(vector["state_before"] or {}))
    if "error" in vector:
        with pytest.raises(ERRORS[vector["error"]["code"]]) as caught:
            before.update(vector["update"], now=1, limits=limits_of(vector))
        assert type(caught.value) is ERRORS[vector["error"]["code"]]
        assert str(caught.value).startswith(vector["error"].get("message", ""))
        after = before
    else:
        after, change = before.update(vector["update"], now=1, limits=limits_of(vector))
        assert change.version == after.version
        assert encode(change.delta) == encode(after.delta)
        for name, value in vector.get("echoes", {}).items():
            assert change.accepted_document()[name] == value
            assert change.delta_document()[name] == value
    assert values_equal(shown(after), vector["state_after"] or {"version": 0})
    assert values_equal(after.delta, vector["delta_after"])
    assert ("delta" in after.document()["state"]) == (vector["delta_after"] is not None)


@every_row("vector", RUN)
def test_stored_and_loaded(vector: Vector) -> None:
    """What is stored as JSON and loaded again is the same shadow, big integers and all."""
    try:
        shadow, _ = Shadow(**(vector["state_before"] or {})).update(vector["update"], now=1)
    except MdashError:
        shadow = Shadow(**(vector["state_before"] or {}))
    loaded = Shadow.from_stored(decode(encode(shadow.to_stored())))
    assert loaded == shadow
    assert encode(loaded.document()["state"].get("desired")) == encode(shadow.desired)
    assert values_equal(loaded.delta, shadow.delta)
    assert loaded.size == shadow.size


@pytest.mark.parametrize(
    "value", [{"$x": 1}, {"level": {"n": -(2**52) - 1}}, {"n": 2**200}, {"s": "*" * 5000}, {"": {"": ""}}]
)
def test_values_without_bounds_of_their_own(value: dict[str, Any]) -> None:
    """Any key, any integer and any string is accepted that the whole document has room for."""
    shadow, _ = Shadow().update({"state": {"reported": value}}, now=1)
    assert encode(shadow.reported) == encode(value)


# --- what is not an update -------------------------------------------------------------------------------------

DESIRED_A = {"state": {"desired": {"a": 1}}}
CYCLE: dict[str, Any] = {}
CYCLE["again"] = CYCLE


def nested(levels: int, *, array: bool = False) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value] if array else {"k": value}
    return value


MALFORMED = [
    (None, "Invalid JSON"),
    ([], "Invalid JSON"),
    ("state", "Invalid JSON"),
    (True, "Invalid JSON"),
    ({}, "Missing required node: state"),
    ({"desired": {"a": 1}}, "Missing required node: state"),
    ({"state": []}, "State node must be an object"),
    ({"state": 0}, "State node must be an object"),
    ({"state": False}, "State node must be an object"),
    ({"state": {"desired": 1}}, "Desired node must be an object"),
    ({"state": {"desired": {}, "reported": []}}, "Reported node must be an object"),
    ({"state": {"Desired": {}}}, "State contains an invalid node: 'Desired'"),
    ({"state": {"x" * 10_000: {}}}, "State contains an invalid node: 'xxx"),
    ({"state": {5: {}}}, "State contains an invalid node: 5"),
    (DESIRED_A | {"version": "0"}, "Invalid version"),
    (DESIRED_A | {"version": 0.0}, "Invalid version"),
    (DESIRED_A | {"version": True}, "Invalid version"),
    (DESIRED_A | {"version": -1}, "Invalid version"),
    (DESIRED_A | {"version": None}, "Invalid version"),
    (DESIRED_A | {"version": []}, "Invalid version"),
    (DESIRED_A | {"clientToken": 5}, "Invalid clientToken"),
    (DESIRED_A | {"clientToken": None}, "Invalid clientToken"),
    (DESIRED_A | {"clientToken": "é" * 33}, "Invalid clientToken"),
    (DESIRED_A | {"clientToken": "\ud800"}, "Invalid clientToken"),
    ({"state": {"desired": {"list": [1, {"a": None}]}}}, "An array must not contain null: 'a'"),
    ({"state": {"desired": {"list": [[1, None]]}}}, "An array must not contain null: 'list'"),
    ({"state": {"desired": {"a": float("nan")}}}, "Not a JSON value: 'a'"),
    ({"state": {"desired": {"a": [float("-inf")]}}}, "Not a JSON value: 'a'"),
    ({"state": {"desired": {"a": b"bytes"}}}, "Not a JSON value: 'a'"),
    ({"state": {"desired": {"a": (1, 2)}}}, "Not a JSON value: 'a'"),
    ({"state": {"desired": {"a": {1: 2}}}}, "Not a JSON object: 'a'"),
    ({"state": {"desired": {"a" * 10_000: {1: 2}}}}, "Not a JSON object: 'aaa"),
    ({"state": {"desired": {"a" * 10_000: b""}}}, "Not a JSON value: 'aaa"),
    ({"state": {"desired": {"a" * 10_000: [None]}}}, "An array must not contain null: 'aaa"),
    ({"state": {"desired": {"a": "\ud800"}}}, "State contains a value that JSON in UTF-8 cannot hold"),
    ({"state": {"desired": {"\udfff": None}}}, "State contains a value that JSON in UTF-8 cannot hold"),
    ({"state": {"desired": {"a": 10**5000}}}, "State contains a value that JSON in UTF-8 cannot hold"),
    ({"state": {"desired": CYCLE}}, "JSON contains too many levels of nesting; maximum is 10"),
    ({"state": {"desired": nested(20_000)}}, "JSON contains too many levels of nesting; maximum is 10"),
    (
        {"state": {"desired": {"a": nested(20_000, array=True)}}},
        "JSON contains too many levels of nesting; maximum is 10",
    ),
]


@pytest.mark.parametrize(("document", "message"), MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_update(document: Any, message: str) -> None:
    """Whatever is not an update is refused in words that name the fault, and bounded in length."""
    before, _ = Shadow().update(DESIRED_A, now=1)
    stored = encode(before.to_stored())
    with pytest.raises(InvalidShadowUpdate) as caught:
        before.update(document, now=2)
    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) < 150
    assert encode(before.to_stored()) == stored


def test_a_fault_in_one_section_stops_the_other() -> None:
    """An update with a good and a bad section changes nothing."""
    with pytest.raises(InvalidShadowUpdate, match="null"):
        Shadow().update({"state": {"desired": {"a": 1}, "reported": {"a": [None]}}}, now=1)


def test_unknown_members_beside_state() -> None:
    """What stands beside `state` and means nothing here is ignored."""
    document = DESIRED_A | {"metadata": 5, "timestamp": "x", "tags": {}}
    shadow, change = Shadow().update(document, now=1)
    assert shown(shadow) == {"desired": {"a": 1}, "version": 1}
    assert change.accepted_document()["state"] == {"desired": {"a": 1}}


# --- versions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("current", "given", "outcome"),
    [
        (0, None, 1),
        (0, 0, 1),
        (0, 1, 1),
        (0, 2, InvalidShadowUpdate),
        (5, None, 6),
        (5, 5, 6),
        (5, 0, ShadowConflict),
        (5, 4, ShadowConflict),
        (5, 6, ShadowConflict),
        (5, 2**80, ShadowConflict),
    ],
)
def test_version(current: int, given: int | None, outcome: Any) -> None:
    """A version given has to be the current one, also of a device created anew, whose sections are empty."""
    document = DESIRED_A if given is None else DESIRED_A | {"version": given}
    if isinstance(outcome, int):
        shadow, change = Shadow(version=current).update(document, now=1)
        assert shadow.version == change.version == outcome
    else:
        with pytest.raises(outcome):
            Shadow(version=current).update(document, now=1)


# --- limits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "depth"),
    [
        ({}, 0),
        ({"a": 1}, 1),
        ({"a": {}}, 1),
        ({"a": []}, 1),
        ({"a": {"b": 1}}, 2),
        ({"a": [1]}, 2),
        ({"a": [[], {"b": [1]}]}, 4),
        ({"a": {"b": {"c": None}}}, 2),
        ({"a": None}, 0),
    ],
)
def test_depth(section: dict[str, Any], depth: int) -> None:
    """Depth is the longest path of keys and indices; what a null removes has none."""
    for max_depth in range(1, 6):
        limits = ShadowLimits(max_depth=max_depth)
        if depth <= max_depth:
            Shadow().update({"state": {"reported": section}}, now=1, limits=limits)
        else:
            with pytest.raises(InvalidShadowUpdate, match=f"maximum is {max_depth}$"):
                Shadow().update({"state": {"reported": section}}, now=1, limits=limits)


@pytest.mark.parametrize("wrong", [{"max_depth": 0}, {"max_depth": 33}, {"max_bytes": -1}])
def test_limits_that_cannot_be(wrong: dict[str, int]) -> None:
    """A depth that JSON could not be read back from, or none at all, is refused where it is set."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ShadowLimits(**wrong)


def test_size_is_that_of_both_sections() -> None:
    """The limit is held exactly, and counts UTF-8 bytes of both sections without what surrounds them."""
    desired, reported = {"é": 'q"'}, {"a": [1.5, True, {}]}
    size = len('{"é":"q\\""}'.encode()) + len('{"a":[1.5,true,{}]}')
    update = {"state": {"desired": desired, "reported": reported}}
    shadow, _ = Shadow().update(update, now=1, limits=ShadowLimits(max_bytes=size))
    assert shadow.size == size
    with pytest.raises(TooLarge, match=f"{size - 1} bytes"):
        Shadow().update(update, now=1, limits=ShadowLimits(max_bytes=size - 1))


def test_an_oversized_shadow_may_shrink_but_not_grow() -> None:
    """After a limit was lowered, an update is accepted if the shadow is no larger after it."""
    shadow = Shadow(desired={"a": "x" * 50, "b": "y" * 50})
    limits = ShadowLimits(max_bytes=20)
    with pytest.raises(TooLarge):
        shadow.update({"state": {"desired": {"b": "y" * 51}}}, now=1, limits=limits)
    shadow, _ = shadow.update({"state": {"desired": {"b": "z" * 50}}}, now=1, limits=limits)
    shadow, _ = shadow.update({"state": {"desired": {"b": None}}}, now=1, limits=limits)
    assert shadow.size > limits.max_bytes
    shadow, _ = shadow.update({"state": None}, now=1, limits=limits)
    assert shadow.size == 0


# --- merge, delta, equality ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        (1, 1.0, True),
        (0, -0.0, True),
        (True, True, True),
        (True, 1, False),
        (0, False, False),
        (0.0, False, False),
        ([1], [True], False),
        ({"a": [0]}, {"a": [False]}, False),
        (2**53, 2**53 + 1, False),
        (float(2**53), 2**53 + 1, False),
        (10**30, 10.0**30, False),
        ("1", 1, False),
        (None, None, True),
        (None, False, False),
        ([], {}, False),
        ({}, [], False),
        ({}, None, False),
        ([1, 2], [2, 1], False),
        ([1], [1, 2], False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ({"a": 1}, {"b": 1}, False),
        ({"a": 1}, {"a": 1, "b": 1}, False),
        ("é", "e\u0301", False),
    ],
)
def test_values_equal(a: Any, b: Any, equal: bool) -> None:
    """Numbers compare as numbers and exactly, booleans are none, objects have no order, arrays have one."""
    assert values_equal(a, b) is equal
    assert values_equal(b, a) is equal


@pytest.mark.parametrize(
    ("desired", "reported", "expected"),
    [
        ({"a": {}}, {}, {"a": {}}),
        ({"a": {}}, {"a": 5}, {"a": {}}),
        ({"a": {}}, {"a": []}, {"a": {}}),
        ({"a": {}}, {"a": {"b": 1}}, {}),
        ({"a": {"b": {}}}, {"a": {"b": {}}}, {}),
        ({"a": {"b": {}}}, {"a": {}}, {"a": {"b": {}}}),
        ({"a": 1}, {"a": {"b": 1}}, {"a": 1}),
        ({"a": [{"b": 1}]}, {"a": [{"b": 1, "c": 1}]}, {"a": [{"b": 1}]}),
        ({}, {"a": 1}, {}),
    ],
)
def test_delta(desired: Any, reported: Any, expected: Any) -> None:
    """An empty object is in the delta where it is desired and not an object in reported, never otherwise."""
    assert delta(desired, reported) == expected


def test_merge_shares_and_leaves_alone() -> None:
    """Untouched subtrees are the same objects, inputs stay as they were, removals without a target vanish."""
    target = {"keep": {"deep": [1]}, "a": {"b": {"c": 1}, "x": {}}}
    patch: Any = {"a": {"b": {"c": None, "n": {"m": None}}}, "gone": None}
    before = encode([target, patch])
    merged: Any = merge(target, patch)
    assert merged == {"keep": {"deep": [1]}, "a": {"b": {}, "x": {}}}
    assert merged["keep"] is target["keep"]
    assert merged["a"]["x"] is target["a"]["x"]
    assert encode([target, patch]) == before


@pytest.mark.parametrize(
    ("before", "patch", "after"),
    [
        ({}, {"cfg": {"wifi": None}}, None),
        ({}, {"cfg": {"wifi": {"ssid": None, "pass": None}, "mqtt": None}}, None),
        ({}, {"cfg": {"wifi": {"ssid": None}, "on": True}}, {"cfg": {"on": True}}),
        ({}, {"cfg": {"wifi": {}}}, {"cfg": {"wifi": {}}}),
        ({}, {"cfg": {"wifi": {}, "mqtt": None}}, {"cfg": {"wifi": {}}}),
        ({"cfg": {"on": True}}, {"cfg": {"wifi": {"ssid": None}}}, {"cfg": {"on": True}}),
        ({"cfg": {"wifi": 1}}, {"cfg": {"wifi": None}}, {"cfg": {}}),
        ({"cfg": 5}, {"cfg": {"wifi": None}}, {"cfg": 5}),
        ({"cfg": [1]}, {"cfg": {"wifi": {"ssid": None}}}, {"cfg": [1]}),
        ({"cfg": 5}, {"cfg": {"wifi": None, "on": True}}, {"cfg": {"on": True}}),
    ],
)
@pytest.mark.parametrize("section", ["desired", "reported"])
def test_a_removal_of_what_is_not_there_makes_nothing(section: str, before: Any, patch: Any, after: Any) -> None:
    """Values, metadata, delta and size are as if the removal had not been in the update; the version counts it."""
    shadow, _ = Shadow().update({"state": {section: before}}, now=1)
    found, change = shadow.update({"state": {section: patch}}, now=2)
    document: Any = found.document()
    assert document["state"].get(section) == after
    assert document["metadata"].keys() == ({section} if after else set())
    assert document["state"].get("delta") == (after if section == "desired" else None)
    assert found.size == (len(encode(after)) if after else 0)
    assert found.version == change.version == 2
    assert found == Shadow.from_stored(decode(encode(found.to_stored())))
    if after == before:
        assert document["metadata"] == shadow.document()["metadata"]


def test_no_husk_is_left_when_the_last_difference_goes() -> None:
    """An object whose last differing key is reported, or no longer desired, leaves the delta with it."""
    before = Shadow(desired={"a": {"b": {"c": 1}}, "z": 1}, reported={"a": {"b": {}}})
    assert before.delta == {"a": {"b": {"c": 1}}, "z": 1}
    for state in ({"reported": {"a": {"b": {"c": 1}}}}, {"desired": {"a": {"b": {"c": None}}}}):
        after, _ = before.update({"state": state}, now=1)
        assert after.delta == {"z": 1}


def test_delta_does_not_write_into_desired() -> None:
    """The delta shares subtrees with desired; an update that cuts a piece from the delta leaves desired whole."""
    shadow, _ = Shadow().update({"state": {"desired": {"a": {"b": 1, "c": {"d": 2, "e": 3}}}}}, now=1)
    assert shadow.delta["a"] is shadow.desired["a"]
    after, _ = shadow.update({"state": {"reported": {"a": {}}}}, now=2)
    after, _ = after.update({"state": {"reported": {"a": {"b": 1}}}}, now=3)
    after, _ = after.update({"state": {"reported": {"a": {"c": {"e": 3}}}}}, now=4)
    assert after.delta == {"a": {"c": {"d": 2}}}
    assert after.desired == shadow.desired == shadow.delta == {"a": {"b": 1, "c": {"d": 2, "e": 3}}}


# --- documents -----------------------------------------------------------------------------------------------


def test_documents() -> None:
    """Metadata has a timestamp for each scalar, that of the update which set it; arrays are set as one."""
    update = {"desired": {"led": {"on": True, "rgb": [1, [2], {"x": 3}]}, "none": {}}}
    shadow, change = Shadow().update({"state": update}, now=100.9)
    stamp = {"timestamp": 100}
    led = {"on": stamp, "rgb": [stamp, [stamp], {"x": stamp}]}
    assert shadow.document() == {
        "state": {**update, "delta": update["desired"]},
        "metadata": {"desired": {"led": led, "none": {}}},
        "version": 1,
        "timestamp": 100,
    }
    assert change.accepted_document() == {
        "state": update,
        "metadata": {"desired": {"led": led, "none": {}}},
        "version": 1,
        "timestamp": 100,
    }

    update = {"reported": {"led": {"on": True}, "timestamp": {"timestamp": 7}}}
    shadow, change = shadow.update({"state": update, "clientToken": "t"}, now=200)
    delta_left = {"led": {"rgb": [1, [2], {"x": 3}]}, "none": {}}
    assert shadow.document()["metadata"] == {
        "desired": {"led": led, "none": {}},
        "reported": {"led": {"on": {"timestamp": 200}}, "timestamp": {"timestamp": {"timestamp": 200}}},
    }
    assert shadow.delta_document() == {"state": delta_left, "version": 2, "timestamp": 200}
    assert change.delta_document() == {**shadow.delta_document(), "clientToken": "t"}
    assert change.delta_document(metadata=True)["metadata"] == {"led": {"rgb": led["rgb"]}, "none": {}}


def test_empty_documents() -> None:
    """A brand-new shadow, and a cleared one, have a state and metadata without members and no delta."""
    empty = {"state": {}, "metadata": {}, "version": 0, "timestamp": 0}
    assert Shadow().document() == empty
    shadow, change = Shadow(desired={"a": 1}).update({"state": None}, now=5)
    assert shadow.document() == empty | {"version": 1, "timestamp": 5}
    assert shadow.delta_document() is None
    assert change.delta_document() is None
    assert change.accepted_document() == {
        "state": None,
        "metadata": {"timestamp": 5},
        "version": 1,
        "timestamp": 5,
    }


@pytest.mark.parametrize(
    ("state", "desired", "reported"),
    [
        (None, CLEARED, CLEARED),
        ({}, None, None),
        ({"desired": None}, CLEARED, None),
        ({"desired": {}}, {}, None),
        ({"reported": {"a": None}, "desired": None}, CLEARED, {"a": None}),
    ],
)
def test_change_tells_patched_from_cleared_from_untouched(state: Any, desired: Any, reported: Any) -> None:
    """A change says of each section whether it was patched, with what, cleared, or not spoken of."""
    shadow, change = Shadow(desired={"a": 1}, reported={"b": 2}).update({"state": state}, now=5)
    assert (change.desired, change.reported) == (desired, reported)
    assert change.shadow is shadow
    assert (change.version, change.timestamp, change.delta) == (1, 5, shadow.delta)


def test_a_shadow_is_frozen() -> None:
    """Nothing is assigned; an evolved copy has a delta of its own."""
    shadow, _ = Shadow().update(DESIRED_A, now=1)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        shadow.version = 5  # type: ignore[misc]
    assert attrs.evolve(shadow, reported={"a": 1}).delta is None
    assert shadow.delta == {"a": 1}


# --- storage -------------------------------------------------------------------------------------------------

STORED = {
    "version": 3,
    "timestamp": 9,
    "state": {"desired": {"a": {"b": 1}}, "reported": {"l": [1, {"x": 2}]}},
    "timestamps": {"desired": {"a": {"b": 7}}, "reported": {"l": 9}},
}


def test_stored_form() -> None:
    """The stored form is plain JSON, with one int for each value and no delta."""
    shadow = Shadow.from_stored(STORED)
    assert shadow.to_stored() == STORED
    assert shadow.delta == {"a": {"b": 1}}
    assert Shadow.from_stored(Shadow().to_stored()) == Shadow()


@pytest.mark.parametrize(
    "damage",
    [
        None,
        [],
        {},
        STORED | {"version": -1},
        STORED | {"version": True},
        STORED | {"version": "3"},
        STORED | {"timestamp": 9.5},
        STORED | {"state": None},
        STORED | {"state": {"delta": {}}},
        STORED | {"state": STORED["state"] | {"desired": None}},
        STORED | {"state": STORED["state"] | {"desired": {"a": {"b": None}}}},
        STORED | {"state": STORED["state"] | {"desired": {"a": {"c": 1}}}},
        STORED | {"state": STORED["state"] | {"desired": nested(20_000)}},
        STORED | {"state": {"desired": None}, "timestamps": {"desired": 7}},
        STORED | {"state": {"desired": 5}, "timestamps": {"desired": 7}},
        STORED | {"timestamps": None},
        STORED | {"timestamps": {"desired": {"a": {"b": 7}}}},
        STORED | {"timestamps": STORED["timestamps"] | {"desired": {"a": 7}}},
        STORED | {"timestamps": STORED["timestamps"] | {"desired": {"a": {"b": True}}}},
        STORED | {"timestamps": STORED["timestamps"] | {"reported": {"l": [9, {"x": 9}]}}},
    ],
    ids=range(20),
)
def test_damaged_stored_form(damage: Any) -> None:
    """A stored shadow that cannot be one is the storage's error, said clearly."""
    with pytest.raises(StorageError, match="a stored shadow is damaged: "):
        Shadow.from_stored(damage)


# --- cost ----------------------------------------------------------------------------------------------------


def tree(fan_out: int, levels: int, leaf: Any) -> Any:
    if levels == 0:
        return leaf
    return {f"key{i}": tree(fan_out, levels - 1, leaf) for i in range(fan_out)}


def objects(value: Any) -> dict[int, Any]:
    """Every object (dict) in a tree, by identity."""
    found: dict[int, Any] = {}
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict) and id(item) not in found:
            found[id(item)] = item
            waiting.extend(item.values())
    return found


LARGE = ShadowLimits(max_bytes=10**7)
UPDATE = {"state": {"reported": {"key0": {"key0": {"key0": {"key0": 5, "new": {"x": 1}}}}}}}


def large_shadow(fan_out: int) -> Shadow:
    both = {"desired": tree(fan_out, 4, 1), "reported": tree(fan_out, 4, 0)}
    shadow, _ = Shadow().update({"state": both}, now=1, limits=LARGE)
    return shadow


@pytest.mark.parametrize("fan_out", [2, 8])
def test_an_update_makes_only_the_objects_on_its_way(fan_out: int) -> None:
    """Of a tree four levels deep, one object a level is new, in the section, its timestamps and the delta."""
    before = large_shadow(fan_out)
    after, _ = before.update(UPDATE, now=2, limits=LARGE)
    for name in ("state", "timestamps"):
        old, new = before.to_stored()[name], after.to_stored()[name]
        assert new["desired"] is old["desired"]
        # 4 levels, and {"x": 1}
        assert len(objects(new["reported"]).keys() - objects(old["reported"]).keys()) == 5
    assert len(objects(after.delta).keys() - objects(before.delta).keys()) == 4


def test_an_update_does_the_same_work_in_any_document(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the calls made nor the bytes weighed depend on what the update does not touch."""
    weighed: list[int] = []
    calls: Counter[str] = Counter()

    def weighing(value: Any) -> bytes:
        data = encode(value)
        weighed.append(len(data))
        return data

    def count(_frame: Any, event: str, _arg: Any) -> None:
        calls[event] += 1

    def work(before: Shadow) -> tuple[int, Counter[str]]:
        weighed.clear()
        calls.clear()
        sys.setprofile(count)
        try:
            before.update(UPDATE, now=2, limits=LARGE)
        finally:
            sys.setprofile(None)
        return sum(weighed), Counter(calls)

    small, large = large_shadow(2), large_shadow(10)
    assert large.size > 300 * small.size
    monkeypatch.setattr(shadow_module, "encode", weighing)
    monkeypatch.setattr(_sections, "encode", weighing)
    in_small, in_large = work(small), work(large)
    assert in_small == in_large
    assert in_small[0] < 2 * len(encode(UPDATE))
    assert in_small[1]["call"] > 10
