"""Comma-separated values (RFC 4180), which a spreadsheet never takes for formulas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = ["CSV_TYPE", "csv_line"]

CSV_TYPE: Final = "text/csv; charset=utf-8; header=present"

_FORMULA_SIGNS: Final = ("=", "+", "-", "@", "\t", "\r")  # a cell that begins so is a formula to a spreadsheet

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
    if value.startswith(_FORMULA_SIGNS):
        value = f"'{value}"
    elif _QUOTED_SIGNS.isdisjoint(value):
        return value
    return '"' + value.replace('"', '""') + '"'
