"""A store in SQLite for the peers: WAL, every acknowledged write on disk, group commit in a thread."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

__all__ = ["LOG", "SHADOW", "SqliteStore", "open_store"]

Statement = tuple[str, Sequence[object]]

SCHEMA = """
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    CREATE TABLE documents (key TEXT PRIMARY KEY, body BLOB NOT NULL);
    CREATE TABLE log (id INTEGER PRIMARY KEY, time REAL NOT NULL, body BLOB NOT NULL);
"""

SHADOW = "INSERT INTO documents VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET body = excluded.body"
LOG = "INSERT INTO log (time, body) VALUES (?, ?)"


class SqliteStore:
    """One database. All writes that wait while a group is committed are the next group."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.executescript(SCHEMA)
        self._thread = ThreadPoolExecutor(1)
        self._waiting: list[tuple[Sequence[Statement], asyncio.Future[None]]] = []
        self._running: asyncio.Task[None] | None = None

    def write(self, *statements: Statement) -> asyncio.Future[None]:
        """Run statements in one transaction. The future is done when they are on disk."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((statements, done))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return done

    async def _run(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            await asyncio.get_running_loop().run_in_executor(self._thread, self._commit, group)
            for _, done in group:
                if not done.done():
                    done.set_result(None)
        self._running = None

    def _commit(self, group: list[tuple[Sequence[Statement], asyncio.Future[None]]]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        for statements, _ in group:
            for statement, values in statements:
                self._db.execute(statement, values)
        self._db.execute("COMMIT")


def open_store(url: str) -> SqliteStore | None:
    """Open the store of a URL; `None` for ``memory://``."""
    if url == "memory://":
        return None
    folder = Path(url.removeprefix("sqlite://"))
    folder.mkdir(parents=True)
    return SqliteStore(folder / "peer.db")
