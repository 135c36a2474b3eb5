"""FS.*: a flat file system of fixed size that no name can leave."""

from __future__ import annotations

import base64
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from rows import every_row

from mdashcore._errors import RpcError
from mdashcore.virtual_device import VirtualDevice


@pytest.fixture
async def device(tmp_path: Path) -> VirtualDevice:
    return VirtualDevice("d1", tmp_path / "flash")


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def put(device: VirtualDevice, name: str, data: bytes, **more: Any) -> None:
    assert await device.handle("FS.Put", {"filename": name, "data": b64(data), **more}) is None


async def content(device: VirtualDevice, name: str) -> bytes:
    """A whole file, read as a client does: chunk by chunk until nothing is left."""
    data, left = b"", 1
    while left:
        answer = await device.handle("FS.Get", {"filename": name, "offset": len(data), "len": 1000})
        data, left = data + base64.b64decode(answer["data"]), answer["left"]
    return data


async def refused(device: VirtualDevice, method: str, params: object) -> tuple[int, str]:
    with pytest.raises(RpcError) as caught:
        await device.handle(method, params)
    return caught.value.code, caught.value.message


async def test_a_file_is_put_in_chunks_and_got_in_chunks(device: VirtualDevice) -> None:
    """Put, append, list, get with `left`: what went in comes out."""
    data = bytes(range(256)) * 10
    await put(device, "init.js", data[:1000], append=False)
    await put(device, "init.js", data[1000:2000], append=True)
    await put(device, "init.js", data[2000:], append=True)
    await put(device, "a.txt", b"")

    assert await device.handle("FS.List", None) == ["a.txt", "init.js"]
    assert await device.handle("FS.ListExt", {}) == [
        {"name": "a.txt", "size": 0},
        {"name": "init.js", "size": 2560},
    ]
    first = await device.handle("FS.Get", {"filename": "init.js", "offset": 0, "len": 100})
    assert first == {"data": b64(data[:100]), "left": 2460}
    assert await content(device, "init.js") == data


@pytest.mark.parametrize(
    ("params", "after"),
    [
        ({}, b"xy"),
        ({"append": False}, b"xy"),
        ({"append": True}, b"0123456789xy"),
        ({"offset": 0, "append": True}, b"xy"),
        ({"offset": 3}, b"012xy56789"),
        ({"offset": 9, "append": True}, b"012345678xy"),
        ({"offset": 10}, b"0123456789xy"),
    ],
)
async def test_put_replaces_appends_or_writes_at_an_offset(
    device: VirtualDevice, params: dict[str, Any], after: bytes
) -> None:
    """An absent offset obeys `append`, 0 replaces, a higher one keeps what it does not overwrite."""
    await put(device, "f", b"0123456789")
    await put(device, "f", b"xy", **params)
    assert await content(device, "f") == after


@pytest.mark.parametrize(
    ("offset", "length", "data", "left"),
    [
        (None, None, b"0123456789", 0),
        (4, None, b"456789", 0),
        (4, 3, b"456", 3),
        (4, 0, b"", 6),
        (99, 5, b"", 0),
    ],
)
async def test_get_reads_a_part(
    device: VirtualDevice, offset: int | None, length: int | None, data: bytes, left: int
) -> None:
    """Offset and len default to the whole file; beyond the end there is nothing."""
    await put(device, "f", b"0123456789")
    answer = await device.handle("FS.Get", {"filename": "f", "offset": offset, "len": length})
    assert answer == {"data": b64(data), "left": left}


async def test_remove_and_rename(device: VirtualDevice) -> None:
    """Rename replaces its target; a removed file is gone."""
    await put(device, "old", b"new content")
    await put(device, "target", b"old content")
    assert await device.handle("FS.Rename", {"src": "old", "dst": "target"}) is None
    assert await device.handle("FS.List", {}) == ["target"]
    assert await content(device, "target") == b"new content"
    assert await device.handle("FS.Remove", {"filename": "target"}) is None
    assert await device.handle("FS.List", {}) == []


HOSTILE_NAMES = [
    "",
    ".",
    "..",
    "../outside",
    "../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "a\x00b",
    "a\nb",
    "x" * 32,
    "é" * 16,
    "half \ud800 pair",
]


@every_row("name", HOSTILE_NAMES)
@every_row(
    ("method", "params"),
    [
        ("FS.Get", {"filename": None}),
        ("FS.Put", {"filename": None, "data": "eA=="}),
        ("FS.Put", {"filename": None, "data": "eA==", "append": True}),
        ("FS.Remove", {"filename": None}),
        ("FS.Rename", {"src": None, "dst": "ok"}),
        ("FS.Rename", {"src": "ok", "dst": None}),
    ],
)
async def test_a_name_that_is_more_than_a_label_is_refused(
    device: VirtualDevice, tmp_path: Path, name: str, method: str, params: dict[str, Any]
) -> None:
    """Paths, dots, control characters, over-long names: error 400, and nothing is touched."""
    await put(device, "ok", b"kept")
    given_name = {key: name if value is None else value for key, value in params.items()}
    assert await refused(device, method, given_name) == (400, "invalid filename")
    assert await device.handle("FS.List", {}) == ["ok"]
    assert os.listdir(tmp_path) == ["flash"]


@pytest.mark.parametrize(
    ("method", "params", "error"),
    [
        ("FS.Get", {}, (400, "filename is required")),
        ("FS.Get", {"filename": 5}, (400, "filename must be a string")),
        ("FS.Get", {"filename": "no"}, (400, 'failed to open file "no"')),
        ("FS.Get", {"filename": "f", "offset": -1}, (400, "illegal offset")),
        ("FS.Get", {"filename": "f", "offset": "1"}, (400, "offset must be an integer")),
        ("FS.Get", {"filename": "f", "offset": True}, (400, "offset must be an integer")),
        ("FS.Put", {"filename": "f", "data": "not base64"}, (400, "data is not base64")),
        ("FS.Put", {"filename": "f", "data": "é==="}, (400, "data is not base64")),
        ("FS.Put", {"filename": "f", "data": b64(bytes(3075))}, (400, "data is longer than 3072 bytes")),
        ("FS.Put", {"filename": "f", "data": "eA==", "append": 1}, (400, "append must be true or false")),
        ("FS.Put", {"filename": "f", "data": "eA==", "offset": 11}, (400, "failed to seek to 11")),
        ("FS.Put", {"filename": "no", "data": "eA==", "offset": 1}, (400, 'failed to open file "no"')),
        ("FS.Remove", {"filename": "no"}, (500, "remove failed")),
        ("FS.Rename", {"src": "no", "dst": "f"}, (500, "rename failed")),
        ("FS.Rename", {"src": "f"}, (400, "dst is required")),
    ],
)
async def test_errors_are_those_of_a_device(
    device: VirtualDevice, method: str, params: dict[str, Any], error: tuple[int, str]
) -> None:
    """Each wrong request has its code and words, and leaves the files as they were."""
    await put(device, "f", b"0123456789")
    assert await refused(device, method, params) == error
    assert await device.handle("FS.List", {}) == ["f"]
    assert await content(device, "f") == b"0123456789"


async def test_links_and_folders_are_no_files(device: VirtualDevice, tmp_path: Path) -> None:
    """Links and folders that another program put there are not listed, and cannot be read or written through."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    fs = tmp_path / "flash" / "fs"
    (fs / "link").symlink_to(secret)
    (fs / "dir").mkdir()
    os.mkfifo(fs / "pipe")

    assert await device.handle("FS.List", {}) == []
    await put(device, "f", b"kept")
    for name in ("link", "dir", "pipe"):
        error = (400, f'failed to open file "{name}"')
        assert await refused(device, "FS.Get", {"filename": name}) == error
        assert await refused(device, "FS.Put", {"filename": name, "data": "eA=="}) == error
        assert await refused(device, "FS.Remove", {"filename": name}) == error
        assert await refused(device, "FS.Rename", {"src": name, "dst": "f"}) == error
        assert await refused(device, "FS.Rename", {"src": "f", "dst": name}) == error
    assert secret.read_bytes() == b"secret"
    assert await content(device, "f") == b"kept"


async def test_only_the_root_lists(device: VirtualDevice) -> None:
    """There are no directories: any other path lists as empty."""
    await put(device, "f", b"")
    assert await device.handle("FS.List", {"path": "/"}) == ["f"]
    assert await device.handle("FS.List", {"path": ".."}) == []
    assert await device.handle("FS.ListExt", {"path": "/etc"}) == []


async def test_the_flash_fills_up(tmp_path: Path) -> None:
    """A write that does not fit is refused as a full flash refuses, and loses nothing."""
    device = VirtualDevice("d1", tmp_path, fs_size=8 * 1024)
    await put(device, "f", b"x" * 3072)
    await put(device, "f", b"y" * 3072, append=True)
    full = {"filename": "f", "data": b64(b"z" * 3072), "append": True}
    assert await refused(device, "FS.Put", full) == (500, "failed to write data")
    assert await content(device, "f") == b"x" * 3072 + b"y" * 3072

    await put(device, "f", b"z" * 3072)  # replacing it needs less than it has
    await put(device, "g", b"z" * 3072)
    free = (await device.handle("Sys.GetInfo", {}))["fs_free"]
    await device.handle("FS.Remove", {"filename": "g"})
    assert (await device.handle("Sys.GetInfo", {}))["fs_free"] == free + 3072 + 256


async def test_empty_files_fill_the_flash_too(tmp_path: Path) -> None:
    """A file's header costs a page, so the number of files is bounded."""
    device = VirtualDevice("d1", tmp_path, fs_size=4096)
    for number in range(16):
        await put(device, f"f{number}", b"")
    assert await refused(device, "FS.Put", {"filename": "one more"}) == (500, "failed to write data")


async def test_a_file_too_big_for_the_ram_is_read_in_parts(device: VirtualDevice) -> None:
    """FS.Get of more than the heap holds fails as it does on a device; with a len it works."""
    data = os.urandom(3072) * 11
    for start in range(0, len(data), 3072):
        await put(device, "f", data[start : start + 3072], append=True)
    assert await refused(device, "FS.Get", {"filename": "f"}) == (500, "out of memory")
    assert await content(device, "f") == data


names = st.sampled_from(["a", "b", "c"])
steps = st.one_of(
    st.tuples(st.just("put"), names, st.binary(max_size=400), st.booleans()),
    st.tuples(st.just("remove"), names),
    st.tuples(st.just("rename"), names, names),
)


@given(st.lists(steps, max_size=15))
def test_it_behaves_like_a_dict_of_files(program: list[tuple[Any, ...]]) -> None:
    """After any puts, removes and renames, the listing and every file are those of a plain dict."""

    async def main() -> None:
        with tempfile.TemporaryDirectory() as folder:
            device, model = VirtualDevice("d1", Path(folder)), dict[str, bytes]()
            for step in program:
                match step:
                    case "put", name, data, append:
                        await put(device, name, data, append=append)
                        model[name] = model.get(name, b"") + data if append else data
                    case "remove", name if name in model:
                        await device.handle("FS.Remove", {"filename": name})
                        del model[name]
                    case "rename", src, dst if src in model:
                        await device.handle("FS.Rename", {"src": src, "dst": dst})
                        model[dst] = model.pop(src)
                    case "remove", name:
                        await refused(device, "FS.Remove", {"filename": name})
                    case "rename", src, dst:
                        await refused(device, "FS.Rename", {"src": src, "dst": dst})
            assert await device.handle("FS.List", {}) == sorted(model)
            for name, data in model.items():
                assert await content(device, name) == data

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
