"""The pages on the architecture and on storage show the folders, modules and collections that exist."""

import re
from pathlib import Path

import pytest

from mdashcore.hub.feed import log_names
from mdashcore.hub.records.schema import COLLECTIONS

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
PACKAGE = SOURCE / "mdashcore"


@pytest.fixture(scope="module")
def text():
    return (ROOT / "docs" / "discussion" / "architecture.md").read_text()


def test_every_folder_has_its_line(text):
    """But for the folders of a view's parts, which the line of `views/` covers."""
    table = text.partition("## The tree at a glance")[2].partition("\n## ")[0]
    shown = re.findall(r"^\| `([a-z_/]+)/` \|", table, re.MULTILINE)
    there = {str(path.parent.relative_to(SOURCE)) for kind in ("*.py", "*.js") for path in SOURCE.rglob(kind)}
    assert len(shown) == len(set(shown))
    assert set(shown) == {path for path in there if not path.startswith("mdashcore/server/ui/views/")}


def test_modules_that_are_named_exist(text):
    """A path in the text is one below `src/mdashcore`."""
    named = set(re.findall(r"`([a-z_]+(?:/[a-z_]+)*\.py)`", text))
    assert named
    assert not [path for path in named if not (PACKAGE / path).exists() and not (SOURCE / path).exists()]


def test_every_collection_has_its_row():
    """With the form of its keys, what a document holds, and whether a backup has it; and both logs are named."""
    page = (ROOT / "docs" / "reference" / "storage.md").read_text()
    section = page.partition("## What a service stores")[2]
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \| (.+) \| (yes|no) \|$", section, re.MULTILINE)
    assert rows == [
        (each.name, each.key, each.holds, "yes" if each.exported else "no") for each in COLLECTIONS.values()
    ]
    assert all(f"`{name}`" in section for name in log_names("ACCOUNT"))
