"""The order in which the notifications of one account are given to observers: that of their offsets.

A store appends many entries at the same time, and their callers go on in any order. A subscriber that got them so would
read the missing ones from the log again and again.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from math import inf
from typing import Final

from mdashcore.hub.feed_item import FeedItem

__all__ = ["DeliveryOrder"]

MAX_WAITING: Final = 1_000  # items that wait for earlier ones: as many as a store appends together, and four times more


class DeliveryOrder:
    """The items of one account on their way from the store to the observers.

    An item is ready when the one before it is, or cannot come: another process has appended that entry, or its append
    has failed although it was stored. No append that began after an item was stored has a smaller offset; so the item
    waits at most for those that were running by then.
    """

    __slots__ = ("_next", "_running", "_ticket", "_waiting")

    def __init__(self) -> None:
        self._next = 0  # the offset after the last item that was ready
        self._ticket = 0
        self._running: dict[int, None] = {}  # the tickets of the appends that have not ended, in their order
        self._waiting: list[tuple[int, int, FeedItem]] = []  # a heap: offset, the last ticket given out by then, item

    def begin(self) -> int:
        """Announce an append. Returns a ticket for `end`."""
        self._ticket += 1
        self._running[self._ticket] = None
        return self._ticket

    def end(self, ticket: int, item: FeedItem | None = None) -> Sequence[FeedItem]:
        """Report the end of an append, with the item if it was stored. Returns the items that are ready now."""
        del self._running[ticket]
        if item is not None:
            if item.offset == self._next and not self._waiting:
                self._next += 1
                return (item,)
            heapq.heappush(self._waiting, (item.offset, self._ticket, item))
        ready = []
        while self._waiting and self._is_ready(*self._waiting[0]):
            offset, _, item = heapq.heappop(self._waiting)
            self._next = max(self._next, offset + 1)
            ready.append(item)
        return ready

    def _is_ready(self, offset: int, ticket: int, _: FeedItem) -> bool:
        is_next = offset <= self._next or len(self._waiting) > MAX_WAITING
        return is_next or ticket < next(iter(self._running), inf)
