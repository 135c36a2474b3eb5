"""The conformance suites catch what goes wrong in real backends: each broken store fails the test named with it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import attrs
import pytest

from mdash_backends.memory import MemoryBlobs, MemoryBus, MemoryDocuments, MemoryLogs
from mdashcore._errors import NotFound, VersionConflict
from mdashcore.storage import DURABLE, INSTANT, Backend, Document, LogEntry
from mdashcore.testing import BackendSuite


class LosesUpdates(MemoryDocuments):
    """Compares, lets others in, and then sets."""

    async def put(self, collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
        found = await self.get(collection, key)
        actual = 0 if found is None else found.version
        if expected is not None and expected != actual:
            raise VersionConflict(collection, key, expected=expected, actual=actual)
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


class ReusesVersions(MemoryDocuments):
    """Counts each document from 1, and forgets the count with the document."""

    async def put(self, collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
        found = await self.get(collection, key)
        self._last_version = 0 if found is None else found.version
        return await super().put(collection, key, body, expected=expected)


class FoldsCase(MemoryDocuments):
    """A file system that does not tell A from a."""

    async def get(self, collection: str, key: str) -> Document | None:
        found = await super().get(collection, key.lower())
        return None if found is None else attrs.evolve(found, key=key)

    async def put(self, collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
        return await super().put(collection, key.lower(), body, expected=expected)


class JoinsKeys(MemoryDocuments):
    """One flat key space, joined with a slash: collection and key run together."""

    async def get(self, collection: str, key: str) -> Document | None:
        return await super().get("", key)

    async def put(self, collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
        return await super().put("", key, body, expected=expected)


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


class RoundsNumbers(MemoryDocuments):
    """Parses with a library that makes floats of large integers."""

    async def put(self, collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
        return await super().put(collection, key, body.replace(b"%d" % 10**30, b"1e30"), expected=expected)


class SkipsOffsets(MemoryLogs):
    """Takes an offset from a counter, and loses one now and then."""

    async def append(self, log: str, time: float, bodies: Sequence[bytes]) -> int:
        first = await super().append(log, time, bodies)
        self._ends[log] += len(bodies) > 1
        return first


class RepeatsOffsets(MemoryLogs):
    """Computes the next offset before it waits."""

    async def append(self, log: str, time: float, bodies: Sequence[bytes]) -> int:
        end = self._ends.get(log, 0)
        await anyio.lowlevel.checkpoint()
        self._ends[log] = end
        return await super().append(log, time, bodies)


class ForgetsOffsets(MemoryLogs):
    """Derives the next offset from the last entry, which a trim may have taken."""

    async def trim(self, log: str, keep: int, *, before: int | None = None) -> None:
        await super().trim(log, keep, before=before)
        if keep == 0:
            self._ends.pop(log, None)


class BeginsInNameOnly(MemoryLogs):
    """Says where the log ends, and leaves what was there."""

    async def begin(self, log: str, offset: int) -> None:
        self._ends[log] = offset


class TrimsTheNewest(MemoryLogs):
    """Keeps the wrong end."""

    async def trim(self, log: str, keep: int, *, before: int | None = None) -> None:
        entries = self._logs.get(log)
        while entries and len(entries) > keep:
            entries.pop()


class TrimsWhatComesMeanwhile(MemoryLogs):
    """Counts from where the log ends now, whatever it was told."""

    async def trim(self, log: str, keep: int, *, before: int | None = None) -> None:
        await super().trim(log, keep)


class WritesBodiesAnew(MemoryLogs):
    """Parses what it is given, and encodes it."""

    async def append(self, log: str, time: float, bodies: Sequence[bytes]) -> int:
        return await super().append(
            log, time, [json.dumps(json.loads(body, parse_int=float)).encode() for body in bodies]
        )


class ShowsEntriesEarly(MemoryLogs):
    """Gives offsets out first, and makes entries visible in any order."""

    async def append(self, log: str, time: float, bodies: Sequence[bytes]) -> int:
        first = self._ends.get(log, 0)
        self._ends[log] = first + len(bodies)
        for _ in range((first % 3) + 1):
            await anyio.lowlevel.checkpoint()
        entries = self._logs.setdefault(log, type(self._logs.get(log, None) or _deque())())
        found = [*entries, *(LogEntry(first + i, time, bytes(body)) for i, body in enumerate(bodies))]
        entries.clear()
        entries.extend(sorted(found, key=lambda entry: entry.offset))
        return first


def _deque() -> Any:
    from collections import deque

    return deque()


class SplitsAppends(MemoryLogs):
    """Appends entry by entry, so that others get in between."""

    async def append(self, log: str, time: float, bodies: Sequence[bytes]) -> int:
        first = await super().append(log, time, bodies[:1])
        for body in bodies[1:]:
            await anyio.lowlevel.checkpoint()
            await super().append(log, time, (body,))
        return first


class DropsTheFirstMessage(MemoryBus):
    """Subscribes in the background, after the context has been entered."""

    @asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[AsyncIterator[bytes]]:
        async with super().subscribe(topic) as messages:
            subscriber = set(self._topics[topic])
            self._topics[topic].clear()

            async def later() -> None:
                await anyio.lowlevel.checkpoint()
                self._topics.setdefault(topic, set()).update(subscriber)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(later)
                yield messages
                tasks.cancel_scope.cancel()


class WaitsForSlowOnes(MemoryBus):
    """Publishing waits until every subscriber has room."""

    async def publish(self, topic: str, message: bytes) -> None:
        for queue in tuple(self._topics.get(topic, ())):
            while queue.is_full:
                await anyio.lowlevel.checkpoint()
            queue.offer(message)


class DropsForAll(MemoryBus):
    """One queue that is full stops the delivery to those behind it."""

    async def publish(self, topic: str, message: bytes) -> None:
        queues = list(self._topics.get(topic, ()))
        if any(queue.is_full for queue in queues):
            return
        for queue in queues:
            queue.offer(message)


class DropsWithoutAWord(MemoryBus):
    """Skips those who are behind, and goes on as if nothing had been."""

    async def publish(self, topic: str, message: bytes) -> None:
        for queue in tuple(self._topics.get(topic, ())):
            if not queue.is_full:
                queue.offer(message)


class KeepsMessages(MemoryBus):
    """Gives the last message to whoever comes later."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, bytes] = {}

    async def publish(self, topic: str, message: bytes) -> None:
        self._last[topic] = message
        await super().publish(topic, message)

    @asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[AsyncIterator[bytes]]:
        async with super().subscribe(topic) as messages:
            if topic in self._last:
                await super().publish(topic, self._last[topic])
            yield messages


class ShowsHalfBlobs(MemoryBlobs):
    """Writes in place."""

    async def put(self, key: str, chunks: Any) -> int:
        self._blobs[key] = b""
        async for chunk in chunks:
            self._blobs[key] += chunk
        return len(self._blobs[key])


class LeavesPartsBehind(MemoryBlobs):
    """Keeps the temporary copy when the source fails."""

    async def put(self, key: str, chunks: Any) -> int:
        self._blobs[f"{key}.part"] = b""
        size = await super().put(key, chunks)
        del self._blobs[f"{key}.part"]
        return size


class SwallowsErrors(MemoryBlobs):
    """Stores what it has got when the source fails."""

    async def put(self, key: str, chunks: Any) -> int:
        data = b""
        try:
            async for chunk in chunks:
                data += chunk
        except ZeroDivisionError:
            pass
        self._blobs[key] = data
        return len(data)


BROKEN = [
    (LosesUpdates, "test_documents_no_update_is_lost"),
    (LosesUpdates, "test_documents_one_of_many_wins"),
    (AliasesBodies, "test_documents_a_body_is_not_shared"),
    (ReadsStale, "test_documents_a_read_is_never_stale"),
    (ReadsStale, "test_documents_random_operations"),
    (IgnoresExpected, "test_documents_expected_is_heeded"),
    (IgnoresExpected, "test_documents_random_operations"),
    (IgnoresExpectedOnDelete, "test_documents_expected_is_heeded"),
    (ReusesVersions, "test_documents_versions_grow"),
    (FoldsCase, "test_documents_odd_keys"),
    (JoinsKeys, "test_documents_what_was_put_comes_back"),
    (TakesPrefixesForPatterns, "test_documents_scan_by_prefix"),
    (ScanMissesKeys, "test_documents_scan_while_writing"),
    (RoundsNumbers, "test_documents_what_was_put_comes_back"),
    (SkipsOffsets, "test_log_offsets_count_from_zero"),
    (SkipsOffsets, "test_log_concurrent_appends"),
    (RepeatsOffsets, "test_log_concurrent_appends"),
    (ForgetsOffsets, "test_log_trim_keeps_the_newest"),
    (BeginsInNameOnly, "test_log_begins_at_an_offset"),
    (TrimsTheNewest, "test_log_trim_keeps_the_newest"),
    (TrimsWhatComesMeanwhile, "test_log_trim_spares_what_comes_meanwhile"),
    (WritesBodiesAnew, "test_log_bodies_come_back_byte_for_byte"),
    (ShowsEntriesEarly, "test_log_visible_in_order"),
    (SplitsAppends, "test_log_concurrent_appends"),
    (DropsTheFirstMessage, "test_bus_the_first_message_arrives"),
    (WaitsForSlowOnes, "test_bus_a_slow_subscriber_delays_nobody"),
    (DropsForAll, "test_bus_a_slow_subscriber_delays_nobody"),
    (DropsWithoutAWord, "test_bus_a_slow_subscriber_is_told"),
    (KeepsMessages, "test_bus_nothing_is_kept"),
    (ShowsHalfBlobs, "test_blob_nothing_until_it_is_complete"),
    (LeavesPartsBehind, "test_blob_a_failing_source_leaves_nothing"),
    (SwallowsErrors, "test_blob_a_failing_source_leaves_nothing"),
]


@pytest.mark.parametrize(("store", "caught_by"), BROKEN, ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_store_is_caught(store, caught_by, monkeypatch):
    """The named test of the suite fails on this store."""
    monkeypatch.setattr("mdashcore.testing.bus.PATIENCE", 0.2)  # it is going to be waited for in vain

    class Suite(BackendSuite):
        @asynccontextmanager
        async def open(self, name: str) -> AsyncIterator[Backend]:
            stores = [MemoryDocuments, MemoryLogs, MemoryBlobs, MemoryBus]
            documents, logs, blobs, bus = (store if issubclass(store, kind) else kind for kind in stores)
            yield Backend(documents(), logs(), blobs(), bus())

    with pytest.raises((AssertionError, TimeoutError, ExceptionGroup, VersionConflict)):
        getattr(Suite(), caught_by)()


@pytest.mark.parametrize("caught_by", ["test_documents_durable", "test_log_durable", "test_blob_durable"])
def test_a_false_capability_is_caught(caught_by):
    """A store that says it were durable, and is not, fails."""

    class Suite(BackendSuite):
        def open(self, name: str) -> AbstractAsyncContextManager[Backend]:
            return _opened(Backend(MemoryDocuments(), MemoryLogs(), MemoryBlobs(), MemoryBus(), frozenset({DURABLE})))

    with pytest.raises((AssertionError, NotFound)):
        getattr(Suite(), caught_by)()


class ReadsFromElsewhere(MemoryDocuments):
    """Keeps some documents in memory only."""

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


class LocksLogs(MemoryLogs):
    """Lets one write at a time, with a lock that lets others have a turn."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = anyio.Lock()

    async def append(self, log: str, time: float, bodies: Sequence[bytes]) -> int:
        async with self._lock:
            return await super().append(log, time, bodies)


WAITING = [
    (ReadsFromElsewhere, "test_documents_instant"),
    (ScansInPieces, "test_documents_instant"),
    (LocksLogs, "test_log_instant"),
    (WaitsForSlowOnes, "test_bus_instant"),
]


@pytest.mark.parametrize(("store", "caught_by"), WAITING, ids=lambda value: getattr(value, "__name__", value))
def test_a_store_that_waits_is_not_instant(store, caught_by):
    """One that says it never waits, and does now and then, fails."""

    class Suite(BackendSuite):
        def open(self, name: str) -> AbstractAsyncContextManager[Backend]:
            stores = [MemoryDocuments, MemoryLogs, MemoryBlobs, MemoryBus]
            documents, logs, blobs, bus = (store if issubclass(store, kind) else kind for kind in stores)
            return _opened(Backend(documents(), logs(), blobs(), bus(), frozenset({INSTANT})))

    with pytest.raises(AssertionError, match="INSTANT"):
        getattr(Suite(), caught_by)()


@asynccontextmanager
async def _opened(backend: Backend) -> AsyncIterator[Backend]:
    yield backend
