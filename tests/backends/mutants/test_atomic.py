"""Steps that write a document without its entry, or an entry without its document, each in one way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import pytest

from mdash_backends.memory import MemoryBlobs, MemoryBus, MemoryDocuments, MemoryLogs, MemoryStep
from mdashcore._errors import InvalidInput, StorageError
from mdashcore.storage import ATOMIC, Backend
from mdashcore.testing import BackendSuite


class AppendsFirst(MemoryStep):
    """Finds the conflict when the entry is written already."""

    async def __call__(self, *document: Any, expected: int, log: str, time: float, entry: bytes) -> tuple[int, int]:
        offset = await self._logs.append(log, time, (entry,))
        return await self._documents.put(*document, expected=expected), offset


class ComparesBefore(MemoryStep):
    """Compares, and writes later: two writers of one version both succeed."""

    async def __call__(self, *document: Any, expected: int, log: str, time: float, entry: bytes) -> tuple[int, int]:
        collection, key, body = document
        if expected:
            found = await self._documents.get(collection, key)
            await anyio.lowlevel.checkpoint()
            if found is not None and found.version == expected:
                expected = None  # type: ignore[assignment]
        version = await self._documents.put(collection, key, body, expected=expected)
        return version, await self._logs.append(log, time, (entry,))


class CanBeCancelledBetween(MemoryStep):
    """Two writes, one after the other."""

    async def __call__(self, *document: Any, expected: int, log: str, time: float, entry: bytes) -> tuple[int, int]:
        version = await self._documents.put(*document, expected=expected)
        await anyio.lowlevel.checkpoint()
        return version, await self._logs.append(log, time, (entry,))


class FailsBetween(MemoryStep):
    """Leaves the document where the entry has failed."""

    fails = False

    async def __call__(self, *document: Any, expected: int, log: str, time: float, entry: bytes) -> tuple[int, int]:
        version = await self._documents.put(*document, expected=expected)
        if self.fails:
            raise StorageError("the disk is full")
        return version, await self._logs.append(log, time, (entry,))


class GivesOthersResults(MemoryStep):
    """Gives a writer of a group the offset of another one."""

    async def __call__(self, *document: Any, expected: int, log: str, time: float, entry: bytes) -> tuple[int, int]:
        version, _ = await super().__call__(*document, expected=expected, log=log, time=time, entry=entry)
        await anyio.lowlevel.checkpoint()
        return version, await self._logs.end(log) - 1


class WritesElsewhere(MemoryStep):
    """Writes to other stores than those beside it, as where one of them was replaced."""

    def __init__(self, documents: MemoryDocuments, logs: MemoryLogs) -> None:
        super().__init__(MemoryDocuments(), logs)


def suite_of(step: type[MemoryStep]) -> BackendSuite:
    """The suite of a store in memory with that step."""

    class Suite(BackendSuite):
        @asynccontextmanager
        async def opened(self, name: str) -> AsyncIterator[Backend]:
            documents, logs = MemoryDocuments(), MemoryLogs()
            stores = documents, logs, MemoryBlobs(), MemoryBus()
            yield Backend(*stores, frozenset({ATOMIC}), put_and_append=step(documents, logs))

        def open(self, name: str) -> AbstractAsyncContextManager[Backend]:
            return self.opened(name)

        @asynccontextmanager
        async def failing(self, name: str, backend: Backend) -> AsyncIterator[None]:
            backend.put_and_append.fails = True  # type: ignore[union-attr]
            yield
            backend.put_and_append.fails = False  # type: ignore[union-attr]

    return Suite()


CASES = [
    ("test_atomic_or_optional", AppendsFirst),
    ("test_atomic_or_optional", ComparesBefore),
    ("test_atomic_or_optional", WritesElsewhere),
    ("test_atomic_steps_beside_other_writes", AppendsFirst),
    ("test_atomic_steps_beside_other_writes", GivesOthersResults),
    ("test_atomic_a_cancelled_step_is_never_half_done", CanBeCancelledBetween),
    ("test_atomic_failures_leave_both_or_neither", FailsBetween),
]


@pytest.mark.parametrize(("test", "mutant"), CASES)
def test_mutants_are_caught(test: str, mutant: type[MemoryStep]) -> None:
    """Each fails the test that is named with it, and the correct step does not."""
    run: Callable[[type[MemoryStep]], None] = lambda step: getattr(suite_of(step), test)()  # noqa: E731
    run(MemoryStep)
    with pytest.raises((Exception, ExceptionGroup)):
        run(mutant)


def test_a_backend_that_says_atomic_has_the_step() -> None:
    """It is refused when it is made, and not when the first shadow is written."""
    with pytest.raises(InvalidInput, match="put_and_append"):
        Backend(MemoryDocuments(), MemoryLogs(), MemoryBlobs(), MemoryBus(), frozenset({ATOMIC}))
