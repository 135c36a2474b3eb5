"""Values over time: summed up in buckets of equal length, with the gaps in which the device was offline."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import attrs

from mdashcore import notifications
from mdashcore._errors import InvalidInput

__all__ = ["MAX_POINTS", "Gap", "Point", "PresenceEvent", "Series", "gaps", "number_at"]

MAX_POINTS: Final = 2_000  # buckets of a series: more than the pixels of a plot, 150 KB as JSON


@attrs.frozen
class Point:
    """The values of a bucket."""

    time: float
    """The begin of the bucket, in Unix seconds."""
    min: float
    avg: float
    max: float
    count: int
    """The number of values, at least 1."""


class Series:
    """Sums up values in buckets. Values may be added in any order of their times.

    Args:
        start: the begin of the first bucket, in Unix seconds.
        end: the end of the last bucket, which it includes; after `start`.
        points: the number of buckets.

    Raises:
        InvalidInput: the times are in the wrong order, or so close that doubles cannot divide them.
    """

    def __init__(self, start: float, end: float, points: int) -> None:
        self._edges = [start + (end - start) * number / points for number in range(points)]
        if not all(first < second for first, second in zip(self._edges, [*self._edges[1:], end], strict=True)):
            raise InvalidInput("the end has to be after the begin, by as much as there are points")
        self._end = end
        self._found: dict[int, Point] = {}

    def add(self, time: float, value: float) -> None:
        """Add a value, unless its time is outside the range.

        Args:
            time: Unix seconds.
            value: a finite number.
        """
        if not self._edges[0] <= time <= self._end:
            return
        number = bisect_right(self._edges, time) - 1
        point = self._found.get(number)
        if point is None:
            self._found[number] = Point(self._edges[number], value, value, value, 1)
            return
        low, high, count = min(point.min, value), max(point.max, value), point.count + 1
        mean = point.avg + (value / count - point.avg / count)  # a sum may be too large for a double
        self._found[number] = Point(point.time, low, min(max(mean, low), high), high, count)

    def points(self) -> list[Point]:
        """Return the buckets that have values, the oldest first."""
        return [self._found[number] for number in sorted(self._found)]


def number_at(reported: Any, path: Sequence[str]) -> float | None:
    """Return the number at a place of a reported section: 1 and 0 for `True` and `False`, `None` for anything else."""
    found = reported
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    if not isinstance(found, int | float):
        return None
    try:
        return float(found)
    except OverflowError:  # an integer beyond the range of doubles
        return None


@attrs.frozen
class PresenceEvent:
    """A notified change of a device's presence."""

    time: float
    """Unix seconds."""
    name: str
    """`online`, `offline`, `created` or `deleted`."""


@attrs.frozen
class Gap:
    """A time in which a device was offline, or not registered. In Unix seconds."""

    start: float
    end: float


def gaps(events: Iterable[PresenceEvent], start: float, end: float, *, is_online: bool) -> list[Gap]:
    """Return the gaps of a range, the oldest first.

    A device is online from `online` to the next other event. Before the first event of all it was in the other state.

    Args:
        events: all changes since `start`, in any order of their times, those of the same time in their own; earlier
            and later ones may be among them.
        start, end: the range, in Unix seconds.
        is_online: whether the device is online after the last event, which matters only if there is none.
    """
    found: list[Gap] = []
    ordered = sorted(events, key=lambda event: event.time)
    online = is_online if not ordered else ordered[0].name in (notifications.OFFLINE, notifications.DELETED)
    since = start
    for event in ordered:
        time = min(max(event.time, start), end)
        if not online:
            _add(found, since, time)
        since, online = time, event.name == notifications.ONLINE
    if not online:
        _add(found, since, end)
    return found


def _add(found: list[Gap], start: float, end: float) -> None:
    if end <= start:
        return
    if found and found[-1].end == start:
        start = found.pop().start
    found.append(Gap(start, end))
