"""Several writers of one document: compare-and-set decides, and many writers of one process also take turns.

A store accepts one of several writes that expect the same version. The loser of such a `Race` reads again, pauses for a
random moment and tries again. Of many writers most would lose most of the time. So the tasks of one process that write
the same shadow do so one after the other, in `KeyedLocks`. Then only processes race, with one writer each.

Other records need no turns: they have few writers, and a write that the store never answers delays no other.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Hashable
from typing import Final, Protocol

import anyio
import attrs

from mdashcore._errors import StorageError

__all__ = ["AnyioSignal", "Contention", "KeyedLocks", "Race", "Signal"]

_log = logging.getLogger(__name__)

FIRST_PAUSE: Final = 0.001  # seconds: a write to a store on this machine or the next takes about as long

MAX_PAUSE: Final = 0.05  # seconds: in half of it, several processes have written and gone on

LOGGED_RACES: Final = 32  # losses in a row, which are logged once: a few processes that write all the time lose fewer

MAX_RACES: Final = 1000  # losses in a row, in half a minute or more: the store reports conflicts that do not exist


class Signal(Protocol):
    """A signal that one task waits for and another task sets, once."""

    def set(self) -> None:
        """Wake the waiting task. A task that begins to wait later returns immediately."""

    async def wait(self, seconds: float) -> bool:
        """Wait until the signal is set, at most that many seconds. Returns whether it is set."""


class AnyioSignal:
    """A signal on any event loop that anyio supports."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = anyio.Event()

    def set(self) -> None:
        """Do the same as `Signal.set`."""
        self._event.set()

    async def wait(self, seconds: float) -> bool:
        """Do the same as `Signal.wait`."""
        with anyio.move_on_after(seconds):
            await self._event.wait()
        return self._event.is_set()


@attrs.frozen
class Contention:
    """The randomness and the signals that waiting writers need."""

    entropy: Callable[[int], bytes] = bytes
    """Returns that many random bytes. Without it pauses are not spread: enough for the only process on a store."""

    signal: Callable[[], Signal] = AnyioSignal
    """Creates a signal for the event loop that the caller runs on."""


class KeyedLocks:
    """A lock for each key, which tasks get in the order in which they came.

    A free key costs an entry in a dict::

        if not turns.acquire_nowait(key):
            await turns.acquire(key, 10.0)
        try:
            ...
        finally:
            turns.release(key)
    """

    __slots__ = ("_signal", "_waiting")

    def __init__(self, contention: Contention) -> None:
        self._signal = contention.signal
        self._waiting: dict[Hashable, deque[Signal] | None] = {}

    def acquire_nowait(self, key: Hashable) -> bool:
        """Take the turn if no task has it. Returns whether it was taken; then the caller has to call `release`."""
        if key in self._waiting:
            return False
        self._waiting[key] = None
        return True

    def is_taken(self, key: Hashable) -> bool:
        """Return whether a task has the turn."""
        return key in self._waiting

    def waiting(self, key: Hashable) -> int:
        """Return the number of tasks that wait for their turn."""
        return len(self._waiting.get(key) or ())

    @property
    def all_waiting(self) -> int:
        """The number of tasks that wait for a turn of any key."""
        return sum(len(queue) for queue in self._waiting.values() if queue)

    async def acquire(self, key: Hashable, seconds: float) -> bool:
        """Wait for the turn after `acquire_nowait` has returned `False`. Returns `False` if it has not come in time.

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

    def release(self, key: Hashable) -> None:
        """Hand the turn to the task that has waited for longest."""
        if queue := self._waiting[key]:
            queue.popleft().set()
        else:
            del self._waiting[key]

    def _give_up(self, key: Hashable, signal: Signal) -> None:
        """Leave the queue. If the turn has come at this very moment, pass it on."""
        queue = self._waiting.get(key)
        if queue is not None and signal in queue:
            queue.remove(signal)
        else:
            self.release(key)


class Race:
    """A compare-and-set that is tried until it succeeds.

    Args:
        what: the name of the document in the log and in the error.
    """

    __slots__ = ("_contention", "_lost", "_what")

    def __init__(self, contention: Contention, what: str) -> None:
        self._contention = contention
        self._what = what
        self._lost = 0

    async def lost(self) -> None:
        """Count a lost try. Returns when it is time to try again, the first time immediately.

        Raises:
            StorageError: `MAX_RACES` tries in a row were lost.
        """
        self._lost += 1
        if self._lost == LOGGED_RACES:
            _log.warning("%s was changed by others %d times in a row, trying on", self._what, self._lost)
        if self._lost == MAX_RACES:
            raise StorageError(f"{self._what} was changed by others {self._lost} times in a row")
        if self._lost > 1:
            longest = min(MAX_PAUSE, FIRST_PAUSE * 2 ** (self._lost - 2)) if self._lost < LOGGED_RACES else MAX_PAUSE
            part = int.from_bytes(self._contention.entropy(2), "big") / 2**16
            await self._contention.signal().wait(longest * (1 + part) / 2)
