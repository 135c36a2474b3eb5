"""Accounts and their API keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from mdashcore import identity
from mdashcore._errors import (
    AlreadyExists,
    Damaged,
    InvalidInput,
    NotFound,
    StorageError,
    Unauthenticated,
    VersionConflict,
)
from mdashcore.hub.admins import Admins
from mdashcore.hub.records import schema
from mdashcore.hub.records.contention import Contention
from mdashcore.hub.records.schema import AdminRoster, KeyOwner
from mdashcore.hub.records.store import Record, Records, scoped, split
from mdashcore.hub.usage import Usage
from mdashcore.identity import Account, ApiKey
from mdashcore.storage import DocumentStore

__all__ = ["Accounts", "CreatedApiKey"]

MAX_KEY_ID: Final = 64  # characters: generated ids have 16, and a longer one must not reach a store as a key

MAX_KNOWN_KEYS: Final = 4096  # keys remembered, at 500 bytes each: those that are in use

KEY_TOUCH: Final = 3600.0  # seconds between two writes of a key's last use: people only ask "this week or last year"


@attrs.frozen
class CreatedApiKey:
    """A new key together with its secret, which is stored nowhere else."""

    key: ApiKey
    secret: str = attrs.field(repr=False)


class Accounts:
    """The accounts of the service and their API keys.

    Args:
        now: returns the Unix time in seconds.
        entropy: returns that many random bytes.
        on_revoked: called with (account, key id) when a key stops being valid; with `None` for all keys of the account.
        exclusive: whether this process is the only writer of the store, so that keys may be remembered.
        contention: how writers of the same record wait for each other.
        usage: counts the keys of each account; without it their number has no bound.
    """

    def __init__(
        self,
        documents: DocumentStore,
        *,
        now: Callable[[], float],
        entropy: Callable[[int], bytes],
        on_revoked: Callable[[str, str | None], None],
        exclusive: bool = False,
        contention: Contention = Contention(),
        usage: Usage | None = None,
    ) -> None:
        self._accounts = Records(documents, schema.ACCOUNTS, contention=contention)
        self._admins = Admins(documents, accounts=self._all_stored, find=self._stored, contention=contention)
        self._keys = Records(documents, schema.KEYS)
        self._owners = Records(documents, schema.KEY_OWNERS)
        self._now = now
        self._entropy = entropy
        self._on_revoked = on_revoked
        self._exclusive = exclusive
        self._usage = usage
        self._known: dict[str, ApiKey] = {}
        self._removals = 0

    async def get(self, name: str) -> Account | None:
        """Return the account, or `None` if it does not exist or is being removed."""
        account = await self._stored(name)
        if account is None or account.removing:
            return None
        return _with_admin(account, await self._admins.roster())

    async def is_removing(self, name: str) -> bool:
        """Return whether the account's removal has begun and not ended."""
        account = await self._stored(name)
        return account is not None and account.removing

    async def owner(self, name: str) -> str:
        """Return a text that tells the account from an earlier or later one of its name; empty without an account.

        Work that takes a while compares it: what one owner has asked for must not be done to the next one.

        Raises:
            NotFound: the account is being removed.
        """
        account = await self._stored(name)
        if account is None:
            return ""
        if account.removing:
            raise NotFound(f"no user {name!r}")
        return account.id or str(account.created_at)  # accounts of older versions have no id

    async def check_owner(self, name: str, owner: str) -> None:
        """Raise `NotFound` unless `owner` still has the account."""
        if await self.owner(name) != owner:
            raise NotFound(f"no user {name!r}")

    async def owns(self, name: str, owner: str) -> bool:
        """Return whether `owner` still has the account. It is so for an empty one, of a record of an older version."""
        try:
            return not owner or owner == await self.owner(name)
        except NotFound:
            return False

    async def _stored(self, name: str) -> Account | None:
        record = await self._accounts.get(name) if _possible(name) else None
        return None if record is None else record.value

    async def all(self, damaged: list[str] | None = None) -> list[Account]:
        """Return all accounts sorted by name, also those that are being removed.

        Args:
            damaged: receives the names of the accounts that cannot be read.
        """
        accounts = await self._all_stored(damaged)
        roster = await self._admins.roster() if accounts else AdminRoster([])
        return [_with_admin(account, roster) for account in accounts]

    async def _all_stored(self, damaged: list[str] | None = None) -> list[Account]:
        found = [account async for _, account in self._accounts.scan(damaged=damaged)]
        return sorted(found, key=lambda account: account.name)

    async def register(self, name: str, password_hash: str, *, admin: bool = False) -> Account:
        """Create an account. Raises `AlreadyExists`, `InvalidInput`."""
        id = identity.make_id("acc", self._entropy(8))
        account = Account(identity.check_account_name(name), password_hash, admin, self._now(), id=id)
        await self._check_free(name)
        if admin:
            await self._admins.add(account)
        try:
            await self._accounts.put(name, account, expected=0)
        except VersionConflict:
            await self._check_free(name)
            raise AlreadyExists(f"there was a user {name!r} a moment ago; try again") from None
        if admin:
            await self._admins.add(account)  # a concurrent change may have dropped it before it was stored
        return account

    async def _check_free(self, name: str) -> None:
        account = await self._stored(name)
        if account is not None and account.removing:
            raise AlreadyExists(f"the user {name!r} is being removed; remove it again to finish that")
        if account is not None:
            raise AlreadyExists(f"there is a user {name!r} already")

    async def set_password(self, name: str, password_hash: str, *, admin: bool | None = None) -> Account:
        """Change an account's password, and `admin` unless it is `None`. Closes all that the old password opened.

        Raises:
            NotFound: there is no such account.
            Conflict: it is the last admin, and `admin` is `False`; or it is being removed, and `admin` is `True`.
        """
        present = await self.get(name)
        if present is None:
            raise NotFound(f"no user {name!r}")
        if admin is True:
            await self._admins.add(present)
        elif admin is False:
            await self._admins.remove(present)

        def change(found: Account | None) -> Account:
            if found is None or found.removing or found.id != present.id:
                raise NotFound(f"no user {name!r}")
            is_admin = present.admin if admin is None else admin
            return attrs.evolve(found, password_hash=password_hash, rehashed_from="", admin=is_admin)

        try:
            account = await self._accounts.change(name, change)
        finally:  # also if the write may have failed: a client with valid credentials connects again
            self._on_revoked(name, None)
        assert account is not None  # noqa: S101 - for the type checker: `change` never returns None
        return account

    async def replace_hash(self, account: Account, password_hash: str) -> None:
        """Store another hash of the same password. Sessions stay valid.

        Does nothing if the password was changed in the meantime.
        """

        def change(found: Account | None) -> Account | None:
            if found is None or found.removing or found.password_hash != account.password_hash:
                return None
            return attrs.evolve(found, password_hash=password_hash, rehashed_from=found.credential)

        await self._accounts.change(account.name, change)

    async def remove(self, name: str) -> None:
        """Remove an account and its keys, or continue a removal. Raises the same errors as `begin_removal`."""
        await self.begin_removal(name)
        await self.remove_keys(name)
        if not await self._accounts.remove(name, lambda account: account.removing):
            raise NotFound(f"no user {name!r}")  # another process has finished the removal

    async def begin_removal(self, name: str) -> None:
        """Refuse further logins of an account and close all that it has opened. The name stays taken until `remove`.

        A removal that was interrupted can continue, and no new account inherits data that it has not removed yet.

        Raises:
            NotFound: there is no such account.
            Conflict: it is the last admin.
        """
        try:
            account = await self._stored(name)
        except Damaged:
            leaving = Account(name, "", False, self._now(), removing=True)
            await self._accounts.change(name, lambda found: found or leaving, replace_damaged=True)
            self._on_revoked(name, None)
            return
        if account is None:
            raise NotFound(f"no user {name!r}")
        if account.removing:
            return
        await self._admins.remove(account, leaving=True)

        def leave(found: Account | None) -> Account | None:
            return None if found is None or found.id != account.id else attrs.evolve(found, removing=True)

        try:
            await self._accounts.change(name, leave)
        finally:
            self._on_revoked(name, None)

    async def check_not_last_admin(self, name: str) -> None:
        """Raise `Conflict` if the account is the last one that can manage accounts."""
        account = await self._stored(name)
        if account is not None:
            await self._admins.check_not_last(account)

    # Keys

    async def create_key(self, account: str, name: str = "") -> CreatedApiKey:
        """Create an API key. Only the returned value has its secret.

        Raises:
            NotFound: there is no such account.
            InvalidInput: the name is not allowed.
            LimitReached: the account has its maximum of keys.
        """
        secret = identity.make_token(identity.KEY_PREFIX, self._entropy(identity.ENTROPY_BYTES))
        key = ApiKey(
            account,
            identity.make_id("key", self._entropy(8)),
            identity.check_label(name),
            identity.hash_token(secret),
            self._now(),
        )
        if self._usage is not None:
            await self._usage.reserve(account, "keys")
        await self._owners.put(key.hash, KeyOwner(account, key.id))
        await self._keys.put(scoped(account, key.id), key, expected=0)  # last: a removal then finds both records
        if await self.get(account) is None:  # checked last: the account may have been removed in the meantime
            await self.remove_keys(account)
            raise NotFound(f"no user {account!r}")
        return CreatedApiKey(key, secret)

    async def keys(self, account: str, damaged: list[str] | None = None) -> list[ApiKey]:
        """Return the account's keys, oldest first. `damaged` receives the ids of the keys that cannot be read."""
        found = [key async for _, key in self._keys.scan(scoped(account, ""), damaged)]
        return sorted(found, key=lambda key: (key.created_at, key.id))

    async def remove_key(self, account: str, id: str) -> None:
        """Revoke a key immediately and close all that it has opened. Raises `NotFound`."""
        hash = None
        try:
            record = await self._keys.get(scoped(account, id)) if len(id) <= MAX_KEY_ID else None
            if record is None:
                raise NotFound(f"no key {id!r}")
            hash = record.value.hash
        except Damaged:
            pass  # without the key's record, its entry in the index opens nothing
        try:
            if hash is not None:
                await self._owners.delete(hash)  # first: the key is invalid from here on, but can still be found
            deleted = await self._keys.delete(scoped(account, id))
        finally:  # also if the deletion may have failed: a client with a valid key connects again
            self._forget_known()
            self._on_revoked(account, id)
        if not deleted:
            raise NotFound(f"no key {id!r}")
        if self._usage is not None:
            await self._usage.release(account, "keys")

    async def remove_keys(self, account: str) -> None:
        """Revoke all keys of an account."""
        for key in await self._keys.keys(scoped(account, "")):
            try:
                await self.remove_key(account, split(key)[1])
            except NotFound:
                continue  # another process has removed it

    async def authenticate_key(self, secret: str) -> ApiKey:
        """Return the key that belongs to a secret. Raises `Unauthenticated`."""
        digest = identity.hash_token(secret)
        known = self._known.get(digest)
        if known is not None and not self._is_due(known):
            return known
        removals = self._removals
        owner = await self._owners.get(digest)
        key = None if owner is None else await self._keys.get(scoped(owner.value.account, owner.value.id))
        if key is None or key.value.hash != digest:
            raise Unauthenticated("the key is not valid")
        used = await self._touch(key)
        if self._exclusive and removals == self._removals:  # else the key may have been removed in the meantime
            if len(self._known) >= MAX_KNOWN_KEYS:
                self._known.clear()
            self._known[digest] = used
        return used

    def _forget_known(self) -> None:
        """Forget the remembered keys, because one of them may have been removed."""
        self._removals += 1
        self._known.clear()

    def _is_due(self, key: ApiKey) -> bool:
        """Return whether the use of a key has to be stored."""
        return key.used_at is None or abs(self._now() - key.used_at) >= KEY_TOUCH

    async def _touch(self, record: Record[ApiKey]) -> ApiKey:
        """Store that a key is used. Never fails a request, and never restores a key that is being removed."""
        key = record.value
        if not self._is_due(key):
            return key
        used = attrs.evolve(key, used_at=self._now())
        try:
            await self._keys.put(scoped(key.account, key.id), used, expected=record.version)
        except StorageError:
            pass  # another request has just stored it, the key was removed, or the store is read-only
        return used


def _with_admin(account: Account, roster: AdminRoster) -> Account:
    """Return the account with the admin right that the roster gives it. The roster decides."""
    return attrs.evolve(account, admin=roster.has(account))


def _possible(name: str) -> bool:
    """Return whether the name is allowed for an account: any other name must not reach a store as a key."""
    try:
        identity.check_account_name(name)
    except InvalidInput:
        return False
    return True
