"""The memory backend keeps the contract of `mdashcore.storage`, on Trio and on asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdash_backends._bus_queue import BUS_QUEUE
from mdashcore import storage
from mdashcore._errors import InvalidInput, NotFound, StorageError, VersionConflict
from mdashcore.storage import Backend, Document, LogEntry, open_backend

LOOPS = pytest.mark.parametrize("loop", ["trio", "asyncio"])
Scenario = Callable[[Backend], Awaitable[None]]


def run(loop: str, scenario: Scenario) -> None:
    """Run a scenario on an empty backend, in an event loop of its own, for at most ten seconds."""

    async def main() -> None:
        with anyio.fail_after(10):
            async with open_backend("memory://") as backend:
                await scenario(backend)

    anyio.run(main, backend=loop)


def on_both_loops(scenario: Scenario) -> Callable[..., None]:
    """A test out of a scenario."""

    @LOOPS
    def test(loop: str) -> None:
        run(loop, scenario)

    test.__doc__ = scenario.__doc__
    return test


async def every(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


# --- how it is found


@on_both_loops
async def test_found_by_its_url(backend: Backend) -> None:
    """`memory://` opens a backend with the four stores, never waits, and writes a document and an entry in one step."""
    assert isinstance(backend.documents, storage.DocumentStore)
    assert isinstance(backend.logs, storage.LogStore)
    assert isinstance(backend.blobs, storage.BlobStore)
    assert isinstance(backend.bus, storage.MessageBus)
    assert backend.capabilities == {storage.ATOMIC, storage.INSTANT, storage.ORDERED}


@on_both_loops
async def test_each_backend_is_its_own(backend: Backend) -> None:
    """Two backends opened from the same URL share nothing."""
    async with open_backend("memory://") as other:
        await backend.documents.put("c", "k", b"1")
        await backend.logs.append("l", 0.0, [b"1"])
        assert await other.documents.get("c", "k") is None
        assert await other.logs.end("l") == 0


def test_installed_schemes() -> None:
    """What is installed can be asked."""
    assert "memory" in storage.backend_schemes()


@pytest.mark.parametrize(
    "url", ["", "memory", "memory:", "memory:/", "://", "://x", "nosuch://host", "MEMORY://", " memory://", "m*://"]
)
def test_unknown_url(url: str) -> None:
    """A URL of no installed backend is refused; the text lists those that are."""
    with pytest.raises(InvalidInput, match=r"installed: (.*, )?memory://"):
        open_backend(url)


@pytest.mark.parametrize("url", ["nosuch://joe:hunter2@db", "joe:hunter2@db", "memory://joe:hunter2@db"])
def test_a_password_in_a_url_is_not_told(url: str) -> None:
    """The text of an error holds no part of the URL that may be a secret."""

    async def enter() -> None:
        async with open_backend(url):
            pytest.fail("opened")

    with pytest.raises(InvalidInput) as caught:
        anyio.run(enter)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["memory://host", "memory:///path", "memory://?size=1", "memory://#x"])
def test_memory_takes_no_options(url: str) -> None:
    """An option that would do nothing is refused."""

    async def enter() -> None:
        async with open_backend(url):
            pytest.fail("opened")

    with pytest.raises(InvalidInput, match="no path or options"):
        anyio.run(enter)


def install(folder: Path, scheme: str, target: str) -> None:
    """Put a distribution with one backend where Python looks for them."""
    info = folder / f"{scheme}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {scheme}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{storage.ENTRY_POINT_GROUP}]\n{scheme} = {target}\n")


def test_the_backend_of_another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend of another distribution is found as our own is; it gets the whole URL."""
    (tmp_path / "their_backend.py").write_text("def open(url):\n    return ('opened', url)\n")
    install(tmp_path, "theirs", "their_backend:open")
    monkeypatch.syspath_prepend(tmp_path)
    assert {"memory", "theirs"} <= set(storage.backend_schemes())
    assert open_backend("theirs://joe@host/1?a=b") == ("opened", "theirs://joe@host/1?a=b")


@pytest.mark.parametrize("target", ["no_such_library_at_all:open", "mdash_backends.memory:no_such_name"])
def test_backend_that_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    """A backend whose library is missing is a `StorageError` that names what is missing."""
    install(tmp_path, "broken", target)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(StorageError, match=r"broken://.*no_such") as caught:
        open_backend("broken://")
    assert isinstance(caught.value.__cause__, ImportError | AttributeError)


# --- documents


@on_both_loops
async def test_document_life(backend: Backend) -> None:
    """A document is not there, is there as it was given, is replaced, and is gone."""
    documents = backend.documents
    assert await documents.get("c", "k") is None
    assert await documents.delete("c", "k") is False
    first = await documents.put("c", "k", b'{ "a": 1 }')
    assert first >= 1
    assert await documents.get("c", "k") == Document("k", first, b'{ "a": 1 }')
    second = await documents.put("c", "k", b"2", expected=first)
    assert second > first
    assert await documents.get("c", "k") == Document("k", second, b"2")
    assert await documents.delete("c", "k", expected=second) is True
    assert await documents.get("c", "k") is None


@on_both_loops
async def test_lost_compare_and_set(backend: Backend) -> None:
    """A write or delete that expects another version changes nothing, and says which version is there."""
    documents = backend.documents
    with pytest.raises(VersionConflict, match="c/k: expected version 3, found 0") as caught:
        await documents.put("c", "k", b"1", expected=3)
    assert (caught.value.expected, caught.value.actual) == (3, 0)
    with pytest.raises(VersionConflict):
        await documents.delete("c", "k", expected=1)
    assert await every(documents.scan("c")) == []
    version = await documents.put("c", "k", b"1", expected=0)
    for expected in (0, version - 1, version + 1):
        with pytest.raises(VersionConflict) as caught:
            await documents.put("c", "k", b"2", expected=expected)
        assert caught.value.actual == version
        with pytest.raises(VersionConflict):
            await documents.delete("c", "k", expected=expected)
    assert await documents.get("c", "k") == Document("k", version, b"1")


@on_both_loops
async def test_one_of_many_writers_wins(backend: Backend) -> None:
    """Of concurrent writers that expect the same version exactly one succeeds."""
    start = anyio.Event()
    won: list[bytes] = []

    async def write(body: bytes, expected: int) -> None:
        await start.wait()
        try:
            await backend.documents.put("c", "k", body, expected=expected)
        except VersionConflict:
            return
        won.append(body)

    for expected in (0, await backend.documents.put("c", "k2", b"")):
        won.clear()
        start = anyio.Event()
        await backend.documents.delete("c", "k")
        async with anyio.create_task_group() as tasks:
            for n in range(20):
                tasks.start_soon(write, b"%d" % n, expected)
            start.set()
        document = await backend.documents.get("c", "k")
        assert won == ([document.body] if document is not None else [])
        assert len(won) == (1 if expected == 0 else 0)


@on_both_loops
async def test_concurrent_counting(backend: Backend) -> None:
    """Writers that read, change and compare-and-set until it holds lose no change."""
    documents = backend.documents
    await documents.put("c", "n", b"0")

    async def count() -> None:
        for _ in range(10):
            while True:
                found = await documents.get("c", "n")
                assert found is not None
                await anyio.lowlevel.checkpoint()
                try:
                    await documents.put("c", "n", b"%d" % (int(found.body) + 1), expected=found.version)
                    break
                except VersionConflict:
                    pass

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(count)
    final = await documents.get("c", "n")
    assert final is not None
    assert final.body == b"100"


@on_both_loops
async def test_versions_are_not_used_again(backend: Backend) -> None:
    """A document made anew gets a version that it never had: a writer of the deleted one cannot hit it."""
    documents = backend.documents
    old = [await documents.put("c", "k", b"%d" % n) for n in range(5)]
    await documents.delete("c", "k")
    new = await documents.put("c", "k", b"new", expected=0)
    assert new > max(old)
    for version in old:
        with pytest.raises(VersionConflict):
            await documents.put("c", "k", b"late", expected=version)


@on_both_loops
async def test_no_aliasing(backend: Backend) -> None:
    """What was given may be changed afterwards; what is stored is not."""
    body = bytearray(b'{"a":1}')
    await backend.documents.put("c", "k", body)  # type: ignore[arg-type]
    await backend.logs.append("l", 0.0, [body])  # type: ignore[list-item]
    chunk = bytearray(b"chunk")

    async def chunks() -> AsyncIterator[bytes]:
        yield chunk  # type: ignore[misc]
        chunk[:] = b"other"

    await backend.blobs.put("b", chunks())
    body[:] = b"changed"
    document = await backend.documents.get("c", "k")
    [entry] = await backend.logs.read("l", 0, 1)
    assert document is not None
    assert (document.body, entry.body) == (b'{"a":1}', b'{"a":1}')
    assert type(document.body) is type(entry.body) is type(await backend.blobs.read("b", 0, 9)) is bytes
    assert await backend.blobs.read("b", 0, 9) == b"chunk"


KEYS = ["a", "A", "a/b", "../c", "a%2Fb", "ä", "a\u0308", "ａ", ".", "a\0", "\U0001f600", "k" * 512, " ", "a "]


@on_both_loops
async def test_keys_are_any_text(backend: Backend) -> None:
    """Keys that differ in a code point are two; none escapes its collection; a prefix is what a key starts with."""
    documents = backend.documents
    for n, key in enumerate(KEYS):
        await documents.put("c", key, b"%d" % n, expected=0)
    await documents.put("other", "a", b"other")
    for n, key in enumerate(KEYS):
        found = await documents.get("c", key)
        assert found is not None
        assert (found.key, found.body) == (key, b"%d" % n)
    for prefix in ("", "a", "a/", "ä", "zz", "%", "_", "*"):
        keys = [document.key for document in await every(documents.scan("c", prefix))]
        assert sorted(keys) == sorted(key for key in KEYS if key.startswith(prefix))
    assert await every(documents.scan("nosuch")) == []


@on_both_loops
async def test_scan_while_writing(backend: Backend) -> None:
    """A scan gives what exists all the time exactly once, whatever is written and deleted meanwhile."""
    documents = backend.documents
    for n in range(50):
        await documents.put("c", f"{n}", b"old")
    seen: list[str] = []
    async for document in documents.scan("c"):
        seen.append(document.key)
        n = len(seen)
        await documents.put("c", f"new{n}", b"new")
        await documents.put("c", f"{n % 30}", b"changed")
        if n == 10:
            for gone in range(40, 50):
                await documents.delete("c", f"{gone}")
            await documents.put("c", "49", b"again")
        assert await documents.get("c", document.key) is not None
    assert len(set(seen)) == len(seen)
    assert {f"{n}" for n in range(40)} <= set(seen)
    assert set(seen) <= {f"{n}" for n in range(50)} | {f"new{n}" for n in range(60)}


DOCUMENT_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "delete", "scan"]),
        st.sampled_from(["c", "d"]),
        st.sampled_from(["x", "y", "xy"]),
        st.sampled_from([None, "none", "current", "stale", "future"]),
    ),
    max_size=30,
)


@LOOPS
@given(steps=DOCUMENT_STEPS)
def test_documents_against_a_dict(loop: str, steps: list[tuple[str, str, str, str | None]]) -> None:
    """Any sequence of verbs does to the store what it does to a dict."""

    async def scenario(backend: Backend) -> None:
        documents = backend.documents
        model: dict[tuple[str, str], Document] = {}
        highest: dict[tuple[str, str], int] = {}
        for n, (verb, collection, key, expect) in enumerate(steps):
            place = collection, key
            current = model[place].version if place in model else 0
            expected = {
                None: None,
                "none": 0,
                "current": current,
                "stale": highest.get(place, 1) - 1,
                "future": highest.get(place, 0) + 1000,
            }[expect]
            fits = expected is None or expected == current
            body = b"%d" % n
            if verb == "scan":
                found = await every(documents.scan(collection, key))
                wanted = [doc for (c, k), doc in model.items() if c == collection and k.startswith(key)]
                assert sorted(found, key=lambda doc: doc.key) == sorted(wanted, key=lambda doc: doc.key)
            elif not fits:
                write = partial(documents.put, body=body) if verb == "put" else documents.delete
                with pytest.raises(VersionConflict) as caught:
                    await write(collection, key, expected=expected)
                assert (caught.value.expected, caught.value.actual) == (expected, current)
            elif verb == "put":
                version = await documents.put(collection, key, body, expected=expected)
                assert version > highest.get(place, 0)
                highest[place] = version
                model[place] = Document(key, version, body)
            else:
                existed = model.pop(place, None) is not None
                assert await documents.delete(collection, key, expected=expected) is existed
            assert await documents.get(collection, key) == model.get(place)

    run(loop, scenario)


# --- logs


@on_both_loops
async def test_log_offsets(backend: Backend) -> None:
    """Offsets count from 0, one by one; each entry keeps the time and body it was given."""
    logs = backend.logs
    assert await logs.end("l") == 0
    assert list(await logs.read("l", 0, 10)) == []
    assert await logs.append("l", 1.5, [b"a", b"b"]) == 0
    assert await logs.append("l", 0.5, [b"c"]) == 2
    assert await logs.append("other", 9.0, [b"z"]) == 0
    assert await logs.end("l") == 3
    entries = [LogEntry(0, 1.5, b"a"), LogEntry(1, 1.5, b"b"), LogEntry(2, 0.5, b"c")]
    assert list(await logs.read("l", 0, 10)) == entries
    assert list(await logs.read("l", 1, 1)) == entries[1:2]


@on_both_loops
async def test_offsets_are_not_used_again(backend: Backend) -> None:
    """A log that was trimmed, even to nothing, goes on counting where it was."""
    logs = backend.logs
    await logs.append("l", 0.0, [b"%d" % n for n in range(10)])
    await logs.trim("l", 3)
    assert [entry.offset for entry in await logs.read("l", 0, 10)] == [7, 8, 9]
    await logs.trim("l", 0)
    assert list(await logs.read("l", 0, 10)) == []
    assert await logs.end("l") == 10
    assert await logs.append("l", 0.0, [b"x"]) == 10
    await logs.trim("nosuch", 1)
    assert await logs.end("nosuch") == 0


LOG_STEPS = st.lists(
    st.tuples(st.just("append"), st.integers(1, 8), st.just(0))
    | st.tuples(st.just("trim"), st.integers(0, 12), st.just(0))
    | st.tuples(st.just("read"), st.integers(0, 60), st.integers(0, 20)),
    max_size=30,
)


@LOOPS
@given(steps=LOG_STEPS)
def test_logs_against_a_list(loop: str, steps: list[tuple[str, int, int]]) -> None:
    """Any sequence of verbs does to a log what it does to a list that remembers its offsets."""

    async def scenario(backend: Backend) -> None:
        model: list[LogEntry] = []
        end = 0
        for step, (verb, number, limit) in enumerate(steps):
            if verb == "append":
                bodies = [b"%d.%d" % (step, n) for n in range(number)]
                assert await backend.logs.append("l", float(step), bodies) == end
                model += [LogEntry(end + n, float(step), body) for n, body in enumerate(bodies)]
                end += number
            elif verb == "trim":
                await backend.logs.trim("l", number)
                model = model[max(0, len(model) - number) :]
            else:
                wanted = [entry for entry in model if entry.offset >= number][:limit]
                assert list(await backend.logs.read("l", number, limit)) == wanted
            assert await backend.logs.end("l") == end
        assert list(await backend.logs.read("l", 0, 10**6)) == model

    run(loop, scenario)


@on_both_loops
async def test_concurrent_appends(backend: Backend) -> None:
    """The entries of one append stay together while others append."""

    async def append(name: str) -> None:
        for _ in range(5):
            await backend.logs.append("l", 0.0, [name.encode()] * 3)
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        for name in "abcd":
            tasks.start_soon(append, name)
    entries = await backend.logs.read("l", 0, 100)
    assert [entry.offset for entry in entries] == list(range(60))
    assert all(len({entry.body for entry in entries[n : n + 3]}) == 1 for n in range(0, 60, 3))


# --- bus


@on_both_loops
async def test_first_message_arrives(backend: Backend) -> None:
    """A message published right after a subscription was entered arrives, also if the subscriber waits only later."""
    async with backend.bus.subscribe("t") as messages:
        await backend.bus.publish("t", b"first")
        assert await anext(messages) == b"first"


@on_both_loops
async def test_messages_reach_the_subscribers_of_the_moment(backend: Backend) -> None:
    """Every subscriber gets each message of its topic once, in order; those before and after get none."""
    bus = backend.bus
    await bus.publish("t", b"before")
    async with bus.subscribe("t") as first, bus.subscribe("t") as second, bus.subscribe("u") as other:
        for n in range(3):
            await bus.publish("t", b"%d" % n)
        await bus.publish("u", b"other")
        for messages in (first, second):
            assert [await anext(messages) for _ in range(3)] == [b"0", b"1", b"2"]
        assert await anext(other) == b"other"
    await bus.publish("t", b"after")
    async with bus.subscribe("t") as messages:
        await bus.publish("t", b"now")
        assert await anext(messages) == b"now"


@on_both_loops
async def test_waiting_subscriber_is_woken(backend: Backend) -> None:
    """A subscriber that waits gets what is published by another task."""
    got: list[bytes] = []
    async with backend.bus.subscribe("t") as messages, anyio.create_task_group() as tasks:

        async def read() -> None:
            async for message in messages:
                got.append(message)
                if message == b"last":
                    return

        tasks.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        for message in (b"1", b"2", b"last"):
            await backend.bus.publish("t", message)
    assert got == [b"1", b"2", b"last"]


@on_both_loops
async def test_slow_subscriber(backend: Backend) -> None:
    """A subscriber that does not read delays no other. A bounded number of messages is kept for it, the oldest; then it
    hears once that others are missing, and after that what comes when there is room again."""
    bus = backend.bus
    async with bus.subscribe("t") as slow, bus.subscribe("t") as quick:
        for n in range(BUS_QUEUE + 500):
            await bus.publish("t", b"%d" % n)
            assert await anext(quick) == b"%d" % n
        assert [await anext(slow) for _ in range(BUS_QUEUE)] == [b"%d" % n for n in range(BUS_QUEUE)]
        with pytest.raises(StorageError, match=f"{BUS_QUEUE} messages behind"):
            await anext(slow)
        await bus.publish("t", b"there is room again")
        assert await anext(slow) == b"there is room again"


@on_both_loops
async def test_subscribers_that_give_up(backend: Backend) -> None:
    """A subscriber that is cancelled, fails, or closes what it reads from disturbs neither publisher nor others."""
    bus = backend.bus

    async def read(messages: AsyncIterator[bytes]) -> None:
        async for _ in messages:
            pytest.fail("nothing was published yet")

    async with bus.subscribe("t") as stays:
        async with bus.subscribe("t") as messages, anyio.create_task_group() as tasks:
            tasks.start_soon(read, messages)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        with pytest.raises(ZeroDivisionError):
            async with bus.subscribe("t"):
                raise ZeroDivisionError
        async with bus.subscribe("t") as messages:
            await messages.aclose()  # type: ignore[attr-defined]
            await bus.publish("t", b"1")
        await bus.publish("t", b"2")
        assert [await anext(stays), await anext(stays)] == [b"1", b"2"]


# --- blobs


async def stream(*chunks: bytes, fail: bool = False) -> AsyncIterator[bytes]:
    for chunk in chunks:
        await anyio.lowlevel.checkpoint()
        yield chunk
    if fail:
        raise ConnectionResetError("the upload ended")


@on_both_loops
async def test_blob_life(backend: Backend) -> None:
    """A blob is not there, is there in all its pieces, is replaced, and is gone."""
    blobs = backend.blobs
    assert await blobs.size("fw") is None
    assert await blobs.delete("fw") is False
    assert await blobs.put("fw", stream(b"abc", b"", b"defg")) == 7
    assert await blobs.size("fw") == 7
    pieces = [await blobs.read("fw", offset, 3) for offset in (0, 3, 6, 7, 100)]
    assert pieces == [b"abc", b"def", b"g", b"", b""]
    assert await blobs.put("fw", stream(b"xy")) == 2
    assert await blobs.read("fw", 0, 100) == b"xy"
    assert await blobs.put("empty", stream()) == 0
    assert await blobs.size("empty") == 0
    assert await blobs.read("empty", 0, 10) == b""
    assert await blobs.delete("fw") is True
    with pytest.raises(NotFound, match="fw"):
        await blobs.read("fw", 0, 1)


@on_both_loops
async def test_blob_whose_source_fails(backend: Backend) -> None:
    """An upload that breaks off leaves nothing, or what was there before; the reader of the source hears why."""
    blobs = backend.blobs
    with pytest.raises(ConnectionResetError):
        await blobs.put("new", stream(b"half", fail=True))
    assert await blobs.size("new") is None
    assert await every(blobs.scan()) == []
    await blobs.put("old", stream(b"whole"))
    with pytest.raises(ConnectionResetError):
        await blobs.put("old", stream(b"half", fail=True))
    assert await blobs.read("old", 0, 100) == b"whole"


@on_both_loops
async def test_blob_is_visible_when_it_is_whole(backend: Backend) -> None:
    """While a blob arrives it is not there; a cancelled upload never is."""
    blobs = backend.blobs
    proceed = anyio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"first"
        await proceed.wait()
        yield b"last"

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(blobs.put, "cancelled", slow())
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(blobs.put, "fw", slow())
        await anyio.wait_all_tasks_blocked()
        assert await blobs.size("fw") is None
        assert await every(blobs.scan()) == []
        with pytest.raises(NotFound):
            await blobs.read("fw", 0, 1)
        proceed.set()
    assert await every(blobs.scan()) == ["fw"]
    assert await blobs.read("fw", 0, 100) == b"firstlast"


@on_both_loops
async def test_blob_keys(backend: Backend) -> None:
    """A scan gives the keys with a prefix, also while blobs come and go."""
    for key in ("a/1", "a/2", "b/1", "a"):
        await backend.blobs.put(key, stream(key.encode()))
    assert sorted(await every(backend.blobs.scan("a/"))) == ["a/1", "a/2"]
    async for key in backend.blobs.scan():
        await backend.blobs.delete(key)
        await backend.blobs.put(f"new-{key}", stream())
    assert sorted(await every(backend.blobs.scan())) == ["new-a", "new-a/1", "new-a/2", "new-b/1"]
