"""This node among others on the same store: signs of life, and what becomes of the devices of a dead one."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from mdashcore._errors import NotFound, StorageError
from mdashcore.hub.nodes import Nodes

__all__ = ["Membership"]

_log = logging.getLogger(__name__)


class Membership:
    """The membership of one node.

    Args:
        id: this node's.
        on_gone: called for nodes that have gone, whoever declared it.
        sweep: called after nodes have gone: what they may have left behind has to be cleaned up, by anyone. It may take
            longer than a sign of life may be missing, so it is only begun.
        on_expelled: called when others have declared this node dead: its devices may be taken for offline.
    """

    def __init__(
        self,
        nodes: Nodes,
        id: str,
        *,
        on_gone: Callable[[str], None],
        sweep: Callable[[], None],
        on_expelled: Callable[[], None],
    ) -> None:
        self._nodes = nodes
        self._id = id
        self._on_gone = on_gone
        self._sweep = sweep
        self._on_expelled = on_expelled
        self._version = 0
        self._known: set[str] = set()

    async def join(self) -> None:
        """Has to come before the first device. Raises `StorageError`."""
        self._version = await self._nodes.join(self._id)

    async def leave(self) -> None:
        """After the last device. A failure of the storage is passed over: the others will notice."""
        try:
            await self._nodes.leave(self._id)
        except StorageError as exc:
            _log.warning("the storage failed while leaving: %s", exc)

    async def live(self) -> None:
        """Give a sign of life, and look for those of others; every `BEAT_INTERVAL` seconds. Raises `StorageError`."""
        try:
            await self._beat()
            await self._look()
        except StorageError:
            self._nodes.look_away()
            raise

    async def _beat(self) -> None:
        try:
            self._version = await self._nodes.beat(self._id, self._version)
        except NotFound:
            _log.warning("other nodes took this one for dead")
            self._version = await self._nodes.join(self._id)
            self._on_expelled()

    async def _look(self) -> None:
        living, dead = await self._nodes.look(trio.current_time())
        gone, self._known = self._known - living, living
        for id in gone | dead:
            self._on_gone(id)
        if dead:
            _log.warning("no sign of life from %s: declared dead", ", ".join(sorted(dead)))
        if gone or dead:
            self._sweep()
