"""A storage backend that measures its verbs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from time import perf_counter
from typing import Any, Protocol, TypeVar

import attrs

from mdashcore.storage import INSTANT, Backend, BlobStore, Document, DocumentStore, LogEntry, LogStore, MessageBus

__all__ = ["Measure", "measure_backend"]

T = TypeVar("T")


class Measure(Protocol):
    """Receives the outcome of one call of a verb."""

    def __call__(self, seconds: float | None, error: Exception | None) -> None:
        """Record a call.

        Args:
            seconds: the time that the call took; `None` for a scan or a stored blob, whose pace is that of the caller.
            error: the exception that it raised, if any. A call that was cancelled is not recorded.
        """


class _Timed:
    """Awaits the calls of one verb, and records them."""

    __slots__ = ("_measure",)

    def __init__(self, measure: Measure) -> None:
        self._measure = measure

    async def __call__(self, call: Awaitable[T]) -> T:
        started = perf_counter()
        try:
            result = await call
        except Exception as exc:
            self._measure(perf_counter() - started, exc)
            raise
        self._measure(perf_counter() - started, None)
        return result

    async def paced(self, call: Awaitable[T]) -> T:
        """Await a call whose time depends on its caller."""
        try:
            return await call
        except Exception as exc:
            self._measure(None, exc)
            raise

    async def scan(self, items: AsyncIterator[T]) -> AsyncGenerator[T, None]:
        try:
            async for item in items:
                yield item
        except Exception as exc:
            self._measure(None, exc)
            raise
        finally:
            if isinstance(items, AsyncGenerator):
                await items.aclose()


def measure_backend(backend: Backend, measure: Callable[[str, str], Measure]) -> Backend:
    """Return a backend that works as the given one, and records each call of a verb.

    It does not say that it is `INSTANT`, so that each call of a device has a task, in which it is measured.

    Args:
        measure: returns the receiver for a store and a verb, such as ``documents`` and ``put``.
    """

    def timed(store: str, verb: str) -> _Timed:
        return _Timed(measure(store, verb))

    changed: dict[str, Any] = {
        "documents": _Documents(backend.documents, partial(timed, "documents")),
        "logs": _Logs(backend.logs, partial(timed, "logs")),
        "blobs": _Blobs(backend.blobs, partial(timed, "blobs")),
        "bus": _Bus(backend.bus, partial(timed, "bus")),
        "capabilities": backend.capabilities - {INSTANT},
    }
    if (put_and_append := backend.put_and_append) is not None:
        both = timed("documents", "put_and_append")

        async def timed_put_and_append(*args: Any, **options: Any) -> tuple[int, int]:
            return await both(put_and_append(*args, **options))

        changed["put_and_append"] = timed_put_and_append
    return attrs.evolve(backend, **changed)


class _Documents(DocumentStore):
    def __init__(self, inner: DocumentStore, timed: Callable[[str], _Timed]) -> None:
        self._inner = inner
        self._get, self._put, self._delete, self._scan = map(timed, ("get", "put", "delete", "scan"))

    async def get(self, collection: str, key: str) -> Document | None:
        return await self._get(self._inner.get(collection, key))

    async def put(self, collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
        return await self._put(self._inner.put(collection, key, body, expected=expected))

    async def delete(self, collection: str, key: str, *, expected: int | None = None) -> bool:
        return await self._delete(self._inner.delete(collection, key, expected=expected))

    def scan(self, collection: str, prefix: str = "", *, after: str = "") -> AsyncIterator[Document]:
        options = {"after": after} if after else {}  # only an ordered store takes it
        return self._scan.scan(self._inner.scan(collection, prefix, **options))


class _Logs(LogStore):
    def __init__(self, inner: LogStore, timed: Callable[[str], _Timed]) -> None:
        self._inner = inner
        verbs = ("append", "begin", "read", "end", "trim")
        self._append, self._begin, self._read, self._end, self._trim = map(timed, verbs)

    async def append(self, log: str, time: float, bodies: Sequence[bytes]) -> int:
        return await self._append(self._inner.append(log, time, bodies))

    async def begin(self, log: str, offset: int) -> None:
        await self._begin(self._inner.begin(log, offset))

    async def read(self, log: str, start: int, limit: int) -> Sequence[LogEntry]:
        return await self._read(self._inner.read(log, start, limit))

    async def end(self, log: str) -> int:
        return await self._end(self._inner.end(log))

    async def trim(self, log: str, keep: int, *, before: int | None = None) -> None:
        await self._trim(self._inner.trim(log, keep, before=before))


class _Blobs(BlobStore):
    def __init__(self, inner: BlobStore, timed: Callable[[str], _Timed]) -> None:
        self._inner = inner
        verbs = ("put", "read", "size", "delete", "scan")
        self._put, self._read, self._size, self._delete, self._scan = map(timed, verbs)

    async def put(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        return await self._put.paced(self._inner.put(key, chunks))

    async def read(self, key: str, offset: int, size: int) -> bytes:
        return await self._read(self._inner.read(key, offset, size))

    async def size(self, key: str) -> int | None:
        return await self._size(self._inner.size(key))

    async def delete(self, key: str) -> bool:
        return await self._delete(self._inner.delete(key))

    def scan(self, prefix: str = "") -> AsyncIterator[str]:
        return self._scan.scan(self._inner.scan(prefix))


class _Bus(MessageBus):
    def __init__(self, inner: MessageBus, timed: Callable[[str], _Timed]) -> None:
        self._inner = inner
        self._publish = timed("publish")

    async def publish(self, topic: str, message: bytes) -> None:
        await self._publish(self._inner.publish(topic, message))

    def subscribe(self, topic: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        return self._inner.subscribe(topic)
