"""Reading of an account's stored notifications: from an offset on, or those that a query selects.

An entry may have 128 KiB, and a query may ask for a thousand. So a few are read at a time, and yielded one by one.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

import attrs

from mdashcore import _json, notifications
from mdashcore.hub.event_log import EventLog, StoredEvent
from mdashcore.hub.feed_item import FeedItem
from mdashcore.hub.pausing import Pause, never_pause
from mdashcore.hub.records.logs import LOG_PAGE, LOG_PAGE_BYTES, PAGE_STEP, READ_STEP, newest_first
from mdashcore.storage import LogEntry, LogStore

__all__ = ["MAX_RESULTS", "LogQuery", "NotificationReader", "log_name"]

_log = logging.getLogger(__name__)

MAX_RESULTS: Final = 1_000  # notifications in one answer: at 200 bytes, 200 KB

MAX_LOGGED_ENTRIES: Final = 1_000  # damaged entries that are logged: with more, the store itself is broken


@attrs.frozen
class LogQuery:
    """A selection of stored notifications."""

    start: int = 0
    """The smallest selected offset."""
    limit: int = 100
    """The maximum number of results, from 1 to `MAX_RESULTS`."""
    device: str | None = None
    name: str | None = None
    """A notification's name, or its beginning if this ends with ``*``."""
    before: int | None = None
    """Selects smaller offsets only, and the newest `limit` of them instead of the oldest; may be beyond the end."""

    def selects(self, head: notifications.Head) -> bool:
        """Return whether device and name of a notification fit, whatever its offset is."""
        if self.device is not None and head.id != self.device:
            return False
        if self.name is not None and self.name.endswith("*"):
            return head.name.startswith(self.name[:-1])
        return self.name is None or head.name == self.name


class NotificationReader:
    """A reader of both logs of an account as one: before the beginning of the main log it reads the event log."""

    def __init__(self, logs: LogStore, events: EventLog) -> None:
        self._logs = logs
        self._events = events
        self._logged: set[tuple[str, int]] = set()

    async def page(self, account: str, start: int) -> list[FeedItem]:
        """Return the next stored notifications from an offset on: about `LOG_PAGE_BYTES` of them, none at the end.

        Before the oldest notification that is kept only events are left.
        """
        page: list[FeedItem] = []
        size = 0
        while len(page) < LOG_PAGE and size < LOG_PAGE_BYTES:
            step = min(PAGE_STEP, LOG_PAGE - len(page))
            entries, first = await self._read(account, start, step)
            if first > start:
                if page:
                    break  # the log was trimmed meanwhile: the next page begins with the events from there on
                page = _up_to(await self._events.oldest(account, start, first), LOG_PAGE_BYTES)
                if page:
                    break
            sound = [entry for entry in entries if self.head(account, entry) is not None]
            page += [FeedItem(entry.offset, _frame(entry)) for entry in sound]
            size += sum(len(entry.body) for entry in sound)
            if len(entries) < step:
                break
            start = entries[-1].offset + 1
        return page

    async def select(self, account: str, query: LogQuery, pause: Pause = never_pause) -> AsyncGenerator[bytes, None]:
        """Yield the frames that a query selects, oldest first. Before the oldest that is kept only events are left.

        Args:
            pause: awaited after each few notifications that were checked.
        """
        left = max(1, min(query.limit, MAX_RESULTS))
        start, end = max(0, query.start), await self._logs.end(log_name(account))
        if query.before is None:
            while left > 0 and start < end:
                selected, start = await self._some(account, query, start, end)
                for item in selected[:left]:
                    yield item.frame
                left -= len(selected)
                await pause()
            return
        wanted = deque(await self._newest(account, query, start, min(query.before, end), left, pause))
        while wanted:
            selected, start = await self._some(account, query, wanted[0], wanted[-1] + 1)
            for item in selected:
                yield item.frame
            while wanted and wanted[0] < start:
                wanted.popleft()
            await pause()

    async def _some(self, account: str, query: LogQuery, start: int, end: int) -> tuple[list[FeedItem], int]:
        """Check the next few of the offsets from `start` to before `end`. Returns the selected, and the next offset."""
        read, first = await self._read(account, start, min(READ_STEP, end - start))
        entries = [entry for entry in read if entry.offset < end]
        first = min(end, first)
        if start < first and (events := (await self._events.oldest(account, start, first))[:READ_STEP]):
            selected = [FeedItem(*event) for event in events if query.selects(notifications.head(event[1]))]
            return selected, events[-1][0] + 1
        items = [FeedItem(entry.offset, _frame(entry)) for entry in self._selected(account, query, entries)]
        return items, entries[-1].offset + 1 if entries else end

    async def _newest(
        self, account: str, query: LogQuery, start: int, end: int, number: int, pause: Pause
    ) -> list[int]:
        """Return the last `number` selected offsets from `start` to before `end`, in order.

        Keeps only offsets, because their frames may have many megabytes.
        """
        found: deque[int] = deque(maxlen=number)
        async with aclosing(newest_first(self._logs, log_name(account), start, end)) as pieces:
            async for entries in pieces:
                selected = self._selected(account, query, entries)
                found.extendleft(entry.offset for entry in reversed(selected[len(found) - number :]))
                end = entries[0].offset
                if len(found) == number:
                    return list(found)
                await pause()
        while len(found) < number and end > start and (events := await self._events.newest(account, start, end)):
            offsets = [offset for offset, frame in events if query.selects(notifications.head(frame))]
            found.extendleft(reversed(offsets[len(found) - number :]))
            end = events[0][0]
            await pause()
        return list(found)

    def _selected(self, account: str, query: LogQuery, entries: Sequence[LogEntry]) -> list[LogEntry]:
        heads = [(self.head(account, entry), entry) for entry in entries]
        return [entry for head, entry in heads if head is not None and query.selects(head)]

    async def _read(self, account: str, start: int, limit: int) -> tuple[Sequence[LogEntry], int]:
        """Return the next entries from `start` on, and the first offset from there on that is kept, or is to come."""
        log = log_name(account)
        entries = await self._logs.read(log, start, limit)
        if not entries and (end := await self._logs.end(log)) > start:
            # Either those before the end are not kept, or they were appended after the first read.
            entries = await self._logs.read(log, start, limit)
            return entries, entries[0].offset if entries else end
        return entries, entries[0].offset if entries else start

    def head(self, account: str, entry: LogEntry) -> notifications.Head | None:
        """Return the head of an entry, or `None` if it is damaged. Logs a damaged entry once."""
        damage = entry.damage
        if damage is None:
            try:
                return notifications.head(entry.body)
            except _json.DECODE_ERRORS as exc:
                damage = _json.reason(exc)
        if len(self._logged) < MAX_LOGGED_ENTRIES and (account, entry.offset) not in self._logged:
            self._logged.add((account, entry.offset))
            words = "notification %d of %s cannot be read, and is passed over: %s"
            _log.error(words, entry.offset, account, damage)
        return None


def log_name(account: str) -> str:
    """Return the name of an account's log in the store."""
    return f"notifications/{account}"


def _frame(entry: LogEntry) -> bytes:
    return notifications.frame(entry.body, entry.offset, entry.time)


def _up_to(events: list[StoredEvent], size: int) -> list[FeedItem]:
    """Return the first events until they have that many bytes."""
    items: list[FeedItem] = []
    for offset, frame in events:
        items.append(FeedItem(offset, frame))
        if (size := size - len(frame)) <= 0:
            break
    return items
