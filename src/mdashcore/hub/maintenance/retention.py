"""What is removed because of its age.

The wall clock can be wrong for a moment: a board without a battery starts, a time server errs, a person sets the date.
By a clock that is a year ahead every notification is too old. So one check removes nothing by itself: what was too old
at the check before, and still is, goes. The checks are an interval apart, by a clock that is never set. What the last
one has found is not stored: after a restart it starts anew.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from mdashcore._errors import StorageError
from mdashcore.hub.accounts import Accounts
from mdashcore.hub.feed import Feed

__all__ = ["AGE_INTERVAL", "Retention"]

_log = logging.getLogger(__name__)

AGE_INTERVAL: Final = 3600.0  # seconds between two checks: a clock that was set wrongly is noticed by then


class Retention:
    """Removes the notifications that two checks in a row have found too old."""

    def __init__(self, accounts: Accounts, feed: Feed) -> None:
        self._accounts = accounts
        self._feed = feed
        self._found: dict[tuple[str, str], int] = {}
        """By account and log, the place before which the last check has found everything too old."""

    async def check(self) -> AsyncGenerator[None, None]:
        """Check every account, and remove what the last check has found too as well.

        The caller waits `AGE_INTERVAL` between two checks, on a monotonic clock. In a large service one takes a while:
        between two steps others may have their turn.

        Raises:
            StorageError: the accounts cannot be read. A log that cannot be read is left as it is.
        """
        before, self._found = self._found, {}
        for account in await self._accounts.all():
            name, feed = account.name, self._feed
            for log, too_old, remove in (
                ("notifications", feed.too_old, feed.remove_before),
                ("events", feed.events_too_old, feed.events.remove_before),
            ):
                try:
                    async with aclosing(too_old(name)) as steps:
                        async for first in steps:
                            self._found[name, log] = first
                            yield
                    agreed = min(before.get((name, log), 0), self._found.get((name, log), 0))
                    if agreed > 0:
                        await remove(name, agreed)
                except StorageError as exc:
                    _log.warning("what is too old of the %s of %s is removed later: %s", log, name, exc)
