"""The guide to writing a backend is executed: its toy passes the suite, and fails when it is broken."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

SOURCE = str(Path(__file__).parents[2] / "src")
IN_MEMORY = {"TMPDIR": "/dev/shm"} if Path("/dev/shm").is_dir() else {}  # noqa: S108 - the toy syncs with every write
PAGE = Path(__file__).parents[2] / "docs/how_to_guides/write_a_backend.md"


def blocks() -> tuple[str, dict[str, str]]:
    """The backend, and its test files by name, as a reader would put them together."""
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    tests = {block[2:].partition("\n")[0]: block for block in code if block.startswith("# test_")}
    return "\n\n".join(block for block in code if block not in tests.values()), tests


def run_suite(
    folder: Path, backend: str, only: str = "test", file: str = "test_onefile.py"
) -> subprocess.CompletedProcess[str]:
    (folder / "onefile.py").write_text(backend)
    for name, test in blocks()[1].items():
        (folder / name).write_text(test)
    options = ["-q", "-p", "no:trio", "-p", "no:cacheprovider", "-k", only]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, file],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), SOURCE]), **IN_MEMORY},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_toy_passes_the_whole_suite(tmp_path):
    """What the page shows, put together and run as the page says."""
    done = run_suite(tmp_path, blocks()[0])
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 40


def test_the_toy_fails_as_it_should(tmp_path):
    """With the page's way to make it fail, what was skipped without it is proved."""
    done = run_suite(tmp_path, blocks()[0], only="failures_are", file="test_onefile_failing.py::TestOneFileFailing")
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout


@pytest.mark.parametrize(
    ("right", "wrong", "caught_by"),
    [
        ("if expected is not None and expected != actual:", "if False:", "test_documents_expected_is_heeded"),
        ('"end": 0', '"end": 1', "test_log_offsets_count_from_zero"),
        ("        documents[key] = [", "        file = [", "test_documents_what_was_put_comes_back"),
    ],
)
def test_a_broken_toy_is_caught(tmp_path, right, wrong, caught_by):
    """What the page invites to try: taken out, it is missed."""
    code = blocks()[0]
    assert right in code
    done = run_suite(tmp_path, code.replace(right, wrong), only=caught_by)
    assert done.returncode == 1
    assert f"::{caught_by}" in done.stdout


def test_the_entry_point_is_found(tmp_path):
    """Installed as the page says, it is opened by its URL."""
    page = PAGE.read_text()
    (toml,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    ((group, names),) = tomllib.loads(toml)["project"]["entry-points"].items()
    (tmp_path / "onefile.py").write_text(blocks()[0])
    metadata = tmp_path / "onefile-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: onefile\nVersion: 1\n")
    lines = [f"[{group}]", *(f"{name} = {value}" for name, value in names.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    code = """
import anyio, sys
from mdashcore.storage import open_backend
async def main():
    async with open_backend(f"onefile://{sys.argv[1]}/store.json") as backend:
        print(await backend.documents.put("c", "k", b"{}", expected=0))
anyio.run(main)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), SOURCE])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "1", done.stderr
    assert (tmp_path / "store.json").exists()
