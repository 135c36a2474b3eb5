"""What the handlers of requests work with: one object, made once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import attrs

from mdashcore import identity
from mdashcore._errors import Busy, Conflict, InvalidInput
from mdashcore.hub import Hub
from mdashcore.server.auth import Authenticator
from mdashcore.server.auth.passwords import Passwords
from mdashcore.trio.node import Node

__all__ = ["Service", "ServiceSettings"]


@attrs.frozen
class ServiceSettings:
    """The limits of the REST API."""

    max_body: int = 2**20
    """Bytes of a request's body: eight of the largest frames a device can be sent."""

    max_image: int = 256 * 2**20
    """Bytes of an uploaded firmware image: it streams through, so this bounds the store's disk, not the memory."""

    max_uploads: int = 32
    """Uploads at the same time, of all accounts."""

    max_uploads_per_account: int = 8
    """Of those, of one account: nobody can take all."""

    body_timeout: float = 30.0
    """Seconds that a request's body, or the next piece of an upload, may let itself be waited for."""

    call_timeout: float = 10.0
    """Seconds that a device has for the answer to a call, where the request does not say otherwise."""

    max_call_timeout: float = 120.0
    """Seconds that a request may ask for."""

    fast_lane: bool = True
    """Whether the hot requests are answered without a framework. False is for comparing: the answers are the same."""


class Service:
    """Hub, node and authentication, put together."""

    def __init__(self, node: Node, settings: ServiceSettings = ServiceSettings()) -> None:
        self.node = node
        self.hub: Hub = node.hub
        self.settings = settings
        self.passwords = Passwords(self.hub.accounts, os.urandom(identity.ENTROPY_BYTES))
        self.authenticator = Authenticator(self.hub, self.passwords)
        self._uploads: set[tuple[str, str]] = set()

    async def ensure_user(self, name: str, password: str, *, admin: bool = False) -> None:
        """Make the account, or give it this password. Raises `InvalidInput`."""
        digest = await self.passwords.hash(password)
        if await self.hub.accounts.is_removing(name):
            await self.hub.remove_account(name)  # it was stopped halfway: who is made now inherits nothing
        if await self.hub.accounts.get(identity.check_account_name(name)) is None:
            await self.hub.accounts.register(name, digest, admin=admin)
        else:
            await self.hub.accounts.set_password(name, digest, admin=admin)

    def call_timeout(self, asked: str | None) -> float:
        """The time-out of a call in seconds, as a request asks for it. Raises `InvalidInput`."""
        if asked is None:
            return self.settings.call_timeout
        try:
            seconds = float(asked)
        except ValueError:
            seconds = -1.0
        if not 0 < seconds <= self.settings.max_call_timeout:
            raise InvalidInput(f"timeout is a number of seconds, at most {self.settings.max_call_timeout:g}")
        return seconds

    @contextmanager
    def uploading(self, account: str, device: str) -> Iterator[None]:
        """While an upload comes in. Raises `Conflict` for a second one of a device, `Busy` for too many."""
        if (account, device) in self._uploads:
            raise Conflict(f"an image for {device!r} is being uploaded already")
        own = sum(1 for other, _ in self._uploads if other == account)
        if len(self._uploads) >= self.settings.max_uploads or own >= self.settings.max_uploads_per_account:
            raise Busy(f"{own} uploads of yours are going on, {len(self._uploads)} together")
        self._uploads.add((account, device))
        try:
            yield
        finally:
            self._uploads.discard((account, device))
