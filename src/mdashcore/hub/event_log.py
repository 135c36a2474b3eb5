"""The event log of an account: its events, kept for longer than the notifications of its devices.

A device that reports every second fills an account's log within a day. So the events of presence, devices, updates and
rollouts are also appended here, as subscribers get them: with the offset that they have in the account's log. Readers
continue here before the beginning of that log. The offsets skip the notifications that are not kept.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncGenerator
from math import inf
from typing import Final, TypeAlias

import attrs
import msgspec

from mdashcore import _json, notifications
from mdashcore._errors import StorageError
from mdashcore.hub.records.logs import LOG_PAGE, too_old
from mdashcore.storage import LogEntry, LogStore

__all__ = ["EventLog", "StoredEvent", "event_log_name"]

KEEP_EVENTS: Final = 20_000  # events of an account: 6 MB at 300 bytes each; a month of a hundred devices

TRIM_EVERY: Final = 100  # events between two trims: the log is never more than 1 % too long

MAX_WAITING_EVENTS: Final = 1_000  # events that wait to be appended: those of a second, if a whole fleet connects again

MAX_SKEW: Final = 64  # events that may stand before an older one if several processes append at the same time

StoredEvent: TypeAlias = tuple[int, bytes]
"""An event's offset in the account's log, and its frame."""


class _Offset(msgspec.Struct, gc=False):
    offset: int


_read_offset = msgspec.json.Decoder(_Offset).decode


@attrs.define
class _Account:
    """The state of an account's events in this process."""

    running: dict[int, None] = attrs.Factory(dict)
    """The tickets of the events that are being stored in the account's log."""
    ticket: int = 0
    waiting: list[tuple[int, int, float, bytes]] = attrs.Factory(list)
    """A heap of the events that are stored there: offset, the last ticket that was given out by then, time, frame."""
    appending: bool = False
    adopted: bool = False
    """Whether events that an earlier process may have left out have been looked for."""


class EventLog:
    """The event logs of all accounts.

    Within a process events are appended in the order of their offsets, although their notifications are stored at the
    same time. An event waits for all events whose storing had begun before its own ended.
    """

    def __init__(self, logs: LogStore) -> None:
        self._logs = logs
        self._accounts: dict[str, _Account] = {}

    # Writing

    def begin(self, account: str) -> int:
        """Announce an event that is about to be stored in the account's log. Returns a ticket for `end`."""
        state = self._accounts.setdefault(account, _Account())
        state.ticket += 1
        state.running[state.ticket] = None
        return state.ticket

    def end(self, account: str, ticket: int, stored: tuple[int, float, bytes] | None = None) -> None:
        """Report the end of storing. `stored` is offset, time and frame, or `None` if the event was not stored."""
        state = self._accounts.setdefault(account, _Account())
        state.running.pop(ticket, None)
        if stored is not None:
            offset, time, frame = stored
            heapq.heappush(state.waiting, (offset, state.ticket, time, frame))
            if len(state.waiting) > MAX_WAITING_EVENTS:
                heapq.heappop(state.waiting)

    async def append(self, account: str, main_log: str) -> None:
        """Append the waiting events that are ready. If the store fails, they stay for the next call."""
        state = self._accounts.get(account)
        if state is None or state.appending:
            return
        state.appending = True
        try:
            if not state.adopted and _is_ready(state):
                await self._adopt(account, main_log, state)
            while ready := _ready(state):
                try:
                    await self._append(account, ready)
                except BaseException:
                    for each in ready:
                        heapq.heappush(state.waiting, each)
                    raise
        except StorageError:
            pass  # the events are in the account's log until the next call
        finally:
            state.appending = False

    async def _append(self, account: str, ready: list[tuple[int, int, float, bytes]]) -> None:
        log = event_log_name(account)
        first = await self._logs.append(log, ready[-1][2], [frame for *_, frame in ready])
        end = first + len(ready)
        if first // TRIM_EVERY != end // TRIM_EVERY:
            await self._logs.trim(log, KEEP_EVENTS)

    async def _adopt(self, account: str, main_log: str, state: _Account) -> None:
        """Append the events that a killed process has stored only in the account's log.

        All events before the first one that is ready belong to other processes.
        """
        log = event_log_name(account)
        newest = await self._logs.read(log, max(0, await self._logs.end(log) - 1), 1)
        last = max((_offset(entry, -1) for entry in newest), default=-1)
        first = state.waiting[0][0]
        for entry in await self._logs.read(main_log, max(last + 1, first - LOG_PAGE), LOG_PAGE):
            if last < entry.offset < first and notifications.is_stored_event(entry.body):
                frame = notifications.frame(entry.body, entry.offset, entry.time)
                heapq.heappush(state.waiting, (entry.offset, 0, entry.time, frame))
        state.adopted = True

    async def forget(self, account: str) -> None:
        """Remove the events of an account that was removed."""
        self._accounts.pop(account, None)
        await self._logs.trim(event_log_name(account), 0)

    # Age

    def too_old(self, account: str, oldest: float) -> AsyncGenerator[int, None]:
        """Do the same as `Feed.too_old`, with places of this log."""
        return too_old(self._logs, event_log_name(account), oldest)

    async def end_of(self, account: str) -> int:
        """Return the place after the newest event in this log."""
        return await self._logs.end(event_log_name(account))

    async def remove_before(self, account: str, place: int) -> None:
        """Remove the events before a place in this log."""
        await self._logs.trim(event_log_name(account), 0, before=place)

    # Reading

    async def oldest(self, account: str, first: int, end: int) -> list[StoredEvent]:
        """Return the first events with `first` <= offset < `end`, at most `LOG_PAGE` of them."""
        found: dict[int, bytes] = {}
        place, beyond = await self._place(account, first) - MAX_SKEW, 0
        while beyond < MAX_SKEW and (entries := await self._read(account, place)):
            for entry in entries:
                if first <= (offset := _offset(entry, -1)) < end:
                    found[offset] = entry.body
                beyond += offset >= end or len(found) > LOG_PAGE
            place = entries[-1].offset + 1
        return sorted(found.items())[:LOG_PAGE]

    async def newest(self, account: str, first: int, end: int) -> list[StoredEvent]:
        """Return the last events with `first` <= offset < `end`, sorted by offset."""
        found: dict[int, bytes] = {}
        last = await self._place(account, end) + MAX_SKEW
        place = max(0, last - LOG_PAGE)
        while place < last and (entries := await self._read(account, place)):
            found |= {offset: entry.body for entry in entries if first <= (offset := _offset(entry, -1)) < end}
            place = entries[-1].offset + 1
        return sorted(found.items())[-(LOG_PAGE - 2 * MAX_SKEW) :]

    async def _place(self, account: str, offset: int) -> int:
        """Return the approximate place in this log of the first event with at least that offset."""
        log = event_log_name(account)
        entries = await self._logs.read(log, 0, 1)
        if not entries:
            return 0
        low, high = entries[0].offset, await self._logs.end(log)
        while low < high:
            middle = (low + high) // 2
            entries = await self._logs.read(log, middle, 1)
            if entries and _offset(entries[0], offset) < offset:
                low = middle + 1
            else:
                high = middle
        return low

    async def _read(self, account: str, place: int) -> list[LogEntry]:
        return list(await self._logs.read(event_log_name(account), max(0, place), LOG_PAGE))


def event_log_name(account: str) -> str:
    """Return the name of an account's event log in the store."""
    return f"events/{account}"


def _ready(state: _Account) -> list[tuple[int, int, float, bytes]]:
    """Remove from the waiting events those that no other event can precede any more, and return them in order."""
    ready = []
    while _is_ready(state):
        ready.append(heapq.heappop(state.waiting))
    return ready


def _is_ready(state: _Account) -> bool:
    return bool(state.waiting) and state.waiting[0][1] < next(iter(state.running), inf)


def _offset(entry: LogEntry, damaged: int) -> int:
    """Return the offset of an event, or `damaged` if it cannot be read."""
    try:
        return _read_offset(entry.body).offset
    except _json.DECODE_ERRORS:
        return damaged
