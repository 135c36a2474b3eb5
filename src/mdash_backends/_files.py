"""Files that outlive a power cut, written from threads of one event loop.

A file is written under a temporary name, synced, and renamed: whoever looks finds the old one or the new one, whole.
Its name is on disk when its folder has been synced, which all who wait for that at the same time share.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar, TypeVarTuple

import anyio
import attrs
import msgspec
from anyio import CancelScope, CapacityLimiter, to_thread

from mdash_backends._lock import sync_folder
from mdash_backends._modes import close_folder, create_file, make_folder
from mdashcore import _json
from mdashcore._errors import Damaged, InvalidInput, StorageError

__all__ = ["Files", "NewFile", "Turns", "damaged", "failed", "json_text", "read_file"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

THREADS: Final = 32  # a disk does about as many fsyncs at once; what comes then waits here and not in a thread
TEMPORARY: Final = ".tmp"  # of a store's folder; no name that is made from a key starts with a dot
MAX_DEPTH: Final = 256  # of a JSON text: parsers give up somewhere below a thousand, depending on who calls them
KNOWN_FOLDERS: Final = 4096  # that need no fsync of their own any more; then they are found out anew


class Turns:
    """One at a time for each key. The table holds those keys only that somebody has or waits for."""

    def __init__(self) -> None:
        self._locks: dict[str, _Turn] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._locks

    def __iter__(self) -> Iterator[str]:
        return iter(self._locks)

    @asynccontextmanager
    async def take(self, key: str) -> AsyncIterator[None]:
        """Wait for the key's turn, first come first served."""
        turn = self._locks.setdefault(key, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._locks[key]


@attrs.define(eq=False)
class _Turn:
    lock: anyio.Lock = attrs.field(factory=anyio.Lock)
    users: int = 0


@attrs.define(eq=False)
class _Round:
    """One fsync of a folder, for all who wait for it."""

    done: anyio.Event = attrs.field(factory=anyio.Event)
    synced: bool = False
    error: StorageError | None = None


class Files:
    """A store's folder. What is not `async` blocks, and is meant to be called through `run`."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder)
        self._temporary = os.path.join(self.path, TEMPORARY)
        self._numbers = itertools.count(1)
        self._threads = CapacityLimiter(THREADS)
        self._known: set[str] = set()
        self._making = threading.Lock()
        self._rounds: dict[str, _Round] = {}
        self._syncs = Turns()
        self._closed = False

    async def run(self, about: str, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call a function in a thread, to its end: a caller that is cancelled meanwhile still waits for that.

        Raises:
            StorageError: the operating system refused; the text starts with `about`, a path.
        """
        if self._closed:
            raise StorageError(f"{self.path} is closed")
        claim, ended = threading.Lock(), threading.Event()

        def work() -> T:
            if not claim.acquire(blocking=False):
                raise RuntimeError("nobody waits for this any more")
            try:
                return function(*args)
            finally:
                ended.set()

        try:
            return await to_thread.run_sync(work, limiter=self._threads)
        except OSError as exc:
            raise failed(about, exc) from exc
        except anyio.get_cancelled_exc_class():
            # asyncio's own cancellation, unlike a scope's, leaves the thread to itself
            if not claim.acquire(blocking=False):
                await _until(ended)
            raise

    async def close(self) -> None:
        """Refuse what comes from now on, and wait for what is being done."""
        self._closed = True
        with CancelScope(shield=True):
            for _ in range(int(self._threads.total_tokens)):
                await self._threads.acquire_on_behalf_of(object())

    async def free_bytes(self) -> int:
        """Bytes that may still be written to the disk of the folder: without those that only root may take."""
        status = await self.run(self.path, os.statvfs, self.path)
        return status.f_bavail * status.f_frsize

    def prepare(self) -> None:
        """Make the folder where it is missing, and remove what interrupted writes have left."""
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        for folder in (self.path, self._temporary):
            with suppress(FileExistsError):
                make_folder(folder)
        close_folder(self._temporary)
        for name in os.listdir(self._temporary):
            with suppress(IsADirectoryError):
                os.unlink(os.path.join(self._temporary, name))
        sync_folder(Path(self.path))
        sync_folder(Path(self.path).parent)

    def make(self, folder: str) -> None:
        """Make a folder below the store's, and those on the way to it, so that their names are on disk."""
        if folder not in self._known:
            with self._making:
                if len(self._known) > KNOWN_FOLDERS:
                    self._known.clear()
                self._make(folder)

    def _make(self, folder: str) -> None:
        if folder == self.path or folder in self._known:
            return
        parent = os.path.dirname(folder)
        self._make(parent)
        with suppress(FileExistsError):
            make_folder(folder)
        sync_folder(Path(parent))  # also of one that was there: who made it may have died before this
        self._known.add(folder)

    def new_file(self) -> NewFile:
        """A file that nobody sees until it is published."""
        return NewFile(self, os.path.join(self._temporary, str(next(self._numbers))))

    def replace(self, path: str, data: bytes) -> None:
        """Write a file, or write it anew. It is on disk when its folder has been synced as well."""
        new = self.new_file()
        try:
            new.write(data)
            new.publish(path)
        finally:
            new.discard()

    async def sync(self, folder: str) -> None:
        """Return when the names in a folder are on disk, as they were at the call; many share one fsync.

        Raises:
            StorageError: it failed, for all who shared it.
        """
        with CancelScope(shield=True):
            while True:
                joined = self._rounds.get(folder)
                if joined is None:
                    joined = self._rounds[folder] = _Round()
                    await self._lead(folder, joined)
                else:
                    await joined.done.wait()
                if joined.error is not None:
                    raise StorageError(str(joined.error)) from joined.error.__cause__
                if joined.synced:
                    return
                # else the task that led this round was cancelled by asyncio itself: there will be another one

    async def _lead(self, folder: str, joined: _Round) -> None:
        try:
            try:
                async with self._syncs.take(folder):  # while one fsync runs, the next round gathers
                    self._rounds.pop(folder)
                    await self.run(folder, sync_folder, Path(folder))
            finally:
                if self._rounds.get(folder) is joined:
                    del self._rounds[folder]
            joined.synced = True
        except StorageError as exc:
            joined.error = exc
        finally:
            joined.done.set()


class NewFile:
    """A file under a temporary name. Everything blocks."""

    def __init__(self, files: Files, temporary: str) -> None:
        self._files = files
        self._temporary = temporary
        self._descriptor = -1

    def write(self, data: bytes | bytearray) -> None:
        """Add to the file."""
        if self._descriptor < 0:
            self._descriptor = create_file(self._temporary, os.O_WRONLY | os.O_EXCL)
        write_all(self._descriptor, data)

    def publish(self, path: str) -> None:
        """Give the file its name, once its bytes are on disk."""
        os.fsync(self._descriptor)
        self._files.make(os.path.dirname(path))
        os.rename(self._temporary, path)

    def discard(self) -> None:
        """Close, and remove what was not published."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            with suppress(FileNotFoundError):
                os.unlink(self._temporary)


def write_all(descriptor: int, data: bytes | bytearray) -> None:
    """Write, whatever pieces the system takes it in."""
    with memoryview(data) as view:
        done = 0
        while done < len(view):
            done += os.write(descriptor, view[done:])


def read_file(path: str) -> bytes | None:
    """A file's bytes, or None where there is none."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except FileNotFoundError:
        return None


def json_text(body: bytes, *, indent: int) -> bytes:
    """A JSON text in another layout, its numbers, strings and their order untouched.

    Args:
        indent: spaces for each level; -1 for none at all, on one line.

    Raises:
        InvalidInput: it is not JSON, or nested so deeply that it may not be read again.
    """
    if _json.too_deep(body, MAX_DEPTH):
        raise InvalidInput(f"JSON is nested deeper than {MAX_DEPTH} levels")
    try:
        body.decode()  # the formatter looks at no character inside a string
        return msgspec.json.format(body, indent=indent)
    except _json.DECODE_ERRORS as exc:
        raise InvalidInput(f"not valid JSON: {_json.reason(exc)}") from None


def failed(path: str, exc: OSError) -> StorageError:
    """The error for what the operating system refused; the cause is attached, as it may be raised elsewhere."""
    error = StorageError(f"{path}: {exc.strerror or exc}")
    error.__cause__ = exc
    return error


def damaged(path: str, data: bytes, exc: Exception) -> Damaged:
    """The error for a file that does not hold what it should, with the place as far as it is known."""
    what = f"not UTF-8 (byte {exc.start})" if isinstance(exc, UnicodeDecodeError) else _json.reason(exc)
    return Damaged(f"{path} is damaged: {what}; it has {len(data)} bytes")


async def _until(ended: threading.Event) -> None:
    while not ended.is_set():
        with CancelScope(shield=True), suppress(anyio.get_cancelled_exc_class()):
            await to_thread.run_sync(ended.wait)
