"""The event log of an account: its events, kept for longer than the notifications of its devices.

A device that reports every second fills an account's log within a day. So the events of presence, devices, updates,
rollouts and jobs are also appended here, as subscribers get them: with the offset that they have in the account's log.
Readers continue here before the beginning of that log. The offsets skip the notifications that are not kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from typing import Final, TypeAlias

import attrs
import msgspec

from mdashcore import _json, notifications
from mdashcore._errors import StorageError
from mdashcore.hub.feed_item import EventItem
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

    waiting: deque[EventItem] = attrs.Factory(deque)
    """The events that are stored in the account's log only, in the order of their offsets."""
    appending: bool = False
    failed: bool = False
    """Whether the store has failed to append them. The next event tries again."""
    adopted: bool = False
    """Whether events that an earlier process may have left out have been looked for."""


class EventLog:
    """The event logs of all accounts.

    Within a process events are appended in the order of their offsets: `DeliveryOrder` reports them so.
    """

    def __init__(self, logs: LogStore) -> None:
        self._logs = logs
        self._accounts: dict[str, _Account] = {}
        self._unstored: set[str] = set()
        """The accounts that have events that wait."""

    # Writing

    def add(self, account: str, event: EventItem) -> None:
        """Add an event that is stored in the account's log. No later one may have a smaller offset."""
        state = self._accounts.get(account)
        if state is None:
            state = self._accounts[account] = _Account()
        state.waiting.append(event)
        self._unstored.add(account)
        state.failed = False
        _bound(state.waiting)

    def has_waiting(self, account: str) -> bool:
        """Return whether `append` would append events now."""
        state = self._accounts.get(account)
        return state is not None and bool(state.waiting) and not state.appending and not state.failed

    async def append(self, account: str, main_log: str) -> None:
        """Append the waiting events. If the store fails, they stay until the next event is added."""
        state = self._accounts.get(account)
        if state is None or state.appending:
            return
        state.appending = True
        try:
            if not state.adopted and state.waiting:
                await self._adopt(account, main_log, state)
            while state.waiting:
                events = list(state.waiting)
                state.waiting.clear()
                try:
                    await self._append(account, events)
                except BaseException:
                    state.waiting.extendleft(reversed(events))
                    _bound(state.waiting)
                    raise
        except StorageError:
            state.failed = True  # the events are in the account's log until then
        finally:
            state.appending = False
            if not state.waiting:
                self._unstored.discard(account)

    def left(self) -> list[str]:
        """Return the accounts whose events wait although no task may be about to append them."""
        return [account for account in self._unstored if self.has_waiting(account)]

    async def _append(self, account: str, events: list[EventItem]) -> None:
        log = event_log_name(account)
        first = await self._logs.append(log, events[-1].time, [event.frame for event in events])
        end = first + len(events)
        if first // TRIM_EVERY != end // TRIM_EVERY:
            await self._logs.trim(log, KEEP_EVENTS)

    async def _adopt(self, account: str, main_log: str, state: _Account) -> None:
        """Put the events that a killed process has stored only in the account's log before those that wait.

        All events before the first one that waits belong to other processes.
        """
        log = event_log_name(account)
        newest = await self._logs.read(log, max(0, await self._logs.end(log) - 1), 1)
        last = max((_offset(entry, -1) for entry in newest), default=-1)
        first = state.waiting[0].offset
        adopted = [
            EventItem(entry.offset, notifications.frame(entry.body, entry.offset, entry.time), entry.time)
            for entry in await self._logs.read(main_log, max(last + 1, first - LOG_PAGE), LOG_PAGE)
            if last < entry.offset < first and notifications.is_stored_event(entry.body)
        ]
        state.waiting.extendleft(reversed(adopted))
        state.adopted = True

    async def forget(self, account: str) -> None:
        """Remove the events of an account that was removed."""
        self._accounts.pop(account, None)
        self._unstored.discard(account)
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

    async def recent(self, account: str, most: int) -> AsyncGenerator[bytes, None]:
        """Yield the frames of the newest events, the oldest first."""
        place = max(0, await self.end_of(account) - most)
        while entries := await self._read(account, place):
            for entry in entries:
                if entry.damage is None:
                    yield entry.body
            place = entries[-1].offset + 1

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


def _bound(waiting: deque[EventItem]) -> None:
    """Drop the oldest events beyond `MAX_WAITING_EVENTS`."""
    while len(waiting) > MAX_WAITING_EVENTS:
        waiting.popleft()


def _offset(entry: LogEntry, damaged: int) -> int:
    """Return the offset of an event, or `damaged` if it cannot be read."""
    try:
        return _read_offset(entry.body).offset
    except _json.DECODE_ERRORS:
        return damaged
