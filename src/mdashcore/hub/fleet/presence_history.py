"""How many devices were online over a day, and which of them came and went, by the events of an account.

The events of the last day are read once, and kept with the account's summary. Later ones are added when they are
notified.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from mdashcore import _json, notifications
from mdashcore.hub.event_log import EventLog
from mdashcore.hub.feed import FeedItem
from mdashcore.hub.pausing import Pause

__all__ = ["HISTORY_TIME", "MAX_HISTORY", "STEPS", "PresenceChange", "PresenceHistory"]

HISTORY_TIME: Final = 86_400.0  # seconds

STEPS: Final = 96  # points of a day: a quarter of an hour each

MAX_HISTORY: Final = 20_000  # changes kept of an account, at 200 bytes: as many events as its log keeps


class _EventData(msgspec.Struct, gc=False):
    changes: int = 1
    online: bool = False
    """Of a removed device: whether it was online until then."""


class _PresenceEvent(msgspec.Struct, gc=False):
    name: str
    id: str
    offset: int
    time: float
    data: msgspec.Raw = msgspec.Raw()


_read_event: Callable[[bytes], _PresenceEvent] = msgspec.json.Decoder(_PresenceEvent).decode

_read_data: Callable[[bytes], _EventData] = msgspec.json.Decoder(_EventData).decode

_STATES: Final[Mapping[str, bool]] = {
    notifications.ONLINE: True,
    notifications.OFFLINE: False,
    notifications.CREATED: False,
    notifications.DELETED: False,
}
"""The events that tell something of a device's presence, and whether it is online after them."""


class PresenceChange(msgspec.Struct, frozen=True, gc=False):
    """A change of a device between online and offline, or several that were notified together."""

    time: float
    id: str
    is_online: bool
    """The state after it."""
    changes: int
    """0 for a device that was created, or removed while it was offline."""


def _changes(event: _PresenceEvent) -> int:
    """Return how often a device has changed between online and offline in an event."""
    if event.name == notifications.CREATED:
        return 0
    data = _read_data(event.data) if bytes(event.data) else _EventData()
    return int(data.online) if event.name == notifications.DELETED else data.changes


class PresenceHistory:
    """The changes of presence of an account's devices in the last day."""

    def __init__(self) -> None:
        self._changes: deque[PresenceChange] = deque(maxlen=MAX_HISTORY)
        self._next = 0
        self._waiting: list[bytes] | None = []
        """The notifications that came while the log was being read."""

    def __len__(self) -> int:
        return len(self._changes)

    async def load(self, events: EventLog, account: str, now: float, pause: Pause) -> None:
        """Read the last day. Notifications have to be received from before this call on."""
        async for frame in events.recent(account, MAX_HISTORY):
            self._add(frame)
            await pause()
        waiting, self._waiting = self._waiting or [], None
        for frame in waiting:
            self._add(frame)
        self.forget_before(now - HISTORY_TIME)

    def receive(self, item: FeedItem) -> None:
        """Add a notification about presence."""
        if self._waiting is None:
            self._add(item.frame)
        elif len(self._waiting) < MAX_HISTORY:
            self._waiting.append(item.frame)

    def forget_before(self, time: float) -> None:
        """Forget older changes."""
        while self._changes and self._changes[0].time < time:
            self._changes.popleft()

    def _add(self, frame: bytes) -> None:
        try:
            event = _read_event(frame)
            if event.name not in _STATES or event.offset < self._next:
                return
            changes = _changes(event)
        except _json.DECODE_ERRORS:
            return  # damaged
        self._next = event.offset + 1
        self._changes.append(PresenceChange(event.time, event.id, _STATES[event.name], changes))

    def online(self, now: float, online: Mapping[str, bool]) -> list[int]:
        """Return the number of devices that were online at the end of each of the last `STEPS` steps, the oldest first.

        It is counted back from now. Of changes that were notified together only their number is known.

        Args:
            online: whether each present device is online now.
        """
        states = dict(online)
        number = sum(states.values())
        points: list[int] = []
        changes = reversed(self._changes)
        change = next(changes, None)
        for step in range(STEPS):
            end = now - step * HISTORY_TIME / STEPS
            while change is not None and change.time > end:
                before = change.is_online if change.changes % 2 == 0 else not change.is_online
                number += before - states.get(change.id, False)
                states[change.id] = before
                change = next(changes, None)
            points.append(max(0, number))
        return points[::-1]

    def changes(self) -> Counter[str]:
        """Return how often each device has changed, by id."""
        counts: Counter[str] = Counter()
        for change in self._changes:
            counts[change.id] += change.changes
        return counts
