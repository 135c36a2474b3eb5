"""The summary of one account: a row in memory for each of its devices.

The account's notifications keep it right, those of all nodes: each says which part of which row has changed. Presence
is taken from the notification. Other parts are read again before the next look, so that a device that changes often
costs one read, and a report that is not about firmware costs nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, aclosing
from typing import Any, Final

import msgspec

from mdashcore import notifications
from mdashcore._errors import Damaged, TooLarge
from mdashcore.hub.feed_item import FeedItem
from mdashcore.hub.fleet.kept_orders import KeptOrders
from mdashcore.hub.fleet.presence_history import PresenceHistory
from mdashcore.hub.fleet.rows import PARTS, DeviceRow, ReportedBuild, build_size, row_size
from mdashcore.hub.pausing import Pause
from mdashcore.hub.records.store import Records, scoped

__all__ = ["AccountSummary", "too_many"]

MAX_ROWS: Final = 200_000  # of all summaries in a process: twice the default limit of devices

MAX_SUMMARY_BYTES: Final = 256 * 2**20  # of all summaries in a process: `MAX_ROWS` with a name and four tags each

MAX_REREAD: Final = 500  # records that are read again one by one: beyond, one scan costs less

MAX_LOADS: Final = 3  # readings of a summary, if notifications are missed meanwhile: the first is a short one

UNFOLLOWED_TIME: Final = 15.0  # seconds after which a summary is read anew whose notifications of other nodes are not
# received, because the node reads as many topics as it may: a page reads its list as often

MAX_FLAPPING: Final = 256  # devices whose presence is read again at each look, because not each change is notified

MAX_EXCESS: Final = 2  # times its bounds that a summary may be while changes are read: they may remove as much again

FLAPPING_TIME: Final = 3600.0  # seconds without a notification of several changes, after which a device is calm


class _Event(msgspec.Struct, gc=False):
    """The members of a notification that a summary needs."""

    name: str
    id: str
    time: float
    data: msgspec.Raw = msgspec.Raw()


_read_event: Callable[[bytes], _Event] = msgspec.json.Decoder(_Event).decode

_RPC: Final = b'{"name":"rpc.'
_UPDATED: Final = b'{"name":"updated",'
_SHADOW: Final = b'"data":{"shadow":'
_SHADOW_BEFORE: Final = 256  # bytes of a frame by which its data begin: an id has 128
_OTA: Final = b'"ota"'
_CLEARED: Final = (b'"reported":null', b'"state":null')  # removes the build too
_CHANGES: Final = b'{"changes":'

_SIZED_PARTS: Final = ("device", "update")


class AccountSummary:
    """The devices of one account."""

    def __init__(
        self,
        account: str,
        records: Mapping[str, Records[Any]],
        followed: AbstractContextManager[Callable[[], bool]],
        loaded: float,
    ) -> None:
        self.account = account
        self._followed = followed
        self._is_followed = followed.__enter__()
        self._loaded = loaded
        self.rows: dict[str, DeviceRow] = {}
        self.orders: KeptOrders = KeptOrders()
        self.used: float = 0.0
        """When it was last asked for, by the monotonic clock."""
        self.size: int = 0
        """About how many bytes its rows and builds take."""
        self.lost: bool = False
        """Whether notifications may have been missed: then it is read anew."""
        self._prefix = scoped(account, "")
        self._records = records
        self.history: PresenceHistory | None = None
        """The changes of presence in the last day, once they were needed."""
        self._stale: dict[str, set[str]] = {name: set() for name in PARTS}
        self._builds: dict[ReportedBuild, ReportedBuild] = {}
        self._flapping: OrderedDict[str, float] = OrderedDict()
        self._reads_presence = True
        """Whether presence is being read: then what was read may be older than a notification."""
        self._excess = 1
        """How many times its bounds the summary may be at present."""

    @property
    def waiting(self) -> int:
        """The number of records that are read before the next look."""
        return sum(map(len, self._stale.values()))

    def is_stale(self, now: float) -> bool:
        """Return whether it has to be read anew.

        Args:
            now: seconds of the monotonic clock.
        """
        return self.lost or (now - self._loaded >= UNFOLLOWED_TIME and not self._is_followed())

    def receive(self, item: FeedItem) -> None:
        """Note what a notification of the account has changed. A notification may come twice. Never waits."""
        frame = item.frame
        if frame.startswith(_UPDATED) and frame.find(_SHADOW, 0, _SHADOW_BEFORE) >= 0:
            if _OTA in frame or any(each in frame for each in _CLEARED):
                self.mark("shadow", notifications.head(frame).id)
            return
        if frame.startswith(_RPC):
            return
        event = _read_event(frame)
        if self.history is not None:
            self.history.receive(item)
        if event.name in (notifications.ONLINE, notifications.OFFLINE):
            self._receive_presence(event, item.offset)
        elif event.name in (notifications.CREATED, notifications.DELETED):
            self._mark_whole(event.id)
        elif event.name == notifications.UPDATED:
            self.mark("device", event.id)
        elif event.name.startswith("ota."):
            self.mark("update", event.id)

    def mark(self, part: str, id: str) -> None:
        """Read a part of a device before the next look, or all of it if its registration was never announced."""
        if id in self.rows:
            self._stale[part].add(id)
        else:
            self._mark_whole(id)

    def _mark_whole(self, id: str) -> None:
        for stale in self._stale.values():
            stale.add(id)

    def _receive_presence(self, event: _Event, offset: int) -> None:
        if bytes(event.data).startswith(_CHANGES):
            self._flapping[event.id] = event.time
            self._flapping.move_to_end(event.id)
            if len(self._flapping) > MAX_FLAPPING:
                self._flapping.popitem(last=False)
        row = self.rows.get(event.id)
        if row is None or self._reads_presence:
            self.mark("presence", event.id)
        if row is None or offset <= row.presence_offset:
            return
        row.presence_offset = offset
        row.online = event.name == notifications.ONLINE
        row.since = row.last_seen = event.time
        self.orders.on_changed("presence", event.id)

    async def load(self, pause: Pause) -> None:
        """Read all rows. Notifications of this process have to be received from before this call on.

        Those of other nodes come a moment later. Reading begins anew then, and also if notifications are missed
        meanwhile: but not for ever. The last reading goes to its end, and the summary stays `lost`.

        Raises:
            TooLarge: the account has more devices than a summary may have.
        """
        for reading in range(MAX_LOADS):
            self.lost = False
            self._reads_presence = True
            for part in PARTS:
                await self._scan(part, pause, is_last=reading == MAX_LOADS - 1)
            if not self.lost:
                break
        self._reads_presence = False
        await self.refresh(0.0, pause)

    def close(self) -> None:
        """Stop receiving notifications of other nodes."""
        self._followed.__exit__(None, None, None)

    async def refresh(self, now: float, pause: Pause) -> None:
        """Read what has changed.

        Args:
            now: Unix seconds.
        """
        for id, time in tuple(self._flapping.items()):
            if now - time > FLAPPING_TIME:
                del self._flapping[id]
        self._stale["presence"].update(self._flapping)
        # All parts together: those of a device that is created meanwhile are read together with its row, the next time.
        stale, self._stale = self._stale, {name: set() for name in PARTS}
        self._excess = MAX_EXCESS
        try:
            for part in PARTS:
                self._reads_presence = part == "presence"
                if len(stale[part]) > MAX_REREAD:
                    await self._scan(part, pause)
                else:
                    for id in stale[part]:
                        await self._reread(part, id)
                        await pause()
        except BaseException:
            for part, ids in stale.items():
                self._stale[part] |= ids
            raise
        finally:
            self._reads_presence = False
            self._excess = 1
        self._check_bounds()  # once the removed devices are gone too

    async def _scan(self, part: str, pause: Pause, *, is_last: bool = True) -> None:
        """Read a part of all rows. Stops early if the summary is lost, unless this is the last reading."""
        gone = set(self.rows)
        records = self._records[part]
        async with aclosing(records.documents(self._prefix)) as documents:
            async for document in documents:
                id = document.key.removeprefix(self._prefix)
                gone.discard(id)
                try:
                    self._put(part, id, records.read(document))
                except Damaged:
                    self._put(part, id, None, damaged=True)
                await pause()
                if self.lost and not is_last:
                    return  # all is read anew
        for id in gone:
            self._put(part, id, None, missing=True)

    async def _reread(self, part: str, id: str) -> None:
        """Read a part of a row."""
        try:
            record = await self._records[part].get(self._prefix + id)
        except Damaged:
            self._put(part, id, None, damaged=True)
        else:
            self._put(part, id, None if record is None else record.value, missing=record is None)

    def _put(self, part: str, id: str, value: Any, *, missing: bool = False, damaged: bool = False) -> None:
        row = self.rows.get(id)
        if part == "device":
            if missing:
                if row is not None:
                    del self.rows[id]
                    self.orders.on_come_or_gone(id)
                    self.size -= row.size
                return
            if row is None:
                row = self.rows[id] = DeviceRow(id, id)
                self.orders.on_come_or_gone(id)
                self.size += row.size
        if row is None:
            return  # what is left of a device that was removed
        if isinstance(value, ReportedBuild):
            value = self._shared(value)
        PARTS[part].set(row, value)
        self.orders.on_changed(part, id)
        row.mark(part, damaged=damaged)
        if part in _SIZED_PARTS:
            self.size -= row.size
            row.size = row_size(row)
            self.size += row.size
        self._check_bounds()

    def _check_bounds(self) -> None:
        """Raise `TooLarge` if the summary has more rows or bytes than it may have at present."""
        if len(self.rows) > self._excess * MAX_ROWS:
            raise TooLarge(f"the account has more than {MAX_ROWS} devices: they can be listed by id alone")
        if self.size > self._excess * MAX_SUMMARY_BYTES:
            raise TooLarge(
                f"the names, tags and builds of the account's devices are more than {MAX_SUMMARY_BYTES >> 20} MiB: "
                "they can be listed by id alone"
            )

    def _shared(self, build: ReportedBuild) -> ReportedBuild:
        """Return the one of equal builds that all rows have."""
        found = self._builds.get(build)
        if found is None:
            if len(self._builds) > 2 * len(self.rows):  # half of them are of no row any more
                self.size -= sum(map(build_size, self._builds))
                self._builds = {row.build: row.build for row in self.rows.values()}
                self.size += sum(map(build_size, self._builds))
            found = self._builds[build] = build
            self.size += build_size(build)
        return found


def too_many(rows: int, size: int) -> bool:
    """Return whether the summaries of a process, with so many rows and bytes, are more than it may have."""
    return rows > MAX_ROWS or size > MAX_SUMMARY_BYTES
