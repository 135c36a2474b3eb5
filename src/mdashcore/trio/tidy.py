"""Removes what processes that were killed have left in the store: images, and parts of rollouts, that nobody names."""

from __future__ import annotations

import logging
from typing import Final

import trio

from mdashcore._errors import MdashError
from mdashcore.hub import Hub
from mdashcore.hub.rollouts import Rollouts
from mdashcore.hub.updates import Updates

__all__ = ["TIDY_DELAY", "tidy"]

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
