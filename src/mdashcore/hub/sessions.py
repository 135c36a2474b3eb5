"""Browser sessions: from the login until the logout, a long absence or a change of the password.

Absence is measured by a monotonic clock, so setting the wall clock ends no session. After a restart the wall clock and
the stored times decide. The first request after a step gives the session times of the new clock.

A session holds a digest that changes with the password. So a changed password, and an account that was removed or
created anew, end every session immediately, also a session that is being opened at that moment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from mdashcore import identity
from mdashcore._errors import Damaged, StorageError, Unauthenticated
from mdashcore.hub.accounts import Accounts
from mdashcore.hub.clock import Age, Ages, Clock
from mdashcore.hub.limits import AccountLimits
from mdashcore.hub.records.schema import SESSIONS, BrowserSession
from mdashcore.hub.records.store import Record, Records, scoped
from mdashcore.identity import Account
from mdashcore.storage import DocumentStore

__all__ = ["BrowserSession", "CreatedSession", "Sessions"]

MAX_IDLE_TIME: Final = 86_400.0  # seconds without a request: a user who returns every day stays logged in
MAX_SESSION_TIME: Final = 7 * 86_400.0  # seconds in all: a stolen cookie is worth a week at most
MAX_SESSION_AGES: Final = 10_000  # kept, in 3 MB; the age of any other session is taken from the wall clock
SESSION_TOUCH: Final = 300.0  # seconds between two writes of a session's last use: not every request writes


@attrs.frozen
class CreatedSession:
    """A new session together with its secret, which is stored nowhere else."""

    session: BrowserSession
    secret: str = attrs.field(repr=False)
    """``ACCOUNT:mds_…``: fit for a cookie as it is."""


class Sessions:
    """The sessions of all accounts.

    Args:
        clock: the clocks of this process.
        entropy: returns that many random bytes.
        on_revoked: called with (account, session id) when a session was ended.
        most: the maximum of an account's sessions; one more ends the oldest.
    """

    def __init__(
        self,
        documents: DocumentStore,
        accounts: Accounts,
        *,
        clock: Clock,
        entropy: Callable[[int], bytes],
        on_revoked: Callable[[str, str], None],
        most: int = AccountLimits().sessions,
    ) -> None:
        self._records = Records(documents, SESSIONS)
        self._accounts = accounts
        self._clock = clock
        self._ages = Ages(clock, MAX_SESSION_AGES)
        self._entropy = entropy
        self._on_revoked = on_revoked
        self._most = most

    async def create(self, account: Account) -> CreatedSession:
        """Open a session for a user whose password was right. `account` is the account that the check has read."""
        token = identity.make_token(identity.SESSION_PREFIX, self._entropy(identity.ENTROPY_BYTES))
        now = self._clock.now()
        id = identity.make_id("ses", self._entropy(8))
        session = BrowserSession(account.name, id, identity.hash_token(token), account.credential, now, now)
        await self._make_room(account, for_more=1)
        await self._records.put(scoped(account.name, session.hash), session, expected=0)
        self._age(session)
        await self._make_room(account)  # for sessions that other requests have opened since
        return CreatedSession(session, f"{account.name}:{token}")

    async def authenticate(self, secret: str) -> tuple[BrowserSession, Account]:
        """Return the session of a secret and its account as it is now. Raises `Unauthenticated`."""
        name, _, token = identity.check_secret(secret).partition(":")
        account = await self._accounts.get(name)
        record = None
        if account is not None:
            try:
                record = await self._records.get(scoped(name, identity.hash_token(token)))
            except Damaged:
                pass  # the user logs in again
        if account is None or record is None or not self._is_valid(record.value, account):
            raise Unauthenticated("the session has ended; log in again")
        await self._touch(record)
        return record.value, account

    async def end(self, session: BrowserSession) -> None:
        """End a session and close all that it has opened."""
        try:
            await self._records.delete(scoped(session.account, session.hash))
        finally:  # also if the deletion may have failed: a browser with a valid session connects again
            self._on_revoked(session.account, session.id)

    async def forget(self, account: str) -> None:
        """End all sessions of an account."""
        for session in await self._of(account):
            await self.end(session)

    async def count(self, account: str) -> int:
        """Return the number of the account's sessions."""
        return len(await self._of(account))

    async def _of(self, account: str) -> list[BrowserSession]:
        """Return the account's sessions. Removes those that cannot be read, because no browser can use them."""
        prefix, damaged = scoped(account, ""), list[str]()
        found = [session async for _, session in self._records.scan(prefix, damaged)]
        for hash in damaged:
            await self._records.delete(prefix + hash)
        return found

    async def _make_room(self, account: Account, *, for_more: int = 0) -> None:
        """End the sessions of an earlier password, and the oldest ones if there are too many.

        An expired session is invalid but stays here: if the clock was wrong at the start, all may look expired.
        """
        kept = []
        for session in await self._of(account.name):
            if session.credential == account.credential:
                kept.append(session)
            else:
                await self.end(session)
        # Sorted by time without use, then by id, so that concurrent requests choose the same sessions.
        kept.sort(
            key=lambda session: (self._age(session).now(session.created_at) - session.used_at, session.id), reverse=True
        )
        for session in kept[: max(0, len(kept) + for_more - self._most)]:
            await self.end(session)

    async def _touch(self, record: Record[BrowserSession]) -> None:
        """Store that a session is used. Never fails a request, and never restores a session that has ended."""
        session, age, offset = record.value, self._age(record.value), self._clock.offset
        now, moved_by = age.now(session.created_at), age.correction(session.created_at, offset)
        if now - session.used_at < SESSION_TOUCH and not moved_by:
            return
        try:
            used = attrs.evolve(session, created_at=session.created_at + moved_by, used_at=now + moved_by)
            await self._records.put(scoped(session.account, session.hash), used, expected=record.version)
            if moved_by:
                age.followed = offset
        except StorageError:
            pass  # another request has just stored it, the session was ended, or the store is read-only

    def _age(self, session: BrowserSession) -> Age:
        return self._ages.of(session.id, session.created_at, session.used_at)

    def _is_valid(self, session: BrowserSession, account: Account) -> bool:
        now = self._age(session).now(session.created_at)
        current = session.credential == account.credential
        return current and now - session.used_at < MAX_IDLE_TIME and now - session.created_at < MAX_SESSION_TIME
