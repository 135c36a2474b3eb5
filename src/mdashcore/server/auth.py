"""From the headers of a request to the account that it acts for."""

from __future__ import annotations

import base64
import binascii
from typing import Final
from urllib.parse import parse_qs

import attrs

from mdashcore._errors import InvalidInput, Unauthenticated
from mdashcore.hub import Hub
from mdashcore.server.passwords import Passwords

__all__ = ["Authenticator", "Principal", "bearer", "query_value"]

MAX_FIELDS: Final = 32  # of a query: nothing here has more than three


@attrs.frozen
class Principal:
    """Who asks."""

    account: str
    admin: bool = False
    """Only for people with a password: a key cannot manage accounts."""
    key: str | None = None
    """The id of the API key, if it was one."""


class Authenticator:
    """Knows people by ``Bearer`` key, ``Basic`` user and password, or ``?access_token=``."""

    def __init__(self, hub: Hub, passwords: Passwords) -> None:
        self._hub = hub
        self._passwords = passwords

    async def authenticate(self, authorization: str | None, query: str = "") -> Principal:
        """Who sent a request.

        Args:
            authorization: the value of that header, if there is one.
            query: the query string as it was sent.

        Raises:
            Unauthenticated: nobody valid.
            Busy: too many wrong passwords.
        """
        if authorization is None:
            token = _access_token(query)
            if token is None:
                raise Unauthenticated("authentication is required: a Bearer API key, or Basic user and password")
            return await self._by_key(token)
        scheme, _, value = authorization.strip().partition(" ")
        if scheme.lower() == "bearer":
            return await self._by_key(value.strip())
        if scheme.lower() == "basic":
            name, password = _basic(value.strip())
            account = await self._passwords.check(name, password)
            return Principal(account.name, admin=account.admin)
        raise Unauthenticated("authentication is required: a Bearer API key, or Basic user and password")

    async def _by_key(self, secret: str) -> Principal:
        key = await self._hub.accounts.authenticate_key(secret)
        return Principal(key.account, key=key.id)


def bearer(authorization: str | None) -> str:
    """The token of a request that can only be authenticated by one: a device's. Raises `Unauthenticated`."""
    scheme, _, value = (authorization or "").strip().partition(" ")
    if scheme.lower() != "bearer" or not value.strip():
        raise Unauthenticated("a device connects with Authorization: Bearer TOKEN")
    return value.strip()


def _access_token(query: str) -> str | None:
    return query_value(query, "access_token") if "access_token=" in query else None


def query_value(query: str, name: str) -> str | None:
    """The first value of that name in a query string. Raises `InvalidInput` for far too many fields."""
    try:
        values = parse_qs(query, keep_blank_values=True, max_num_fields=MAX_FIELDS).get(name)
    except ValueError:
        raise InvalidInput(f"the query has more than {MAX_FIELDS} fields") from None
    return values[0] if values else None


def _basic(value: str) -> tuple[str, str]:
    try:
        name, colon, password = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise Unauthenticated("the Basic credentials cannot be read") from None
    if not colon:
        raise Unauthenticated("the Basic credentials cannot be read")
    return name, password
