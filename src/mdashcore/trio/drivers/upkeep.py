"""The tasks that clean up while a node runs: what is left over, unused or old, and numbers that have gone wrong."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Final

import trio

from mdashcore.hub import Hub
from mdashcore.hub.maintenance.retention import AGE_INTERVAL
from mdashcore.hub.usage import USE_INTERVAL
from mdashcore.trio.background import Background
from mdashcore.trio.drivers.orphans import ORPHAN_INTERVAL, OrphanCollector

__all__ = ["start_upkeep"]

EVENTS_INTERVAL: Final = 1.0  # seconds between two looks for events that a failed notification has left: a set is read

UNUSED_INTERVAL: Final = 60.0  # seconds between two looks for summaries that are not used: their time is ten minutes


def start_upkeep(hub: Hub, background: Background) -> None:
    """Start the tasks, which run as long as the node does."""
    for keeper in (hub.updates, hub.rollouts, hub.firmware.removal, hub.jobs):
        background.run_every(ORPHAN_INTERVAL, "the removal of orphans", OrphanCollector(keeper).run)
    background.run_every(EVENTS_INTERVAL, "the storing of events", hub.feed.append_events)
    background.run_every(UNUSED_INTERVAL, "the dropping of unused summaries", partial(_drop_unused, hub))
    # For these two a short pause after a failure would be wrong: two checks in a row count as one.
    work = partial(_remove_aged, hub)
    background.run_every(AGE_INTERVAL, "the removal of old notifications", work, again_soon=False)
    work = partial(_check_usage, hub)
    background.run_every(USE_INTERVAL, "the counting of what accounts have", work, again_soon=False)


async def _drop_unused(hub: Hub) -> None:
    hub.summaries.drop_unused()


async def _remove_aged(hub: Hub) -> None:
    """Check the age of all notifications once, and remove those that the check before has found too old as well.

    Raises:
        MdashError: the check is incomplete; another one counts only after `AGE_INTERVAL`.
    """
    await _do_all(hub.retention.check())


async def _check_usage(hub: Hub) -> None:
    """Count once the use of every account, and correct the errors that the check before has found as well.

    Raises:
        MdashError: the check is incomplete; another one counts only after `USE_INTERVAL`.
    """
    await _do_all(hub.usage.check())


async def _do_all(steps: AsyncGenerator[None, None]) -> None:
    """Do all steps of a check, with a turn of the other tasks after each."""
    async with aclosing(steps):
        async for _ in steps:
            await trio.lowlevel.checkpoint()
