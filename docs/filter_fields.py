"""Write the table of fields into reference/filters.md, from the grammar.

::

    python docs/filter_fields.py            write it
    python docs/filter_fields.py --check    fail if it is not what would be written
"""

from __future__ import annotations

from pathlib import Path

from _pages import main, replace_marked

from mdashcore.filters import FIELDS

PAGE = Path(__file__).parent / "reference" / "filters.md"


def table() -> str:
    """Return a row for each field."""
    lines = ["| Field | Operators | Reads |", "|---|---|---|"]
    for field in FIELDS.values():
        operators = " ".join("`=*`" if each == "*" else f"`{each}`" for each in field.operators.split())
        words = field.holds.replace("|", "\\|")
        lines.append(f"| `{field.form}` | {operators} | {words} |")
    return "\n".join(["", *lines, ""])


if __name__ == "__main__":
    main(PAGE, lambda page: replace_marked(page, {"fields": table()}))
