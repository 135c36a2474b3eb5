"""``memory://``: everything in this process, gone with it. For tests, for trying out, and as the plainest example.

No verb ever suspends between reading and writing, so each is atomic on any single-threaded event loop.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import islice

from mdash_backends._bus_queue import BusQueue
from mdashcore._errors import InvalidInput, NotFound, VersionConflict
from mdashcore.storage import ATOMIC, INSTANT, MAX_KEY, ORDERED, Backend, Document, LogEntry, check_begin

__all__ = ["MemoryBlobs", "MemoryBus", "MemoryDocuments", "MemoryLogs", "MemoryStep", "open_memory"]


class MemoryDocuments:
    """A document store in a dict of dicts, with a sorted list of the keys of each."""

    def __init__(self) -> None:
        self._collections: dict[str, dict[str, Document]] = {}
        self._keys: dict[str, list[str]] = {}
        self._last_version = 0  # one counter for all: a deleted key can never get one of its versions again

    async def get(self, collection: str, key: str) -> Document | None:
        return self._collections.get(collection, {}).get(key)

    async def put(self, collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
        documents = self._collections.setdefault(collection, {})
        _check_version(collection, key, documents.get(key), expected)
        self._last_version += 1
        if key not in documents:
            insort(self._keys.setdefault(collection, []), key)
        documents[key] = Document(key, self._last_version, bytes(body))
        return self._last_version

    async def delete(self, collection: str, key: str, *, expected: int | None = None) -> bool:
        documents = self._collections.get(collection, {})
        _check_version(collection, key, documents.get(key), expected)
        if documents.pop(key, None) is None:
            return False
        keys = self._keys[collection]
        del keys[bisect_left(keys, key)]
        return True

    async def scan(self, collection: str, prefix: str = "", *, after: str = "") -> AsyncIterator[Document]:
        documents, keys = self._collections.get(collection, {}), self._keys.get(collection, [])
        first = bisect_left(keys, prefix) if prefix > after else bisect_right(keys, after)
        last = bisect_left(keys, _after_all(prefix)) if prefix else len(keys)
        for key in keys[first:last]:  # a copy: keys that come meanwhile would make a scan endless
            if (document := documents.get(key)) is not None:
                yield document


def _after_all(prefix: str) -> str:
    """Return the least text that is greater than each that starts with a prefix."""
    kept = prefix.rstrip("\U0010ffff")
    return kept[:-1] + chr(ord(kept[-1]) + 1) if kept else "\U0010ffff" * (MAX_KEY + 1)


def _check_version(collection: str, key: str, found: Document | None, expected: int | None) -> None:
    actual = 0 if found is None else found.version
    if expected is not None and expected != actual:
        raise VersionConflict(collection, key, expected=expected, actual=actual)


class MemoryLogs:
    """A log store in deques, with the next offset of each log."""

    def __init__(self) -> None:
        self._logs: dict[str, deque[LogEntry]] = {}
        self._ends: dict[str, int] = {}

    async def append(self, log: str, time: float, bodies: Sequence[bytes]) -> int:
        first = self._ends.get(log, 0)
        entries = self._logs.setdefault(log, deque())
        for offset, body in enumerate(bodies, first):
            entries.append(LogEntry(offset, time, bytes(body)))
        self._ends[log] = first + len(bodies)
        return first

    async def begin(self, log: str, offset: int) -> None:
        check_begin(offset, self._ends.get(log, 0))
        self._logs.pop(log, None)
        self._ends[log] = offset

    async def read(self, log: str, start: int, limit: int) -> Sequence[LogEntry]:
        entries = self._logs.get(log)
        if not entries:
            return ()
        skip = max(0, start - entries[0].offset)
        if 2 * skip > len(entries):  # a deque is quick at both ends only, and most reads want the newest
            wanted = max(0, len(entries) - skip)
            return tuple(reversed(tuple(islice(reversed(entries), wanted))))[:limit]
        return tuple(islice(entries, skip, skip + limit))

    async def end(self, log: str) -> int:
        return self._ends.get(log, 0)

    async def trim(self, log: str, keep: int, *, before: int | None = None) -> None:
        entries = self._logs.get(log)
        while entries and len(entries) > keep and (before is None or entries[0].offset < before):
            entries.popleft()


class MemoryStep:
    """The `put_and_append` of a document store and a log store in memory."""

    def __init__(self, documents: MemoryDocuments, logs: MemoryLogs) -> None:
        self._documents = documents
        self._logs = logs

    async def __call__(
        self, collection: str, key: str, body: bytes, *, expected: int, log: str, time: float, entry: bytes
    ) -> tuple[int, int]:
        version = await self._documents.put(collection, key, body, expected=expected)
        return version, await self._logs.append(log, time, (entry,))


class MemoryBus:
    """A message bus with a set of bounded queues for each topic."""

    def __init__(self) -> None:
        self._topics: dict[str, set[BusQueue]] = {}

    async def publish(self, topic: str, message: bytes) -> None:
        for queue in tuple(self._topics.get(topic, ())):
            queue.offer(bytes(message))

    @asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[AsyncIterator[bytes]]:
        queue = BusQueue()
        subscribers = self._topics.setdefault(topic, set())
        subscribers.add(queue)
        try:
            yield queue
        finally:
            queue.end()
            subscribers.discard(queue)
            if not subscribers:
                self._topics.pop(topic, None)


class MemoryBlobs:
    """A blob store in a dict."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}

    async def put(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        data = bytearray()
        async for chunk in chunks:
            data += chunk
        self._blobs[key] = bytes(data)
        return len(data)

    async def read(self, key: str, offset: int, size: int) -> bytes:
        if (blob := self._blobs.get(key)) is None:
            raise NotFound(f"no blob {key!r}")
        return blob[offset : offset + size]

    async def size(self, key: str) -> int | None:
        blob = self._blobs.get(key)
        return None if blob is None else len(blob)

    async def delete(self, key: str) -> bool:
        return self._blobs.pop(key, None) is not None

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        for key in [key for key in self._blobs if key.startswith(prefix)]:
            yield key


@asynccontextmanager
async def open_memory(url: str) -> AsyncIterator[Backend]:
    """Open an empty backend that lives as long as the context."""
    if url != "memory://":
        raise InvalidInput("memory:// takes no path or options")
    documents, logs = MemoryDocuments(), MemoryLogs()
    yield Backend(
        documents,
        logs,
        MemoryBlobs(),
        MemoryBus(),
        frozenset({ATOMIC, INSTANT, ORDERED}),
        put_and_append=MemoryStep(documents, logs),
    )
