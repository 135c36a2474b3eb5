"""Comma-separated values (RFC 4180), which a spreadsheet never takes for formulas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = ["CSV_TYPE", "csv_line", "unguarded"]

CSV_TYPE: Final = "text/csv; charset=utf-8; header=present"

# A cell that begins so is a formula to a spreadsheet; some skip a line break, and read full-width signs as the others.
_FORMULA_SIGNS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")

_QUOTED_SIGNS: Final = frozenset(',"\r\n')


def csv_line(cells: Sequence[str | float]) -> str:
    r"""Return a line of cells.

    Text that begins like a formula gets an apostrophe in front, as spreadsheets write such text themselves. A number
    that begins with a sign is quoted.

    >>> csv_line(["=1+1", "a,b", -1.5, 2])
    '"\'=1+1","a,b","-1.5",2\r\n'
    """
    return ",".join(map(_cell, cells)) + "\r\n"


def _cell(value: str | float) -> str:
    if not isinstance(value, str):
        text = repr(value)
        return f'"{text}"' if text.startswith("-") else text
    if _is_guarded(value):
        value = f"'{value}"
    elif _QUOTED_SIGNS.isdisjoint(value):
        return value
    return '"' + value.replace('"', '""') + '"'


def unguarded(text: str) -> str:
    """Return the text of a cell as it was before `csv_line` put an apostrophe in front.

    >>> unguarded("'=1+1"), unguarded("'s")
    ('=1+1', "'s")
    """
    return text[1:] if text.startswith("'") and _is_guarded(text) else text


def _is_guarded(text: str) -> bool:
    """Return whether a text gets an apostrophe. One that begins with it gets another, so that `unguarded` is exact."""
    return text.lstrip("'").startswith(_FORMULA_SIGNS)
