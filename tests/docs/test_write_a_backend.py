"""The guide to writing a backend is executed: its toy passes the suite, and fails when it is broken."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from mdashcore.testing import BackendSuite

SOURCE = str(Path(__file__).parents[2] / "src")
IN_MEMORY = {"TMPDIR": "/dev/shm"} if Path("/dev/shm").is_dir() else {}  # noqa: S108 - the toy syncs with every write
PAGE = Path(__file__).parents[2] / "docs/how_to_guides/write_a_backend.md"


def blocks() -> tuple[str, dict[str, str]]:
    """The backend, and its test files by name, as a reader would put them together."""
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    tests = {block[2:].partition("\n")[0]: block for block in code if block.startswith("# test_")}
    return "\n\n".join(block for block in code if block not in tests.values()), tests


def run_suite(folder: Path, *tests: str) -> dict[str, list[str]]:
    """Run tests of the files in a folder; what each came to, parametrized ones and loops in a list: by "file::test"."""
    options = ["-q", "-p", "no:trio", "-p", "no:cacheprovider", "-p", "no:xdist", "--junitxml", "found.xml"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), SOURCE]), **IN_MEMORY},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found: dict[str, list[str]] = {}
    for case in ElementTree.parse(folder / "found.xml").iter("testcase"):  # noqa: S314 - our own
        name = f"{case.get('classname').partition('.')[0]}::{case.get('name').partition('[')[0]}"
        found.setdefault(name, []).append(next((each.tag for each in case), "passed"))
    return found


BROKEN = [
    ("if expected is not None and expected != actual:", "if False:", "test_documents_expected_is_heeded"),
    ('"end": 0', '"end": 1', "test_log_offsets_count_from_zero"),
    ("        documents[key] = [", "        file = [", "test_documents_what_was_put_comes_back"),
]
"""What is there, what is there instead, and the test that misses it."""


@pytest.mark.parametrize("loops", ['("trio",)', pytest.param("BackendSuite.loops", marks=pytest.mark.proof)])
def test_the_toy_passes_the_whole_suite_and_is_missed_where_it_is_broken(tmp_path, loops):
    """What the page shows, put together and run: the suite passes; with the page's way to make the toy fail, what was
    skipped without it is proved; and what the page invites to try, taken out, is missed by the test that it names."""
    backend, tests = blocks()
    (tmp_path / "onefile.py").write_text(backend)
    for name, test in tests.items():
        (tmp_path / name).write_text(test)
    with (tmp_path / "test_onefile.py").open("a") as file:
        file.write(f"    loops = {loops}\n")
    chosen = ["test_onefile.py"]
    suite = "test_onefile_failing.py::TestOneFileFailing"
    for number, (right, wrong, caught_by) in enumerate(BROKEN):
        assert right in backend
        (tmp_path / f"broken{number}.py").write_text(backend.replace(right, wrong))
        test = (tmp_path / "test_onefile.py").read_text().replace("from onefile ", f"from broken{number} ")
        (tmp_path / f"test_broken{number}.py").write_text(test)
        chosen.append(f"test_broken{number}.py::TestOneFile::{caught_by}")
    names = [name for name in dir(BackendSuite) if "failures_are" in name]
    found = run_suite(tmp_path, *chosen, *(f"{suite}::{name}" for name in names))
    whole = {name: outcomes for name, outcomes in found.items() if name.startswith("test_onefile::")}
    assert len(whole) > 40
    assert {outcome for outcomes in whole.values() for outcome in outcomes} <= {"passed", "skipped"}
    assert len(names) == 4
    assert all(set(found[f"test_onefile_failing::{name}"]) == {"passed"} for name in names)
    for number, (_, _, caught_by) in enumerate(BROKEN):
        assert "failure" in found[f"test_broken{number}::{caught_by}"], caught_by


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
        timeout=240,
    )
    assert done.stdout.strip() == "1", done.stderr
    assert (tmp_path / "store.json").exists()
