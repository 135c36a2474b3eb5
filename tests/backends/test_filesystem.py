"""The filesystem backend keeps the contract of `mdashcore.storage`, in files that a person can read."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.to_thread
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdash_backends import _file_documents, _file_logs, _log_segments, filesystem
from mdash_backends._blob_files import BlobFiles
from mdash_backends._files import Files
from mdash_backends._key_files import KeyFiles
from mdash_backends.filesystem import VERSION_BLOCK, open_filesystem
from mdashcore._errors import InvalidInput, NotFound
from mdashcore.storage import DURABLE, ORDERED, Backend, Document, open_backend
from mdashcore.testing import BackendSuite, BlobStoreSuite, DocumentStoreSuite, LogStoreSuite, MessageBusSuite
from mdashcore.testing._suite import ODD_KEYS

PATIENCE = 20  # seconds for a test: what hangs fails
Scenario = Callable[[Path], Awaitable[None]]


def on_both_loops(scenario: Scenario) -> Callable[..., None]:
    """A test out of a scenario, which is given a folder of its own."""

    @pytest.mark.parametrize("loop", ["trio", "asyncio"])
    def test(loop: str, tmp_path: Path) -> None:
        run(loop, scenario, tmp_path)

    test.__doc__ = scenario.__doc__
    return test


def run(loop: str, scenario: Callable[..., Awaitable[None]], *args: Any) -> None:
    async def main() -> None:
        with anyio.fail_after(PATIENCE):
            await scenario(*args)

    anyio.run(main, backend=loop)


def store(folder: Path) -> AbstractAsyncContextManager[Backend]:
    return open_filesystem(f"file://{folder}")


def tree(folder: Path, pattern: str = "*") -> dict[str, str]:
    """The files below a folder that match, by their path, and what is in them."""
    files = (path for path in folder.rglob(pattern) if path.is_file())
    return {str(path.relative_to(folder)): path.read_text(errors="replace") for path in files}


def write(folder: Path, files: Iterable[str], text: str) -> None:
    """Write files, and make the folders that they need."""
    for name in files:
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(path).write_text(text)


async def every(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


async def chunks(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


# --- the contract


@pytest.mark.usefixtures("short_queues")
class TestFilesystem(BackendSuite):
    """All four suites."""

    flood = 350  # more than short queues hold
    topics = 200

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path, failing_disk: Any) -> None:
        self.root = tmp_path
        self._failing = failing_disk

    def open(self, name: str) -> AbstractAsyncContextManager[Backend]:
        return open_filesystem(f"file://{self.root}/{name}")

    def failing(self, name: str, backend: Backend) -> AbstractAsyncContextManager[None]:
        return self._failing(name, backend)


class TestSmallSegments(LogStoreSuite):
    """The same for logs whose every append or two begins a file, and of which only one is remembered."""

    loops = ("trio",)

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = tmp_path
        monkeypatch.setattr(_log_segments, "SEGMENT_BYTES", 60)
        monkeypatch.setattr(_file_logs, "KEPT_STATES", 1)

    def open(self, name: str) -> AbstractAsyncContextManager[Backend]:
        return open_filesystem(f"file://{self.root}/{name}")


class TestBlobFilesAlone(BlobStoreSuite):
    """`BlobFiles` in the folder of another backend."""

    loops = ("trio",)

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self.root = tmp_path

    @asynccontextmanager
    async def open(self, name: str) -> AsyncIterator[Backend]:
        blobs = BlobFiles(self.root / name / "blobs")
        await blobs.clean()
        nothing: Any = None
        yield Backend(nothing, nothing, blobs, nothing, frozenset({DURABLE}))


def test_suites_are_whole() -> None:
    """The one class adopts every suite."""
    assert issubclass(TestFilesystem, DocumentStoreSuite | LogStoreSuite | BlobStoreSuite | MessageBusSuite)


@on_both_loops
async def test_found_by_its_url(folder: Path) -> None:
    """`file:///PATH` opens the backend, which promises durability and not sharing; a missing folder is made."""
    async with open_backend(f"file://{folder}/a%20b/c") as backend:
        assert backend.capabilities == {DURABLE, ORDERED}
    assert (folder / "a b" / "c" / "store.json").is_file()


@pytest.mark.parametrize("url", ["file://", "file:///", "file://host/path", "file:///a?b=c", "file:///a%00b"])
def test_urls_that_name_no_folder(url: str) -> None:
    """Anything but an absolute path, or one from here on, is refused."""

    async def scenario() -> None:
        with pytest.raises(InvalidInput, match="file://"):
            async with open_backend(url):
                pytest.fail("it was opened")

    run("trio", scenario)


# --- what a person finds in the folder


@on_both_loops
async def test_files_of_a_small_service(folder: Path) -> None:
    """The folder of a small service, file by file."""
    async with store(folder) as backend:
        await backend.documents.put("accounts", "alice", b'{"admin":true,"since":1700000000.25}')
        shadow = b'{"desired":{"on":true,"big":123456789012345678901234567890},"reported":{},"tags":["a","\xc3\xa9"]}'
        await backend.documents.put("shadows", "alice/Kitchen", shadow)
        await backend.logs.append("notifications/alice", 1700000000.25, [b'{"name":"online"}'])
        await backend.logs.append("notifications/alice", 1700000001.5, [b"1", b"[\n2]"])
        await backend.blobs.put("alice/ota_1", chunks(b"PK", b"..."))
    assert tree(folder) == {
        "lock": "",
        "store.json": '{\n  "format": 1,\n  "highest_version": 2\n}\n',
        "documents/accounts/alice.json": """\
{
  "key": "alice",
  "version": 1,
  "body": {
    "admin": true,
    "since": 1700000000.25
  }
}
""",
        "documents/shadows/alice/+kitchen.json": """\
{
  "key": "alice/Kitchen",
  "version": 2,
  "body": {
    "desired": {
      "on": true,
      "big": 123456789012345678901234567890
    },
    "reported": {},
    "tags": [
      "a",
      "é"
    ]
  }
}
""",
        "logs/notifications/alice.log/log.json": """\
{
  "log": "notifications/alice",
  "first": 0,
  "newest": 0
}
""",
        "logs/notifications/alice.log/0000000000000000.jsonl": """\
{"offset":0,"time":1700000000.25,"body":{"name":"online"}}
{"offset":1,"last":2,"time":1700000001.5,"body":1}
{"offset":2,"last":2,"time":1700000001.5,"text":"[\\n2]"}
""",
        "blobs/alice/ota_1.blob": "PK...",
    }


@on_both_loops
async def test_edited_by_hand(folder: Path) -> None:
    """A document that an operator edits while no server runs is read, in whatever layout."""
    async with store(folder) as backend:
        version = await backend.documents.put("c", "k", b'{"a":1}')
    text = f'{{"body": {{"a" : 1.10,\r\n\t"b": [ ]}}, "key": "k", "version": {version}}}'
    write(folder, ["documents/c/k.json"], text)
    async with store(folder) as backend:
        assert await backend.documents.get("c", "k") == Document("k", version, b'{"a":1.10,"b":[]}')
        assert await backend.documents.put("c", "k", b"2", expected=version) > version


@on_both_loops
async def test_unknown_files_do_not_disturb(folder: Path) -> None:
    """Files and folders of other names, such as editors and people leave, are not looked at and not removed."""
    async with store(folder) as backend:
        await backend.documents.put("c", "a/k", b"1")
        await backend.logs.append("l", 1.0, [b"1"])
        await backend.blobs.put("a/b", chunks(b"1"))
    strays = [
        "README", "documents/c/a/k.json~", "documents/c/a/.k.json.swp", "documents/c/a/k (copy).json",
        "documents/c/a/K.json", "documents/c/a/%zz.json", "documents/c/a/%ff.json", "documents/c/a/\udcff.json",
        "documents/c/a/%4b.json", "documents/c/a/" + "x" * 150 + ".json", "documents/c/A/k.json",
        "documents/c/dir.json/k.json", "documents/c/%long/k.json", "documents/c/1/2/3/4/5/6/7/8/k.json", "logs/x",
        "logs/l.log/notes.txt", "logs/l.log/1.jsonl", "blobs/a/b", "blobs/a/b.blob.part", ".tmp/dir/file",
    ]  # fmt: skip
    write(folder, strays, "not JSON")
    async with store(folder) as backend:
        assert [document.key for document in await every(backend.documents.scan("c"))] == ["a/k"]
        assert len(await backend.logs.read("l", 0, 10)) == 1
        assert await every(backend.blobs.scan()) == ["a/b"]
        assert await backend.documents.put("c", "new", b"1", expected=0)
    assert list(tree(folder).values()).count("not JSON") == len(strays)


@on_both_loops
async def test_leftovers_of_interrupted_writes_are_removed(folder: Path) -> None:
    """What a process that died was writing is gone after the next start."""
    write(folder, [".tmp/1"], "half")
    async with store(folder) as backend:
        assert tree(folder / ".tmp") == {}
        await backend.documents.put("c", "k", b"1")
        assert tree(folder / ".tmp") == {}


# --- keys


@on_both_loops
async def test_odd_keys_stay_inside(folder: Path) -> None:
    """No key leads out of the folder, to a hidden file, or to a name that differs from another's only in its case."""
    root = folder / "store"
    async with store(root) as backend:
        for key in ODD_KEYS:
            await backend.documents.put("c", key, b"1")
            await backend.logs.append(key, 1.0, [b"1"])
            await backend.blobs.put(key, chunks(b"1"))
    names = [name.removeprefix("store/") for name in tree(folder)]
    assert len(names) == len(tree(root))
    names = [name for name in names if name not in ("lock", "store.json") and not name.endswith(".key")]
    assert len(names) == 4 * len(ODD_KEYS)
    assert all(name == name.lower() and name.isascii() and name.isprintable() for name in names)
    assert not any(part.startswith((".", "-")) or len(part) > 143 for name in names for part in name.split("/"))


_ODD_TEXT = st.text(
    st.sampled_from("aAbB.-+%/~ 2eé\u0301ß\0\n\\😀") | st.characters(exclude_categories=["Cs"]), max_size=20
)
_KEYS = _ODD_TEXT | st.sampled_from(
    ["a.json", "a.json/b", "a/.json", "x" * 135, "x" * 136, "é" * 60, "a/" * 7, "a/" * 8]
)


@given(keys=st.sets(_KEYS, max_size=8), prefix=_ODD_TEXT)
def test_every_key_has_a_file_of_its_own(keys: set[str], prefix: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Any texts lead to different files and folders inside the folder, and from the files back to the keys."""
    folder = tmp_path_factory.mktemp("keys")
    files = KeyFiles(Files(folder), str(folder), ".json")
    paths = {files.path(key): key for key in keys}
    assert len({path.casefold() for path in paths}) == len(keys)
    for path in paths:
        assert os.path.normpath(path) == path
        assert path.startswith(f"{folder}/")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(path).touch(exist_ok=False)

    async def scenario() -> None:
        found: dict[str, str | None] = {}
        async for page in files.by_folder(prefix):
            assert not found.keys() & page.keys()
            found |= page
        for path, key in found.items():
            assert key == (None if files.is_hashed(path) else paths[path])
        missing = {key for path, key in paths.items() if path not in found}
        assert not any(key.startswith(prefix) for key in missing)
        assert all(paths[path].startswith(prefix) or files.is_hashed(path) for path in found)

    run("asyncio", scenario)


@on_both_loops
async def test_keys_that_are_no_text(folder: Path) -> None:
    """Half of a surrogate pair is refused, wherever a key is given."""
    async with store(folder) as backend:
        for verb in (
            backend.documents.get("c", "\ud800"),
            backend.documents.put("c", "a/\ud800/b", b"1"),
            backend.documents.delete("c", "\ud800"),
            every(backend.documents.scan("c", "\ud800")),
            backend.logs.append("\ud800", 1.0, [b"1"]),
            backend.blobs.put("\ud800", chunks()),
        ):
            with pytest.raises(InvalidInput, match="surrogate"):
                await verb


@on_both_loops
async def test_texts_that_are_no_json(folder: Path) -> None:
    """A body that is not JSON, or could not be read again, is refused and changes nothing."""
    deep = b"[" * 300 + b"]" * 300
    async with store(folder) as backend:
        version = await backend.documents.put("c", "k", b"1")
        for body in (b"", b"{", b"1 2", b'"\xff"', b"NaN", b'1},"x":{', deep):
            with pytest.raises(InvalidInput, match="JSON"):
                await backend.documents.put("c", "k", body)
            with pytest.raises(InvalidInput, match="JSON"):
                await backend.logs.append("l", 1.0, [b"1", body])
        with pytest.raises(InvalidInput, match="time"):
            await backend.logs.append("l", float("nan"), [b"1"])
        assert await backend.documents.get("c", "k") == Document("k", version, b"1")
        assert await backend.logs.end("l") == 0


# --- versions


@on_both_loops
async def test_versions_go_on_after_a_crash(folder: Path) -> None:
    """Versions that may have been given before a crash are not given again; after a clean end none is left out."""
    async with store(folder) as backend:
        await backend.documents.put("c", "k", b"1")
        last = await backend.documents.put("c", "k", b"2")
        await backend.documents.delete("c", "k")
        crashed = (folder / "store.json").read_bytes()
    async with store(folder) as backend:
        assert await backend.documents.put("c", "k", b"3") == last + 1
    (folder / "store.json").write_bytes(crashed)
    async with store(folder) as backend:
        assert await backend.documents.put("c", "k", b"4") > last + 1


@on_both_loops
async def test_a_document_from_a_newer_copy(folder: Path) -> None:
    """A document of a version that the store never gave (a restored backup, say) gets greater ones all the same."""
    async with store(folder) as backend:
        await backend.documents.put("c", "k", b"1")
    newer = 10 * VERSION_BLOCK
    write(folder, ["documents/c/k.json"], f'{{"key":"k","version":{newer},"body":2}}')
    async with store(folder) as backend:
        assert await backend.documents.put("c", "k", b"3", expected=newer) == newer + 1
        assert await backend.documents.put("c", "other", b"4") == newer + 2


@on_both_loops
async def test_many_versions(folder: Path) -> None:
    """Versions stay apart when concurrent writers use up what was reserved."""
    versions: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filesystem, "VERSION_BLOCK", 10)
        async with store(folder) as backend:

            async def count(n: int) -> None:
                versions.extend([await backend.documents.put("c", f"k{n}", b"1") for _ in range(9)])

            async with anyio.create_task_group() as tasks:
                for n in range(10):
                    tasks.start_soon(count, n)
    assert len(set(versions)) == len(versions)
    assert f'"highest_version": {max(versions)}\n' in (folder / "store.json").read_text()


# --- scans


class Entries(list[os.DirEntry[str]]):
    """What `os.scandir` returns."""

    def __enter__(self) -> Entries:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()


class Listing:
    """Makes the first listing of a folder wait, and leave out what is rewritten meanwhile, as btrfs does."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self._folder = str(folder)
        self._begun, self._end = threading.Event(), threading.Event()
        self._rewritten: set[str] = set()
        self._scandir, self._rename = os.scandir, os.rename
        patch.setattr(os, "scandir", self.scandir)
        patch.setattr(os, "rename", self.rename)

    def scandir(self, path: str) -> Entries:
        with self._scandir(path) as entries:
            found = list(entries)
        if path == self._folder and not self._begun.is_set():
            self._begun.set()
            assert self._end.wait(PATIENCE)
            found = [entry for entry in found if entry.path not in self._rewritten]
        return Entries(found)

    def rename(self, source: str, target: str) -> None:
        if self._begun.is_set():
            self._rewritten.add(target)
        self._rename(source, target)

    async def begun(self) -> None:
        assert await anyio.to_thread.run_sync(self._begun.wait, PATIENCE)

    def end(self) -> None:
        self._end.set()


@on_both_loops
async def test_a_listing_that_misses_what_is_renamed(folder: Path) -> None:
    """A scan gives a document that is rewritten while its folder is listed, though some file systems miss its name."""
    keys: list[str] = []
    async with store(folder) as backend:
        for n in range(3):
            await backend.documents.put("c", f"k{n}", b"1")

        async def scan() -> None:
            keys.extend([document.key async for document in backend.documents.scan("c", "k")])

        with pytest.MonkeyPatch.context() as patch:
            listing = Listing(patch, folder / "documents" / "c")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(scan)
                await listing.begun()
                assert len(await every(backend.documents.scan("c"))) == 3  # another one, which ends before
                for key in ("k1", "k2", "other"):
                    await backend.documents.put("c", key, b"2")
                listing.end()
    assert sorted(keys) == ["k0", "k1", "k2"]


@on_both_loops
async def test_a_listing_that_misses_what_is_being_written(folder: Path) -> None:
    """The same for a document whose writing has begun before the scan."""
    keys: list[str] = []
    ready, go_on = threading.Event(), threading.Event()
    async with store(folder) as backend:
        for n in range(3):
            await backend.documents.put("c", f"k{n}", b"1")

        async def scan() -> None:
            keys.extend([document.key async for document in backend.documents.scan("c")])

        with pytest.MonkeyPatch.context() as patch:
            listing = Listing(patch, folder / "documents" / "c")

            def slow_rename(source: str, target: str) -> None:
                ready.set()
                assert go_on.wait(PATIENCE)
                listing.rename(source, target)

            patch.setattr(os, "rename", slow_rename)
            async with anyio.create_task_group() as scanning:
                async with anyio.create_task_group() as writing:
                    writing.start_soon(backend.documents.put, "c", "k1", b"2")
                    assert await anyio.to_thread.run_sync(ready.wait, PATIENCE)
                    scanning.start_soon(scan)
                    await listing.begun()
                    go_on.set()
                listing.end()
    assert sorted(keys) == ["k0", "k1", "k2"]


@on_both_loops
async def test_a_scan_holds_few_documents(folder: Path) -> None:
    """A scan reads page by page: what is written while it goes on is seen by it."""
    seen: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_file_documents, "SCAN_PAGE", 4)
        async with store(folder) as backend:
            for n in range(12):
                await backend.documents.put("c", f"k{n}", b"1")
            async for document in backend.documents.scan("c"):
                if not seen:
                    for n in range(12):
                        await backend.documents.put("c", f"k{n}", b"2")
                seen.append(document.body)
    assert seen == [b"1"] * 4 + [b"2"] * 8


# --- logs over several files


@on_both_loops
async def test_trimmed_files_are_removed(folder: Path) -> None:
    """Files with nothing but trimmed entries are gone; a trim to nothing removes them all, and offsets go on."""
    log = folder / "logs" / "l.log"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_log_segments, "SEGMENT_BYTES", 90)  # three lines
        async with store(folder) as backend:
            for n in range(10):
                await backend.logs.append("l", 1.0, [b"%d" % n])
            assert sorted(path.name for path in log.glob("*.jsonl")) == [
                f"{start:016}.jsonl" for start in (0, 3, 6, 9)
            ]  # fmt: skip
            await backend.logs.trim("l", 5)
            assert sorted(path.name for path in log.glob("*.jsonl")) == [f"{start:016}.jsonl" for start in (3, 6, 9)]
            assert [entry.offset for entry in await backend.logs.read("l", 0, 99)] == [5, 6, 7, 8, 9]
            await backend.logs.trim("l", 0)
            assert list(log.glob("*.jsonl")) == []
        async with store(folder) as backend:
            assert await backend.logs.end("l") == 10
            assert await backend.logs.append("l", 1.0, [b"10"]) == 10


@on_both_loops
async def test_a_trim_that_was_interrupted(folder: Path) -> None:
    """What a process that died in a trim has left of trimmed files is removed, and not given."""
    log = folder / "logs" / "l.log"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_log_segments, "SEGMENT_BYTES", 100)
        async with store(folder) as backend:
            for n in range(8):
                await backend.logs.append("l", 1.0, [b"%d" % n])
            kept = {path: path.read_bytes() for path in log.glob("*.jsonl")}
            await backend.logs.trim("l", 0)
    for path, data in kept.items():
        path.write_bytes(data)
    async with store(folder) as backend:
        assert list(await backend.logs.read("l", 0, 99)) == []
        assert await backend.logs.append("l", 1.0, [b"8"]) == 8
    assert [path.name for path in log.glob("*.jsonl")] == [f"{8:016}.jsonl"]


def test_reading_while_trimmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader whose file is trimmed away under it goes on with what is left."""
    monkeypatch.setattr(_log_segments, "SEGMENT_BYTES", 100)
    read = _log_segments.read
    reading, trimmed = threading.Event(), threading.Event()

    def slow_read(state: Any, start: int, limit: int) -> Any:
        reading.set()
        assert trimmed.wait(PATIENCE)
        return read(state, start, limit)

    monkeypatch.setattr(_log_segments, "read", slow_read)
    found: list[int] = []

    async def scenario() -> None:
        async with store(tmp_path) as backend:
            for n in range(10):
                await backend.logs.append("l", 1.0, [b"%d" % n])

            async def reader() -> None:
                found.extend(entry.offset for entry in await backend.logs.read("l", 0, 4))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(reader)
                assert await anyio.to_thread.run_sync(reading.wait, PATIENCE)
                await backend.logs.trim("l", 5)
                trimmed.set()

    run("trio", scenario)
    assert found == [5, 6, 7, 8]


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 4)),
        st.tuples(st.just("trim"), st.integers(0, 8)),
        st.tuples(st.just("reopen"), st.none()),
    ),
    max_size=12,
)


@given(steps=_STEPS)
def test_logs_over_restarts(steps: list[tuple[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever is appended and trimmed, over small files and restarts, is there as in a plain list."""
    folder = tmp_path_factory.mktemp("log")
    model = SimpleNamespace(entries=[], end=0)

    async def scenario() -> None:
        pending = list(steps)
        while True:
            async with store(folder) as backend:
                while pending:
                    name, argument = pending.pop(0)
                    if name == "append":
                        bodies = [b"%d" % (model.end + n) for n in range(argument)]
                        assert await backend.logs.append("l", 1.0, bodies) == model.end
                        model.entries += bodies
                        model.end += argument
                    elif name == "trim":
                        await backend.logs.trim("l", argument)
                        del model.entries[: max(0, len(model.entries) - argument)]
                    else:
                        break
                    found = await backend.logs.read("l", 0, 99)
                    first = model.end - len(model.entries)
                    assert [(e.offset, e.body) for e in found] == list(enumerate(model.entries, first))
                    assert await backend.logs.end("l") == model.end
                else:
                    return

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_log_segments, "SEGMENT_BYTES", 120)
        run("asyncio", scenario)


# --- blobs


@on_both_loops
async def test_a_blob_with_a_long_key(folder: Path) -> None:
    """A blob whose file's name cannot hold its key has the key beside it, and both are removed together."""
    key = "firmware/" + "é" * 200
    async with store(folder) as backend:
        await backend.blobs.put(key, chunks(b"1"))
    assert list(tree(folder, "*.key").values()) == [f'"{key}"\n']
    async with store(folder) as backend:
        assert await every(backend.blobs.scan("firmware/")) == [key]
        assert await backend.blobs.delete(key)
    assert tree(folder / "blobs") == {}


@on_both_loops
async def test_a_blob_takes_little_memory(folder: Path) -> None:
    """A read asks for no more memory than the blob has bytes; of no blob there is nothing to read."""
    async with store(folder) as backend:
        await backend.blobs.put("b", chunks(b"x" * 10))
        assert await backend.blobs.read("b", 5, 2**60) == b"xxxxx"
        with pytest.raises(NotFound, match="no blob 'c'"):
            await backend.blobs.read("c", 0, 1)
