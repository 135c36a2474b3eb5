"""Notifications: into the account's log, then to everybody who listens.

The log comes first, so that a listener who missed something on the bus can always read it. A message on the
bus is ``ACCOUNT SP OFFSET SP FRAME``, encoded once for all listeners of all nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from mdashcore import notifications
from mdashcore.notifications import Notification
from mdashcore.storage import LogEntry, LogStore, MessageBus

__all__ = ["TOPIC", "Feed", "FeedItem", "LogQuery"]

TOPIC: Final = "feed"

KEEP: Final = 100_000  # entries of an account's log: at 200 bytes each, 20 MB

TRIM_EVERY: Final = 1_000  # appends between two trims: a log is never more than 1 % too long

PAGE: Final = 500  # entries read at once: bounds the memory of a reader, whatever it asks for

MAX_RESULTS: Final = 1_000


@attrs.frozen
class FeedItem:
    """One notification, ready to be sent."""

    offset: int
    frame: bytes
    """As in `notifications.frame`."""


@attrs.frozen
class LogQuery:
    """Which stored notifications to read."""

    start: int = 0
    """The smallest offset wanted."""
    limit: int = 100
    """How many at most, from 1 to `MAX_RESULTS`."""
    device: str | None = None
    name: str | None = None
    """A notification's name, or its beginning where it ends with ``*``."""


class Feed:
    """The notification streams of every account.

    Args:
        now: Unix seconds.
        keep: notifications that are kept per account.
    """

    def __init__(self, logs: LogStore, bus: MessageBus, *, now: Callable[[], float], keep: int = KEEP) -> None:
        self._logs = logs
        self._bus = bus
        self._now = now
        self._keep = keep

    async def emit(self, account: str, name: str, device: str, data: bytes | None = None) -> int:
        """Store a notification and tell it to the account's listeners; returns its offset.

        Args:
            data: raw JSON.
        """
        now = self._now()
        stored = Notification(name, device, data).encode()
        offset = await self._logs.append(_log(account), now, (stored,))
        frame = notifications.frame(stored, offset, now)
        await self._bus.publish(TOPIC, b"%b %d %b" % (account.encode(), offset, frame))
        if offset % TRIM_EVERY == TRIM_EVERY - 1:
            await self._logs.trim(_log(account), self._keep)
        return offset

    @staticmethod
    def parse(message: bytes) -> tuple[str, FeedItem]:
        """The account and the item of a message on the bus."""
        account, offset, frame = message.split(b" ", 2)
        return account.decode(), FeedItem(int(offset), frame)

    async def end(self, account: str) -> int:
        """The offset that the account's next notification will get."""
        return await self._logs.end(_log(account))

    async def page(self, account: str, start: int) -> list[FeedItem]:
        """The next stored notifications from an offset: at most `PAGE` of them, none at the end."""
        return [_item(entry) for entry in await self._logs.read(_log(account), start, PAGE)]

    async def query(self, account: str, query: LogQuery) -> list[bytes]:
        """The frames that a query selects, oldest first."""
        wanted: list[bytes] = []
        limit = max(1, min(query.limit, MAX_RESULTS))
        start = max(0, query.start)
        while len(wanted) < limit:
            entries = await self._logs.read(_log(account), start, PAGE)
            if not entries:
                break
            wanted += [_item(entry).frame for entry in entries if _selected(entry, query)]
            start = entries[-1].offset + 1
        return wanted[:limit]


def _log(account: str) -> str:
    return f"notifications/{account}"


def _item(entry: LogEntry) -> FeedItem:
    return FeedItem(entry.offset, notifications.frame(entry.body, entry.offset, entry.time))


def _selected(entry: LogEntry, query: LogQuery) -> bool:
    if query.device is None and query.name is None:
        return True
    value = notifications.decode(entry.body)
    if query.device is not None and value["id"] != query.device:
        return False
    if query.name is None:
        return True
    if query.name.endswith("*"):
        return bool(value["name"].startswith(query.name[:-1]))
    return bool(value["name"] == query.name)
