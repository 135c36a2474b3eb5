"""Export, import and check: a service moves from one backend to another, and damage is named."""

from __future__ import annotations

import io
import os
from collections.abc import AsyncGenerator

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
