"""What a store keeps is for its owner's eyes, whatever the umask of the process that writes it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mdashcore.storage import open_backend

pytestmark = pytest.mark.parametrize("scheme", ["sqlite", "file"])


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """For the whole process, as threads share it."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def modes(folder: Path) -> dict[str, tuple[bool, int]]:
    """Of everything below a folder, and of the folder: whether it is one, and its permissions."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        status = path.stat()
        found[str(path.relative_to(folder.parent))] = stat.S_ISDIR(status.st_mode), stat.S_IMODE(status.st_mode)
    return found


async def one() -> object:
    yield b"image"


async def fill(scheme: str, folder: Path) -> dict[str, tuple[bool, int]]:
    """Write to each of the stores; what there is while it is open."""
    async with open_backend(f"{scheme}://{folder}") as backend:
        for key in ("alice/d1", "alice/" + "x" * 300):
            await backend.documents.put("devices", key, b"{}")
            await backend.blobs.put(key, one())
        await backend.logs.append("notifications/alice", 1.0, [b"{}"])
        await backend.logs.trim("notifications/alice", 0)
        await backend.logs.append("notifications/alice", 1.0, [b"{}"])
        return modes(folder)


def assert_private(found: dict[str, tuple[bool, int]]) -> None:
    assert {
        name: oct(mode) for name, (is_folder, mode) in found.items() if mode != (0o700 if is_folder else 0o600)
    } == {}


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o277], ids=oct)
async def test_a_new_store(scheme: str, tmp_path: Path, mask: int) -> None:
    """Its files have the mode 0600 and its folders 0700: while it is open, the write-ahead log included, and after."""
    with umask(mask):
        found = await fill(scheme, tmp_path / "new" / "store")
    assert len(found) > 5
    assert_private(found)
    assert_private(modes(tmp_path / "new"))
    if scheme == "sqlite":
        assert {"store/mdash.db", "store/mdash.db-wal", "store/mdash.db-shm"} <= set(found)


async def test_a_store_that_was_open_to_others(scheme: str, tmp_path: Path) -> None:
    """Made by an older version, or copied: what holds data is closed at the next start. The folder itself, which a
    person may have made for a group, stays as it is."""
    folder = tmp_path / "store"
    await fill(scheme, folder)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    await fill(scheme, folder)
    found = modes(folder)
    assert found.pop("store") == (True, 0o755)
    assert_private({name: each for name, each in found.items() if name.count("/") == 1})


async def test_a_store_of_another_user(scheme: str, tmp_path: Path, monkeypatch, caplog) -> None:
    """Permissions that cannot be changed are no reason not to serve; the log says so."""
    folder = tmp_path / "store"
    await fill(scheme, folder)
    for path in folder.iterdir():
        path.chmod(0o755 if path.is_dir() else 0o644)

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "chmod", refuse)
    monkeypatch.setattr(os, "fchmod", refuse)
    await fill(scheme, folder)
    assert "may be read by others" in caplog.text
