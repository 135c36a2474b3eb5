"""The root of the four suites: it opens a store, and runs a test on every event loop."""

from __future__ import annotations

import sys
import threading
import traceback
import unittest
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ClassVar, Final, TypeVar

import anyio

from mdashcore._errors import StorageError
from mdashcore.storage import DURABLE, Backend
from mdashcore.testing._kill import Acknowledge, kill_while_writing

__all__ = [
    "CANCEL_STEPS",
    "INSTANT_TRIES",
    "MANY_RECORDS",
    "ODD_KEYS",
    "StorageSuite",
    "Test",
    "cancel_after",
    "chunks_of",
    "expect_failure",
    "run_immediately",
]

HANG_GRACE: Final = 5.0  # seconds for a test to end by itself after its limit; a verb that blocks the loop does not

MANY_RECORDS: Final = 1100  # documents, blobs: more than a page of any store that reads in pages of a thousand

CANCEL_STEPS: Final = 40  # turns of the event loop, after each of which a verb is cancelled: no verb waits more often

ODD_KEYS = (
    "a", "A", "aa", "a/b", "a//b", "/a", "a/", ".", "..", "../a", "../../etc/passwd", "a/../b", "\\a", "a\\b",
    "nul\0byte", "new\nline", "tab\t", " leading", "trailing ", "dot.", ".hidden", "~", "-rf", "%2e%2e%2f", "%", "%00",
    "*", "?", "[a]", "a*", "a_", "a%", "{a}", "{}", ":", "a:b", "con", "NUL", "caf\u00e9", "cafe\u0301", "\u00c9",
    "\u00df", "SS", "\U0001f600", "\uff41", "\u202egnp.exe", "x" * 300, "x" * 299 + "y", "\u00e9" * 300,
    "'", '"', "; DROP TABLE x",
    "x" * 384, "x" * 385, "x" * 511 + "y", "x" * 512, "\u20ac" * 500, "\u20ac" * 499 + "\u20ad", "\U0001f600" * 512,
)  # fmt: skip
"""Keys that have escaped from one store or another, or were taken for one key. All are different.

The longest has 512 characters, and 2 048 bytes in UTF-8. A file's name, for example, has 255 at most.
"""

INSTANT_TRIES = 200  # tries of a verb that must never wait: a store may wait only now and then

T = TypeVar("T")

Test = Callable[[Any], Awaitable[None]]


class StorageSuite:
    """The root of every suite. To adopt a suite, subclass it and define the one method `open`::

        class TestMyDocuments(DocumentStoreSuite):
            def open(self, name: str) -> AbstractAsyncContextManager[Backend]:
                return open_my_backend(f"my://{FOLDER}/{name}")

    Every test method is a plain function: pytest runs it without a plugin, and so does a loop over `getattr`. A test of
    a capability that the backend does not claim raises `unittest.SkipTest`, which pytest shows as skipped.
    """

    loops: ClassVar[tuple[str, ...]] = ("asyncio", "trio")
    """The event loops to run every test on. Leave out one that the backend does not support, and document that."""

    time_limit: ClassVar[float] = 60.0
    """Seconds for one test on one loop. A test that hangs fails by name, also if it blocks the event loop or a
    thread.
    """

    def open(self, name: str) -> AbstractAsyncContextManager[Backend]:
        """Open the store called `name`: letters, digits and ``-``.

        A name that was never used is an empty store. A backend with the capability `DURABLE` gives the same data
        when a name is opened again, one with `SHARED` also while it is open.
        """
        raise NotImplementedError

    def failing(self, name: str, backend: Backend) -> AbstractAsyncContextManager[None]:
        """Make the system below the open store fail for as long as the context lasts, and work again after it.

        Optional: a suite that defines it proves that every failure is a `StorageError` with its cause. Stop the server,
        close the connection, take the disk away; at least one verb of each kind of store that is tested has to fail.

        Args:
            name: the name of the store, as `open` got it.
            backend: the open store.
        """
        raise NotImplementedError

    def run_on(self, loop: str, test: Callable[[str], Awaitable[None]], name: str) -> None:
        """Run an async test on one loop, in a thread of its own, so that the suite can go on if the test hangs.

        Raises:
            AssertionError: the test did not end in time. The text shows its stack, and that of the threads it started.
        """
        outcome: list[BaseException] = []
        known = set(threading.enumerate())

        def run() -> None:
            try:
                anyio.run(_limited, test, name, self.time_limit, backend=loop)
            except BaseException as exc:  # raised below, in the caller's thread
                outcome.append(exc)

        thread = threading.Thread(target=run, name=f"{type(self).__name__} on {loop}", daemon=True)
        thread.start()
        thread.join(self.time_limit + HANG_GRACE)
        if thread.is_alive():
            raise AssertionError(f"{_test_name()} hangs on {loop} for more than {self.time_limit:g} s\n{_where(known)}")
        if outcome:
            raise outcome[0]

    def run_open(self, test: Callable[[Backend], Awaitable[None]]) -> None:
        """Run an async test on every loop, with an open, fresh store."""
        for loop in self.loops:
            self._run_open_on(loop, test)

    def run_open_once(self, test: Callable[[Backend], Awaitable[None]]) -> None:
        """Run an async test on the first loop only, because it takes long and does not depend on the loop."""
        self._run_open_on(self.loops[0], test)

    def _run_open_on(self, loop: str, test: Callable[[Backend], Awaitable[None]]) -> None:
        async def opened(name: str) -> None:
            async with self.open(name) as backend:
                await test(backend)

        self.run_on(loop, opened, f"{loop}-{uuid.uuid4().hex}")

    def run_if(self, capability: str, test: Callable[[str], Awaitable[None]]) -> None:
        """Run a test that only concerns backends with a capability. Raises `unittest.SkipTest` for others."""

        for loop in self.loops:
            self.run_on(loop, test, self.name_if(capability, loop))

    def run_killed(
        self,
        write: Callable[[Backend, Acknowledge], Awaitable[None]],
        check: Callable[[Backend, int], Awaitable[None]],
        *,
        after: int,
    ) -> None:
        """Kill a process that writes to a store, on every loop, and open the store again.

        Args:
            write: writes for ever, and acknowledges each write when it has returned.
            check: gets the store and the number of acknowledged writes.
            after: acknowledgements after which the process is killed.

        Raises:
            unittest.SkipTest: the backend is not `DURABLE`, or the system cannot fork.
        """
        for loop in self.loops:
            name = self.name_if(DURABLE, loop)

            async def write_for_ever(acknowledge: Acknowledge, name: str = name) -> None:
                async with self.open(name) as backend:
                    await write(backend, acknowledge)

            count = kill_while_writing(loop, write_for_ever, after=after)

            async def check_opened(name: str, count: int = count) -> None:
                async with self.open(name) as backend:
                    await check(backend, count)

            self.run_on(loop, check_opened, name)

    def name_if(self, capability: str, loop: str) -> str:
        """Return the name of a fresh store. Raises `unittest.SkipTest` if its backend lacks a capability."""
        capabilities: list[str] = []

        async def look(name: str) -> None:
            async with self.open(name) as backend:
                capabilities.extend(backend.capabilities)

        name = f"{loop}-{uuid.uuid4().hex}"
        self.run_on(loop, look, name)
        if capability not in capabilities:
            raise unittest.SkipTest(f"the backend does not say that it is {capability}")
        return name

    def run_failing(self, test: Callable[[Backend, Callable[[], AbstractAsyncContextManager[None]]], Any]) -> None:
        """Run an async test with an open store, and with a context manager that makes the store fail.

        Raises:
            unittest.SkipTest: the suite does not define `failing`.
        """
        if type(self).failing is StorageSuite.failing:
            raise unittest.SkipTest("the suite does not say how to make the store fail: StorageSuite.failing")

        for loop in self.loops:
            name = f"{loop}-{uuid.uuid4().hex}"

            async def opened(name: str) -> None:
                async with self.open(name) as backend:
                    await test(backend, lambda: self.failing(name, backend))

            self.run_on(loop, opened, name)


def run_immediately(verb: Coroutine[Any, Any, T]) -> T:
    """Run a verb without a task, and return its result or raise its error. Fails if the verb waits."""
    try:
        verb.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    verb.close()
    raise AssertionError("a verb of a backend that claims to be INSTANT has waited")


async def cancel_after(steps: int, verb: Callable[[], Awaitable[object]]) -> bool:
    """Start a verb, and cancel it after `steps` turns of the event loop. Returns whether it had ended before."""
    ended = False

    async def run() -> None:
        nonlocal ended
        with scope:
            await verb()
            ended = True

    scope = anyio.CancelScope()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()
        scope.cancel()
    return ended


async def chunks_of(data: bytes, size: int) -> AsyncIterator[bytes]:
    """Yield bytes as the source of a blob, in chunks of a size."""
    for start in range(0, len(data), size):
        yield data[start : start + size]
        await anyio.lowlevel.checkpoint()


@asynccontextmanager
async def expect_failure(failures: list[StorageError]) -> AsyncIterator[None]:
    """Append the `StorageError` of a verb to a list; it must have a cause. Any other error fails the test."""
    try:
        yield
    except StorageError as exc:
        assert exc.__cause__ is not None, f"{exc!r} does not say what failed: raise it from the library's own error"
        failures.append(exc)


async def _limited(test: Callable[[str], Awaitable[None]], name: str, limit: float) -> None:
    with anyio.fail_after(limit):
        await test(name)


def _test_name() -> str:
    """Return the name of the running test of the suite."""
    names = [summary.name for summary in traceback.extract_stack() if summary.name.startswith("test_")]
    return names[-1] if names else "a test"


def _where(known: set[threading.Thread]) -> str:
    """Return the stack of every thread that is not in `known`, as text."""
    frames = sys._current_frames()
    return "\n".join(
        f"thread {thread.name}:\n" + "".join(traceback.format_stack(frames[thread.ident]))
        for thread in threading.enumerate()
        if thread not in known and thread.ident in frames
    )
