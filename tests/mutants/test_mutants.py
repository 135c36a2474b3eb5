"""Defects that the tests have to find: the list in mutants.toml."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MUTANTS = tomllib.loads((Path(__file__).parent / "mutants.toml").read_text(encoding="utf-8"))["mutant"]

FAILED = 1  # pytest's exit code where tests have run, and not all have passed
LIMIT = 300  # seconds for the tests of one mutant

each_mutant = pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant["what"])


@each_mutant
def test_the_list_fits_the_source(mutant):
    """Each original stands in its file exactly once, and is replaced by something else that is Python; each test file
    exists."""
    source = (ROOT / "src" / mutant["file"]).read_text(encoding="utf-8")
    assert source.count(mutant["original"]) == 1, mutant["file"]
    assert mutant["original"] != mutant["replacement"]
    compile(source.replace(mutant["original"], mutant["replacement"]), mutant["file"], "exec")
    assert mutant["tests"]
    for test in mutant["tests"]:
        assert (ROOT / test).is_file(), test


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A copy of the source, in which a test may put a defect."""
    return shutil.copytree(ROOT / "src", tmp_path_factory.mktemp("mutants") / "src")


@pytest.mark.proof
@each_mutant
def test_the_tests_find_it(mutant, sources):
    """At least one of the tests that are named with it fails."""
    file = sources / mutant["file"]
    sound = file.read_text(encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *mutant["tests"]]
    environment = {**os.environ, "PYTHONPATH": str(sources), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        file.write_text(sound.replace(mutant["original"], mutant["replacement"]), encoding="utf-8")
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT)
    finally:
        file.write_text(sound, encoding="utf-8")
    assert done.returncode == FAILED, f"it survives:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
