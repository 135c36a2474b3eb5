"""The preview of a job: which devices it would change, from what to what, and which have the values already."""

from __future__ import annotations

from typing import Final, TypeAlias

import attrs

from mdashcore import _json
from mdashcore._errors import InvalidInput, TooLarge
from mdashcore._trees import JsonObject, JsonValue
from mdashcore.hub.device_list import ListedDevice
from mdashcore.job import Difference, differences
from mdashcore.shadow import ShadowLimits

__all__ = ["DeviceChanges", "JobPreview", "ValueChange"]

MAX_VALUE_CHANGES: Final = 100  # different changes of values that a preview tells apart: more than a person reads

MAX_PREVIEWED: Final = 100  # devices that a preview shows one by one, of those that change and of those that cannot

MAX_PREVIEW_BYTES: Final = 2**18  # bytes of the values in a preview: a hundred devices with a changed value of 2 KB

SHADOW_DAMAGED: Final = "its shadow cannot be read"

_Key: TypeAlias = tuple[tuple[str, ...], bytes, bytes]


@attrs.define
class ValueChange:
    """One change of a value, and the number of devices that it concerns."""

    difference: Difference
    devices: int = 0


@attrs.frozen
class DeviceChanges:
    """The changes of one device."""

    device: str
    differences: tuple[Difference, ...]


class JobPreview:
    """Counts what a job would do to each device that is added.

    Attributes:
        devices: the number of selected devices.
        changed: the number of devices that would change.
        unchanged: the number of devices that have all the values.
        failed: the number of devices that cannot take the values.
        other_changes: changes of values that are counted nowhere else, because there are too many different ones.
        shown: the first devices that would change.
        failures: the first devices that cannot take the values, with the reason.
    """

    def __init__(self, patch: JsonObject, limits: ShadowLimits, now: float) -> None:
        self._patch = patch
        self._limits = limits
        self._now = now
        self._bytes = 0
        self._changes: dict[_Key, ValueChange] = {}
        self.devices: int = 0
        self.changed: int = 0
        self.unchanged: int = 0
        self.failed: int = 0
        self.other_changes: int = 0
        self.shown: list[DeviceChanges] = []
        self.failures: list[tuple[str, str]] = []

    @property
    def changes(self) -> list[ValueChange]:
        """The changes of values, the most frequent first."""
        return sorted(self._changes.values(), key=lambda each: -each.devices)

    def add(self, listed: ListedDevice) -> None:
        """Count a device."""
        self.devices += 1
        reason = self._refusal(listed)
        if reason is not None:
            self.failed += 1
            if len(self.failures) < MAX_PREVIEWED:
                self.failures.append((listed.device.id, reason))
            return
        found = tuple(differences(listed.shadow.desired or {}, self._patch))
        if not found:
            self.unchanged += 1
            return
        self.changed += 1
        for each in found:
            self._count(each)
        if len(self.shown) < MAX_PREVIEWED and self._takes(sum(map(_size, found))):
            self.shown.append(DeviceChanges(listed.device.id, found))

    def _refusal(self, listed: ListedDevice) -> str | None:
        """Return why a device cannot take the values, or `None` if it can."""
        if "shadow" in listed.damaged:
            return SHADOW_DAMAGED
        try:
            listed.shadow.update({"state": {"desired": self._patch}}, now=self._now, limits=self._limits)
        except (InvalidInput, TooLarge) as exc:
            return str(exc)
        return None

    def _count(self, change: Difference) -> None:
        key = change.path, _json.encode(change.before), _json.encode(change.after)
        known = self._changes.get(key)
        if known is None:
            if len(self._changes) >= MAX_VALUE_CHANGES or not self._takes(_size(change)):
                self.other_changes += 1
                return
            known = self._changes[key] = ValueChange(change)
        known.devices += 1

    def _takes(self, size: int) -> bool:
        """Return whether so many bytes more fit into the preview, and count them."""
        if self._bytes + size > MAX_PREVIEW_BYTES:
            return False
        self._bytes += size
        return True


def _size(change: Difference) -> int:
    values: tuple[JsonValue, ...] = (list(change.path), change.before, change.after)
    return sum(len(_json.encode(value)) for value in values)
