"""The connections that carry requests, and which of them end where file descriptors are short.

A stranger can have a connection wait in many ways: in the TLS handshake, in the middle of a head or of a body, between
two requests, for its password to be checked, for its refused bytes to be thrown away. None of them keeps others out:
whatever a stranger's connection waits for, it can be ended. A client that is known is ended after all strangers, and
only where the server waits for it. WebSockets are not among them: their clients are known, and counted by account.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from mdashcore.server.http.connection import HttpConnection

__all__ = ["Connections"]

ENDED_TOGETHER: Final = 16  # connections ended where file descriptors are short: to look for them takes a while

QUIET: Final = 1.0  # seconds without an answer after which a client is not at work: it has had the time to ask again


class Connections:
    """All connections that have not become WebSockets."""

    def __init__(self) -> None:
        self._all: set[HttpConnection] = set()

    @contextmanager
    def member(self, connection: HttpConnection) -> Iterator[None]:
        """Have a connection among them."""
        self._all.add(connection)
        try:
            yield
        finally:
            self._all.discard(connection)

    def make_room(self, now: float) -> bool:
        """End the connections that were answered the longest ago. Returns `False` if there is none that may be ended.

        Strangers that the server waits for go first, then strangers that wait for the server. Where none of them is
        quiet for `QUIET`, one has to go all the same. Where there are none, clients go that are known and quiet.
        """
        strangers = [each for each in self._all if each.is_stranger]
        quiet = [each for each in strangers if each.answered_at <= now - QUIET]
        ended = heapq.nsmallest(ENDED_TOGETHER, quiet, key=_rank) or heapq.nsmallest(1, strangers, key=_rank)
        if not ended:
            idle = [each for each in self._all if each.waits_for_client and each.answered_at <= now - QUIET]
            ended = heapq.nsmallest(ENDED_TOGETHER, idle, key=_rank)
        for connection in ended:
            self._all.discard(connection)
            connection.cancel()
        return bool(ended)


def _rank(connection: HttpConnection) -> tuple[bool, float]:
    return not connection.waits_for_client, connection.answered_at
