"""The admins: one document for all accounts, so that the last admin cannot be lost.

Many documents cannot be read at the same moment. If each account only had a flag, two admins who demote each other
could both find the other one still an admin. So one roster decides. It is changed by compare-and-set, before the
account is. If a process dies in between, the roster counts, and the account's next change corrects its own copy.

An entry has the account's id as well as its name. So an entry left by an account that was never stored, or that was
removed, gives no rights to a later account of the same name.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import attrs

from mdashcore._errors import Conflict, Damaged, StorageError, VersionConflict
from mdashcore.hub.records.contention import Contention
from mdashcore.hub.records.schema import ADMINS, AdminRoster, admin_entry
from mdashcore.hub.records.store import Record, Records, split
from mdashcore.identity import Account
from mdashcore.storage import DocumentStore

__all__ = ["Admins"]

ROSTER_KEY: Final = "roster"


class Admins:
    """The roster in the store.

    Args:
        accounts: returns every stored account: a store of an older version has no roster, and gets one from them.
        find: returns the account that is stored under a name, also one that is being removed.
        contention: how writers of the roster wait for each other.
    """

    def __init__(
        self,
        documents: DocumentStore,
        *,
        accounts: Callable[[], Awaitable[list[Account]]],
        find: Callable[[str], Awaitable[Account | None]],
        contention: Contention = Contention(),
    ) -> None:
        self._records = Records(documents, ADMINS, contention=contention)
        self._accounts = accounts
        self._find = find

    async def roster(self) -> AdminRoster:
        """Return the admins as they are now."""
        return (await self._record()).value

    async def add(self, account: Account) -> None:
        """Make an account an admin, also one that is about to be stored.

        Raises:
            Conflict: the account is being removed.
        """
        entry = admin_entry(account)

        def with_it(roster: AdminRoster) -> AdminRoster:
            if entry in roster.leaving:
                raise Conflict(f"the user {account.name!r} is being removed; remove it again to finish that")
            return attrs.evolve(roster, admins=sorted({*roster.admins, entry}))

        await self._change(with_it)

    async def remove(self, account: Account, *, leaving: bool = False) -> None:
        """Make an account an ordinary one, with `leaving` for ever.

        Raises:
            Conflict: the account is the last admin.
        """
        entry = admin_entry(account)

        def without_it(roster: AdminRoster) -> AdminRoster:
            left = [each for each in roster.admins if each != entry]
            if entry in roster.admins and not left:
                raise Conflict(f"{account.name!r} is the last admin")
            return AdminRoster(left, sorted({*roster.leaving, entry}) if leaving else roster.leaving)

        await self._change(without_it)

    async def check_not_last(self, account: Account) -> None:
        """Raise `Conflict` if the account is the last one that can manage accounts."""
        if (await self._swept(await self.roster())).admins == [admin_entry(account)]:
            raise Conflict(f"{account.name!r} is the last admin")

    async def _change(self, function: Callable[[AdminRoster], AdminRoster]) -> None:
        """Replace the roster by the result of `function`, atomically."""
        race = self._records.race(ROSTER_KEY)
        while True:
            found = await self._record()
            roster = function(await self._swept(found.value))
            if roster == found.value:
                return
            try:
                await self._records.put(ROSTER_KEY, roster, expected=found.version)
            except VersionConflict:
                await race.lost()
            else:
                return

    async def _record(self) -> Record[AdminRoster]:
        """Return the roster. A missing one is made from the accounts; its version is 0 if it cannot be stored."""
        try:
            found = await self._records.get(ROSTER_KEY)
        except Damaged:
            await self._records.delete(ROSTER_KEY)
            found = None
        if found is not None:
            return found
        admins = [account for account in await self._accounts() if account.admin and not account.removing]
        roster = AdminRoster(sorted(map(admin_entry, admins)))
        try:
            return Record(roster, await self._records.put(ROSTER_KEY, roster, expected=0))
        except VersionConflict:
            found = await self._records.get(ROSTER_KEY)
            return found or Record(roster, 0)
        except StorageError:
            return Record(roster, 0)  # a read-only store still has its admins

    async def _swept(self, roster: AdminRoster) -> AdminRoster:
        """Return the entries whose accounts exist. An entry is written before its account, which may then be missing.

        While the roster does not change, none of these accounts can be removed: an account leaves the roster first.
        """
        stored = {}
        for entry in {*roster.admins, *roster.leaving}:
            try:
                account = await self._find(split(entry)[0])
            except Damaged:
                account = None  # a damaged account cannot log in
            stored[entry] = account if account is not None and admin_entry(account) == entry else None
        admins = [entry for entry in roster.admins if (found := stored[entry]) is not None and not found.removing]
        return AdminRoster(admins, [entry for entry in roster.leaving if stored[entry] is not None])
