"""Stores and backups of every released version are read by this one: real files, kept as that version wrote them."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kept_service import Secrets, seen

from mdashcore.hub.maintenance.backup import export_store, import_store
from mdashcore.hub.maintenance.check import check_store
from mdashcore.server.config import ServerConfig
from mdashcore.server.run import open_server
from mdashcore.storage import open_backend

STORED = Path(__file__).parent / "stored"
VERSIONS = sorted(path.name for path in STORED.iterdir() if (path / "seen.json").exists())
ADMIN = ("root", "secret")


@pytest.fixture
def copy(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str, str], str]:
    """Copies a stored store, and gives its URL."""

    def copied(version: str, kind: str) -> str:
        folder = shutil.copytree(STORED / version / kind, tmp_path / kind)
        for path in folder.rglob("*"):
            path.chmod(0o700 if path.is_dir() else 0o600)  # git keeps no modes
        if kind == "redis":
            return f"{request.getfixturevalue('start_redis')(dir=str(folder)).url}/0"
        return f"{kind}://{folder}"

    return copied


def exported(version: str) -> list[bytes]:
    """The lines of a version's backup."""
    return (STORED / version / "backup.jsonl").read_bytes().splitlines()


def test_the_first_version_is_there() -> None:
    """And each has its stores, of all kinds that keep something."""
    assert "0.1" in VERSIONS
    for version in VERSIONS:
        assert {path.name for path in (STORED / version).iterdir() if path.is_dir()} == {"sqlite", "file", "redis"}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", ["sqlite", "file", "redis"])
async def test_a_store_is_read(
    copy: Callable[[str, str], str], monkeypatch: pytest.MonkeyPatch, version: str, kind: str
) -> None:
    """Without a problem, with all that was in it; and a server on it answers its users as that version did."""
    url = copy(version, kind)
    async with open_backend(url) as backend:
        _, problems = await check_store(backend)
        assert problems == []
        documents = [json.loads(line) async for line in export_store(backend)]
    for line in map(json.loads, exported(version)):
        if "collection" in line:
            assert line in documents
    await _is_served(url, version, monkeypatch)


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_backup_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """Imported into a store of today, it is served as that version did."""

    async def lines() -> Any:
        for line in exported(version):
            yield line

    url = f"sqlite://{tmp_path / 'today'}"
    async with open_backend(url) as backend:
        await import_store(backend, lines())
    await _is_served(url, version, monkeypatch)


async def _is_served(url: str, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Members that a later version adds to an answer are no difference."""
    kept = json.loads((STORED / version / "seen.json").read_text(encoding="utf-8"))
    clock = SimpleNamespace(time=lambda: kept["time"] + 60, monotonic=time.monotonic)
    monkeypatch.setattr("mdashcore.server.run.time", clock)  # a minute later: nothing has become too old
    async with open_server(ServerConfig(bind="127.0.0.1:0", store=url)) as server:
        now = json.loads(json.dumps(await seen(server.url, ADMIN, Secrets(**kept["secrets"]))))
    assert _within(kept["seen"], now), (kept["seen"], now)


def _within(old: Any, new: Any) -> bool:
    if isinstance(old, dict):
        return isinstance(new, dict) and all(name in new and _within(old[name], new[name]) for name in old)
    if isinstance(old, list):
        return isinstance(new, list) and len(old) == len(new) and all(map(_within, old, new))
    return bool(old == new)
