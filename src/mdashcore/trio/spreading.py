"""Work on many connections, spread over a time, so that what it causes does not come together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

__all__ = ["spread"]


async def spread(steps: Sequence[Callable[[], object]], seconds: float) -> None:
    """Call functions, evenly spread over the seconds. The first is called immediately; returns at the end of the time.

    With no functions it returns immediately.
    """
    started = trio.current_time()
    for place, step in enumerate(steps):
        await trio.sleep_until(started + seconds * place / len(steps))
        step()
    if steps:
        await trio.sleep_until(started + seconds)
