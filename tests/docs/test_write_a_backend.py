"""The guide to writing a backend is executed: its toy passes the suite, and fails when it is broken."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs/how_to_guides/write_a_backend.md"


def blocks() -> tuple[str, str]:
    """The backend and its test, as a reader would put them together."""
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (test,) = [block for block in code if block.startswith("# test_onefile.py")]
    return "\n\n".join(block for block in code if block is not test), test


def run_suite(folder: Path, backend: str, only: str = "test") -> subprocess.CompletedProcess[str]:
    (folder / "onefile.py").write_text(backend)
    (folder / "test_onefile.py").write_text(blocks()[1])
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:trio", "-p", "no:cacheprovider", "-k", only, "test_onefile.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_toy_passes_the_whole_suite(tmp_path):
    """What the page shows, put together and run as the page says."""
    done = run_suite(tmp_path, blocks()[0])
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 40


@pytest.mark.parametrize(
    ("right", "wrong", "caught_by"),
    [
        ("if expected not in (None, actual):", "if False:", "test_documents_expected_is_heeded"),
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
