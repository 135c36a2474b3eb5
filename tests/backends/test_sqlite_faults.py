"""The SQLite backend when something goes wrong: old and foreign databases, damage, full disks, sudden death."""

from __future__ import annotations

import itertools
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, closing, contextmanager
from pathlib import Path

import anyio
import pytest
import trio

from mdash_backends import _sqlite_schema
from mdashcore._errors import StorageError
from mdashcore.storage import Backend, Document, LogEntry, open_backend

LOOPS = pytest.mark.parametrize("loop", ["trio", "asyncio"])


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
    with closing(sqlite3.connect(folder / "mdash.db", isolation_level=None)) as db:
        yield db


async def contents(folder: Path) -> tuple[dict[str, Document], dict[str, list[LogEntry]]]:
    """The documents of the collection "things", and the logs "a" to "d", as far as there is something in them."""
    async with opened(folder) as backend:
        documents = {document.key: document async for document in backend.documents.scan("things")}
        logs = {name: list(await backend.logs.read(name, 0, 10**9)) for name in "abcd"}
        return documents, {name: entries for name, entries in logs.items() if entries}


# --- schema


@on_both_loops
async def test_an_older_schema_is_migrated(folder: Path) -> None:
    """A database of an older version is brought to today's, step by step, and keeps what is in it."""
    async with opened(folder) as backend:
        await backend.documents.put("things", "k", b"1")
    with pytest.MonkeyPatch.context() as patch:
        added = (
            ("ALTER TABLE documents ADD COLUMN note TEXT", "UPDATE documents SET note = 'old'"),
            ("CREATE INDEX documents_note ON documents (note)",),
        )
        patch.setattr(_sqlite_schema, "MIGRATIONS", (*_sqlite_schema.MIGRATIONS, *added))
        for _ in range(2):  # the second time there is nothing to do
            async with opened(folder) as backend:
                assert await backend.documents.get("things", "k") == Document("k", 1, b"1")
        with shell(folder) as db:
            assert db.execute("PRAGMA user_version").fetchall() == [(3,)]
            assert db.execute("SELECT note FROM documents").fetchall() == [("old",)]
    with pytest.raises(StorageError, match=r"mdash\.db: .* schema version 3, .* none after 1: a newer mdash"):
        async with opened(folder):
            pass


@on_both_loops
async def test_a_migration_is_whole(folder: Path) -> None:
    """A step that fails leaves the database as it was before that step, for the program that knew it."""
    async with opened(folder) as backend:
        await backend.documents.put("things", "k", b"1")
    with pytest.MonkeyPatch.context() as patch:
        broken = ("DELETE FROM documents", "no SQL at all")
        patch.setattr(_sqlite_schema, "MIGRATIONS", (*_sqlite_schema.MIGRATIONS, broken))
        with pytest.raises(StorageError, match=r"mdash\.db: .*syntax error"):
            async with opened(folder):
                pass
    async with opened(folder) as backend:
        assert await backend.documents.get("things", "k") == Document("k", 1, b"1")


@on_both_loops
async def test_database_of_another_program(folder: Path) -> None:
    """A database that is not ours is refused and left alone."""
    for statement in ("CREATE TABLE documents (a)", "PRAGMA user_version = 1"):
        with shell(folder) as db:
            db.execute(statement)
        before = (folder / "mdash.db").read_bytes()
        with pytest.raises(StorageError, match=r"mdash\.db: this is a database of another program"):
            async with opened(folder):
                pass
        assert (folder / "mdash.db").read_bytes() == before
        (folder / "mdash.db").unlink()


# --- damage


@on_both_loops
async def test_what_is_no_database(folder: Path) -> None:
    """A file that is not SQLite's is an error that names it; it is not overwritten, and nothing is left open."""
    (folder / "mdash.db").write_bytes(b"garbage" * 1000)
    for _ in range(2):
        with pytest.raises(StorageError, match=f"^{folder}/mdash.db is damaged: ") as caught:
            async with opened(folder):
                pass
        assert isinstance(caught.value.__cause__, sqlite3.DatabaseError)
    assert (folder / "mdash.db").read_bytes() == b"garbage" * 1000


@on_both_loops
async def test_damaged_pages(folder: Path) -> None:
    """What a damaged page concerns is an error that names the file; what it does not concern goes on."""
    async with opened(folder) as backend:
        for n in range(200):
            await backend.documents.put("things", f"{n:03}", b'"%b"' % (b"x" * 1000))
    size = (folder / "mdash.db").stat().st_size
    with (folder / "mdash.db").open("r+b") as file:
        file.seek(size - 20 * 4096)
        file.write(b"\xff" * 10 * 4096)
    failed = []
    async with opened(folder) as backend:
        for n in range(200):
            try:
                found = await backend.documents.get("things", f"{n:03}")
                assert found is not None
                assert len(found.body) == 1002
            except StorageError as exc:
                failed.append(str(exc))
        with pytest.raises(StorageError, match="is damaged"):
            assert [document async for document in backend.documents.scan("things")]
        assert await backend.documents.put("others", "k", b"1")
    assert 20 <= len(failed) <= 100
    assert {text.partition(":")[0] for text in failed} == {f"{folder}/mdash.db is damaged"}


@on_both_loops
async def test_a_truncated_database(folder: Path) -> None:
    """A file that is shorter than it says is damaged."""
    async with opened(folder) as backend:
        for n in range(100):
            await backend.documents.put("things", f"{n}", b'"%b"' % (b"x" * 1000))
    os.truncate(folder / "mdash.db", 5 * 4096)
    with pytest.raises(StorageError, match=f"^{folder}/mdash.db is damaged: "):
        async with opened(folder):
            pass


# --- faults


@LOOPS
def test_disk_full(loop: str, small_disk: Path) -> None:
    """On a full disk writes fail and reads go on; nothing acknowledged is lost, and with room writes work again."""
    folder = small_disk / "store"
    ballast = small_disk / "ballast"
    body = b'"%b"' % (b"x" * 5000)
    acknowledged: dict[str, int] = {}
    errors: list[StorageError] = []

    async def write(backend: Backend, writer: int, count: int) -> None:
        for n in range(count):
            try:
                acknowledged[f"{writer}-{n}"] = await backend.documents.put("things", f"{writer}-{n}", body)
            except StorageError as exc:
                errors.append(exc)
                return

    async def main() -> None:
        ballast.write_bytes(b"x" * 2**20)
        async with opened(folder) as backend:
            async with anyio.create_task_group() as tasks:
                for writer in range(8):
                    tasks.start_soon(write, backend, writer, 100)
            assert len(errors) == 8
            assert all(str(error).startswith(f"{folder}/mdash.db: ") for error in errors)
            assert all(isinstance(error.__cause__, sqlite3.OperationalError) for error in errors)
            found = {document.key: document.version async for document in backend.documents.scan("things")}
            assert found == acknowledged
            assert len(found) > 20
            ballast.unlink()
            await write(backend, 9, 20)
            assert len(errors) == 8
        documents, _ = await contents(folder)
        assert {document.key: document.version for document in documents.values()} == acknowledged
        assert {document.body for document in documents.values()} == {body}

    anyio.run(main, backend=loop)


LIMITED = """
import resource, sys, trio
from mdashcore._errors import StorageError
from mdashcore.storage import open_backend

async def main():
    async with open_backend(sys.argv[1]) as backend:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, hard))
        stored = 0
        try:
            while True:
                await backend.documents.put("things", str(stored), b'"' + b"x" * 5000 + b'"')
                stored += 1
        except StorageError as exc:
            print(type(exc.__cause__).__name__)
        assert stored > 10
        assert await backend.documents.get("things", str(stored)) is None
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert await backend.documents.put("things", str(stored), b"1") == 1
        print(stored + 1)

trio.run(main)
"""


def test_no_more_room_in_a_file(tmp_path: Path) -> None:
    """The same, where it is not the disk that is full, but a file that may not grow."""
    folder = tmp_path / "store"
    child = subprocess.run(
        [sys.executable, "-c", LIMITED, f"sqlite://{folder}"], capture_output=True, text=True, check=False
    )
    assert (child.returncode, child.stderr) == (0, "")
    error, stored = child.stdout.split()
    assert error == "OperationalError"
    documents, _ = trio.run(contents, folder)
    assert documents.keys() == {f"{n}" for n in range(int(stored))}


WRITER = """
import os, sys, trio
from mdashcore.storage import open_backend

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

async def update(backend, key):
    found = await backend.documents.get("things", key)
    version = 0 if found is None else found.version
    while True:
        body = b'"%d %s"' % (version + 1, b"x" * 1000)
        version = await backend.documents.put("things", key, body, expected=version)
        say("document", key, version)

async def append(backend, log):
    while True:
        end = await backend.logs.end(log)
        say("log", log, await backend.logs.append(log, 1.0, [b"%d" % end, b"%d" % (end + 1)]))

async def main():
    async with open_backend(sys.argv[1]) as backend, trio.open_nursery() as nursery:
        for n in range(8):
            nursery.start_soon(update, backend, f"k{n}")
        for log in "abcd":
            nursery.start_soon(append, backend, log)

trio.run(main)
"""


@pytest.mark.parametrize("rounds", [3, pytest.param(100, marks=pytest.mark.proof)])
def test_killed_in_the_middle(tmp_path: Path, rounds: int) -> None:
    """After kill -9, again and again, every acknowledged write is there, and none by half."""
    folder = tmp_path / "store"
    moments = random.Random(7)
    for _ in range(rounds):
        said: list[bytes] = []
        with subprocess.Popen([sys.executable, "-c", WRITER, f"sqlite://{folder}"], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            said += itertools.islice(child.stdout, moments.randint(1, 400))
            child.kill()
            said += child.stdout
        documents, logs = trio.run(contents, folder)
        for line in said:
            kind, name, number = line.decode().split()
            if kind == "document":
                assert documents[name].version >= int(number), line
            else:
                assert len(logs[name]) >= int(number) + 2, line
        for document in documents.values():
            assert document.body == b'"%d %b"' % (document.version, b"x" * 1000)
        for entries in logs.values():
            assert len(entries) % 2 == 0
            assert entries == [LogEntry(n, 1.0, b"%d" % n) for n in range(len(entries))]
