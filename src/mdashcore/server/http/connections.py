"""The connections that carry requests, and the choice of those that end when there is no room for another.

A stranger, a client that is not authenticated, can have a connection wait in many ways: in the TLS handshake, in the
middle of a head or of a body, between two requests, for the check of a password, for refused bytes to be discarded. In
each of these states the connection can be ended, so that strangers do not keep other clients out. The connection of a
known client is ended after those of quiet strangers, and only while the server waits for the client, unless its account
has very many. Strangers that have just come are ended before it only if they are very many. A client is known, as one
of the account that it last was authenticated as, until the connection ends. WebSockets do not belong to these
connections: their clients are known, and counted by account.

The time in which the server is late does not count against a client: a request, a head or a step of the TLS handshake
that waits for its turn, or bytes that have come and are not read yet.
"""

from __future__ import annotations

import heapq
import sys
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from operator import attrgetter, itemgetter
from typing import Final

from mdashcore.server.http.connection import HttpConnection

__all__ = ["Connections"]

ENDED_TOGETHER: Final = 16  # connections ended together when there is no room: finding them takes a while

CHECKED_FOR_EACH: Final = 256  # connections that are checked for each that ends: 0.3 ms of work for a newcomer

NETWORK_PART: Final = 4  # one part in so many of those that may wait aside is the share of a network

FLOOD_PART: Final = 4  # strangers of one network are a flood beyond one part in so many of all connections: below it
# they cost the idle clients of large accounts no more than as many reconnects

QUIET_TIME: Final = 1.0  # seconds without an answer after which a client counts as idle: it had time to send again

ACCOUNT_SHARE: Final = 64  # connections at work of which an account loses none: ten browsers have as many

MAX_CHECKED: Final = 4 * ENDED_TOGETHER  # connections that are checked for unread bytes, with a system call each


class Connections:
    """All connections that have not become WebSockets.

    Args:
        most_aside: how many may wait aside.
    """

    def __init__(self, most_aside: int = sys.maxsize) -> None:
        self._all: set[HttpConnection] = set()
        self._leaving: set[HttpConnection] = set()
        self._share_aside = most_aside // NETWORK_PART
        self._aside: dict[str, dict[HttpConnection, None]] = {}
        """Those that wait aside, by network, in the order in which they came."""

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

    @contextmanager
    def aside(self, connection: HttpConnection) -> Iterator[None]:
        """Take a connection out of the set for as long as the context lasts, as if it were a WebSocket already.

        The connection of a device that waits for its turn costs no more than that of a connected one, and ends for no
        other, unless descriptors are short and its network has more of them than its share. `Gateway` bounds their
        number.
        """
        self._all.discard(connection)
        self._aside.setdefault(connection.network, {})[connection] = None
        try:
            yield
        finally:
            self._leave_aside(connection)
            self._all.add(connection)

    def _leave_aside(self, connection: HttpConnection) -> None:
        of_network = self._aside.get(connection.network, {})
        of_network.pop(connection, None)
        if not of_network:
            self._aside.pop(connection.network, None)

    def make_room(self, now: float, *, spare_unread: bool = True, by_descriptor: bool = False) -> bool:
        """End the connections that the first rule finds which finds any. Returns `False` if none finds any.

        1. Strangers that are quiet for `QUIET_TIME`: first those that the server waits for, then the others; of both
           those that are quiet the longest. Then, if descriptors are short, those that wait aside and are beyond the
           share of their network: first those that came last.
        2. Known clients that the server waits for, and that are quiet for `QUIET_TIME`: first those of the account that
           has the most of them, and of these those between two requests. It costs such a client a reconnect, but a
           stranger that has just come its request. The rule is left out in a flood: strangers of one network that have
           more than a part of all connections.
        3. The oldest connections of the largest crowd, see `_crowd`.

        An ended connection keeps its descriptor until its task has run. Until then no known client ends, nor a stranger
        in its place, as the room may be enough.

        Args:
            by_descriptor: whether a descriptor is needed, which those that wait aside have too.
            spare_unread: whether no connection ends whose bytes the server has not read yet. The server is late then,
                not the client; the caller should let it read before it asks without this.
        """
        for rule in self._rules(now, by_descriptor):
            if ended := _first(*rule, spare_unread):
                for connection in ended:
                    self._all.discard(connection)
                    self._leave_aside(connection)
                    self._leaving.add(connection)
                    connection.cancel()
                break
        return bool(self._leaving)

    def _rules(self, now: float, by_descriptor: bool) -> Iterator[tuple[Sequence[HttpConnection], int]]:
        """Iterate over the rules: the first connections to end, in their order, and how many of them end."""
        strangers = [each for each in self._all if not each.known]
        known = [each for each in self._all if each.known]
        quiet = [each for each in strangers if each.quiet_time(now) >= QUIET_TIME]
        yield heapq.nsmallest(MAX_CHECKED, quiet, key=_patience), ENDED_TOGETHER
        if by_descriptor:
            largest = max(self._aside.values(), key=len, default={})
            beyond = max(0, len(largest) - self._share_aside)
            yield list(islice(reversed(largest), beyond)), ENDED_TOGETHER
        together = min(ENDED_TOGETHER, 1 + len(self._all) // CHECKED_FOR_EACH)
        if FLOOD_PART * len(_largest(strangers, _group)) <= len(self._all):
            idle = [each for each in known if each.waits_for_client and each.quiet_time(now) >= QUIET_TIME]
            if idle and self._leaving:
                return
            yield _idle_order(idle, MAX_CHECKED), together
        if crowd := self._crowd(strangers, known):
            most = len(crowd) - ACCOUNT_SHARE if crowd[0].known else len(crowd) // 2
            yield heapq.nsmallest(MAX_CHECKED, crowd, key=_age), max(1, min(together, most))

    def _crowd(self, strangers: Sequence[HttpConnection], known: Sequence[HttpConnection]) -> Sequence[HttpConnection]:
        """Return the largest crowd, which has to make room although none of its clients is quiet.

        A crowd are the strangers of one network that were answered before, those that were not, one account's clients
        that leave their first request unfinished, or all those of an account with more than `ACCOUNT_SHARE`. So a
        client that has just come does not pay for strangers that are answered all the time, nor for an account that has
        very many requests, and a browser before its login does not pay for strangers that say nothing.
        """
        most = _largest(known, attrgetter("account"))
        unfinished = [each for each in known if each.waits_for_client and not each.used]
        crowd = _largest({*strangers, *unfinished, *(most if len(most) > ACCOUNT_SHARE else ())}, _group)
        return [] if self._leaving and any(each.known for each in crowd) else crowd


def _first(ordered: Sequence[HttpConnection], number: int, spare_unread: bool) -> list[HttpConnection]:
    """Return the first connections, without those that have bytes for the server to read if these are spared.

    A connection whose request is being answered has no right to be spared: its next request is in the bytes.
    """
    spared = (each for each in ordered if not (spare_unread and each.waits_for_client and each.is_unread))
    return list(islice(spared, number))


def _largest(
    connections: Collection[HttpConnection], group: Callable[[HttpConnection], Hashable]
) -> Sequence[HttpConnection]:
    """Return the connections of the group that has the most."""
    groups = list(map(group, connections))
    largest = max(Counter(groups).items(), key=itemgetter(1), default=(None, 0))[0]
    return [each for each, name in zip(connections, groups, strict=True) if name == largest]


def _group(connection: HttpConnection) -> Hashable:
    return connection.account if connection.known else (connection.network, connection.used)


def _idle_order(idle: Iterable[HttpConnection], number: int) -> list[HttpConnection]:
    """Return the first known clients in the order in which they end: each is one of the account that has the most left.

    Of an account those come first that are between two requests, as their clients lose nothing, then those with an
    unfinished first request; of each kind those that are quiet the longest.
    """
    of_account: dict[Hashable, list[HttpConnection]] = {}
    for each in sorted(idle, key=attrgetter("in_request", "used", "quiet_since")):
        of_account.setdefault(each.account, []).append(each)
    accounts = [(-len(those), place, iter(those)) for place, those in enumerate(of_account.values())]
    heapq.heapify(accounts)
    ordered: list[HttpConnection] = []
    while accounts and len(ordered) < number:
        left, place, those = accounts[0]
        ordered.append(next(those))
        if left < -1:
            heapq.heapreplace(accounts, (left + 1, place, those))
        else:
            heapq.heappop(accounts)
    return ordered


def _patience(connection: HttpConnection) -> tuple[bool, float]:
    """Order connections: the server waits for the first ones, and for the longest time."""
    return not connection.waits_for_client, connection.quiet_since


def _age(connection: HttpConnection) -> float:
    """Order connections by their last answer, or by when they were accepted."""
    return connection.quiet_since
