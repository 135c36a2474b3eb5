"""What a storage backend is: the contract, for those who write one and those who use one.

A backend gives four small things. They are independent and can be mixed: documents in one system, blobs in
another. Everything that the service knows is built on them; none of them knows what a device is.

**DocumentStore** keeps JSON documents under (collection, key). A collection is a text of 1 to 64 characters, a key one
of 1 to 512 (2 048 bytes in UTF-8 at most); they are two texts and never run together, a key must not be able to escape
its collection, and two that differ in one code point (also only in case, or in how a letter is composed) are two. A
document's *version* is an integer from 1. A `put` must give it a version greater than every version that key ever had,
also before a `delete`. `put(expected=n)` is an atomic compare-and-set: of many concurrent writers with the same
`expected` exactly one succeeds, the others get `VersionConflict` and have changed nothing. `expected=0` means that
there is no such document. A `get` after a `put` has returned sees it, or a later one.
The body is a JSON text of at most 1 MiB and comes back as a text of the same value: its integers exact, whatever their
size, every other number as the same IEEE double (one beyond a double's range may be refused), its texts code point for
code point and its keys in their order. A backend may write it in a form of its own, and must not keep a buffer that its
caller could still change: what is given may be any bytes-like object, what comes back is `bytes`. That holds for the
bodies of logs, for messages and for the chunks of blobs too.
`scan` gives every document that exists from before the scan until after it, once; one that is written or
deleted meanwhile may be given or not. It must not hold all of them in memory if the backend can avoid it.

**LogStore** keeps append-only logs. The entries of one `append` get consecutive offsets; the first of a log is 0,
and an offset is never used twice, also after a `trim`. An entry's body has at most 1 MiB and comes back byte for
byte; its time is any finite number, also a negative one, and comes back to the last bit. An entry becomes
visible only when all with smaller offsets are. An entry that cannot be read takes out only itself: `read` gives it with
`damage`. `read` never waits for entries to come. `trim` keeps the newest; its
caller, who knows what the entries are, decides how many those are, by number, size or age. `begin` lets a log go on at
a later offset, as if all before it had been appended and trimmed: for what is moved from another store.

**MessageBus** carries messages of at most 1 MiB at most once. A subscription is live when its context has been entered:
what is published after that arrives, in the order of each publisher. Where the subscriber is slow, or a connection is
lost, messages may be dropped; then the subscription raises `StorageError` once, at the place of the gap, after what
came before it. It may end with that: who needs to know what follows subscribes again. `publish` never waits for a
subscriber, and a slow one never delays another. Nothing is kept for those who are not there. Users that need every
message keep a log beside it and read what they missed.

**BlobStore** keeps large bytes (firmware images). A blob becomes visible when `put` has seen the last chunk;
before, and if the source fails, there is none, or the one that was there before. A chunk may be empty. A read gives
bytes of one blob, also while it is being replaced. Memory use must not grow with the size of a blob, unless the
backend keeps everything in memory.

No verb ever raises a client library's error: failures are `StorageError` with the cause attached. A verb that was
cancelled may or may not have happened, and never half. There are no TTLs: whoever reads judges by a stored time.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol, runtime_checkable

import attrs

from mdashcore._errors import InvalidInput, StorageError

__all__ = [
    "DURABLE",
    "ENTRY_POINT_GROUP",
    "INSTANT",
    "MAX_OFFSET",
    "ORDERED",
    "SHARED",
    "Backend",
    "BackendOpener",
    "BlobStore",
    "Document",
    "DocumentStore",
    "LogEntry",
    "LogStore",
    "MessageBus",
    "PutAndAppend",
    "backend_schemes",
    "check_begin",
    "open_backend",
]

ENTRY_POINT_GROUP: Final = "mdashcore.backends"

DURABLE: Final = "durable"
"""Capability: a write that was acknowledged survives the end of the process, and a power cut."""

SHARED: Final = "shared"
"""Capability: several processes may use it at once and see each other's writes and messages."""

INSTANT: Final = "instant"
"""Capability: no verb of documents and logs, and no `publish`, ever waits. They may be used without a task then."""

ORDERED: Final = "ordered"
"""Capability: `DocumentStore.scan` gives documents in the order of their keys, by code points. Lists that are joined of
several collections are then read a page at a time; else they are gathered first, or asked for one by one."""

MAX_OFFSET: Final = 2**52  # of a log to begin at: scripts and browsers count with doubles, exactly up to twice that

MAX_KEY: Final = 512  # characters: an account's name and a device's id have 64 and 128


@attrs.frozen
class Document:
    """One stored document."""

    key: str
    version: int
    body: bytes
    """JSON in UTF-8."""
    damage: str | None = None
    """Why the document cannot be read, with the place, where it cannot: then there is no version or body."""


@attrs.frozen
class LogEntry:
    """One entry of a log."""

    offset: int
    time: float
    """Unix seconds, as given to `append`."""
    body: bytes
    """JSON in UTF-8."""
    damage: str | None = None
    """Why the entry cannot be read, with the place, where it cannot: then `body` is empty, and `time` is a guess."""


@runtime_checkable
class DocumentStore(Protocol):
    """Versioned JSON documents."""

    async def get(self, collection: str, key: str) -> Document | None:
        """The document, or None.

        Raises:
            Damaged: it is there, and cannot be read.
        """

    async def put(self, collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
        """Write, and return the new version.

        Args:
            expected: the version that must be there now; 0 for none; None writes whatever is there.

        Raises:
            VersionConflict: another version is there. Nothing was written.
        """

    async def delete(self, collection: str, key: str, *, expected: int | None = None) -> bool:
        """Remove a document; returns False where there was none.

        Args:
            expected: as in `put`; 0 succeeds where there is none, and returns False.

        Raises:
            VersionConflict: another version is there. Nothing was removed.
        """

    def scan(self, collection: str, prefix: str = "") -> AsyncIterator[Document]:
        """Every document whose key starts with `prefix`, in no particular order unless the backend is `ORDERED`.

        One that cannot be read takes out only itself: it is given with its key and `damage`.
        """


@runtime_checkable
class LogStore(Protocol):
    """Append-only logs, addressed by offset."""

    async def append(self, log: str, time: float, bodies: Sequence[bytes]) -> int:
        """Add entries, all or none; returns the offset of the first. `bodies` is not empty."""

    async def begin(self, log: str, offset: int) -> None:
        """Remove all entries, and give the next one this offset; at a cost that does not grow with it.

        Raises:
            InvalidInput: the offset was used already, or is greater than `MAX_OFFSET`. Nothing was changed.
        """

    async def read(self, log: str, start: int, limit: int) -> Sequence[LogEntry]:
        """At most `limit` entries with an offset of at least `start`, in their order."""

    async def end(self, log: str) -> int:
        """The offset that the next entry will get; 0 for a log that was never written."""

    async def trim(self, log: str, keep: int, *, before: int | None = None) -> None:
        """Remove all but the newest `keep` entries.

        Args:
            before: an offset: what has it, or a greater one, stays too, also if it is appended while this runs.
        """


@runtime_checkable
class MessageBus(Protocol):
    """At-most-once messages between those who are there."""

    async def publish(self, topic: str, message: bytes) -> None:
        """Give a message to every present subscriber of the topic, waiting for none of them."""

    def subscribe(self, topic: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The topic's messages, from the moment that the context is entered.

        Raises:
            StorageError: there is no subscription; or, from the iterator, messages were dropped: read what was missed.
        """


@runtime_checkable
class BlobStore(Protocol):
    """Large bytes, streamed in and read in pieces."""

    async def put(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        """Store a blob, replacing one of the same key; returns its size in bytes."""

    async def read(self, key: str, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset`; fewer only at the end.

        Raises:
            NotFound: there is no such blob.
        """

    async def size(self, key: str) -> int | None:
        """Bytes, or None where there is no such blob."""

    async def delete(self, key: str) -> bool:
        """Remove; False where there was none."""

    def scan(self, prefix: str = "") -> AsyncIterator[str]:
        """The keys that start with `prefix`, in no particular order."""


class PutAndAppend(Protocol):
    """Writes a document and a log entry, both or neither."""

    async def __call__(
        self, collection: str, key: str, body: bytes, *, expected: int, log: str, time: float, entry: bytes
    ) -> tuple[int, int]:
        """Write the document as `DocumentStore.put` does, and append the entry as `LogStore.append` does.

        Returns:
            the version of the document, and the offset of the entry.

        Raises:
            VersionConflict: another version of the document is there. Nothing was written.
        """


@attrs.frozen
class Backend:
    """The four stores that a service runs on."""

    documents: DocumentStore
    logs: LogStore
    blobs: BlobStore
    bus: MessageBus
    capabilities: frozenset[str] = frozenset()
    check: Callable[[], Awaitable[Sequence[str]]] | None = None
    """For a backend that can know of damage which reading everything does not show: find it, and say what it is, in
    one text for each. From then on until it is closed the backend repairs nothing by itself: it only tells."""
    put_and_append: PutAndAppend | None = None
    """For a backend whose documents and logs can be written in one step. Whoever mixes stores leaves it out."""
    free_bytes: Callable[[], Awaitable[int | None]] | None = None
    """For a backend that keeps blobs on a disk: how many bytes it may still write there; `None` where it is not known.
    The service takes no more images before a disk is full, so that there is room for what devices report."""


class BackendOpener(Protocol):
    """What an entry point of the group `mdashcore.backends` names; the scheme of the URL is its name."""

    def __call__(self, url: str) -> AbstractAsyncContextManager[Backend]:
        """Open the backend for as long as the context lasts.

        Raises:
            InvalidInput: the URL cannot be understood.
            StorageError: there is nothing usable behind it.
        """


def check_begin(offset: int, end: int) -> None:
    """For `LogStore.begin`, in a log that ends at `end`: raises `InvalidInput` for an offset that cannot be next."""
    if not end <= offset <= MAX_OFFSET:
        raise InvalidInput(f"a log that ends at offset {end} cannot begin anew at {offset}; at most at {MAX_OFFSET}")


def backend_schemes() -> tuple[str, ...]:
    """The URL schemes for which a backend is installed."""
    from importlib.metadata import entry_points  # here: it loads socket, on some versions of Python

    return tuple(sorted(entry_points(group=ENTRY_POINT_GROUP).names))


def open_backend(url: str) -> AbstractAsyncContextManager[Backend]:
    """The backend of a URL such as ``memory://``, to be entered with `async with`.

    Raises:
        InvalidInput: no installed backend has that scheme.
        StorageError: the backend cannot be loaded: a library that it needs is missing.
    """
    from importlib.metadata import entry_points

    scheme, separator, _ = url.partition("://")  # only the scheme is shown: the rest may hold a password
    found = tuple(entry_points(group=ENTRY_POINT_GROUP, name=scheme)) if separator else ()
    if not found:
        known = ", ".join(f"{name}://" for name in backend_schemes()) or "none"
        what = f"no storage backend for {scheme}://" if separator else "a storage URL starts with SCHEME://"
        raise InvalidInput(f"{what}; installed: {known}")
    try:
        opener: BackendOpener = found[0].load()
    except (ImportError, AttributeError) as exc:
        raise StorageError(f"the storage backend for {scheme}:// cannot be loaded: {exc}") from exc
    return opener(url)
