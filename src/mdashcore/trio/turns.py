"""Turns: long work is done in slices, and all other tasks have a turn between two of them.

Work belongs to an *owner*, mostly an account. One slice of one owner is done at a time, and owners take turns. So many
sockets and requests of one owner take together no more of the loop than one of them does.
"""

from __future__ import annotations

from collections.abc import Hashable
from time import perf_counter
from typing import Final

import attrs
import trio

from mdashcore.trio.run_wide import RunWide

__all__ = ["WORK_SLICE", "Pace", "Turn", "waiting_tasks"]

WORK_SLICE: Final = 0.002  # seconds of work at a time: a call of a device has six steps, each of which may wait for one


@attrs.define(eq=False)
class _Queue:
    """The tasks of one owner that wait for a slice."""

    lock: trio.Lock = attrs.field(factory=trio.Lock)
    waiting: int = 0


class _WorkSlices:
    """The slices of one Trio run."""

    def __init__(self) -> None:
        self._next = trio.Lock()
        self._queues: dict[Hashable, _Queue] = {}

    async def wait(self, owner: Hashable) -> None:
        """Wait for the owner's next slice, at least until all other tasks have had their turn."""
        queue = self._queues.setdefault(owner, _Queue())
        queue.waiting += 1
        try:
            await _acquire(queue.lock)  # both are fair: one in each owner's queue, then one of the owners
            try:
                await _acquire(self._next)
                try:
                    await trio.lowlevel.checkpoint()
                finally:
                    self._next.release()
            finally:
                queue.lock.release()
        finally:
            queue.waiting -= 1
            if not queue.waiting:
                del self._queues[owner]

    @property
    def waiting(self) -> int:
        """The number of tasks that wait for a slice."""
        return sum(queue.waiting for queue in self._queues.values())


async def _acquire(lock: trio.Lock) -> None:
    """Acquire a lock, a free one without a turn of the scheduler."""
    try:
        lock.acquire_nowait()
    except trio.WouldBlock:
        await lock.acquire()


_turns: Final = RunWide("mdash_turns", _WorkSlices)


def waiting_tasks() -> int:
    """Return the number of tasks of this Trio run that wait for a slice of work."""
    return _turns().waiting


class Turn:
    """The work of one task, counted in time.

    Args:
        owner: the owner of the work; `None` for that of an unauthenticated peer.
    """

    __slots__ = ("_worked", "owner")

    def __init__(self, owner: Hashable = None) -> None:
        self.owner: Hashable = owner
        self._worked = 0.0

    @property
    def left(self) -> float:
        """Seconds of work until the slice is used up; less than 0 if it was exceeded."""
        return WORK_SLICE - self._worked

    def count(self, seconds: float) -> None:
        """Count work that was done."""
        self._worked += seconds

    async def give_way(self) -> None:
        """Wait for the owner's next slice."""
        await _turns().wait(self.owner)
        self._worked = 0.0

    async def pause(self) -> None:
        """Let other tasks run: those that are ready, or all tasks if the slice is used up."""
        if self._worked >= WORK_SLICE:
            await self.give_way()
        else:
            await trio.lowlevel.checkpoint()


class Pace:
    """A pause whenever a slice of time has passed, for long work that also waits: the waiting counts too.

    Args:
        owner: the owner of the work, as for `Turn`.
    """

    __slots__ = ("_owner", "_since")

    def __init__(self, owner: Hashable) -> None:
        self._owner = owner
        self._since = perf_counter()

    async def __call__(self) -> None:
        """Wait for the owner's next slice, if the present one is used up. Call it between two small pieces of work."""
        if perf_counter() - self._since >= WORK_SLICE:
            await _turns().wait(self._owner)
            self._since = perf_counter()
