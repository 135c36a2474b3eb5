"""The summaries of the accounts that are looked at.

A summary is read from the store when an account is looked at, and dropped when it has not been for a while. In between
it receives the account's notifications.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from math import inf
from typing import Final

from mdashcore import _json
from mdashcore._errors import TooLarge
from mdashcore.hub.event_log import EventLog
from mdashcore.hub.feed_item import EventItem, FeedItem
from mdashcore.hub.fleet.account_summary import AccountSummary, too_many
from mdashcore.hub.fleet.presence_history import HISTORY_TIME, PresenceHistory
from mdashcore.hub.fleet.rows import PARTS, DeviceRow
from mdashcore.hub.pausing import Pause, never_pause
from mdashcore.hub.records.contention import Contention, KeyedLocks
from mdashcore.hub.records.store import Records
from mdashcore.identity import DeviceKey
from mdashcore.shadow import CLEARED, Change
from mdashcore.storage import DocumentStore

__all__ = ["UNUSED_TIME", "Summaries"]

UNUSED_TIME: Final = 600.0  # seconds after which a summary that nothing asks for is dropped: a coffee beside a page

ROWS_COUNTED: Final = 2_000  # rows between two pauses, if each is only looked up: 0.3 ms


class Summaries:
    """The summaries of the accounts that are looked at.

    Args:
        now: returns the Unix time in seconds.
        monotonic: returns seconds of a clock that is never set.
        contention: how requests for the same account wait for each other.
    """

    def __init__(
        self,
        documents: DocumentStore,
        events: EventLog,
        *,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        contention: Contention = Contention(),
    ) -> None:
        self._records = {name: Records(documents, part.view) for name, part in PARTS.items()}
        self._events = events
        self._now = now
        self._monotonic = monotonic
        self._turns = KeyedLocks(contention)
        self._accounts: OrderedDict[str, AccountSummary] = OrderedDict()
        self.follow: Callable[[str], AbstractContextManager[Callable[[], bool]]] = _follow_none
        """Receives an account's notifications of other nodes for as long as a context lasts, whose value returns
        whether they are received now. A `Node` sets it."""

    def __len__(self) -> int:
        return len(self._accounts)

    def get(self, account: str) -> AccountSummary | None:
        """Return the account's summary as it is, or `None` if the account was not looked at."""
        return self._accounts.get(account)

    async def of(self, account: str, pause: Pause = never_pause) -> AccountSummary:
        """Return the account's summary with all that was notified before this call.

        Args:
            pause: awaited after each record that was read.

        Raises:
            TooLarge: the account has more devices than a summary may have.
            StorageError: the store fails.
        """
        if not self._turns.acquire_nowait(account):
            await self._turns.acquire(account, inf)
        try:
            summary = self._accounts.get(account)
            if summary is None or summary.is_stale(self._monotonic()):
                summary = await self._load(account, pause)
            else:
                try:
                    await summary.refresh(self._now(), pause)
                except TooLarge:
                    self.forget(account)
                    raise
        finally:
            self._turns.release(account)
        summary.used = self._monotonic()
        if account in self._accounts:  # else it was forgotten meanwhile
            self._accounts.move_to_end(account)
        self._make_room()
        return summary

    async def counted(self, account: str, pause: Pause = never_pause) -> tuple[AccountSummary, PresenceHistory]:
        """Do the same as `of`, and count the changes of presence of each device in the last day.

        Raises:
            TooLarge: the account has more devices than a summary may have.
            StorageError: the store fails.
        """
        summary = await self.of(account, pause)
        now = self._now()
        history = await self._history(summary, now, pause)
        history.forget_before(now - HISTORY_TIME)
        changes = history.changes()
        rows = list(summary.rows.values())
        for start in range(0, len(rows), ROWS_COUNTED):
            for row in rows[start : start + ROWS_COUNTED]:
                row.presence_changes = changes[row.id]
            await pause()
        return summary, history

    async def rows_of(self, account: str, *, counts_changes: bool, pause: Pause) -> Mapping[str, DeviceRow]:
        """Return the rows of the account by id, with the changes of presence if these are asked for."""
        summary = (await self.counted(account, pause))[0] if counts_changes else await self.of(account, pause)
        return summary.rows

    async def _history(self, summary: AccountSummary, now: float, pause: Pause) -> PresenceHistory:
        """Return the changes of presence in the last day. They are read once; others wait for that."""
        account = summary.account
        if not self._turns.acquire_nowait(account):
            await self._turns.acquire(account, inf)
        try:
            if summary.history is None:
                history = summary.history = PresenceHistory()
                try:
                    await history.load(self._events, account, now, pause)
                except BaseException:
                    summary.history = None
                    raise
            return summary.history
        finally:
            self._turns.release(account)

    async def _load(self, account: str, pause: Pause) -> AccountSummary:
        summary = AccountSummary(account, self._records, self.follow(account), self._monotonic())
        self.forget(account)  # afterwards: so it keeps its topic, or its place among those that wait for one
        self._accounts[account] = summary
        try:
            await summary.load(pause)
        except BaseException:
            if self._accounts.get(account) is summary:
                self.forget(account)
            raise
        return summary

    def on_shadow_changed(self, key: DeviceKey, change: Change) -> None:
        """Note an update of a shadow by this process. One that is not about firmware costs a look at its keys."""
        summary = self._accounts.get(key.account)
        if summary is not None:
            patch = change.reported
            if patch is CLEARED or (patch is not None and "ota" in patch):
                summary.mark("shadow", key.id)

    def on_emitted(self, account: str, item: FeedItem) -> None:
        """Note a notification of this process. `on_shadow_changed` tells of shadows."""
        if type(item) is EventItem:
            self.on_notification(account, item)

    def on_notification(self, account: str, item: FeedItem) -> None:
        """Note a notification of any node."""
        summary = self._accounts.get(account)
        if summary is not None:
            try:
                summary.receive(item)
            except _json.DECODE_ERRORS:
                summary.lost = True  # not of this version, or damaged on its way

    def on_gap(self, account: str) -> None:
        """Read the account's summary anew before its next use, because notifications may have been missed."""
        summary = self._accounts.get(account)
        if summary is not None:
            summary.lost = True

    def forget(self, account: str) -> None:
        """Drop the account's summary."""
        summary = self._accounts.pop(account, None)
        if summary is not None:
            summary.close()

    def drop_unused(self) -> None:
        """Drop the summaries that were not asked for in `UNUSED_TIME`."""
        now = self._monotonic()
        for account, summary in tuple(self._accounts.items()):
            if now - summary.used > UNUSED_TIME and not self._turns.is_taken(account):
                self.forget(account)

    def _make_room(self) -> None:
        """Drop the summaries that were not asked for the longest, until the others are small enough."""
        number = sum(len(summary.rows) for summary in self._accounts.values())
        size = sum(summary.size for summary in self._accounts.values())
        for account, summary in tuple(self._accounts.items())[:-1]:
            if too_many(number, size) and not self._turns.is_taken(account):
                number -= len(summary.rows)
                size -= summary.size
                self.forget(account)


def _follow_none(account: str) -> AbstractContextManager[Callable[[], bool]]:
    """Follow an account where there is no other process."""
    return nullcontext(lambda: True)
