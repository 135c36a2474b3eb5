"""Refuses logins without a check after too many failures.

Three rules apply, each with its own table:

1. Ten failures of a name from a network lock that name *for that network* for a minute. Other networks are not
affected.
2. A hundred failures of a name in a minute, from any networks, close the name to networks from which it has not logged
   in before. An attacker with many addresses gets a hundred guesses a minute, and the owner still gets in.
3. A password that was right a moment ago passes a lock (see `Passwords`), but not after a hundred more attempts.
   Otherwise the memory of right passwords could be searched at the speed of HTTP.

Like the core, this module has no clock: `now` is an argument.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import attrs

from mdashcore._errors import Busy

__all__ = ["LoginFailures"]

MAX_FAILURES: Final = 10  # wrong passwords for one name from one network, after which the name is locked there
LOCK_TIME: Final = 60.0  # seconds: with 10 guesses a minute a search takes too long

MAX_NAME_FAILURES: Final = 100  # wrong passwords a minute for one name from all networks: many more than people make
FAILURE_WINDOW: Final = 60.0  # seconds in which those are counted

MAX_DEAF: Final = 100  # attempts during a lock after which even a remembered password is refused

MAX_TRACKED: Final = 16_384  # entries of a table: more than the checks of a minute, so no lock is pushed out

MAX_KNOWN_NAMES: Final = 4096  # names whose networks are remembered: those that logged in last
MAX_KNOWN_NETWORKS: Final = 16  # networks of one name: home, office, a phone that moves


@attrs.define
class _Lock:
    failures: int
    until: float
    """When the failures are forgotten and the lock ends."""
    attempts: int = 0
    """Attempts during the lock."""


@attrs.define
class _Sum:
    failures: int
    until: float


class LoginFailures:
    """The failures of the last minute, and the networks from which names have logged in."""

    def __init__(self) -> None:
        self._locks: OrderedDict[tuple[str, str], _Lock] = OrderedDict()
        self._sums: OrderedDict[str, _Sum] = OrderedDict()
        self._known: OrderedDict[str, OrderedDict[str, None]] = OrderedDict()

    def is_known(self, network: str, name: str) -> bool:
        """Return whether the name has logged in from the network."""
        return network in self._known.get(name, ())

    def is_deaf(self, network: str, name: str, now: float) -> bool:
        """Return whether even a remembered password is refused, because of too many attempts during a lock."""
        lock = self._lock_of(network, name, now)
        return lock is not None and lock.attempts >= MAX_DEAF

    def check(self, network: str, name: str, now: float) -> None:
        """Refuse a login that must not be checked. Raises `Busy` with the seconds that are left."""
        lock = self._lock_of(network, name, now)
        if lock is not None:
            lock.attempts += 1
            raise _refusal(lock.until - now)
        found = self._sums.get(name)
        closed = found is not None and found.failures >= MAX_NAME_FAILURES and found.until > now
        if found is not None and closed and not self.is_known(network, name):
            raise _refusal(found.until - now)

    def fail(self, network: str, name: str, now: float) -> tuple[bool, bool]:
        """Count a wrong password.

        Returns:
            Whether the name is now locked for the network, and whether it is now closed to unknown networks. Each is
            true
            once, for the failure that has caused it.
        """
        lock = self._locks.get((network, name))
        if lock is None or lock.until <= now:
            lock = _Lock(0, now)
        lock.failures += 1
        lock.until = now + LOCK_TIME
        _put(self._locks, (network, name), lock, MAX_TRACKED)
        total = self._sums.get(name)
        if total is None or total.until <= now:
            total = _Sum(0, now + FAILURE_WINDOW)
        total.failures += 1
        _put(self._sums, name, total, MAX_TRACKED)
        return lock.failures == MAX_FAILURES, total.failures == MAX_NAME_FAILURES

    def succeed(self, network: str, name: str) -> None:
        """Forget the failures of the name from the network, and remember that the name logs in from there."""
        self._locks.pop((network, name), None)
        networks = self._known.get(name) or OrderedDict()
        _put(networks, network, None, MAX_KNOWN_NETWORKS)
        _put(self._known, name, networks, MAX_KNOWN_NAMES)

    def _lock_of(self, network: str, name: str, now: float) -> _Lock | None:
        lock = self._locks.get((network, name))
        return lock if lock is not None and lock.failures >= MAX_FAILURES and lock.until > now else None


def _refusal(seconds: float) -> Busy:
    return Busy("too many wrong passwords for this user; try again later", retry_after=seconds)


def _put(table: OrderedDict, key: object, value: object, size: int) -> None:  # type: ignore[type-arg]
    """Put an entry at the end of a table, and drop the oldest one if the table is full."""
    table[key] = value
    table.move_to_end(key)
    if len(table) > size:
        table.popitem(last=False)
