"""Long work that lets others have their turn. How, its caller says: no loop is known here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

__all__ = ["Pause", "never_pause"]

Pause: TypeAlias = Callable[[], Awaitable[None]]
"""Awaited between two small pieces of work: others may have their turn. It knows the time, the hub does not."""


async def never_pause() -> None:
    """Go on: a `Pause` for callers that keep nobody waiting."""
