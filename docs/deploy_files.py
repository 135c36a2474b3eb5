"""Writes the files of the folder deploy into how_to_guides/run_the_server.md, each between its marks.

::

    python docs/deploy_files.py            write them
    python docs/deploy_files.py --check    fail if the page has other files
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "how_to_guides" / "run_the_server.md"

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


def written(page: str) -> str:
    """The page with the files as they are. Each file of the folder has to have a place on it."""
    marks = r"(?P<begin><!-- (?P<path>deploy/\S+): begin[^\n]*-->)\n.*?(?P<end><!-- (?P=path): end -->)"
    found = {match["path"] for match in re.finditer(marks, page, re.DOTALL)}
    there = {f"deploy/{path.name}" for path in (ROOT / "deploy").iterdir()}
    if found != there:
        raise SystemExit(f"{PAGE.name} and the folder deploy do not have the same files: {sorted(found ^ there)}")
    return re.sub(marks, block, page, flags=re.DOTALL)


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    new = written(page)
    if sys.argv[1:] == ["--check"]:
        sys.exit(f"{PAGE.name} has other files than deploy: run python docs/deploy_files.py" if new != page else 0)
    PAGE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
