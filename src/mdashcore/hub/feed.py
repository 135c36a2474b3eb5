"""Notifications: appended to the account's log, then published to all subscribers.

The log comes first, so that a subscriber can always read there what it has missed on the bus. Each account has two
topics: one for all its notifications, and one for its events alone, for readers that a flood of reports must not cost
anything. A message is ``OFFSET SP FRAME``, encoded once for all subscribers of all nodes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from math import inf
from typing import Final, TypeAlias

from mdashcore import _json, notifications
from mdashcore.hub.delivery_order import DeliveryOrder
from mdashcore.hub.event_log import EventLog, event_log_name
from mdashcore.hub.feed_item import EventItem, FeedItem
from mdashcore.hub.notification_reader import LogQuery, NotificationReader, log_name
from mdashcore.hub.pausing import Pause, never_pause
from mdashcore.hub.records.logs import too_old
from mdashcore.notifications import Notification
from mdashcore.storage import LogStore, MessageBus

__all__ = ["Feed", "FeedItem", "LogQuery", "events_topic", "feed_topic", "log_names"]

KEEP_NOTIFICATIONS: Final = 100_000  # entries of an account's log: at 200 bytes each, 20 MB

KEEP_BYTES: Final = 2**26  # bytes of an account's log: a device that floods with its largest frames fills no memory

SIZE_MARKS: Final = 64  # pieces in which those bytes are counted: a log is never more than 2 % too large

APPENDS_PER_TRIM: Final = 1_000  # appends between two trims: a log is never more than 1 % too long

KEEP_SECONDS: Final = 30 * 86_400.0  # seconds for which notifications are kept by default: a month to look back

AppendEvent: TypeAlias = Callable[[str, float, bytes], Awaitable[int]]
"""Appends an entry to a log, with a time in Unix seconds. Returns its offset."""


class Feed:
    """The notification streams of every account.

    Args:
        now: returns the Unix time in seconds.
        keep: notifications that are kept per account.
        keep_bytes: bytes of notifications that are kept per account, as far as this process has stored them.
        keep_seconds: maximum age of a notification; `math.inf` for any age. `Retention` removes older ones.
        on_emit: called with the account and each notification that this process has stored, in the order of their
            offsets. Must not raise.
    """

    def __init__(
        self,
        logs: LogStore,
        bus: MessageBus,
        *,
        now: Callable[[], float],
        keep: int = KEEP_NOTIFICATIONS,
        keep_bytes: int = KEEP_BYTES,
        keep_seconds: float = KEEP_SECONDS,
        on_emit: Callable[[str, FeedItem], None] = lambda account, item: None,
    ) -> None:
        self._logs = logs
        self._bus = bus
        self._now = now
        self._keep = keep
        self._keep_bytes = keep_bytes
        self.keep_seconds = keep_seconds
        self._on_emit = on_emit
        self._gauges: dict[str, _Gauge] = {}
        self._orders: dict[str, DeliveryOrder] = {}
        self.events: EventLog = EventLog(logs)
        self.reader: NotificationReader = NotificationReader(logs, self.events)

    async def emit(
        self, account: str, name: str, device: str, data: bytes | None = None, *, append: AppendEvent | None = None
    ) -> int:
        """Store a notification and send it to the account's subscribers. Returns its offset.

        Args:
            data: raw JSON.
            append: stores the entry together with the data that it reports, which are not checked then. By default,
                the entry is appended alone.

        Raises:
            InvalidInput: the data are no JSON.
        """
        if data is not None and append is None:
            _json.check(data)
        now = self._now()
        stored = Notification(name, device, data).encode()
        order = self._orders.get(account)
        if order is None:
            order = self._orders[account] = DeliveryOrder()
        ticket = order.begin()
        try:
            offset = await (append or self.append)(log_name(account), now, stored)
        except BaseException:
            self._deliver(account, order.end(ticket))
            raise
        frame = notifications.frame(stored, offset, now)
        item = EventItem(offset, frame, now) if notifications.is_event(name, data) else FeedItem(offset, frame)
        self._deliver(account, order.end(ticket, item))
        message = b"%d %b" % (offset, frame)
        await self._bus.publish(feed_topic(account), message)
        if type(item) is EventItem:
            await self._bus.publish(events_topic(account), message)
        if self.events.has_waiting(account):
            await self.events.append(account, log_name(account))
        gauge = self._gauges.get(account)
        if gauge is None:
            gauge = self._gauges[account] = _Gauge(self._keep_bytes)
        first = gauge.add(offset, len(stored))
        if offset % APPENDS_PER_TRIM == APPENDS_PER_TRIM - 1:
            first = max(first, offset + 1 - self._keep)
        if first > 0:
            await self._logs.trim(log_name(account), 0, before=first)
        return offset

    def _deliver(self, account: str, ready: Sequence[FeedItem]) -> None:
        """Give the observers the items that are ready, and the event log those that it keeps."""
        for item in ready:
            self._on_emit(account, item)
            if type(item) is EventItem:
                self.events.add(account, item)

    async def append_events(self) -> None:
        """Append the events that are not in the event logs yet.

        A notification that failed or was canceled may have left them: its own, or later ones that have waited for it.
        """
        for account in self.events.left():
            await self.events.append(account, log_name(account))

    async def append(self, log: str, time: float, entry: bytes) -> int:
        """Append an entry to a log. Returns its offset."""
        return await self._logs.append(log, time, (entry,))

    async def too_old(self, account: str, now: float) -> AsyncGenerator[int, None]:
        """Yield growing offsets before which every notification is too old at `now` (Unix seconds)."""
        if self.keep_seconds < inf:
            async with aclosing(too_old(self._logs, log_name(account), now - self.keep_seconds)) as steps:
                async for offset in steps:
                    yield offset

    async def events_too_old(self, account: str, now: float) -> AsyncGenerator[int, None]:
        """Yield the same for the account's events, by their places in the event log."""
        if self.keep_seconds < inf:
            async with aclosing(self.events.too_old(account, now - self.keep_seconds)) as steps:
                async for place in steps:
                    yield place

    async def remove_before(self, account: str, offset: int) -> None:
        """Remove the notifications with a smaller offset."""
        await self._logs.trim(log_name(account), 0, before=offset)

    async def forget(self, account: str) -> None:
        """Remove the notifications of a removed account. Offsets continue for a later account of that name."""
        self._gauges.pop(account, None)
        self._orders.pop(account, None)
        await self._logs.trim(log_name(account), 0)
        await self.events.forget(account)

    @staticmethod
    def parse(message: bytes) -> FeedItem:
        """Return the item of a message on the bus. Raises `ValueError` for a message of another form."""
        offset, frame = message.split(b" ", 1)
        return FeedItem(int(offset), frame)

    async def end(self, account: str) -> int:
        """Return the offset that the account's next notification will get."""
        return await self._logs.end(log_name(account))

    async def page(self, account: str, start: int) -> list[FeedItem]:
        """Return the next stored notifications from an offset on, about 64 KiB of them; none at the end."""
        return await self.reader.page(account, start)

    async def query(self, account: str, query: LogQuery) -> list[bytes]:
        """Return the frames that a query selects, oldest first."""
        return [frame async for frame in self.select(account, query)]

    def select(self, account: str, query: LogQuery, pause: Pause = never_pause) -> AsyncGenerator[bytes, None]:
        """Yield the frames that a query selects, oldest first, without holding all of them.

        Args:
            pause: awaited between two reads of the log, so that others may have their turn.
        """
        return self.reader.select(account, query, pause)


class _Gauge:
    """A gauge of a log's size: it keeps one offset for each piece of the log that was filled."""

    __slots__ = ("_marks", "_piece", "_size")

    def __init__(self, limit: int) -> None:
        self._piece = max(1, limit // SIZE_MARKS)
        self._size = 0
        self._marks: deque[int] = deque()

    def add(self, offset: int, size: int) -> int:
        """Count an entry. Returns the first offset to keep, 0 if the log is not too large."""
        self._size += size
        if self._size < self._piece:
            return 0
        self._size = 0
        self._marks.append(offset)
        return self._marks.popleft() + 1 if len(self._marks) > SIZE_MARKS else 0


def feed_topic(account: str) -> str:
    """Return the topic of all notifications of an account."""
    return f"feed.{account}"


def events_topic(account: str) -> str:
    """Return the topic of the account's events: those notifications of which `notifications.is_event` is true."""
    return f"events.{account}"


def log_names(account: str) -> tuple[str, str]:
    """Return the names of the logs that are kept of an account."""
    return log_name(account), event_log_name(account)
