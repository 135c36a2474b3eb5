"""The membership of this node among others on the same store: signs of life, and the cleanup after dead nodes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from math import inf

import trio

from mdashcore._errors import NotFound, StorageError
from mdashcore.hub.nodes import DEAD_AFTER, Nodes

__all__ = ["Membership"]

_log = logging.getLogger(__name__)


class Membership:
    """The membership of one node.

    Args:
        id: the id of this node.
        on_gone: called for nodes that are gone, after any node has declared them dead.
        sweep: called after nodes are gone, to clean up after them. It only begins the cleanup, which may take longer
            than a sign of life may be missing. Several nodes may do it.
        on_expelled: called when other nodes have declared this one dead: its devices may be stored as offline.
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
        self.known: set[str] = set()
        """The living nodes, this one included, as of the last look."""
        self._signed = -inf  # when the last sign of life was stored, on Trio's clock

    @property
    def is_lost(self) -> bool:
        """Whether the last sign of life is so old that other nodes take this one for dead."""
        return trio.current_time() > self._signed + DEAD_AFTER

    async def join(self) -> None:
        """Join before the first device connects. Raises `StorageError`."""
        began = trio.current_time()
        self._version = await self._nodes.join(self._id)
        self._signed = began

    async def leave(self) -> None:
        """Leave after the last device has gone. A failure of the storage is only logged: other nodes will notice."""
        try:
            await self._nodes.leave(self._id)
        except StorageError as exc:
            _log.warning("the storage failed while leaving: %s", exc)

    def on_left(self, id: str) -> None:
        """Handle the message of a node that it has ended."""
        if id != self._id:
            self.known.discard(id)
            self._on_gone(id)
            self._sweep()

    async def beat(self) -> None:
        """Give a sign of life. Called every `BEAT_INTERVAL`, and waits for nothing else. Raises `StorageError`."""
        began = trio.current_time()
        try:
            self._version = await self._nodes.beat(self._id, self._version)
        except NotFound:
            _log.warning("other nodes took this one for dead")
            self._version = await self._nodes.join(self._id)
            self._on_expelled()
        except StorageError:
            self._nodes.forget_seen()
            raise
        self._signed = began

    async def check(self) -> None:
        """Check the signs of life of other nodes. Called every `BEAT_INTERVAL`. Raises `StorageError`."""
        try:
            living, dead = await self._nodes.check(trio.current_time())
        except StorageError:
            self._nodes.forget_seen()
            raise
        gone, self.known = self.known - living, living
        for id in gone | dead:
            self._on_gone(id)
        if dead:
            _log.warning("no sign of life from %s: declared dead", ", ".join(sorted(dead)))
        if gone or dead:
            self._sweep()
