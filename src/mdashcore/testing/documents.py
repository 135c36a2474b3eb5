"""The conformance suite for document stores: every sentence of the contract in `mdashcore.storage`, as a test."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdashcore import _json
from mdashcore._errors import StorageError, VersionConflict
from mdashcore.storage import Backend, Document, DocumentStore
from mdashcore.testing._document_capabilities import DocumentCapabilitySuite
from mdashcore.testing._document_model import DOCUMENT_OPERATIONS, replay_documents
from mdashcore.testing._document_scans import DocumentScanSuite
from mdashcore.testing._document_suite import (
    DOCUMENT_ROUNDS,
    DOCUMENT_WRITERS,
    expect_conflict,
    expect_value,
    increment,
)
from mdashcore.testing._suite import CANCEL_STEPS, INSTANT_TRIES, cancel_after, expect_failure

__all__ = ["DocumentStoreSuite"]

DELETED_KEYS = 100  # deleted after a document: more than a store keeps in mind that forgets deleted keys


class DocumentStoreSuite(DocumentScanSuite, DocumentCapabilitySuite):
    """The contract of document stores: versions, compare-and-set, keys, scans."""

    def test_documents_what_was_put_comes_back(self) -> None:
        """A put document comes back with its version, as the same JSON value; another key does not."""

        async def test(documents: DocumentStore) -> None:
            assert await documents.get("things", "k") is None
            for value in VALUES:
                version = await documents.put("things", "k", _json.encode(value))
                found = await documents.get("things", "k")
                assert found is not None
                assert (found.key, found.version) == ("k", version)
                expect_value(found.body, value)
            assert await documents.get("things", "other") is None
            assert await documents.get("others", "k") is None

        self.on_documents(test)

    def test_documents_versions_grow(self) -> None:
        """Every put gives a greater version than any that the key had, also across a delete."""

        async def test(documents: DocumentStore) -> None:
            last = 0
            for n in range(10):
                version = await documents.put("things", "k", b"%d" % n)
                assert version > last, f"version {version} after {last}"
                last = version
                if n % 3 == 2:
                    assert await documents.delete("things", "k")

        self.on_documents(test)

    def test_documents_versions_are_never_forgotten(self) -> None:
        """A key that was deleted long ago gets a greater version than it ever had, whatever was deleted since."""

        async def test(documents: DocumentStore) -> None:
            for n in range(DELETED_KEYS):
                await documents.put("things", "k", b"%d" % n)
            last = await documents.put("things", "k", b"0")
            assert await documents.delete("things", "k")
            for n in range(DELETED_KEYS):
                await documents.put("things", f"other {n}", b"0")
                assert await documents.delete("things", f"other {n}")
            assert await documents.put("things", "k", b"1", expected=0) > last

        self.on_documents(test)

    def test_documents_expected_is_heeded(self) -> None:
        """`expected` has to be the present version, 0 without a document; otherwise nothing is written."""

        async def test(documents: DocumentStore) -> None:
            await expect_conflict(documents.put("things", "k", b"1", expected=7), 7, 0)
            assert await documents.get("things", "k") is None
            first = await documents.put("things", "k", b"1", expected=0)
            await expect_conflict(documents.put("things", "k", b"2", expected=0), 0, first)
            second = await documents.put("things", "k", b"2", expected=first)
            await expect_conflict(documents.put("things", "k", b"3", expected=first), first, second)
            await expect_conflict(documents.delete("things", "k", expected=first), first, second)
            assert await documents.get("things", "k") == Document("k", second, b"2")
            assert await documents.delete("things", "k", expected=second)
            await expect_conflict(documents.put("things", "k", b"4", expected=second), second, 0)
            assert await documents.put("things", "k", b"5", expected=0) > second

        self.on_documents(test)

    def test_documents_delete(self) -> None:
        """A deleted document is gone; deleting no document returns `False`."""

        async def test(documents: DocumentStore) -> None:
            assert not await documents.delete("things", "k")
            await documents.put("things", "k", b"1")
            assert await documents.delete("things", "k")
            assert await documents.get("things", "k") is None
            assert not await documents.delete("things", "k")
            assert not await documents.delete("things", "k", expected=0)

        self.on_documents(test)

    def test_documents_a_delete_compares_in_the_same_step(self) -> None:
        """Of concurrent puts and deletes with the same `expected`, exactly one succeeds."""

        async def test(documents: DocumentStore) -> None:
            for _ in range(DOCUMENT_ROUNDS):
                version = await documents.put("things", "k", b"0")
                done: list[str] = []

                async def put(version: int, done: list[str]) -> None:
                    try:
                        await documents.put("things", "k", b"1", expected=version)
                        done.append("put")
                    except VersionConflict:
                        return

                async def delete(version: int, done: list[str]) -> None:
                    try:
                        assert await documents.delete("things", "k", expected=version)
                        done.append("delete")
                    except VersionConflict:
                        return

                async with anyio.create_task_group() as tasks:
                    for _ in range(DOCUMENT_WRITERS // 2):
                        tasks.start_soon(delete, version, done)
                        tasks.start_soon(put, version, done)
                assert len(done) == 1, f"with the same expected version these have succeeded: {done}"
                found = await documents.get("things", "k")
                assert (found is None) == (done == ["delete"])

        self.on_documents(test)

    def test_documents_one_of_many_wins(self) -> None:
        """Of concurrent puts with the same `expected`, exactly one succeeds, and it is the one that is stored."""

        async def test(documents: DocumentStore) -> None:
            version = 0
            for _ in range(DOCUMENT_ROUNDS):
                winners: list[tuple[int, int]] = []

                async def write(n: int, expected: int, winners: list[tuple[int, int]]) -> None:
                    try:
                        winners.append((n, await documents.put("things", "k", b"%d" % n, expected=expected)))
                    except VersionConflict:
                        return

                async with anyio.create_task_group() as tasks:
                    for n in range(DOCUMENT_WRITERS):
                        tasks.start_soon(write, n, version, winners)
                assert len(winners) == 1, f"{len(winners)} writers succeeded with the same expected version"
                version = winners[0][1]
                assert await documents.get("things", "k") == Document("k", version, b"%d" % winners[0][0])

        self.on_documents(test)

    def test_documents_no_update_is_lost(self) -> None:
        """Concurrent counters that compare and set never lose a count."""

        async def test(documents: DocumentStore) -> None:
            await documents.put("things", "k", b"0")

            async def count() -> None:
                for _ in range(DOCUMENT_ROUNDS):
                    await increment(documents)

            async with anyio.create_task_group() as tasks:
                for _ in range(DOCUMENT_WRITERS):
                    tasks.start_soon(count)
            found = await documents.get("things", "k")
            assert found is not None
            assert int(found.body) == DOCUMENT_WRITERS * DOCUMENT_ROUNDS

        self.on_documents(test)

    def test_documents_a_read_is_never_stale(self) -> None:
        """After a put has returned, no get gives an older version, to any caller."""

        async def test(documents: DocumentStore) -> None:
            acknowledged = 0
            done = anyio.Event()

            async def read() -> None:
                while not done.is_set():
                    before = acknowledged
                    found = await documents.get("things", "k")
                    version = 0 if found is None else found.version
                    assert version >= before, f"read version {version} after {before} was acknowledged"
                    await anyio.lowlevel.checkpoint()

            async with anyio.create_task_group() as tasks:
                for _ in range(4):
                    tasks.start_soon(read)
                for n in range(DOCUMENT_WRITERS * DOCUMENT_ROUNDS):
                    acknowledged = await documents.put("things", "k", b"%d" % n)
                    found = await documents.get("things", "k")
                    assert found is not None
                    assert found.version >= acknowledged
                    await anyio.lowlevel.checkpoint()
                done.set()

        self.on_documents(test)

    def test_documents_a_body_is_not_shared(self) -> None:
        """A buffer that the caller changes afterwards does not change the store; a body comes back as `bytes`."""

        async def test(documents: DocumentStore) -> None:
            buffer: Any = bytearray(b'{"a":1}')
            await documents.put("things", "k", buffer)
            buffer[5:6] = b"2"
            found = await documents.get("things", "k")
            assert found is not None
            assert type(found.body) is bytes
            expect_value(found.body, {"a": 1})

        self.on_documents(test)

    def test_documents_a_large_document(self) -> None:
        """A document may have a megabyte."""

        async def test(documents: DocumentStore) -> None:
            value = {"text": "\u00e9" * 2**19}
            await documents.put("things", "k", _json.encode(value))
            found = await documents.get("things", "k")
            assert found is not None
            expect_value(found.body, value)

        self.on_documents(test)

    def test_documents_a_cancelled_put_harms_nothing(self) -> None:
        """A put that was cancelled has happened or not; the store works in both cases."""

        async def test(documents: DocumentStore) -> None:
            before = await documents.put("things", "k", b"1")
            for _ in range(DOCUMENT_ROUNDS):
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await documents.put("things", "k", b"2")
                found = await documents.get("things", "k")
                assert found is not None
                assert (found.version == before) == (found.body == b"1")
                before = await documents.put("things", "k", b"1", expected=found.version)

        self.on_documents(test)

    def test_documents_a_cancelled_verb_is_never_half_done(self) -> None:
        """Wherever a put or a delete is cancelled: the document is there, in get and in scan, or it is not."""

        async def whole(documents: DocumentStore, before: Document, after: bytes | None) -> None:
            for _ in range(INSTANT_TRIES):  # a cancelled verb may still take effect, also between two reads
                found = await documents.get("things", "k")
                scanned = [document async for document in documents.scan("things")]
                if scanned == ([] if found is None else [found]):
                    break
            else:
                raise AssertionError(f"a get gives {found}, a scan {scanned}")
            assert found == before or (None if found is None else found.body) == after
            try:
                version = await documents.put("things", "k", b"0", expected=0 if found is None else found.version)
            except VersionConflict:
                version = await documents.put("things", "k", b"0")
            assert version > before.version

        async def test(documents: DocumentStore) -> None:
            await documents.put("things", "k", b"0")
            for verb, after in (
                (lambda: documents.put("things", "k", b"1"), b"1"),
                (lambda: documents.delete("things", "k"), None),
            ):
                for steps in range(CANCEL_STEPS):
                    before = await documents.get("things", "k")
                    assert before is not None
                    if await cancel_after(steps, verb):
                        break
                    await whole(documents, before, after)

        self.on_documents(test)

    def test_documents_failures_are_storage_errors(self) -> None:
        """While the system below the store fails, every verb that fails raises `StorageError`; afterwards the store
        works.
        """

        async def test(backend: Backend, fail: Callable[[], AbstractAsyncContextManager[None]]) -> None:
            documents = backend.documents
            version = await documents.put("things", "k", b"1")
            failures: list[StorageError] = []
            async with fail():
                async with expect_failure(failures):
                    version = await documents.put("things", "k", b"2", expected=version)
                async with expect_failure(failures):
                    await documents.get("things", "k")
                async with expect_failure(failures):
                    [document async for document in documents.scan("things")]
                async with expect_failure(failures):
                    await documents.delete("things", "other")
            assert failures, "nothing has failed: `failing` has to make the store fail"
            found = await documents.get("things", "k")
            assert found is not None
            assert found.version >= version
            assert await documents.put("things", "k", b"3", expected=found.version) > version

        self.run_failing(test)

    def test_documents_random_operations(self) -> None:
        """Any sequence of operations has the same results as on a plain dict."""

        @given(st.lists(DOCUMENT_OPERATIONS, max_size=30))
        @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
        def replay(operations: list[tuple[Any, ...]]) -> None:
            self.on_documents(lambda documents: replay_documents(documents, operations))

        replay()


VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 2**53 + 1, 10**30, -(10**400), "", "\u00e9\U0001f600\0", [], {}, [1, [2, {"a": None}]],
    "caf\u00e9", "cafe\u0301", {"caf\u00e9": 1, "cafe\u0301": 2}, " \t\u00a0", "\ufeffa", 0.1,
    5e-324, 1.7976931348623157e308,
    {"z": 1, "a": 2, "\u00e9": {"nested": [1.0, 1]}}, {"__proto__": 1},
)  # fmt: skip
