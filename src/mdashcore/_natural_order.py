"""The natural order of texts, in which digits count as numbers: ``1.9`` is before ``1.10``."""

from __future__ import annotations

import re
from typing import TypeAlias

__all__ = ["NaturalKey", "natural_key"]

NaturalKey: TypeAlias = tuple[tuple[bool, int, str], ...]

_RUN = re.compile("[0-9]+|[^0-9]+")


def natural_key(text: str) -> NaturalKey:
    """Return the key of a text, by which texts compare in natural order. Digits are before other characters.

    >>> sorted(["1.10-rc1", "1.10", "1.9", "b", "7", "07"], key=natural_key)
    ['1.9', '1.10', '1.10-rc1', '7', '07', 'b']
    """
    return tuple(map(_run_key, _RUN.findall(text)))


def _run_key(run: str) -> tuple[bool, int, str]:
    """Return the key of a run. A number has its length before its digits: it may be too long for an int."""
    if run[0] not in "0123456789":
        return True, 0, run
    digits = run.lstrip("0")
    return False, len(digits), digits
