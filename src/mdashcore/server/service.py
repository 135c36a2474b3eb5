"""The object that the handlers of requests work with. It is made once."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import attrs

from mdashcore import identity
from mdashcore._checked import checked, whole
from mdashcore._errors import AlreadyExists, Busy, Conflict, InvalidInput, LimitReached, NotFound
from mdashcore.hub import Hub
from mdashcore.identity import DeviceKey
from mdashcore.server.auth import Authenticator, Passwords
from mdashcore.server.auth.passwords import check_threads
from mdashcore.server.health import Health
from mdashcore.server.http.bodies import Bodies
from mdashcore.server.http.forwarded import Proxies
from mdashcore.server.http.root_path import IS_ROOT_PATH
from mdashcore.trio.node import Node

__all__ = ["Service", "ServiceSettings"]

MAX_DOWNLOADS: Final = 128  # downloads of all accounts at the same time: 8 MB in memory, as long as slow clients take

MAX_LOG_PASSES: Final = 16  # passes over whole logs at the same time: those of four accounts, a fifth of a second each

_NUMBER: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9}")

_log = logging.getLogger(__name__)


@attrs.frozen(field_transformer=checked)
class ServiceSettings:
    """The limits of the REST API."""

    max_body: int = 2**20
    """Bytes of a request's body: eight of the largest frames a device can be sent."""

    max_bodies: int = 64 * 2**20
    """Bytes of request bodies in memory at the same time, of all clients: 64 of the largest. Beyond them the body that
    has waited the longest for its next piece is given up with 503. A firmware image is streamed and does not count."""

    max_image: int = 256 * 2**20
    """Bytes of an uploaded firmware image. An image is streamed, so the bound protects the store's disk, not the
    memory."""

    max_connections: int = 4096
    """Connections that are no WebSockets, at the same time. Half a TLS handshake takes 80 KB, so strangers take 330 MB
    at most. Beyond them those end that wait for a request."""

    max_uploads: int = 32
    """Uploads at the same time, of all accounts. `AccountLimits` bounds the uploads of one account."""

    body_timeout: float = 30.0
    """Seconds to wait for a request's body, or for the next piece of an upload."""

    call_timeout: float = 10.0
    """Seconds to wait for a device's answer to a call, if the request does not name a time-out."""

    max_call_timeout: float = 120.0
    """Seconds of the longest time-out that a request may name."""

    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks of the proxies in front of the server."""

    forwarded_header: str | None = None
    """The header in which the proxies pass on the client's address: ``X-Forwarded-For``, ``Forwarded``, or another
    list."""

    hsts_max_age: int = attrs.field(default=365 * 86_400, validator=whole(0))
    """Seconds for which a browser that has used TLS uses nothing else. With 0 browsers forget the earlier value."""

    root_path: str = attrs.field(default="", validator=IS_ROOT_PATH)
    """The path below which the server is reached, such as ``/mdash``. Empty if the server has the host for itself."""

    workers: int = 1
    """Processes that serve the port on this machine. They share its cores, also for the checks of passwords."""

    fast_lane: bool = True
    """Whether the most frequent requests are answered without a framework. `False` is for comparisons: the answers are
    equal."""


class InFlight:
    """Counts the running operations of accounts in this process, with a bound for each account.

    Args:
        limit: the name of the bound, a field of `AccountLimits`.
        most: the bound for each account.
        what: the name of the operations, for the error.
    """

    def __init__(self, limit: str, most: int, what: str) -> None:
        self._limit = limit
        self._most = most
        self._what = what
        self._numbers: dict[str, int] = {}

    def of(self, account: str) -> int:
        """Return the number of the account's running operations."""
        return self._numbers.get(account, 0)

    def __len__(self) -> int:
        return sum(self._numbers.values())

    @contextmanager
    def one(self, account: str) -> Iterator[None]:
        """Count one more operation as long as the context lasts. Raises `LimitReached`."""
        present = self.of(account)
        if present >= self._most:
            words = f"{present} {self._what} of the account are going on, as many as may"
            raise LimitReached(self._limit, words, retry_after=1.0)
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
        self.passwords: Passwords = Passwords(
            self.hub.accounts, os.urandom(identity.ENTROPY_BYTES), threads=check_threads(settings.workers)
        )
        self.authenticator: Authenticator = Authenticator(self.hub, self.passwords)
        self.proxies: Proxies = Proxies(settings.trusted_proxies, settings.forwarded_header)
        self.bodies: Bodies = Bodies(settings.max_bodies)
        self.health: Health = Health(node)
        limits = self.hub.limits
        self.lists: InFlight = InFlight("lists", limits.lists, "lists")
        self.uploads: InFlight = InFlight("uploads", limits.uploads, "uploads")
        self.downloads: InFlight = InFlight("downloads", limits.downloads, "downloads")
        self._devices_uploaded: set[DeviceKey] = set()
        self._log_passes = 0

    async def ensure_user(self, name: str, password: str, *, admin: bool = False) -> bool:
        """Create an account if it is missing. Returns whether it was.

        An existing account stays as it is, and its password is not even hashed.

        Raises:
            InvalidInput: no account can have this name, or this password.
        """
        accounts = self.hub.accounts
        found = await accounts.get(identity.check_account_name(name))
        if found is not None:
            if admin and not found.admin:
                _log.warning("the user %r is there already, and is no admin: it stays as it is", name)
            return False
        digest = await self.passwords.hash(password)
        if await accounts.is_removing(name):
            # an earlier removal was interrupted; the new account must not inherit its data
            await self.hub.remove_account(name)
        try:
            await accounts.register(name, digest, admin=admin)
        except AlreadyExists:
            return False  # another server has just created the account
        return True

    async def reset_password(self, name: str, password: str) -> None:
        """Reset the password of an account. The sessions and sockets of the old password end.

        Raises:
            NotFound: there is no such account.
            InvalidInput: the text cannot be a password.
        """
        if await self.hub.accounts.get(name) is None:
            raise NotFound(f"no user {name!r}, whose password could be reset")
        await self.hub.accounts.set_password(name, await self.passwords.hash(password))

    def call_timeout(self, asked: str | None) -> float:
        """Return the time-out of a call in seconds, as a request asks for it. Raises `InvalidInput`."""
        if asked is None:
            return self.settings.call_timeout
        seconds = float(asked) if _NUMBER.fullmatch(asked) else -1.0
        if not 0 < seconds <= self.settings.max_call_timeout:
            raise InvalidInput(f"timeout is a number of seconds, at most {self.settings.max_call_timeout:g}")
        return seconds

    @contextmanager
    def uploading(self, account: str, key: DeviceKey | None = None) -> Iterator[None]:
        """Count an upload for a device or for a rollout as long as the context lasts.

        Raises:
            Conflict: another upload for the device is running.
            LimitReached: the account has as many uploads as it may have.
            Busy: the process has as many uploads as it may have.
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

    @contextmanager
    def downloading(self, account: str) -> Iterator[None]:
        """Count a download of an image as long as the context lasts.

        Raises:
            LimitReached: the account has as many downloads as it may have.
            Busy: the process has as many as it may have.
        """
        with self.downloads.one(account):
            if len(self.downloads) > MAX_DOWNLOADS:
                raise Busy(f"{MAX_DOWNLOADS} downloads are going on")
            yield

    @contextmanager
    def reading_log(self) -> Iterator[None]:
        """Count a pass over an account's stored notifications as long as the context lasts, beside the account's lists.

        Raises:
            Busy: the process has as many passes as it may have.
        """
        if self._log_passes >= MAX_LOG_PASSES:
            raise Busy(f"{MAX_LOG_PASSES} passes over stored notifications are going on")
        self._log_passes += 1
        try:
            yield
        finally:
            self._log_passes -= 1

    async def use(self, account: str) -> dict[str, int]:
        """Return the account's use of each of its limits, by name, of the store and of this process."""
        hub = self.hub
        stored = await hub.usage.of(account)
        rollouts, open_rollouts = await hub.rollouts.use(account)
        jobs, open_jobs = await hub.jobs.use(account)
        return {
            "devices": stored.devices,
            "keys": stored.keys,
            "sessions": await hub.sessions.count(account),
            "rollouts": rollouts,
            "open_rollouts": open_rollouts,
            "firmware": stored.firmware,
            "jobs": jobs,
            "open_jobs": open_jobs,
            "image_bytes": stored.all_image_bytes,
            "uploads": self.uploads.of(account),
            "downloads": self.downloads.of(account),
            "subscribers": self.node.subscribers.of(account),
            "lists": self.lists.of(account),
        }
