"""Reads and writes of one SQLite database, from one event loop: group commit, and readers that never wait for it.

**Writes.** One task takes all waiting writes, runs them in one transaction, in one call of a thread, and then wakes
their callers. While one group is being committed, the next one collects. So a single fsync serves all concurrent
writers, and a single write waits for no other.

**Reads.** All that wait for a thread are run in one call of it, on a connection that it borrows. With the write-ahead
log they see the last commit, and so every acknowledged write.
"""

from __future__ import annotations

import queue
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio
import attrs
from anyio import CapacityLimiter, to_thread
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint_if_cancelled

from mdash_backends._sqlite_schema import prepare
from mdash_backends._sqlite_writes import Work, run_group
from mdashcore._errors import MdashError, StorageError

__all__ = ["Engine", "open_engine"]

T = TypeVar("T")

READERS: Final = 4  # a read is short; more threads would only wait for each other, and for the interpreter
WRITE_QUEUE: Final = 1024  # writes that wait for the next group; further writers wait for a place
MAX_GROUP: Final = 256  # writes in one commit: by then an fsync costs each next to nothing, and the first has to wait
MAX_DAMAGE: Final = 10  # lines about one table: a single bad page has a line for each of its rows
MAX_READS: Final = 64  # reads in one call of a thread: at 20 us each, the first has to wait for a millisecond
BUSY_TIMEOUT: Final = 1.0  # seconds to wait for a lock: only an operator's own SQLite shell can hold one

READER_PRAGMAS = ("PRAGMA query_only = ON",)
WRITER_PRAGMAS = (
    "PRAGMA synchronous = FULL",  # a commit returns when it is on disk
    "PRAGMA cache_size = -16384",  # KiB: the inner pages of a database of gigabytes
)


class _SqliteConnection:
    """A connection that is opened when it is needed, and closed after any error, so that nothing stays half done."""

    def __init__(self, path: Path, pragmas: Sequence[str], *, mode: str = "rw") -> None:
        self._path = path
        self._uri = f"{path.as_uri()}?mode={mode}"
        self._pragmas = pragmas
        self._db: sqlite3.Connection | None = None
        self._retired = False

    def run(self, work: Work[T]) -> T:
        """Run `work` on the connection. Raises its errors, `sqlite3.Error`, and `StorageError` after `retire`."""
        if self._retired:
            raise StorageError(f"{self._path} is closed")
        try:
            if self._db is None:
                self._db = sqlite3.connect(
                    self._uri, uri=True, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
                )
                for pragma in self._pragmas:
                    self._db.execute(pragma)
            return work(self._db)
        except BaseException:
            self._drop()  # this also rolls back
            raise

    def retire(self) -> None:
        self._retired = True
        self._drop()

    def _drop(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()


@attrs.define(eq=False)
class _Group:
    """Writes of one transaction, or reads in one call of a thread. One event wakes all their callers."""

    works: list[Work[Any]] = attrs.field(factory=list)
    done: anyio.Event = attrs.field(factory=anyio.Event)
    results: Sequence[Any] = ()
    """The result of each, or the error that it has raised."""
    failure: StorageError | None = None
    """The error of the transaction."""


class Engine:
    """One database. Any task of the event loop in which it was opened may call `read` and `write`."""

    def __init__(self, path: Path, tasks: TaskGroup) -> None:
        self.on_commit: Callable[[Sequence[Work[Any]], Sequence[Any] | None], None] = _ignore_commit
        """Called with the writes of a group and their results, before any caller goes on. The results are `None` if the
        transaction has failed, and may have been committed nevertheless."""
        self._path = path
        self._tasks = tasks
        self._writer = _SqliteConnection(path, WRITER_PRAGMAS, mode="rwc")
        self._writer_thread = CapacityLimiter(1)  # limiters of its own: the shared threads could all be taken
        self._data_version: int | None = None
        self._groups: deque[_Group] = deque()
        self._room = anyio.Semaphore(WRITE_QUEUE, fast_acquire=True)
        self._wake = anyio.Event()
        self._closed = False
        self._readers: queue.LifoQueue[_SqliteConnection] = queue.LifoQueue()  # the last one used has the warmest cache
        self._reader_threads = CapacityLimiter(READERS)
        self._reads: deque[_Group] = deque()
        self._reading = 0  # tasks that run groups of them
        for _ in range(READERS):
            self._readers.put(_SqliteConnection(path, READER_PRAGMAS))

    async def read(self, work: Work[T]) -> T:
        """Run `work` in a thread, on a connection that sees every acknowledged write.

        Raises:
            StorageError: SQLite failed, or the engine is closed.
        """
        await checkpoint_if_cancelled()
        if not self._reads or len(self._reads[-1].works) >= MAX_READS:
            self._reads.append(_Group())
            if self._reading < READERS and not self._closed:
                self._reading += 1
                self._tasks.start_soon(self._run_reads)
        group = self._reads[-1]
        group.works.append(work)
        number = len(group.works) - 1
        if self._closed:  # there are no tasks any more
            self._reading += 1
            await self._run_reads()
        await group.done.wait()
        result: T | Exception = group.results[number]
        if isinstance(result, sqlite3.Error):
            raise self._failure(result) from result
        if isinstance(result, Exception):
            raise result
        return result

    async def _run_reads(self) -> None:
        """Run groups of reads until none waits."""
        with anyio.CancelScope(shield=True):
            while self._reads:
                group = self._reads.popleft()
                try:
                    group.results = await to_thread.run_sync(self._borrow, group.works, limiter=self._reader_threads)
                except Exception as exc:  # the system has no thread, say
                    group.results = [self._failure(exc) for _ in group.works]
                group.done.set()
        self._reading -= 1

    async def write(self, work: Work[T]) -> T:
        """Run `work` in the next transaction, and return its result when that is on disk.

        `work` may raise an `MdashError` if it has changed nothing. Any other error fails all writes of the
        group, because the transaction cannot go on: so SQLite must be able to bind all arguments.

        Raises:
            MdashError: an error of `work`.
            StorageError: SQLite failed, and the whole group was rolled back; or the engine is closed.
        """
        await checkpoint_if_cancelled()  # a caller that is cancelled already writes nothing
        try:
            self._room.acquire_nowait()
        except anyio.WouldBlock:
            await self._room.acquire()
        group, number = self._join(work)
        await group.done.wait()
        if group.failure is not None:
            raise StorageError(*group.failure.args) from group.failure.__cause__
        result: T | MdashError = group.results[number]
        if isinstance(result, MdashError):
            raise result
        return result

    def _join(self, work: Work[Any]) -> tuple[_Group, int]:
        """Add a write to the last group that waits. Returns the group, and the place in it."""
        if self._closed:
            self._room.release()
            raise StorageError(f"{self._path} is closed")
        if not self._groups or len(self._groups[-1].works) >= MAX_GROUP:
            self._groups.append(_Group())
            self._wake.set()
        group = self._groups[-1]
        group.works.append(work)
        return group, len(group.works) - 1

    async def changed_by_others(self) -> bool:
        """Return whether another program has written to the database since the last call."""
        try:
            version = await to_thread.run_sync(self._writer.run, _data_version, limiter=self._writer_thread)
        except sqlite3.Error as exc:
            raise self._failure(exc) from exc
        last, self._data_version = self._data_version, version
        return version != last

    async def check(self) -> list[str]:
        """Return the damage that SQLite itself finds, by table."""
        return [f"{self._path} is damaged: {what}" for what in await self.read(_damage)]

    async def _run(self) -> None:
        """Commit group after group until the engine closes; then the remaining ones."""
        with anyio.CancelScope(shield=True):  # tasks that are being cancelled may still have to write
            while self._groups or not self._closed:
                if not self._groups:
                    self._wake = anyio.Event()
                    await self._wake.wait()
                    continue
                group = self._groups.popleft()
                work = partial(run_group, group.works)
                try:
                    group.results = await to_thread.run_sync(self._writer.run, work, limiter=self._writer_thread)
                    self.on_commit(group.works, group.results)
                except Exception as exc:  # of any kind: later writes still need this task
                    group.failure = self._failure(exc)
                    group.failure.__cause__ = exc
                    self.on_commit(group.works, None)
                for _ in group.works:
                    self._room.release()
                group.done.set()
            await to_thread.run_sync(self._retire, limiter=self._writer_thread)

    def _close(self) -> None:
        self._closed = True
        self._wake.set()

    async def _prepare(self) -> None:
        try:
            await to_thread.run_sync(self._writer.run, prepare, limiter=self._writer_thread)
        except sqlite3.Error as exc:
            raise self._failure(exc) from exc
        except StorageError as exc:
            raise StorageError(f"{self._path}: {exc}") from None

    def _borrow(self, works: Sequence[Work[Any]]) -> list[Any]:
        """Run reads on one connection. Returns the result of each, or its error."""
        reader = self._readers.get()  # taken and given back in the thread: no cancellation can come between
        try:
            return [_outcome(reader, work) for work in works]
        finally:
            self._readers.put(reader)

    def _retire(self) -> None:
        readers = [self._readers.get() for _ in range(READERS)]  # waits for running reads
        for reader in readers:
            reader.retire()
            self._readers.put(reader)  # later reads get an error from it
        self._writer.retire()  # the last connection: SQLite moves the write-ahead log into the database

    def _failure(self, exc: Exception) -> StorageError:
        damaged = getattr(exc, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
        return StorageError(f"{self._path} is damaged: {exc}" if damaged else f"{self._path}: {exc}")


@asynccontextmanager
async def open_engine(path: Path) -> AsyncIterator[Engine]:
    """Open a database, and create it or bring it to today's schema. At the end every accepted write is committed.

    Raises:
        StorageError: the database is damaged, belongs to another program, or is too new; or the disk fails.
    """
    failure: BaseException | None = None
    async with anyio.create_task_group() as tasks:
        engine = Engine(path, tasks)
        tasks.start_soon(engine._run)
        try:
            await engine._prepare()
            yield engine
        except BaseException as exc:
            failure = exc  # raised below: a task group would wrap it, and an error in the body is the caller's own
        finally:
            engine._close()
    if failure is not None:
        raise failure


def _data_version(db: sqlite3.Connection) -> int:
    version: int = db.execute("PRAGMA data_version").fetchone()[0]
    return version


def _ignore_commit(works: Sequence[Work[Any]], results: Sequence[Any] | None) -> None:
    """Ignore a commit."""


def _outcome(connection: _SqliteConnection, work: Work[Any]) -> Any:
    try:
        return connection.run(work)
    except Exception as exc:  # of any kind: other reads of the group go on
        return exc


def _damage(db: sqlite3.Connection) -> list[str]:
    found = _quick_check("PRAGMA quick_check(1)", db)  # of the whole file, with pages that belong to no table
    if not found:
        return []
    tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
    by_table = [(table, _quick_check(f"PRAGMA quick_check('{table}')", db)) for table in tables]
    return [f"table {table}: {what}" for table, damage in by_table for what in damage[:MAX_DAMAGE]] or found


def _quick_check(pragma: str, db: sqlite3.Connection) -> list[str]:
    """Return the lines of an answer; an empty list if nothing is damaged."""
    try:
        lines = [line for (text,) in db.execute(pragma) for line in text.splitlines()]
    except sqlite3.DatabaseError as exc:  # so much damage that the check itself fails
        return [str(exc)]
    return [line for line in lines if line != "ok" and not line.startswith("***")]
