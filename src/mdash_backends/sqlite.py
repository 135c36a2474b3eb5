"""``sqlite:///var/lib/mdash``: a folder with a database, for one process. Every acknowledged write is on disk.

The folder holds ``mdash.db`` (documents and logs), ``blobs/`` (each a file), ``lock``, and ``reserve``, which keeps the
space that SQLite needs to open the database on a full disk. The bus is in this process, and so are all subscribers.
"""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Final

from anyio.lowlevel import checkpoint_if_cancelled

from mdash_backends._blob_files import BlobFiles
from mdash_backends._document_cache import DocumentCache
from mdash_backends._files import Files
from mdash_backends._lock import folder_of, hold_folder, refuse_folder
from mdash_backends._modes import close_file, close_folder, create_file
from mdash_backends._sqlite_engine import Engine, open_engine
from mdash_backends._sqlite_writes import MAX_INTEGER, Append, BeginLog, Delete, Put, PutWithEntry, Trim, Work, row_of
from mdash_backends.memory import MemoryBus
from mdashcore._errors import InvalidInput, MdashError, TooLarge
from mdashcore.storage import ATOMIC, DURABLE, ORDERED, Backend, Document, LogEntry

__all__ = ["SqliteDocuments", "SqliteLogs", "open_sqlite"]

DATABASE_FILE: Final = "mdash.db"
BLOBS_FOLDER: Final = "blobs"
RESERVE_FILE: Final = "reserve"

RESERVE_BYTES: Final = 2**16  # twice the index that SQLite makes for its log at each start

SCAN_PAGE: Final = 500  # documents that a scan has in memory at the same time,
CACHE_CHECK_INTERVAL: Final = 1.0  # seconds until a change that an operator makes in SQLite's own shell is seen
SCAN_PAGE_BYTES: Final = 2**20  # unless they are large: then as many as fill this, in bytes
MAX_VALUE: Final = 2**29  # bytes: SQLite itself takes no value past 10**9, and one write must not fail its group


class ReadSql:
    """All statements that read. Each finds its rows by a key."""

    GET = "SELECT version, CAST(body AS BLOB) FROM documents WHERE collection = ? AND key = ?"
    SCAN = """
        SELECT key, version, CAST(body AS BLOB) FROM documents WHERE collection = ? AND key >= ? ORDER BY key LIMIT ?
    """
    READ = """
        SELECT position, time, CAST(body AS BLOB) FROM entries
        WHERE log = (SELECT id FROM logs WHERE name = ?) AND position >= ? ORDER BY position LIMIT ?
    """
    END = "SELECT next FROM logs WHERE name = ?"


class SqliteDocuments:
    """A document store in a table."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._cache = DocumentCache()
        self._checked = (
            -math.inf
        )  # when it was last checked whether another program has written, on the monotonic clock
        engine.on_commit = self._committed

    async def get(self, collection: str, key: str) -> Document | None:
        name = collection, key
        if monotonic() - self._checked > CACHE_CHECK_INTERVAL:
            self._checked = monotonic()
            if await self._engine.changed_by_others():
                self._cache.clear()
        if (document := self._cache.get(name)) is not None:
            await checkpoint_if_cancelled()  # no more: the scheduler would take longer than all the rest
            return document
        read = self._cache.begin_read(name)
        try:
            found = await self._engine.read(partial(row_of, ReadSql.GET, (_text(collection), _text(key))))
            document = None if found is None else Document(key, *found)
        finally:
            self._cache.end_read(name, read, document)
        return document

    def _committed(self, works: Sequence[Work[Any]], results: Sequence[Any] | None) -> None:
        """Keep the documents that were written."""
        for number, work in enumerate(works):
            write = work.put if isinstance(work, PutWithEntry) else work
            if isinstance(write, Put | Delete):
                result = None if results is None else results[number]
                document = None
                if isinstance(write, Put) and result is not None and not isinstance(result, MdashError):
                    version = result[0] if isinstance(result, tuple) else result
                    document = Document(write.key, version, write.body)
                self._cache.committed((write.collection, write.key), document)

    async def put(self, collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
        return await self._engine.write(_put(collection, key, body, expected))

    async def delete(self, collection: str, key: str, *, expected: int | None = None) -> bool:
        return await self._engine.write(Delete(_text(collection), _text(key), expected))

    async def scan(self, collection: str, prefix: str = "", *, after: str = "") -> AsyncIterator[Document]:
        _text(collection)
        start = max(_text(prefix), _text(after) + "\0") if after else _text(prefix)
        while documents := await self._engine.read(partial(_page, collection, start)):
            for document in documents:
                if not document.key.startswith(prefix):
                    return  # keys are in the order of their code points: those with the prefix lie together
                yield document
            start = documents[-1].key + "\0"  # the next text in the order of code points


class SqliteLogs:
    """A log store in two tables: the ends of the logs, and the entries of all."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def append(self, log: str, time: float, bodies: Sequence[bytes]) -> int:
        return await self._engine.write(_append(log, time, bodies))

    async def begin(self, log: str, offset: int) -> None:
        await self._engine.write(BeginLog(_text(log), offset))

    async def read(self, log: str, start: int, limit: int) -> Sequence[LogEntry]:
        return await self._engine.read(partial(_read, _text(log), _integer(start), _integer(limit)))

    async def end(self, log: str) -> int:
        found = await self._engine.read(partial(row_of, ReadSql.END, (_text(log),)))
        return 0 if found is None else found[0]

    async def trim(self, log: str, keep: int, *, before: int | None = None) -> None:
        limit = MAX_INTEGER if before is None else _integer(before)
        await self._engine.write(Trim(_text(log), _integer(keep), limit))


async def _put_and_append(
    engine: Engine, collection: str, key: str, body: bytes, *, expected: int, log: str, time: float, entry: bytes
) -> tuple[int, int]:
    """Write a document and a log entry in one transaction, as `PutAndAppend` says."""
    put, append = _put(collection, key, body, expected), _append(log, time, (entry,))
    return await engine.write(PutWithEntry(put, append))


def _put(collection: str, key: str, body: bytes, expected: int | None) -> Put:
    return Put(_text(collection), _text(key), _body(body), expected)


def _append(log: str, time: float, bodies: Sequence[bytes]) -> Append:
    if math.isnan(time):
        raise InvalidInput("the time of a log entry is a number")  # SQLite has no NaN
    return Append(_text(log), time, [_body(body) for body in bodies])


def _page(collection: str, start: str, db: sqlite3.Connection) -> list[Document]:
    documents: list[Document] = []
    size = 0
    with closing(db.execute(ReadSql.SCAN, (collection, start, SCAN_PAGE))) as rows:
        for row in rows:
            documents.append(Document(*row))
            size += len(documents[-1].body)
            if size > SCAN_PAGE_BYTES:
                break
    return documents


def _read(log: str, start: int, limit: int, db: sqlite3.Connection) -> list[LogEntry]:
    return [LogEntry(*row) for row in db.execute(ReadSql.READ, (log, start, limit))]


def _text(key: str) -> str:
    try:
        key.encode()
    except UnicodeEncodeError:
        raise InvalidInput("a key is text, and half of a surrogate pair is none") from None
    return key


def _body(body: bytes) -> bytes:
    if len(body) > MAX_VALUE:
        raise TooLarge(f"a document or log entry has at most {MAX_VALUE} bytes here")
    return bytes(body)  # the caller's buffer may change before it is written


def _integer(number: int) -> int:
    """Return a count or an offset that SQLite can bind. Beyond its largest integer there are no entries anyway."""
    return min(max(number, 0), MAX_INTEGER)


def _close(folder: Path) -> None:
    """Let only the owner read a store. SQLite gives its further files the mode of the database."""
    close_folder(folder / BLOBS_FOLDER)
    os.close(create_file(folder / DATABASE_FILE, os.O_WRONLY))
    for suffix in ("-wal", "-shm"):  # of a server that was killed
        close_file(folder / f"{DATABASE_FILE}{suffix}")


def _free_reserve(folder: Path) -> None:
    (folder / RESERVE_FILE).unlink(missing_ok=True)


def _allocate_reserve(folder: Path) -> None:
    """Keep space for the next start. If there is none, this start has used the reserve, and frees that space at its
    end.
    """
    try:
        with open(create_file(folder / RESERVE_FILE, os.O_WRONLY), "wb") as file:
            file.write(bytes(RESERVE_BYTES))
    except OSError:
        (folder / RESERVE_FILE).unlink(missing_ok=True)


@asynccontextmanager
async def open_sqlite(url: str) -> AsyncIterator[Backend]:
    """Open the folder of a ``sqlite://`` URL for as long as the context lasts. A missing folder is created.

    Raises:
        InvalidInput: the URL does not name a folder.
        StorageError: another process has it open; or the database is damaged, too new, or cannot be written.
    """
    folder = folder_of(url)
    refuse_folder(folder, "store.json", "a store of plain files: its URL begins with file://")
    with hold_folder(folder):
        files = Files(folder / BLOBS_FOLDER)
        try:
            await files.run(files.path, files.prepare)
            await files.run(str(folder / DATABASE_FILE), _close, folder)
            await files.run(str(folder / RESERVE_FILE), _free_reserve, folder)
            async with open_engine(folder / DATABASE_FILE) as engine:
                await files.run(str(folder / RESERVE_FILE), _allocate_reserve, folder)
                yield Backend(
                    SqliteDocuments(engine),
                    SqliteLogs(engine),
                    BlobFiles(folder / BLOBS_FOLDER, files),
                    MemoryBus(),
                    frozenset({ATOMIC, DURABLE, ORDERED}),
                    engine.check,
                    partial(_put_and_append, engine),
                    free_bytes=files.free_bytes,
                )
        finally:
            await files.close()
