"""Pauses in long work, so that other tasks run. The caller provides them, because the hub knows no event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

__all__ = ["Pause", "never_pause"]

Pause: TypeAlias = Callable[[], Awaitable[None]]
"""Awaited between two small pieces of work to let other tasks run. It reads the time, which the hub does not."""


async def never_pause() -> None:
    """Return immediately: a `Pause` for callers without other tasks."""
