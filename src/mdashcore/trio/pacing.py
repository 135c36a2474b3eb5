"""Work of which a bounded part is under way, while the rest waits in the order in which it came."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from types import TracebackType
from typing import Final

import trio

from mdashcore.storage import DURABLE, SHARED

__all__ = ["STORE_CALLERS", "STORE_CALLERS_IN_GROUPS", "Gate", "store_callers"]

STORE_CALLERS: Final = 12  # tasks of one kind, such as handshakes, that call the store at the same time when a fleet
# comes back. Each call takes a turn of the event loop, and requests of other clients wait behind those of one round:
# with 32, on Redis, the slowest of twenty takes 2 to 4 times as long, and the fleet is not back sooner

STORE_CALLERS_IN_GROUPS: Final = 32  # of a store on a disk of its own, which commits what comes together with one wait
# for the disk: with 12 a fleet needs 1.8 times as long


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


def store_callers(capabilities: AbstractSet[str]) -> int:
    """Return how many tasks of one kind should call a store with these capabilities at the same time."""
    return STORE_CALLERS_IN_GROUPS if DURABLE in capabilities and SHARED not in capabilities else STORE_CALLERS
