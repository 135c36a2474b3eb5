"""The conformance suite for what a document store promises with a capability."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import pytest

from mdashcore._errors import VersionConflict
from mdashcore.storage import DURABLE, INSTANT, ORDERED, SHARED, Backend, Document, DocumentStore
from mdashcore.testing._document_suite import (
    DOCUMENT_ROUNDS,
    DOCUMENT_WRITERS,
    DocumentSuite,
    expect_conflict,
    expect_value,
    increment,
)
from mdashcore.testing._kill import Acknowledge
from mdashcore.testing._suite import INSTANT_TRIES, ODD_KEYS, run_immediately

__all__ = ["DocumentCapabilitySuite"]

KILL_AFTER_WRITES = 40  # acknowledged writes, before the process is killed
KILL_KEYS = 7
PIECE_KEYS = 3  # of a list that is read in pieces
MANY_KEYS = 600  # more than a page of any store that was seen so far


class DocumentCapabilitySuite(DocumentSuite):
    """The contract of document stores that are `DURABLE`, `SHARED`, `ORDERED` or `INSTANT`."""

    def test_documents_scan_in_order(self) -> None:
        """A backend that claims to be `ORDERED` scans by the code points of keys, also beyond a page of any size."""

        async def test(name: str) -> None:
            async with self.open(name) as backend:
                documents = backend.documents
                for n in range(MANY_KEYS):
                    await documents.put("things", f"a/{n * 7919 % MANY_KEYS}", b"1")
                for key in reversed(ODD_KEYS):
                    await documents.put("things", key, b"1")
                for prefix in ("", "a", "a/1"):
                    found = [document.key async for document in documents.scan("things", prefix)]
                    assert found == sorted(found)
                    assert len(found) >= len([n for n in range(MANY_KEYS) if f"a/{n}".startswith(prefix)])

        self.run_if(ORDERED, test)

    def test_documents_scan_after_a_key(self) -> None:
        """A scan of an `ORDERED` backend begins behind any text, whether it is a key or not, before, in or beyond the
        prefix; and a list that is read in pieces has every document once, in order.
        """

        async def test(name: str) -> None:
            async with self.open(name) as backend:
                documents = backend.documents
                for key in reversed(ODD_KEYS):
                    await documents.put("things", key, b"1")
                    await documents.put("others", f"{key}!", b"2")
                for prefix in ("", "a", "a/", "\u00e9", "none of them"):
                    wanted = sorted(key for key in ODD_KEYS if key.startswith(prefix))
                    within = wanted if prefix else ODD_KEYS
                    for after in ("\0", *within, *(f"{key}\0" for key in within), "a0", "z", "\U0010ffff"):
                        found = [document.key async for document in documents.scan("things", prefix, after=after)]
                        assert found == [key for key in wanted if key > after], f"prefix {prefix!r}, after {after!r}"
                pieces: list[str] = []
                while piece := await _first(documents, pieces[-1] if pieces else "", PIECE_KEYS):
                    pieces += piece
                assert pieces == sorted(ODD_KEYS)

        self.run_if(ORDERED, test)

    def test_documents_survive_a_kill(self) -> None:
        """An acknowledged write exists after the process was killed with SIGKILL, without a word to the store."""

        async def write(backend: Backend, acknowledge: Acknowledge) -> None:
            for n in itertools.count():
                await backend.documents.put("things", f"k{n % KILL_KEYS}", b"%d" % n)
                acknowledge()

        async def check(backend: Backend, count: int) -> None:
            for n in range(count - KILL_KEYS, count):
                found = await backend.documents.get("things", f"k{n % KILL_KEYS}")
                assert found is not None, f"write {n} was acknowledged and is gone"
                assert int(found.body) >= n, f"write {n} was acknowledged, {found.body!r} is there"

        self.run_killed(write, check, after=KILL_AFTER_WRITES)

    def test_documents_durable(self) -> None:
        """An acknowledged write exists when the store is opened again, and versions go on."""

        async def test(name: str) -> None:
            async with self.open(name) as backend:
                gone = await backend.documents.put("things", "gone", b"0")
                await backend.documents.delete("things", "gone")
                version = await backend.documents.put("things", "k", b'{"a":1}')
            async with self.open(name) as backend:
                found = await backend.documents.get("things", "k")
                assert found is not None
                assert found.version == version
                expect_value(found.body, {"a": 1})
                assert await backend.documents.get("things", "gone") is None
                assert await backend.documents.put("things", "gone", b"1", expected=0) > gone
                assert await backend.documents.put("things", "k", b"2", expected=version) > version

        self.run_if(DURABLE, test)

    def test_documents_shared(self) -> None:
        """Two openers of the store see each other's writes, and compare and set against each other."""

        async def test(name: str) -> None:
            async with self.open(name) as one, self.open(name) as two:
                version = await one.documents.put("things", "k", b"1")
                assert await two.documents.get("things", "k") == Document("k", version, b"1")
                newer = await two.documents.put("things", "k", b"2", expected=version)
                await expect_conflict(one.documents.put("things", "k", b"3", expected=version), version, newer)
                for n, (writer, reader) in enumerate([(one, two), (two, one)] * DOCUMENT_ROUNDS):
                    version = await writer.documents.put("things", "k", b"%d" % n)
                    assert await reader.documents.get("things", "k") == Document("k", version, b"%d" % n)
                    assert [document.version async for document in reader.documents.scan("things")] == [version]
                    assert await writer.documents.delete("things", "k")
                    assert await reader.documents.get("things", "k") is None

        self.run_if(SHARED, test)

    def test_documents_shared_under_load(self) -> None:
        """No count of concurrent counters in two openers of the store is lost, and no read of either is stale."""

        async def test(name: str) -> None:
            async with self.open(name) as one, self.open(name) as two:
                acknowledged = await one.documents.put("things", "k", b"0")
                counts = 0

                async def count(documents: DocumentStore) -> None:
                    nonlocal acknowledged, counts
                    for _ in range(DOCUMENT_ROUNDS):
                        acknowledged = max(acknowledged, await increment(documents))
                        counts += 1

                async def read(documents: DocumentStore) -> None:
                    while counts < DOCUMENT_WRITERS * DOCUMENT_ROUNDS:
                        before = acknowledged
                        found = await documents.get("things", "k")
                        assert found is not None
                        assert found.version >= before, f"read version {found.version} after {before}"
                        await anyio.lowlevel.checkpoint()

                async with anyio.create_task_group() as tasks:
                    for backend in (one, two):
                        tasks.start_soon(read, backend.documents)
                        for _ in range(DOCUMENT_WRITERS // 2):
                            tasks.start_soon(count, backend.documents)
                for backend in (one, two):
                    found = await backend.documents.get("things", "k")
                    assert found is not None
                    assert int(found.body) == DOCUMENT_WRITERS * DOCUMENT_ROUNDS
                    assert [document async for document in backend.documents.scan("things")] == [found]

        self.run_if(SHARED, test)

    def test_documents_instant(self) -> None:
        """No verb ever waits, whatever it finds."""

        async def keys(documents: DocumentStore) -> list[str]:
            return sorted([document.key async for document in documents.scan("things")])

        async def test(name: str) -> None:
            async with self.open(name) as backend:
                documents: Any = backend.documents
                for n in range(INSTANT_TRIES):
                    version = run_immediately(documents.put("things", f"k{n}", b"0", expected=0))
                    with pytest.raises(VersionConflict):
                        run_immediately(documents.put("things", f"k{n}", b"1", expected=0))
                    version = run_immediately(documents.put("things", f"k{n}", b"2", expected=version))
                    assert run_immediately(documents.get("things", f"k{n}")) == Document(f"k{n}", version, b"2")
                    assert run_immediately(documents.get("things", "none")) is None
                assert run_immediately(keys(documents)) == sorted(f"k{n}" for n in range(INSTANT_TRIES))
                for n in range(INSTANT_TRIES):
                    assert run_immediately(documents.delete("things", f"k{n}"))
                    assert not run_immediately(documents.delete("things", f"k{n}"))

        self.run_if(INSTANT, test)


async def _first(documents: DocumentStore, after: str, number: int) -> list[str]:
    """Return the first keys behind a text."""
    found: list[str] = []
    scan = documents.scan("things", after=after)
    async for document in scan:
        found.append(document.key)
        if len(found) == number:
            break
    if isinstance(scan, AsyncGenerator):
        await scan.aclose()
    return found
