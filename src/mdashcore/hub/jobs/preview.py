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

MAX_VALUE_CHANGES: Final = 100  # different changes of values that a preview shows: more than a person reads

MAX_COUNTERS: Final = 1000  # different changes that are counted at a time, to find the most frequent ones

MAX_COUNTER_BYTES: Final = 2**20  # bytes of their values: a thousand of 1 KB

MAX_COUNTED_CHANGES: Final = 1_000_000  # changes that are compared with the others, a few seconds of work

MAX_PREVIEWED: Final = 100  # devices that a preview shows one by one, of those that change and of those that cannot

MAX_PREVIEW_BYTES: Final = 2**18  # bytes of the values: half for the changes, half for a hundred devices with 1 KB each

SHADOW_DAMAGED: Final = "its shadow cannot be read"

_Key: TypeAlias = tuple[tuple[str, ...], bytes]
"""The path of a change and the encoded value before. The value after is the patch's, the same for all at that path."""


@attrs.define
class ValueChange:
    """One change of a value, and the number of devices that it concerns."""

    difference: Difference
    devices: int = 0
    """The number since it is counted. There may be more, if different changes were too many to count all of them."""
    missed: int = 0
    """How many more there may be at most."""


@attrs.frozen
class DeviceChanges:
    """The changes of one device."""

    device: str
    differences: tuple[Difference, ...]


class _ChangeCounter:
    """Finds the most frequent changes, however many different ones there are (Space-Saving, in batches).

    When there are too many counters, the half with the lowest numbers is dropped. A change that is counted from then
    on may have been among them, so it ranks above all that were dropped.
    """

    def __init__(self) -> None:
        self.total: int = 0
        self._counters: dict[_Key, ValueChange] = {}
        self._bytes = 0
        self._dropped = 0
        """The highest number of a change that was dropped."""

    def add(self, found: tuple[Difference, ...]) -> None:
        """Count the changes of a device."""
        is_counted = self.total < MAX_COUNTED_CHANGES
        self.total += len(found)
        if is_counted:
            for each in found:
                self._count(each)

    def most_frequent(self, number: int, size: int) -> list[ValueChange]:
        """Return up to so many changes of up to `size` bytes, the most frequent first."""
        found: list[ValueChange] = []
        for each in sorted(self._counters.values(), key=lambda each: -each.devices):
            size -= _size(each.difference)
            if size < 0 or len(found) == number:
                break
            found.append(each)
        return found

    def _count(self, change: Difference) -> None:
        before = _json.encode(change.before)
        key = change.path, before
        known = self._counters.get(key)
        if known is None:
            if len(self._counters) >= MAX_COUNTERS or self._bytes + len(before) > MAX_COUNTER_BYTES:
                self._drop_half()
            known = self._counters[key] = ValueChange(change, missed=self._dropped)
            self._bytes += len(before)
        known.devices += 1

    def _drop_half(self) -> None:
        ranked = sorted(self._counters.items(), key=lambda each: -(each[1].devices + each[1].missed))
        self._counters, self._bytes = {}, 0
        for key, each in ranked:
            size = len(key[1])
            if len(self._counters) < MAX_COUNTERS // 2 and self._bytes + size <= MAX_COUNTER_BYTES // 2:
                self._counters[key] = each
                self._bytes += size
            else:
                self._dropped = max(self._dropped, each.devices + each.missed)


class JobPreview:
    """Counts what a job would do to each device that is added.

    Attributes:
        devices: the number of selected devices.
        changed: the number of devices that would change.
        unchanged: the number of devices that have all the values.
        failed: the number of devices that cannot take the values.
        shown: the first devices that would change.
        failures: the first devices that cannot take the values, with the reason.
    """

    def __init__(self, patch: JsonObject, limits: ShadowLimits, now: float) -> None:
        self._patch = patch
        self._limits = limits
        self._now = now
        self._left: int = MAX_PREVIEW_BYTES // 2
        """Bytes that are left for devices."""
        self._changes = _ChangeCounter()
        self.devices: int = 0
        self.changed: int = 0
        self.unchanged: int = 0
        self.failed: int = 0
        self.shown: list[DeviceChanges] = []
        self.failures: list[tuple[str, str]] = []

    @property
    def changes(self) -> list[ValueChange]:
        """The changes of values, the most frequent first, up to `MAX_VALUE_CHANGES`."""
        return self._changes.most_frequent(MAX_VALUE_CHANGES, MAX_PREVIEW_BYTES // 2)

    @property
    def other_changes(self) -> int:
        """The number of changes of values that are counted in none of `changes`."""
        return self._changes.total - sum(each.devices for each in self.changes)

    def add(self, listed: ListedDevice) -> None:
        """Count a device, with the outcome that the job would have."""
        self.devices += 1
        if "shadow" in listed.damaged:
            self._refuse(listed, SHADOW_DAMAGED)
            return
        found = tuple(differences(listed.shadow.desired or {}, self._patch))
        if not found:
            self.unchanged += 1
            return
        try:
            listed.shadow.update({"state": {"desired": self._patch}}, now=self._now, limits=self._limits)
        except (InvalidInput, TooLarge) as exc:
            self._refuse(listed, str(exc))
            return
        self.changed += 1
        self._changes.add(found)
        if len(self.shown) < MAX_PREVIEWED and self._left > 0:
            self._left -= sum(map(_size, found))
            if self._left >= 0:
                self.shown.append(DeviceChanges(listed.device.id, found))

    def _refuse(self, listed: ListedDevice, reason: str) -> None:
        self.failed += 1
        if len(self.failures) < MAX_PREVIEWED:
            self.failures.append((listed.device.id, reason))


def _size(change: Difference) -> int:
    values: tuple[JsonValue, ...] = (list(change.path), change.before, change.after)
    return sum(len(_json.encode(value)) for value in values)
