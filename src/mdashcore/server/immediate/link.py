"""A link that handles every message of its device without a task."""

from __future__ import annotations

from mdashcore.server.immediate.coroutines import run_now
from mdashcore.trio.connections.link import Link
from mdashcore.trio.transport.stream import BrokenMessage

__all__ = ["ImmediateLink"]


class ImmediateLink(Link):
    """A link whose handler never waits."""

    __slots__ = ()

    def _receive_now(self, message: bytes | BrokenMessage) -> bool:
        for event in self._receive(message):
            run_now(self._handler(event))
        self._wake_writer()
        return True
