"""What the four suites share: how a store is opened, and how a test runs on every event loop."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, TypeVar

import anyio

from mdashcore.storage import Backend

__all__ = ["ODD_KEYS", "TIMES", "StorageSuite", "Test", "at_once"]

TIME_LIMIT = 60.0  # seconds for one test on one loop: what hangs is a failure with a name, not a hanging run

ODD_KEYS = (
    "a", "A", "aa", "a/b", "a//b", "/a", "a/", ".", "..", "../a", "../../etc/passwd", "a/../b", "\\a", "a\\b",
    "nul\0byte", "new\nline", "tab\t", " leading", "trailing ", "dot.", ".hidden", "~", "-rf", "%2e%2e%2f", "%", "%00",
    "*", "?", "[a]", "a*", "a_", "a%", "{a}", "{}", ":", "a:b", "con", "NUL", "caf\u00e9", "cafe\u0301", "\u00c9",
    "\u00df", "SS", "\U0001f600", "\u202egnp.exe", "x" * 300, "x" * 299 + "y", "\u00e9" * 300,
    "'", '"', "; DROP TABLE x",
)  # fmt: skip
"""Keys that have escaped from, or fallen together in, one store or another. All are different keys."""

TIMES = 200  # that a verb is tried, where it must never wait: a store may have to wait now and then only

T = TypeVar("T")

Test = Callable[[Any], Awaitable[None]]


class StorageSuite:
    """The root of every suite. Adopt a suite by subclassing it and giving the one method `open`::

        class TestMyDocuments(DocumentStoreSuite):
            def open(self, name: str) -> AbstractAsyncContextManager[Backend]:
                return open_my_backend(f"my://{FOLDER}/{name}")

    Every test method is a plain function: pytest runs it without a plugin, and so does a loop over `getattr`.
    """

    loops: ClassVar[tuple[str, ...]] = ("asyncio", "trio")
    """The event loops to run every test on. Leave out one that the backend does not support, and say so."""

    def open(self, name: str) -> AbstractAsyncContextManager[Backend]:
        """Open the store called `name`: letters, digits and ``-``.

        A name that was never used is an empty store. A backend with the capability `DURABLE` gives the same data
        when a name is opened again, one with `SHARED` also while it is open.
        """
        raise NotImplementedError

    def run(self, test: Callable[[str], Awaitable[None]]) -> None:
        """Run an async test on every loop, with the name of a fresh store."""
        for loop in self.loops:
            anyio.run(_limited, test, f"{loop}-{uuid.uuid4().hex}", backend=loop)

    def run_open(self, test: Callable[[Backend], Awaitable[None]]) -> None:
        """Run an async test on every loop, with a fresh store that is open."""

        async def opened(name: str) -> None:
            async with self.open(name) as backend:
                await test(backend)

        self.run(opened)

    def run_if(self, capability: str, test: Callable[[str], Awaitable[None]]) -> None:
        """Run a test that only concerns backends with a capability; for others there is nothing to prove."""

        async def checked(name: str) -> None:
            async with self.open(name) as backend:
                able = capability in backend.capabilities
            if able:
                await test(name)

        self.run(checked)


def at_once(verb: Coroutine[Any, Any, T]) -> T:
    """What a verb returns, or raises, that waits for nothing; one that does wait fails the test."""
    try:
        verb.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    verb.close()
    raise AssertionError("a verb of a backend that claims to be INSTANT has waited")


async def _limited(test: Callable[[str], Awaitable[None]], name: str) -> None:
    with anyio.fail_after(TIME_LIMIT):
        await test(name)
