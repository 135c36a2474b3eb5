"""What a patch of `desired` does to a shadow: which values it changes, and whether it has happened."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import attrs

from mdashcore._errors import InvalidInput
from mdashcore._json import encode
from mdashcore._trees import JsonObject, JsonValue, merge, values_equal
from mdashcore.job._values import JobOutcome
from mdashcore.shadow import Shadow, ShadowLimits


@attrs.frozen
class Difference:
    """A value that a patch changes."""

    path: tuple[str, ...]
    """The keys that lead to it."""
    before: JsonValue
    """The value that it has; `None` if there is none. No section holds a null."""
    after: JsonValue
    """The value that it gets; `None` if it is removed."""


def check_desired(patch: object, limits: ShadowLimits) -> JsonObject:
    """Return the values of a job. Raises `InvalidInput` or `TooLarge` if they fit into no shadow."""
    if not isinstance(patch, dict) or not patch:
        raise InvalidInput('desired is an object with values, such as {"interval": 30}; null removes a key')
    Shadow().update({"state": {"desired": patch}}, now=0, limits=limits)
    return patch


def differences(desired: JsonObject, patch: JsonObject, path: tuple[str, ...] = ()) -> Iterator[Difference]:
    """Yield the values of `desired` that a patch changes. There are none exactly if `merge` changes nothing.

    >>> [(each.path, each.before, each.after) for each in differences({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}})]
    [(('b', 'c'), 2, 3)]
    """
    for key, wanted in patch.items():
        found, place = desired.get(key), (*path, key)
        if isinstance(wanted, dict):
            if isinstance(found, dict):
                yield from differences(found, wanted, place)
                continue
            made = merge({}, {key: wanted})
            if key not in made:
                continue  # it only removes keys, and there are none
            wanted = made[key]
        if not values_equal(found, wanted):
            yield Difference(place, found, wanted)


def fingerprint(shadow: Shadow, patch: JsonObject) -> str:
    """Return a text that is the same as long as no update touches the values of `desired` that a patch names.

    It includes the times at which they were set, in seconds.
    """
    stored = shadow.to_stored()
    parts = [_part(section, patch) for section in (_desired(stored["state"]), _desired(stored["timestamps"]))]
    return hashlib.sha256(encode(parts)).hexdigest()[:16]


def after_interruption(shadow: Shadow, patch: JsonObject, before: str) -> JobOutcome:
    """Return the outcome of a change that a process has begun and may not have finished.

    PENDING: it has not happened. CHANGED: it has. FAILED: another writer has set the same values since, so that the
    job must not set them again.

    Args:
        before: the fingerprint from before the change.
    """
    if fingerprint(shadow, patch) == before:
        return JobOutcome.PENDING
    return JobOutcome.FAILED if any(differences(shadow.desired or {}, patch)) else JobOutcome.CHANGED


def _desired(sections: JsonValue) -> JsonValue:
    return sections.get("desired", {}) if isinstance(sections, dict) else {}


def _part(tree: JsonValue, patch: JsonValue) -> JsonValue:
    """Return the part of a tree at the places that a patch names."""
    if not isinstance(tree, dict) or not isinstance(patch, dict):
        return tree
    return {key: _part(tree[key], wanted) for key, wanted in patch.items() if key in tree}
