"""The images of updates and rollouts: a blob store with a bound for each account, and a minimum of free disk space."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import aclosing
from typing import Final

from mdashcore._errors import InsufficientStorage, MdashError
from mdashcore.hub.records.store import split
from mdashcore.hub.usage import Usage
from mdashcore.storage import Backend

__all__ = ["FREE_DISK", "Images"]

FREE_DISK: Final = 512 * 2**20  # bytes that images leave free: weeks of the reports of a fleet of thousands

RESERVED_STEP: Final = 4 * 2**20  # bytes reserved at a time: one write for each step, next to the image's own


class Images:
    """A `BlobStore` whose keys begin with the account and a slash.

    Args:
        free_disk: bytes that have to stay free on the disk, if the backend knows them.
    """

    def __init__(self, backend: Backend, usage: Usage, *, free_disk: int = FREE_DISK) -> None:
        self._blobs = backend.blobs
        self._free_bytes = backend.free_bytes
        self._usage = usage
        self.free_disk = free_disk

    async def put(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        """Do the same as `BlobStore.put`. The caller deletes the key if this fails or is cancelled.

        Raises:
            LimitReached: the account has its maximum of image bytes.
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
        """Do the same as `BlobStore.read`."""
        return await self._blobs.read(key, offset, size)

    async def size(self, key: str) -> int | None:
        """Do the same as `BlobStore.size`."""
        return await self._blobs.size(key)

    async def delete(self, key: str) -> bool:
        """Do the same as `BlobStore.delete`."""
        size = await self._blobs.size(key)
        found = await self._blobs.delete(key)
        await self._usage.gone(_account(key), key, (size or 0) if found else 0)
        return found

    def scan(self, prefix: str = "") -> AsyncIterator[str]:
        """Do the same as `BlobStore.scan`."""
        return self._blobs.scan(prefix)

    async def free_bytes(self) -> int | None:
        """Return the free bytes of the disk, or `None` if the backend does not know them."""
        return None if self._free_bytes is None else await self._free_bytes()

    async def check_disk(self) -> None:
        """Raise `InsufficientStorage` if the disk is too full for another image."""
        free = await self.free_bytes()
        if free is not None and free < self.free_disk:
            raise InsufficientStorage("the server's disk is almost full: what is left is kept for the devices")

    async def _bounded(self, account: str, key: str, chunks: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
        """Yield each chunk when there is room for it."""
        size = kept = 0
        async for chunk in chunks:
            size += len(chunk)
            if size > kept:
                await self.check_disk()
                kept = await self._usage.reserve_bytes(account, key, size, size + RESERVED_STEP)
            yield chunk


def _account(key: str) -> str:
    return split(key)[0]
