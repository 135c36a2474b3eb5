"""The lowest versions of the libraries that `pyproject.toml` allows. The gate itself runs with the newest ones."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

EXTRAS = "agent,server,redis,testing"
LISTED = [
    *PROJECT["project"]["dependencies"],
    *(each for name in EXTRAS.split(",") for each in PROJECT["project"]["optional-dependencies"][name]),
]
BOUNDS = {found[1]: found[2] for each in LISTED if (found := re.match(r"([\w-]+)>=([\d.]+)", each))}
"""The lowest version of each library."""

NEEDS_NEWER = {"schemathesis"}
"""Tools that would bring newer versions with them; the tests that use them are skipped here."""

TOOLS = {re.match(r"[\w-]+", each)[0] for each in PROJECT["dependency-groups"]["test"]} - NEEDS_NEWER - set(BOUNDS)

TESTS = {
    "core, hub": ["tests/core", "tests/hub"],
    "trio, SQLite, help": ["tests/trio", "tests/backends/test_sqlite.py", "tests/cli/test_help.py"],
    "server": ["tests/server"],
}


@pytest.fixture(scope="module")
def lowest(make_environment):
    """An environment with the lowest versions, and the tools of the tests."""
    environment = make_environment()
    environment.install("--resolution", "lowest-direct", "--editable", f".[{EXTRAS}]")
    environment.install(*sorted(TOOLS))  # in the newest versions that go with them
    return environment


@pytest.mark.proof
def test_the_bounds_are_the_versions_that_are_tested(lowest):
    """No other library forces a higher one: a bound that is below what can be installed says nothing."""
    command = [sys.executable, "-m", "uv", "pip", "list", "--format", "json", "--python", str(lowest.bin / "python")]
    said = subprocess.run(command, env=lowest.variables, capture_output=True, text=True, check=True).stdout
    installed = {each["name"]: each["version"] for each in json.loads(said)}
    for name, bound in BOUNDS.items():
        assert (installed[name] + ".0.0").startswith(f"{bound}."), (name, bound, installed[name])


@pytest.mark.proof
@pytest.mark.parametrize("part", TESTS)
def test_the_suite_passes_with_them(lowest, part):
    """The tests of core, hub, trio and server, SQLite and the command's help."""
    options = ["-q", "-n", "2", "--hypothesis-profile=again", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [str(lowest.bin / "python"), "-m", "pytest", *options, *TESTS[part]],
        env=lowest.variables,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-5000:]
