"""The SQLite backend: the contract, and what it promises beyond: group commit, one owner, and to survive."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdash_backends import _sqlite_engine, _sqlite_schema, _sqlite_writes, sqlite
from mdash_backends._sqlite_engine import open_engine
from mdash_backends._sqlite_writes import MAX_INTEGER, Append, Delete, Put, PutWithEntry, Trim, WriteSql, with_rows
from mdash_backends.sqlite import ReadSql, SqliteDocuments
from mdashcore._errors import InvalidInput, StorageError, TooLarge, VersionConflict
from mdashcore.storage import ATOMIC, DURABLE, ORDERED, Backend, Document, LogEntry, open_backend
from mdashcore.testing import BackendSuite

LOOPS = pytest.mark.parametrize("loop", ["trio", "asyncio"])


@pytest.mark.usefixtures("short_queues")
class TestSqlite(BackendSuite):
    """The whole contract; with so small pages that every scan needs many."""

    flood = 350  # more than short queues hold
    topics = 200

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing_disk: Any) -> None:
        self.folder = tmp_path
        self._failing = failing_disk
        monkeypatch.setattr(sqlite, "SCAN_PAGE", 3)

    def open(self, name: str) -> AbstractAsyncContextManager[Backend]:
        return open_backend(f"sqlite://{self.folder}/{name}")

    def failing(self, name: str, backend: Backend) -> AbstractAsyncContextManager[None]:
        return self._failing(name, backend)


def on_both_loops(scenario: Callable[[Path], Awaitable[None]]) -> Callable[..., None]:
    """A test out of a scenario that is given an empty folder."""

    @LOOPS
    def test(loop: str, tmp_path: Path) -> None:
        async def main() -> None:
            with anyio.fail_after(30):
                await scenario(tmp_path)

        anyio.run(main, backend=loop)

    test.__doc__ = scenario.__doc__
    return test


def opened(folder: Path) -> AbstractAsyncContextManager[Backend]:
    return open_backend(f"sqlite://{folder}")


@contextmanager
def shell(folder: Path) -> Iterator[sqlite3.Connection]:
    """The database, opened by another program."""
    with closing(sqlite3.connect(folder / "mdash.db", isolation_level=None, check_same_thread=False)) as db:
        yield db


@contextmanager
def commits_held(folder: Path) -> Iterator[None]:
    """While this lasts, no commit can begin: what is written waits, at most for `BUSY_TIMEOUT`."""
    with shell(folder) as db:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test on a busy machine may hold commits for longer than a service should wait."""
    monkeypatch.setattr(_sqlite_engine, "BUSY_TIMEOUT", 20.0)


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every statement that any connection made from now on runs."""
    seen: list[str] = []
    connect = sqlite3.connect

    def traced(*args: Any, **options: Any) -> sqlite3.Connection:
        db = connect(*args, **options)
        db.set_trace_callback(seen.append)
        return db

    monkeypatch.setattr(sqlite3, "connect", traced)
    return seen


async def chunks(data: bytes) -> AsyncIterator[bytes]:
    yield data


@on_both_loops
async def test_what_is_in_the_folder(folder: Path) -> None:
    """A missing folder is made; it holds a database, blobs as files, and the lock."""
    async with opened(folder / "a" / "b") as backend:
        assert backend.capabilities == {ATOMIC, DURABLE, ORDERED}
        await backend.blobs.put("fw", chunks(b"image"))
        assert {"mdash.db", "blobs", "lock"} <= {path.name for path in (folder / "a" / "b").iterdir()}
    assert [path.read_bytes() for path in (folder / "a" / "b" / "blobs").iterdir() if path.is_file()] == [b"image"]


# --- group commit


@LOOPS
def test_many_writers_share_a_commit(loop: str, tmp_path: Path, statements: list[str]) -> None:
    """What 64 writers have waiting is committed together; a write that is alone is committed immediately."""

    async def main() -> None:
        async with opened(tmp_path) as backend:
            documents = backend.documents
            statements.clear()
            for n in range(5):
                await documents.put("things", "alone", b"%d" % n)
            assert statements.count("COMMIT") == 5
            statements.clear()

            async def write(writer: int) -> None:
                for n in range(10):
                    assert await documents.put("things", f"{writer}", b"%d" % n, expected=n) == n + 1

            async with anyio.create_task_group() as tasks:
                for writer in range(64):
                    tasks.start_soon(write, writer)
            assert statements.count("COMMIT") <= 640 / 8
            found = [document async for document in documents.scan("things")]
            assert [(d.version, d.body) for d in found if d.key != "alone"] == [(10, b"9")] * 64

    anyio.run(main, backend=loop)


@LOOPS
def test_each_in_a_group_has_its_own_outcome(loop: str, tmp_path: Path, statements: list[str]) -> None:
    """In one commit each write sees those before it; one that conflicts changes nothing, and no other fails with it."""

    async def main() -> None:
        async with opened(tmp_path) as backend:
            documents = backend.documents
            await documents.put("things", "k", b"1")
            await documents.put("things", "other", b"1")
            outcomes: dict[int, Any] = {}

            async def do(number: int, operation: Awaitable[Any]) -> None:
                try:
                    outcomes[number] = await operation
                except VersionConflict as exc:
                    outcomes[number] = exc.expected, exc.actual

            operations = [
                (documents.put("things", "k", b"2", expected=1), 2),
                (documents.put("things", "k", b"3", expected=1), (1, 2)),
                (documents.put("things", "k", b"4"), 3),
                (documents.delete("things", "other", expected=7), (7, 1)),
                (documents.delete("things", "other", expected=1), True),
                (documents.delete("things", "other"), False),
                (documents.put("things", "other", b"5", expected=1), (1, 0)),
                (documents.put("things", "other", b"6", expected=0), 2),
                (backend.logs.append("l", 1.0, [b"a", b"b"]), 0),
                (backend.logs.append("l", 1.0, [b"c"]), 2),
                (backend.logs.trim("l", 1), None),
            ]
            async with anyio.create_task_group() as tasks:
                with commits_held(tmp_path):
                    tasks.start_soon(documents.put, "things", "first", b"1")
                    await until(lambda: "BEGIN IMMEDIATE" in statements[-1:])
                    for number, (operation, _) in enumerate(operations):
                        tasks.start_soon(do, number, operation)
                        await anyio.wait_all_tasks_blocked()
                    statements.clear()
            assert statements.count("COMMIT") == 2
            assert outcomes == {number: outcome for number, (_, outcome) in enumerate(operations)}
            assert await documents.get("things", "k") == Document("k", 3, b"4")
            assert list(await backend.logs.read("l", 0, 9)) == [LogEntry(2, 1.0, b"c")]

    anyio.run(main, backend=loop)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what happens in a thread, where no event tells."""
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.001)


@on_both_loops
async def test_reads_do_not_wait_for_a_commit(folder: Path) -> None:
    """While a commit cannot go on, reads give what was acknowledged before it."""
    async with opened(folder) as backend:
        await backend.documents.put("things", "k", b"1")
        await backend.logs.append("l", 1.0, [b"1"])
        async with anyio.create_task_group() as tasks:
            with commits_held(folder):
                tasks.start_soon(backend.documents.put, "things", "k", b"2")
                for _ in range(10):
                    assert await backend.documents.get("things", "k") == Document("k", 1, b"1")
                    assert [document.version async for document in backend.documents.scan("things")] == [1]
                    assert await backend.logs.end("l") == 1
        assert await backend.documents.get("things", "k") == Document("k", 2, b"2")


@LOOPS
def test_an_error_is_everybodys(loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a commit fails, each of its writers gets an error of its own, with the cause; later writers do not."""
    monkeypatch.setattr(_sqlite_engine, "BUSY_TIMEOUT", 0.05)

    async def main() -> None:
        async with opened(tmp_path) as backend:
            errors: list[StorageError] = []

            async def write(n: int) -> None:
                with pytest.raises(StorageError, match=r"mdash\.db: database is locked") as caught:
                    await backend.documents.put("things", f"{n}", b"1")
                errors.append(caught.value)

            with commits_held(tmp_path):
                async with anyio.create_task_group() as tasks:
                    for n in range(5):
                        tasks.start_soon(write, n)
            assert len(set(map(id, errors))) == 5
            assert all(isinstance(error.__cause__, sqlite3.OperationalError) for error in errors)
            assert [document async for document in backend.documents.scan("things")] == []
            assert await backend.documents.put("things", "0", b"2") == 1

    anyio.run(main, backend=loop)


@on_both_loops
async def test_an_error_in_the_middle_of_a_group(folder: Path) -> None:
    """What was done before the error in the same transaction is undone, and the next group begins afresh."""
    async with open_engine(folder / "mdash.db") as engine:
        documents = SqliteDocuments(engine)

        async def fail(operation: Awaitable[object]) -> None:
            with pytest.raises(StorageError, match=r"mdash\.db: "):
                await operation

        async with anyio.create_task_group() as tasks:
            with commits_held(folder):
                tasks.start_soon(fail, engine.write(lambda db: db.execute("no SQL at all")))
                await anyio.wait_all_tasks_blocked()
                tasks.start_soon(fail, documents.put("things", "k", b"1"))
                await anyio.wait_all_tasks_blocked()
                tasks.start_soon(fail, engine.write(lambda db: 1 // 0))
                await anyio.wait_all_tasks_blocked()
        assert await documents.get("things", "k") is None
        assert await documents.put("things", "k", b"2") == 1
        assert await documents.get("things", "k") == Document("k", 1, b"2")


@given(
    st.booleans(),
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.sampled_from("abc"), st.sampled_from([None, 0, -1, 1, 2, 3, 2**70])),
            st.tuples(st.just("delete"), st.sampled_from("abc"), st.sampled_from([None, 0, 1, 2])),
            st.tuples(st.just("both"), st.sampled_from("abc"), st.integers(0, 3), st.sampled_from("lm")),
            st.tuples(st.just("append"), st.sampled_from("lm"), st.integers(1, 3)),
            st.tuples(st.just("trim"), st.sampled_from("lm"), st.integers(0, 3)),
        ),
        max_size=20,
    ),
)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_group_has_the_results_of_its_writes_one_by_one(has_update_from: bool, operations: list[Any]) -> None:
    """Also if some meet another version than they expect, write a document twice, or need statements of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_sqlite_writes, "HAS_UPDATE_FROM", has_update_from)
        _compare_groups(operations)


def _compare_groups(operations: list[tuple[Any, ...]]) -> None:
    """Write operations as one group, and as a group for each; and compare the results and the databases."""

    def prepared() -> sqlite3.Connection:
        db = sqlite3.connect(":memory:", isolation_level=None)
        for statement in (statement for statements in _sqlite_schema.MIGRATIONS for statement in statements):
            db.execute(statement)
        _sqlite_writes.run_group([Put("c", key, b"0", 0) for key in "ab"], db)
        return db

    def work(operation: tuple[Any, ...]) -> Any:
        name, key, number, *more = operation
        if name == "put":
            return Put("c", key, b"%d" % len(operations), number)
        if name == "delete":
            return Delete("c", key, number)
        if name == "both":
            return PutWithEntry(Put("c", key, b"2", number), Append(more[0], 1.0, [b"2"]))
        return Append(key, 2.0, [b"3"] * number) if name == "append" else Trim(key, number, MAX_INTEGER)

    works = [work(operation) for operation in operations]
    with closing(prepared()) as together, closing(prepared()) as alone:
        results = _sqlite_writes.run_group(works, together)
        expected = [_sqlite_writes.run_group([each], alone)[0] for each in works]
        assert [_comparable(each) for each in results] == [_comparable(each) for each in expected]
        assert list(together.iterdump()) == list(alone.iterdump())


def _comparable(result: Any) -> Any:
    """A result, or what an error says."""
    return str(result) if isinstance(result, Exception) else result


@on_both_loops
async def test_a_buffer_that_changes_while_its_write_waits(folder: Path) -> None:
    """What is written is what was given, whatever becomes of the caller's buffer before the commit."""
    buffers: Any = bytearray(b"[1]"), bytearray(b"[2]")
    async with opened(folder) as backend:
        async with anyio.create_task_group() as tasks:
            with commits_held(folder):
                tasks.start_soon(backend.documents.put, "things", "first", b"0")
                tasks.start_soon(backend.documents.put, "things", "k", buffers[0])
                tasks.start_soon(backend.logs.append, "l", 1.0, [buffers[1]])
                await anyio.wait_all_tasks_blocked()
                buffers[0][1:2] = buffers[1][1:2] = b"9"
        assert await backend.documents.get("things", "k") == Document("k", 1, b"[1]")
        assert list(await backend.logs.read("l", 0, 1)) == [LogEntry(0, 1.0, b"[2]")]


@LOOPS
def test_the_queue_is_bounded(loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More writers than the queue has places wait for their turn, and all get it."""
    monkeypatch.setattr(_sqlite_engine, "WRITE_QUEUE", 4)
    monkeypatch.setattr(_sqlite_engine, "MAX_GROUP", 3)

    async def main() -> None:
        async with open_engine(tmp_path / "mdash.db") as engine:
            documents = SqliteDocuments(engine)
            async with anyio.create_task_group() as tasks:
                with commits_held(tmp_path):
                    for n in range(50):
                        tasks.start_soon(documents.put, "things", f"{n}", b"1")
                    await anyio.wait_all_tasks_blocked()
                    assert sum(len(group.works) for group in engine._groups) <= 4
                    assert engine._room.statistics().tasks_waiting == 50 - 4
            assert len([document async for document in documents.scan("things")]) == 50

    anyio.run(main, backend=loop)


@on_both_loops
async def test_a_commit_is_synced(folder: Path) -> None:
    """Writes run in WAL mode with synchronous=FULL: a commit has returned when it is on disk."""
    async with open_engine(folder / "mdash.db") as engine:
        for pragma, setting in (("journal_mode", "wal"), ("synchronous", 2)):
            assert await engine.write(lambda db, pragma=pragma: db.execute(f"PRAGMA {pragma}").fetchall()) == [
                (setting,)
            ]


# --- cancellation and closing


@on_both_loops
async def test_a_cancelled_write_happens_or_not(folder: Path) -> None:
    """A caller that is cancelled while its write waits or is committed does not wait for it; others do."""
    async with opened(folder) as backend:
        documents = backend.documents
        async with anyio.create_task_group() as stays:
            with commits_held(folder):
                async with anyio.create_task_group() as leaves:
                    for n in range(5):
                        leaves.start_soon(documents.put, "things", f"left-{n}", b"[1,2]")
                        stays.start_soon(documents.put, "things", f"stayed-{n}", b"[1,2]")
                    await anyio.wait_all_tasks_blocked()
                    leaves.cancel_scope.cancel()
        found = {document.key: document.body async for document in documents.scan("things")}
        assert found.keys() >= {f"stayed-{n}" for n in range(5)}
        assert set(found.values()) == {b"[1,2]"}
        assert await documents.put("things", "next", b"1")


async def cancelled_by_asyncio(folder: Path) -> None:
    async with opened(folder) as backend:
        tasks = [asyncio.ensure_future(backend.documents.put("things", f"{n}", b"1")) for n in range(20)]
        tasks += [asyncio.ensure_future(backend.documents.get("things", f"{n}")) for n in range(20)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for n in range(20):
            version = await backend.documents.put("things", f"{n}", b"2")
            assert await backend.documents.get("things", f"{n}") == Document(f"{n}", version, b"2")


def test_asyncio_cancels_in_its_own_way(tmp_path: Path) -> None:
    """The cancellation of an asyncio task, which leaves its thread to itself, disturbs neither readers nor writers."""
    asyncio.run(cancelled_by_asyncio(tmp_path))


@on_both_loops
async def test_what_was_accepted_is_committed_on_the_way_out(folder: Path) -> None:
    """Closing commits what waits and moves the write-ahead log into the database; it is not hurried by cancellation."""
    outcomes: list[int] = []

    async def write(backend: Backend, n: int) -> None:
        outcomes.append(await backend.documents.put("things", f"{n}", b"1"))

    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            async with opened(folder) as backend:
                with commits_held(folder):
                    for n in range(400):
                        tasks.start_soon(write, backend, n)
                    await anyio.wait_all_tasks_blocked()
                    scope.cancel()
    assert outcomes == [1] * 400
    assert not (folder / "mdash.db-wal").exists()
    async with opened(folder) as backend:
        assert len([document async for document in backend.documents.scan("things")]) == 400


@on_both_loops
async def test_after_it_was_closed(folder: Path) -> None:
    """Every verb of a closed backend raises an error that says so."""
    async with opened(folder) as backend:
        await backend.blobs.put("fw", chunks(b"image"))
    for verb in (
        lambda: backend.documents.get("things", "k"),
        lambda: backend.documents.put("things", "k", b"1"),
        lambda: backend.documents.delete("things", "k"),
        lambda: anext(backend.documents.scan("things")),
        lambda: backend.logs.append("l", 1.0, [b"1"]),
        lambda: backend.logs.read("l", 0, 1),
        lambda: backend.logs.end("l"),
        lambda: backend.logs.trim("l", 1),
        lambda: backend.blobs.read("fw", 0, 1),
    ):
        with pytest.raises(StorageError, match="is closed"):
            await verb()


@on_both_loops
async def test_the_callers_error_is_the_callers(folder: Path) -> None:
    """What is raised while the backend is open comes out as it is, and the backend is closed properly."""
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async with opened(folder) as backend:
            await backend.documents.put("things", "k", b"1")
            raise ZeroDivisionError
    async with opened(folder) as backend:
        assert await backend.documents.get("things", "k") == Document("k", 1, b"1")


# --- arguments


@on_both_loops
async def test_what_sqlite_cannot_store_is_refused(folder: Path) -> None:
    """What no database takes is refused before it could fail the writes of others; nothing has changed."""
    async with opened(folder) as backend:
        documents, logs = backend.documents, backend.logs
        for refused in (
            lambda: documents.put("things", "\ud800", b"1"),
            lambda: documents.put("\ud800", "k", b"1"),
            lambda: documents.get("things", "\ud800"),
            lambda: documents.delete("things", "\ud800"),
            lambda: anext(documents.scan("things", "\ud800")),
            lambda: anext(documents.scan("\ud800")),
            lambda: logs.append("\ud800", 1.0, [b"1"]),
            lambda: logs.append("l", float("nan"), [b"1"]),
            lambda: logs.read("\ud800", 0, 1),
            lambda: logs.end("\ud800"),
            lambda: logs.trim("\ud800", 1),
        ):
            with pytest.raises(InvalidInput):
                await refused()
        too_large = bytes(sqlite.MAX_VALUE + 1)
        for refused in (
            lambda: documents.put("things", "k", too_large),
            lambda: logs.append("l", 1.0, [b"1", too_large]),
        ):
            with pytest.raises(TooLarge):
                await refused()
        assert [document async for document in documents.scan("things")] == []
        assert await logs.end("l") == 0


@on_both_loops
async def test_numbers_beyond_64_bits(folder: Path) -> None:
    """A version, offset or count that SQLite could not hold is as good as any that is not there."""
    async with opened(folder) as backend:
        documents, logs = backend.documents, backend.logs
        version = await documents.put("things", "k", b"1")
        for expected in (2**63 - 1, 2**63, 2**70, -1, -(2**70)):
            for write in (
                documents.put("things", "k", b"2", expected=expected),
                documents.delete("things", "k", expected=expected),
            ):
                with pytest.raises(VersionConflict) as caught:
                    await write
                assert (caught.value.expected, caught.value.actual) == (expected, version)
        await logs.append("l", 1.0, [b"1", b"2", b"3"])
        await logs.trim("l", 2**70)
        assert [entry.offset for entry in await logs.read("l", -(2**70), 2**70)] == [0, 1, 2]
        assert list(await logs.read("l", 2**70, 10)) == []
        assert list(await logs.read("l", 0, 0)) == []


@on_both_loops
async def test_a_document_edited_by_hand(folder: Path) -> None:
    """A body that an operator has set in SQLite's own shell, as text, comes back as bytes like any other.

    It is seen at the next check, or when a write meets it.
    """
    async with opened(folder) as backend:
        await backend.documents.put("things", "k", b"1")
        assert await backend.documents.get("things", "k") == Document("k", 1, b"1")
        with shell(folder) as db:
            db.execute('UPDATE documents SET body = \'{"a": "\u00e9"}\', version = version + 1')
        with pytest.raises(VersionConflict):
            await backend.documents.put("things", "k", b"2", expected=1)
        assert await backend.documents.get("things", "k") == Document("k", 2, '{"a": "\u00e9"}'.encode())
        with shell(folder) as db:
            db.execute("UPDATE documents SET body = '[]', version = version + 1")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sqlite, "CACHE_CHECK_INTERVAL", -1.0)
            assert await backend.documents.get("things", "k") == Document("k", 3, b"[]")


@on_both_loops
async def test_versions_after_a_delete(folder: Path) -> None:
    """A document that is made anew goes on after the highest version of any that was deleted, also much later."""
    async with opened(folder) as backend:
        for _ in range(5):
            await backend.documents.put("things", "k", b"1")
        await backend.documents.put("things", "other", b"1")
        await backend.documents.delete("things", "k")
        await backend.documents.delete("things", "other")
    async with opened(folder) as backend:
        assert await backend.documents.put("things", "k", b"2", expected=0) == 6
        assert await backend.documents.put("others", "never seen", b"2", expected=0) == 6


# --- cost


def test_every_statement_has_an_index(tmp_path: Path) -> None:
    """No statement looks at more rows than it is about: SQLite's own plans say so."""
    statements = {name: text for sql in (ReadSql, WriteSql) for name, text in vars(sql).items() if name.isupper()}
    assert len(statements) == 16
    with closing(sqlite3.connect(tmp_path / "db", isolation_level=None)) as db:
        _sqlite_schema.prepare(db)
        for name, template in statements.items():
            text = with_rows(template, 3) if "{rows}" in template else template
            plan = db.execute(f"EXPLAIN QUERY PLAN {text}", [None] * text.count("?")).fetchall()
            steps = [step for *_, step in plan]
            if name in ("FIRST_VERSION", "DELETED"):
                assert steps == ["SCAN deleted"], "a table of one row"
            elif name == "UPDATE_ROWS":  # every given row is read, and finds its document
                assert steps[-2:-1] == ["SCAN new"]
                assert steps[-1].startswith("SEARCH documents")
            elif text.startswith("INSERT"):
                assert not steps or steps == ["SCAN 3 CONSTANT ROWS"]
            else:
                assert steps
                for step in steps:
                    assert step.startswith(("SEARCH", "SCALAR SUBQUERY")), f"{name}: {step}"


@on_both_loops
async def test_cost_does_not_grow(folder: Path) -> None:
    """What SQLite does for one operation, in steps of its machine, is the same with 10 and with 1000 stored."""
    async with open_engine(folder / "mdash.db") as engine:
        documents, logs = SqliteDocuments(engine), sqlite.SqliteLogs(engine)

        async def fill(start: int, end: int) -> None:
            async with anyio.create_task_group() as tasks:
                for n in range(start, end):
                    tasks.start_soon(documents.put, "things", f"{n:05}", b"1")
                    tasks.start_soon(logs.append, "l", 1.0, [b"1"])
                    tasks.start_soon(logs.append, f"{n:05}", 1.0, [b"1"])

        async def costs() -> list[int]:
            end = await logs.end("l")
            [oldest] = await logs.read("l", 0, 1)
            return [
                await _steps(engine.read, _sqlite_writes.row_of, ReadSql.GET, ("things", "00005")),
                await _steps(engine.write, Put("things", "00005", b"2", None)),
                await _steps(engine.write, Put("things", f"new-{end}", b"2", 0)),
                await _steps(engine.write, Delete("things", f"new-{end}", None)),
                await _steps(engine.read, sqlite._read, "l", end - 5, 5),
                await _steps(engine.read, _sqlite_writes.row_of, ReadSql.END, ("l",)),
                await _steps(engine.write, Append("l", 1.0, [b"1"])),
                await _steps(engine.write, Trim("l", end - oldest.offset, MAX_INTEGER)),
            ]

        await fill(0, 10)
        few = await costs()
        await fill(10, 1000)
        assert await costs() == few


async def _steps(run: Callable[..., Awaitable[Any]], work: Callable[..., Any], *args: Any) -> int:
    """The steps of SQLite's virtual machine that a piece of work takes."""
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1

    def counted(db: sqlite3.Connection) -> None:
        db.set_progress_handler(step, 1)
        try:
            work(*args, db)
        finally:
            db.set_progress_handler(None, 1)

    await run(counted)
    return steps


@on_both_loops
async def test_a_scan_holds_a_bounded_part(folder: Path) -> None:
    """A scan reads large documents a few at a time, and small ones in pages."""
    async with opened(folder) as backend:
        large = b'"%b"' % (b"x" * (sqlite.SCAN_PAGE_BYTES // 3))
        for n in range(8):
            await backend.documents.put("large", f"{n}", large)
        with shell(folder) as db:
            assert len(sqlite._page("large", "", db)) == 3
        keys = []
        async for document in backend.documents.scan("large"):
            keys.append(document.key)
            version = await backend.documents.put("large", "k", large)
            found = await backend.documents.get("large", "k")
            assert found is not None
            assert found.version == version, "a page still holds its snapshot"
        assert keys == [*(f"{n}" for n in range(8)), "k"]
