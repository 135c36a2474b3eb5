"""Counts of the answers of this process. They are always on, because counting costs a ten-millionth of a second."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from mdashcore._errors import Busy, LimitReached, Overloaded, ShuttingDown

__all__ = ["count_refusal", "refusals", "responses"]

responses: Final[defaultdict[int, int]] = defaultdict(int)
"""Answers of the server to HTTP requests and handshakes, by status."""

refusals: Final[defaultdict[str, int]] = defaultdict(int)
"""Requests that were refused because of a bound, by the name of the limit of an account; ``memory`` for request bodies
that found no room, ``shutdown`` for handshakes while the server goes down, ``rate`` for all that may be tried again
later."""


def count_refusal(error: Busy) -> None:
    """Count a refused request."""
    if isinstance(error, LimitReached):
        refusals[error.limit] += 1
    else:
        kinds = {Overloaded: "memory", ShuttingDown: "shutdown"}
        refusals[kinds.get(type(error), "rate")] += 1
