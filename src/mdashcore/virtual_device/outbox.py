"""The queue of notifications that wait for the link."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

import trio

__all__ = ["MAX_WAITING_FRAMES", "Outbox", "OutgoingNotification"]

OutgoingNotification = tuple[str, Any]
"""A method and its params."""

MAX_WAITING_FRAMES: Final = 25  # the length of a Mongoose OS device's own queue


class Outbox:
    """Reports and log lines, each in order, at most 25 of either: behind a slow link the oldest are dropped.

    Reports overtake log lines. A lost report is made up for by the next `hello`.
    """

    def __init__(self) -> None:
        self._reports: deque[OutgoingNotification] = deque(maxlen=MAX_WAITING_FRAMES)
        self._logs: deque[OutgoingNotification] = deque(maxlen=MAX_WAITING_FRAMES)
        self._filled = trio.Event()

    def __len__(self) -> int:
        return len(self._reports) + len(self._logs)

    def put_report(self, notification: OutgoingNotification) -> None:
        self._reports.append(notification)
        self._filled.set()

    def put_log(self, notification: OutgoingNotification) -> None:
        self._logs.append(notification)
        self._filled.set()

    def clear(self) -> None:
        self._reports.clear()
        self._logs.clear()

    async def get(self) -> OutgoingNotification:
        """Return the next notification to send. For one task at a time."""
        while not len(self):
            self._filled = trio.Event()
            await self._filled.wait()
        return (self._reports or self._logs).popleft()
