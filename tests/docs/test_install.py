"""Install and upgrade: the page's lines in real shells."""

from __future__ import annotations

import re
import shlex
import shutil
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

COMPLETE = """
COMP_WORDS=(mdash dev); COMP_CWORD=1; _mdash_completion mdash; printf '%s\\n' "${COMPREPLY[@]}"
COMPREPLY=()
COMP_WORDS=(mdash devices list --fil); COMP_CWORD=3; _mdash_completion mdash; printf '%s\\n' "${COMPREPLY[@]}"
"""
"""What bash does for the key Tab, after `mdash dev` and after `mdash devices list --fil`."""


@pytest.fixture(scope="module")
def guide(page):
    return page("docs/how_to_guides/install.md")


def test_every_extra_is_in_the_table(guide):
    """And no other."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = re.findall(r"^\| `(\w+)` \|", guide.section("## Extras"), re.MULTILINE)
    assert sorted(listed) == sorted(project["optional-dependencies"])


def test_the_wheels_have_the_present_version(run):
    """Of the package, and of the next one where the page tells of an upgrade: as `docs/wheel_names.py` writes them."""
    run("python3 docs/wheel_names.py --check", cwd=ROOT)


def test_bash_completes(guide, run):
    """With the page's line: commands, and options of a command."""
    assert run(guide.code("bash") + COMPLETE).stdout.split() == ["device", "devices", "--filter"]


IN_SHELL = {
    "zsh": ("zsh -fc", "autoload -Uz compinit; compinit -uD; {line}; echo $_comps[mdash]", "_mdash_completion"),
    "fish": ("fish -c", '{line}; complete -C "mdash devices list --fil"', "--filter"),
}
"""How each is started, what it is given with the page's line in it, and what it then prints."""


@pytest.mark.parametrize("shell", IN_SHELL)
def test_other_shells_complete(guide, run, shell):
    """The command has a script for each; the shell itself takes it, where it is installed."""
    line = guide.code(shell).strip()
    assert "mdash" in run(re.search(rf"_MDASH_COMPLETE={shell}_source mdash", line)[0]).stdout
    if shutil.which(shell):
        start, script, printed = IN_SHELL[shell]
        assert run(f"{start} {shlex.quote(script.format(line=line))}").stdout.startswith(printed)
