"""Several writers of one document: compare-and-set decides, and where there are many, they take turns as well.

A store accepts one of several writes that expect the same version. The loser of such a `Race` reads again, pauses for a
random moment and tries again. Of many writers most would lose most of the time. So the tasks of one process that write
the same shadow do so one after the other, in `Turns`; what is left are those of other processes, one for each.

Other records do without turns: they have few writers, and a write that the store never answers holds up no other.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Hashable
from typing import Final, Protocol

import anyio
import attrs

from mdashcore._errors import StorageError

__all__ = ["AnyioSignal", "Contention", "Race", "Signal", "Turns"]

_log = logging.getLogger(__name__)

FIRST_PAUSE: Final = 0.001  # seconds: a write to a store on this machine or the next takes about as long

MAX_PAUSE: Final = 0.05  # seconds: in half of it, several processes have written and gone on

TELL_RACES: Final = 32  # lost in a row, which is logged once: some processes that write all the time lose fewer

MAX_RACES: Final = 1000  # lost in a row, in half a minute and more: the store says what is not so


class Signal(Protocol):
    """What one task waits for and another one gives, once."""

    def set(self) -> None:
        """End the waiting, also of a task that begins to wait later."""

    async def wait(self, seconds: float) -> bool:
        """Wait until it is set: `True`; or for so long: `False`."""


class AnyioSignal:
    """A signal on any event loop that anyio knows."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = anyio.Event()

    def set(self) -> None:
        """As `Signal.set`."""
        self._event.set()

    async def wait(self, seconds: float) -> bool:
        """As `Signal.wait`."""
        with anyio.move_on_after(seconds):
            await self._event.wait()
        return self._event.is_set()


@attrs.frozen
class Contention:
    """What writers need that may have to wait for each other."""

    entropy: Callable[[int], bytes] = bytes
    """That many random bytes. Without it pauses are not spread: enough for the only process on a store."""

    signal: Callable[[], Signal] = AnyioSignal
    """Makes a signal for the event loop that the caller runs on."""


class Turns:
    """Lets one task at a time work on a key, in the order in which they came.

    A key that is free costs an entry in a dict::

        if not turns.take(key):
            await turns.wait(key, 10.0)
        try:
            ...
        finally:
            turns.leave(key)
    """

    __slots__ = ("_signal", "_waiting")

    def __init__(self, contention: Contention) -> None:
        self._signal = contention.signal
        self._waiting: dict[Hashable, deque[Signal] | None] = {}

    def take(self, key: Hashable) -> bool:
        """Take the turn if no task has it; it has to be left by `leave`."""
        if key in self._waiting:
            return False
        self._waiting[key] = None
        return True

    def waiting(self, key: Hashable) -> int:
        """How many tasks wait for their turn."""
        return len(self._waiting.get(key) or ())

    async def wait(self, key: Hashable, seconds: float) -> bool:
        """Wait for the turn, after `take` has returned `False`; `False` where it has not come in time.

        A task that is cancelled leaves the queue.
        """
        signal = self._signal()
        queue = self._waiting[key]
        if queue is None:
            queue = self._waiting[key] = deque()
        queue.append(signal)
        has_come = False
        try:
            has_come = await signal.wait(seconds)
        finally:
            if not has_come:
                self._give_up(key, signal)
        return has_come

    def leave(self, key: Hashable) -> None:
        """Hand the turn to the task that has waited for longest."""
        if queue := self._waiting[key]:
            queue.popleft().set()
        else:
            del self._waiting[key]

    def _give_up(self, key: Hashable, signal: Signal) -> None:
        """Leave the queue; or pass the turn on, where it has come at the very moment."""
        queue = self._waiting.get(key)
        if queue is not None and signal in queue:
            queue.remove(signal)
        else:
            self.leave(key)


class Race:
    """A compare-and-set that is tried until it succeeds.

    Args:
        what: names the document in the log, and in the error.
    """

    __slots__ = ("_contention", "_lost", "_what")

    def __init__(self, contention: Contention, what: str) -> None:
        self._contention = contention
        self._what = what
        self._lost = 0

    async def lost(self) -> None:
        """Note that another writer was quicker. Returns when it is time to try again, the first time immediately.

        Raises:
            StorageError: that was the case `MAX_RACES` times in a row.
        """
        self._lost += 1
        if self._lost == TELL_RACES:
            _log.warning("%s was changed by others %d times in a row, trying on", self._what, self._lost)
        if self._lost == MAX_RACES:
            raise StorageError(f"{self._what} was changed by others {self._lost} times in a row")
        if self._lost > 1:
            longest = min(MAX_PAUSE, FIRST_PAUSE * 2 ** (self._lost - 2)) if self._lost < TELL_RACES else MAX_PAUSE
            part = int.from_bytes(self._contention.entropy(2), "big") / 2**16
            await self._contention.signal().wait(longest * (1 + part) / 2)
