"""Blobs as files, for backends that keep their data in a folder."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Final

import msgspec

from mdash_backends._files import Files, NewFile, damaged, read_file
from mdash_backends._key_files import KeyFiles
from mdashcore import _json
from mdashcore._errors import NotFound, StorageError

__all__ = ["BlobFiles"]

BLOB_SUFFIX: Final = ".blob"
KEY_SUFFIX: Final = ".key"  # beside a blob whose file name does not contain its key
WRITE_SIZE: Final = 2**18  # bytes that are collected for one call of a thread: the memory that a put needs

_decode_key = msgspec.json.Decoder(str).decode


class BlobFiles:
    """A blob store for one process at a time: `BlobStore` in `mdashcore.storage`.

    Args:
        folder: the folder of the blobs.
        files: the backend's files, if it has some; `folder` is below theirs.
    """

    def __init__(self, folder: Path, files: Files | None = None) -> None:
        self._files = files or Files(folder)
        self._folder = str(folder)
        self._keys = KeyFiles(self._files, self._folder, BLOB_SUFFIX)

    async def clean(self) -> None:
        """Prepare the folder, and remove the leftovers of interrupted puts. Call this once, before any other method.

        Raises:
            StorageError: the folder cannot be written.
        """
        await self._files.run(self._folder, self._files.prepare)

    async def put(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        path = self._keys.path(key)
        size = 0
        gathered = bytearray()
        new = self._files.new_file()
        try:
            async for chunk in chunks:
                gathered += chunk
                size += len(chunk)
                if len(gathered) >= WRITE_SIZE:
                    await self._files.run(path, new.write, gathered)
                    gathered = bytearray()
            await self._files.run(path, new.write, gathered)
            async with self._keys.hold(key):
                await self._files.run(path, self._publish, new, key, path)
                await self._files.sync(os.path.dirname(path))
        finally:
            new.discard()  # here and not in a thread: two quick calls, and no cancellation can come between them
        return size

    async def read(self, key: str, offset: int, size: int) -> bytes:
        path = self._keys.path(key)
        data = await self._files.run(path, _read, path, offset, size)
        if data is None:
            raise NotFound(f"no blob {key!r}")
        return data

    async def size(self, key: str) -> int | None:
        path = self._keys.path(key)
        return await self._files.run(path, _size, path)

    async def delete(self, key: str) -> bool:
        async with self._keys.hold(key) as path:
            found = await self._files.run(path, _remove, path)
            if found:
                await self._files.sync(os.path.dirname(path))
            return found

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        async with aclosing(self._keys.by_folder(prefix)) as folders:
            async for found in folders:
                for key in await self._files.run(self._folder, _present, found):
                    if key.startswith(prefix):
                        yield key

    def _publish(self, new: NewFile, key: str, path: str) -> None:
        if self._keys.is_hashed(path):
            self._files.replace(_key_path(path), _json.encode(key) + b"\n")
        new.publish(path)


def _key_path(path: str) -> str:
    return path.removesuffix(BLOB_SUFFIX) + KEY_SUFFIX


def _read(path: str, offset: int, size: int) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        pieces = []
        left = min(size, os.fstat(descriptor).st_size - offset)
        while left > 0 and (piece := os.pread(descriptor, left, offset)):
            pieces.append(piece)
            offset += len(piece)
            left -= len(piece)
        return b"".join(pieces)
    finally:
        os.close(descriptor)


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return None


def _remove(path: str) -> bool:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    with suppress(FileNotFoundError):
        os.unlink(_key_path(path))
    return True


def _present(found: Mapping[str, str | None]) -> list[str]:
    """Return the keys of those files that exist."""
    keys = ((path, _key_in(path) if key is None else key) for path, key in found.items())
    return [key for path, key in keys if key is not None and os.path.exists(path)]


def _key_in(path: str) -> str | None:
    data = read_file(_key_path(path))
    if data is None:
        if os.path.exists(path):
            raise StorageError(f"{_key_path(path)} is missing: it holds the key of the blob beside it")
        return None
    try:
        return _decode_key(data)
    except _json.DECODE_ERRORS as exc:
        raise damaged(_key_path(path), data, exc) from exc
