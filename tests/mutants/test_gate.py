"""What the gate says of tests that fail beside others."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

RUN = (Path(__file__).parents[1] / "run").read_text(encoding="utf-8")
FUNCTION = re.search(r"^UNSTABLE=.*?^}$", RUN, re.MULTILINE | re.DOTALL)

TESTS = """
import pathlib

def once(name):
    mark = pathlib.Path(name)
    is_first = not mark.exists()
    mark.touch()
    return is_first
"""
UNSTABLE = "\ndef test_unstable_{n}():\n    assert not once('first-{n}')\n"
BROKEN = "\ndef test_broken():\n    assert False\n"
GOOD = "\ndef test_good():\n    assert once('good')\n"

CASES = {  # tests: exit code, unstable tests that are named
    "two": (GOOD + UNSTABLE.format(n=1) + UNSTABLE.format(n=2), 0, 2),
    "three": ("".join(UNSTABLE.format(n=n) for n in (1, 2, 3)), 1, 0),
    "broken and unstable": (BROKEN + UNSTABLE.format(n=1), 1, 0),
    "no module": ("import nothing_of_this_name\n", 2, 0),
}


@pytest.mark.parametrize("case", CASES)
def test_one_or_two_tests_may_run_again_alone(case, tmp_path):
    """They are named if they pass then; what fails again, or more of them, fails the gate. Others do not run again."""
    tests, code, named = CASES[case]
    (tmp_path / "test_it.py").write_text(TESTS + tests, encoding="utf-8")
    (tmp_path / "venv/bin").mkdir(parents=True)
    (tmp_path / "venv/bin/python").symlink_to(sys.executable)
    assert FUNCTION
    script = f"set -euo pipefail\nsay() {{ :; }}\n{FUNCTION[0]}\ntested venv -q --rootdir . test_it.py || exit $?\n"
    quickly = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    found = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=quickly, capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout.count("!! UNSTABLE")) == (code, named), found.stdout + found.stderr
