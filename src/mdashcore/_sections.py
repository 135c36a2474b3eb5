"""The two sections of a shadow, each changed by one walk over a patch.

The walk checks the patch, merges it, sets timestamps, weighs what it changes, and finds the delta. It visits the keys
of the patch only, and gives what `merge`, `delta` and the encoder find in the whole tree. It recurses: the limits of a
shadow bound the depth.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import Any, Final

import msgspec

from mdashcore._errors import InvalidShadowUpdate
from mdashcore._json import encode
from mdashcore._trees import JsonObject, JsonValue, Timestamps, difference

__all__ = ["ABSENT", "Section", "check_state"]

_PLAIN: Final = frozenset({str, int, bool})
_SCALARS: Final = _PLAIN | {float}  # a float may also be NaN, which is no JSON
_UNFIT: Final = "Not a JSON value"  # `check_state` says which, or what else is wrong


class Section(msgspec.Struct, frozen=True, dict=True):  # the JSON is kept in the __dict__
    """`desired` or `reported`, with its timestamps and size."""

    value: JsonObject
    timestamps: Timestamps
    size: int
    """Bytes of the value as compact JSON in UTF-8; 0 if the section is absent, which is `ABSENT`."""

    @classmethod
    def load(cls, value: JsonObject, timestamps: Timestamps) -> Section:
        """Return the section of a stored value."""
        return cls(value, timestamps, len(encode(value))) if value else ABSENT

    @property
    def json(self) -> tuple[bytes, bytes]:
        """The value and the timestamps as JSON. They are kept: an update leaves one of the two sections as it is."""
        kept: tuple[bytes, bytes] | None = self.__dict__.get("json")  # a `cached_property` of Python 3.11 takes a lock
        if kept is None:
            kept = self.__dict__["json"] = encode(self.value), encode(self.timestamps)
        return kept

    def patched(
        self, patch: JsonObject, of_desired: bool, other: JsonObject, delta: JsonObject, timestamp: int, max_depth: int
    ) -> tuple[Section, JsonObject]:
        """Return the section with a patch merged in, and the delta after that.

        Args:
            patch: can be written as JSON.
            of_desired: whether this section is `desired`.
            other: the value of the other section.
            delta: that of this section and the other, before. It is not changed, because it may share subtrees with
                `desired`.
            timestamp: Unix seconds for the values that the patch sets.

        Raises:
            InvalidShadowUpdate: `check_state` refuses the patch, and says why.
        """
        if not isinstance(patch, dict):
            raise InvalidShadowUpdate(_UNFIT)
        if not patch:
            return self, delta
        walk = _Walk(of_desired, timestamp, [0], [0])
        value, timestamps, delta = walk.merge(patch, self.value, self.timestamps, other, delta, max_depth)
        if not value:
            return ABSENT, delta
        growth = len(encode(walk.added)) - len(encode(walk.removed)) + walk.brackets
        return Section(value, Timestamps(timestamps), (self.size or len("{}")) + growth), delta


ABSENT: Final = Section({}, Timestamps({}), 0)


class _Walk(msgspec.Struct):
    """One walk over a patch.

    At any moment the section has grown by the size of `added` less that of `removed`, and by `brackets`. Both are
    arrays of keys and values in the order in which they were met, so that one encoding of each weighs everything: in an
    array as in an object, a key and a value have one character each between them and the next. They begin alike, so
    that neither is empty. A key is left out if it stays.
    """

    of_desired: bool
    timestamp: int
    added: list[JsonValue]
    removed: list[JsonValue]
    brackets: int = 0
    """Objects that have become empty, less those that were: ``{}`` has one byte more than its members account for."""

    def merge(
        self, patch: JsonObject, value: JsonObject, stamps: JsonObject, other: JsonObject, delta: JsonObject, room: int
    ) -> tuple[JsonObject, JsonObject, JsonObject]:
        """Return `value`, `stamps` and `delta` after the patch.

        They are one object of the section, its timestamps, and the delta of it and its counterpart `other`. All three
        are copied one level deep, and those below only where the patch goes on. `room` is the number of levels left.
        """
        merged, times, left = dict(value), dict(stamps), dict(delta)
        gap: JsonValue
        for key, change in patch.items():
            if type(key) is not str or (change is not None and not room):
                raise InvalidShadowUpdate(_UNFIT)
            old, facing = value.get(key), other.get(key)
            if change is None:
                if old is None:
                    continue
                del merged[key], times[key]
                self.removed += (key, old)
                gap = None if self.of_desired else facing
            elif isinstance(change, dict) and isinstance(old, dict):
                merged[key], times[key], gap = self._below(change, old, stamps[key], facing, delta.get(key), room - 1)
            else:
                new: JsonValue = change
                time: JsonValue = self.timestamp
                if type(change) not in _PLAIN:
                    new, time = self._made(change, key, room - 1)
                    if new is None:
                        continue
                merged[key], times[key] = new, time
                if old is None:
                    self.added += (key, new)
                else:
                    self.added.append(new)
                    self.removed.append(old)
                if facing is None:
                    gap = new if self.of_desired else None
                else:
                    gap = difference(new, facing) if self.of_desired else difference(facing, new)
            if gap is not None:
                left[key] = gap
            else:
                left.pop(key, None)
        self.brackets += (not merged) - (not value)
        return merged, times, left

    def _below(
        self, patch: JsonObject, value: JsonObject, stamps: Any, facing: JsonValue, delta: Any, room: int
    ) -> tuple[JsonObject, JsonObject, JsonValue]:
        """Return the same for a member that is an object and stays one. Without a difference, the last is `None`."""
        if isinstance(facing, dict):
            merged, times, left = self.merge(patch, value, stamps, facing, delta or {}, room)
            return merged, times, left or None
        merged, times, _ = self.merge(patch, value, stamps, {}, {}, room)
        return merged, times, merged if self.of_desired else facing

    def _made(self, change: JsonValue, name: str, room: int) -> tuple[JsonValue, JsonValue]:
        """Return a new value that is no plain scalar, with its timestamps; `None` for an object that only removes."""
        if type(change) is float and isfinite(change):
            return change, self.timestamp
        if isinstance(change, list):
            _check_members(change, name, room, room, nulls=False)
            return change, self.timestamp
        if isinstance(change, dict):
            value, stamps, _ = _Walk(False, self.timestamp, [], []).merge(change, {}, {}, {}, {}, room)
            return (value, stamps) if value or not change else (None, None)
        raise InvalidShadowUpdate(_UNFIT)


def check_state(state: JsonValue, text: bytes | None, max_depth: int, *, nulls: bool) -> None:
    """Raise `InvalidShadowUpdate` for the first fault of a state, unless there is none.

    Args:
        text: the state as JSON; `None` if it cannot be written as that.
        nulls: whether null stands for removal; else it is a fault.
    """
    if not isinstance(state, dict):
        raise InvalidShadowUpdate("State node must be an object")
    for section, patch in state.items():
        if section not in ("desired", "reported"):
            raise InvalidShadowUpdate(f"State contains an invalid node: {section!r:.80}")
        if isinstance(patch, dict):
            _check_members(patch, section, max_depth, max_depth, nulls=nulls)
        elif patch is not None or not nulls:
            raise InvalidShadowUpdate(f"{section.capitalize()} node must be an object")
    if text is None:  # half a surrogate pair, or an integer of more digits than Python writes
        raise InvalidShadowUpdate("State contains a value that JSON in UTF-8 cannot hold")


def _check_members(value: JsonObject | list[JsonValue], name: str, room: int, limit: int, *, nulls: bool) -> None:
    """Check the members of the value called `name`, of whose `limit` levels `room` are left. It recurses no further."""
    members: Iterable[tuple[str, object]]
    if isinstance(value, dict):
        members = value.items()
    else:
        members, nulls = ((name, member) for member in value), False
    for key, member in members:
        if type(key) is not str:
            raise InvalidShadowUpdate(f"Not a JSON object: {name!r:.80}")
        if member is None and nulls:
            continue
        if not room:
            raise InvalidShadowUpdate(f"JSON contains too many levels of nesting; maximum is {limit}")
        if isinstance(member, (dict, list)):
            _check_members(member, key, room - 1, limit, nulls=nulls)
        elif member is None:
            raise InvalidShadowUpdate(f"An array must not contain null: {key!r:.80}")
        elif type(member) not in _SCALARS or (type(member) is float and not isfinite(member)):
            raise InvalidShadowUpdate(f"Not a JSON value: {key!r:.80}")
