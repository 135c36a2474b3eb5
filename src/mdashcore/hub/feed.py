"""Notifications: into the account's log, then to everybody who listens.

The log comes first, so that a listener who missed something on the bus can always read it. A message on the
bus is ``ACCOUNT SP OFFSET SP FRAME``, encoded once for all listeners of all nodes.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from math import inf
from typing import Final, TypeAlias

import attrs

from mdashcore import _json, notifications
from mdashcore.hub.event_log import EventLog, StoredEvent, event_log_name
from mdashcore.hub.records.logs import PAGE, PAGE_BYTES, PAGE_STEP, too_old
from mdashcore.notifications import Notification
from mdashcore.storage import LogEntry, LogStore, MessageBus

__all__ = ["TOPIC", "Feed", "FeedItem", "LogQuery", "log_names"]

_logger = logging.getLogger(__name__)

TOPIC: Final = "feed"

KEEP: Final = 100_000  # entries of an account's log: at 200 bytes each, 20 MB

KEEP_BYTES: Final = 2**26  # of an account's log: a device that floods with its largest frames fills no memory

MARKS: Final = 64  # pieces in which those bytes are counted: a log is never more than 2 % too large

TRIM_EVERY: Final = 1_000  # appends between two trims: a log is never more than 1 % too long

KEEP_SECONDS: Final = 30 * 86_400.0  # of an account's log, unless the operator says otherwise: a month to look back

MAX_RESULTS: Final = 1_000  # notifications in one answer: at 200 bytes, 200 KB


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
    before: int | None = None
    """Only smaller offsets, and of those the newest `limit`, in place of the oldest; beyond the end: the newest."""


Append: TypeAlias = Callable[[str, float, bytes], Awaitable[int]]
"""Appends an entry to a log, at a time in Unix seconds; its offset."""


class Feed:
    """The notification streams of every account.

    Args:
        now: Unix seconds.
        keep: notifications that are kept per account.
        keep_bytes: of those, as far as this process has stored them.
        keep_seconds: how old a notification may become; `math.inf` for any age. `Retention` removes what is older.
        on_told: called with the account and each notification that this process has stored, before the bus has it.
    """

    def __init__(
        self,
        logs: LogStore,
        bus: MessageBus,
        *,
        now: Callable[[], float],
        keep: int = KEEP,
        keep_bytes: int = KEEP_BYTES,
        keep_seconds: float = KEEP_SECONDS,
        on_told: Callable[[str, FeedItem], None] = lambda account, item: None,
    ) -> None:
        self._logs = logs
        self._bus = bus
        self._now = now
        self._keep = keep
        self._keep_bytes = keep_bytes
        self.keep_seconds = keep_seconds
        self._on_told = on_told
        self._gauges: dict[str, _Gauge] = {}
        self.events: EventLog = EventLog(logs)

    async def emit(
        self, account: str, name: str, device: str, data: bytes | None = None, *, append: Append | None = None
    ) -> int:
        """Store a notification and tell it to the account's listeners; returns its offset.

        Args:
            data: raw JSON.
            append: stores it, together with what it tells of; without it, it is appended to the log by itself.

        Raises:
            InvalidInput: the data are no JSON.
        """
        if data is not None:
            _json.check(data)
        now = self._now()
        stored = Notification(name, device, data).encode()
        is_event = notifications.is_event(name, data)
        if is_event:
            ticket = self.events.begin(account)
        try:
            offset = await (append or self.append)(_log(account), now, stored)
        except BaseException:
            if is_event:
                self.events.end(account, ticket)
            raise
        frame = notifications.frame(stored, offset, now)
        if is_event:
            self.events.end(account, ticket, (offset, now, frame))
        self._on_told(account, FeedItem(offset, frame))
        await self._bus.publish(TOPIC, b"%b %d %b" % (account.encode(), offset, frame))
        if is_event:
            await self.events.append(account, _log(account))
        gauge = self._gauges.get(account)
        if gauge is None:
            gauge = self._gauges[account] = _Gauge(self._keep_bytes)
        first = gauge.add(offset, len(stored))
        if offset % TRIM_EVERY == TRIM_EVERY - 1:
            first = max(first, offset + 1 - self._keep)
        if first > 0:
            await self._logs.trim(_log(account), 0, before=first)
        return offset

    async def append(self, log: str, time: float, entry: bytes) -> int:
        """Append an entry to a log; its offset."""
        return await self._logs.append(log, time, (entry,))

    async def too_old(self, account: str, now: float) -> AsyncGenerator[int, None]:
        """The offset before which every notification is too old at `now` (Unix seconds); greater from step to step."""
        if self.keep_seconds < inf:
            async with aclosing(too_old(self._logs, _log(account), now - self.keep_seconds)) as steps:
                async for offset in steps:
                    yield offset

    async def events_too_old(self, account: str, now: float) -> AsyncGenerator[int, None]:
        """The same of the account's events, by their places in the event log."""
        if self.keep_seconds < inf:
            async with aclosing(self.events.too_old(account, now - self.keep_seconds)) as steps:
                async for place in steps:
                    yield place

    async def remove_before(self, account: str, offset: int) -> None:
        """Remove the notifications with a smaller offset."""
        await self._logs.trim(_log(account), 0, before=offset)

    async def forget(self, account: str) -> None:
        """The account was removed: who gets its name later reads nothing of it. Offsets go on."""
        self._gauges.pop(account, None)
        await self._logs.trim(_log(account), 0)
        await self.events.forget(account)

    @staticmethod
    def parse(message: bytes) -> tuple[str, FeedItem]:
        """The account and the item of a message on the bus."""
        account, offset, frame = message.split(b" ", 2)
        return account.decode(), FeedItem(int(offset), frame)

    async def end(self, account: str) -> int:
        """The offset that the account's next notification will get."""
        return await self._logs.end(_log(account))

    async def page(self, account: str, start: int) -> list[FeedItem]:
        """The next stored notifications from an offset: about `PAGE_BYTES` of them, none at the end.

        Below the oldest that is kept there are the events only.
        """
        page: list[FeedItem] = []
        size = 0
        while len(page) < PAGE and size < PAGE_BYTES:
            step = min(PAGE_STEP, PAGE - len(page))
            entries = await self._logs.read(_log(account), start, step)
            if not page and (first := await self._first(account, start, entries)) > start:
                page = _up_to(await self.events.oldest(account, start, first), PAGE_BYTES)
                if page:
                    break
            sound = [entry for entry in entries if _head(account, entry.body, entry.offset) is not None]
            page += [_item(entry) for entry in sound]
            size += sum(len(entry.body) for entry in sound)
            if len(entries) < step:
                break
            start = entries[-1].offset + 1
        return page

    async def query(self, account: str, query: LogQuery) -> list[bytes]:
        """The frames that a query selects, oldest first."""
        pages = [page async for page in self.select(account, query)]
        return [frame for page in (pages if query.before is None else reversed(pages)) for frame in page]

    async def select(self, account: str, query: LogQuery) -> AsyncIterator[list[bytes]]:
        """The same in pieces, some of them empty: a log is long, and between two of them others may have their turn.

        With `before`, the newest piece comes first. Below the oldest that is kept there are the events only.
        """
        left = max(1, min(query.limit, MAX_RESULTS))
        start = max(0, query.start)
        if query.before is not None:
            end = min(query.before, await self.end(account))
            while left > 0 and end > start:
                first = max(start, end - PAGE)
                entries = await self._between(account, first, end)
                found = [_item(entry).frame for entry in entries if _selected(account, entry.body, entry.offset, query)]
                yield found[-left:]
                left -= len(found)
                end = entries[0].offset if entries else end
                if end > first:
                    break  # what is older is not kept
            while left > 0 and end > start and (events := await self.events.newest(account, start, end)):
                found = [frame for offset, frame in events if _selected(account, frame, offset, query)]
                yield found[-left:]
                left -= len(found)
                end = events[0][0]
            return
        entries = await self._logs.read(_log(account), start, PAGE)
        first = await self._first(account, start, entries)
        while left > 0 and start < first and (events := await self.events.oldest(account, start, first)):
            found = [frame for offset, frame in events if _selected(account, frame, offset, query)]
            yield found[:left]
            left -= len(found)
            start = events[-1][0] + 1
        while left > 0 and (entries := await self._logs.read(_log(account), start, PAGE)):
            found = [_item(entry).frame for entry in entries if _selected(account, entry.body, entry.offset, query)]
            yield found[: max(0, left)]
            left -= len(found)
            start = entries[-1].offset + 1

    async def _first(self, account: str, start: int, entries: Sequence[LogEntry]) -> int:
        """The offset of the first notification from `start` on that is kept, if those are the entries from there."""
        return entries[0].offset if entries else max(start, await self.end(account))

    async def _between(self, account: str, first: int, end: int) -> Sequence[LogEntry]:
        """The stored entries from one offset until before another: at most `PAGE`."""
        found: list[LogEntry] = []
        while first < end and (entries := await self._logs.read(_log(account), first, end - first)):
            found += [entry for entry in entries if entry.offset < end]
            first = entries[-1].offset + 1
        return found


class _Gauge:
    """Finds out when a log has grown too large: an offset for each piece of it that was filled."""

    __slots__ = ("_marks", "_piece", "_size")

    def __init__(self, limit: int) -> None:
        self._piece = max(1, limit // MARKS)
        self._size = 0
        self._marks: deque[int] = deque()

    def add(self, offset: int, size: int) -> int:
        """Count an entry; the first offset to keep, 0 where nothing is too much."""
        self._size += size
        if self._size < self._piece:
            return 0
        self._size = 0
        self._marks.append(offset)
        return self._marks.popleft() + 1 if len(self._marks) > MARKS else 0


def log_names(account: str) -> tuple[str, str]:
    """The logs that are kept of an account."""
    return _log(account), event_log_name(account)


def _log(account: str) -> str:
    return f"notifications/{account}"


def _item(entry: LogEntry) -> FeedItem:
    return FeedItem(entry.offset, notifications.frame(entry.body, entry.offset, entry.time))


def _up_to(events: list[StoredEvent], size: int) -> list[FeedItem]:
    """The first of them, until they have so many bytes."""
    items: list[FeedItem] = []
    for offset, frame in events:
        items.append(FeedItem(offset, frame))
        if (size := size - len(frame)) <= 0:
            break
    return items


def _head(account: str, body: bytes, offset: int) -> notifications.Head | None:
    """What an entry is about; `None`, and a line in the log, for one that is damaged: it takes out only itself."""
    try:
        return notifications.head(body)
    except _json.DECODE_ERRORS as exc:
        _logger.error("notification %d of %s cannot be read, and is passed over: %s", offset, account, exc)
        return None


def _selected(account: str, body: bytes, offset: int, query: LogQuery) -> bool:
    head = _head(account, body, offset)
    if head is None or (query.device is not None and head.id != query.device):
        return False
    if query.name is None:
        return True
    if query.name.endswith("*"):
        return head.name.startswith(query.name[:-1])
    return head.name == query.name
