"""Removes what killed processes have left in the store, and notifications that are too old.

Both look twice before they remove anything, an hour apart by Trio's clock, which nobody sets.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Final

import trio

from mdashcore.hub import Hub
from mdashcore.hub.rollouts.service import Rollouts
from mdashcore.hub.updates.service import Updates

__all__ = ["TIDY_DELAY", "Tidier", "check_usage", "remove_aged"]

TIDY_DELAY: Final = 3600.0  # seconds between two looks: an upload and the check of its image take half of it at most


class Tidier:
    """Looks for orphans every `TIDY_DELAY` seconds, and removes those that were there at the look before too.

    Orphans are images, and parts of rollouts, that nothing names. At one look alone an orphan may be an upload whose
    update, or rollout, is just being made.
    """

    def __init__(self, keeper: Updates | Rollouts) -> None:
        self._keeper = keeper
        self._before: set[tuple[str, str]] = set()

    async def run(self) -> None:
        """Look once. Raises `MdashError`: the same look has to be tried again."""
        found = await self._keeper.orphans()
        for account, id in found & self._before:
            await self._keeper.tidy(account, id)
        self._before = found


async def remove_aged(hub: Hub) -> None:
    """Check the age of all notifications once, and remove those that were too old at the check before, too.

    Raises:
        MdashError: it is not done; another check counts only after `AGE_INTERVAL`.
    """
    async with aclosing(hub.retention.check()) as steps:
        async for _ in steps:
            await trio.lowlevel.checkpoint()


async def check_usage(hub: Hub) -> None:
    """Count once what every account has, and put right what the check before has found wrong in the same way.

    Raises:
        MdashError: it is not done; another check counts only after `USE_INTERVAL`.
    """
    async with aclosing(hub.usage.check()) as steps:
        async for _ in steps:
            await trio.lowlevel.checkpoint()
