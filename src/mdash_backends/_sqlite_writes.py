"""The writes of the SQLite backend as values, and a group of them in one transaction with few statements.

A group mostly consists of updates of documents and of entries for logs. Each kind is written by one statement for many
rows, because SQLite's thread releases the interpreter for every statement, and waits until the loop gives it back: with
a statement for each row, that waiting took most of the time of a write.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final, TypeAlias, TypeVar

import attrs

from mdashcore._errors import MdashError, VersionConflict
from mdashcore.storage import check_begin

__all__ = [
    "MAX_INTEGER",
    "Append",
    "BeginLog",
    "Delete",
    "Put",
    "PutWithEntry",
    "Trim",
    "Work",
    "WriteSql",
    "row_of",
    "run_group",
    "with_rows",
]

MAX_INTEGER: Final = 2**63 - 1  # SQLite's largest

MAX_ROWS: Final = 64  # rows of one statement: the cost of a statement is shared, and its parameters are far from 32 766

HAS_UPDATE_FROM: Final = sqlite3.sqlite_version_info >= (3, 33)  # RHEL 8 has 3.26, without it

T = TypeVar("T")

Work: TypeAlias = Callable[[sqlite3.Connection], T]
"""A write: called with the connection in a transaction. May raise an `MdashError` if it has changed nothing."""


class WriteSql:
    """All statements that write, or read for a write. Each finds its rows by a key."""

    VERSION = "SELECT version FROM documents WHERE collection = ? AND key = ?"
    UPDATE = "UPDATE documents SET version = version + 1, body = ? WHERE collection = ? AND key = ? AND version = ?"
    FIRST_VERSION = "SELECT version + 1 FROM deleted"
    INSERT = "INSERT INTO documents (collection, key, version, body) VALUES (?, ?, ?, ?)"
    DELETE = "DELETE FROM documents WHERE collection = ? AND key = ?"
    DELETED = "UPDATE deleted SET version = max(version, ?)"
    LOG = "SELECT id, next FROM logs WHERE name = ?"
    NEW_LOG = "INSERT INTO logs (name, next) VALUES (?, 0)"
    ADVANCE = "UPDATE logs SET next = ? WHERE id = ?"
    TRIM = "DELETE FROM entries WHERE log = ? AND position < ?"

    # With rows of parameters. In the first, the rows are read from the beginning, and each finds its document.
    UPDATE_ROWS = """
        UPDATE documents SET version = documents.version + 1, body = new.column4 FROM (VALUES {rows}) AS new
        WHERE documents.collection = new.column1 AND documents.key = new.column2 AND documents.version = new.column3
    """.strip()
    APPEND_ROWS = "INSERT INTO entries (log, position, time, body) VALUES {rows}"


@attrs.frozen
class Put:
    """Write a document. Returns its version."""

    collection: str
    key: str
    body: bytes
    expected: int | None

    @property
    def previous(self) -> int:
        """The version that the write replaces; 0 for none, or for one that has to be read first."""
        return self.expected if self.expected is not None and 0 < self.expected <= MAX_INTEGER else 0

    def __call__(self, db: sqlite3.Connection) -> int:
        if self.previous and self._update(self.previous, db):
            return self.previous + 1  # the usual case: one statement
        actual = _checked_version(self.collection, self.key, self.expected, db)
        if actual:
            self._update(actual, db)
            return actual + 1
        first: int = db.execute(WriteSql.FIRST_VERSION).fetchall()[0][0]
        db.execute(WriteSql.INSERT, (self.collection, self.key, first, self.body))
        return first

    def _update(self, version: int, db: sqlite3.Connection) -> bool:
        return db.execute(WriteSql.UPDATE, (self.body, self.collection, self.key, version)).rowcount == 1


@attrs.frozen
class Delete:
    """Remove a document. Returns whether there was one."""

    collection: str
    key: str
    expected: int | None

    def __call__(self, db: sqlite3.Connection) -> bool:
        actual = _checked_version(self.collection, self.key, self.expected, db)
        if not actual:
            return False
        db.execute(WriteSql.DELETE, (self.collection, self.key))
        db.execute(WriteSql.DELETED, (actual,))
        return True


@attrs.frozen
class Append:
    """Add entries to a log. Returns the offset of the first."""

    log: str
    time: float
    bodies: Sequence[bytes]

    def __call__(self, db: sqlite3.Connection) -> int:
        number, first = _find_or_begin(self.log, db)
        _insert_entries([(number, first + n, self.time, body) for n, body in enumerate(self.bodies)], db)
        db.execute(WriteSql.ADVANCE, (first + len(self.bodies), number))
        return first


@attrs.frozen
class PutWithEntry:
    """Write a document and a log entry, both or neither. Returns the version and the offset."""

    put: Put
    append: Append

    def __call__(self, db: sqlite3.Connection) -> tuple[int, int]:
        return self.put(db), self.append(db)  # a conflict is raised before anything is changed


@attrs.frozen
class BeginLog:
    """Empty a log, and let it continue at an offset."""

    log: str
    offset: int

    def __call__(self, db: sqlite3.Connection) -> None:
        found = row_of(WriteSql.LOG, (self.log,), db)
        check_begin(self.offset, 0 if found is None else found[1])
        number = db.execute(WriteSql.NEW_LOG, (self.log,)).lastrowid if found is None else found[0]
        db.execute(WriteSql.TRIM, (number, self.offset))
        db.execute(WriteSql.ADVANCE, (self.offset, number))


@attrs.frozen
class Trim:
    """Remove old entries of a log."""

    log: str
    keep: int
    before: int

    def __call__(self, db: sqlite3.Connection) -> None:
        found = row_of(WriteSql.LOG, (self.log,), db)
        if found is not None:
            number, end = found
            db.execute(WriteSql.TRIM, (number, min(end - self.keep, self.before)))


def run_group(group: Sequence[Work[Any]], db: sqlite3.Connection) -> list[Any]:
    """Run writes in one transaction. Returns the result of each, or the `MdashError` that it has raised."""
    db.execute("BEGIN IMMEDIATE")
    try:
        results = _run_together(group, db)
    except _OtherVersion:  # of one document at least: single statements show which
        db.execute("ROLLBACK")
        db.execute("BEGIN IMMEDIATE")
        results = [_run_alone(work, db) for work in group]
    db.execute("COMMIT")
    return results


class _OtherVersion(Exception):
    """A document of a batch has another version than its write expects, or is missing."""


def _run_alone(work: Work[Any], db: sqlite3.Connection) -> Any:
    try:
        return work(db)
    except MdashError as exc:
        return exc


def _run_together(group: Sequence[Work[Any]], db: sqlite3.Connection) -> list[Any]:
    """Run writes in their order. Those between two that need statements of their own are one batch.

    Raises:
        _OtherVersion: the transaction has to be rolled back.
    """
    results: list[Any] = []
    batch = _GroupedWrites()
    for work in group:
        if not batch.accepts(work):
            results += batch.run(db)
            batch = _GroupedWrites()
        if not batch.accepts(work):
            results.append(_run_alone(work, db))
        else:
            batch.add(work)
    return results + batch.run(db)


class _GroupedWrites:
    """Updates of documents and entries of logs, which are written together."""

    def __init__(self) -> None:
        self._works: list[Work[Any]] = []
        self._puts: dict[tuple[str, str], Put] = {}

    def accepts(self, work: Work[Any]) -> bool:
        """Return whether a write can be added: it makes no new document, and writes none for the second time."""
        put = work if type(work) is Put else work.put if type(work) is PutWithEntry else None
        if put is None:
            return type(work) is Append
        return HAS_UPDATE_FROM and put.previous > 0 and (put.collection, put.key) not in self._puts

    def add(self, work: Work[Any]) -> None:
        self._works.append(work)
        put = work if type(work) is Put else work.put if type(work) is PutWithEntry else None
        if put is not None:
            self._puts[put.collection, put.key] = put

    def run(self, db: sqlite3.Connection) -> list[Any]:
        """Write the batch. Returns the result of each write. Raises `_OtherVersion`."""
        if len(self._works) == 1:
            return [_run_alone(self._works[0], db)]
        updated = 0
        for rows in _pieces([(put.collection, put.key, put.previous, put.body) for put in self._puts.values()]):
            updated += _execute_rows(WriteSql.UPDATE_ROWS, rows, db).rowcount
        if updated != len(self._puts):
            raise _OtherVersion
        offsets = self._append(db)
        results: list[Any] = []
        for work in self._works:
            if isinstance(work, Append):
                results.append(next(offsets))
            elif isinstance(work, PutWithEntry):
                results.append((work.put.previous + 1, next(offsets)))
            elif isinstance(work, Put):
                results.append(work.previous + 1)
        return results

    def _append(self, db: sqlite3.Connection) -> Iterator[int]:
        """Append all entries, in the order of the writes. Returns the offset of the first of each write."""
        logs: dict[str, list[int]] = {}
        """Number and end of each log."""
        rows: list[tuple[int, int, float, bytes]] = []
        offsets: list[int] = []
        for work in self._works:
            append = work if isinstance(work, Append) else work.append if isinstance(work, PutWithEntry) else None
            if append is None:
                continue
            log = logs.get(append.log)
            if log is None:
                log = logs[append.log] = [*_find_or_begin(append.log, db)]
            number, first = log
            offsets.append(first)
            rows += [(number, first + n, append.time, body) for n, body in enumerate(append.bodies)]
            log[1] = first + len(append.bodies)
        _insert_entries(rows, db)
        for number, end in logs.values():
            db.execute(WriteSql.ADVANCE, (end, number))
        return iter(offsets)


def _insert_entries(rows: Sequence[tuple[int, int, float, bytes]], db: sqlite3.Connection) -> None:
    for piece in _pieces(rows):
        _execute_rows(WriteSql.APPEND_ROWS, piece, db)


def _pieces(rows: Sequence[tuple[Any, ...]]) -> Iterator[Sequence[tuple[Any, ...]]]:
    """Yield the rows in pieces whose sizes are powers of two: so there are few statements, which stay prepared."""
    start = 0
    while start < len(rows):
        size = min(MAX_ROWS, 1 << (len(rows) - start).bit_length() - 1)
        yield rows[start : start + size]
        start += size


def _execute_rows(statement: str, rows: Sequence[tuple[Any, ...]], db: sqlite3.Connection) -> sqlite3.Cursor:
    return db.execute(with_rows(statement, len(rows)), [value for row in rows for value in row])


@lru_cache(maxsize=16)  # two statements, with each power of two up to MAX_ROWS
def with_rows(statement: str, rows: int) -> str:
    """Return a statement with places for that many rows."""
    return statement.format(rows=", ".join(["(?, ?, ?, ?)"] * rows))


def _find_or_begin(log: str, db: sqlite3.Connection) -> tuple[int, int]:
    """Return the number of a log, and the offset of its next entry."""
    found = row_of(WriteSql.LOG, (log,), db)
    if found is not None:
        return found[0], found[1]
    number = db.execute(WriteSql.NEW_LOG, (log,)).lastrowid
    assert number is not None  # noqa: S101 - for the type checker: a row was inserted
    return number, 0


def _checked_version(collection: str, key: str, expected: int | None, db: sqlite3.Connection) -> int:
    """Return the present version, 0 for none. Raises `VersionConflict` if it is not the expected one."""
    found = row_of(WriteSql.VERSION, (collection, key), db)
    actual = 0 if found is None else found[0]
    if expected not in (None, actual):
        raise VersionConflict(collection, key, expected=expected or 0, actual=actual)
    return actual


def row_of(statement: str, values: Sequence[object], db: sqlite3.Connection) -> tuple[Any, ...] | None:
    """Return the row of a statement that gives one or none."""
    rows = db.execute(statement, values).fetchall()  # to the end: an unfinished statement holds its snapshot
    return rows[0] if rows else None
