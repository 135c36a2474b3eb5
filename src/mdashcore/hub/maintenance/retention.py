"""Retention: the removal of old notifications.

The wall clock can be wrong for a moment: when a board without a battery starts, a time server errs, or a person sets
the date. By a clock that is a year ahead every notification is too old. So one check alone removes nothing: it removes
the notifications that the check before has found too old as well. The checks are an interval apart, on a monotonic
clock. The findings of the last check are not stored, so after a restart it begins anew.

Setting the wall clock while the process runs ages nothing. Notifications from before the step are judged by the clock
of that time, for as long as notifications are kept. After that all of them are too old.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from math import inf
from typing import Final, TypeAlias

import attrs

from mdashcore._errors import StorageError
from mdashcore.hub.accounts import Accounts
from mdashcore.hub.clock import MIN_STEP, Clock
from mdashcore.hub.feed import Feed

__all__ = ["AGE_INTERVAL", "Retention"]

_log = logging.getLogger(__name__)

AGE_INTERVAL: Final = 3600.0  # seconds between two checks: a clock that was set wrongly is noticed by then


MAX_STEPS: Final = 16  # steps of the wall clock that are known apart: each holds a number for every log


_Log: TypeAlias = tuple[str, str]
"""An account, and the name of one of its logs."""


@attrs.define(eq=False)
class _Step:
    """A step of the wall clock."""

    by: float
    """Seconds."""
    seen: float
    """The time at which a check has noticed the step, by the monotonic clock."""
    ends: dict[_Log, int] = attrs.Factory(dict)
    """The end of each log at that time: all before it is older than the step."""


class Retention:
    """Removes the notifications that two checks in a row have found too old."""

    def __init__(self, accounts: Accounts, feed: Feed, clock: Clock) -> None:
        self._accounts = accounts
        self._feed = feed
        self._clock = clock
        self._offset = clock.offset
        self._steps: list[_Step] = []
        self._found: dict[_Log, int] = {}
        """The place in each log before which the last check has found all notifications too old."""

    async def check(self) -> AsyncGenerator[None, None]:
        """Check every account, and remove the notifications that the last check has found too old as well.

        The caller waits `AGE_INTERVAL` between two checks, on a monotonic clock. A check takes long in a large service,
        so the caller may let other tasks run at each step.

        Raises:
            StorageError: the accounts cannot be read. A log that cannot be read stays as it is.
        """
        accounts = await self._accounts.all()
        before, self._found = self._found, {}
        new = self._detect_step()
        over = [step for step in self._steps if self._clock.monotonic() - step.seen >= self._feed.keep_seconds]
        now, feed = self._earliest_now(), self._feed
        for account in accounts:
            name = account.name
            for log, too_old, end, remove in (
                ("notifications", feed.too_old, feed.end, feed.remove_before),
                ("events", feed.events_too_old, feed.events.end_of, feed.events.remove_before),
            ):
                key = name, log
                try:
                    if new is not None:
                        new.ends[key] = await end(name)
                    async with aclosing(too_old(name, now)) as steps:
                        async for first in steps:
                            self._found[key] = first
                            yield
                    agreed = min(before.get(key, 0), self._found.get(key, 0))
                    first = max(agreed, *(step.ends.get(key, 0) for step in over), 0)
                    if first > 0:
                        await remove(name, first)
                except StorageError as exc:
                    _log.warning("what is too old of the %s of %s is removed later: %s", log, name, exc)
        if new is not None:
            new.seen = self._clock.monotonic()  # no entry before its ends is younger
        self._steps = [step for step in self._steps if step not in over]

    def _detect_step(self) -> _Step | None:
        """Return the step of the wall clock since the check before, or `None` if there was none."""
        offset = self._clock.offset
        by, self._offset = offset - self._offset, offset
        if abs(by) <= MIN_STEP or self._feed.keep_seconds == inf:
            return None
        if len(self._steps) == MAX_STEPS:
            by += self._steps.pop().by  # both count as one step, of now
        self._steps.append(step := _Step(by, self._clock.monotonic()))
        return step

    def _earliest_now(self) -> float:
        """Return the earliest present time: by the present wall clock, and by that before each step."""
        now = earliest = self._clock.now()
        for step in reversed(self._steps):
            now -= step.by
            earliest = min(earliest, now)
        return earliest
