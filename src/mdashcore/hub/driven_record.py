"""A record of work that this process drives: read, stored by compare-and-set, and announced to subscribers.

Subscribers are notified at least once of what is decided. Each decision is stored together with the notifications that
it needs, in `Driven.unannounced`; then they are sent; then the record is stored without them. If the process dies in
between, the record is not finished, even if it has ended: the next process that drives it sends them, perhaps again.
"""

from __future__ import annotations

from math import inf
from typing import Any, Final, Generic, Protocol, TypeVar, cast

import attrs

from mdashcore._errors import VersionConflict
from mdashcore.hub.clock import Clock
from mdashcore.hub.leases import Driven, Leases
from mdashcore.hub.records.store import Record, Records, scoped

__all__ = ["DrivenRecord", "DrivingService"]

PROGRESS_INTERVAL: Final = 1.0  # seconds between two notifications of progress, each of which is stored

D = TypeVar("D", bound=Driven)


class DrivingService(Protocol[D]):
    """The service whose records are driven: jobs or rollouts."""

    records: Records[D]
    clock: Clock

    async def notify(self, account: str, name: str, changed: D) -> None:
        """Notify subscribers of a state, or of another change with a name."""

    async def notify_progress(self, account: str, changed: D) -> None:
        """Notify subscribers of the progress of a record."""


class DrivenRecord(Generic[D]):
    """A record of an account, as this process has read or stored it last."""

    def __init__(
        self, service: DrivingService[D], account: str, record: Record[D], leases: Leases | None = None
    ) -> None:
        self._service = service
        self._account = account
        self._leases = leases
        self._key = scoped(account, record.value.id)
        self._version = record.version
        self._sent = 0
        """How many of `unannounced` this process has sent: they are not sent again because the store is away."""
        self._progress_at = -inf
        """When progress was notified last, by the monotonic clock."""
        self.value: D = record.value
        self.gone: bool = False
        """Whether it was removed, or another node drives it."""

    async def reload(self) -> None:
        """Read the record again, after another writer has changed or removed it."""
        record = await self._service.records.get(self._key)
        if record is None:
            self.gone = True
        else:
            self._adopt(record.value, record.version)

    async def store(self, changed: D, *notifications: str) -> bool:
        """Store a decision, and send its notifications. Returns `False` after loading another writer's instead.

        Args:
            notifications: the names of the notifications, without the kind of the record.

        Raises:
            StorageError: it may be stored or not; `announce` sends what is left to send.
        """
        if notifications:
            changed = _evolve(changed, unannounced=(*changed.unannounced, *notifications))
        try:
            version = await self._service.records.put(self._key, changed, expected=self._version)
        except VersionConflict:
            await self.reload()
            return False
        self._adopt(changed, version)
        await self.announce()
        return True

    async def announce(self) -> None:
        """Send the notifications that are stored as not sent. Raises `StorageError`; then call it again."""
        while self.value.unannounced and not self.gone:
            for name in self.value.unannounced[self._sent :]:
                await self._service.notify(self._account, name, self.value)
                self._sent += 1
            await self.store(_evolve(self.value, unannounced=()))

    def progress_due_in(self) -> float:
        """Return the seconds until progress may be notified again; 0 if it may be now."""
        return max(0.0, self._progress_at + PROGRESS_INTERVAL - self._service.clock.monotonic())

    async def notify_progress(self) -> None:
        """Notify subscribers of the progress that is stored."""
        await self._service.notify_progress(self._account, self.value)
        self._progress_at = self._service.clock.monotonic()

    def _adopt(self, value: D, version: int) -> None:
        self.value, self._version = value, version
        if not value.unannounced:
            self._sent = 0
        if self._leases is not None and value.driver != self._leases.node:
            self.gone = True


def _evolve(value: D, **changes: Any) -> D:
    changed: D = attrs.evolve(cast(Any, value), **changes)
    return changed
