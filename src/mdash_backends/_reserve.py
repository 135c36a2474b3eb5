"""Writes a document and a log entry to files, one after the other, with a reserve of space for the entry."""

from __future__ import annotations

import errno
import logging
import os
import threading
from typing import Final

import anyio

from mdash_backends._file_documents import FileDocuments
from mdash_backends._file_logs import FileLogs
from mdash_backends._files import TEMPORARY_FOLDER, Files
from mdash_backends._modes import create_file
from mdashcore._errors import StorageError

__all__ = ["FileWriter"]

_log = logging.getLogger("mdash_backends.filesystem")

RESERVE_SIZE: Final = 2**18  # bytes: the entries of a hundred documents that were being written as the disk filled

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class FileWriter:
    """Writes a document together with a log entry: `PutAndAppend` in `mdashcore.storage`.

    A reserve file keeps some space on the disk. It exists before a document is written. If the disk is full when
    the entry is written, the file is removed to make room. Until it can be created again, nothing is written. It is
    created again after the entries of all documents that are written: the space was kept for them.
    """

    def __init__(self, files: Files, documents: FileDocuments, logs: FileLogs) -> None:
        self._files = files
        self._documents = documents
        self._logs = logs
        self._path = os.path.join(files.path, TEMPORARY_FOLDER, "reserve")
        self._is_there = False
        self._making = anyio.Lock()
        self._removing = threading.Lock()
        self._unfinished = 0  # calls that have to write an entry, or may have to
        self._finished = anyio.Event()  # set when there is none any more

    async def put_and_append(
        self, collection: str, key: str, body: bytes, *, expected: int, log: str, time: float, entry: bytes
    ) -> tuple[int, int]:
        """Write as `PutAndAppend` says. If a disk fails for another reason than being full, only the document may
        be written.
        """
        if not self._is_there:
            await self._reserve()
        self._unfinished += 1
        try:
            version = await self._documents.put(collection, key, body, expected=expected)
            try:
                return version, await self._append(log, time, entry)
            except StorageError as exc:
                _log.error("%s/%s is written, and its entry in %s is not: %s", collection, key, log, exc)
                raise
        finally:
            self._unfinished -= 1
            if not self._unfinished:
                self._finished.set()
                self._finished = anyio.Event()

    async def _append(self, log: str, time: float, entry: bytes) -> int:
        try:
            return await self._logs.append(log, time, (entry,))
        except StorageError as exc:
            if not (isinstance(exc.__cause__, OSError) and exc.__cause__.errno in _FULL):
                raise
        await self._files.run(self._path, self._give_up)
        return await self._logs.append(log, time, (entry,))

    async def _reserve(self) -> None:
        async with self._making:
            if not self._is_there:
                while self._unfinished:
                    await self._finished.wait()
                await self._files.run(self._path, self._make)

    def _make(self) -> None:
        descriptor = create_file(self._path, os.O_WRONLY | os.O_TRUNC)
        try:
            os.posix_fallocate(descriptor, 0, RESERVE_SIZE)
            os.fsync(descriptor)
        except BaseException:
            os.unlink(self._path)
            raise
        finally:
            os.close(descriptor)
        self._is_there = True

    def _give_up(self) -> None:
        with self._removing:
            self._is_there = False
            try:
                os.unlink(self._path)
            except FileNotFoundError:
                pass  # another call has just done so
