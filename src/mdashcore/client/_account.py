"""The account itself, and its keys."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final, cast

from mdashcore.client._http import Resource
from mdashcore.documents import CreatedKey, KeyDocument, LimitsDocument, MeDocument

__all__ = ["AccountRequests"]

BACKUP_TIMEOUT: Final = 60.0  # seconds for the next piece: the store reads it meanwhile


class AccountRequests(Resource):
    """What `Client` does with the account and its keys."""

    def backup(self) -> AsyncGenerator[bytes, None]:
        """Yield everything that the service keeps, as JSON lines in pieces. For admins, with name and password.

        It is whole if the last line has ``"end": true``.
        """
        return self._http.stream("backup", timeout=BACKUP_TIMEOUT)

    async def me(self) -> MeDocument:
        """Return the account's name, and whether these credentials may manage users."""
        return cast(MeDocument, await self._http.fetch("GET", "me"))

    async def limits(self) -> LimitsDocument:
        """Return the limits of the account, and its use of them."""
        return cast(LimitsDocument, await self._http.fetch("GET", "limits"))

    async def keys(self) -> list[KeyDocument]:
        """Return the account's keys, without their secrets."""
        return cast(list[KeyDocument], await self._http.fetch("GET", "keys"))

    async def create_key(self, name: str = "") -> CreatedKey:
        """Create a key. Its secret is shown this once."""
        return cast(CreatedKey, await self._http.fetch("POST", "keys", json={"name": name}))

    async def remove_key(self, id: str) -> None:
        """Remove a key. Its sockets are closed. Raises `NotFound`."""
        await self._http.request("DELETE", "keys", id)
