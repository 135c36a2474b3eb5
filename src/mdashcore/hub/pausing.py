"""Pauses in long work, and work at the same time. The caller provides both, because the hub knows no event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

__all__ = ["Pause", "Together", "never_pause", "one_by_one"]

Pause: TypeAlias = Callable[[], Awaitable[None]]
"""Awaited between two small pieces of work to let other tasks run. It reads the time, which the hub does not."""


Together: TypeAlias = Callable[[Iterable[Callable[[], Awaitable[None]]]], Awaitable[None]]
"""Calls functions that read or write the store, several at the same time. Raises the first error of one."""


async def never_pause() -> None:
    """Return immediately: a `Pause` for callers without other tasks."""


async def one_by_one(work: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """Call functions one after the other: a `Together` for callers without other tasks."""
    for function in work:
        await function()
