"""Work of which a bounded part is under way, while the rest waits in the order in which it came."""

from __future__ import annotations

from types import TracebackType

import trio

__all__ = ["Gate"]


class Gate:
    """Lets in so many tasks at the same time: ``async with gate: …``.

    Args:
        most: the number of tasks.
    """

    def __init__(self, most: int) -> None:
        self._places = trio.Semaphore(most)
        self._short = trio.Event()

    @property
    def waiting(self) -> int:
        """The number of tasks that wait."""
        return self._places.statistics().tasks_waiting

    async def wait_short(self, length: int) -> None:
        """Wait until fewer than so many tasks wait."""
        while self.waiting >= length:
            if self._short.is_set():  # else other tasks wait for it
                self._short = trio.Event()
            await self._short.wait()

    async def enter(self) -> None:
        """Wait for a place, and take it."""
        try:
            self._places.acquire_nowait()
        except trio.WouldBlock:
            await self._places.acquire()

    def leave(self) -> None:
        """Give the place to the next task."""
        self._places.release()
        self._short.set()

    async def __aenter__(self) -> None:
        await self.enter()

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.leave()
