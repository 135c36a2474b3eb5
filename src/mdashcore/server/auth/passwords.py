"""Passwords: Argon2id at a bounded cost.

One check takes about 30 ms of a core and 64 MB, and HTTP Basic would ask for it with every request. So a password
that was right a moment ago is known again by a keyed digest, the checks that do run share two threads, and who
guesses is stopped after a few tries.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from typing import Final

import argon2
import attrs
import trio

from mdashcore._errors import Busy, InvalidInput, Unauthenticated
from mdashcore.hub.accounts import Accounts
from mdashcore.identity import Account

__all__ = ["Passwords"]

THREADS: Final = 2  # checks at a time: 128 MB, and the event loop keeps a core
MAX_WAITING: Final = 64  # checks that wait for a thread: the last waits about a second

REMEMBER: Final = 300.0  # seconds that a right password is known without a new check
MAX_REMEMBERED: Final = 1024  # right passwords: far more than people who log in within those seconds

MAX_FAILURES: Final = 10  # wrong passwords for one name; then it is locked
LOCK: Final = 60.0  # seconds: 10 guesses a minute search nothing
MAX_TRACKED: Final = 4096  # names with failures
MAX_NAME: Final = 64  # characters: no account has a longer name, and names with failures are kept

MAX_PASSWORD: Final = 1024  # characters: more is no password, and hashing it is work
MIN_PASSWORD: Final = 1  # character: what is a good password, those who choose it judge


@attrs.define
class _Failures:
    count: int
    until: float


class Passwords:
    """Hashes passwords, and checks them for accounts.

    Args:
        secret: random bytes; only this process ever needs them.
    """

    def __init__(self, accounts: Accounts, secret: bytes, hasher: argon2.PasswordHasher | None = None) -> None:
        self._accounts = accounts
        self._secret = secret
        self._hasher = hasher or argon2.PasswordHasher()
        self._limiter = trio.CapacityLimiter(THREADS)
        self._remembered: OrderedDict[bytes, float] = OrderedDict()
        self._failures: OrderedDict[str, _Failures] = OrderedDict()
        self._dummy = ""

    async def hash(self, password: object) -> str:
        """The password's hash, in PHC string format. Raises `InvalidInput` for what cannot be one."""
        if not isinstance(password, str) or not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
            raise InvalidInput(f"a password is text of {MIN_PASSWORD} to {MAX_PASSWORD} characters")
        text = password.encode("utf-8", "surrogatepass")
        return await trio.to_thread.run_sync(self._hasher.hash, text, limiter=self._limiter)

    async def check(self, name: str, password: str) -> Account:
        """The account of that name, if this is its password.

        Raises:
            Unauthenticated: no such account, or another password; which, takes equally long to say.
            Busy: too many wrong passwords for this name lately, or too many checks at once.
        """
        if len(name) > MAX_NAME:
            raise Unauthenticated("the user name or the password is wrong")
        account = await self._accounts.get(name)
        digest = self._digest(name, password, account)
        now = trio.current_time()
        if account is not None and self._remembered.get(digest, 0.0) > now:
            return account  # also while the name is locked: who guesses must not shut out who is in already
        self._check_lock(name)
        if self._limiter.statistics().tasks_waiting >= MAX_WAITING:
            raise Busy("too many logins at once")
        if len(password) > MAX_PASSWORD or not await self._verify(account, password) or account is None:
            self._fail(name)
            raise Unauthenticated("the user name or the password is wrong")
        self._check_lock(name)  # of many guesses at the same time, too, only the first few count
        self._failures.pop(name, None)
        self._remembered[digest] = trio.current_time() + REMEMBER
        if len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        return account

    async def _verify(self, account: Account | None, password: str) -> bool:
        if account is None:
            # As much work as for an account that exists, or the time would tell which names do.
            self._dummy = self._dummy or await self.hash("no account has this")
        expected = self._dummy if account is None else account.password_hash
        text = password.encode("utf-8", "surrogatepass")
        try:
            return await trio.to_thread.run_sync(self._hasher.verify, expected, text, limiter=self._limiter)
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False

    def _digest(self, name: str, password: str, account: Account | None) -> bytes:
        """Changes with the password's hash, so that a changed password is not remembered."""
        current = "" if account is None else account.password_hash
        parts = "\0".join((name, current, password)).encode("utf-8", "surrogatepass")
        return hmac.digest(self._secret, parts, hashlib.sha256)

    def _check_lock(self, name: str) -> None:
        failures = self._failures.get(name)
        if failures is None or failures.count < MAX_FAILURES:
            return
        left = failures.until - trio.current_time()
        if left > 0:
            raise Busy("too many wrong passwords for this user; try again later", retry_after=left)
        del self._failures[name]

    def _fail(self, name: str) -> None:
        failures = self._failures.setdefault(name, _Failures(0, 0.0))
        failures.count += 1
        failures.until = trio.current_time() + LOCK
        self._failures.move_to_end(name)
        if len(self._failures) > MAX_TRACKED:
            self._failures.popitem(last=False)
