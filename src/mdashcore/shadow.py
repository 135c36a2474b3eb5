"""Device shadows: the state that a device was asked to have (`desired`) and the state that it has said (`reported`).

A `Shadow` is a frozen value. `Shadow.update` takes a decoded update and returns a new shadow and a `Change`,
or raises and changes nothing. The meaning is that of the AWS IoT classic shadow, and so are the texts of errors.
The sections merge as RFC 7396 says, with the one exception that `merge` names.

Values are shared, not copied: a new shadow holds the untouched subtrees of the old one, and the arrays of
the update. So a caller must not change a value after passing it in or receiving it.

The cost of an update grows with the update, not with the document: merge, timestamps, delta, size and
depth are computed along the keys of the update only. Two costs are added: each object on the way is
copied one level deep, and a removed or overwritten subtree is measured once.
"""

from __future__ import annotations

from enum import Enum
from functools import cached_property
from math import floor
from typing import Final, Literal, TypeAlias, cast

import msgspec
from attrs import field, frozen

from mdashcore._checked import whole
from mdashcore._errors import InvalidInput, InvalidShadowUpdate, ShadowConflict, StorageError
from mdashcore._json import encode
from mdashcore._sections import ABSENT, Section, check_state
from mdashcore._shadow_request import client_token_of, encoded, state_of, too_large, version_of
from mdashcore._trees import (
    JsonObject,
    JsonValue,
    Timestamps,
    delta,
    filled,
    merge,
    mirrors,
    rendered,
    stamped,
    values_equal,
)

__all__ = [
    "CLEARED",
    "Change",
    "JsonObject",
    "JsonValue",
    "Patch",
    "Shadow",
    "ShadowLimits",
    "delta",
    "merge",
    "values_equal",
]


class _Cleared(Enum):
    CLEARED = "cleared"


CLEARED: Final = _Cleared.CLEARED
"""Stands in the place of a patch and removes the whole section (`null` on the wire)."""

Patch: TypeAlias = JsonObject | Literal[_Cleared.CLEARED] | None
"""The part of an update for one section: a patch for `merge`, `CLEARED`, or `None` if the update leaves the section
alone.
"""

_DEEPEST = 32  # a document with metadata, in a frame in a frame, stays below the 64 levels that are read of JSON


@frozen
class ShadowLimits:
    """The bounds of a shadow. Both are checked on the merged document."""

    max_bytes: int = field(default=32 * 1024, validator=whole(0))  # Azure IoT Hub's for a section; AWS: 8 KiB
    """Bytes of `desired` and `reported` together, each as compact JSON in UTF-8; an absent section counts 0.

    An update that does not make the shadow larger is always accepted: a lowered limit must not block a device.
    """
    max_depth: int = field(default=10, validator=whole(1, _DEEPEST))  # Azure IoT Hub's; AWS: 6
    """Keys and array indices on the longest path below a section: `{"a": [5]}` has 2.

    It is checked on the paths that an update touches.
    """


DEFAULT_LIMITS: Final = ShadowLimits()


def _as_section(value: JsonObject | Section | None) -> Section:
    if type(value) is Section:
        return value
    if value is None:
        return ABSENT
    if not isinstance(value, dict):
        raise InvalidInput("a section of a shadow is a dict, or None")
    value = merge({}, value)
    return Section.load(value, stamped(value, 0)) if value else ABSENT


@frozen(slots=False)  # no slots: a cached property needs the __dict__
class Shadow:
    """The shadow of one device.

    `Shadow()` is that of a new device, `Shadow(version=n)` that of a device created again after its removal.
    `desired` and `reported` are not checked when given here. Their values get the timestamp 0.

    >>> shadow, change = Shadow().update({"state": {"desired": {"on": True}}}, now=1_700_000_000)
    >>> shadow.delta, shadow.version
    ({'on': True}, 1)
    """

    _desired: Section = field(default=None, converter=_as_section, alias="desired")
    _reported: Section = field(default=None, converter=_as_section, alias="reported")
    version: int = 0
    """The number of accepted updates. For a device created again it goes on from the removed one's."""
    timestamp: int = 0
    """Unix seconds of the last accepted update."""

    @property
    def desired(self) -> JsonObject | None:
        """The state that the device was asked to have; `None` if there is none, never `{}`."""
        return self._desired.value or None

    @property
    def reported(self) -> JsonObject | None:
        """The state that the device has said; `None` if there is none, never `{}`."""
        return self._reported.value or None

    @property
    def size(self) -> int:
        """Bytes, counted as `ShadowLimits.max_bytes` says."""
        return self._desired.size + self._reported.size

    @cached_property
    def delta(self) -> JsonObject | None:
        """The part of `desired` that the device has not reported; `None` if there is none, never `{}`."""
        return delta(self._desired.value, self._reported.value) or None

    def update(
        self, document: JsonValue, *, now: float, limits: ShadowLimits = DEFAULT_LIMITS
    ) -> tuple[Shadow, Change]:
        """Return the shadow after an update, and a `Change` that describes the update.

        Args:
            document: `{"state": {"desired"?: {…} | null, "reported"?: {…} | null} | null, "version"?: int,
                "clientToken"?: str}`. Other members beside `state` are ignored, so that the answer of a GET can be sent
                back with its `metadata`. Other members inside `state` are an error, `delta` too. An array may not
                contain null at any depth. A `version` has to be the current one; for a new shadow 1 is accepted too.
            now: Unix seconds.
            limits: the bounds of the merged document.

        Raises:
            InvalidShadowUpdate: the document has another form, or is nested deeper than `limits.max_depth`.
            ShadowConflict: its `version` is not the current one.
            TooLarge: the shadow would grow beyond `limits.max_bytes`.
        """
        if not isinstance(document, dict):
            raise InvalidShadowUpdate("Invalid JSON: an update must be an object")
        state, text = state_of(document, max(limits.max_bytes, self.size), limits.max_bytes, limits.max_depth)
        timestamp = floor(now)
        desired, reported, left = self._desired, self._reported, self.delta or {}
        asked, said = _patch_of(state, "desired"), _patch_of(state, "reported")
        try:
            if asked is not None:
                patch = dict.fromkeys(desired.value) if asked is CLEARED else asked
                desired, left = desired.patched(patch, True, reported.value, left, timestamp, limits.max_depth)
            if said is not None:
                patch = dict.fromkeys(reported.value) if said is CLEARED else said
                reported, left = reported.patched(patch, False, desired.value, left, timestamp, limits.max_depth)
        except InvalidShadowUpdate:
            check_state(state, text, limits.max_depth, nulls=True)  # raises it, with the words for the first fault
            raise
        version, client_token = version_of(document), client_token_of(document)
        if version is not None and version != self.version:
            if self.version:
                raise ShadowConflict("Version conflict")
            if version != 1:  # the version after the first update; AWS Greengrass accepts it for a new shadow
                raise InvalidShadowUpdate("Invalid version")
        shadow = Shadow(desired, reported, self.version + 1, timestamp)
        if shadow.size > limits.max_bytes and shadow.size > self.size:
            raise too_large(limits.max_bytes)
        vars(shadow)["delta"] = left or None  # the place where the cached property keeps its value
        return shadow, Change(shadow=shadow, state=state, state_json=text, client_token=client_token)

    def reported_at(self, *path: str) -> int | None:
        """Return when the value at a place of `reported` was last set, in Unix seconds.

        Args:
            path: the keys that lead to the place.

        Returns:
            `None` if there is no value, or an object.
        """
        found: JsonValue = self._reported.timestamps
        for key in path:
            found = found.get(key) if isinstance(found, dict) else None
        return found if isinstance(found, int) else None

    def document(self) -> JsonObject:
        """Return the whole shadow, as a GET answers it: `{"state", "metadata", "version", "timestamp"}`.

        `state` holds `desired`, `reported` and `delta`, and `metadata` the timestamps of the first two. Empty ones are
        left out.
        """
        state: JsonObject = {name: section.value for name, section in self._sections()}
        metadata: JsonObject = {name: rendered(s.value, s.timestamps) for name, s in self._sections()}
        if self.delta is not None:
            state["delta"] = self.delta
        return {"state": state, "metadata": metadata, "version": self.version, "timestamp": self.timestamp}

    def delta_document(self, *, metadata: bool = False) -> JsonObject | None:
        """Return the document that a device is sent: `{"state": delta, "version", "timestamp"}`; `None` without a
        delta.

        Args:
            metadata: add the timestamps of those desired values. They are larger than the values, and small devices
                accept frames of 4 KiB.
        """
        if self.delta is None:
            return None
        document: JsonObject = {"state": self.delta, "version": self.version, "timestamp": self.timestamp}
        if metadata:
            document["metadata"] = rendered(self.delta, self._desired.timestamps)
        return document

    def to_stored(self) -> JsonObject:
        """Return the shadow as plain JSON for storage: `{"version", "timestamp", "state", "timestamps"}`."""
        return {
            "version": self.version,
            "timestamp": self.timestamp,
            "state": {name: section.value for name, section in self._sections()},
            "timestamps": {name: section.timestamps for name, section in self._sections()},
        }

    def to_stored_json(self) -> bytes:
        """Return `to_stored` as compact JSON. The JSON of a section is kept, and shared with the shadows after it."""
        sections = [(name.encode(), *section.json) for name, section in self._sections()]
        state = b",".join([b'"%b":%b' % (name, value) for name, value, _ in sections])
        timestamps = b",".join([b'"%b":%b' % (name, stamps) for name, _, stamps in sections])
        form = b'{"version":%d,"timestamp":%d,"state":{%b},"timestamps":{%b}}'
        return form % (self.version, self.timestamp, state, timestamps)

    @classmethod
    def from_stored(cls, stored: JsonValue) -> Shadow:
        """Return the shadow that `to_stored` has written. Its delta and size are computed again.

        Raises:
            StorageError: the stored document is damaged. This is not an error of the present request.
        """
        try:
            if not isinstance(stored, dict):
                raise InvalidShadowUpdate("not an object")
            state, version, timestamp = stored.get("state"), stored.get("version"), stored.get("timestamp")
            check_state(state, encoded(state), _DEEPEST, nulls=False)
            if type(version) is not int or version < 0 or type(timestamp) is not int:
                raise InvalidShadowUpdate("version or timestamp is no such number")
            if not mirrors(state, stored.get("timestamps")):
                raise InvalidShadowUpdate("its timestamps do not fit its values")
        except InvalidShadowUpdate as exc:
            raise StorageError(f"a stored shadow is damaged: {exc}") from None
        stamps = cast(dict[str, Timestamps], stored["timestamps"])
        values = cast(dict[str, JsonObject], state)
        sections = {name: Section.load(values[name], stamps[name]) for name in values}
        return cls(version=version, timestamp=timestamp, **sections)

    def _sections(self) -> list[tuple[str, Section]]:
        """Return name and section of those that are not empty."""
        sections = ("desired", self._desired), ("reported", self._reported)
        return [each for each in sections if each[1].value]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """An accepted update."""

    shadow: Shadow
    """The shadow after the update."""
    state: JsonObject | None
    """The `state` of the update, as it was given."""
    state_json: bytes
    """The same as compact JSON."""
    client_token: str | None = None

    @property
    def desired(self) -> Patch:
        """The update's patch for `desired`."""
        return _patch_of(self.state, "desired")

    @property
    def reported(self) -> Patch:
        """The update's patch for `reported`."""
        return _patch_of(self.state, "reported")

    @property
    def version(self) -> int:
        """The version that the update made."""
        return self.shadow.version

    @property
    def timestamp(self) -> int:
        """Unix seconds at which the update was accepted."""
        return self.shadow.timestamp

    @property
    def delta(self) -> JsonObject | None:
        """The whole delta after the update, with values that the update did not touch; `None` if there is none."""
        return self.shadow.delta

    def delta_document(self, *, metadata: bool = False) -> JsonObject | None:
        """Return `Shadow.delta_document`, with the update's `clientToken` if it had one."""
        document = self.shadow.delta_document(metadata=metadata)
        return None if document is None else document | self._token()

    def accepted_document(self) -> JsonObject:
        """Return the answer to the update: `state` with its `metadata`, `version`, `timestamp`, `clientToken`."""
        document: JsonObject = {"state": self.state, "metadata": filled(self.state, {"timestamp": self.timestamp})}
        return document | {"version": self.version, "timestamp": self.timestamp} | self._token()

    def accepted_json(self) -> bytes:
        """Return `accepted_document` as compact JSON. Its metadata is one timestamp, again and again."""
        stamp = msgspec.Raw(b'{"timestamp":%d}' % self.shadow.timestamp)
        token = b"" if self.client_token is None else b',"clientToken":%b' % encode(self.client_token)
        metadata = encode(filled(self.state, stamp))
        form = b'{"state":%b,"metadata":%b,"version":%d,"timestamp":%d%b}'
        return form % (self.state_json, metadata, self.shadow.version, self.shadow.timestamp, token)

    def _token(self) -> JsonObject:
        return {} if self.client_token is None else {"clientToken": self.client_token}


def _patch_of(state: JsonObject | None, section: str) -> Patch:
    """Return the patch of a checked `state` for one section."""
    if state is None:
        return CLEARED
    if section not in state:
        return None
    patch = state[section]
    return CLEARED if patch is None else cast(JsonObject, patch)
