"""The queue of one subscriber of a message bus: messages, and an error at the place of each gap between them."""

from __future__ import annotations

from collections import deque
from typing import Final

import anyio
import anyio.lowlevel

from mdashcore._errors import StorageError

__all__ = ["BUS_QUEUE", "BusQueue"]

BUS_QUEUE: Final = 4096  # messages a subscriber may be behind; later messages are dropped, and there is a gap


class BusQueue:
    """The iterator of a subscription. It goes on after an error, with the messages that were published after the
    gap.
    """

    def __init__(self) -> None:
        self._items: deque[bytes | StorageError] = deque()  # at most BUS_QUEUE, and one more for a gap
        self._news = anyio.Event()
        self._ended = False

    def __aiter__(self) -> BusQueue:
        return self

    async def __anext__(self) -> bytes:
        await anyio.lowlevel.checkpoint()  # a subscriber of a busy topic must not keep the loop to itself
        while not self._items:
            if self._ended:
                raise StopAsyncIteration
            if self._news.is_set():
                self._news = anyio.Event()
            await self._news.wait()
        item = self._items.popleft()
        if isinstance(item, StorageError):
            raise item
        return item

    async def aclose(self) -> None:
        """Accept no more messages, and drop those in the queue."""
        self._items.clear()
        self.end()

    @property
    def is_live(self) -> bool:
        """Whether the subscription goes on: see `mdashcore.storage.goes_on`."""
        return not self._ended

    @property
    def is_full(self) -> bool:
        """Whether the next message would be dropped."""
        return len(self._items) >= BUS_QUEUE

    def offer(self, message: bytes) -> None:
        """Put a message into the queue. If it is full, drop the message and mark a gap."""
        if self.is_full:
            self.interrupt(f"the subscriber was {BUS_QUEUE} messages behind: what followed was dropped")
        elif not self._ended:
            self._items.append(message)
            self._news.set()

    def interrupt(self, reason: str) -> None:
        """Mark a gap: messages that were published before, and are not in the queue, will not come."""
        if not self._ended and not (self._items and isinstance(self._items[-1], StorageError)):
            self._items.append(StorageError(reason))
            self._news.set()

    def end(self) -> None:
        """End the iterator after the messages in the queue."""
        self._ended = True
        self._news.set()
