"""The connections that carry requests, and the choice of those that end when file descriptors are short.

A stranger, a client that is not authenticated, can have a connection wait in many ways: in the TLS handshake, in the
middle of a head or of a body, between two requests, for the check of a password, for refused bytes to be discarded. In
each of these states the connection can be ended, so that strangers do not keep other clients out. The connection of a
known client is ended after all strangers', and only while the server waits for the client. WebSockets do not belong to
these connections: their clients are known, and counted by account.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from mdashcore.server.http.connection import HttpConnection

__all__ = ["Connections"]

ENDED_TOGETHER: Final = 16  # connections ended together when file descriptors are short: finding them takes a while

FIRST_WORDS: Final = 0.2  # seconds that a client needs, which has just connected, to send its request

QUIET_TIME: Final = 1.0  # seconds without an answer after which a client counts as idle: it had time to send again


class Connections:
    """All connections that have not become WebSockets."""

    def __init__(self) -> None:
        self._all: set[HttpConnection] = set()
        self._leaving: set[HttpConnection] = set()

    def __len__(self) -> int:
        return len(self._all)

    @contextmanager
    def member(self, connection: HttpConnection) -> Iterator[None]:
        """Keep a connection in the set as long as the context lasts."""
        self._all.add(connection)
        try:
            yield
        finally:
            self._all.discard(connection)
            self._leaving.discard(connection)

    def make_room(self, now: float) -> bool:
        """End the connections that were answered the longest ago. Returns `False` if there is none that may be ended.

        Strangers that the server waits for end first, then strangers that wait for the server. If no stranger was quiet
        for `QUIET_TIME`, one ends anyway. It has not just come, if there is another, or if one account has more than
        half of the connections: then one of that account ends on which no request was answered yet. Without any
        stranger, known clients that are quiet end; and if all are at work, one of the account that has more than half
        of the connections. An ended connection keeps its descriptor until its task has run: no known client ends before
        that, as the room may be enough.
        """
        strangers = [each for each in self._all if each.is_stranger]
        quiet = [each for each in strangers if each.answered_at <= now - QUIET_TIME]
        settled = [each for each in strangers if each.answered_at <= now - FIRST_WORDS]
        ended = heapq.nsmallest(ENDED_TOGETHER, quiet, key=_rank) or heapq.nsmallest(1, settled, key=_rank)
        if not ended and strangers:
            unanswered = [each for each in self._of_most() if each.waits_for_client and not each.used]
            ended = heapq.nsmallest(1, unanswered or strangers, key=_rank)
        if not ended and not self._leaving:
            idle = [each for each in self._all if each.waits_for_client and each.answered_at <= now - QUIET_TIME]
            ended = heapq.nsmallest(ENDED_TOGETHER, idle, key=_rank) or heapq.nsmallest(1, self._of_most(), key=_rank)
        for connection in ended:
            self._all.discard(connection)
            self._leaving.add(connection)
            connection.cancel()
        return bool(self._leaving)

    def _of_most(self) -> list[HttpConnection]:
        """Return the connections of the account that has more than half of all; none if there is no such account."""
        counts = Counter(each.owner for each in self._all)
        owner, number = next(iter(counts.most_common(1)), (None, 0))
        return [each for each in self._all if each.owner == owner] if number > len(self._all) / 2 else []


def _rank(connection: HttpConnection) -> tuple[bool, float]:
    return not connection.waits_for_client, connection.answered_at
