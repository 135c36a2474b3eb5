"""Writes the files of the folder deploy into the how-to guides, each between its marks on one of the pages.

::

    python docs/deploy_files.py            write them
    python docs/deploy_files.py --check    fail if the pages have other files
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs" / "how_to_guides").glob("*.md"))

MARKS = r"(?P<begin><!-- (?P<path>deploy/\S+): begin[^\n]*-->)\n.*?(?P<end><!-- (?P=path): end -->)"

LANGUAGES = {
    "Caddyfile": "text",
    "compose.toml": "toml",
    "compose.yaml": "yaml",
    "Dockerfile": "dockerfile",
    "haproxy.cfg": "cfg",
    "mdash.service": "ini",
    "mdash.toml": "toml",
    "nginx.conf": "nginx",
}
"""By the name of a file: the language of its block."""


def block(match: re.Match[str]) -> str:
    """The marks with the file between them."""
    text = (ROOT / match["path"]).read_text(encoding="utf-8")
    language = LANGUAGES[Path(match["path"]).name]
    return f"{match['begin']}\n```{language}\n{text}```\n{match['end']}"


def main() -> None:
    """Each file of the folder has to have one place."""
    texts = {page: page.read_text(encoding="utf-8") for page in PAGES}
    found = sorted(match["path"] for text in texts.values() for match in re.finditer(MARKS, text, re.DOTALL))
    there = sorted(f"deploy/{path.name}" for path in (ROOT / "deploy").iterdir())
    if found != there:
        raise SystemExit(f"the guides have the files {found}, and the folder deploy has {there}")
    for page, text in texts.items():
        new = re.sub(MARKS, block, text, flags=re.DOTALL)
        if sys.argv[1:] == ["--check"] and new != text:
            sys.exit(f"{page.name} has other files than deploy: run python docs/deploy_files.py")
        page.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
