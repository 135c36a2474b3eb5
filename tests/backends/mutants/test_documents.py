"""Document stores that break one sentence of the contract each."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.to_thread
import attrs
import pytest

from mdash_backends.memory import MemoryDocuments, _check_version
from mdashcore import _json
from mdashcore._errors import StorageError
from mdashcore.storage import Document


class LosesUpdates(MemoryDocuments):
    """Compares, lets others in, and then sets."""

    async def put(self, collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
        _check_version(collection, key, await self.get(collection, key), expected)
        await anyio.lowlevel.checkpoint()
        return await super().put(collection, key, body)


class AliasesBodies(MemoryDocuments):
    """Keeps the caller's buffer."""

    async def put(self, collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
        version = await super().put(collection, key, body, expected=expected)
        self._collections[collection][key] = Document(key, version, body)
        return version


class ReadsStale(MemoryDocuments):
    """Reads from a replica that follows one step behind."""

    def __init__(self) -> None:
        super().__init__()
        self._replica: dict[tuple[str, str], Document | None] = {}

    async def get(self, collection: str, key: str) -> Document | None:
        return self._replica.get((collection, key), await super().get(collection, key))

    async def put(self, collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
        self._replica[collection, key] = await super().get(collection, key)
        return await super().put(collection, key, body, expected=expected)


class IgnoresExpected(MemoryDocuments):
    """Writes whatever is there."""

    async def put(self, collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
        return await super().put(collection, key, body)


class IgnoresExpectedOnDelete(MemoryDocuments):
    """Deletes whatever is there."""

    async def delete(self, collection: str, key: str, *, expected: int | None = None) -> bool:
        return await super().delete(collection, key)


class DeletesLater(MemoryDocuments):
    """Compares, lets others in, and then deletes."""

    async def delete(self, collection: str, key: str, *, expected: int | None = None) -> bool:
        _check_version(collection, key, await self.get(collection, key), expected)
        await anyio.lowlevel.checkpoint()
        return await super().delete(collection, key)


class RefusesToDeleteNothing(MemoryDocuments):
    """Takes 0 for a version that is never there."""

    async def delete(self, collection: str, key: str, *, expected: int | None = None) -> bool:
        if expected == 0:
            raise ValueError("versions count from 1")
        return await super().delete(collection, key, expected=expected)


class ReusesVersions(MemoryDocuments):
    """Counts each document from 1, and forgets the count with the document."""

    async def put(self, collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
        found = await self.get(collection, key)
        self._last_version = 0 if found is None else found.version
        return await super().put(collection, key, body, expected=expected)


class Renames(MemoryDocuments):
    """A store that keeps each document under another name than it was given."""

    def name(self, collection: str, key: str) -> tuple[str, str]:
        """Where a document is kept."""
        return collection, key

    async def get(self, collection: str, key: str) -> Document | None:
        found = await super().get(*self.name(collection, key))
        return None if found is None else attrs.evolve(found, key=key)

    async def put(self, collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
        return await super().put(*self.name(collection, key), body, expected=expected)

    async def delete(self, collection: str, key: str, *, expected: int | None = None) -> bool:
        return await super().delete(*self.name(collection, key), expected=expected)


class FoldsCase(Renames):
    """A file system that does not tell A from a."""

    def name(self, collection: str, key: str) -> tuple[str, str]:
        return collection, key.lower()


class FoldsCollections(Renames):
    """One that does not tell them in the names of folders."""

    def name(self, collection: str, key: str) -> tuple[str, str]:
        return collection.lower(), key


class ForgetsCollections(Renames):
    """One collection for all."""

    def name(self, collection: str, key: str) -> tuple[str, str]:
        return "", key


class JoinsKeys(Renames):
    """One flat key space: collection and key run together at a slash."""

    def name(self, collection: str, key: str) -> tuple[str, str]:
        return "", f"{collection}/{key}"


class CutsKeys(Renames):
    """A column of 384 characters."""

    def name(self, collection: str, key: str) -> tuple[str, str]:
        return collection, key[:384]


class CutsBytes(Renames):
    """A column of 1 500 bytes, less the last."""

    def name(self, collection: str, key: str) -> tuple[str, str]:
        return collection, key.encode()[:1499].decode(errors="ignore")


class NormalisesKeys(Renames):
    """A file system that composes letters and accents."""

    def name(self, collection: str, key: str) -> tuple[str, str]:
        return collection, unicodedata.normalize("NFC", key)


class NormalisesText(MemoryDocuments):
    """A column that composes letters and accents."""

    async def put(self, collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
        text = unicodedata.normalize("NFC", _json.encode(_json.decode(body)).decode())
        return await super().put(collection, key, text.encode(), expected=expected)


class RoundsNumbers(MemoryDocuments):
    """Parses with a library that makes floats of large integers."""

    async def put(self, collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
        return await super().put(collection, key, body.replace(b"%d" % 10**30, b"1e30"), expected=expected)


class TakesPrefixesForPatterns(MemoryDocuments):
    """Gives the prefix to a matcher that knows wildcards."""

    async def scan(self, collection: str, prefix: str = "") -> AsyncIterator[Document]:
        async for document in super().scan(collection, "" if prefix in ("%", "*") else prefix):
            yield document


class ScanMissesKeys(MemoryDocuments):
    """Scans by position: what is deleted meanwhile shifts the rest past it."""

    async def scan(self, collection: str, prefix: str = "") -> AsyncIterator[Document]:
        position = 0
        while True:
            keys = [key for key in self._collections.get(collection, {}) if key.startswith(prefix)]
            if position >= len(keys):
                return
            yield self._collections[collection][keys[position]]
            position += 1


class ScansOnePage(MemoryDocuments):
    """Gives what a query of a thousand rows has found."""

    async def scan(self, collection: str, prefix: str = "") -> AsyncIterator[Document]:
        number = 0
        async for document in super().scan(collection, prefix):
            number += 1
            if number <= 1000:
                yield document


class DeletesInTwoSteps(MemoryDocuments):
    """Takes a document out of the index of its scans first, and of the store later."""

    def __init__(self) -> None:
        super().__init__()
        self._unlisted: set[str] = set()

    async def put(self, collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
        version = await super().put(collection, key, body, expected=expected)
        self._unlisted.discard(key)
        return version

    async def delete(self, collection: str, key: str, *, expected: int | None = None) -> bool:
        _check_version(collection, key, await self.get(collection, key), expected)
        self._unlisted.add(key)
        await anyio.lowlevel.checkpoint()
        return await super().delete(collection, key, expected=expected)

    async def scan(self, collection: str, prefix: str = "") -> AsyncIterator[Document]:
        async for document in super().scan(collection, prefix):
            if document.key not in self._unlisted:
                yield document


class PutsInTwoSteps(MemoryDocuments):
    """Removes the old document, and then writes the new one."""

    async def put(self, collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
        _check_version(collection, key, await self.get(collection, key), expected)
        self._collections.get(collection, {}).pop(key, None)
        await anyio.lowlevel.checkpoint()
        return await super().put(collection, key, body)


class Fails(MemoryDocuments):
    """Fails as it should while it is told to."""

    fails = False

    async def put(self, collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
        if self.fails:
            raise StorageError("the disk is full") from OSError(28)
        return await super().put(collection, key, body, expected=expected)


class LetsErrorsOut(Fails):
    """Raises what its library raises."""

    async def put(self, collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
        if self.fails:
            raise OSError(28)
        return await super().put(collection, key, body, expected=expected)


class HidesCauses(Fails):
    """Says that it fails, and not why."""

    async def put(self, collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
        if self.fails:
            raise StorageError("it failed")
        return await super().put(collection, key, body, expected=expected)


class StaysBroken(Fails):
    """Does not come back after a failure."""

    broken = False

    async def get(self, collection: str, key: str) -> Document | None:
        self.broken = self.broken or self.fails
        if self.broken:
            raise StorageError("the connection is lost") from OSError(104)
        return await super().get(collection, key)


class Shared(MemoryDocuments):
    """A store of which every opener has a view of its own: here one that is right."""

    def opened(self) -> MemoryDocuments:
        """The view of one more opener."""
        return self


class LocksItself(Shared):
    """Compares and sets in one step as far as its own opener is concerned."""

    def opened(self) -> MemoryDocuments:
        whole, lock = self, anyio.Lock()

        class View(MemoryDocuments):
            get = whole.get
            scan = whole.scan
            delete = whole.delete

            async def put(self, collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
                async with lock:
                    _check_version(collection, key, await self.get(collection, key), expected)
                    await anyio.lowlevel.checkpoint()
                    return await MemoryDocuments.put(whole, collection, key, body)

        return View()


class CachesReads(Shared):
    """Remembers what its own opener has read and written."""

    def opened(self) -> MemoryDocuments:
        whole = self
        known: dict[tuple[str, str], Document | None] = {}

        class View(MemoryDocuments):
            scan = whole.scan
            delete = whole.delete

            async def get(self, collection: str, key: str) -> Document | None:
                if (collection, key) not in known:
                    known[collection, key] = await MemoryDocuments.get(whole, collection, key)
                return known[collection, key]

            async def put(self, collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
                known.pop((collection, key), None)
                return await MemoryDocuments.put(whole, collection, key, body, expected=expected)

        return View()


class HasItsOwn(Shared):
    """Gives every opener a store of its own."""

    def opened(self) -> MemoryDocuments:
        return MemoryDocuments()


class SavesAtClose(MemoryDocuments):
    """Has on disk what was there when it was closed."""

    saves_at_close = True


class ReadsFromElsewhere(MemoryDocuments):
    """Keeps some documents outside the process."""

    async def get(self, collection: str, key: str) -> Document | None:
        if key == "k99":
            await anyio.lowlevel.checkpoint()
        return await super().get(collection, key)


class ScansInPieces(MemoryDocuments):
    """Gives others their turn now and then."""

    async def scan(self, collection: str, prefix: str = "") -> AsyncIterator[Document]:
        number = 0
        async for document in super().scan(collection, prefix):
            number += 1
            if number % 100 == 0:
                await anyio.lowlevel.checkpoint()
            yield document


class ScansAsWritten(MemoryDocuments):
    """Scans in the order in which keys were written."""

    async def scan(self, collection: str, prefix: str = "") -> AsyncIterator[Document]:
        for key, document in list(self._collections.get(collection, {}).items()):
            if key.startswith(prefix):
                yield document


class SortsByUtf16(MemoryDocuments):
    """Sorts as languages do whose texts are UTF-16."""

    async def scan(self, collection: str, prefix: str = "", *, after: str = "") -> AsyncIterator[Document]:
        found = [document async for document in super().scan(collection, prefix, after=after)]
        for document in sorted(found, key=lambda document: document.key.encode("utf-16-be", "surrogatepass")):
            yield document


class SortsPages(MemoryDocuments):
    """Sorts only what is in a page."""

    async def scan(self, collection: str, prefix: str = "", *, after: str = "") -> AsyncIterator[Document]:
        found = [document for key, document in self._collections.get(collection, {}).items() if key.startswith(prefix)]
        for start in range(0, len(found), 100):
            for document in sorted(found[start : start + 100], key=lambda document: document.key):
                if document.key > after:
                    yield document


class IgnoresAfter(MemoryDocuments):
    """Begins at the first key each time."""

    async def scan(self, collection: str, prefix: str = "", *, after: str = "") -> AsyncIterator[Document]:
        async for document in super().scan(collection, prefix):
            yield document


class BeginsAtTheKey(MemoryDocuments):
    """Gives the key after which the scan should begin once more."""

    async def scan(self, collection: str, prefix: str = "", *, after: str = "") -> AsyncIterator[Document]:
        async for document in super().scan(collection, prefix):
            if document.key >= after:
                yield document


class NeedsTheKey(MemoryDocuments):
    """Looks for the key after which the scan should begin, and finds nothing where it was deleted."""

    async def scan(self, collection: str, prefix: str = "", *, after: str = "") -> AsyncIterator[Document]:
        if not after or after in self._collections.get(collection, {}):
            async for document in super().scan(collection, prefix, after=after):
                yield document


class LeavesThePrefix(MemoryDocuments):
    """Forgets the prefix where a scan continues."""

    async def scan(self, collection: str, prefix: str = "", *, after: str = "") -> AsyncIterator[Document]:
        async for document in super().scan(collection, "" if after else prefix, after=after):
            yield document


class ForgetsOldVersions(MemoryDocuments):
    """Counts each key by itself, and knows the counts of the keys that were deleted last."""

    def __init__(self) -> None:
        super().__init__()
        self._deleted: dict[tuple[str, str], int] = {}

    async def put(self, collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
        found = await self.get(collection, key)
        self._last_version = self._deleted.get((collection, key), 0) if found is None else found.version
        return await super().put(collection, key, body, expected=expected)

    async def delete(self, collection: str, key: str, *, expected: int | None = None) -> bool:
        found = await self.get(collection, key)
        deleted = await super().delete(collection, key, expected=expected)
        if found is not None:
            self._deleted[collection, key] = found.version
            while len(self._deleted) > 64:
                del self._deleted[next(iter(self._deleted))]
        return deleted


class ScansUnderALock(MemoryDocuments):
    """Has one connection, which a scan keeps until its end."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = anyio.Lock()

    async def put(self, collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
        async with self._lock:
            return await super().put(collection, key, body, expected=expected)

    async def scan(self, collection: str, prefix: str = "", *, after: str = "") -> AsyncIterator[Document]:
        async with self._lock:
            async for document in super().scan(collection, prefix, after=after):
                yield document


class SharesACursor(MemoryDocuments):
    """Has one cursor for all scans of a collection."""

    def __init__(self) -> None:
        super().__init__()
        self._cursors: dict[str, AsyncIterator[Document]] = {}

    async def scan(self, collection: str, prefix: str = "", *, after: str = "") -> AsyncIterator[Document]:
        self._cursors[collection] = super().scan(collection, prefix, after=after)
        while (document := await anext(self._cursors[collection], None)) is not None:
            yield document


class HangsInAThread(MemoryDocuments):
    """Has a thread that never comes back, and cannot be cancelled."""

    async def get(self, collection: str, key: str) -> Document | None:
        await anyio.to_thread.run_sync(_sleep)
        return None


def _sleep() -> None:
    time.sleep(20)


class BlocksTheLoop(MemoryDocuments):
    """Waits without giving others a turn."""

    async def get(self, collection: str, key: str) -> Document | None:
        time.sleep(20)  # noqa: ASYNC251 - as the mutant does
        return None


MUTANTS: list[tuple[type, str, str]] = [
    (ScansAsWritten, "test_documents_scan_in_order", "ordered"),
    (SortsByUtf16, "test_documents_scan_in_order", "ordered"),
    (SortsPages, "test_documents_scan_in_order", "ordered"),
    (IgnoresAfter, "test_documents_scan_after_a_key", "ordered"),
    (BeginsAtTheKey, "test_documents_scan_after_a_key", "ordered"),
    (NeedsTheKey, "test_documents_scan_after_a_key", "ordered"),
    (LeavesThePrefix, "test_documents_scan_after_a_key", "ordered"),
    (LosesUpdates, "test_documents_no_update_is_lost", "memory"),
    (LosesUpdates, "test_documents_one_of_many_wins", "memory"),
    (AliasesBodies, "test_documents_a_body_is_not_shared", "memory"),
    (ReadsStale, "test_documents_a_read_is_never_stale", "memory"),
    (ReadsStale, "test_documents_random_operations", "memory"),
    (IgnoresExpected, "test_documents_expected_is_heeded", "memory"),
    (IgnoresExpected, "test_documents_random_operations", "memory"),
    (IgnoresExpectedOnDelete, "test_documents_expected_is_heeded", "memory"),
    (DeletesLater, "test_documents_a_delete_compares_in_the_same_step", "memory"),
    (RefusesToDeleteNothing, "test_documents_delete", "memory"),
    (ReusesVersions, "test_documents_versions_grow", "memory"),
    (ForgetsOldVersions, "test_documents_versions_are_never_forgotten", "memory"),
    (ScansUnderALock, "test_documents_scan_lets_its_reader_write", "memory"),
    (SharesACursor, "test_documents_scans_are_apart", "memory"),
    (FoldsCase, "test_documents_odd_keys", "memory"),
    (FoldsCollections, "test_documents_collections_are_apart", "memory"),
    (ForgetsCollections, "test_documents_what_was_put_comes_back", "memory"),
    (JoinsKeys, "test_documents_collections_are_apart", "memory"),
    (CutsKeys, "test_documents_odd_keys", "memory"),
    (CutsBytes, "test_documents_odd_keys", "memory"),
    (NormalisesKeys, "test_documents_odd_keys", "memory"),
    (NormalisesText, "test_documents_what_was_put_comes_back", "memory"),
    (RoundsNumbers, "test_documents_what_was_put_comes_back", "memory"),
    (TakesPrefixesForPatterns, "test_documents_scan_by_prefix", "memory"),
    (ScanMissesKeys, "test_documents_scan_while_writing", "memory"),
    (ScansOnePage, "test_documents_scan_many", "memory"),
    (DeletesInTwoSteps, "test_documents_a_cancelled_verb_is_never_half_done", "memory"),
    (PutsInTwoSteps, "test_documents_a_cancelled_verb_is_never_half_done", "memory"),
    (LetsErrorsOut, "test_documents_failures_are_storage_errors", "memory"),
    (HidesCauses, "test_documents_failures_are_storage_errors", "memory"),
    (StaysBroken, "test_documents_failures_are_storage_errors", "memory"),
    (MemoryDocuments, "test_documents_failures_are_storage_errors", "memory"),  # nothing fails: the hook is of no use
    (LocksItself, "test_documents_shared_under_load", "shared"),
    (CachesReads, "test_documents_shared", "shared"),
    (HasItsOwn, "test_documents_shared", "shared"),
    (SavesAtClose, "test_documents_survive_a_kill", "disk"),
    (ReadsFromElsewhere, "test_documents_instant", "instant"),
    (ScansInPieces, "test_documents_instant", "instant"),
]


@pytest.mark.parametrize(("mutant", "caught_by", "kind"), MUTANTS, ids=lambda value: getattr(value, "__name__", value))
def test_a_mutant_is_caught(mutant, caught_by, kind, assert_caught):
    """The named test of the suite fails on this store."""
    assert_caught(caught_by, mutant, kind)


@pytest.mark.parametrize(("caught_by", "kind"), sorted({(test, kind) for _, test, kind in MUTANTS}))
def test_a_correct_store_passes(caught_by, kind, run_suite):
    """The same test passes on the store that the mutants are made of."""
    right: dict[str, Any] = {"test_documents_failures_are_storage_errors": Fails}
    run_suite(caught_by, right.get(caught_by, MemoryDocuments), kind)


@pytest.mark.parametrize("mutant", [HangsInAThread, BlocksTheLoop])
def test_a_verb_that_hangs_fails_by_name(mutant, run_suite, monkeypatch):
    """The failure names the test, and shows the line that hangs."""
    monkeypatch.setattr("mdashcore.testing._suite.HANG_GRACE", 0.1)
    with pytest.raises(AssertionError, match=r"test_documents_delete\b.* hangs") as caught:
        run_suite("test_documents_delete", mutant, "memory", time_limit=0.5)
    assert "test_documents.py" in str(caught.value)
