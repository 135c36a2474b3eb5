"""Removes what killed processes have left in the store, and notifications that are too old.

Both look twice before they remove anything, an hour apart by Trio's clock, which nobody sets.
"""

from __future__ import annotations

import logging
from typing import Final

import trio

from mdashcore._errors import MdashError
from mdashcore.hub import Hub
from mdashcore.hub.retention import AGE_INTERVAL
from mdashcore.hub.rollouts import Rollouts
from mdashcore.hub.updates import Updates

__all__ = ["TIDY_DELAY", "remove_aged", "tidy"]

_log = logging.getLogger(__name__)

TIDY_DELAY: Final = 3600.0  # seconds between two looks: an upload and the check of its image take half of it at most


async def tidy(hub: Hub) -> None:
    """Look again and again, for ever: what nobody names at two looks in a row is removed.

    At one look alone it may be an upload whose update, or rollout, is just being made.
    """
    keepers: tuple[Updates | Rollouts, ...] = (hub.updates, hub.rollouts)
    before: list[set[tuple[str, str]]] = [set(), set()]
    while True:
        try:
            for index, keeper in enumerate(keepers):
                found = await keeper.orphans()
                for account, id in found & before[index]:
                    await keeper.tidy(account, id)
                before[index] = found
        except MdashError as exc:
            _log.warning("the store is tidied later: %s", exc)
        except Exception:  # a defect here must not stop the node
            _log.exception("the store is tidied later")
        await trio.sleep(TIDY_DELAY)


async def remove_aged(hub: Hub) -> None:
    """Remove notifications that are too old, for ever."""
    while True:
        try:
            async for _ in hub.retention.check():
                await trio.lowlevel.checkpoint()
        except MdashError as exc:
            _log.warning("notifications that are too old are removed later: %s", exc)
        except Exception:  # a defect here must not stop the node
            _log.exception("notifications that are too old are removed later")
        await trio.sleep(AGE_INTERVAL)  # also after a failure: two checks right after each other would be one
