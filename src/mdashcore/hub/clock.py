"""Time in the hub: the wall clock, which can be set, and a monotonic clock, which cannot.

Stored times are of the wall clock, because people read them and the next process has no other clock. But the wall
clock is set: a board without a battery boots in 1970 and asks a time server a minute later, or an operator corrects the
date. So the monotonic clock measures durations for as long as one process runs:

* A record has an `Age` from the moment in which this process first reads it. All limits of the record count by that
  age, so a step of the wall clock changes none of them. Only the age at that first moment is taken from the wall clock.
* A clock that is behind the newest time of a record, when this process first reads it, has lost the date. Until it is
  set to a later time the times of that record are not moved: if the process stops before, the next one, whose clock may
  be right, finds them as they were.
* After a step the times of a record that is still open are all moved by the step. So people can read them, and the next
  process, which compares them with the wall clock again, computes the same age.

The present time of a record counts from its own `created`, not from a zero of the process. If another process has
moved the record's times, its age is still the same, and two processes that notice one step do not move them twice.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final
from weakref import WeakValueDictionary

__all__ = ["MIN_STEP", "Age", "Ages", "Clock"]

MIN_STEP: Final = 1.0  # seconds by which the wall clock has to be set to count as a step: no limit needs less

READ_TIME: Final = 0.1  # seconds: reading both clocks takes less, unless the process is stopped in between
READ_TRIES: Final = 3  # tries: a process is not stopped between its two reads three times in a row


class Clock:
    """The two clocks of a process.

    Args:
        now: the wall clock, in Unix seconds.
        monotonic: seconds since any moment, by a clock that is never set, such as `time.monotonic`.
    """

    def __init__(self, now: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self.now = now
        self.monotonic = monotonic

    def read(self) -> tuple[float, float]:
        """Return the times of the wall clock and of the monotonic clock, in the same moment."""
        for _ in range(READ_TRIES):
            before, wall, after = self.monotonic(), self.now(), self.monotonic()
            if after - before < READ_TIME:
                break  # else the process was stopped in between, and it would look like a step
        return wall, after

    @property
    def offset(self) -> float:
        """Seconds by which the wall clock is ahead of the monotonic one. It changes only if the wall clock is set."""
        wall, monotonic = self.read()
        return wall - monotonic


class Age:
    """The age of a record, and the present time on the clock of its stored times. Made by `Ages.of`.

    Args:
        created: the record's oldest time, in Unix seconds.
        newest: its newest time in the past. If it is after `clock.now()`, the clock was set back since.
    """

    __slots__ = ("__weakref__", "_behind", "_born", "_clock", "followed")

    def __init__(self, clock: Clock, created: float, newest: float) -> None:
        wall, monotonic = clock.read()
        self._clock = clock
        self._born = monotonic - (max(wall, newest) - created)
        self.followed: float = wall - monotonic
        """The `Clock.offset` that the record's times have followed: at first that of the process."""
        self._behind = newest > wall + MIN_STEP

    def now(self, created: float) -> float:
        """Return the present time in Unix seconds, comparable with the times of the record.

        Args:
            created: the record's oldest time, as it is stored now.
        """
        return created + self._clock.monotonic() - self._born

    def correction(self, created: float, offset: float) -> float:
        """Return the seconds by which the record's times have to be moved, 0 if the wall clock was not set.

        Set `followed` to the offset after storing the moved times. Only a process whose own clock was set moves them,
        because the clocks of two machines may differ for ever.

        Args:
            created: the record's oldest time, as it is stored now.
            offset: `Clock.offset`.
        """
        if abs(offset - self.followed) <= MIN_STEP:
            return 0.0
        by = self._clock.now() - self.now(created)
        if self._behind and by < 0:
            return 0.0  # not right yet: the next process would take what is moved there for very old
        self._behind = False
        if abs(by) <= MIN_STEP:  # another process has already moved them
            self.followed = offset
            return 0.0
        return by


class Ages:
    """The ages of records of one kind, by key.

    An age is kept for as long as it is referenced, and after that while it is among the `most` that were used last.
    """

    def __init__(self, clock: Clock, most: int) -> None:
        self.clock = clock
        self._most = most
        self._used: WeakValueDictionary[str, Age] = WeakValueDictionary()
        self._newest: OrderedDict[str, Age] = OrderedDict()

    def of(self, key: str, created: float, newest: float) -> Age:
        """Return the age of a record. The arguments are those of `Age`, and count only for the first call."""
        age = self._used.get(key)
        if age is None:
            age = self._used[key] = Age(self.clock, created, newest)
        self._newest[key] = age
        self._newest.move_to_end(key)
        if len(self._newest) > self._most:
            self._newest.popitem(last=False)
        return age
