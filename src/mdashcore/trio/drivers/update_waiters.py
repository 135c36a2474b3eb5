"""Callers that wait for a state of a device's update."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable

import trio

from mdashcore.identity import DeviceKey
from mdashcore.ota import Update

__all__ = ["UpdateWaiters"]


class UpdateWaiters:
    """The waiting callers, by device. Each looks at the update again when its device is woken."""

    def __init__(self) -> None:
        self._waiters: defaultdict[DeviceKey, set[trio.Event]] = defaultdict(set)

    async def wait(
        self, key: DeviceKey, check: Callable[[], Awaitable[Update | None]], interval: Callable[[], float]
    ) -> Update:
        """Wait until `check` returns the update. What it raises ends the wait.

        Args:
            check: called first, after each change, and after each interval.
            interval: returns seconds from a check to the next one, if nothing changes.
        """
        changed = trio.Event()
        try:
            while True:
                self._waiters[key].add(changed)  # before the check, so that no change is missed
                if (update := await check()) is not None:
                    return update
                with trio.move_on_after(interval()):
                    await changed.wait()
                self._waiters[key].discard(changed)
                changed = trio.Event()
        finally:
            self._waiters[key].discard(changed)
            if not self._waiters[key]:
                del self._waiters[key]

    def wake(self, key: DeviceKey) -> None:
        """Let the callers that wait for the device's update check it."""
        for changed in self._waiters.get(key, ()):
            changed.set()

    def wake_account(self, account: str) -> None:
        """Let the callers that wait for any update of the account check it."""
        for key in [key for key in self._waiters if key.account == account]:
            self.wake(key)
