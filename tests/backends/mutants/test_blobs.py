"""Blob stores that break one sentence of the contract each."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator

import anyio
import pytest

from mdash_backends.memory import MemoryBlobs
from mdashcore._errors import NotFound, StorageError

PART = 5 * 2**20  # bytes: what object stores take in one piece


class ShowsHalfBlobs(MemoryBlobs):
    """Writes in place."""

    async def put(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        self._blobs[key] = b""
        async for chunk in chunks:
            self._blobs[key] += chunk
        return len(self._blobs[key])


class ShowsParts(MemoryBlobs):
    """Writes in place, in large parts."""

    async def put(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        data = b""
        async for chunk in chunks:
            data += chunk
            if len(data) % PART < len(chunk):
                self._blobs[key] = data
        self._blobs[key] = data
        return len(data)


class ShowsTheLastPart(MemoryBlobs):
    """Makes the blob visible when it has as many bytes as the source said, before the source has ended."""

    async def put(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        data, count = b"", 0
        async for chunk in chunks:
            data += chunk
            count += 1
            if count == 96:
                self._blobs[key] = data
        self._blobs[key] = data
        return len(data)


class RemovesTheOldFirst(MemoryBlobs):
    """Makes room before it writes."""

    async def put(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        self._blobs.pop(key, None)
        return await super().put(key, chunks)


class ListsParts(MemoryBlobs):
    """Keeps what has come so far under a name of its own, which a scan finds."""

    async def put(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        self._blobs[f"{key}.part"] = b""
        try:
            return await super().put(key, chunks)
        finally:
            del self._blobs[f"{key}.part"]


class LeavesPartsBehind(MemoryBlobs):
    """Keeps the temporary copy when the source fails."""

    async def put(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        self._blobs[f"{key}.part"] = b""
        size = await super().put(key, chunks)
        del self._blobs[f"{key}.part"]
        return size


class SwallowsErrors(MemoryBlobs):
    """Stores what it has got when the source fails."""

    async def put(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        data = b""
        try:
            async for chunk in chunks:
                data += chunk
        except ZeroDivisionError:
            pass
        self._blobs[key] = data
        return len(data)


class EndsAtAnEmptyChunk(MemoryBlobs):
    """Takes nothing for the end."""

    async def put(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        data = b""
        async for chunk in chunks:
            if not chunk:
                break
            data += chunk
        self._blobs[key] = data
        return len(data)


class AliasesChunks(MemoryBlobs):
    """Joins the chunks at the end, when the source has used its buffer again."""

    async def put(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        data = b"".join([chunk async for chunk in chunks])
        self._blobs[key] = data
        return len(data)


class ReadsInTwoSteps(MemoryBlobs):
    """Reads one half, and then the other."""

    async def read(self, key: str, offset: int, size: int) -> bytes:
        half = size // 2
        first = await super().read(key, offset, half)
        await anyio.lowlevel.checkpoint()
        return first + await super().read(key, offset + half, size - half)


class ScanMissesKeys(MemoryBlobs):
    """Scans by position: what is deleted meanwhile shifts the rest past it."""

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        position = 0
        while position < len(keys := [key for key in self._blobs if key.startswith(prefix)]):
            yield keys[position]
            position += 1


class ScansOnePage(MemoryBlobs):
    """Gives what a query of a thousand rows has found."""

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        number = 0
        async for key in super().scan(prefix):
            number += 1
            if number <= 1000:
                yield key


class PutsOneByOne(MemoryBlobs):
    """Lets one blob come at a time, so that a slow upload stops all others."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = anyio.Lock()

    async def put(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        async with self._lock:
            return await super().put(key, chunks)


class ScansUnderALock(MemoryBlobs):
    """Has one connection, which a scan keeps until its end."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = anyio.Lock()

    async def delete(self, key: str) -> bool:
        async with self._lock:
            return await super().delete(key)

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        async with self._lock:
            async for key in super().scan(prefix):
                yield key


class DeletesInTwoSteps(MemoryBlobs):
    """Empties a blob, and then removes it."""

    async def delete(self, key: str) -> bool:
        if key in self._blobs:
            self._blobs[key] = b""
            await anyio.lowlevel.checkpoint()
        return await super().delete(key)


class Fails(MemoryBlobs):
    """Fails as it should while it is told to."""

    fails = False

    async def size(self, key: str) -> int | None:
        if self.fails:
            raise StorageError("the disk is gone") from OSError(5)
        return await super().size(key)


class LetsErrorsOut(Fails):
    """Raises what the operating system raises."""

    async def size(self, key: str) -> int | None:
        if self.fails:
            raise OSError(5)
        return await super().size(key)


class Shared(MemoryBlobs):
    """A store of which every opener has a view of its own: here one that is right."""

    def opened(self) -> MemoryBlobs:
        """The view of one more opener."""
        return self


class HasItsOwn(Shared):
    """Gives every opener a store of its own."""

    def opened(self) -> MemoryBlobs:
        return MemoryBlobs()


class RemembersSizes(Shared):
    """Every opener remembers what it was told, and that there was nothing."""

    def opened(self) -> MemoryBlobs:
        whole = self
        known: dict[str, bytes | None] = {}

        class View(MemoryBlobs):
            put = whole.put
            delete = whole.delete
            scan = whole.scan

            async def read(self, key: str, offset: int, size: int) -> bytes:
                found = known.setdefault(key, whole._blobs.get(key))
                if found is None:
                    raise NotFound(f"no blob {key!r}")
                return found[offset : offset + size]

            async def size(self, key: str) -> int | None:
                found = known.setdefault(key, whole._blobs.get(key))
                return None if found is None else len(found)

        return View()


class SavesAtClose(MemoryBlobs):
    """Has on disk what was there when it was closed."""

    saves_at_close = True


MUTANTS: list[tuple[type, str, str]] = [
    (PutsOneByOne, "test_blob_a_slow_source_delays_no_other_verb", "memory"),
    (ScansUnderALock, "test_blob_scan_lets_its_reader_write", "memory"),
    (ShowsHalfBlobs, "test_blob_nothing_until_it_is_complete", "memory"),
    (ShowsParts, "test_blob_nothing_until_it_is_complete", "memory"),
    (ShowsTheLastPart, "test_blob_nothing_until_it_is_complete", "memory"),
    (RemovesTheOldFirst, "test_blob_nothing_until_it_is_complete", "memory"),
    (ListsParts, "test_blob_nothing_until_it_is_complete", "memory"),
    (LeavesPartsBehind, "test_blob_a_failing_source_leaves_nothing", "memory"),
    (SwallowsErrors, "test_blob_a_failing_source_leaves_nothing", "memory"),
    (EndsAtAnEmptyChunk, "test_blob_an_empty_chunk_is_no_end", "memory"),
    (AliasesChunks, "test_blob_a_chunk_is_not_shared", "memory"),
    (ReadsInTwoSteps, "test_blob_a_read_gives_one_blob", "memory"),
    (ScanMissesKeys, "test_blob_scan_while_writing", "memory"),
    (ScansOnePage, "test_blob_scan_many", "memory"),
    (DeletesInTwoSteps, "test_blob_a_cancelled_verb_is_never_half_done", "memory"),
    (LetsErrorsOut, "test_blob_failures_are_storage_errors", "memory"),
    (HasItsOwn, "test_blob_shared", "shared"),
    (RemembersSizes, "test_blob_shared_under_load", "shared"),
    (SavesAtClose, "test_blob_survives_a_kill", "disk"),
]


@pytest.mark.parametrize(("mutant", "caught_by", "kind"), MUTANTS, ids=lambda value: getattr(value, "__name__", value))
def test_a_mutant_is_caught(mutant, caught_by, kind, assert_caught):
    """The named test of the suite fails on this store."""
    assert_caught(caught_by, mutant, kind)


@pytest.mark.parametrize(("caught_by", "kind"), sorted({(test, kind) for _, test, kind in MUTANTS}))
def test_a_correct_store_passes(caught_by, kind, run_suite):
    """The same test passes on the store that the mutants are made of."""
    run_suite(caught_by, Fails if "failures" in caught_by else MemoryBlobs, kind)
