"""The conduct of devices that send invalid frames, remembered for longer than their connections last.

Conduct is kept in memory, for a bounded number of devices, by the hash of their token: a new token is a new beginning.
All times are on Trio's clock.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from math import inf
from typing import Final, NamedTuple

import attrs

from mdashcore._errors import Busy

__all__ = ["Conduct", "RejectionEffect"]

MAX_CONDUCT_RECORDS: Final = 4096  # devices, at 1 KB each; beyond, the one with the oldest offence is forgotten

NOTIFY_INTERVAL: Final = 60.0  # seconds between two notifications of one kind: users see it, and no log is filled

MAX_REJECTED: Final = 64  # frames that cannot be read, in `REJECTED_TIME`: a device with a small defect makes fewer

REJECTED_TIME: Final = 60.0  # seconds: a failure that happens once in each is no accident

FIRST_PENALTY: Final = 10.0  # seconds in which a device that was closed for that is refused; doubled each time
MOST_PENALTY: Final = 600.0  # seconds: a repaired device is back within minutes

FORGIVEN_TIME: Final = 3600.0  # seconds after a penalty, after which the next one is the first again


class RejectionEffect(NamedTuple):
    """The consequences of a frame that was rejected."""

    notify: int
    """Number of frames of this kind since the last notification of them, 0 if it is too early for another one."""

    penalty: float
    """Seconds for which the device is refused after its connection was closed, 0 if the connection may stay."""


@attrs.define
class _Record:
    """The conduct of one device."""

    times: deque[float] = attrs.Factory(lambda: deque(maxlen=MAX_REJECTED))
    notified: dict[str, float] = attrs.Factory(dict)
    unnotified: dict[str, int] = attrs.Factory(dict)
    penalties: int = 0
    until: float = -inf


class Conduct:
    """The conduct of the devices of a node."""

    def __init__(self) -> None:
        self._records: OrderedDict[str, _Record] = OrderedDict()

    def check(self, token_hash: str, now: float) -> None:
        """Raise `Busy`, with the time to wait, for a device that is refused now."""
        record = self._records.get(token_hash)
        if record is not None and record.until > now:
            raise Busy("the device sent too much that cannot be read", retry_after=record.until - now)

    def reject(self, token_hash: str, kind: str, now: float) -> RejectionEffect:
        """Count a frame that was rejected. Returns the consequences."""
        record = self._record(token_hash)
        record.times.append(now)
        penalty = 0.0
        if len(record.times) == MAX_REJECTED and now - record.times[0] < REJECTED_TIME:
            record.times.clear()
            if now - record.until > FORGIVEN_TIME:
                record.penalties = 0
            penalty = min(FIRST_PENALTY * 2.0**record.penalties, MOST_PENALTY)
            record.penalties = min(record.penalties + 1, 32)
            record.until = now + penalty
        return RejectionEffect(self.count(token_hash, kind, now), penalty)

    def count(self, token_hash: str, kind: str, now: float) -> int:
        """Count an event. Returns the number since the last notification if another one is due, else 0."""
        record = self._record(token_hash)
        count = record.unnotified.pop(kind, 0) + 1
        if now - record.notified.get(kind, -inf) < NOTIFY_INTERVAL:
            record.unnotified[kind] = count
            return 0
        record.notified[kind] = now
        return count

    def _record(self, token_hash: str) -> _Record:
        record = self._records.get(token_hash)
        if record is None:
            record = self._records[token_hash] = _Record()
            if len(self._records) > MAX_CONDUCT_RECORDS:
                self._records.popitem(last=False)
        else:
            self._records.move_to_end(token_hash)
        return record
