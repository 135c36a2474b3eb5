"""The tables of the SQLite backend, and the migration of older databases."""

from __future__ import annotations

import sqlite3
from typing import Final

from mdashcore._errors import StorageError

__all__ = ["APPLICATION_ID", "MIGRATIONS", "prepare"]

APPLICATION_ID: Final = 0x6D444153  # "mDAS": distinguishes our databases from those of other programs

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        # Rows as large as a shadow fill the pages of a WITHOUT ROWID table's tree, and make it deep: measured with
        # 100 000 documents of 2.5 KB, an update takes 1.0 to 1.7 times as long there.
        """
        CREATE TABLE documents (
            collection TEXT NOT NULL,
            key TEXT NOT NULL,
            version INTEGER NOT NULL,
            body BLOB NOT NULL,
            PRIMARY KEY (collection, key)
        )
        """,
        # A document's versions count up from the highest version of any deleted document. So none is ever used again,
        # no tombstones are kept, and an update need not write a counter.
        "CREATE TABLE deleted (version INTEGER NOT NULL)",
        "INSERT INTO deleted VALUES (0)",
        """
        CREATE TABLE logs (
            id INTEGER PRIMARY KEY,
            name TEXT NOT NULL UNIQUE,
            next INTEGER NOT NULL
        )
        """,
        # The entries of a log are small, and lie together: a read and a trim are one range each.
        """
        CREATE TABLE entries (
            log INTEGER NOT NULL,
            position INTEGER NOT NULL,
            time REAL NOT NULL,
            body BLOB NOT NULL,
            PRIMARY KEY (log, position)
        ) WITHOUT ROWID
        """,
    ),
)
"""The statements that lead from one version of the schema to the next: the first from an empty database to version 1.
Statements here are never changed, only followed by others.
"""


def prepare(db: sqlite3.Connection) -> None:
    """Bring a database to today's schema, with one transaction for each version on the way.

    Raises:
        StorageError: it belongs to another program, or its version is unknown.
        sqlite3.Error: it cannot be read or written.
    """
    version = _number(db, "PRAGMA user_version")
    if _number(db, "PRAGMA application_id") != APPLICATION_ID and (
        version or _number(db, "SELECT count(*) FROM sqlite_master")
    ):
        raise StorageError("this is a database of another program")
    if version > len(MIGRATIONS):
        raise StorageError(
            f"the database has schema version {version}, and this program knows none after {len(MIGRATIONS)}: "
            "a newer mdash has used it"
        )
    [mode] = db.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StorageError("there can be no write-ahead log here: is it a network file system?")
    for number, statements in enumerate(MIGRATIONS[version:], start=version + 1):
        db.execute("BEGIN IMMEDIATE")
        for statement in statements:
            db.execute(statement)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {number}")
        db.execute("COMMIT")


def _number(db: sqlite3.Connection, question: str) -> int:
    [number] = db.execute(question).fetchone()
    assert isinstance(number, int)  # noqa: S101 - for the type checker
    return number
