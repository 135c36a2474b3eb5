"""Objects of which each Trio run has one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

__all__ = ["RunWide"]

T = TypeVar("T")


class RunWide(Generic[T]):
    """An object of each Trio run, made on first use.

    Args:
        make: makes the object.
        run: the system task that the object needs for as long as the run lasts, if it needs one.
    """

    def __init__(self, name: str, make: Callable[[], T], run: Callable[[T], Awaitable[None]] | None = None) -> None:
        self._current: trio.lowlevel.RunVar[T | None] = trio.lowlevel.RunVar(name, default=None)
        self._make = make
        self._run = run

    def __call__(self) -> T:
        """Return the object of the present run."""
        found = self._current.get()
        if found is None:
            found = self._make()
            self._current.set(found)
            if self._run is not None:
                trio.lowlevel.spawn_system_task(self._run, found)
        return found
