"""The waits between tries."""

from __future__ import annotations

import random

import attrs

from mdashcore._checked import checked

__all__ = ["Backoff"]


@attrs.frozen(field_transformer=checked)
class Backoff:
    """The waits between tries: doubled after each failure, and spread at random.

    The spread keeps the devices of a fleet that lost its server from connecting again at the same time.
    """

    first: float = 1.0
    """Seconds."""
    most: float = 60.0
    """Seconds at most: as Mongoose OS devices wait."""
    stable: float = 10.0
    """Seconds that a connection has to last for the next wait to be the first again."""

    def delay(self, failures: int) -> float:
        """Return the seconds to wait after that many failures in a row, the first being 1."""
        longest = min(self.most, self.first * 2.0 ** min(failures - 1, 32))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing
