"""What the handlers of requests work with: one object, made once."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import attrs

from mdashcore import identity
from mdashcore._checked import checked, whole
from mdashcore._errors import AlreadyExists, Busy, Conflict, InvalidInput, LimitReached, NotFound
from mdashcore.hub import Hub
from mdashcore.identity import DeviceKey
from mdashcore.server.auth import Authenticator, Passwords
from mdashcore.server.http.bodies import Bodies
from mdashcore.server.http.forwarded import Proxies
from mdashcore.server.http.root_path import IS_ROOT_PATH
from mdashcore.trio.node import Node

__all__ = ["Service", "ServiceSettings"]

_log = logging.getLogger(__name__)


@attrs.frozen(field_transformer=checked)
class ServiceSettings:
    """The limits of the REST API."""

    max_body: int = 2**20
    """Bytes of a request's body: eight of the largest frames a device can be sent."""

    max_bodies: int = 64 * 2**20
    """Bytes of request bodies in memory at the same time, of all clients: 64 of the largest. Beyond them the body that
    waits the longest for its next piece is given up with 503. An image streams, and does not count."""

    max_image: int = 256 * 2**20
    """Bytes of an uploaded firmware image: it streams through, so this bounds the store's disk, not the memory."""

    max_uploads: int = 32
    """Uploads at the same time, of all accounts. How many of them one account may have, `AccountLimits` says."""

    body_timeout: float = 30.0
    """Seconds that a request's body, or the next piece of an upload, may let itself be waited for."""

    call_timeout: float = 10.0
    """Seconds that a device has for the answer to a call, where the request does not say otherwise."""

    max_call_timeout: float = 120.0
    """Seconds that a request may ask for."""

    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks of the proxies in front of the server."""

    forwarded_header: str | None = None
    """The header in which they tell the client's address: ``X-Forwarded-For``, ``Forwarded``, or another list."""

    hsts_max_age: int = attrs.field(default=365 * 86_400, validator=whole(0))
    """Seconds for which a browser that was here with TLS uses nothing else; 0: it forgets what it was told before."""

    root_path: str = attrs.field(default="", validator=IS_ROOT_PATH)
    """The path below which the server is reached, such as ``/mdash``; empty where it has the host for itself."""

    fast_lane: bool = True
    """Whether the hot requests are answered without a framework. False is for comparing: the answers are the same."""


class InFlight:
    """What accounts do at the same time in this process, with a bound for each account.

    Args:
        limit: the name of the bound: a field of `AccountLimits`.
        most: for each account.
        what: they are, for the error.
    """

    def __init__(self, limit: str, most: int, what: str) -> None:
        self._limit = limit
        self._most = most
        self._what = what
        self._numbers: dict[str, int] = {}

    def of(self, account: str) -> int:
        """How many the account has."""
        return self._numbers.get(account, 0)

    def __len__(self) -> int:
        return sum(self._numbers.values())

    @contextmanager
    def one(self, account: str) -> Iterator[None]:
        """One more, as long as the context lasts. Raises `LimitReached`."""
        present = self.of(account)
        if present >= self._most:
            raise LimitReached(self._limit, f"{present} {self._what} of the account are going on, as many as may")
        self._numbers[account] = present + 1
        try:
            yield
        finally:
            left = self._numbers.pop(account) - 1
            if left:
                self._numbers[account] = left


class Service:
    """Hub, node and authentication, put together."""

    def __init__(self, node: Node, settings: ServiceSettings = ServiceSettings()) -> None:
        self.node = node
        self.hub: Hub = node.hub
        self.settings = settings
        self.passwords: Passwords = Passwords(self.hub.accounts, os.urandom(identity.ENTROPY_BYTES))
        self.authenticator: Authenticator = Authenticator(self.hub, self.passwords)
        self.proxies: Proxies = Proxies(settings.trusted_proxies, settings.forwarded_header)
        self.bodies: Bodies = Bodies(settings.max_bodies)
        limits = self.hub.limits
        self.lists: InFlight = InFlight("lists", limits.lists, "lists")
        self.uploads: InFlight = InFlight("uploads", limits.uploads, "uploads")
        self._devices_uploaded: set[DeviceKey] = set()

    async def ensure_user(self, name: str, password: str, *, admin: bool = False) -> None:
        """Make an account that is missing. One that is there stays as it is: its password costs not even a hash.

        Raises:
            InvalidInput: no account can have this name, or this password.
        """
        accounts = self.hub.accounts
        found = await accounts.get(identity.check_account_name(name))
        if found is not None:
            if admin and not found.admin:
                _log.warning("the user %r is there already, and is no admin: it stays as it is", name)
            return
        digest = await self.passwords.hash(password)
        if await accounts.is_removing(name):
            await self.hub.remove_account(name)  # it was stopped halfway: the new account inherits nothing
        try:
            await accounts.register(name, digest, admin=admin)
        except AlreadyExists:
            pass  # another server has just made it

    async def reset_password(self, name: str, password: str) -> None:
        """Give an account this password, which ends what the old one has opened.

        Raises:
            NotFound: there is no such account.
            InvalidInput: it cannot be a password.
        """
        if await self.hub.accounts.get(name) is None:
            raise NotFound(f"no user {name!r}, whose password could be reset")
        await self.hub.accounts.set_password(name, await self.passwords.hash(password))

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
    def uploading(self, account: str, key: DeviceKey | None = None) -> Iterator[None]:
        """While an image comes in, for a device or for a rollout.

        Raises:
            Conflict: another one of the device comes in.
            LimitReached: the account has as many as it may.
            Busy: the process has.
        """
        if key is not None and key in self._devices_uploaded:
            raise Conflict(f"an image for {key.id!r} is being uploaded already")
        with self.uploads.one(account):
            if len(self.uploads) > self.settings.max_uploads:
                raise Busy(f"{self.settings.max_uploads} uploads are going on")
            if key is not None:
                self._devices_uploaded.add(key)
            try:
                yield
            finally:
                if key is not None:
                    self._devices_uploaded.discard(key)

    async def use(self, account: str) -> dict[str, int]:
        """How much the account has of each of its limits, by name: of the store, and of this process."""
        hub = self.hub
        stored = await hub.usage.of(account)
        rollouts, open_rollouts = await hub.rollouts.use(account)
        return {
            "devices": stored.devices,
            "keys": stored.keys,
            "sessions": await hub.sessions.count(account),
            "rollouts": rollouts,
            "open_rollouts": open_rollouts,
            "image_bytes": stored.all_image_bytes,
            "uploads": self.uploads.of(account),
            "subscribers": self.node.subscribers.of(account),
            "lists": self.lists.of(account),
        }
