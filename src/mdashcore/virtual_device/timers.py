"""The device's timers: named, one-shot, set and stopped by any code, fired by one task."""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

__all__ = ["Timers"]


class Timers:
    """Actions at times of Trio's clock, by name. Setting a name again moves its action.

    The number of timers is the number of names in this package. An action does not wait; it may set,
    stop and clear timers.
    """

    def __init__(self) -> None:
        self._pending: dict[str, tuple[float, Callable[[], object]]] = {}
        self._changed = trio.Event()

    def start(self, name: str, seconds: float, action: Callable[[], object]) -> None:
        self._pending[name] = (trio.current_time() + seconds, action)
        self._changed.set()

    def stop(self, name: str) -> None:
        self._pending.pop(name, None)

    def clear(self) -> None:
        self._pending.clear()

    def next_deadline(self) -> float:
        """Return the next time on Trio's clock; infinity if nothing is pending."""
        return min((deadline for deadline, _ in self._pending.values()), default=math.inf)

    async def fire(self) -> None:
        """Wait until a timer is due or the set of timers changed, then run the due actions, earliest first."""
        self._changed = trio.Event()
        with trio.move_on_at(self.next_deadline()):
            await self._changed.wait()
        while self.next_deadline() <= trio.current_time():
            name = min(self._pending, key=lambda each: self._pending[each][0])
            _, action = self._pending.pop(name)
            action()
