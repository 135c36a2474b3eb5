"""A maintenance window: minutes of the day, on days of the week, in UTC."""

from __future__ import annotations

from math import floor
from typing import Final

import attrs

from mdashcore._checked import Check, whole

DAY_MINUTES = 1440  # of a day
WEEK_MINUTES = 7 * DAY_MINUTES  # minutes

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
    """The times at which devices may begin. A window that ends before it starts goes over midnight."""

    start: int = attrs.field(validator=whole(0, DAY_MINUTES - 1))
    """The first minute of the day, from 0 to 1439."""
    end: int = attrs.field(validator=whole(1, DAY_MINUTES))
    """The minute of the day before which it ends, from 1 to 1440."""
    days: tuple[int, ...] = attrs.field(default=(0, 1, 2, 3, 4, 5, 6), validator=_DAYS)
    """The days on which it starts; Monday is 0."""

    @property
    def length(self) -> int:
        """Minutes from its start to its end."""
        return (self.end - self.start - 1) % DAY_MINUTES + 1

    def contains(self, now: float) -> bool:
        """Return whether the window is open at `now`, in Unix seconds."""
        return any(since < self.length for since in self._since(now))

    def opens(self, now: float) -> float:
        """Return when the window opens next, in Unix seconds; `now` if it is open."""
        if self.contains(now):
            return now
        minute = floor(now / 60)
        return min(60.0 * (minute + (WEEK_MINUTES - since) % WEEK_MINUTES) for since in self._since(now))

    def _since(self, now: float) -> list[int]:
        """Return the whole minutes since the window last started, for each of its days."""
        minute = (floor(now / 60) + EPOCH_WEEKDAY * DAY_MINUTES) % WEEK_MINUTES
        return [(minute - (day * DAY_MINUTES + self.start)) % WEEK_MINUTES for day in self.days]
