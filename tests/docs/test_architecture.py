"""The pages on the architecture and on storage show the folders, modules and collections that exist."""

import ast
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


def box_of(module: str, boxes: set[str]) -> str:
    """Return the box of the diagram that has a module: that of its package, or of a folder or module with a box."""
    package, _, rest = module.partition(".")
    name = package if package in boxes else rest.partition(".")[0]
    return name if name in boxes else "core"


def test_the_diagram_has_the_imports(text):
    """Its boxes hold all modules; an arrow is an import, and each import follows arrows down. Dashed ones are none."""
    diagram = text.partition("```mermaid\nflowchart TD\n")[2].partition("```")[0]
    arrows = set(re.findall(r'(\w+)(?:\["[^"]*"\])? --> (\w+)', diagram))
    boxes = set(re.findall(r"(\w+)\[", diagram))
    imports = set()
    for path in SOURCE.rglob("*.py"):
        module = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and re.match(r"mdash(core|_backends)\.", node.module or ""):
                imports.add((box_of(module, boxes), box_of(str(node.module), boxes)))
    imports = {(upper, lower) for upper, lower in imports if upper != lower and upper != "testing"}
    reached = set(arrows) | {("mdash_backends", "storage"), ("mdash_backends", "core")}
    while more := {(a, d) for a, b in reached for c, d in reached if b == c} - reached:
        reached |= more
    assert imports - {("core", "cli")} <= reached  # `python -m mdashcore` is the command
    assert arrows <= imports
