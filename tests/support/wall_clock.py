"""Clocks for tests in virtual time."""

from __future__ import annotations

import trio

EPOCH = 1_700_000_000.0


class WallClock:
    """A wall clock that goes by Trio's, which a test may jump, and that a test may set beside that."""

    def __init__(self) -> None:
        self.ahead = 0.0
        """Seconds by which it was set so far."""

    def __call__(self) -> float:
        return EPOCH + trio.current_time() + self.ahead

    def set_to(self, time: float) -> None:
        """Set it to a time, in Unix seconds."""
        self.ahead += time - self()
