"""The conformance suite for document stores: every sentence of the contract in `mdashcore.storage`, as a test."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdashcore import _json
from mdashcore._errors import StorageError, VersionConflict
from mdashcore.storage import DURABLE, INSTANT, ORDERED, SHARED, Backend, Document, DocumentStore
from mdashcore.testing._kill import Acknowledge
from mdashcore.testing._suite import (
    CANCEL_STEPS,
    INSTANT_TRIES,
    MANY_RECORDS,
    ODD_KEYS,
    StorageSuite,
    at_once,
    cancel_after,
    expect_failure,
)

__all__ = ["DocumentStoreSuite"]

DOCUMENT_WRITERS = 16  # concurrent tasks: enough for a race to show, few enough for a store that writes to disk
DOCUMENT_ROUNDS = 5

KILL_AFTER = 40  # acknowledged writes, before the process is killed
MANY_KEYS = 600  # more than a page of any store that was seen so far

KILL_KEYS = 7


class DocumentStoreSuite(StorageSuite):
    """The contract of document stores: versions, compare-and-set, keys, scans."""

    many: ClassVar[int] = MANY_RECORDS
    """Documents that are scanned at least once: more than a page of the store."""

    def test_documents_what_was_put_comes_back(self) -> None:
        """A put document comes back with its version, as the same JSON value; another key does not."""

        async def test(documents: DocumentStore) -> None:
            assert await documents.get("things", "k") is None
            for value in VALUES:
                version = await documents.put("things", "k", _json.encode(value))
                found = await documents.get("things", "k")
                assert found is not None
                assert (found.key, found.version) == ("k", version)
                _same(found.body, value)
            assert await documents.get("things", "other") is None
            assert await documents.get("others", "k") is None

        self._on_documents(test)

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

        self._on_documents(test)

    def test_documents_expected_is_heeded(self) -> None:
        """`expected` has to be the present version, 0 without a document; otherwise nothing is written."""

        async def test(documents: DocumentStore) -> None:
            await _conflict(documents.put("things", "k", b"1", expected=7), 7, 0)
            assert await documents.get("things", "k") is None
            first = await documents.put("things", "k", b"1", expected=0)
            await _conflict(documents.put("things", "k", b"2", expected=0), 0, first)
            second = await documents.put("things", "k", b"2", expected=first)
            await _conflict(documents.put("things", "k", b"3", expected=first), first, second)
            await _conflict(documents.delete("things", "k", expected=first), first, second)
            assert await documents.get("things", "k") == Document("k", second, b"2")
            assert await documents.delete("things", "k", expected=second)
            await _conflict(documents.put("things", "k", b"4", expected=second), second, 0)
            assert await documents.put("things", "k", b"5", expected=0) > second

        self._on_documents(test)

    def test_documents_delete(self) -> None:
        """A deleted document is gone; deleting no document returns `False`."""

        async def test(documents: DocumentStore) -> None:
            assert not await documents.delete("things", "k")
            await documents.put("things", "k", b"1")
            assert await documents.delete("things", "k")
            assert await documents.get("things", "k") is None
            assert not await documents.delete("things", "k")
            assert not await documents.delete("things", "k", expected=0)

        self._on_documents(test)

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

        self._on_documents(test)

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

        self._on_documents(test)

    def test_documents_no_update_is_lost(self) -> None:
        """Concurrent counters that compare and set never lose a count."""

        async def test(documents: DocumentStore) -> None:
            await documents.put("things", "k", b"0")

            async def count() -> None:
                for _ in range(DOCUMENT_ROUNDS):
                    await _increment(documents)

            async with anyio.create_task_group() as tasks:
                for _ in range(DOCUMENT_WRITERS):
                    tasks.start_soon(count)
            found = await documents.get("things", "k")
            assert found is not None
            assert int(found.body) == DOCUMENT_WRITERS * DOCUMENT_ROUNDS

        self._on_documents(test)

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

        self._on_documents(test)

    def test_documents_a_body_is_not_shared(self) -> None:
        """A buffer that the caller changes afterwards does not change the store; a body comes back as `bytes`."""

        async def test(documents: DocumentStore) -> None:
            buffer: Any = bytearray(b'{"a":1}')
            await documents.put("things", "k", buffer)
            buffer[5:6] = b"2"
            found = await documents.get("things", "k")
            assert found is not None
            assert type(found.body) is bytes
            _same(found.body, {"a": 1})

        self._on_documents(test)

    def test_documents_odd_keys(self) -> None:
        """Every text is a key of its own: none escapes, none falls together with another."""

        async def test(documents: DocumentStore) -> None:
            for n, key in enumerate(ODD_KEYS):
                await documents.put("things", key, b"%d" % n, expected=0)
            for n, key in enumerate(ODD_KEYS):
                found = await documents.get("things", key)
                assert found is not None, f"{key!r} is gone"
                assert (found.key, found.body) == (key, b"%d" % n)
            keys = [document.key async for document in documents.scan("things")]
            assert sorted(keys) == sorted(ODD_KEYS)
            for key in ODD_KEYS:
                assert await documents.delete("things", key)

        self._on_documents(test)

    def test_documents_collections_are_apart(self) -> None:
        """A collection and a key are two texts, not one: `a` with `b/c` is not `a/b` with `c`, nor `A` with `b/c`."""

        async def test(documents: DocumentStore) -> None:
            places = [("a", "b/c"), ("a/b", "c"), ("A", "b/c"), ("a", "B/c"), ("ab", "/c"), ("a:b", "c"), ("a", "b:c")]
            for n, (collection, key) in enumerate(places):
                await documents.put(collection, key, b"%d" % n, expected=0)
            for n, (collection, key) in enumerate(places):
                found = await documents.get(collection, key)
                assert found is not None
                assert (found.key, found.body) == (key, b"%d" % n)
            for collection in {collection for collection, _ in places}:
                keys = [document.key async for document in documents.scan(collection)]
                assert sorted(keys) == sorted(key for other, key in places if other == collection)
            for number, (collection, key) in enumerate(places, 1):
                assert await documents.delete(collection, key)
                left = [place for place in places if await documents.get(*place) is not None]
                assert left == places[number:]

        self._on_documents(test)

    def test_documents_scan_many(self) -> None:
        """A scan gives every document of more than a page, once."""

        async def test(documents: DocumentStore) -> None:
            async def write(start: int) -> None:
                for n in range(start, self.many, DOCUMENT_WRITERS):
                    await documents.put("things", f"k{n}", b"%d" % n)

            async with anyio.create_task_group() as tasks:
                for start in range(DOCUMENT_WRITERS):
                    tasks.start_soon(write, start)
            found = sorted([int(document.body) async for document in documents.scan("things", "k")])
            assert found == list(range(self.many))

        self.run_open_once(lambda backend: test(backend.documents))

    def test_documents_scan_by_prefix(self) -> None:
        """A scan gives all documents whose key starts with the prefix, literally, of its collection only."""

        async def test(documents: DocumentStore) -> None:
            for key in ODD_KEYS:
                await documents.put("things", key, b"1")
                await documents.put("others", key, b"2")
            for prefix in ("", "a", "a/", "%", "*", "[", "x" * 299, "none of them", "\u00e9"):
                found = [(d.key, d.body) async for d in documents.scan("things", prefix)]
                assert sorted(found) == sorted((key, b"1") for key in ODD_KEYS if key.startswith(prefix))

        self._on_documents(test)

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

    def test_documents_scan_while_writing(self) -> None:
        """A document that exists all through a scan is given exactly once, whatever is written and deleted
        meanwhile.
        """

        async def test(documents: DocumentStore) -> None:
            stable = {f"stable-{n}" for n in range(60)}
            for n, key in enumerate(sorted(stable)):
                await documents.put("things", key, b"0")
                await documents.put("things", f"fleeting-{n}", b"0")
            done = anyio.Event()

            async def disturb() -> None:
                n = 0
                while not done.is_set():
                    await documents.put("things", f"stable-{n % 60}", b"%d" % n)
                    await documents.delete("things", f"fleeting-{n % 60}")
                    await documents.put("things", f"new-{n % 200}", b"%d" % n)
                    n += 7
                    await anyio.lowlevel.checkpoint()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(disturb)
                for _ in range(DOCUMENT_ROUNDS):
                    seen: list[str] = []
                    async for document in documents.scan("things"):
                        seen.append(document.key)
                        await anyio.lowlevel.checkpoint()
                    assert len(seen) == len(set(seen)), "a key was given twice"
                    assert stable <= set(seen), f"missed: {sorted(stable - set(seen))}"
                done.set()

        self._on_documents(test)

    def test_documents_a_large_document(self) -> None:
        """A document may have a megabyte."""

        async def test(documents: DocumentStore) -> None:
            value = {"text": "\u00e9" * 2**19}
            await documents.put("things", "k", _json.encode(value))
            found = await documents.get("things", "k")
            assert found is not None
            _same(found.body, value)

        self._on_documents(test)

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

        self._on_documents(test)

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

        self._on_documents(test)

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

        self.run_killed(write, check, after=KILL_AFTER)

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
                _same(found.body, {"a": 1})
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
                await _conflict(one.documents.put("things", "k", b"3", expected=version), version, newer)
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
                        acknowledged = max(acknowledged, await _increment(documents))
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
                    version = at_once(documents.put("things", f"k{n}", b"0", expected=0))
                    with pytest.raises(VersionConflict):
                        at_once(documents.put("things", f"k{n}", b"1", expected=0))
                    version = at_once(documents.put("things", f"k{n}", b"2", expected=version))
                    assert at_once(documents.get("things", f"k{n}")) == Document(f"k{n}", version, b"2")
                    assert at_once(documents.get("things", "none")) is None
                assert at_once(keys(documents)) == sorted(f"k{n}" for n in range(INSTANT_TRIES))
                for n in range(INSTANT_TRIES):
                    assert at_once(documents.delete("things", f"k{n}"))
                    assert not at_once(documents.delete("things", f"k{n}"))

        self.run_if(INSTANT, test)

    def test_documents_random_operations(self) -> None:
        """Any sequence of operations has the same results as on a plain dict."""

        @given(st.lists(_OPERATIONS, max_size=30))
        @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
        def replay(operations: list[tuple[Any, ...]]) -> None:
            self._on_documents(lambda documents: _replay(documents, operations))

        replay()

    def _on_documents(self, test: Callable[[DocumentStore], Awaitable[None]]) -> None:
        async def opened(backend: Backend) -> None:
            await test(backend.documents)

        self.run_open(opened)


VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 2**53 + 1, 10**30, -(10**400), "", "\u00e9\U0001f600\0", [], {}, [1, [2, {"a": None}]],
    "caf\u00e9", "cafe\u0301", {"caf\u00e9": 1, "cafe\u0301": 2}, " \t\u00a0", "\ufeffa", 0.1,
    5e-324, 1.7976931348623157e308,
    {"z": 1, "a": 2, "\u00e9": {"nested": [1.0, 1]}}, {"__proto__": 1},
)  # fmt: skip

_KEYS = st.sampled_from(["a", "A", "a/b", "\u00e9"])
_OPERATIONS = st.one_of(
    st.tuples(st.just("put"), _KEYS, st.integers(0, 9), st.sampled_from(["any", "right", "none", "wrong"])),
    st.tuples(st.just("delete"), _KEYS, st.sampled_from(["any", "right", "wrong"])),
    st.tuples(st.just("get"), _KEYS),
    st.tuples(st.just("scan"), st.sampled_from(["", "a", "a/", "z"])),
)


async def _replay(documents: DocumentStore, operations: list[tuple[Any, ...]]) -> None:
    """Run all operations on the store and on a dict, and compare after each step."""
    model: dict[str, Document] = {}
    last: dict[str, int] = {}
    for name, *arguments in operations:
        key = arguments[0]
        actual = model[key].version if key in model else 0
        if name == "put":
            expected = {"any": None, "right": actual, "none": 0, "wrong": actual + 1}[arguments[2]]
            body = b"%d" % arguments[1]
            try:
                version = await documents.put("things", key, body, expected=expected)
            except VersionConflict as exc:
                assert expected is not None and expected != actual  # noqa: PT018
                assert (exc.expected, exc.actual) == (expected, actual)
            else:
                assert expected in (None, actual)
                assert version > last.get(key, 0)
                model[key] = Document(key, version, body)
                last[key] = version
        elif name == "delete":
            expected = {"any": None, "right": actual, "wrong": actual + 1}[arguments[1]]
            try:
                assert await documents.delete("things", key, expected=expected) == (key in model)
                assert expected in (None, actual)
                model.pop(key, None)
            except VersionConflict:
                assert expected not in (None, actual)
        elif name == "scan":
            found = {document.key: document async for document in documents.scan("things", key)}
            assert found == {k: v for k, v in model.items() if k.startswith(key)}
        assert await documents.get("things", key) == model.get(key)


async def _increment(documents: DocumentStore) -> int:
    """Count up by compare-and-set. Returns the version that was written."""
    while True:
        found = await documents.get("things", "k")
        assert found is not None
        try:
            return await documents.put("things", "k", b"%d" % (int(found.body) + 1), expected=found.version)
        except VersionConflict:
            await anyio.lowlevel.checkpoint()


async def _conflict(operation: Awaitable[object], expected: int, actual: int) -> None:
    try:
        await operation
    except VersionConflict as exc:
        assert (exc.expected, exc.actual) == (expected, actual)
        return
    raise AssertionError(f"expected={expected} was not heeded")


def _same(body: bytes, value: Any) -> None:
    """Assert that it is the same JSON value: numbers exact and of their kind, keys in their order."""
    assert repr(_json.decode(body)) == repr(value)
