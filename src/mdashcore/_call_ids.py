"""The ids of calls, as peers repeat them."""

from __future__ import annotations

import re
from typing import Final

from mdashcore._messages import RawJson

__all__ = ["call_id"]

MAX_ROUNDED: Final = 1_000_000  # C's "%g" writes an exponent from here on, with six digits: the id may be another

_FLOAT: Final = re.compile(rb"\d+(?:\.\d+)?(?:[eE][+-]?\d{1,2})?")


def call_id(raw: RawJson | None) -> int | None:
    """Return an id as an int, also if the peer has made a string or a floating-point number of it."""
    if raw is None:
        return None
    digits = raw.strip(b'"')
    if digits.isdigit():
        return int(digits)  # MAX_ID bounds the work
    if _FLOAT.fullmatch(digits) is None or not (value := float(digits)).is_integer():
        return None
    return int(value) if b"e" not in digits.lower() or value < MAX_ROUNDED else None
