"""The connections that carry requests, and the choice of those that end when there is no room for another.

A stranger, a client that is not authenticated, can have a connection wait in many ways: in the TLS handshake, in the
middle of a head or of a body, between two requests, for the check of a password, for refused bytes to be discarded. In
each of these states the connection can be ended, so that strangers do not keep other clients out. The connection of a
known client is ended after all strangers', and only while the server waits for the client, unless its account has very
many. WebSockets do not belong to these connections: their clients are known, and counted by account.

The time in which the server is late does not count against a client: a request that waits for its turn, or bytes that
have come and are not read yet.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Final, TypeAlias

from mdashcore.server.http.connection import HttpConnection

__all__ = ["Connections"]

ENDED_TOGETHER: Final = 16  # connections ended together when there is no room: finding them takes a while

CROWD_PART: Final = 256  # of a crowd of which none is quiet one part of this many ends, at least one connection

QUIET_TIME: Final = 1.0  # seconds without an answer after which a client counts as idle: it had time to send again

ACCOUNT_SHARE: Final = 64  # connections at work of which an account loses none: ten browsers have as many

MAX_CHECKED: Final = 4 * ENDED_TOGETHER  # connections that are checked for unread bytes, with a system call each


_Key: TypeAlias = Callable[[HttpConnection], tuple[bool, float] | float]


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

    def make_room(self, now: float, *, spare_unread: bool = True) -> bool:
        """End the connections that the first rule finds which finds any. Returns `False` if none finds any.

        1. Strangers that are quiet for `QUIET_TIME`: first those that the server waits for, then the others; of both
           those that are quiet the longest.
        2. Without strangers: known clients that the server waits for, and that are quiet for `QUIET_TIME`.
        3. The oldest connections of the largest crowd, see `_crowd`.

        An ended connection keeps its descriptor until its task has run. Until then no known client ends, as the room
        may be enough.

        Args:
            spare_unread: whether no connection ends whose bytes the server has not read yet. The server is late then,
                not the client; the caller should let it read before it asks without this.
        """
        strangers = [each for each in self._all if each.is_stranger]
        known = [each for each in self._all if each.known and each.waits_for_client and not self._leaving]
        quiet = [each for each in strangers or known if each.quiet_time(now) >= QUIET_TIME]
        ended = _first(quiet, ENDED_TOGETHER, _patience, spare_unread)
        if not ended:
            crowd = self._crowd(strangers)
            ended = _first(crowd, min(ENDED_TOGETHER, 1 + len(crowd) // CROWD_PART), _age, spare_unread)
        for connection in ended:
            self._all.discard(connection)
            self._leaving.add(connection)
            connection.cancel()
        return bool(self._leaving)

    def _crowd(self, strangers: Sequence[HttpConnection]) -> Sequence[HttpConnection]:
        """Return the largest crowd, which has to make room although none of its clients is quiet.

        A crowd are the strangers of one network that were answered before, those that were not, one account's clients
        that leave their first request unfinished, or all those of an account with more than `ACCOUNT_SHARE`. So a
        client that has just come does not pay for strangers that are answered all the time, nor for an account that has
        very many requests, and a browser before its login does not pay for strangers that say nothing.
        """
        most = _largest((each for each in self._all if each.owner is not None), _group)
        unfinished = [each for each in self._all if each.known and each.waits_for_client and not each.used]
        crowd = _largest({*strangers, *unfinished, *(most if len(most) > ACCOUNT_SHARE else ())}, _group)
        return [] if self._leaving and any(each.known for each in crowd) else crowd


def _first(connections: Iterable[HttpConnection], number: int, key: _Key, spare_unread: bool) -> list[HttpConnection]:
    """Return the first connections by a key, without those that have bytes for the server to read if these are spared.

    A connection whose request is being answered has no right to be spared: its next request is in the bytes.
    """
    first = heapq.nsmallest(MAX_CHECKED if spare_unread else number, connections, key=key)
    spared = (each for each in first if not (spare_unread and each.waits_for_client and each.is_unread))
    return list(islice(spared, number))


def _largest(
    connections: Iterable[HttpConnection], group: Callable[[HttpConnection], Hashable]
) -> Sequence[HttpConnection]:
    """Return the connections of the group that has the most."""
    groups = [(each, group(each)) for each in connections]
    largest = Counter(name for _, name in groups).most_common(1)
    return [each for each, name in groups if name == largest[0][0]]  # without connections there are no groups


def _group(connection: HttpConnection) -> Hashable:
    return (connection.network, connection.used) if connection.is_stranger else connection.owner


def _patience(connection: HttpConnection) -> tuple[bool, float]:
    """Order connections: the server waits for the first ones, and for the longest time."""
    return not connection.waits_for_client, connection.quiet_since


def _age(connection: HttpConnection) -> float:
    """Order connections by their last answer, or by when they were accepted."""
    return connection.quiet_since
