"""Devices: registered, renamed, removed, and known by their tokens."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from mdashcore import identity
from mdashcore._errors import AlreadyExists, InvalidInput, NotFound, Unauthenticated, VersionConflict
from mdashcore.hub._records import Records, scoped
from mdashcore.identity import Device
from mdashcore.storage import DocumentStore

__all__ = ["CreatedDevice", "Registry"]


@attrs.frozen
class CreatedDevice:
    """A device together with a new token, which exists only here."""

    device: Device
    token: str = attrs.field(repr=False)


@attrs.frozen
class TokenOwner:
    """What the index of tokens knows: where the device is."""

    account: str
    id: str


class Registry:
    """The devices of every account.

    Args:
        now: Unix seconds.
        entropy: that many random bytes.
        on_revoked: called with (account, device id) when a device's token stops being valid.
    """

    def __init__(
        self,
        documents: DocumentStore,
        *,
        now: Callable[[], float],
        entropy: Callable[[int], bytes],
        on_revoked: Callable[[str, str], None],
    ) -> None:
        self._devices = Records(documents, "devices", Device)
        self._owners = Records(documents, "token_owners", TokenOwner)
        self._now = now
        self._entropy = entropy
        self._on_revoked = on_revoked

    async def create(self, account: str, id: str | None = None, name: str | None = None) -> CreatedDevice:
        """Register a device; without an id it gets one. Its token is in the answer, and nowhere else.

        Raises:
            InvalidInput: no device may have that id or name.
            AlreadyExists: the account has a device of that id.
        """
        id = identity.make_id("dev", self._entropy(8)) if id is None else identity.check_device_id(id)
        name = id if name is None else identity.check_label(name)
        token = self._new_token()
        device = Device(account, id, name, identity.hash_token(token), self._now())
        try:
            await self._devices.put(scoped(account, id), device, expected=0)
        except VersionConflict:
            raise AlreadyExists(f"there is a device {id!r} already") from None
        await self._owners.put(device.token_hash, TokenOwner(account, id))
        return CreatedDevice(device, token)

    async def get(self, account: str, id: str) -> Device:
        """The account's device. Raises `NotFound`."""
        record = await self._devices.get(scoped(account, id)) if _possible(id) else None
        if record is None:
            raise NotFound(f"no device {id!r}")
        return record.value

    async def of(self, account: str) -> list[Device]:
        """The account's devices, by id."""
        found = [device async for _, device in self._devices.scan(scoped(account, ""))]
        return sorted(found, key=lambda device: device.id)

    async def rename(self, account: str, id: str, name: str) -> Device:
        """Change the name. Raises `NotFound`, `InvalidInput`."""
        name = identity.check_label(name)
        return await self._change(account, id, lambda device: attrs.evolve(device, name=name))

    async def renew_token(self, account: str, id: str) -> CreatedDevice:
        """Give the device a new token; the old one stops working at once. Raises `NotFound`."""
        token = self._new_token()
        old = await self.get(account, id)
        await self._owners.put(identity.hash_token(token), TokenOwner(account, id))
        device = await self._change(
            account, id, lambda device: attrs.evolve(device, token_hash=identity.hash_token(token))
        )
        await self._owners.delete(old.token_hash)
        self._on_revoked(account, id)
        return CreatedDevice(device, token)

    async def remove(self, account: str, id: str) -> Device:
        """Remove a device: its token stops working at once. Raises `NotFound`."""
        device = await self.get(account, id)
        if not await self._devices.delete(scoped(account, id)):
            raise NotFound(f"no device {id!r}")
        await self._owners.delete(device.token_hash)
        self._on_revoked(account, id)
        return device

    async def authenticate(self, token: str) -> Device:
        """The device of a token. Raises `Unauthenticated`."""
        digest = identity.hash_token(token)
        owner = await self._owners.get(digest)
        record = None if owner is None else await self._devices.get(scoped(owner.value.account, owner.value.id))
        # The device's own record decides: an index entry that outlived a renewal opens nothing.
        if record is None or record.value.token_hash != digest:
            raise Unauthenticated("the device token is not valid")
        return record.value

    def _new_token(self) -> str:
        return identity.make_token(identity.DEVICE_PREFIX, self._entropy(identity.ENTROPY_BYTES))

    async def _change(self, account: str, id: str, function: Callable[[Device], Device]) -> Device:
        def change(found: Device | None) -> Device:
            if found is None:
                raise NotFound(f"no device {id!r}")
            return function(found)

        await self.get(account, id)
        device = await self._devices.change(scoped(account, id), change)
        assert device is not None  # noqa: S101 - for the type checker: `change` never returns None
        return device


def _possible(id: str) -> bool:
    """Whether a device can have that id: what can't must not reach a store as a key."""
    try:
        identity.check_device_id(id)
    except InvalidInput:
        return False
    return True
