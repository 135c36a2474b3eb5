"""The removal of data that killed processes have left in the store.

It is removed only after two checks that are an hour apart by Trio's clock, which cannot be set.
"""

from __future__ import annotations

from typing import Final, Protocol

from mdashcore.hub.pausing import Pause
from mdashcore.trio.turns import Pace

__all__ = ["ORPHAN_INTERVAL", "OrphanCollector"]

ORPHAN_INTERVAL: Final = 3600.0  # seconds: an upload and the check of its image take half of it at most


class OrphanKeeper(Protocol):
    """The records of a kind, of which orphans may be left."""

    async def orphans(self, pause: Pause) -> set[tuple[str, str]]:
        """Return (account, id) of what may be an orphan. `pause` is awaited after each record."""

    async def remove_orphan(self, account: str, id: str, pause: Pause) -> None:
        """Remove an orphan. `pause` is awaited after each record that is read for it."""


class OrphanCollector:
    """Looks for orphans every `ORPHAN_INTERVAL`, and removes those that the check before has found too.

    Orphans are images, and parts of rollouts and jobs, to which no record refers, and images of the library whose
    removal is not finished. In one check alone an orphan may be part of an update, rollout or job that is just being
    created.
    """

    def __init__(self, keeper: OrphanKeeper) -> None:
        self._keeper = keeper
        self._before: set[tuple[str, str]] = set()

    async def run(self) -> None:
        """Check once. Raises `MdashError`: the same check has to be tried again."""
        pace = Pace(self)
        found = await self._keeper.orphans(pace)
        for account, id in found & self._before:
            await self._keeper.remove_orphan(account, id, pace)
        self._before = found
