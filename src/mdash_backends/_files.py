"""Files that survive a power cut, written from threads of one event loop.

A file is written under a temporary name, synced, and renamed, so that readers find the whole old or new file.
Its name is on disk after its folder was synced. Callers that wait for this at the same time share one fsync.
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

__all__ = ["FileLocks", "Files", "NewFile", "damaged", "failed", "json_text", "read_file"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

FILE_THREADS: Final = 32  # a disk does about as many fsyncs at the same time; later calls wait here and not in a thread
TEMPORARY_FOLDER: Final = ".tmp"  # a folder in the store; no name made from a key starts with a dot
MAX_FILE_DEPTH: Final = 256  # levels of a JSON text: parsers give up below a thousand, depending on the stack
KNOWN_FOLDERS: Final = 4096  # folders that need no fsync of their own any more; beyond this the set starts again


class FileLocks:
    """Locks by key. The table holds only keys that are locked or waited for."""

    def __init__(self) -> None:
        self._locks: dict[str, _FileLock] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._locks

    def __iter__(self) -> Iterator[str]:
        return iter(self._locks)

    @asynccontextmanager
    async def acquire(self, key: str) -> AsyncIterator[None]:
        """Wait for the lock of a key, in the order of the calls."""
        turn = self._locks.setdefault(key, _FileLock())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._locks[key]


@attrs.define(eq=False)
class _FileLock:
    lock: anyio.Lock = attrs.field(factory=anyio.Lock)
    users: int = 0


@attrs.define(eq=False)
class _Round:
    """One fsync of a folder, shared by all callers that wait for it."""

    done: anyio.Event = attrs.field(factory=anyio.Event)
    synced: bool = False
    error: StorageError | None = None


class Files:
    """The folder of a store. A method that is not `async` blocks, and is called through `run`."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder)
        self._temporary = os.path.join(self.path, TEMPORARY_FOLDER)
        self._numbers = itertools.count(1)
        self._threads = CapacityLimiter(FILE_THREADS)
        self._known: set[str] = set()
        self._making = threading.Lock()
        self._rounds: dict[str, _Round] = {}
        self._syncs = FileLocks()
        self._closed = False

    async def run(self, about: str, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call a function in a thread, to its end. A caller that is cancelled meanwhile still waits for the end.

        Args:
            about: the path that an error names first.

        Raises:
            StorageError: the operating system refused.
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
            # unlike a scope's cancellation, asyncio's own leaves the thread running
            if not claim.acquire(blocking=False):
                await _until(ended)
            raise

    async def close(self) -> None:
        """Refuse further calls, and wait for the running ones."""
        self._closed = True
        with CancelScope(shield=True):
            for _ in range(int(self._threads.total_tokens)):
                await self._threads.acquire_on_behalf_of(object())

    async def free_bytes(self) -> int:
        """Return how many bytes may still be written to the disk of the folder, without the space reserved for root."""
        status = await self.run(self.path, os.statvfs, self.path)
        return status.f_bavail * status.f_frsize

    def prepare(self) -> None:
        """Create the folder if it is missing, and remove the leftovers of interrupted writes."""
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
        """Create a folder below the store's, and its parents, so that their names are on disk."""
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
        sync_folder(Path(parent))  # also of an existing folder: the process that created it may have died before this
        self._known.add(folder)

    def new_file(self) -> NewFile:
        """Return a file that has no name in the store until it is published."""
        return NewFile(self, os.path.join(self._temporary, str(next(self._numbers))))

    def replace(self, path: str, data: bytes) -> None:
        """Write a file, or replace it. It is on disk after its folder was synced too."""
        new = self.new_file()
        try:
            new.write(data)
            new.publish(path)
        finally:
            new.discard()

    async def sync(self, folder: str) -> None:
        """Return when the names in a folder are on disk, as they were at the call. Concurrent callers share one fsync.

        Raises:
            StorageError: the fsync failed, for all callers that shared it.
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
                # else asyncio itself has cancelled the task that led this round: there will be another round

    async def _lead(self, folder: str, joined: _Round) -> None:
        try:
            try:
                async with self._syncs.acquire(folder):  # while one fsync runs, the next round collects callers
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
    """A file under a temporary name. All methods block."""

    def __init__(self, files: Files, temporary: str) -> None:
        self._files = files
        self._temporary = temporary
        self._descriptor = -1

    def write(self, data: bytes | bytearray) -> None:
        """Append to the file."""
        if self._descriptor < 0:
            self._descriptor = create_file(self._temporary, os.O_WRONLY | os.O_EXCL)
        write_all(self._descriptor, data)

    def publish(self, path: str) -> None:
        """Give the file its name, after its bytes are on disk."""
        os.fsync(self._descriptor)
        self._files.make(os.path.dirname(path))
        os.rename(self._temporary, path)

    def discard(self) -> None:
        """Close the file, and remove it unless it was published."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            with suppress(FileNotFoundError):
                os.unlink(self._temporary)


def write_all(descriptor: int, data: bytes | bytearray) -> None:
    """Write all bytes, in as many pieces as the system needs."""
    with memoryview(data) as view:
        done = 0
        while done < len(view):
            done += os.write(descriptor, view[done:])


def read_file(path: str) -> bytes | None:
    """Return the bytes of a file; `None` if there is none."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except FileNotFoundError:
        return None


def json_text(body: bytes, *, indent: int) -> bytes:
    """Return a JSON text in another layout, without changing numbers, strings and their order.

    Args:
        indent: spaces for each level; -1 puts everything on one line without spaces.

    Raises:
        InvalidInput: the text is not JSON, or is nested so deeply that it might not be read again.
    """
    if _json.too_deep(body, MAX_FILE_DEPTH):
        raise InvalidInput(f"JSON is nested deeper than {MAX_FILE_DEPTH} levels")
    try:
        body.decode()  # the formatter checks no character inside a string
        return msgspec.json.format(body, indent=indent)
    except _json.DECODE_ERRORS as exc:
        raise InvalidInput(f"not valid JSON: {_json.reason(exc)}") from None


def failed(path: str, exc: OSError) -> StorageError:
    """Return the error for a refusal of the operating system. The cause is set, because it may be raised elsewhere."""
    error = StorageError(f"{path}: {exc.strerror or exc}")
    error.__cause__ = exc
    return error


def damaged(path: str, data: bytes, exc: Exception) -> Damaged:
    """Return the error for a file with unreadable content, with the place if it is known."""
    what = f"not UTF-8 (byte {exc.start})" if isinstance(exc, UnicodeDecodeError) else _json.reason(exc)
    return Damaged(f"{path} is damaged: {what}; it has {len(data)} bytes")


async def _until(ended: threading.Event) -> None:
    while not ended.is_set():
        with CancelScope(shield=True), suppress(anyio.get_cancelled_exc_class()):
            await to_thread.run_sync(ended.wait)
