"""Passwords: Argon2id at a bounded cost.

One check takes 64 MB and, on a slow machine, a quarter of a second of a core. HTTP Basic asks for one with every
request. Four measures bound the cost. A password that was right a moment ago is recognised by a keyed digest. At most
half of the cores check passwords. A queue decides which login is next (`login_queue`). Guessing ends after a few tries
(`login_failures`).
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, NamedTuple, TypeVar

import argon2
import attrs
import trio

from mdashcore import identity
from mdashcore._errors import Busy, InvalidInput, StorageError, Unauthenticated
from mdashcore.hub.accounts import Accounts
from mdashcore.identity import Account
from mdashcore.server.auth.login_failures import FAILURE_WINDOW, LOCK_TIME, LoginFailures
from mdashcore.server.auth.login_log import LoginLog
from mdashcore.server.auth.login_queue import LoginQueue, Ticket
from mdashcore.server.networks import network_of

__all__ = ["Passwords", "check_threads"]

MAX_THREADS: Final = 4  # checks at the same time: 256 MB, and a hundred first logins a second on a fast machine

MAX_LOGIN_WAIT: Final = 10.0  # seconds in the queue: browsers and people wait no longer

REFUSAL_DELAY: Final = 1.0  # seconds before a login that is not checked is answered: a loop of such logins costs little
MAX_DELAYED: Final = 1024  # answers delayed at the same time: beyond, waiting would cost more than answering

REMEMBER_TIME: Final = 300.0  # seconds since its last use for which a right password is accepted without a new check
MAX_REMEMBERED: Final = 4096  # right passwords, at 200 bytes each: those that were used last

MAX_PASSWORD: Final = 1024  # characters: longer text is no password, and hashing it takes time
MIN_PASSWORD: Final = 1  # character: users judge themselves what a good password is

T = TypeVar("T")

WRONG_PASSWORD: Final = "the user name or the password is wrong"  # noqa: S105 - what the caller is told


def check_threads(processes: int = 1) -> int:
    """Return the number of passwords checked at the same time: half of the cores, so that devices have the others.

    Args:
        processes: the number of servers that share the cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MAX_THREADS, cores // 2 // processes))


class _Verdict(NamedTuple):
    right: bool
    new_hash: str | None = None
    """A new hash of the right password, if the present one was made with other parameters."""


class Passwords:
    """Hashes passwords, and checks them for accounts.

    Args:
        secret: random bytes that only this process needs.
        hasher: the default is the library's (RFC 9106, 64 MB in three passes), in one thread for each check.
        threads: the number of checks at the same time.
        refusal_delay: seconds before a login that is not checked is answered.
    """

    def __init__(
        self,
        accounts: Accounts,
        secret: bytes,
        hasher: argon2.PasswordHasher | None = None,
        *,
        threads: int | None = None,
        refusal_delay: float = REFUSAL_DELAY,
    ) -> None:
        self._accounts = accounts
        self._secret = secret
        self._hasher = hasher or argon2.PasswordHasher(parallelism=1)
        self._turns = _LoginThreads(threads or check_threads())
        self._failures = LoginFailures()
        self._log = LoginLog()
        self._remembered: OrderedDict[bytes, float] = OrderedDict()  # with the time at which each expires
        self._dummy = ""
        self._refusal_delay = refusal_delay
        self._delayed = 0

    @property
    def waiting(self) -> int:
        """The number of logins that wait for the check of a password."""
        return self._turns.waiting

    async def hash(self, password: object, *, name: str = "", address: str = "") -> str:
        """Hash a password. Returns the hash in PHC string format.

        Args:
            name: the account of the caller, which waits for its turn as for a login.
            address: the IP address of the account's client.

        Raises:
            InvalidInput: the value cannot be a password.
            Busy: too many logins at the same time.
        """
        if not isinstance(password, str) or not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
            raise InvalidInput(f"a password is text of {MIN_PASSWORD} to {MAX_PASSWORD} characters")
        if identity.is_key(password):
            raise InvalidInput("a password that looks like an API key would be taken for one")
        ticket = Ticket(network_of(address), name, known=True)
        async with self._turns.wait(ticket):
            hashed = await self._turns.run(lambda: self._hasher.hash(_bytes(password)))
            self._turns.succeeded(ticket)
        return hashed

    async def check(self, name: str, password: str, address: str = "") -> Account:
        """Return the account of that name, if this is its password.

        Args:
            address: the client's IP address. Other text counts as the name of one client.

        Raises:
            Unauthenticated: no such account, or another password. Both take equally long.
            Busy: too many wrong passwords lately, or too many checks at the same time.
        """
        network = network_of(address)
        if not _possible(name, password):
            self._log.impossible(address, name, trio.current_time())
            await self._delay()
            raise Unauthenticated(WRONG_PASSWORD)
        account = await self._accounts.get(name)
        if account is not None and self._recall(network, account, password):
            return account
        ticket = Ticket(network, name, known=self._failures.is_known(network, name))
        try:
            self._failures.check(network, name, trio.current_time())
            async with self._turns.wait(ticket):
                # other logins were tried while this one waited
                self._failures.check(network, name, trio.current_time())
                verdict = await self._verify(account, password)
                # of many at the same time only the first few count
                self._failures.check(network, name, trio.current_time())
                if verdict.right:
                    self._turns.succeeded(ticket)
        except Busy:
            await self._delay()
            raise
        if not verdict.right or account is None:
            self._fail(network, name, address)
            raise Unauthenticated(WRONG_PASSWORD)
        self._failures.succeed(network, name)
        self._remember(network, account, password)
        if verdict.new_hash is not None:
            await self._replace_hash(account, verdict.new_hash)
        return account

    async def _verify(self, account: Account | None, password: str) -> _Verdict:
        if account is None and not self._dummy:
            # This takes as long as for an existing account. Otherwise the time would reveal which names exist.
            self._dummy = await self._turns.run(lambda: self._hasher.hash(b"no account has this"))
        expected = self._dummy if account is None else account.password_hash
        text = _bytes(password)

        def verify() -> _Verdict:
            try:
                self._hasher.verify(expected, text)
            except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
                return _Verdict(right=False)
            if self._hasher.check_needs_rehash(expected):
                return _Verdict(True, self._hasher.hash(text))
            return _Verdict(right=True)

        return await self._turns.run(verify)

    async def _replace_hash(self, account: Account, new_hash: str) -> None:
        """Store a right password's hash with the present parameters. A failure does not fail the login."""
        try:
            await self._accounts.replace_hash(account, new_hash)
        except (StorageError, Busy):
            pass  # the next login tries again

    def _fail(self, network: str, name: str, address: str) -> None:
        self._log.failed(address, name)
        locked, closed = self._failures.fail(network, name, trio.current_time())
        if locked:
            self._log.locked(address, name, LOCK_TIME)
        if closed:
            self._log.closed(address, name, FAILURE_WINDOW)

    async def _delay(self) -> None:
        """Delay the answer to a login that is not checked, so that a client's retries cost the server little."""
        if self._delayed >= MAX_DELAYED:
            return
        self._delayed += 1
        try:
            await trio.sleep(self._refusal_delay)
        finally:
            self._delayed -= 1

    # Right passwords that were used lately

    def _recall(self, network: str, account: Account, password: str) -> bool:
        """Return whether this password was right a moment ago, from this network.

        This counts also while the name is locked, so that guesses of strangers do not shut out a client that is logged
        in.
        """
        now = trio.current_time()
        digest = self._digest(network, account, password)
        if self._remembered.get(digest, 0.0) <= now or self._failures.is_deaf(network, account.name, now):
            return False
        self._keep(digest, now)
        return True

    def _remember(self, network: str, account: Account, password: str) -> None:
        self._keep(self._digest(network, account, password), trio.current_time())

    def _keep(self, digest: bytes, now: float) -> None:
        self._remembered[digest] = now + REMEMBER_TIME
        self._remembered.move_to_end(digest)
        if len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)

    def _digest(self, network: str, account: Account, password: str) -> bytes:
        """Return a digest that changes with the password, so that an old password is not accepted."""
        parts = "\0".join((network, account.name, account.credential, password))
        return hmac.digest(self._secret, _bytes(parts), hashlib.sha256)


class _LoginThreads:
    """Gives the threads to the logins in the order of `LoginQueue`."""

    def __init__(self, threads: int) -> None:
        self._limiter = trio.CapacityLimiter(threads)
        self._free = threads
        self._queue = LoginQueue()
        self._tasks: dict[Ticket, _Waiting] = {}

    @property
    def waiting(self) -> int:
        """The number of logins that wait for a turn."""
        return len(self._queue)

    @asynccontextmanager
    async def wait(self, ticket: Ticket) -> AsyncIterator[None]:
        """Hold a thread's turn as long as the context lasts. Raises `Busy` if the turn does not come in time."""
        now = trio.current_time()
        self._queue.count(ticket, now)
        if self._free > 0:
            self._free -= 1
        else:
            await self._wait(ticket, now)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, ticket: Ticket, now: float) -> None:
        waiting = self._tasks[ticket] = _Waiting()
        try:
            if (last := self._queue.join(ticket, now)) is not None:
                self._tasks[last].done.set()  # refused
            with trio.move_on_after(MAX_LOGIN_WAIT):
                await waiting.done.wait()
        except BaseException:
            if waiting.granted:
                self._pass_on()
            raise
        finally:
            self._queue.leave(ticket)
            del self._tasks[ticket]
        if not waiting.granted:
            raise Busy("too many logins at once", retry_after=MAX_LOGIN_WAIT)

    def _pass_on(self) -> None:
        """Give the turn to the next login."""
        ticket = self._queue.next(trio.current_time())
        if ticket is None:
            self._free += 1
        else:
            self._tasks[ticket].granted = True
            self._tasks[ticket].done.set()

    def succeeded(self, ticket: Ticket) -> None:
        """Take the counted attempt of a login back, because it has succeeded."""
        self._queue.forgive(ticket, trio.current_time())

    async def run(self, work: Callable[[], T]) -> T:
        """Run a function in a thread and return its result. Only the holder of a turn may call this."""
        return await trio.to_thread.run_sync(work, limiter=self._limiter)


@attrs.define(eq=False)
class _Waiting:
    done: trio.Event = attrs.field(factory=trio.Event)
    granted: bool = False
    """Whether the turn has come. If not, the login was refused."""


def _possible(name: str, password: str) -> bool:
    """Return whether name and password can be valid at all. A login that cannot be valid must cost nothing."""
    try:
        identity.check_account_name(name)
    except InvalidInput:
        return False
    return MIN_PASSWORD <= len(password) <= MAX_PASSWORD and not identity.is_key(password)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
