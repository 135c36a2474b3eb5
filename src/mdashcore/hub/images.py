"""The images of updates and rollouts: a blob store with a bound for each account, and a floor of free disk space."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import aclosing
from typing import Final

from mdashcore._errors import InsufficientStorage, MdashError
from mdashcore.hub.records.store import split
from mdashcore.hub.usage import Usage
from mdashcore.storage import Backend

__all__ = ["FREE_DISK", "Images"]

FREE_DISK: Final = 512 * 2**20  # bytes that images leave free: weeks of what a fleet of thousands reports

STEP: Final = 4 * 2**20  # bytes for which room is made at a time: a write for each, next to the image's own


class Images:
    """Is a `BlobStore`, whose keys begin with the account and a slash.

    Args:
        free_disk: bytes that have to be left free on the disk, where the backend knows.
    """

    def __init__(self, backend: Backend, usage: Usage, *, free_disk: int = FREE_DISK) -> None:
        self._blobs = backend.blobs
        self._free_bytes = backend.free_bytes
        self._usage = usage
        self.free_disk = free_disk

    async def put(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        """As `BlobStore.put`. The caller deletes the key where this fails, and where it is cancelled.

        Raises:
            LimitReached: the account has as many bytes of images as it may.
            InsufficientStorage: the disk is too full.
        """
        account = _account(key)
        try:
            async with aclosing(self._bounded(account, key, chunks)) as bounded:
                size = await self._blobs.put(key, bounded)
            await self._usage.arrived(account, key, size)
        except MdashError:
            await self.delete(key)
            raise
        return size

    async def read(self, key: str, offset: int, size: int) -> bytes:
        """As `BlobStore.read`."""
        return await self._blobs.read(key, offset, size)

    async def size(self, key: str) -> int | None:
        """As `BlobStore.size`."""
        return await self._blobs.size(key)

    async def delete(self, key: str) -> bool:
        """As `BlobStore.delete`."""
        size = await self._blobs.size(key)
        found = await self._blobs.delete(key)
        await self._usage.gone(_account(key), key, (size or 0) if found else 0)
        return found

    def scan(self, prefix: str = "") -> AsyncIterator[str]:
        """As `BlobStore.scan`."""
        return self._blobs.scan(prefix)

    async def free_bytes(self) -> int | None:
        """Bytes that are left on the disk; `None` where the backend does not know."""
        return None if self._free_bytes is None else await self._free_bytes()

    async def check_disk(self) -> None:
        """Raises `InsufficientStorage` where the disk is too full for another image."""
        free = await self.free_bytes()
        if free is not None and free < self.free_disk:
            raise InsufficientStorage("the server's disk is almost full: what is left is kept for the devices")

    async def _bounded(self, account: str, key: str, chunks: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
        """The chunks, each when there is room for it."""
        size = kept = 0
        async for chunk in chunks:
            size += len(chunk)
            if size > kept:
                await self.check_disk()
                kept = await self._usage.keep_free(account, key, size, size + STEP)
            yield chunk


def _account(key: str) -> str:
    return split(key)[0]
