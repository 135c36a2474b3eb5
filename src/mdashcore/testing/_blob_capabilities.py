"""The conformance suite for what a blob store promises with a capability."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

from mdashcore.storage import DURABLE, SHARED, Backend
from mdashcore.testing._kill import Acknowledge
from mdashcore.testing._suite import StorageSuite, chunks_of

__all__ = ["BLOB_ROUNDS", "BlobCapabilitySuite"]

BLOB_ROUNDS = 5

KILL_AFTER_PUTS = 12  # acknowledged puts, before the process is killed


class BlobCapabilitySuite(StorageSuite):
    """The contract of blob stores that are `DURABLE` or `SHARED`."""

    def test_blob_survives_a_kill(self) -> None:
        """An acknowledged blob exists after the process was killed with SIGKILL, without a word to the store."""

        async def write(backend: Backend, acknowledge: Acknowledge) -> None:
            for n in itertools.count():
                await backend.blobs.put(f"k{n}", chunks_of(b"%d" % n * 1000, 1000))
                acknowledge()

        async def check(backend: Backend, count: int) -> None:
            keys = [key async for key in backend.blobs.scan()]
            assert {f"k{n}" for n in range(count)} <= set(keys), "an acknowledged blob is gone"
            for n in range(len(keys)):
                assert await backend.blobs.read(f"k{n}", 0, 10_000) == b"%d" % n * 1000

        self.run_killed(write, check, after=KILL_AFTER_PUTS)

    def test_blob_durable(self) -> None:
        """A blob that was put is there when the store is opened again."""

        async def test(name: str) -> None:
            async with self.open(name) as backend:
                await backend.blobs.put("b", chunks_of(b"blob" * 1000, 77))
            async with self.open(name) as backend:
                assert await backend.blobs.read("b", 0, 10_000) == b"blob" * 1000

        self.run_if(DURABLE, test)

    def test_blob_shared(self) -> None:
        """Two openers of the store see each other's blobs."""

        async def test(name: str) -> None:
            async with self.open(name) as one, self.open(name) as two:
                await one.blobs.put("b", chunks_of(b"blob", 1))
                assert await two.blobs.read("b", 1, 2) == b"lo"

        self.run_if(SHARED, test)

    def test_blob_shared_under_load(self) -> None:
        """A blob that one opener replaces or deletes is seen so by the other immediately; a part of it is never
        seen.
        """

        async def test(name: str) -> None:
            async with self.open(name) as one, self.open(name) as two:
                for n, (writer, reader) in enumerate([(one, two), (two, one)] * BLOB_ROUNDS):
                    data = b"%d" % n * 1000

                    async def source(data: bytes = data, reader: Backend = reader) -> AsyncIterator[bytes]:
                        yield data[:500]
                        assert await reader.blobs.size("new") is None, "a part is visible"
                        yield data[500:]

                    await writer.blobs.put("b", chunks_of(data, 100))
                    assert await reader.blobs.read("b", 0, 10_000) == data
                    await writer.blobs.put("new", source())
                    assert await reader.blobs.size("new") == len(data)
                    assert await writer.blobs.delete("new")
                    assert await reader.blobs.size("new") is None
                    assert [key async for key in reader.blobs.scan()] == ["b"]

        self.run_if(SHARED, test)
