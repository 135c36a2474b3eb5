"""The conformance suite for blob stores: every sentence of the contract in `mdashcore.storage`, as a test."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable

import anyio

from mdashcore._errors import NotFound
from mdashcore.storage import DURABLE, SHARED, Backend, BlobStore
from mdashcore.testing._suite import ODD_KEYS, StorageSuite

__all__ = ["BlobStoreSuite"]

PIECE = 2**16
LARGE = 64  # pieces: 4 MB, the size of a real image


class BlobStoreSuite(StorageSuite):
    """Streams in, pieces out."""

    def test_blob_what_was_put_comes_back(self) -> None:
        """A blob is read in any pieces; its size is known; an empty one is a blob too."""

        async def test(blobs: BlobStore) -> None:
            data = bytes(range(256)) * 10
            assert await blobs.put("b", _source(data, 100)) == len(data)
            assert await blobs.size("b") == len(data)
            for offset in (0, 1, 255, 2559, 2560, 5000):
                for size in (1, 256, 5000):
                    assert await blobs.read("b", offset, size) == data[offset : offset + size]
            assert await blobs.put("empty", _source(b"", 1)) == 0
            assert await blobs.size("empty") == 0
            assert await blobs.read("empty", 0, 10) == b""

        self._on_blobs(test)

    def test_blob_what_is_not_there(self) -> None:
        """Of no blob there is no size and nothing to read."""

        async def test(blobs: BlobStore) -> None:
            assert await blobs.size("b") is None
            assert not await blobs.delete("b")
            try:
                await blobs.read("b", 0, 1)
            except NotFound:
                return
            raise AssertionError("read what is not there")

        self._on_blobs(test)

    def test_blob_a_large_blob(self) -> None:
        """Megabytes arrive whole."""

        async def test(blobs: BlobStore) -> None:
            pieces = [hashlib.sha256(b"%d" % n).digest() * (PIECE // 32) for n in range(LARGE)]
            data = b"".join(pieces)
            assert await blobs.put("b", _source(data, PIECE)) == len(data)
            for n in reversed(range(LARGE)):
                assert await blobs.read("b", n * PIECE, PIECE) == pieces[n]

        self._on_blobs(test)

    def test_blob_nothing_until_it_is_complete(self) -> None:
        """While a blob is being put, the old one is there, or none."""

        async def test(blobs: BlobStore) -> None:
            for before in (None, 3):
                if before is not None:
                    await blobs.put("b", _source(b"old", 1))

                async def source(before: int | None = before) -> AsyncIterator[bytes]:
                    yield b"new"
                    assert await blobs.size("b") == before
                    yield b" blob"
                    assert await blobs.size("b") == before

                assert await blobs.put("b", source()) == 8
                assert await blobs.read("b", 0, 100) == b"new blob"
                await blobs.delete("b")

        self._on_blobs(test)

    def test_blob_a_failing_source_leaves_nothing(self) -> None:
        """If the source fails, or the put is cancelled, its error comes out and there is what was there before."""

        async def test(blobs: BlobStore) -> None:
            async def source() -> AsyncIterator[bytes]:
                yield b"x" * PIECE
                raise ZeroDivisionError

            async def endless() -> AsyncIterator[bytes]:
                while True:
                    yield b"x" * 10
                    scope.cancel()
                    await anyio.lowlevel.checkpoint()

            for before in (None, b"old"):
                if before is not None:
                    await blobs.put("b", _source(before, 1))
                try:
                    await blobs.put("b", source())
                except ZeroDivisionError:
                    pass
                else:
                    raise AssertionError("the source's error was swallowed")
                with anyio.CancelScope() as scope:
                    await blobs.put("b", endless())
                assert await blobs.size("b") == (None if before is None else len(before))
                assert [key async for key in blobs.scan()] == ([] if before is None else ["b"])

        self._on_blobs(test)

    def test_blob_replaced_and_deleted(self) -> None:
        """A second put replaces; a deleted blob is gone."""

        async def test(blobs: BlobStore) -> None:
            await blobs.put("b", _source(b"a long first one", 3))
            await blobs.put("b", _source(b"second", 3))
            assert await blobs.read("b", 0, 100) == b"second"
            assert await blobs.delete("b")
            assert await blobs.size("b") is None
            assert not await blobs.delete("b")

        self._on_blobs(test)

    def test_blob_two_at_once(self) -> None:
        """Two puts of one key at the same time: one of them is there, whole."""

        async def test(blobs: BlobStore) -> None:
            async with anyio.create_task_group() as tasks:
                for letter in (b"a", b"b"):
                    tasks.start_soon(blobs.put, "k", _source(letter * 100_000, 1000))
            found = await blobs.read("k", 0, 200_000)
            assert found in (b"a" * 100_000, b"b" * 100_000)

        self._on_blobs(test)

    def test_blob_odd_keys(self) -> None:
        """Every text is a key of its own, and a scan gives them by prefix."""

        async def test(blobs: BlobStore) -> None:
            for n, key in enumerate(ODD_KEYS):
                await blobs.put(key, _source(b"%d" % n, 10))
            for n, key in enumerate(ODD_KEYS):
                assert await blobs.read(key, 0, 10) == b"%d" % n, f"{key!r}"
            for prefix in ("", "a", "a/", "%", "\u00e9"):
                expected = sorted(key for key in ODD_KEYS if key.startswith(prefix))
                assert sorted([key async for key in blobs.scan(prefix)]) == expected
            for key in ODD_KEYS:
                assert await blobs.delete(key)

        self._on_blobs(test)

    def test_blob_durable(self) -> None:
        """A blob that was put is there when the store is opened again."""

        async def test(name: str) -> None:
            async with self.open(name) as backend:
                await backend.blobs.put("b", _source(b"blob" * 1000, 77))
            async with self.open(name) as backend:
                assert await backend.blobs.read("b", 0, 10_000) == b"blob" * 1000

        self.run_if(DURABLE, test)

    def test_blob_shared(self) -> None:
        """Two that have the store open see each other's blobs."""

        async def test(name: str) -> None:
            async with self.open(name) as one, self.open(name) as two:
                await one.blobs.put("b", _source(b"blob", 1))
                assert await two.blobs.read("b", 1, 2) == b"lo"

        self.run_if(SHARED, test)

    def _on_blobs(self, test: Callable[[BlobStore], Awaitable[None]]) -> None:
        async def opened(backend: Backend) -> None:
            await test(backend.blobs)

        self.run_open(opened)


async def _source(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]
        await anyio.lowlevel.checkpoint()
