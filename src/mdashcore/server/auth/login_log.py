"""The log of failed logins: one line for each, in a form that fail2ban and similar tools can read.

::

    login failed: address=192.0.2.7 name="alice"
    login locked: address=192.0.2.7 name="alice" seconds=60
    login closed: address=192.0.2.7 name="alice" seconds=60

The address is first, and the name is written as JSON in ASCII. So a name can neither end the line nor look like an
address.
"""

from __future__ import annotations

import json
import logging
from typing import Final

__all__ = ["LOGGER", "LoginLog"]

LOGGER: Final = "mdashcore.login"
"""The logger's name; it is part of the documented line."""

_log = logging.getLogger(LOGGER)

MAX_LOGGED_NAME: Final = 64  # characters: no account has a longer name

FREE_LINES: Final = 60  # lines a minute for logins that cost no check: attackers must not fill the disk with them
FREE_PERIOD: Final = 60.0  # seconds


class LoginLog:
    """Writes the lines. Checks are rare and bound the failures that cost one. The other failures are bounded here."""

    def __init__(self) -> None:
        self._free = 0
        self._period_ends = float("-inf")

    def failed(self, address: str, name: str) -> None:
        """Log a wrong name or password."""
        _log.warning("login failed: %s", _client(address, name))

    def impossible(self, address: str, name: str, now: float) -> None:
        """Log a name or a password that cannot be valid. Some of them are left out, and their number is logged."""
        if now >= self._period_ends:
            if self._free > FREE_LINES:
                _log.warning("%d more failed logins, with impossible names or passwords", self._free - FREE_LINES)
            self._free, self._period_ends = 0, now + FREE_PERIOD
        self._free += 1
        if self._free <= FREE_LINES:
            self.failed(address, name)

    def locked(self, address: str, name: str, seconds: float) -> None:
        """Log that the name is locked for the network of the address."""
        _log.warning("login locked: %s seconds=%d", _client(address, name), seconds)

    def closed(self, address: str, name: str, seconds: float) -> None:
        """Log that the name is closed to networks from which it has not logged in."""
        _log.warning("login closed: %s seconds=%d", _client(address, name), seconds)


def _client(address: str, name: str) -> str:
    shown = name if len(name) <= MAX_LOGGED_NAME else f"{name[:MAX_LOGGED_NAME]}..."
    return f"address={address or '-'} name={json.dumps(shown)}"
