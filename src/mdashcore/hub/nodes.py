"""The nodes that share the store: one document for each, rewritten at intervals as a sign of life.

No clocks of two nodes are compared. A node is dead when its document has kept one version for long enough on the clock
of the node that watches it. The watching node then deletes the document by compare-and-set. A node that was only slow
notices that at its next sign of life.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mdashcore._errors import NotFound, VersionConflict
from mdashcore.hub.records.schema import NODES, NodeRecord
from mdashcore.hub.records.store import Records
from mdashcore.storage import DocumentStore

__all__ = ["BEAT_INTERVAL", "DEAD_AFTER", "Nodes"]

BEAT_INTERVAL: Final = 3.0  # seconds between two signs of life: a write each, which any store can handle

DEAD_AFTER: Final = 15.0  # seconds without one: five were missed, and a store that restarts is back before


class Nodes:
    """The nodes of a store, as seen by one of them.

    Args:
        now: returns the Unix time in seconds.
    """

    def __init__(self, documents: DocumentStore, *, now: Callable[[], float]) -> None:
        self._records = Records(documents, NODES)
        self._now = now
        self._seen: dict[str, tuple[int, float]] = {}

    async def join(self, id: str) -> int:
        """Add a node. Returns the version for its first `beat`."""
        return await self._records.put(id, NodeRecord(self._now()))

    async def beat(self, id: str, version: int) -> int:
        """Write a sign of life. Returns the version for the next. Raises `NotFound` if the node was declared dead."""
        record = NodeRecord(self._now())
        try:
            return await self._records.put(id, record, expected=version)
        except VersionConflict:
            found = await self._records.get(id)
        if found is None:
            raise NotFound(f"{id} was declared dead")
        # No other node writes this document: the answer to an earlier sign of life was lost.
        return await self._records.put(id, record, expected=found.version)

    async def leave(self, id: str) -> None:
        """Remove a node that ends."""
        await self._records.delete(id)

    async def check(self, time: float) -> tuple[set[str], set[str]]:
        """Return the living nodes, and those that this very call has declared dead.

        Args:
            time: seconds on a monotonic clock.
        """
        seen, dead = {}, set()
        async for id, version in self._records.versions():
            known, since = self._seen.get(id, (version, time))
            if known != version:
                since = time
            if time - since < DEAD_AFTER:
                seen[id] = version, since
            elif await self._declare_dead(id, version):
                dead.add(id)
        self._seen = seen
        return set(seen), dead

    async def ids(self) -> set[str]:
        """Return the nodes that were not declared dead."""
        return {id async for id, _ in self._records.versions()}

    def forget_seen(self) -> None:
        """Forget the last signs of life. After a time without a view of the store, silent nodes need not be dead."""
        self._seen.clear()

    async def _declare_dead(self, id: str, version: int) -> bool:
        try:
            return await self._records.delete(id, expected=version)
        except VersionConflict:
            return False  # the node lives, or another node has declared it dead
