"""What the filesystem backend makes of crashes, power cuts, failing and full disks, and of damaged files."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from mdash_backends.filesystem import open_filesystem
from mdashcore._errors import Damaged, StorageError, VersionConflict
from mdashcore.storage import Backend, Document, LogEntry

PATIENCE = 20  # seconds for a test: what hangs fails
LOG = Path("logs/l.log/0000000000000000.jsonl")
BOTH_LOOPS = pytest.mark.parametrize("loop", ["trio", "asyncio"])


def run(loop: str, scenario: Callable[..., Awaitable[None]], *args: Any) -> None:
    async def main() -> None:
        with anyio.fail_after(PATIENCE):
            await scenario(*args)

    anyio.run(main, backend=loop)


def store(folder: Path) -> AbstractAsyncContextManager[Backend]:
    return open_filesystem(f"file://{folder}")


def with_store(folder: Path, scenario: Callable[[Backend], Awaitable[None]]) -> None:
    """Run a scenario on a store that is opened for it."""

    async def opened() -> None:
        async with store(folder) as backend:
            await scenario(backend)

    run("trio", opened)


async def chunks(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


# --- on disk before the answer


class Disk:
    """Watches what the backend asks of the operating system, and can make it wait or fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, str]] = []
        self.renamed = threading.Semaphore(0)
        self.fail: Callable[[str], None] = lambda path: None
        fsync, rename = os.fsync, os.rename

        def watched_fsync(descriptor: int) -> None:
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            self.fail(path)
            fsync(descriptor)
            self.calls.append(("fsync", path))

        def watched_rename(source: str, target: str) -> None:
            rename(source, target)
            self.calls.append(("rename", target))
            self.renamed.release()

        monkeypatch.setattr(os, "fsync", watched_fsync)
        monkeypatch.setattr(os, "rename", watched_rename)

    def count(self, path: Path) -> int:
        return self.calls.count(("fsync", str(path)))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


class Gate:
    """Holds the first fsync of a path, or of what is below it, until it is opened."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._reached = threading.Event()
        self._open = threading.Event()

    def __call__(self, path: str) -> None:
        if path.startswith(self._path) and not self._reached.is_set():
            self._reached.set()
            assert self._open.wait(PATIENCE)

    async def reached(self) -> None:
        assert await anyio.to_thread.run_sync(self._reached.wait, PATIENCE)

    def open(self) -> None:
        self._open.set()


def test_a_write_is_on_disk_before_the_answer(disk: Disk, tmp_path: Path) -> None:
    """Bytes first, then the name, then the folder that holds it, and those folders that are new; then the answer."""
    c = tmp_path / "documents" / "c"
    ota, log = tmp_path / "blobs" / "a", tmp_path / "logs" / "l.log"

    async def scenario() -> None:
        async with store(tmp_path) as backend:
            await backend.documents.put("c", "first", b"1")  # reserves versions
            disk.calls.clear()
            await backend.documents.put("c", "a/k", b"1")
            (_, temporary), *rest = disk.calls
            assert temporary.startswith(str(tmp_path / ".tmp"))
            assert rest == [("fsync", str(c)), ("rename", str(c / "a/k.json")), ("fsync", str(c / "a"))]
            disk.calls.clear()
            await backend.documents.delete("c", "a/k")
            assert disk.calls == [("fsync", str(c / "a"))]
            disk.calls.clear()
            await backend.blobs.put("a/b", chunks(b"1"))
            assert disk.calls[1:] == [
                ("fsync", str(tmp_path / "blobs")), ("rename", str(ota / "b.blob")), ("fsync", str(ota))
            ]  # fmt: skip
            disk.calls.clear()
            await backend.logs.append("l", 1.0, [b"1"])
            assert disk.calls[-5:-3] == [("fsync", str(log / "0000000000000000.jsonl")), ("fsync", str(log))]
            assert disk.calls[-2:] == [("rename", str(log / "log.json")), ("fsync", str(log))]
            disk.calls.clear()
            await backend.logs.append("l", 1.0, [b"1"])
            assert disk.calls == [("fsync", str(log / "0000000000000000.jsonl"))]
            disk.calls.clear()
            await backend.logs.trim("l", 1)
            assert disk.calls[1:] == [("rename", str(log / "log.json")), ("fsync", str(log))]

    run("trio", scenario)


def test_what_a_process_that_died_has_written(disk: Disk, tmp_path: Path) -> None:
    """The end of a log that is found at the start is on disk before it is read or appended to."""
    write_log(tmp_path, SINGLE)

    async def scenario(backend: Backend) -> None:
        disk.calls.clear()
        assert await backend.logs.end("l") == 3
        assert disk.calls == [("fsync", str(tmp_path / LOG)), ("fsync", str(tmp_path / LOG.parent))]

    with_store(tmp_path, scenario)


@BOTH_LOOPS
def test_a_folder_is_synced_for_many(disk: Disk, tmp_path: Path, loop: str) -> None:
    """Of 32 documents written at the same time, the first has its folder synced, and the others share one more."""
    folder = tmp_path / "documents" / "c"

    async def scenario() -> None:
        async with store(tmp_path) as backend:
            await backend.documents.put("c", "before", b"1")
            disk.calls.clear()
            disk.renamed = threading.Semaphore(0)
            disk.fail = gate = Gate(folder)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(backend.documents.put, "c", "k0", b"1")
                await gate.reached()
                for n in range(1, 32):
                    tasks.start_soon(backend.documents.put, "c", f"k{n}", b"1")
                for _ in range(32):
                    assert await anyio.to_thread.run_sync(lambda: disk.renamed.acquire(timeout=PATIENCE))
                await anyio.wait_all_tasks_blocked()
                gate.open()
            shared = disk.count(folder)
            assert shared in (2, 3), "one more where a thread was slow to tell of its rename"
            assert len([call for call in disk.calls if call[0] == "fsync"]) == 32 + shared

    run(loop, scenario)


@BOTH_LOOPS
def test_appends_share_an_fsync(disk: Disk, tmp_path: Path, loop: str) -> None:
    """Appends that come while one is being written are written together."""
    path = tmp_path / LOG

    async def scenario() -> None:
        async with store(tmp_path) as backend:
            await backend.logs.append("l", 1.0, [b"0"])
            disk.calls.clear()
            disk.fail = gate = Gate(path)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(backend.logs.append, "l", 1.0, [b"1"])
                await gate.reached()
                for n in range(31):
                    tasks.start_soon(backend.logs.append, "l", 1.0, [b"%d" % n])
                await anyio.wait_all_tasks_blocked()
                assert await backend.logs.end("l") == 1  # what is not on disk is not there yet
                gate.open()
            assert await backend.logs.end("l") == 33
            assert disk.count(path) == 2

    run(loop, scenario)


@BOTH_LOOPS
def test_no_reader_gets_what_is_not_on_disk(disk: Disk, tmp_path: Path, loop: str) -> None:
    """A reader of a document whose new name a power cut could still take away waits with its writer."""
    order: list[str] = []

    async def scenario() -> None:
        async with store(tmp_path) as backend:
            await backend.documents.put("c", "k", b"1")
            disk.fail = gate = Gate(tmp_path / "documents" / "c")

            async def write() -> None:
                await backend.documents.put("c", "k", b"2")
                order.append("written")

            async def read() -> None:
                found = await backend.documents.get("c", "k")
                assert found is not None
                assert found.body == b"2"
                order.append("read")

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(write)
                await gate.reached()
                tasks.start_soon(read)
                await anyio.wait_all_tasks_blocked()
                assert order == []
                gate.open()
            assert order == ["written", "read"]

    run(loop, scenario)


def test_a_disk_that_fails(disk: Disk, tmp_path: Path) -> None:
    """A write whose fsync fails is not acknowledged; what was there stays, and the next write goes on."""

    async def scenario() -> None:
        async with store(tmp_path) as backend:
            version = await backend.documents.put("c", "k", b"1")
            await backend.logs.append("l", 1.0, [b"0"])
            await backend.blobs.put("b", chunks(b"old"))
            size = os.stat(tmp_path / LOG).st_size

            def fail(path: str) -> None:
                raise OSError(5, "Input/output error")

            disk.fail = fail
            for verb in (
                backend.documents.put("c", "k", b"2"),
                backend.documents.put("c", "new", b"2"),
                backend.logs.append("l", 1.0, [b"1", b"2"]),
                backend.logs.append("new", 1.0, [b"1"]),
                backend.logs.trim("l", 0),
                backend.blobs.put("b", chunks(b"new")),
            ):
                with pytest.raises(StorageError, match="Input/output error") as caught:
                    await verb
                assert str(tmp_path) in str(caught.value)
                assert isinstance(caught.value.__cause__, OSError)
            assert os.stat(tmp_path / LOG).st_size == size
            disk.fail = lambda path: None
            assert await backend.documents.get("c", "k") == Document("k", version, b"1")
            assert await backend.documents.get("c", "new") is None
            assert await backend.blobs.read("b", 0, 10) == b"old"
            assert await backend.logs.append("l", 2.0, [b"3"]) == 1
            assert await backend.logs.append("new", 2.0, [b"4"]) == 0
        async with store(tmp_path) as backend:
            assert list(await backend.logs.read("l", 0, 9)) == [LogEntry(0, 1.0, b"0"), LogEntry(1, 2.0, b"3")]
            assert list(await backend.logs.read("new", 0, 9)) == [LogEntry(0, 2.0, b"4")]
        assert list((tmp_path / ".tmp").iterdir()) == []

    run("trio", scenario)


def test_a_disk_that_fails_twice(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of a failed append that could not be removed immediately is never read as an entry."""

    async def scenario() -> None:
        async with store(tmp_path) as backend:
            await backend.logs.append("l", 1.0, [b"0"])

            def fail(*_: object) -> None:
                raise OSError(5, "Input/output error")

            with monkeypatch.context() as patch:
                disk.fail = fail
                patch.setattr(os, "truncate", fail)
                ftruncate = os.ftruncate
                patch.setattr(os, "ftruncate", lambda fd, size: None if os.fstat(fd).st_size == size else fail())
                with pytest.raises(StorageError, match="Input/output error"):
                    await backend.logs.append("l", 1.0, [b"1", b"2"])
                patch.setattr(os, "ftruncate", ftruncate)
                disk.fail = lambda path: None
            assert len((tmp_path / LOG).read_bytes().splitlines()) == 3
            assert len(await backend.logs.read("l", 0, 9)) == 1
            assert await backend.logs.append("l", 2.0, [b"3"]) == 1
        async with store(tmp_path) as backend:
            assert [entry.body for entry in await backend.logs.read("l", 0, 9)] == [b"0", b"3"]

    run("trio", scenario)


def test_a_folder_that_cannot_be_synced(disk: Disk, tmp_path: Path) -> None:
    """All writers that share the fsync of a folder get its error; a later writer has a new one."""
    folder = tmp_path / "documents" / "c"
    failures: list[str] = []

    async def scenario() -> None:
        async with store(tmp_path) as backend:
            await backend.documents.put("c", "k", b"1")
            broken = True

            def fail(path: str) -> None:
                if path == str(folder) and broken:
                    raise OSError(5, "Input/output error")

            async def write(n: int) -> None:
                try:
                    await backend.documents.put("c", f"k{n}", b"1")
                except StorageError as exc:
                    failures.append(str(exc))

            disk.fail = fail
            async with anyio.create_task_group() as tasks:
                for n in range(8):
                    tasks.start_soon(write, n)
            assert failures == [f"{folder}: Input/output error"] * 8
            broken = False
            await backend.documents.put("c", "k", b"2")

    run("trio", scenario)


# --- cancellation


def test_asyncios_own_cancellation(disk: Disk, tmp_path: Path) -> None:
    """A task that asyncio cancels in the middle of a write keeps others off until the write is done."""

    async def scenario() -> None:
        async with store(tmp_path) as backend:
            await backend.documents.put("c", "first", b"0")
            disk.fail = gate = Gate(tmp_path / ".tmp")
            cancelled = asyncio.ensure_future(backend.documents.put("c", "k", b"1", expected=0))
            await gate.reached()
            cancelled.cancel()
            second = asyncio.ensure_future(backend.documents.put("c", "k", b"2", expected=0))
            await anyio.wait_all_tasks_blocked()
            assert not cancelled.done()
            assert not second.done()
            cancelled.cancel()  # a person who presses Ctrl-C twice
            await anyio.wait_all_tasks_blocked()
            gate.open()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            with pytest.raises(VersionConflict):
                await second
            found = await backend.documents.get("c", "k")
            assert found is not None
            assert found.body == b"1"

    run("asyncio", scenario)


@BOTH_LOOPS
def test_cancelled_appends(disk: Disk, tmp_path: Path, loop: str) -> None:
    """An append that is cancelled while it waits has not happened; one that is being written has happened."""
    path = tmp_path / LOG

    async def scenario() -> None:
        async with store(tmp_path) as backend:
            await backend.logs.append("l", 1.0, [b"0"])
            disk.fail = gate = Gate(path)
            scopes = {body: anyio.CancelScope() for body in (b"1", b"2", b"3")}

            async def append(body: bytes) -> None:
                with scopes[body]:
                    await backend.logs.append("l", 1.0, [body])

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(append, b"1")
                await gate.reached()
                for body in (b"2", b"3"):
                    tasks.start_soon(append, body)
                    await anyio.wait_all_tasks_blocked()
                for body in (b"1", b"2"):
                    scopes[body].cancel()
                await anyio.wait_all_tasks_blocked()
                gate.open()
            assert [entry.body for entry in await backend.logs.read("l", 0, 9)] == [b"0", b"1", b"3"]

    run(loop, scenario)


@BOTH_LOOPS
def test_a_cancelled_append_that_led_others(
    disk: Disk, tmp_path: Path, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the task that was to write for others is cancelled while it waits for a thread, one of them takes over."""
    monkeypatch.setattr("mdash_backends._files.FILE_THREADS", 1)

    async def scenario() -> None:
        async with store(tmp_path) as backend:
            await backend.logs.append("l", 1.0, [b"0"])
            await backend.documents.put("c", "k", b"1")
            disk.fail = gate = Gate(tmp_path / ".tmp")
            scope = anyio.CancelScope()

            async def lead() -> None:
                with scope:
                    await backend.logs.append("l", 1.0, [b"1"])

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(backend.documents.put, "c", "k", b"2")
                await anyio.wait_all_tasks_blocked()
                tasks.start_soon(lead)
                for body in (b"2", b"3"):
                    tasks.start_soon(backend.logs.append, "l", 1.0, [body])
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
                await anyio.wait_all_tasks_blocked()
                gate.open()
            bodies = {entry.body for entry in await backend.logs.read("l", 0, 9)}
            assert bodies - {b"1"} == {b"0", b"2", b"3"}  # trio starts tasks in any order: another may have led it

    run(loop, scenario)


@BOTH_LOOPS
def test_after_the_end(tmp_path: Path, loop: str) -> None:
    """A store whose context has ended answers with an error: its folder may belong to another process by now."""

    async def scenario() -> None:
        async with store(tmp_path) as backend:
            await backend.documents.put("c", "k", b"1")
        for verb in (
            backend.documents.get("c", "k"),
            backend.documents.put("c", "k", b"2"),
            backend.logs.append("l", 1.0, [b"1"]),
            backend.blobs.put("b", chunks(b"1")),
        ):
            with pytest.raises(StorageError, match="closed"):
                await verb

    run(loop, scenario)


# --- torn ends


SINGLE = [b'{"n":0}', b'{"n":1}', b'{"text":"\xc3\xa9"}']


def write_log(folder: Path, *appends: list[bytes]) -> None:
    async def scenario(backend: Backend) -> None:
        for bodies in appends:
            await backend.logs.append("l", 1.0, bodies)

    with_store(folder, scenario)


async def recovered(folder: Path) -> list[bytes]:
    """The entries that the log still has. The next one has to get the next offset, also after another start."""
    async with store(folder) as backend:
        found = await backend.logs.read("l", 0, 99)
        assert await backend.logs.append("l", 2.0, [b"0"]) == len(found)
    async with store(folder) as backend:
        assert [entry.offset for entry in await backend.logs.read("l", 0, 99)] == list(range(len(found) + 1))
    return [entry.body for entry in found]


@pytest.mark.parametrize(
    ("appends", "whole"),
    [([[body] for body in SINGLE], 2), ([SINGLE[:2], SINGLE[1:]], 2), ([SINGLE[:2]], 0)],
    ids=["one entry", "several entries", "the first of all"],
)
def test_a_torn_end(appends: list[list[bytes]], whole: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Wherever a power cut ends the last append, all of it is cut off and reported, and what was before it stays."""
    write_log(tmp_path, *appends)
    path = tmp_path / LOG
    data = path.read_bytes()
    entries = [body for bodies in appends for body in bodies]
    kept = len(b"".join(data.splitlines(keepends=True)[:whole]))

    async def scenario() -> None:
        for length in range(kept + 1, len(data), 1 if len(appends) > 2 else 3):  # each byte once
            path.write_bytes(data[:length])
            if not whole:
                (path.parent / "log.json").write_text(
                    '{"log": "l", "first": 0}'
                )  # it knows of files when they are there
            caplog.clear()
            assert await recovered(tmp_path) == entries[:whole]
            (record,) = caplog.records
            assert (record.name, record.levelno) == ("mdash_backends.filesystem", logging.WARNING)
            assert record.getMessage().startswith(f"{path}: cut off {length - kept} bytes from byte {kept} on")

    run("trio", scenario)


async def end_is_whole(folder: Path, entries: list[bytes]) -> None:
    assert await recovered(folder) == entries


@pytest.mark.parametrize("tail", [b"\0" * 5000, b'{"offset":3,"time":1.0,"body":1}\n\0\0'])
def test_an_end_that_never_got_its_bytes(tail: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """NULs at the end, where a file had grown before its bytes came to the disk, are cut off like a torn line."""
    write_log(tmp_path, *([body] for body in SINGLE))
    with (tmp_path / LOG).open("ab") as file:
        file.write(tail)
    run("trio", end_is_whole, tmp_path, SINGLE + [b"1"] * tail.count(b"body"))
    assert len(caplog.records) == 1


# --- damage


def damage(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "line", "byte", "what"),
    [
        (b'{"n":1}', b'{"n":!}', 2, 39, "invalid character"),
        (b'{"n":1}', b'{"n\xff":1}', 2, 39, "not UTF-8"),
        (b'{"offset":1,', b'{"offset":7,', 2, 39, "offset 7 instead of 1"),
        (b'{"n":0}}\n', b'{"n":0}}', 1, 0, "trailing characters"),
        (b'{"offset":1,', b'\n{"offset":1,', 2, 39, "truncated"),
        (b'{"offset":1,"time":1.0,"body":{"n":1}}\n', b"", 2, 39, "offset 2 instead of 1"),
        (b'"text":', b'"te\0t":', 3, 78, "invalid character"),
        (b'\xa9"}}\n', b'\xa9"}\0\n', 3, 78, "expected ',' or '}'"),
        (b'\xa9"}}\n', b'\xa9"}}\n' + b"\0" * 40 + b"}\n", 4, 123, "invalid character"),
        (b'{"text"', b'{"text', 3, 78, "expected ':'"),
    ],
)
def test_damage_in_a_log(
    tmp_path: Path, old: bytes, new: bytes, line: int, byte: int, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A line that is damaged, missing or too many takes out only itself: its entry is given with the file, the line and
    the reason, and all others as they were. Nothing is cut off, and no offset is given twice."""
    write_log(tmp_path, *([body] for body in SINGLE))
    damage(tmp_path / LOG, old, new)
    data = (tmp_path / LOG).read_bytes()
    offsets: list[int] = []

    async def scenario(backend: Backend) -> None:
        entries = await backend.logs.read("l", 0, 99)
        sound = {entry.offset: entry.body for entry in entries if entry.damage is None}
        assert len(sound) >= len(SINGLE) - 2  # a line break that is lost takes two
        assert all(sound[offset] == SINGLE[offset] for offset in sound if offset < len(SINGLE))
        offsets.append(await backend.logs.append("l", 9.0, [b"9"]))
        assert (await backend.logs.read("l", offsets[-1], 1))[0].body == b"9"
        told = {entry.damage for entry in entries if entry.damage is not None}
        if len(sound) < len(SINGLE):
            words = f"{tmp_path / LOG} is damaged in line {line}, from byte {byte}: "
            assert any(each.startswith(words) and what in each for each in told), told

    with_store(tmp_path, scenario)
    with_store(tmp_path, scenario)  # also after a start
    assert (tmp_path / LOG).read_bytes().startswith(data)
    assert len(SINGLE) <= offsets[0] < offsets[1]


def test_a_digit_of_an_offset_that_flips(tmp_path: Path) -> None:
    """An offset that no line of the file can have is damage: it is not believed."""
    write_log(tmp_path, *([body] for body in SINGLE))
    damage(tmp_path / LOG, b'{"offset":1,', b'{"offset":9000000000000001,')

    async def scenario(backend: Backend) -> None:
        entries = await backend.logs.read("l", 0, 99)
        assert [entry.damage is None for entry in entries] == [True, False, True]
        assert await backend.logs.end("l") == len(SINGLE)

    with_store(tmp_path, scenario)


def test_a_lost_newest_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a log's newest file is missing, or has no whole entry left, that is damage, also for a check; and nothing
    is written: no offset is given twice. What is there is left as it is."""
    monkeypatch.setattr("mdash_backends._log_segments.SEGMENT_BYTES", 30)
    write_log(tmp_path, *([body] for body in SINGLE))
    newest = max((tmp_path / "logs" / "l.log").glob("0*"))
    data = newest.read_bytes()

    def errors() -> set[str]:
        texts: set[str] = set()

        async def use(backend: Backend, *, check: bool) -> None:
            if check:
                assert backend.check is not None
                await backend.check()
            for verb in (backend.logs.end("l"), backend.logs.read("l", 0, 99), backend.logs.append("l", 1.0, [b"1"])):
                with pytest.raises(StorageError) as caught:
                    await verb
                texts.add(str(caught.value))

        with_store(tmp_path, partial(use, check=False))
        with_store(tmp_path, partial(use, check=True))
        return texts

    for left in (b"", data[:-1], b"\0" * 100):
        newest.write_bytes(left)
        assert errors() == {f"{newest} is damaged: it ends after line 0, and there were more"}
        assert newest.read_bytes() == left
    newest.unlink()
    assert errors() == {f"{newest} is missing"}
    newest.write_bytes(data)
    run("trio", end_is_whole, tmp_path, SINGLE)


def test_a_file_of_which_the_header_cannot_know(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new file whose name could not be written down has no entry; the next append goes there, and is kept."""
    monkeypatch.setattr("mdash_backends._log_segments.SEGMENT_BYTES", 30)
    failing = False

    def fail(path: str) -> None:
        if failing and path.startswith(str(tmp_path / ".tmp")):
            raise OSError(5, "Input/output error")

    async def scenario() -> None:
        nonlocal failing
        async with store(tmp_path) as backend:
            await backend.logs.append("l", 1.0, [b"0"])
            failing = True
            with pytest.raises(StorageError, match="Input/output error"):
                await backend.logs.append("l", 1.0, [b"1"])
            assert await backend.logs.end("l") == 1
        failing = False
        await end_is_whole(tmp_path, [b"0"])
        async with store(tmp_path) as backend:
            assert await backend.logs.end("l") == 2

    disk.fail = fail
    run("trio", scenario)


def test_missing_files_of_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a log that is missing is an error that names it; what is missing of one, is given as damaged."""
    monkeypatch.setattr("mdash_backends._log_segments.SEGMENT_BYTES", 30)
    write_log(tmp_path, *([body] for body in SINGLE))
    first, second, third = sorted(path for path in (tmp_path / "logs" / "l.log").glob("0*"))

    def error() -> str:
        texts: list[str] = []

        async def scenario(backend: Backend) -> None:
            try:
                entries = await backend.logs.read("l", 0, 99)
            except StorageError as exc:
                texts.append(str(exc))
            else:
                texts.extend(entry.damage for entry in entries if entry.damage is not None)

        with_store(tmp_path, scenario)
        return texts[0]

    data = second.read_bytes()
    second.write_bytes(b"")
    assert error() == f"{second} is damaged: it ends after line 0, and there were more"
    second.write_bytes(data[:-1])
    assert error() == f"{second} is damaged: it ends after line 0, and there were more"
    second.write_bytes(data)
    first.rename(tmp_path / "elsewhere")
    assert error() == f"{first.parent}: the file with offset 0 is missing"
    (tmp_path / "elsewhere").rename(first)
    header = first.parent / "log.json"
    text = header.read_text()
    header.write_text("{")
    assert error().startswith(f"{header} is damaged: ")
    header.write_text('{"log": "other", "first": 0}')
    assert error() == f"{header} is not where it belongs: it is of the log 'other'"
    header.unlink()
    assert error() == f"{header} is missing"
    header.write_text(text)
    run("trio", end_is_whole, tmp_path, SINGLE)
    assert third.exists()


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        (b'"n": 1', b'"n": !', r"is damaged: invalid character \(byte 55\); it has 63 bytes"),
        (b'"n": 1', b'"n": "\xff"', r"is damaged: not UTF-8 \(byte 56\)"),
        (b'"version": 1', b'"version": 0', "is damaged: "),
        (b'"version": 1', b'"version": "1"', "is damaged: "),
        (b'"body"', b'"corpse"', "is damaged: "),
        (b"  }\n}\n", b"", "is damaged: .*it has 57 bytes"),
        (b'"key": "a/k"', b'"key": "a/l"', "is not where it belongs: it is the document 'a/l'"),
    ],
)
def test_damage_in_a_document(tmp_path: Path, old: bytes, new: bytes, what: str) -> None:
    """A damaged document is an error that names the file and the place, and no end of a scan; it can be replaced."""
    path = tmp_path / "documents" / "c" / "a" / "k.json"

    async def prepare(backend: Backend) -> None:
        await backend.documents.put("c", "a/k", b'{"n":1}')
        await backend.documents.put("c", "a/other", b"3")

    async def scenario(backend: Backend) -> None:
        documents = backend.documents
        for verb in (
            documents.get("c", "a/k"),
            documents.put("c", "a/k", b"2", expected=1),
            documents.put("c", "a/k", b"2", expected=0),
            documents.delete("c", "a/k", expected=1),
        ):
            with pytest.raises(Damaged, match=f"^{path} {what}"):
                await verb
        found = {document.key: document async for document in documents.scan("c")}
        assert (found["a/k"].version, found["a/k"].body) == (0, b"")
        assert re.match(f"{path} {what}", found["a/k"].damage)
        assert (found["a/other"].body, found["a/other"].damage) == (b"3", None)
        version = await documents.put("c", "a/k", b"2")
        assert version > 1
        assert await documents.get("c", "a/k") == Document("a/k", version, b"2")
        damage(path, b'"body"', b'"corpse"')
        assert await documents.delete("c", "a/k")
        assert await documents.put("c", "a/k", b"2", expected=0) > version

    with_store(tmp_path, prepare)
    damage(path, old, new)
    with_store(tmp_path, scenario)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (None, "is missing: without it versions would be given twice"),
        ("{", "is damaged"),
        ('{"format": 1}', "is damaged"),
        ('{"format": 2, "highest_version": 1}', "is of format 2; this program knows format 1"),
    ],
)
def test_damage_in_the_store_file(tmp_path: Path, text: str | None, what: str) -> None:
    """A store is not opened where versions could be given twice, or where it is of another format."""
    path = tmp_path / "store.json"

    async def nothing(backend: Backend) -> None:
        await backend.documents.put("c", "k", b"1")

    with_store(tmp_path, nothing)
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    with pytest.raises(StorageError, match=f"^{path} {what}"):
        with_store(tmp_path, nothing)


def test_damage_in_a_blobs_key(tmp_path: Path) -> None:
    """A blob whose key is lost is an error that names the file."""

    async def put(backend: Backend) -> None:
        await backend.blobs.put("x" * 300, chunks(b"1"))

    async def scan(backend: Backend) -> None:
        with pytest.raises(StorageError, match=f"^{path} is missing"):
            await anext(aiter(backend.blobs.scan()))

    with_store(tmp_path, put)
    (path,) = tmp_path.rglob("*.key")
    path.unlink()
    with_store(tmp_path, scan)


# --- processes that die


@pytest.fixture
def child() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a Python program in a process of its own, which does not outlive the test."""
    children: list[subprocess.Popen[str]] = []

    def start(program: str, *args: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", program, *map(str, args)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        children.append(process)
        return process

    yield start
    for process in children:
        process.kill()
        process.communicate()


WRITER = """
import json, os, sys
import anyio
from mdash_backends.filesystem import open_filesystem

folder, loop, round = sys.argv[1], sys.argv[2], int(sys.argv[3])

def acknowledged(*what):
    os.write(1, json.dumps(what).encode() + b"\\n")  # one call: a line is there, or not

async def document(documents, n):
    for i in range(1_000_000):
        text = json.dumps({"round": round, "i": i, "pad": "x" * 5000, "again": i})
        version = await documents.put("c", f"a/d{n}", text.encode())
        acknowledged("document", n, version, round, i)

async def deleted(documents):
    for i in range(1_000_000):
        version = await documents.put("c", "deleted", b"1")
        acknowledged("deleted", version)
        await documents.delete("c", "deleted")

async def log(logs, n):
    for i in range(1_000_000):
        bodies = [json.dumps([round, n, i, part, "x" * 500]).encode() for part in range(3)]
        acknowledged("log", await logs.append("l", 1.0, bodies), round, n, i)

async def blob(blobs):
    async def source(i):
        for _ in range(20):
            yield b"%07d\\n" % i * 1000
    for i in range(1_000_000):
        await blobs.put(f"b{i % 5}", source(i))
        acknowledged("blob", i % 5, i)

async def main():
    async with open_filesystem(f"file://{folder}") as backend, anyio.create_task_group() as tasks:
        for n in range(4):
            tasks.start_soon(document, backend.documents, n)
            tasks.start_soon(log, backend.logs, n)
        tasks.start_soon(deleted, backend.documents)
        tasks.start_soon(blob, backend.blobs)

anyio.run(main, backend=loop)
"""


@pytest.mark.parametrize("rounds", [3, pytest.param(100, marks=pytest.mark.proof)])
def test_kill_9(tmp_path: Path, child: Callable[..., subprocess.Popen[str]], rounds: int) -> None:
    """Whenever the process is killed, every acknowledged write is there, and none that was begun is half there."""
    chance = random.Random(9)
    documents: dict[int, list[int]] = {}
    entries: dict[int, list[int]] = {}
    highest = 0
    for round in range(rounds):
        process = child(WRITER, tmp_path, ["trio", "asyncio"][round % 2], round)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(chance.randrange(30, 200))]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.read().splitlines()
        assert process.wait() == -signal.SIGKILL
        blobs: dict[int, int] = {}
        for what, *fields in map(json.loads, lines):
            if what == "document":
                documents[fields[0]] = fields[1:]
                highest = max(highest, fields[1])
            elif what == "deleted":
                highest = max(highest, fields[0])
            elif what == "log":
                entries[fields[0]] = fields[1:]
            else:
                blobs[fields[0]] = fields[1]
        assert entries
        assert documents

        async def scenario(backend: Backend, highest: int = highest, blobs: dict[int, int] = blobs) -> None:
            for n, (version, *order) in documents.items():
                document = await backend.documents.get("c", f"a/d{n}")
                assert document is not None
                body = json.loads(document.body)
                assert document.version >= version
                assert [body["round"], body["i"]] >= order
                assert (body["pad"], body["again"]) == ("x" * 5000, body["i"])
            assert await backend.documents.put("c", "deleted", b"1") > highest
            found = await backend.logs.read("l", 0, 10**9)
            bodies = [json.loads(entry.body) for entry in found]
            assert [entry.offset for entry in found] == list(range(len(found)))
            assert await backend.logs.end("l") == len(found)
            for first in range(0, len(found), 3):
                assert bodies[first : first + 3] == [[*bodies[first][:3], part, "x" * 500] for part in range(3)]
            for first, fields in entries.items():
                assert bodies[first][:3] == fields
            for n, i in blobs.items():
                data = await backend.blobs.read(f"b{n}", 0, 10**6)
                assert data == data[:8] * 20_000
                assert int(data[:8]) >= i

        with_store(tmp_path, scenario)
        assert list((tmp_path / ".tmp").iterdir()) == []


HOLDER = """
import sys
import anyio
from mdash_backends.filesystem import open_filesystem

async def main():
    async with open_filesystem(f"file://{sys.argv[1]}") as backend:
        await backend.documents.put("c", "k", b"1")
        print("open", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)

anyio.run(main)
"""


def test_one_process_at_a_time(tmp_path: Path, child: Callable[..., subprocess.Popen[str]]) -> None:
    """A folder that another process serves from is refused, naming that process; its end gives the folder free."""
    process = child(HOLDER, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"

    async def read(backend: Backend) -> None:
        assert await backend.documents.get("c", "k") == Document("k", 1, b"1")

    with pytest.raises(StorageError, match=f"{tmp_path} is in use by process {process.pid} "):
        with_store(tmp_path, read)
    process.kill()
    process.wait()
    with_store(tmp_path, read)


# --- full disks


async def fill_up(backend: Backend, folder: Path, size: int, message: str, make_room: Callable[[], None]) -> None:
    """Write what fits, then what does not, then make room and write that."""
    large = b'"%b"' % (b"x" * size)
    pieces = [b"x" * 2**12] * (size // 2**12 + 1)
    version = await backend.documents.put("c", "k", b"1")
    await backend.logs.append("l", 1.0, [b"0"])
    await backend.blobs.put("b", chunks(b"old"))
    for _ in range(3):
        for verb in (
            backend.documents.put("c", "k", large),
            backend.logs.append("l", 1.0, [large, b"1"]),
            backend.blobs.put("b", chunks(*pieces)),
        ):
            with pytest.raises(StorageError, match=message) as caught:
                await verb
            assert str(folder) in str(caught.value)
            assert isinstance(caught.value.__cause__, OSError)
        assert list((folder / ".tmp").iterdir()) == []
        assert await backend.documents.get("c", "k") == Document("k", version, b"1")
        assert list(await backend.logs.read("l", 0, 9)) == [LogEntry(0, 1.0, b"0")]
        assert await backend.blobs.read("b", 0, 9) == b"old"
    make_room()
    assert await backend.documents.put("c", "k", large, expected=version) > version
    assert await backend.logs.append("l", 2.0, [large, b"1"]) == 1
    assert await backend.blobs.put("b", chunks(*pieces)) == len(pieces) * 2**12


def test_a_full_disk(tmp_path: Path) -> None:
    """A disk without room is a clear error that changes nothing; once there is room, everything goes on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"only root can make a small disk: {mounted.stderr.decode().strip()}")
    try:
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * 420 * 1024)
        folder = disk / "store"

        async def scenario(backend: Backend) -> None:
            await fill_up(backend, folder, 100_000, "No space left on device", ballast.unlink)

        async def again(backend: Backend) -> None:
            assert len(await backend.logs.read("l", 0, 9)) == 3

        with_store(folder, scenario)
        with_store(folder, again)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """The same for a limit on the size of files, which needs no rights to set."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def make_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    async def scenario(backend: Backend) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
        await fill_up(backend, tmp_path, 100_000, "File too large", make_room)

    try:
        with_store(tmp_path, scenario)
    finally:
        make_room()
