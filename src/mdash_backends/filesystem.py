"""``file:///var/lib/mdash``: plain files that a person can read, grep, compare and back up. See `_key_files` for names.

::

    lock                                the process that serves from this folder
    store.json                          the format, and a number that no version is greater than
    documents/shadows/alice/d1.json     a document: key, version, body
    logs/notifications/alice.log/
        log.json                        the log's name, and the offset of its first entry
        0000000000000000.jsonl          its entries from that offset on, one on each line
    blobs/alice/ota_1.blob              a blob, as it is
    .tmp/                               unfinished files, and a reserve of space; emptied at the start

Only their owner can read them. A write is on disk before it is acknowledged. One process at a time may have the folder
open. In a copy of the folder that is made while it is in use, each file is consistent, but not all of them together.
"""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Final

import msgspec
from anyio import CancelScope, to_thread

from mdash_backends._blob_files import BlobFiles
from mdash_backends._file_documents import FileDocuments
from mdash_backends._file_logs import FileLogs
from mdash_backends._files import TEMPORARY_FOLDER, Files, damaged, read_file
from mdash_backends._lock import (
    LOCK_FILE,
    exists,
    folder_of,
    hold_folder,
    refuse_folder,
    refuse_other_files,
    sync_folder,
)
from mdash_backends._modes import close_file, close_folder
from mdash_backends._reserve import FileWriter
from mdash_backends.memory import MemoryBus
from mdashcore import _json
from mdashcore._errors import StorageError
from mdashcore.storage import DURABLE, ORDERED, Backend

__all__ = ["open_filesystem"]

FOLDERS: Final = ("documents", "logs", "blobs")
FOLDER_FORMAT: Final = 1
STORE_FILE: Final = "store.json"
FIRST_FILES: Final = frozenset({LOCK_FILE, TEMPORARY_FOLDER, *FOLDERS, "lost+found"})
"""The names that may exist before the store file: from a first start that was interrupted, or from the file system."""
VERSION_BLOCK: Final = 1024  # versions for one write of store.json: it then costs a put next to nothing


@asynccontextmanager
async def open_filesystem(url: str) -> AsyncIterator[Backend]:
    """Open the store in the folder of ``file:///absolute/path``. A missing folder is created.

    Raises:
        InvalidInput: the URL names no folder.
        StorageError: the folder cannot be used, is in use by another process, or is damaged.
    """
    folder = folder_of(url)
    refuse_folder(folder, "mdash.db", "an SQLite store: its URL begins with sqlite://")
    if not exists(folder, STORE_FILE):
        refuse_other_files(folder, FIRST_FILES)
    with hold_folder(folder):
        files = Files(folder)
        documents, logs, blobs = (str(folder / name) for name in FOLDERS)
        versions = _Versions(files)
        try:
            await files.run(files.path, files.prepare)
            await files.run(files.path, versions.open, documents)
            for name in (documents, logs, blobs):
                await files.run(name, files.make, name)
                await files.run(name, close_folder, name)
            file_documents = FileDocuments(files, documents, versions.next)
            file_logs = FileLogs(files, logs)
            yield Backend(
                file_documents,
                file_logs,
                BlobFiles(Path(blobs), files),
                MemoryBus(),
                frozenset({DURABLE, ORDERED}),
                file_logs.only_look,
                put_and_append=FileWriter(files, file_documents, file_logs).put_and_append,
                free_bytes=files.free_bytes,
            )
        finally:
            await files.close()
            with CancelScope(shield=True):
                await to_thread.run_sync(versions.close)


class _StoreFile(msgspec.Struct):
    format: int
    highest_version: Annotated[int, msgspec.Meta(ge=0)]


_decode = msgspec.json.Decoder(_StoreFile).decode


class _Versions:
    """Gives each version once, also after a crash: ``store.json`` holds an upper bound of them. All methods block."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._path = os.path.join(files.path, STORE_FILE)
        self._lock = threading.Lock()
        self._last = 0
        self._reserved: int | None = None

    def open(self, documents: str) -> None:
        """Read the file, or create it. A folder with `documents` must already have one."""
        close_file(self._path)
        data = read_file(self._path)
        if data is None:
            if os.path.exists(documents):
                what = "without it versions would be given twice; restore it, or write one with a number that is"
                raise StorageError(f"{self._path} is missing: {what} high enough")
            self._reserve(0)
            return
        try:
            found = _decode(data)
        except _json.DECODE_ERRORS as exc:
            raise damaged(self._path, data, exc) from exc
        if found.format != FOLDER_FORMAT:
            raise StorageError(f"{self._path} is of format {found.format}; this program knows format {FOLDER_FORMAT}")
        self._last = self._reserved = found.highest_version

    def next(self, above: int) -> int:
        """Return a new version, which is also greater than `above`: a document may be from a newer copy of the
        folder.
        """
        with self._lock:
            version = max(self._last, above) + 1
            if self._reserved is None or version > self._reserved:
                self._reserve(version + VERSION_BLOCK - 1)
            self._last = version
            return version

    def close(self) -> None:
        """Return the unused part of the reserved versions, for tidiness only."""
        with self._lock, suppress(OSError):
            if self._reserved is not None and self._last < self._reserved:
                self._reserve(self._last)

    def _reserve(self, highest: int) -> None:
        self._files.replace(self._path, b'{\n  "format": %d,\n  "highest_version": %d\n}\n' % (FOLDER_FORMAT, highest))
        sync_folder(Path(self._files.path))
        self._reserved = highest
