"""Search in an account's stored notifications: from the newest back, a bounded part at a time.

The caller goes on with the cursor of the answer, which also says how far the search has come: so a search through all
that is kept takes no request longer than a few seconds, and finds nothing without a sign of life.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, Final

import attrs
import msgspec

from mdashcore import _json, notifications
from mdashcore._errors import InvalidInput
from mdashcore.hub.event_log import EventLog
from mdashcore.hub.notification_reader import NotificationReader, log_name
from mdashcore.hub.pausing import Pause, never_pause
from mdashcore.hub.records.logs import newest_first
from mdashcore.storage import LogStore

__all__ = ["FoundNotifications", "LogSearch", "LogSearcher"]

MAX_SEARCHED: Final = 2**16  # notifications checked for one answer: half a second

MAX_SEARCH_TIME: Final = 2.0  # seconds for one answer: a person sees how far it has come

MAX_FOUND_BYTES: Final = 2**22  # bytes of the notifications in one answer: a thousand of the largest would be 128 MB

_BETWEEN_TEXTS: Final = "\ud800"  # half a character, which no searched text has

MAX_EARLIER_RUN: Final = 1_000  # notifications in a row before the wanted time that end a search: as for a series


class _SearchedFrame(msgspec.Struct, gc=False):
    name: str
    id: str
    data: msgspec.Raw = msgspec.Raw()
    time: float = 0.0
    """Of an event; that of a notification stands beside it in the log."""


_read_frame: Callable[[bytes], _SearchedFrame] = msgspec.json.Decoder(_SearchedFrame).decode


@attrs.frozen
class LogSearch:
    """What is searched. All that is given has to hold."""

    text: str = ""
    """A part of the notification's name, its id, or its data as JSON or as the texts in them, in any case."""
    device: str | None = None
    names: tuple[str, ...] = ()
    """One of these names, or of their beginnings if they end with ``*``; empty for any."""
    start: float | None = None
    """The earliest time, in Unix seconds."""
    end: float | None = None
    """The latest time, in Unix seconds."""
    before: int | None = None
    """Only smaller offsets: `FoundNotifications.next` of the answer before."""
    limit: int = 100
    """The maximum number of results."""


@attrs.frozen
class FoundNotifications:
    """A part of a search."""

    frames: tuple[bytes, ...]
    """The notifications that were found, the oldest first."""
    next: int | None
    """Where to go on; `None` if all that is kept was searched."""
    reached: float | None
    """The time of the oldest notification that was checked, in Unix seconds; `None` if none was."""
    checked: int
    """The number of notifications that were checked."""


class LogSearcher:
    """Searches in the logs of accounts.

    Args:
        monotonic: returns seconds of a clock that is never set.
    """

    def __init__(
        self, logs: LogStore, events: EventLog, reader: NotificationReader, *, monotonic: Callable[[], float]
    ) -> None:
        self._logs = logs
        self._events = events
        self._reader = reader
        self._monotonic = monotonic

    async def search(self, account: str, wanted: LogSearch, pause: Pause = never_pause) -> FoundNotifications:
        """Return the next part of a search, the newest notifications first among the parts.

        Before the oldest notification that is kept only events are left.

        Args:
            pause: awaited after each notification: one may have 128 KB.
        """
        log = log_name(account)
        part = _Part(wanted, self._monotonic() + MAX_SEARCH_TIME, self._monotonic)
        end = await self._logs.end(log)
        if wanted.before is not None:
            end = min(end, wanted.before)
        async with aclosing(newest_first(self._logs, log, 0, end)) as pieces:
            async for entries in pieces:
                for entry in reversed(entries):
                    end = entry.offset
                    if self._reader.head(account, entry) is not None:
                        frame = notifications.frame(entry.body, entry.offset, entry.time)
                        part.check(frame, entry.offset, entry.time)
                    if part.is_full:
                        return part.found(end)
                    await pause()
                if part.is_past:
                    return part.found(None)
                if part.is_late:
                    return part.found(end)
        while end > 0 and (events := await self._events.newest(account, 0, end)):
            for offset, frame in reversed(events):
                end = offset
                part.check(frame, offset, None)
                if part.is_full:
                    return part.found(end)
                await pause()
            if part.is_past:
                return part.found(None)
            if part.is_late:
                return part.found(end)
        return part.found(None)


class _Part:
    """A part of a search, as far as it has come."""

    def __init__(self, wanted: LogSearch, late: float, monotonic: Callable[[], float]) -> None:
        self._wanted = wanted
        self._text = wanted.text.casefold()
        self._late = late
        self._monotonic = monotonic
        self._frames: deque[bytes] = deque()
        self._size = 0
        self._checked = 0
        self._reached: float | None = None
        self._earlier = 0

    def check(self, frame: bytes, offset: int, time: float | None) -> None:
        """Check a notification that is older than those before; `time` is in its frame if it is `None`."""
        try:
            read = _read_frame(frame)
        except _json.DECODE_ERRORS:
            return
        time = read.time if time is None else time
        wanted = self._wanted
        self._checked += 1
        self._reached = time if self._reached is None else min(self._reached, time)
        is_earlier = wanted.start is not None and time < wanted.start
        self._earlier = self._earlier + 1 if is_earlier else 0
        if is_earlier or (wanted.end is not None and time > wanted.end):
            return
        if wanted.device is not None and read.id != wanted.device:
            return
        if wanted.names and not any(_fits(read.name, name) for name in wanted.names):
            return
        if self._text and not _contains(read, self._text):
            return
        self._frames.appendleft(frame)
        self._size += len(frame)

    @property
    def is_full(self) -> bool:
        return len(self._frames) >= self._wanted.limit or self._size >= MAX_FOUND_BYTES

    @property
    def is_past(self) -> bool:
        """Whether the notifications before are earlier than the wanted time."""
        return self._earlier >= MAX_EARLIER_RUN

    @property
    def is_late(self) -> bool:
        return self._checked >= MAX_SEARCHED or self._monotonic() >= self._late

    def found(self, next: int | None) -> FoundNotifications:
        return FoundNotifications(tuple(self._frames), next or None, self._reached, self._checked)


def _fits(name: str, wanted: str) -> bool:
    return name.startswith(wanted[:-1]) if wanted.endswith("*") else name == wanted


def _contains(read: _SearchedFrame, text: str) -> bool:
    """Return whether a notification has a text, which is folded."""
    data = bytes(read.data).decode("utf-8", "replace")
    if any(text in part.casefold() for part in (read.name, read.id, data)):
        return True
    if "\\" not in data:
        return False
    try:  # an escaped text is found as a person reads it
        return text in _BETWEEN_TEXTS.join(_texts(_json.decode(data))).casefold()
    except (InvalidInput, *_json.DECODE_ERRORS):  # JSON that no value can hold was searched as it is
        return False


def _texts(value: Any) -> list[str]:
    """Return the texts and keys in a value."""
    found: list[str] = []
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, str):
            found.append(each)
        elif isinstance(each, dict):
            found += each
            left += each.values()
        elif isinstance(each, list):
            left += each
    return found
