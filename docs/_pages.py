"""Texts that the scripts of this folder write into pages, and the check that a page has the present ones."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent


def replace_marked(page: str, texts: Mapping[str, str]) -> str:
    """Return a page with each text between the marks ``NAME: begin`` and ``NAME: end``, by name.

    Exits if the page has no such marks.
    """
    for name, text in texts.items():
        marks = rf"(<!-- {name}: begin[^\n]*-->\n).*?(<!-- {name}: end -->)"
        page, count = re.subn(marks, lambda match, text=text: f"{match[1]}{text}\n{match[2]}", page, flags=re.DOTALL)
        if count != 1:
            sys.exit(f"the page has no place for its {name}")
    return page


def main(path: Path, write: Callable[[str], str]) -> None:
    """Write a page anew or, with ``--check``, exit with an error if it is not what would be written.

    Args:
        write: returns the new page for the present one.
    """
    page = path.read_text(encoding="utf-8") if path.exists() else ""
    new = write(page)
    if sys.argv[1:] == ["--check"]:
        if new != page:
            sys.exit(f"{path.relative_to(ROOT)} is old: run make docs")
        return
    path.write_text(new, encoding="utf-8")
