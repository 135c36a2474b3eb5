"""Write the version of the package into the names of wheels on the pages that have commands with them.

::

    python docs/wheel_names.py            write them
    python docs/wheel_names.py --check    fail if a page names another version

A page names the present version, and the next minor one where it tells of an upgrade.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import mdashcore

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "docs" / "how_to_guides" / name for name in ("install.md", "deploy_with_systemd.md")]

WHEEL = re.compile(r"(?P<upgrade>--upgrade '\./|)mdashcore-\d+\.\d+\.\d+-py3")


def written(page: str) -> str:
    """The page with the names of the present wheels."""
    major, minor, _ = map(int, mdashcore.__version__.split(".")[:3])

    def name(match: re.Match[str]) -> str:
        version = f"{major}.{minor + 1}.0" if match["upgrade"] else mdashcore.__version__
        return f"{match['upgrade']}mdashcore-{version}-py3"

    return WHEEL.sub(name, page)


def main() -> None:
    for path in PAGES:
        page = path.read_text(encoding="utf-8")
        new = written(page)
        if new == page:
            continue
        if sys.argv[1:] == ["--check"]:
            sys.exit(f"{path.name} names the wheel of another version: run make docs")
        path.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
