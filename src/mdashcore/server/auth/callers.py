"""The caller of a request, by the name under which records remember it."""

from __future__ import annotations

from mdashcore.hub.accounts import Accounts
from mdashcore.server.auth.authenticator import Principal

__all__ = ["caller_name"]


async def caller_name(accounts: Accounts, principal: Principal) -> str:
    """Return the name of the user, or of the API key: its id, if it has no name.

    A record keeps it as text, because it outlives the key. Raises `StorageError`.
    """
    if principal.key is None:
        return principal.account
    keys = await accounts.keys(principal.account)
    return next((key.name for key in keys if key.id == principal.key and key.name), principal.key)
