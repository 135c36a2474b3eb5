"""The conformance suite for blob stores: every sentence of the contract in `mdashcore.storage`, as a test."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio

from mdashcore._errors import NotFound, StorageError
from mdashcore.storage import Backend, BlobStore
from mdashcore.testing._blob_capabilities import BlobCapabilitySuite
from mdashcore.testing._blob_scans import BlobScanSuite
from mdashcore.testing._suite import CANCEL_STEPS, cancel_after, chunks_of, expect_failure

__all__ = ["BlobStoreSuite"]

PIECE_SIZE = 2**16
LARGE_PIECES = 96  # 6 MB, the size of a large image, and more than one part of a store that writes parts of 5 MB

READ_PIECES = 16  # read in one call: 1 MB, several parts of a store that writes parts


class BlobStoreSuite(BlobScanSuite, BlobCapabilitySuite):
    """The contract of blob stores: streams in, pieces out."""

    def test_blob_what_was_put_comes_back(self) -> None:
        """A blob is read in any pieces; its size is known; an empty one is a blob too."""

        async def test(blobs: BlobStore) -> None:
            data = bytes(range(256)) * 10
            assert await blobs.put("b", chunks_of(data, 100)) == len(data)
            assert await blobs.size("b") == len(data)
            for offset in (0, 1, 255, 2559, 2560, 5000):
                for size in (1, 256, 5000):
                    assert await blobs.read("b", offset, size) == data[offset : offset + size]
            assert await blobs.put("empty", chunks_of(b"", 1)) == 0
            assert await blobs.size("empty") == 0
            assert await blobs.read("empty", 0, 10) == b""

        self.on_blobs(test)

    def test_blob_what_is_not_there(self) -> None:
        """A blob that does not exist has no size and cannot be read."""

        async def test(blobs: BlobStore) -> None:
            assert await blobs.size("b") is None
            assert not await blobs.delete("b")
            try:
                await blobs.read("b", 0, 1)
            except NotFound:
                return
            raise AssertionError("read what is not there")

        self.on_blobs(test)

    def test_blob_a_large_blob(self) -> None:
        """Megabytes arrive whole."""

        async def test(blobs: BlobStore) -> None:
            pieces = [hashlib.sha256(b"%d" % n).digest() * (PIECE_SIZE // 32) for n in range(LARGE_PIECES)]
            data = b"".join(pieces)
            assert await blobs.put("b", chunks_of(data, PIECE_SIZE)) == len(data)
            for n in range(LARGE_PIECES - 1, -1, -LARGE_PIECES // 8):
                assert await blobs.read("b", n * PIECE_SIZE, PIECE_SIZE) == pieces[n]

        self.on_blobs(test)

    def test_blob_nothing_until_it_is_complete(self) -> None:
        """Until the source has ended the old blob is there, or none: after the first chunk, after 5 MB, at the last."""

        async def test(blobs: BlobStore) -> None:
            for before in (None, b"old"):
                if before is not None:
                    await blobs.put("b", chunks_of(before, 1))

                async def look(before: bytes | None = before) -> None:
                    assert await blobs.size("b") == (None if before is None else len(before)), "a part is visible"
                    assert [key async for key in blobs.scan()] == ([] if before is None else ["b"])
                    if before is not None:
                        assert await blobs.read("b", 0, 100) == before

                async def source(look: Callable[[], Awaitable[None]] = look) -> AsyncIterator[bytes]:
                    for n in range(LARGE_PIECES):
                        yield b"%d" % (n % 10) * PIECE_SIZE
                        if n in (0, LARGE_PIECES - 10, LARGE_PIECES - 1):
                            await look()

                assert await blobs.put("b", source()) == LARGE_PIECES * PIECE_SIZE
                assert await blobs.read("b", PIECE_SIZE - 1, 2) == b"01"
                await blobs.delete("b")

        self.on_blobs(test)

    def test_blob_an_empty_chunk_is_no_end(self) -> None:
        """A source may give an empty chunk now and then, at the beginning and at the end too."""

        async def test(blobs: BlobStore) -> None:
            async def source() -> AsyncIterator[bytes]:
                for chunk in (b"", b"one", b"", b"", b" two", b""):
                    yield chunk

            assert await blobs.put("b", source()) == 7
            assert await blobs.read("b", 0, 100) == b"one two"

        self.on_blobs(test)

    def test_blob_a_chunk_is_not_shared(self) -> None:
        """A buffer that the source changes afterwards does not change the store."""

        async def test(blobs: BlobStore) -> None:
            buffer: Any = bytearray(b"....")

            async def source() -> AsyncIterator[bytes]:
                for n in range(3):
                    buffer[:] = b"%d..." % n
                    yield buffer

            await blobs.put("b", source())
            buffer[:] = b"late"
            assert await blobs.read("b", 0, 100) == b"0...1...2..."

        self.on_blobs(test)

    def test_blob_a_read_gives_one_blob(self) -> None:
        """A read while a blob is being replaced gives bytes of the old one or of the new one, never of both."""

        async def test(blobs: BlobStore) -> None:
            size = READ_PIECES * PIECE_SIZE
            await blobs.put("b", chunks_of(b"a" * size, 4 * PIECE_SIZE))
            replaced = False

            async def replace() -> None:
                nonlocal replaced
                for letter in b"bcdefghijklm":
                    await blobs.put("b", chunks_of(bytes([letter]) * size, 4 * PIECE_SIZE))
                replaced = True

            async def read() -> None:
                while not replaced:
                    data = await blobs.read("b", 0, size)
                    assert len(data) == size
                    assert data.count(data[:1]) == size, f"a read gave bytes of several blobs: {sorted(set(data))}"
                    await anyio.lowlevel.checkpoint()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(replace)
                tasks.start_soon(read)
                tasks.start_soon(read)

        self.on_blobs(test)

    def test_blob_a_slow_source_delays_no_other_verb(self) -> None:
        """Until a source gives its next chunk, every verb works for other blobs, also another put."""

        async def test(blobs: BlobStore) -> None:
            await blobs.put("other", chunks_of(b"other", 1))

            async def source() -> AsyncIterator[bytes]:
                yield b"one "
                assert await blobs.put("meanwhile", chunks_of(b"quick", 2)) == 5
                assert await blobs.read("meanwhile", 0, 10) == b"quick"
                assert await blobs.size("other") == 5
                assert await blobs.delete("other")
                assert [key async for key in blobs.scan()] == ["meanwhile"]
                yield b"two"

            assert await blobs.put("b", source()) == 7
            assert await blobs.read("b", 0, 100) == b"one two"
            assert sorted([key async for key in blobs.scan()]) == ["b", "meanwhile"]

        self.on_blobs(test)

    def test_blob_a_failing_source_leaves_nothing(self) -> None:
        """If the source fails, or the put is cancelled, its error comes out and there is what was there before."""

        async def test(blobs: BlobStore) -> None:
            async def source() -> AsyncIterator[bytes]:
                yield b"x" * PIECE_SIZE
                raise ZeroDivisionError

            async def endless() -> AsyncIterator[bytes]:
                while True:
                    yield b"x" * 10
                    scope.cancel()
                    await anyio.lowlevel.checkpoint()

            for before in (None, b"old"):
                if before is not None:
                    await blobs.put("b", chunks_of(before, 1))
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

        self.on_blobs(test)

    def test_blob_replaced_and_deleted(self) -> None:
        """A second put replaces; a deleted blob is gone."""

        async def test(blobs: BlobStore) -> None:
            await blobs.put("b", chunks_of(b"a long first one", 3))
            await blobs.put("b", chunks_of(b"second", 3))
            assert await blobs.read("b", 0, 100) == b"second"
            assert await blobs.delete("b")
            assert await blobs.size("b") is None
            assert not await blobs.delete("b")

        self.on_blobs(test)

    def test_blob_two_at_the_same_time(self) -> None:
        """Two puts of one key at the same time: one of them is there, whole."""

        async def test(blobs: BlobStore) -> None:
            async with anyio.create_task_group() as tasks:
                for letter in (b"a", b"b"):
                    tasks.start_soon(blobs.put, "k", chunks_of(letter * 100_000, 1000))
            found = await blobs.read("k", 0, 200_000)
            assert found in (b"a" * 100_000, b"b" * 100_000)

        self.on_blobs(test)

    def test_blob_a_cancelled_verb_is_never_half_done(self) -> None:
        """Wherever a put or a delete is cancelled: the blob is the old one, the new one, or gone, in every verb."""

        async def whole(blobs: BlobStore, possible: tuple[bytes | None, ...]) -> None:
            for _ in range(CANCEL_STEPS):  # a cancelled verb may still take effect, also between two reads
                size, keys = await blobs.size("b"), [key async for key in blobs.scan()]
                try:
                    found = await blobs.read("b", 0, 100)
                except NotFound:
                    found = None
                if size == (None if found is None else len(found)) and keys == ([] if found is None else ["b"]):
                    break
            else:
                raise AssertionError(f"a read gives {found!r}, size {size}, a scan {keys}")
            assert found in possible

        async def test(blobs: BlobStore) -> None:
            for steps in range(CANCEL_STEPS):
                await blobs.put("b", chunks_of(b"old", 1))
                ended = await cancel_after(steps, lambda: blobs.put("b", chunks_of(b"new blob", 4)))
                await whole(blobs, (b"old", b"new blob"))
                await blobs.put("b", chunks_of(b"old", 1))
                ended &= await cancel_after(steps, lambda: blobs.delete("b"))
                await whole(blobs, (b"old", b"new blob", None))
                if ended:
                    break

        self.on_blobs(test)

    def test_blob_failures_are_storage_errors(self) -> None:
        """While the system below the store fails, every verb that fails raises `StorageError`; afterwards the store
        works.
        """

        async def test(backend: Backend, fail: Callable[[], AbstractAsyncContextManager[None]]) -> None:
            blobs = backend.blobs
            await blobs.put("b", chunks_of(b"blob", 1))
            failures: list[StorageError] = []
            async with fail():
                async with expect_failure(failures):
                    await blobs.put("other", chunks_of(b"blob", 1))
                async with expect_failure(failures):
                    await blobs.read("b", 0, 10)
                async with expect_failure(failures):
                    await blobs.size("b")
                async with expect_failure(failures):
                    [key async for key in blobs.scan()]
                async with expect_failure(failures):
                    await blobs.delete("none")
            assert failures, "nothing has failed: `failing` has to make the store fail"
            assert await blobs.read("b", 0, 10) == b"blob"
            await blobs.put("b", chunks_of(b"another", 3))
            assert await blobs.read("b", 0, 10) == b"another"

        self.run_failing(test)
