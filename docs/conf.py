"""The site of the documentation: `make docs`. The pages are those of the repository, as they are.

The source folder is the repository's, so that links between pages are the same here and there.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from pygments.lexers.data import JsonLexer
from sphinx.application import Sphinx

import mdashcore

sys.path.insert(0, str(Path(__file__).parent / "_site"))

project = "mdashcore"
version = release = mdashcore.__version__
copyright = "the authors of mdashcore, Apache-2.0"

extensions = ["myst_parser", "diagrams"]
root_doc = "docs/index"
include_patterns = ["docs/**/*.md", "docs/*.md", "CHANGELOG.md", "CONTRIBUTING.md"]
exclude_patterns = [".*", "node_modules", "build", "dist", "src", "tests", "benchmarks", "deploy", "docs/_site"]

nitpicky = True  # a reference that leads nowhere is a warning, and `make docs` makes errors of those
myst_heading_anchors = 4

linkcheck_ignore = [r"http://127\.0\.0\.1"]  # a reader's own server
linkcheck_timeout = 20  # seconds

html_theme = "furo"
html_title = f"mdashcore {version}"
html_static_path = ["_site/static"]
html_css_files = ["site.css"]
html_favicon = "../src/mdashcore/server/ui/icon.svg"
html_copy_source = False
html_show_sphinx = False
html_extra_path = ["_site/root"]


def _add_contents(app: Sphinx, docname: str, source: list[str]) -> None:
    """Make the contents of the site from the lists of the index page: a part for each heading."""
    if docname != root_doc:
        return
    parts = re.split(r"^## (.+)$", source[0], flags=re.MULTILINE)[1:]
    for heading, text in zip(parts[::2], parts[1::2], strict=True):
        pages = re.findall(r"^\* \[[^]]+\]\(([^)]+)\.md\)", text, re.MULTILINE)
        options = f":hidden:\n:titlesonly:\n:maxdepth: 1\n:caption: {heading}"
        source[0] += "\n".join(["", "```{toctree}", options, "", *pages, "```", ""])


def setup(app: Sphinx) -> None:
    """Connect what is above."""
    app.add_lexer("jsonl", JsonLexer)
    app.connect("source-read", _add_contents)
