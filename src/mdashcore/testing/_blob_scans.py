"""The conformance suite for keys and scans of blob stores."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import ClassVar, Final

import anyio

from mdashcore.storage import Backend, BlobStore
from mdashcore.testing._blob_capabilities import BLOB_ROUNDS
from mdashcore.testing._suite import MANY_RECORDS, ODD_KEYS, StorageSuite, chunks_of

__all__ = ["BlobScanSuite"]

BLOB_WRITERS: Final = 16

SCANNED_BLOBS: Final = 20  # blobs of a scan whose reader does something after each


class BlobScanSuite(StorageSuite):
    """The contract of keys and scans: every text is a key, and a scan gives every key once."""

    many: ClassVar[int] = MANY_RECORDS
    """Blobs whose keys are scanned at least once: more than a page of the store."""

    def test_blob_odd_keys(self) -> None:
        """Every text is a key of its own, and a scan gives them by prefix."""

        async def test(blobs: BlobStore) -> None:
            for n, key in enumerate(ODD_KEYS):
                await blobs.put(key, chunks_of(b"%d" % n, 10))
            for n, key in enumerate(ODD_KEYS):
                assert await blobs.read(key, 0, 10) == b"%d" % n, f"{key!r}"
            for prefix in ("", "a", "a/", "%", "\u00e9"):
                expected = sorted(key for key in ODD_KEYS if key.startswith(prefix))
                assert sorted([key async for key in blobs.scan(prefix)]) == expected
            for key in ODD_KEYS:
                assert await blobs.delete(key)

        self.on_blobs(test)

    def test_blob_scan_many(self) -> None:
        """A scan gives the keys of more than a page, each once."""

        async def test(blobs: BlobStore) -> None:
            async def write(start: int) -> None:
                for n in range(start, self.many, BLOB_WRITERS):
                    await blobs.put(f"k{n}", chunks_of(b"%d" % n, 10))

            async with anyio.create_task_group() as tasks:
                for start in range(BLOB_WRITERS):
                    tasks.start_soon(write, start)
            assert sorted([key async for key in blobs.scan("k")]) == sorted(f"k{n}" for n in range(self.many))

        self.run_open_once(lambda backend: test(backend.blobs))

    def test_blob_scan_lets_its_reader_write(self) -> None:
        """The reader of a scan may use every verb meanwhile, and so may a second scan."""

        async def test(blobs: BlobStore) -> None:
            keys = sorted(f"k{n}" for n in range(SCANNED_BLOBS))
            for key in keys:
                await blobs.put(key, chunks_of(b"0", 1))
            seen: list[str] = []
            second = blobs.scan("k")
            others: list[str] = []
            async for key in blobs.scan("k"):
                seen.append(key)
                others.append(await anext(second))
                await blobs.put("written meanwhile", chunks_of(b"1", 1))
                assert await blobs.read(key, 0, 10) == b"0"
                assert await blobs.delete("written meanwhile")
            assert sorted(seen) == sorted(others) == keys
            assert [key async for key in second] == []
            left = blobs.scan("k")
            await anext(left)
            if isinstance(left, AsyncGenerator):
                await left.aclose()
            assert await blobs.delete("k0")

        self.on_blobs(test)

    def test_blob_scan_while_writing(self) -> None:
        """A blob that exists all through a scan is given exactly once, whatever is put and deleted meanwhile."""

        async def test(blobs: BlobStore) -> None:
            stable = {f"stable-{n}" for n in range(30)}
            for n, key in enumerate(sorted(stable)):
                await blobs.put(key, chunks_of(b"0", 1))
                await blobs.put(f"fleeting-{n}", chunks_of(b"0", 1))
            done = anyio.Event()

            async def disturb() -> None:
                n = 0
                while not done.is_set():
                    await blobs.put(f"stable-{n % 30}", chunks_of(b"%d" % n, 1))
                    await blobs.delete(f"fleeting-{n % 30}")
                    await blobs.put(f"new-{n % 100}", chunks_of(b"%d" % n, 1))
                    n += 7
                    await anyio.lowlevel.checkpoint()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(disturb)
                for _ in range(BLOB_ROUNDS):
                    seen: list[str] = []
                    async for key in blobs.scan():
                        seen.append(key)
                        await anyio.lowlevel.checkpoint()
                    assert len(seen) == len(set(seen)), "a key was given twice"
                    assert stable <= set(seen), f"missed: {sorted(stable - set(seen))}"
                done.set()

        self.on_blobs(test)

    def on_blobs(self, test: Callable[[BlobStore], Awaitable[None]]) -> None:
        """Run an async test on every loop, with a fresh blob store."""

        async def opened(backend: Backend) -> None:
            await test(backend.blobs)

        self.run_open(opened)
