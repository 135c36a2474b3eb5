"""Reading of what a device has reported over time, in one pass over the account's stored notifications.

The pass goes from the newest notification back, because the newest are asked for most often, and the log keeps the
newest. Clocks may have been set meanwhile, and those of several nodes differ, so times are not in the order of offsets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Final

import attrs
import msgspec

from mdashcore import _json, notifications
from mdashcore._errors import Damaged, InvalidInput
from mdashcore.hub.notification_reader import NotificationReader, log_name
from mdashcore.hub.pausing import Pause, never_pause
from mdashcore.hub.presence import Presence
from mdashcore.hub.records.logs import newest_first
from mdashcore.identity import DeviceKey
from mdashcore.series import Gap, Point, PresenceEvent, Series, gaps, number_at
from mdashcore.storage import LogEntry, LogStore

__all__ = ["SeriesReader", "SeriesRequest", "StoredSeries"]

MAX_PASS_ENTRIES: Final = 2**17  # notifications read for a series: more than the log of an account keeps

MAX_PASS_TIME: Final = 5.0  # seconds for a series: a person waits for the plot

MAX_OLD_RUN: Final = 1_000  # notifications in a row before the range that end a pass: a clock set back hides fewer

DEFAULT_RANGE: Final = 3_600.0  # seconds of a series of all that is stored, if nothing is

_PRESENCE: Final = frozenset(
    (notifications.ONLINE, notifications.OFFLINE, notifications.CREATED, notifications.DELETED)
)


class _ReportedState(msgspec.Struct, gc=False):
    reported: msgspec.Raw = msgspec.Raw()


class _UpdatedShadow(msgspec.Struct, gc=False):
    state: _ReportedState


class _UpdateData(msgspec.Struct, gc=False):
    shadow: _UpdatedShadow | None = None


class _Updated(msgspec.Struct, gc=False):
    """A stored notification `updated`, of which the reported values are read alone."""

    data: _UpdateData


_read_updated: Callable[[bytes], _Updated] = msgspec.json.Decoder(_Updated).decode


@attrs.frozen
class SeriesRequest:
    """The values that are asked for."""

    places: Mapping[str, Sequence[str]]
    """Places in `reported` as they were asked for, with the keys that lead to them."""
    points: int
    """The number of buckets."""
    start: float | None = None
    """The begin of the range in Unix seconds; `None` for all that is stored."""
    end: float | None = None
    """The end of the range in Unix seconds; `None` for now."""


@attrs.frozen
class StoredSeries:
    """The values of several places over the same range. Times are Unix seconds."""

    start: float
    end: float
    points: Mapping[str, Sequence[Point]]
    """The buckets with values of each place."""
    gaps: Sequence[Gap]
    read_from: float | None
    """The time of the oldest notification that was read, `None` if none was. Of the time before nothing is known."""
    is_complete: bool
    """Whether all stored notifications of the range were read."""


class SeriesReader:
    """Reads the values that devices have reported.

    Args:
        now: returns the Unix time in seconds.
        monotonic: returns seconds of a clock that is never set.
    """

    def __init__(
        self,
        logs: LogStore,
        reader: NotificationReader,
        presence: Presence,
        *,
        now: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._logs = logs
        self._reader = reader
        self._presence = presence
        self._now = now
        self._monotonic = monotonic

    async def read(self, key: DeviceKey, query: SeriesRequest, pause: Pause = never_pause) -> StoredSeries:
        """Return what a device has reported.

        Args:
            pause: awaited after each notification: one may have 128 KB.

        Raises:
            InvalidInput: the range is empty, or too short for so many points.
        """
        end = self._now() if query.end is None else query.end
        start = await self._oldest(key.account, end) if query.start is None else query.start
        series = {place: Series(start, end, query.points) for place in query.places}
        found = _Pass(key.id, query.places, series, start)
        is_online = await self._is_online(key)
        is_complete = await self._read_into(found, key.account, pause)
        known = start if found.oldest is None else max(start, found.oldest)
        return StoredSeries(
            start,
            end,
            {place: each.points() for place, each in series.items()},
            gaps(reversed(found.events), known, end, is_online=is_online) if known < end else [],
            found.oldest,
            is_complete,
        )

    async def _is_online(self, key: DeviceKey) -> bool:
        try:
            return (await self._presence.get(key)).online
        except Damaged:
            return True  # no gap is claimed

    async def _oldest(self, account: str, end: float) -> float:
        entries = await self._logs.read(log_name(account), 0, 1)
        oldest = entries[0].time if entries else end
        return oldest if oldest < end else end - DEFAULT_RANGE

    async def _read_into(self, found: _Pass, account: str, pause: Pause) -> bool:
        """Read until the begin of the range. Returns `False` if a bound has ended the pass before."""
        log, late = log_name(account), self._monotonic() + MAX_PASS_TIME
        number = 0
        async with aclosing(newest_first(self._logs, log, 0, await self._logs.end(log))) as pieces:
            async for entries in pieces:
                if number >= MAX_PASS_ENTRIES or self._monotonic() >= late:
                    return False
                number += len(entries)
                for entry in reversed(entries):
                    head = self._reader.head(account, entry)
                    if head is not None:
                        found.add(entry, head)
                    await pause()
                if found.old_run >= MAX_OLD_RUN:
                    break
        return True


@attrs.define
class _Pass:
    """What a pass has found until now."""

    device: str
    places: Mapping[str, Sequence[str]]
    series: Mapping[str, Series]
    start: float
    events: list[PresenceEvent] = attrs.Factory(list)
    oldest: float | None = None
    old_run: int = 0
    """Notifications before the range, since the last one in it."""

    def add(self, entry: LogEntry, head: notifications.Head) -> None:
        """Add a notification that is older than those before."""
        self.oldest = entry.time if self.oldest is None else min(self.oldest, entry.time)
        self.old_run = self.old_run + 1 if entry.time < self.start else 0
        if head.id != self.device:
            return
        if head.name in _PRESENCE:
            self.events.append(PresenceEvent(entry.time, head.name))
        elif head.name == notifications.UPDATED and entry.time >= self.start:
            self._add_values(entry)

    def _add_values(self, entry: LogEntry) -> None:
        try:
            shadow = _read_updated(entry.body).data.shadow
            if shadow is None or not bytes(shadow.state.reported):
                return
            reported = _json.decode(bytes(shadow.state.reported))
        except (InvalidInput, *_json.DECODE_ERRORS):
            return  # such as `null`, which clears the section
        for place, path in self.places.items():
            value = number_at(reported, path)
            if value is not None:
                self.series[place].add(entry.time, value)
