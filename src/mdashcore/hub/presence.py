"""Presence: the node to which a device is connected, in one record per device, changed by compare-and-set.

Every connection claims a session number, one more than any before it. Only the session in the record may release it.
So the end of an old connection, however late it is noticed, never hides a newer one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from typing import Final, NamedTuple

from mdashcore._errors import Damaged
from mdashcore.hub.records.contention import Contention
from mdashcore.hub.records.schema import PRESENCE, PresenceRecord
from mdashcore.hub.records.store import Records, scoped
from mdashcore.identity import DeviceKey
from mdashcore.storage import DocumentStore

__all__ = ["OFFLINE_RECORD", "Presence", "PresenceClaim"]


class PresenceClaim(NamedTuple):
    """A connection that has begun."""

    session: int
    """Its number, the newest of the device."""
    previous: str | None
    """The node that held the device's connection before, or `None` if the device was offline."""


OFFLINE_RECORD: Final = PresenceRecord()


class Presence:
    """The presence records of every device.

    Args:
        now: returns the Unix time in seconds.
        contention: how writers of the same record wait for each other.
    """

    def __init__(
        self, documents: DocumentStore, *, now: Callable[[], float], contention: Contention = Contention()
    ) -> None:
        self.records: Records[PresenceRecord] = Records(documents, PRESENCE, contention=contention)
        self._now = now

    async def get(self, key: DeviceKey) -> PresenceRecord:
        """Return the device's record, `OFFLINE_RECORD` if it never connected. Raises `Damaged`."""
        record = await self.records.get(str(key))
        return OFFLINE_RECORD if record is None else record.value

    async def of(self, account: str, damaged: list[str] | None = None) -> dict[str, PresenceRecord]:
        """Return the records of an account's devices by device id. `damaged` receives the ids of unreadable records."""
        prefix = scoped(account, "")
        return {key.removeprefix(prefix): record async for key, record in self.records.scan(prefix, damaged)}

    async def claim(self, key: DeviceKey, node: str) -> PresenceClaim:
        """Store that a connection begins."""
        now = self._now()
        previous: str | None = None

        def change(found: PresenceRecord | None) -> PresenceRecord:
            nonlocal previous
            previous = found.node if found else None
            # A damaged record has no session number. The Unix time is more than any device has connections.
            return PresenceRecord(found.session + 1 if found else first, node, now, now)

        first = 1
        try:
            record = await self.records.change(str(key), change)
        except Damaged:
            first = int(now)
            record = await self.records.change(str(key), change, replace_damaged=True)
        assert record is not None  # noqa: S101 - for the type checker: `change` never returns None
        return PresenceClaim(record.session, previous)

    async def store_last_seen(self, key: DeviceKey, session: int, last_seen: float) -> None:
        """Store when a connected device was last heard of, unless the session is not the newest any more.

        A damaged record is left as it is: the next connection or its end replaces it.
        """

        def change(found: PresenceRecord | None) -> PresenceRecord | None:
            if found is None or found.session != session or not found.online or (found.last_seen or 0) >= last_seen:
                return None
            return PresenceRecord(session, found.node, found.since, last_seen)

        with suppress(Damaged):
            await self.records.change(str(key), change)

    async def release(self, key: DeviceKey, session: int, last_seen: float, *, again: bool = False) -> bool:
        """Store that a connection has ended. Returns `True` if it was the newest: then the device is offline now.

        A damaged record is replaced: the device is offline. Should another node hold a newer connection, that node
        finds the device offline when it checks it, and has it connect again.

        Args:
            again: whether an earlier try has failed. If that try did release the session, this returns `True` too.
        """
        now = self._now()
        is_done = False

        def change(found: PresenceRecord | None) -> PresenceRecord | None:
            nonlocal is_done
            if found is None or found.session != session or not found.online:
                is_done = again and found is not None and found.session == session
                return None
            return PresenceRecord(session, None, now, last_seen)

        def replace(found: PresenceRecord | None) -> PresenceRecord | None:
            # As in `claim`: there is no session number.
            return PresenceRecord(int(now), None, now, last_seen) if found is None else change(found)

        try:
            return await self.records.change(str(key), change) is not None or is_done
        except Damaged:
            return await self.records.change(str(key), replace, replace_damaged=True) is not None or is_done

    async def left_behind(
        self, alive: Callable[[], Awaitable[Collection[str]]]
    ) -> list[tuple[DeviceKey, PresenceRecord]]:
        """Return device and record of each session that a dead node has not released.

        Args:
            alive: returns the living nodes. Called after the records were read, because a node that has written a
                record was alive by then.
        """
        online = [(key, record) async for key, record in self.records.scan() if record.online]
        living = await alive() if online else ()
        return [(DeviceKey.parse(key), record) for key, record in online if record.node not in living]

    async def forget(self, key: DeviceKey) -> str | None:
        """Remove the presence of a removed device, except its session number, for a device created anew.

        Returns the node that held the device's connection, or `None` if the device was offline.
        """
        node: str | None = None

        def change(found: PresenceRecord | None) -> PresenceRecord | None:
            nonlocal node
            node = found.node if found else None
            return None if found is None else PresenceRecord(found.session)

        try:
            await self.records.change(str(key), change)
        except Damaged:
            await self.records.put(str(key), PresenceRecord(int(self._now())))
        return node
