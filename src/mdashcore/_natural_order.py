"""The natural order of texts, in which digits count as numbers: ``1.9`` is before ``1.10``."""

from __future__ import annotations

import re
from itertools import islice
from typing import TypeAlias

__all__ = ["NaturalKey", "compact_key", "natural_key"]

NaturalKey: TypeAlias = tuple[tuple[bool, int, str], ...]

_RUN = re.compile("[0-9]+|[^0-9]+")


def natural_key(text: str, runs: int | None = None) -> NaturalKey:
    """Return the key of a text, by which texts compare in natural order. Digits are before other characters.

    Args:
        runs: the maximum number of runs, of digits or of other characters, that the key has; `None` for all of them.

    >>> sorted(["1.10-rc1", "1.10", "1.9", "b", "7", "07"], key=natural_key)
    ['1.9', '1.10', '1.10-rc1', '7', '07', 'b']
    """
    return tuple(_run_key(run[0]) for run in islice(_RUN.finditer(text), runs))


def _run_key(run: str) -> tuple[bool, int, str]:
    """Return the key of a run. A number has its length before its digits: it may be too long for an int."""
    if run[0] not in "0123456789":
        return True, 0, run
    digits = run.lstrip("0")
    return False, len(digits), digits


_NUMBER = re.compile("[0-9]+")

_ESCAPED = str.maketrans({"\0": "\1\1", "\1": "\1\2"})
"""Leaves the sign of a number to numbers, and the order of characters as it is."""


def compact_key(text: str) -> str:
    """Return a key that compares as that of `natural_key`, for many that are kept: at most twice as long as the text.

    >>> sorted(["1.10-rc1", "1.10", "1.9", "b", "7", "07"], key=compact_key)
    ['1.9', '1.10', '1.10-rc1', '7', '07', 'b']
    """
    if "\0" in text or "\1" in text:
        text = text.translate(_ESCAPED)
    return _NUMBER.sub(_compact_number, text)


def _compact_number(found: re.Match[str]) -> str:
    """Return the key of a number: a sign before any other, the number of its digits, and these."""
    digits = found[0].lstrip("0")
    return f"\0{chr(len(digits) + 1)}{digits}"
