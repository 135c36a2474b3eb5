"""The watch of the wall clock: it notices that the clock was set, and lets running work follow."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

from mdashcore.hub.clock import MIN_STEP, Clock

__all__ = ["CLOCK_INTERVAL", "ClockWatch"]

_log = logging.getLogger(__name__)

CLOCK_INTERVAL: Final = 10.0  # seconds between two checks: a process killed before the next one has stored old times


class ClockWatch:
    """Compares the wall clock with the monotonic one.

    Args:
        followers: awaited one after the other when the wall clock was set. None of them may fail.
    """

    def __init__(self, clock: Clock, *followers: Callable[[], Awaitable[None]]) -> None:
        self._clock = clock
        self._followers = followers
        self._offset = clock.offset

    async def check(self) -> None:
        """Compare the clocks once. Called every `CLOCK_INTERVAL`."""
        offset = self._clock.offset
        by = offset - self._offset
        if abs(by) <= MIN_STEP:
            return
        _log.warning("the wall clock was set by %+.0f s; updates and rollouts go on as if it had not been", by)
        self._offset = offset
        for follow in self._followers:
            await follow()
