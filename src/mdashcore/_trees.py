"""The arithmetic of JSON trees that shadows are made of: merge, difference, weight and timestamps.

`delta_after` and `growth` work out along the keys of a patch what `delta` and `size` find in the whole.
Everything here recurses: values nest no deeper than a shadow's limits allow.
"""

from __future__ import annotations

from typing import NewType, TypeAlias, cast

from mdashcore._json import encode

__all__ = ["JsonObject", "JsonValue", "Timestamps"]
__all__ += ["delta", "delta_after", "values_equal"]
__all__ += ["growth", "merge", "mirrors", "rendered", "size", "stamped"]

JsonValue: TypeAlias = "dict[str, JsonValue] | list[JsonValue] | str | int | float | bool | None"
JsonObject: TypeAlias = dict[str, JsonValue]

Timestamps = NewType("Timestamps", JsonObject)
"""When the values of an object were set: an object for each object, an int (unix seconds) for any other value.

It is read beside its object and never told from data by its shape: a device's `{"timestamp": 5}` is data.
"""


def merge(target: JsonObject, patch: JsonObject) -> JsonObject:
    """`target` with `patch` merged in: null removes a key, objects merge, all else replaces.

    This is RFC 7396 but for one thing: an object of the patch that only removes makes no object where there is
    none. The RFC would leave `{"b": {}}` after `{"b": {"c": null}}`; AWS IoT Greengrass leaves nothing, and so
    does this. An object without members, `{"b": {}}`, is a value like any other, and is stored.

    Neither argument is changed. What the patch does not touch is shared with `target`, arrays of the patch
    are shared with it. No null is stored, but for those that stand inside such an array.

    >>> merge({"a": 1, "b": {"c": 2}}, {"a": None, "b": {"d": 3}})
    {'b': {'c': 2, 'd': 3}}
    >>> merge({"a": 1}, {"a": {"x": None}, "b": {"c": {"d": None}}, "e": {}})
    {'a': 1, 'e': {}}
    """
    merged = dict(target)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            old = merged.get(key)
            if isinstance(old, dict):
                merged[key] = merge(old, value)
            elif (new := merge({}, value)) or not value:  # else there is nothing that it could remove
                merged[key] = new
        else:
            merged[key] = value
    return merged


def delta(desired: JsonObject, reported: JsonObject) -> JsonObject:
    """What of `desired` is missing from `reported` or different there; `{}` where nothing is.

    Objects are compared key by key, arrays as a whole. An object whose keys all agree is left out. Neither
    argument holds a null.

    >>> delta({"a": 1, "b": {"c": 2, "d": 3}, "e": {}}, {"a": 1.0, "b": {"c": 5, "d": 3, "x": 6}})
    {'b': {'c': 2}, 'e': {}}
    """
    found: JsonObject = {}
    for key, value in desired.items():
        reality = reported.get(key)  # as `_difference`, without a call for each member
        if isinstance(value, dict) and isinstance(reality, dict):
            if below := delta(value, reality):
                found[key] = below
        elif not values_equal(value, reality):
            found[key] = value
    return found


def delta_after(
    old: JsonObject, patch: JsonObject, before: JsonObject, desired: JsonObject, reported: JsonObject
) -> JsonObject:
    """`delta(desired, reported)`, when it was `old` until `patch` turned `before` into one of the two.

    Only the keys of the patch are looked at. `old` is left as it is: it may share subtrees with `desired`.
    """
    if not patch:
        return old
    new = dict(old)
    for key, change in patch.items():
        was, wanted, reality = before.get(key), desired.get(key), reported.get(key)
        difference: JsonValue
        if (
            isinstance(change, dict)
            and isinstance(was, dict)  # merged, not replaced: what the old delta says below still holds
            and isinstance(wanted, dict)
            and isinstance(reality, dict)
        ):
            below = cast(JsonObject, old.get(key, {}))
            difference = delta_after(below, change, was, wanted, reality) or None
        else:
            difference = _difference(wanted, reality)
        if difference is None:
            new.pop(key, None)
        else:
            new[key] = difference
    return new


def _difference(desired: JsonValue, reported: JsonValue) -> JsonValue:
    """The delta of one member. None stands for a missing member, here and in the result."""
    if isinstance(desired, dict) and isinstance(reported, dict):
        return delta(desired, reported) or None
    return None if values_equal(desired, reported) else desired


def values_equal(a: JsonValue, b: JsonValue) -> bool:
    """Whether two JSON values are the same: `1` is `1.0`, big integers are exact, `true` is not `1`."""
    if a is b:
        return True
    if isinstance(a, dict):
        if not isinstance(b, dict) or a.keys() != b.keys():
            return False
        return all(values_equal(value, b[key]) for key, value in a.items())
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(values_equal, a, b))
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def size(value: JsonObject) -> int:
    """Bytes of the object as compact JSON in UTF-8."""
    return len(encode(value))


def growth(before: JsonObject, after: JsonObject, patch: JsonObject) -> int:
    """`size(after) - size(before)`, where `after` is `merge(before, patch)`.

    Only the keys of the patch are looked at; what was there and is no more is weighed.
    """
    # A member's weight includes a comma, and there are two brackets: one byte too many, but not for {}.
    total = (1 if after else 2) - (1 if before else 2)
    for key, change in patch.items():
        old, new = before.get(key), after.get(key)
        if isinstance(change, dict) and isinstance(old, dict):
            total += growth(old, cast(JsonObject, new), change)
        else:
            total += _member_size(key, new) - _member_size(key, old)
    return total


def _member_size(key: str, value: JsonValue) -> int:
    """Bytes of `"key":value,`; 0 for a missing member."""
    return 0 if value is None else len(encode(key)) + len(encode(value)) + 2


def stamped(patch: JsonObject, timestamp: int) -> JsonObject:
    """For a patch of an object, the patch of its timestamps."""
    stamps: JsonObject = {}
    for key, value in patch.items():
        if isinstance(value, dict):
            stamps[key] = stamped(value, timestamp)
        else:
            stamps[key] = None if value is None else timestamp
    return stamps


def rendered(value: JsonValue, stamps: JsonValue) -> JsonValue:
    """Timestamps as a document shows them: `value` with `{"timestamp": t}` in the place of each scalar.

    `stamps` may have more keys than `value`; an int in it holds for all below.
    """
    if isinstance(value, dict):
        return {k: rendered(v, stamps[k] if isinstance(stamps, dict) else stamps) for k, v in value.items()}
    if isinstance(value, list):
        return [rendered(member, stamps) for member in value]
    return {"timestamp": stamps}


def mirrors(value: JsonValue, stamps: JsonValue) -> bool:
    """Whether `stamps` has the shape that timestamps of `value` have."""
    if isinstance(value, dict):
        if not isinstance(stamps, dict) or value.keys() != stamps.keys():
            return False
        return all(mirrors(member, stamps[key]) for key, member in value.items())
    return type(stamps) is int
