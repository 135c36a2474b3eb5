"""The order in which passwords are checked when more logins come than can be checked.

A check is expensive on purpose, so a few attackers can ask for more checks than the machine can make. The queue gives
the next turn to the network address that has asked least in the last minutes. Among the logins of one address it
prefers the name that was asked for least. A login that succeeds does not count. So people, who rarely fail, come before
attackers, and attackers wait for each other. Of equals the last one to come is the first. If more logins come than can
be served, any order refuses some; in this one the others do not wait for those that will be refused.

Like the core, the queue has no clock and waits for nothing: `now` is an argument.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

import attrs

__all__ = ["LoginQueue", "Ticket"]

MAX_WAITING_LOGINS: Final = 256  # logins that wait for a turn: more than are served before clients give up

HALF_LIFE: Final = 60.0  # seconds after which an attempt counts half: as long as a lock

MAX_COUNTED: Final = 4096  # addresses, and names, whose attempts are counted: the ones dropped have asked least lately


@attrs.frozen(eq=False)
class Ticket:
    """A login that waits for its turn."""

    network: str
    """As `network_of` returns it."""
    name: str
    known: bool = False
    """Whether this name has logged in from this network before. Attackers on the same network do not delay it."""


class LoginQueue:
    """The logins that wait.

    Args:
        size: the number of logins that may wait.
    """

    def __init__(self, size: int = MAX_WAITING_LOGINS) -> None:
        self._size = size
        self._waiting: dict[Ticket, int] = {}  # with the number of its arrival
        self._arrivals = 0
        self._networks = _Attempts()
        self._names = _Attempts()

    def __len__(self) -> int:
        return len(self._waiting)

    def count(self, ticket: Ticket, now: float) -> None:
        """Count an attempt, also one that gets its turn without waiting or is refused."""
        self._networks.add(ticket.network, 1.0, now)
        self._names.add((ticket.network, ticket.name), 1.0, now)

    def forgive(self, ticket: Ticket, now: float) -> None:
        """Take a counted attempt back, because the login has succeeded."""
        self._networks.add(ticket.network, -1.0, now)
        self._names.add((ticket.network, ticket.name), -1.0, now)

    def join(self, ticket: Ticket, now: float) -> Ticket | None:
        """Let a login wait. `count` was called for it before.

        Returns:
            The login that has to go if too many wait: the last in order, which may be `ticket` itself.
        """
        self._arrivals += 1
        self._waiting[ticket] = self._arrivals
        if len(self._waiting) <= self._size:
            return None
        last = max(self._waiting, key=lambda each: self._rank(each, now))
        del self._waiting[last]
        return last

    def leave(self, ticket: Ticket) -> bool:
        """Remove a login that waits no longer. Returns `False` if it was not in the queue."""
        return self._waiting.pop(ticket, None) is not None

    def next(self, now: float) -> Ticket | None:
        """Remove and return the login whose turn it is; `None` if no login waits."""
        if not self._waiting:
            return None
        first = min(self._waiting, key=lambda each: self._rank(each, now))
        del self._waiting[first]
        return first

    def _rank(self, ticket: Ticket, now: float) -> tuple[float, float, int]:
        """Return the login's rank. The lowest rank comes first."""
        network = 0.0 if ticket.known else self._networks.get(ticket.network, now)
        return network, self._names.get((ticket.network, ticket.name), now), -self._waiting[ticket]


class _Attempts:
    """Counts attempts by key. Older attempts count less and less."""

    def __init__(self) -> None:
        # the value, and the time for which it was computed
        self._counts: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def get(self, key: Hashable, now: float) -> float:
        value, then = self._counts.get(key, (0.0, now))
        return float(value * 0.5 ** ((now - then) / HALF_LIFE))

    def add(self, key: Hashable, number: float, now: float) -> None:
        self._counts[key] = (max(0.0, self.get(key, now) + number), now)
        self._counts.move_to_end(key)
        if len(self._counts) > MAX_COUNTED:
            self._counts.popitem(last=False)
