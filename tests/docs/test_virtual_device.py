"""The page of the virtual device: its table is the code's, its program runs."""

from __future__ import annotations

import re

from mdashcore.cli.device import CHARACTER_NAMES as NAMES
from mdashcore.virtual_device import CHARACTERS


def test_every_character_is_documented_and_no_other(page):
    """With the words of the code; the command offers the same."""
    shown = re.findall(r"^\| `([a-z-]+)` \| (.+) \|$", page("docs/reference/virtual_device.md").text, re.MULTILINE)
    assert shown == [(name, character.doc) for name, character in CHARACTERS.items()]
    assert [*CHARACTERS] == [*NAMES]


def test_the_program(page, run, tmp_path):
    """A character of one's own."""
    (tmp_path / "own.py").write_text(page("docs/reference/virtual_device.md").code("character"))
    assert "'fw_id': '19700101-000000/factory'" in run("python3 own.py", cwd=tmp_path).stdout
