"""The removal of data that killed processes have left in the store.

It is removed only after two checks that are an hour apart by Trio's clock, which cannot be set.
"""

from __future__ import annotations

from typing import Final

from mdashcore.hub.firmware.library import FirmwareLibrary
from mdashcore.hub.rollouts.service import Rollouts
from mdashcore.hub.updates.service import Updates

__all__ = ["ORPHAN_INTERVAL", "OrphanCollector"]

ORPHAN_INTERVAL: Final = 3600.0  # seconds: an upload and the check of its image take half of it at most


class OrphanCollector:
    """Looks for orphans every `ORPHAN_INTERVAL`, and removes those that the check before has found too.

    Orphans are images, and parts of rollouts, to which no record refers, and images of the library whose removal is not
    finished. In one check alone an orphan may be an upload whose update, or rollout, is just being created.
    """

    def __init__(self, keeper: Updates | Rollouts | FirmwareLibrary) -> None:
        self._keeper = keeper
        self._before: set[tuple[str, str]] = set()

    async def run(self) -> None:
        """Check once. Raises `MdashError`: the same check has to be tried again."""
        found = await self._keeper.orphans()
        for account, id in found & self._before:
            await self._keeper.remove_orphan(account, id)
        self._before = found
