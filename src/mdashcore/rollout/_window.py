"""A maintenance window: minutes of the day, on days of the week, in UTC."""

from __future__ import annotations

from math import floor
from typing import Final

import attrs

from mdashcore._checked import Check, whole

MINUTES = 1440  # of a day
WEEK = 7 * MINUTES  # minutes

EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday; Monday is 0


_DAYS: Final = Check(
    "a tuple of different numbers from 0 to 6 in ascending order",
    lambda value: (
        isinstance(value, tuple)
        and len(value) > 0
        and all(type(day) is int and 0 <= day <= 6 for day in value)
        and list(value) == sorted(set(value))
    ),
)


@attrs.frozen
class Window:
    """When devices may begin. A window that ends before it starts goes over midnight."""

    start: int = attrs.field(validator=whole(0, MINUTES - 1))
    """The first minute of the day, from 0 to 1439."""
    end: int = attrs.field(validator=whole(1, MINUTES))
    """The minute of the day before which it ends, from 1 to 1440."""
    days: tuple[int, ...] = attrs.field(default=(0, 1, 2, 3, 4, 5, 6), validator=_DAYS)
    """The days on which it starts; Monday is 0."""

    @property
    def length(self) -> int:
        """Minutes."""
        return (self.end - self.start - 1) % MINUTES + 1

    def contains(self, now: float) -> bool:
        """Whether it is open at a time, in Unix seconds."""
        return any(since < self.length for since in self._since(now))

    def opens(self, now: float) -> float:
        """When it opens next, in Unix seconds; `now` where it is open."""
        if self.contains(now):
            return now
        minute = floor(now / 60)
        return min(60.0 * (minute + (WEEK - since) % WEEK) for since in self._since(now))

    def _since(self, now: float) -> list[int]:
        """Whole minutes since it started last, for each of its days."""
        minute = (floor(now / 60) + EPOCH_WEEKDAY * MINUTES) % WEEK
        return [(minute - (day * MINUTES + self.start)) % WEEK for day in self.days]
