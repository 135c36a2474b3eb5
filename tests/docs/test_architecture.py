"""The page on the architecture shows the folders that exist, and the modules that it names are there."""

import re
from pathlib import Path

import pytest

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
