"""Shadows: every device's, changed by compare-and-set, by one version at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from math import inf
from typing import Any, Final, TypeAlias

from mdashcore import notifications
from mdashcore._errors import Busy, Damaged, InvalidInput, PreconditionFailed, ShadowConflict, TooLarge, VersionConflict
from mdashcore.hub.feed import Feed
from mdashcore.hub.records.contention import Contention, KeyedLocks
from mdashcore.hub.records.schema import SHADOWS
from mdashcore.hub.records.store import Record, Records
from mdashcore.identity import DeviceKey
from mdashcore.shadow import DEFAULT_LIMITS, Change, Shadow, ShadowLimits
from mdashcore.storage import DocumentStore, PutAndAppend

__all__ = ["Shadows"]

MAX_CACHED: Final = 4096  # shadows kept decoded: the active part of a fleet

MAX_CACHED_BYTES: Final = (
    2**23
)  # of those, as JSON; decoded they take about ten times as much memory, with the JSON beside


MAX_WAITING_WRITERS: Final = 1000  # updates that wait for one shadow and may be refused: at 10 ms each, 10 s

Protect: TypeAlias = Callable[[Callable[[], Awaitable[Change]]], Awaitable[Change]]
"""Awaits a function, and protects it from cancellation."""

Condition: TypeAlias = Callable[[Shadow], bool]
"""Whether an update is meant for a shadow as it is."""


class Shadows:
    """The shadows of every device.

    The updates of one shadow are done one after the other, in the order in which they came. An update works on the last
    shadow seen, and reads again only if the compare-and-set finds a newer one. With one node that never happens.

    Args:
        now: returns the Unix time in seconds.
        on_change: called with (device, change) after an update was stored.
        contention: how writers of the same shadow wait for each other.
        put_and_append: writes a shadow and its notification in one step, if the backend can.
    """

    def __init__(
        self,
        documents: DocumentStore,
        feed: Feed,
        *,
        now: Callable[[], float],
        on_change: Callable[[DeviceKey, Change], None],
        limits: ShadowLimits = DEFAULT_LIMITS,
        contention: Contention = Contention(),
        put_and_append: PutAndAppend | None = None,
    ) -> None:
        self.records: Records[Shadow] = Records(documents, SHADOWS, contention=contention)
        self._turns = KeyedLocks(contention)
        self._feed = feed
        self._put_and_append = put_and_append
        self._now = now
        self._on_change = on_change
        self.limits = limits
        self._cache: OrderedDict[DeviceKey, Record[Shadow]] = OrderedDict()
        self._cached_bytes = 0

    @property
    def waiting_writers(self) -> int:
        """The number of updates in this process that wait for another update of the same shadow."""
        return self._turns.all_waiting

    async def get(self, key: DeviceKey) -> Shadow:
        """Return the device's shadow, a new one if none was ever stored."""
        return (await self._read(key)).value

    async def update(
        self,
        key: DeviceKey,
        document: Any,
        *,
        condition: Condition | None = None,
        patience: float = inf,
        protect: Protect | None = None,
    ) -> Change:
        """Apply an update, store it, and notify subscribers and the observer.

        Never fails because of other writers of the same shadow: the update waits for its turn. This waiting may be
        cancelled. The rest must not be, because a stored update would then have no notification. The hub knows no event
        loop, so the caller protects it.

        Args:
            condition: whether the update is meant for the shadow that it meets.
            patience: seconds to wait for the turn. At most `MAX_WAITING_WRITERS` wait with a finite one.
            protect: runs the part that must not be cancelled, when the turn has come; without it, the caller has to
                protect this call.

        Raises:
            InvalidShadowUpdate, ShadowConflict, TooLarge: as `Shadow.update`; nothing was changed.
            PreconditionFailed: `condition` does not hold; nothing was changed.
            Busy: the turn did not come in time; nothing was changed.
        """
        turns = self._turns
        if not turns.acquire_nowait(key):
            is_full = patience != inf and turns.waiting(key) >= MAX_WAITING_WRITERS
            if is_full or not await turns.acquire(key, patience):
                raise Busy(f"the shadow of {key.id!r} is being changed by too many at the same time")
        try:
            if protect is None:
                return await self._update(key, document, condition)
            return await protect(lambda: self._update(key, document, condition))
        finally:
            turns.release(key)

    async def _update(self, key: DeviceKey, document: Any, condition: Condition | None) -> Change:
        record = self._cache.get(key)
        cached = record is not None
        race = None
        while True:
            record = record or await self._read(key)
            try:
                if condition is not None and not condition(record.value):
                    raise PreconditionFailed(f"the shadow of {key.id!r} is at version {record.value.version}")
                shadow, change = record.value.update(document, now=self._now(), limits=self.limits)
            except (InvalidInput, PreconditionFailed, ShadowConflict, TooLarge):
                if not cached:
                    raise
                record, cached = None, False  # the cached shadow may be old: read it again before refusing
                continue
            write = partial(self._write, key, record, shadow, change)
            form = b'{"shadow":{"state":%b,"version":%d,"timestamp":%d}}'
            data = form % (change.state_json, change.version, change.timestamp)
            try:
                await self._feed.emit(key.account, notifications.UPDATED, key.id, data, append=write)
                return change
            except VersionConflict:
                record, cached = None, False
                race = race or self.records.race(str(key))
                await race.lost()

    async def _write(
        self,
        key: DeviceKey,
        before: Record[Shadow],
        shadow: Shadow,
        change: Change,
        log: str,
        time: float,
        entry: bytes,
    ) -> int:
        """Store a shadow and its notification. Returns the notification's offset.

        Stores both or neither if the store can write them in one step. Otherwise the shadow is stored first, so a
        failure in between leaves the shadow without a notification.
        """
        offset = None
        if self._put_and_append is not None:
            version, offset = await self._put_and_append(
                SHADOWS.name,
                str(key),
                self.records.encode(shadow),
                expected=before.version,
                log=log,
                time=time,
                entry=entry,
            )
        else:
            version = await self.records.put(str(key), shadow, expected=before.version)
        self._remember(key, Record(shadow, version))
        if offset is None:
            offset = await self._feed.append(log, time, entry)
        self._on_change(key, change)
        return offset

    def announce(self, key: DeviceKey, shadow: Shadow) -> None:
        """Notify the observer of a shadow that is stored, after an update of which it may not have been notified.

        The answer of the store may have been lost, or the process may have been killed. A device that was sent the
        delta of that version already is not sent it again.
        """
        self._on_change(key, Change(shadow=shadow, state={}, state_json=b"{}"))

    async def forget(self, key: DeviceKey) -> None:
        """Remove the shadow of a removed device, except its version: a device created anew continues with it."""
        try:
            await self.records.change(str(key), lambda found: None if found is None else Shadow(version=found.version))
        except Damaged:
            await self.records.delete(str(key))  # its version is not known
        self._drop(key)

    async def _read(self, key: DeviceKey) -> Record[Shadow]:
        return await self.records.get(str(key)) or Record(Shadow(), 0)

    def _remember(self, key: DeviceKey, record: Record[Shadow]) -> None:
        previous = self._drop(key)
        newest = record if previous is None or record.version >= previous.version else previous
        self._cache[key] = newest
        self._cached_bytes += newest.value.size
        while len(self._cache) > MAX_CACHED or self._cached_bytes > MAX_CACHED_BYTES:
            self._drop(next(iter(self._cache)))

    def _drop(self, key: DeviceKey) -> Record[Shadow] | None:
        record = self._cache.pop(key, None)
        if record is not None:
            self._cached_bytes -= record.value.size
        return record
