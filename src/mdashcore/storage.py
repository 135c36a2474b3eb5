"""The contract of a storage backend, for authors of backends and for their callers.

A backend has four small stores. They are independent and can be mixed: documents in one system, blobs in
another. The whole service is built on them; no store knows about devices.

**DocumentStore** keeps JSON documents under (collection, key). A collection is a text of 1 to 64 characters, a key one
of 1 to 512 (2 048 bytes in UTF-8 at most); they are two texts and never run together, a key must not be able to escape
its collection, and two that differ in one code point (also only in case, or in how a letter is composed) are two. A
document's *version* is an integer from 1. A `put` must give it a version greater than every version that key ever had,
also before a `delete`. `put(expected=n)` is an atomic compare-and-set: of many concurrent writers with the same
`expected` exactly one succeeds, the others get `VersionConflict` and have changed nothing. `expected=0` means that
there is no such document. A `get` after a `put` has returned sees its document, or a later one.
The body is a JSON text of at most 1 MiB and comes back as a text of the same value: its integers exact, whatever their
size, every other number as the same IEEE double (one beyond a double's range may be refused), its texts code point for
code point and its keys in their order. A backend may write the body in a form of its own. A body that is given may be
any bytes-like object, and a backend must not keep a buffer that its caller can still change; a body that comes back is
`bytes`. The same holds for the bodies of logs, for messages and for the chunks of blobs.
`scan` gives every document that exists from before the scan until after it, once; one that is written or
deleted meanwhile may be given or not. It must not hold all of them in memory if the backend can avoid it. Between two
documents the reader may use every verb, also another scan, and it may leave a scan before its end.

**LogStore** keeps append-only logs. The entries of one `append` get consecutive offsets; the first of a log is 0,
and an offset is never used twice, also after a `trim`. An entry's body has at most 1 MiB and comes back byte for
byte; its time is any finite number, also a negative one, and comes back to the last bit. An entry becomes
visible only when all with smaller offsets are. An entry that cannot be read is given by `read` with its `damage`; the
other entries are still read. `read` never waits for new entries. `trim` keeps the newest; its caller decides how many,
by number, size or age, because only the caller knows the content of the entries. `begin` lets a log go on at a later
offset, as if all before it had been appended and trimmed. It is for a log that moves from another store.

**MessageBus** carries messages of at most 1 MiB at most once. A subscription is live when its context has been entered:
a message that is published after that arrives, in the order of each publisher. If the subscriber is slow, or a
connection is lost, messages may be dropped; then the subscription raises `StorageError` once, at the place of the gap,
after the messages before it. The subscription may end with that error: a subscriber that needs later messages
subscribes again. If it goes on instead, messages arrive again when the error is raised, and its iterator says so with a
true attribute `is_live`. `publish` never waits for a subscriber, and a slow one never delays another. No message is
kept for an absent subscriber. When its context is left, a subscription ends, and its iterator too. Users that need
every message keep a log beside the bus and read what they missed.
A subscriber may have thousands of topics at the same time, which come and go: a topic costs kilobytes, not a connection
of its own, and one without subscribers costs nothing, in this process and below it.

**BlobStore** keeps large bytes (firmware images). A blob becomes visible when `put` has seen the last chunk;
before, and if the source fails, there is none, or the one that was there before. A chunk may be empty. A read gives
bytes of one blob, also while it is being replaced. A source may take its time: a `put` that waits for a chunk delays no
other verb. Memory use must not grow with the size of a blob, unless the backend keeps everything in memory.

No verb ever raises a client library's error: failures are `StorageError` with the cause attached. A verb that was
cancelled has happened or not, but never half. There are no TTLs: readers judge age by a stored time.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol, runtime_checkable

import attrs
import msgspec

from mdashcore._errors import InvalidInput, StorageError

__all__ = [
    "ATOMIC",
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
    "goes_on",
    "open_backend",
]

ENTRY_POINT_GROUP: Final = "mdashcore.backends"

DURABLE: Final = "durable"
"""Capability: an acknowledged write survives the end of the process, and a power cut."""

SHARED: Final = "shared"
"""Capability: several processes may use the backend at the same time and see each other's writes and messages."""

INSTANT: Final = "instant"
"""Capability: no verb of documents and logs, and no `publish`, ever waits. They may then be used outside of a task."""

ATOMIC: Final = "atomic"
"""Capability: `Backend.put_and_append` writes a document and a log entry in one step, also if the process is killed."""

ORDERED: Final = "ordered"
"""Capability: `DocumentStore.scan` gives documents in the order of their keys, by code points, and continues behind any
key (`after`). Lists that join several collections are then read a page at a time. Otherwise they are collected first,
or read one by one.
"""

MAX_OFFSET: Final = 2**52  # of a log to begin at: scripts and browsers count with doubles, exactly up to twice that

MAX_KEY: Final = 512  # characters: an account's name and a device's id have 64 and 128


class Document(msgspec.Struct, frozen=True, gc=False):
    """One stored document."""

    key: str
    version: int
    body: bytes
    """JSON in UTF-8."""
    damage: str | None = None
    """The cause and place of the damage, if the document cannot be read. Such a document has no version or body."""


class LogEntry(msgspec.Struct, frozen=True, gc=False):
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
        """Return the document, or `None` if there is none.

        Raises:
            Damaged: the document exists, and cannot be read.
        """

    async def put(self, collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
        """Write a document, and return its new version.

        Args:
            body: a JSON text of at most 1 MiB.
            expected: the present version; 0 for no document; `None` writes over any version.

        Raises:
            VersionConflict: another version is there. Nothing was written.
        """

    async def delete(self, collection: str, key: str, *, expected: int | None = None) -> bool:
        """Remove a document. Returns `False` if there was none.

        Args:
            expected: as in `put`; with 0 and no document the method returns `False`.

        Raises:
            VersionConflict: another version is there. Nothing was removed.
        """

    def scan(self, collection: str, prefix: str = "", *, after: str = "") -> AsyncIterator[Document]:
        """Yield every document whose key starts with `prefix`, in no particular order unless the backend is `ORDERED`.

        A damaged document does not end the scan: it is given with its key and `damage`.

        Args:
            after: yield only documents whose key is greater than this text, which need not be a key, and read as few
                of the others as possible. It is given only to a backend that is `ORDERED`.
        """


@runtime_checkable
class LogStore(Protocol):
    """Append-only logs, addressed by offset."""

    async def append(self, log: str, time: float, bodies: Sequence[bytes]) -> int:
        """Add entries, all or none. Returns the offset of the first.

        Args:
            time: Unix seconds of the entries.
            bodies: the entries' bodies, at least one.
        """

    async def begin(self, log: str, offset: int) -> None:
        """Remove all entries, and give the next one this offset. The cost does not grow with the offset.

        Raises:
            InvalidInput: the offset was used already, or is greater than `MAX_OFFSET`. Nothing was changed.
        """

    async def read(self, log: str, start: int, limit: int) -> Sequence[LogEntry]:
        """Return at most `limit` entries with an offset of at least `start`, in their order."""

    async def end(self, log: str) -> int:
        """Return the offset that the next entry will get; 0 for a log that was never written."""

    async def trim(self, log: str, keep: int, *, before: int | None = None) -> None:
        """Remove all but the newest `keep` entries.

        Args:
            before: an offset. Entries with this offset or a greater one stay too, also if they are appended during the
                trim.
        """


@runtime_checkable
class MessageBus(Protocol):
    """At-most-once messages between a publisher and the subscribers that are present."""

    async def publish(self, topic: str, message: bytes) -> None:
        """Send a message to every present subscriber of the topic. Waits for none of them."""

    def subscribe(self, topic: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Subscribe to a topic. The context gives an iterator over its messages from the moment that it is entered.

        Raises:
            StorageError: when entering, the backend cannot subscribe; from the iterator, messages were dropped.
        """


@runtime_checkable
class BlobStore(Protocol):
    """Large bytes, streamed in and read in pieces."""

    async def put(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        """Store a blob, or replace the one of the same key. Returns its size in bytes."""

    async def read(self, key: str, offset: int, size: int) -> bytes:
        """Return at most `size` bytes from `offset`; fewer only at the end of the blob.

        Raises:
            NotFound: there is no such blob.
        """

    async def size(self, key: str) -> int | None:
        """Return the size of a blob in bytes; `None` if there is no such blob."""

    async def delete(self, key: str) -> bool:
        """Remove a blob. Returns `False` if there was none."""

    def scan(self, prefix: str = "") -> AsyncIterator[str]:
        """Yield the keys that start with `prefix`, in no particular order."""


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
    """Optional, for a backend that can find damage which reading everything does not show. Returns a text for each
    damage. From this call until it is closed the backend repairs nothing by itself: it only reports.
    """
    put_and_append: PutAndAppend | None = None
    """Optional, for a backend that can write its documents and logs in one step; necessary if it is `ATOMIC`.

    It has to write to the same `documents` and `logs`: replace it, or leave it out, where one of them is replaced.
    """
    free_bytes: Callable[[], Awaitable[int | None]] | None = None
    """Optional, for a backend that keeps blobs on a disk. Returns how many bytes it may still write there; `None` if
    unknown. The service accepts no more images before a disk is full, so that there is room for the reports of devices.
    """

    def __attrs_post_init__(self) -> None:
        if ATOMIC in self.capabilities and self.put_and_append is None:
            raise InvalidInput("a backend that is atomic has put_and_append")


class BackendOpener(Protocol):
    """The type of an entry point of the group `mdashcore.backends`. The name of the entry point is the scheme of its
    URLs.
    """

    def __call__(self, url: str) -> AbstractAsyncContextManager[Backend]:
        """Open the backend for as long as the context lasts.

        Raises:
            InvalidInput: the URL is malformed.
            StorageError: there is nothing usable behind the URL.
        """


def goes_on(messages: AsyncIterator[bytes]) -> bool:
    """Return whether a subscription goes on after the `StorageError` that its iterator has just raised."""
    return bool(getattr(messages, "is_live", False))


def check_begin(offset: int, end: int) -> None:
    """Raise `InvalidInput` unless a log that ends at `end` can begin anew at `offset`. For `LogStore.begin`."""
    if not end <= offset <= MAX_OFFSET:
        raise InvalidInput(f"a log that ends at offset {end} cannot begin anew at {offset}; at most at {MAX_OFFSET}")


def backend_schemes() -> tuple[str, ...]:
    """Return the URL schemes for which a backend is installed."""
    from importlib.metadata import entry_points  # imported here, because on some versions of Python it loads socket

    return tuple(sorted(entry_points(group=ENTRY_POINT_GROUP).names))


def open_backend(url: str) -> AbstractAsyncContextManager[Backend]:
    """Return the backend of a URL such as ``memory://``, to be entered with `async with`.

    Raises:
        InvalidInput: no installed backend has that scheme.
        StorageError: the backend cannot be loaded, because a library that it needs is missing.
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
