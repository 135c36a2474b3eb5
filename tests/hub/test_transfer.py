"""Export, import and check: a service moves from one backend to another, and damage is named."""

from __future__ import annotations

import io
import os
from collections.abc import AsyncGenerator

import attrs
import pytest

from mdashcore import _json, firmware, ota
from mdashcore._errors import AlreadyExists, InvalidInput
from mdashcore.hub import Hub
from mdashcore.hub.transfer import check_store, export_store, import_store
from mdashcore.hub.updates import blob_key
from mdashcore.storage import open_backend


@pytest.fixture
async def backend():
    """An empty store."""
    async with open_backend("memory://") as opened:
        yield opened


@pytest.fixture
async def other():
    """Another empty store."""
    async with open_backend("memory://") as opened:
        yield opened


async def populate(backend) -> Hub:
    """A little of everything that a service keeps."""
    hub = Hub(backend, now=lambda: 1_700_000_000.25, entropy=os.urandom)
    for name in ("alice", "bob"):
        await hub.accounts.register(name, "hash", admin=name == "alice")
        await hub.accounts.create_key(name, "a key")
        await hub.create_device(name, "d1", "täglich")
        await hub.shadows.update(name, "d1", {"state": {"desired": {"big": 2**70, "é": [1, 1.0]}}})
        await hub.presence.claim(name, "d1", "node")
    for _ in range(1200):
        await hub.feed.emit("alice", "rpc.out.Log", "d1", b'{"data": "x"}')
    await backend.logs.trim("notifications/alice", 700)
    file = io.BytesIO(b"\x01" * 100_000)
    image = firmware.read_image(file, name="bare.bin")
    await backend.blobs.put(blob_key("alice", "ota_1"), _pieces(file.getvalue()))
    await hub.updates.create("alice", "d1", "ota_1", image, ota.Options())
    return hub


async def _pieces(data: bytes) -> AsyncGenerator[bytes, None]:
    yield data


async def _lines(lines: list[bytes]) -> AsyncGenerator[bytes, None]:
    for line in lines:
        yield line


async def test_an_import_gives_the_same_export(backend, other):
    """What was exported, imported and exported again is the same: values, offsets and bytes."""
    await populate(backend)
    lines = [line async for line in export_store(backend)]
    counts = await import_store(other, _lines(lines))
    assert sorted([line async for line in export_store(other)]) == sorted(lines)
    assert (counts.entries, counts.blobs) == (700 + await other.logs.end("notifications/bob"), 1)
    assert await other.logs.end("notifications/alice") == await backend.logs.end("notifications/alice")


async def test_an_imported_service_works(backend, other):
    """Tokens, keys and shadows are those of before, and versions go on."""
    hub = await populate(backend)
    created = await hub.create_device("bob", "d2")
    await import_store(other, _lines([line async for line in export_store(backend)]))
    moved = Hub(other, now=lambda: 1_700_000_001.0, entropy=os.urandom)
    assert (await moved.registry.authenticate(created.token)).id == "d2"
    assert (await moved.shadows.get("alice", "d1")).desired == {"big": 2**70, "é": [1, 1.0]}
    change = await moved.shadows.update("alice", "d1", {"state": {"desired": {"n": 1}}, "version": 1})
    assert change.version == 2
    assert await moved.feed.emit("alice", "online", "d1") == await hub.feed.end("alice") + 1  # after that of the shadow


async def test_only_an_empty_store_is_imported_into(backend):
    """Nothing that is there is mixed with what comes."""
    await populate(backend)
    lines = [line async for line in export_store(backend)]
    with pytest.raises(AlreadyExists):
        await import_store(backend, _lines(lines))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda lines: lines[:-1], "no last line"),
        (lambda lines: lines[1:], "line 1: not an export"),
        (lambda lines: [lines[0], b"{", *lines[1:]], "line 2: not valid JSON"),
        (lambda lines: [*lines[:3], *lines[4:]], "these came"),
        (lambda lines: [*lines, lines[-1]], "something follows"),
        (lambda lines: [lines[0], b'{"collection":"x","key":"k","body":1}'], "line 2: unknown collection"),
        (lambda lines: [lines[0], b'{"collection":"devices"}'], "line 2: no document"),
        (lambda lines: [], "no last line"),
    ],
)
async def test_a_spoiled_export_is_refused(backend, other, spoil, words):
    """Cut off, mixed up or damaged: said with the number of the line."""
    await populate(backend)
    lines = [line async for line in export_store(backend)]
    with pytest.raises(InvalidInput, match=words):
        await import_store(other, _lines(spoil(lines)))


async def test_a_sound_store_has_no_problems(backend):
    """What the hub writes fits together."""
    await populate(backend)
    counts, problems = await check_store(backend)
    assert problems == []
    assert counts.documents > 10
    assert counts.entries > 700


@pytest.mark.parametrize(
    ("collection", "key", "body", "words"),
    [
        ("devices", "alice/d1", b'{"no": "device"}', "devices/alice/d1 is damaged"),
        ("shadows", "bob/d1", b"[]", "shadows/bob/d1: "),
        ("devices", "carol/d1", None, "belongs to no account"),
        ("devices", "alice/d9", None, "devices/alice/d9 cannot be found by its secret"),
    ],
)
async def test_damage_is_named(backend, collection, key, body, words):
    """Each thing that is wrong is said with the place where it is."""
    await populate(backend)
    if body is None:
        account, _, id_ = key.partition("/")
        device = {"account": account, "id": id_, "name": "", "token_hash": "0" * 64, "created_at": 1.0}
        body = _json.encode(device)
    await backend.documents.put(collection, key, body)
    _, problems = await check_store(backend)
    assert any(words in problem for problem in problems), problems


async def test_a_lost_image_is_named(backend):
    """An update that has not ended needs its image."""
    await populate(backend)
    await backend.blobs.delete(blob_key("alice", "ota_1"))
    assert (await check_store(backend))[1] == ["updates/alice/d1 has not ended, and its image is gone"]


ODD_DATA = [
    b"1e999",
    b"9" * 5000,
    b'{"a": [1e-999, {"b": -%b}]}' % (b"7" * 4400),
    b"[" * 64 + b"]" * 64,
    b'{\n  "pretty" : [\r\n\t1.0 ]\n}',
    b'{"a":1,"a":1E5,"b":-0}',
    '"\\u00e9é\u2028"'.encode(),
]
"""JSON that a device may send, and that no parser and encoder gives back as it was."""


def _url(scheme, folder):
    return "memory://" if scheme == "memory" else f"{scheme}://{folder}"


@pytest.mark.parametrize("target", ["memory", "sqlite", "file"])
@pytest.mark.parametrize("source", ["memory", "sqlite", "file"])
async def test_notifications_move_byte_for_byte(tmp_path, source, target):
    """Whatever JSON is in them: numbers that no computer holds, line breaks, keys that stand twice. A check has no
    objection, and what is exported again is the same."""
    async with open_backend(_url(source, tmp_path / "one")) as one, open_backend(_url(target, tmp_path / "two")) as two:
        hub = Hub(one, now=lambda: 1_700_000_000.25, entropy=os.urandom)
        await hub.accounts.register("alice", "hash", admin=True)
        for data in ODD_DATA:
            await hub.feed.emit("alice", "rpc.out.Odd", "d1", data)
        lines = [line async for line in export_store(one)]
        assert not any(b"\n" in line for line in lines)
        counts = await import_store(two, _lines([line + b"\n" for line in lines]))
        assert counts.entries == len(ODD_DATA)
        for store in (one, two):
            assert (await check_store(store))[1] == []
            entries = await store.logs.read("notifications/alice", 0, 100)
            assert [entry.body for entry in entries] == [
                b'{"name":"rpc.out.Odd","id":"d1","data":%b}' % data for data in ODD_DATA
            ]
        assert [line async for line in export_store(two)] == lines


@pytest.mark.parametrize("body", [b"{", b'{"name":1,"id":"d"}', b'{"name":"n","id":"d","data":"\xff"}', b"[]"])
async def test_an_entry_that_is_no_notification_is_named(backend, body):
    """By its log and offset; the rest of the log is looked at all the same."""
    await populate(backend)
    end = await backend.logs.append("notifications/alice", 1.0, [body, b"true"])
    _, problems = await check_store(backend)
    assert [problem.partition(": ")[2].partition(" is")[0] for problem in problems] == [
        f"offset {end}",
        f"offset {end + 1}",
    ]


@pytest.mark.parametrize("line", [b'{"log":"l","time":1.0}', b'{"log":"l","body":1,"text":"1"}'])
async def test_an_entry_without_a_body_is_refused(backend, other, line):
    """A line of an export that holds none, or two."""
    await populate(backend)
    lines = [line async for line in export_store(backend)]
    with pytest.raises(InvalidInput, match="line 2: it has neither a body nor a text"):
        await import_store(other, _lines([lines[0], line, *lines[1:]]))


async def test_what_a_backend_finds_itself_is_a_problem(backend):
    """A check asks the backend first."""
    await populate(backend)

    async def found():
        return ["page 7 is damaged"]

    assert (await check_store(attrs.evolve(backend, check=found)))[1] == ["page 7 is damaged"]
