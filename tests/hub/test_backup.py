"""Export, import and check: a service moves from one backend to another, and damage is named."""

from __future__ import annotations

import io
import os
from collections.abc import AsyncGenerator

import attrs
import pytest
import trio

from mdashcore import _json, firmware, ota, rollout
from mdashcore._errors import AlreadyExists, InvalidInput
from mdashcore.hub import Hub
from mdashcore.hub.maintenance.backup import export_store, import_store
from mdashcore.hub.maintenance.check import check_store
from mdashcore.hub.updates.store import blob_key
from mdashcore.identity import DeviceKey
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
    hub = Hub(backend, now=lambda: 1_700_000_000.25, monotonic=lambda: 0.0, entropy=os.urandom)
    for name in ("alice", "bob"):
        await hub.accounts.register(name, "hash", admin=name == "alice")
        await hub.accounts.create_key(name, "a key")
        await hub.create_device(name, "d1", "täglich")
        await hub.shadows.update(DeviceKey(name, "d1"), {"state": {"desired": {"big": 2**70, "é": [1, 1.0]}}})
        await hub.presence.claim(DeviceKey(name, "d1"), "node")
    for _ in range(1200):
        await hub.feed.emit("alice", "rpc.out.Log", "d1", b'{"data": "x"}')
    await backend.logs.trim("notifications/alice", 700)
    file = io.BytesIO(b"\x01" * 100_000)
    image = firmware.read_image(file, name="bare.bin")
    await backend.blobs.put(blob_key("alice", "ota_1"), _pieces(file.getvalue()))
    await hub.updates.create(DeviceKey("alice", "d1"), "ota_1", image, ota.Options())
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
    ends = sum([await other.logs.end(log) for log in ("notifications/bob", "events/alice", "events/bob")])
    assert (counts.entries, counts.blobs) == (700 + ends, 1)
    assert await other.logs.end("notifications/alice") == await backend.logs.end("notifications/alice")


async def test_an_imported_service_works(backend, other):
    """Tokens, keys and shadows are those of before, and versions go on."""
    hub = await populate(backend)
    created = await hub.create_device("bob", "d2")
    await import_store(other, _lines([line async for line in export_store(backend)]))
    moved = Hub(other, now=lambda: 1_700_000_001.0, monotonic=lambda: 0.0, entropy=os.urandom)
    assert (await moved.registry.authenticate(created.token)).id == "d2"
    assert (await moved.shadows.get(DeviceKey("alice", "d1"))).desired == {"big": 2**70, "é": [1, 1.0]}
    change = await moved.shadows.update(DeviceKey("alice", "d1"), {"state": {"desired": {"n": 1}}, "version": 1})
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


def _of(lines: list[bytes], member: bytes) -> list[int]:
    """Where the lines are that have a member."""
    return [number for number, line in enumerate(lines) if b'"%b":' % member in line[:12]]


def _swap(lines: list[bytes], one: int, two: int) -> list[bytes]:
    lines[one], lines[two] = lines[two], lines[one]
    return lines


@pytest.mark.parametrize(
    ("spoil", "at", "words"),
    [
        (
            lambda lines, logs, blobs: lines[: logs[5]] + lines[logs[6] :],
            lambda logs, blobs: logs[5],
            "goes on at offset",
        ),
        (lambda lines, logs, blobs: _swap(lines, logs[7], logs[8]), lambda logs, blobs: logs[7], "goes on at offset"),
        (lambda lines, logs, blobs: _swap(lines, blobs[0], blobs[1]), lambda logs, blobs: blobs[0], "goes on at byte"),
        (
            lambda lines, logs, blobs: lines[: blobs[1]] + lines[blobs[2] :],
            lambda logs, blobs: blobs[1],
            "goes on at byte",
        ),
        (
            lambda lines, logs, blobs: lines[: blobs[0]] + lines[blobs[1] :],
            lambda logs, blobs: blobs[0],
            "goes on at byte",
        ),
        (
            lambda lines, logs, blobs: [*lines[: logs[0]], b'{"log":"l","begin":-1}'],
            lambda logs, blobs: logs[0],
            "cannot begin anew at -1",
        ),
        (
            lambda lines, logs, blobs: [*lines[: logs[0]], b'{"log":"l","offset":%d,"body":1}' % 10**18],
            lambda logs, blobs: logs[0],
            "cannot begin anew at 1000000000000000000",
        ),
    ],
    ids=["a hole", "swapped entries", "swapped pieces", "a piece missing", "no first piece", "negative", "too far"],
)
async def test_what_is_missing_or_moved_is_named(backend, other, spoil, at, words):
    """Offsets have no gaps, in a log and in a blob: the first line that does not follow is named."""
    await populate(backend)
    lines = [line async for line in export_store(backend)]
    logs = [number for number in _of(lines, b"log") if b"notifications/alice" in lines[number]]
    blobs = _of(lines, b"blob")
    assert len(blobs) == 3
    with pytest.raises(InvalidInput, match=f"^line {at(logs, blobs) + 1}: .*{words}"):
        await import_store(other, _lines(spoil(lines, logs, blobs)))


@pytest.mark.parametrize("target", ["memory", "sqlite", "file"])
async def test_a_log_that_begins_late_costs_nothing_before(tmp_path, target):
    """An old log's entries keep their offsets, however many came before them; nothing is written in their place."""
    lines = [
        b'{"format":"mdashcore","version":1}',
        b'{"log":"l","offset":1000000000000000,"time":1.0,"body":1}',
        b'{"log":"l","offset":1000000000000001,"time":2.0,"body":2}',
        b'{"log":"empty","begin":1000000000000000}',
        b'{"end":true,"documents":0,"entries":2,"blobs":0}',
    ]
    async with open_backend(_url(target, tmp_path / "store")) as store:
        with trio.fail_after(10):
            await import_store(store, _lines(lines))
        assert [entry.offset for entry in await store.logs.read("l", 0, 10)] == [10**15, 10**15 + 1]
        assert await store.logs.end("l") == 10**15 + 2
        assert await store.logs.append("empty", 1.0, [b"1"]) == 10**15
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 10**6


async def test_what_is_trimmed_while_it_is_exported(backend, other):
    """Entries that go while an export reads leave a gap that it tells of; the import has what was left."""
    await populate(backend)
    lines = []
    async for line in export_store(backend):
        lines.append(line)
        if line.startswith(b'{"log":"notifications/alice"') and b'"offset":600,' in line:
            for n in range(600):
                await backend.logs.append("notifications/alice", 1.0, [b'{"name":"n","id":"%d"}' % n])
            await backend.logs.trim("notifications/alice", 300)
    end = await backend.logs.end("notifications/alice")
    await import_store(other, _lines(lines))
    assert [entry.offset for entry in await other.logs.read("notifications/alice", 0, 10**4)] == [
        *range(end - 300, end)
    ]
    assert [entry async for entry in export_store(other)] == [entry async for entry in export_store(backend)]


async def test_offsets_go_on_where_nothing_is_kept(backend, other):
    """A log of which everything was trimmed does not begin again: cursors of listeners stay right."""
    await populate(backend)
    await backend.logs.trim("notifications/alice", 0)
    await import_store(other, _lines([line async for line in export_store(backend)]))
    assert await other.logs.end("notifications/alice") == await backend.logs.end("notifications/alice") > 700


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


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x01" * 99_999, "99999 bytes of 100000"),
        (b"", "0 bytes of 100000"),
        (b"\x01" * 99_999 + b"\x02", "not the bytes that were uploaded (SHA-256)"),
    ],
)
async def test_a_damaged_image_is_named(backend, data, words):
    """Cut short, or with a byte that is not what it was; of an update, and of a rollout and its updates."""
    hub = await populate(backend)
    image = firmware.read_image(io.BytesIO(b"\x01" * 100_000), name="bare.bin")
    await backend.blobs.put(blob_key("bob", "rol_1"), _pieces(b"\x01" * 100_000))
    request = rollout.parse_request({"devices": ["d1"], "phases": [100]})
    await hub.rollouts.create("bob", "rol_1", request, image)
    await hub.updates.create(DeviceKey("bob", "d1"), "ota_2", image, blob="rol_1")
    assert (await check_store(backend))[1] == []
    for key in (blob_key("alice", "ota_1"), blob_key("bob", "rol_1")):
        await backend.blobs.put(key, _pieces(data))
    assert sorted((await check_store(backend))[1]) == [
        f"{name} has not ended, and its image is damaged: {words}"
        for name in ("rollouts/bob/rol_1", "updates/alice/d1", "updates/bob/d1")
    ]


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
        hub = Hub(one, now=lambda: 1_700_000_000.25, monotonic=lambda: 0.0, entropy=os.urandom)
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
