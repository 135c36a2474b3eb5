"""The arithmetic of the JSON trees that shadows are made of: merge, difference and timestamps.

All functions recurse: the limits of a shadow bound the depth of a value.
"""

from __future__ import annotations

from typing import Any, Final, NewType, TypeAlias

__all__ = ["JsonObject", "JsonValue", "Timestamps"]
__all__ += ["delta", "difference", "values_equal"]
__all__ += ["filled", "merge", "mirrors", "rendered", "stamped"]

JsonValue: TypeAlias = "dict[str, JsonValue] | list[JsonValue] | str | int | float | bool | None"
JsonObject: TypeAlias = dict[str, JsonValue]
"""A JSON object as a dict."""

Timestamps = NewType("Timestamps", JsonObject)
"""The times at which the values of an object were set: an object for each object, an int (Unix seconds) for any other
value.

They are read beside their object, and never told from data by their shape: a device's `{"timestamp": 5}` is data.
"""


_CONTAINERS: Final = (dict, list)


def merge(target: JsonObject, patch: JsonObject) -> JsonObject:
    """Return `target` with `patch` merged in: null removes a key, objects merge, any other value replaces.

    This is RFC 7396 with one exception: an object of the patch that only removes keys does not create an object.
    After `{"b": {"c": null}}` on an empty target, the RFC leaves `{"b": {}}`; AWS IoT Greengrass and this function
    leave nothing. An object without members, `{"b": {}}`, is a value like any other, and is stored.

    Neither argument is changed. The result shares untouched subtrees with `target`, and arrays with the patch.
    Nulls are stored only inside such an array.

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
            elif (new := merge({}, value)) or not value:  # else the patch only removes keys, and there are none
                merged[key] = new
        else:
            merged[key] = value
    return merged


def delta(desired: JsonObject, reported: JsonObject) -> JsonObject:
    """Return the part of `desired` that is missing from `reported` or different there; `{}` if there is none.

    Objects are compared key by key, arrays as a whole. An object whose keys all agree is left out. Neither
    argument holds a null.

    >>> delta({"a": 1, "b": {"c": 2, "d": 3}, "e": {}}, {"a": 1.0, "b": {"c": 5, "d": 3, "x": 6}})
    {'b': {'c': 2}, 'e': {}}
    """
    found: JsonObject = {}
    for key, value in desired.items():
        reality = reported.get(key)  # as in `difference`, without a function call for each member
        if isinstance(value, dict) and isinstance(reality, dict):
            if below := delta(value, reality):
                found[key] = below
        elif not values_equal(value, reality):
            found[key] = value
    return found


def difference(desired: JsonValue, reported: JsonValue) -> JsonValue:
    """Return the delta of one member. `None` stands for a missing member, in the arguments and in the result."""
    if isinstance(desired, dict) and isinstance(reported, dict):
        return delta(desired, reported) or None
    return None if values_equal(desired, reported) else desired


def values_equal(a: JsonValue, b: JsonValue) -> bool:
    """Return whether two JSON values are the same: `1` is `1.0`, big integers are exact, `true` is not `1`."""
    if a is b:
        return True
    if isinstance(a, dict):
        if not isinstance(b, dict) or a.keys() != b.keys():
            return False
        return all(values_equal(value, b[key]) for key, value in a.items())
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(values_equal, a, b))
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def stamped(value: JsonObject, timestamp: int) -> Timestamps:
    """Return the timestamps of a value that was set at one time."""
    return Timestamps({k: stamped(v, timestamp) if isinstance(v, dict) else timestamp for k, v in value.items()})


def rendered(value: JsonValue, stamps: JsonValue) -> JsonValue:
    """Return `value` with `{"timestamp": t}` in the place of each scalar, as a document shows timestamps.

    `stamps` may have more keys than `value`. An int in it holds for all values below.
    """
    if isinstance(value, dict):
        return {k: rendered(v, stamps[k] if isinstance(stamps, dict) else stamps) for k, v in value.items()}
    if isinstance(value, list):
        return [rendered(member, stamps) for member in value]
    return {"timestamp": stamps}


def filled(value: JsonValue, leaf: Any) -> Any:
    """Return `value` with `leaf` in the place of each scalar and null."""
    if isinstance(value, dict):
        return {k: filled(v, leaf) if isinstance(v, _CONTAINERS) else leaf for k, v in value.items()}
    return [filled(member, leaf) for member in value] if isinstance(value, list) else leaf


def mirrors(value: JsonValue, stamps: JsonValue) -> bool:
    """Return whether `stamps` has the shape that timestamps of `value` have."""
    if isinstance(value, dict):
        if not isinstance(stamps, dict) or value.keys() != stamps.keys():
            return False
        return all(mirrors(member, stamps[key]) for key, member in value.items())
    return type(stamps) is int
