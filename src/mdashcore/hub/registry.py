"""Devices: registered, renamed, removed, and authenticated by their tokens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import attrs

from mdashcore import identity, tags
from mdashcore._errors import (
    AlreadyExists,
    Damaged,
    NotFound,
    StorageError,
    Unauthenticated,
    VersionConflict,
)
from mdashcore.hub.records import schema
from mdashcore.hub.records.contention import Contention
from mdashcore.hub.records.schema import TokenOwner
from mdashcore.hub.records.store import Records, scoped
from mdashcore.hub.usage import Usage
from mdashcore.identity import Device, DeviceKey
from mdashcore.storage import DocumentStore

__all__ = ["CreatedDevice", "Registry"]

_REMOVING: Final = ""
"""Stored in place of a token's hash: the removal of the device has begun."""


@attrs.frozen
class CreatedDevice:
    """A device together with a new token, which is stored nowhere else."""

    device: Device
    token: str = attrs.field(repr=False)


class Registry:
    """The devices of every account.

    Args:
        now: returns the Unix time in seconds.
        entropy: returns that many random bytes.
        on_revoked: called with a device when a device's token stops being valid, or may have.
        is_removing: whether an account is being removed: its devices' tokens are then invalid.
        contention: how writers of the same record wait for each other.
        usage: counts the devices of each account; without it they have no bound.
    """

    def __init__(
        self,
        documents: DocumentStore,
        *,
        now: Callable[[], float],
        entropy: Callable[[int], bytes],
        on_revoked: Callable[[DeviceKey], None],
        is_removing: Callable[[str], Awaitable[bool]] | None = None,
        contention: Contention = Contention(),
        usage: Usage | None = None,
    ) -> None:
        self.records: Records[Device] = Records(documents, schema.DEVICES, contention=contention)
        self._owners = Records(documents, schema.TOKEN_OWNERS)
        self._now = now
        self._entropy = entropy
        self._on_revoked = on_revoked
        self._is_removing = is_removing
        self._usage = usage

    async def create(
        self, account: str, id: str | None = None, name: str | None = None, tags_: object = None
    ) -> CreatedDevice:
        """Register a device, with a random id by default. Only the returned value has its token.

        Raises:
            InvalidInput: the id, the name or a tag is not allowed.
            AlreadyExists: the account has a device of that id.
            LimitReached: the account has its maximum of devices.
        """
        key = DeviceKey(account, identity.make_id("dev", self._entropy(8)) if id is None else id)
        name = key.id if name is None else identity.check_label(name)
        token = self._new_token()
        labels = dict(tags.merge({}, tags_))
        device = Device(account, key.id, name, identity.hash_token(token), self._now(), tags=labels)
        await self._put_new(key, device)
        await self._owners.put(device.token_hash, TokenOwner(key.account, key.id))
        return CreatedDevice(device, token)

    async def adopt(
        self,
        account: str,
        id: str,
        token_hash: str,
        name: str | None = None,
        tags_: object = None,
        *,
        prepare: Callable[[DeviceKey], Awaitable[object]] | None = None,
    ) -> tuple[Device, bool]:
        """Register a device with a token that another service has made.

        The device has its token already, and may connect as soon as it is stored. The caller announces a device that
        is not yet, and then calls `set_announced`.

        Args:
            token_hash: as `identity.hash_foreign_token` returns it.
            prepare: awaited before a new device is stored.

        Returns:
            The device, and whether it is new. One that has this token already is returned as it is.

        Raises:
            AlreadyExists: the account has another device of that id, or another device has the token.
            InvalidInput, LimitReached: as `create`.
        """
        key = DeviceKey(account, id)
        name = key.id if name is None else identity.check_label(name)
        labels = dict(tags.merge({}, tags_))
        device = Device(account, key.id, name, token_hash, self._now(), tags=labels, is_announced=False)
        found = await self.records.get(str(key))
        if found is not None and found.value.token_hash == token_hash:
            await self._claim_token(key, token_hash)
            return found.value, False
        if found is not None:
            raise AlreadyExists(f"there is a device {key.id!r} already, with another token")
        claimed = await self._claim_token(key, token_hash)
        if prepare is not None:
            await prepare(key)
        await self._put_new(key, device)
        try:  # again: an import that has read the entry before there was the device cannot replace the new one
            await self._enter_token(key, token_hash, claimed)
        except AlreadyExists:  # claimed by another import meanwhile
            await self.records.delete(str(key))
            await self._count_one_less(account)
            raise
        return device, True

    async def set_announced(self, key: DeviceKey) -> None:
        """Note that the registration of an adopted device was announced. Raises `NotFound`."""
        await self._change(key, lambda device: attrs.evolve(device, is_announced=True))

    async def _put_new(self, key: DeviceKey, device: Device) -> None:
        """Store a device that there is not yet, and count it. Raises `AlreadyExists` and `LimitReached`."""
        if self._usage is not None:
            await self._usage.reserve(key.account, "devices")
        try:
            await self.records.put(str(key), device, expected=0)
        except VersionConflict:
            await self._count_one_less(key.account)
            raise AlreadyExists(f"there is a device {key.id!r} already") from None

    async def _claim_token(self, key: DeviceKey, token_hash: str) -> int:
        """Enter a token into the index. An entry whose device does not have the token is replaced.

        Returns the entry's version. Raises `AlreadyExists`.
        """
        found = await self._owners.get(token_hash)
        if found is not None and found.value != TokenOwner(key.account, key.id):
            record = await self.records.get(str(DeviceKey(found.value.account, found.value.id)))
            if record is not None and record.value.token_hash == token_hash:
                raise AlreadyExists("another device has this token")
        return await self._enter_token(key, token_hash, 0 if found is None else found.version)

    async def _enter_token(self, key: DeviceKey, token_hash: str, expected: int) -> int:
        """Write a token's entry of the index in place of that version, or of a later one of the same device.

        Returns the new version. Raises `AlreadyExists` if another device has claimed the token.
        """
        entry = TokenOwner(key.account, key.id)
        while True:
            try:
                return await self._owners.put(token_hash, entry, expected=expected)
            except VersionConflict:
                found = await self._owners.get(token_hash)
                if found is None or found.value != entry:
                    raise AlreadyExists("another device has this token") from None
                expected = found.version  # the same device is imported twice at the same time

    async def get(self, key: DeviceKey) -> Device:
        """Return the account's device, also one whose removal has begun. Raises `NotFound`."""
        record = await self.records.get(str(key))
        if record is None:
            raise NotFound(f"no device {key.id!r}")
        return record.value

    async def check_stays(self, key: DeviceKey) -> None:
        """Raise `NotFound` for a device that does not exist, or whose removal has begun."""
        if (await self.get(key)).token_hash == _REMOVING:
            raise NotFound(f"no device {key.id!r} any more")

    async def of(self, account: str, damaged: list[str] | None = None) -> list[Device]:
        """Return the account's devices, sorted by id. `damaged` receives the ids of those that cannot be read."""
        found = [device async for _, device in self.records.scan(scoped(account, ""), damaged)]
        return sorted(found, key=lambda device: device.id)

    async def rename(self, key: DeviceKey, name: str) -> Device:
        """Change the name. Raises `NotFound`, `InvalidInput`."""
        name = identity.check_label(name)
        return await self._change(key, lambda device: attrs.evolve(device, name=name))

    async def set_delta_limit(self, key: DeviceKey, limit: int | None) -> Device:
        """Change the limit of the device's deltas, as `check_delta_limit` returns it. Raises `NotFound`."""
        return await self._change(key, lambda device: attrs.evolve(device, delta_limit=limit))

    async def change_tags(self, key: DeviceKey, patch: object) -> tuple[Device, bool]:
        """Merge a patch into the device's tags. Returns the device, and whether this changed it.

        Raises:
            InvalidInput: as `tags.merge`.
            NotFound: the device does not exist, or its removal has begun.
        """
        present: Device | None = None

        def change(found: Device | None) -> Device | None:
            nonlocal present
            if found is None or found.token_hash == _REMOVING:
                raise NotFound(f"no device {key.id!r}")
            merged = dict(tags.merge(found.tags, patch))
            present = attrs.evolve(found, tags=merged)
            return None if merged == found.tags else present

        is_changed = await self.records.change(str(key), change) is not None
        assert present is not None  # noqa: S101 - for the type checker: `change` was called
        return present, is_changed

    async def renew_token(self, key: DeviceKey) -> CreatedDevice:
        """Give the device a new token. The old one stops working immediately. Raises `NotFound`."""
        token = self._new_token()
        digest = identity.hash_token(token)

        def change(device: Device) -> Device:
            if device.token_hash == _REMOVING:
                raise NotFound(f"no device {key.id!r} any more")
            return attrs.evolve(device, token_hash=digest)

        old = await self.get(key)
        await self._owners.put(digest, TokenOwner(key.account, key.id))
        try:
            device = await self._change(key, change)
        finally:  # also if the write may have failed: a device with a valid token connects again
            self._on_revoked(key)
        with suppress(StorageError):  # an old entry in the index opens nothing
            await self._owners.delete(old.token_hash)
        return CreatedDevice(device, token)

    async def remove(self, key: DeviceKey) -> None:
        """Remove a device. Its token stops working immediately. Raises `NotFound`."""
        await self.begin_removal(key)
        await self.finish_removal(key)

    async def begin_removal(self, key: DeviceKey) -> None:
        """Revoke the device's token. The device can still be found until `finish_removal`.

        So a removal that was interrupted between or within the two can be called again. Raises `NotFound`.
        """
        try:
            device = await self.get(key)
        except Damaged:
            await self._replace_damaged(key)
            return
        try:
            await self._owners.delete(device.token_hash)  # first: the hash is not in the record afterwards
            await self._change(key, lambda device: attrs.evolve(device, token_hash=_REMOVING))
        finally:  # also if the write may have failed: a device with a valid token connects again
            self._on_revoked(key)

    async def _replace_damaged(self, key: DeviceKey) -> None:
        """Begin the removal of a device that cannot be read. Its token's entry in the index opens nothing."""
        removing = Device(key.account, key.id, key.id, _REMOVING, self._now())
        try:
            await self.records.change(str(key), lambda found: found or removing, replace_damaged=True)
        finally:
            self._on_revoked(key)

    async def finish_removal(self, key: DeviceKey) -> None:
        """Remove a device whose removal was begun. Raises `NotFound` if another process has removed it."""
        if not await self.records.remove(str(key), lambda device: device.token_hash == _REMOVING):
            raise NotFound(f"no device {key.id!r}")
        await self._count_one_less(key.account)

    async def authenticate(self, token: str) -> Device:
        """Return the device that belongs to a token. Raises `Unauthenticated`."""
        digest = identity.hash_token(token)
        owner = await self._owners.get(digest)
        record = None if owner is None else await self.records.get(str(DeviceKey(owner.value.account, owner.value.id)))
        # The device's own record decides: an index entry that outlived a renewal opens nothing.
        if record is None or record.value.token_hash != digest:
            raise Unauthenticated("the device token is not valid")
        if self._is_removing is not None and await self._is_removing(record.value.account):
            raise Unauthenticated("the device's account is being removed")
        return record.value

    async def _count_one_less(self, account: str) -> None:
        if self._usage is not None:
            await self._usage.release(account, "devices")

    def _new_token(self) -> str:
        return identity.make_token(identity.DEVICE_PREFIX, self._entropy(identity.ENTROPY_BYTES))

    async def _change(self, key: DeviceKey, function: Callable[[Device], Device]) -> Device:
        def change(found: Device | None) -> Device:
            if found is None:
                raise NotFound(f"no device {key.id!r}")
            return function(found)

        await self.get(key)
        device = await self.records.change(str(key), change)
        assert device is not None  # noqa: S101 - for the type checker: `change` never returns None
        return device
