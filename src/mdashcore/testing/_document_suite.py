"""The root of the suites for document stores."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio

from mdashcore import _json
from mdashcore._errors import VersionConflict
from mdashcore.storage import Backend, DocumentStore
from mdashcore.testing._suite import StorageSuite

__all__ = ["DOCUMENT_ROUNDS", "DOCUMENT_WRITERS", "DocumentSuite", "expect_conflict", "expect_value", "increment"]

DOCUMENT_WRITERS: Final = 16  # concurrent tasks: enough for a race to show, few enough for a store that writes to disk
DOCUMENT_ROUNDS: Final = 5


class DocumentSuite(StorageSuite):
    """Runs tests on the documents of a backend."""

    def on_documents(self, test: Callable[[DocumentStore], Awaitable[None]]) -> None:
        """Run an async test on every loop, with a fresh document store."""

        async def opened(backend: Backend) -> None:
            await test(backend.documents)

        self.run_open(opened)


async def increment(documents: DocumentStore) -> int:
    """Count up by compare-and-set. Returns the version that was written."""
    while True:
        found = await documents.get("things", "k")
        assert found is not None
        try:
            return await documents.put("things", "k", b"%d" % (int(found.body) + 1), expected=found.version)
        except VersionConflict:
            await anyio.lowlevel.checkpoint()


async def expect_conflict(operation: Awaitable[object], expected: int, actual: int) -> None:
    """Assert that a verb raises `VersionConflict` with these versions."""
    try:
        await operation
    except VersionConflict as exc:
        assert (exc.expected, exc.actual) == (expected, actual)
        return
    raise AssertionError(f"expected={expected} was not heeded")


def expect_value(body: bytes, value: Any) -> None:
    """Assert that it is the same JSON value: numbers exact and of their kind, keys in their order."""
    assert repr(_json.decode(body)) == repr(value)
