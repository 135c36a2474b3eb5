"""Moments as people and programs write them: Unix seconds, or RFC 3339."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

from mdashcore._errors import InvalidInput

__all__ = ["parse_moment"]

MAX_MOMENT: Final = 253_402_300_799.0  # Unix seconds of the last second of the year 9999, which RFC 3339 can write

_NUMBER: Final = re.compile(r"[0-9]{1,12}(?:\.[0-9]{0,9})?")


def parse_moment(text: str) -> float:
    """Return a moment in Unix seconds.

    >>> parse_moment("1798761600"), parse_moment("2027-01-01T01:00:00+01:00")
    (1798761600.0, 1798761600.0)

    Raises:
        InvalidInput: the text names none, or one that is not from 1970 to 9999.
    """
    try:
        time = float(text) if _NUMBER.fullmatch(text) else _from_rfc_3339(text)
    except (ValueError, OverflowError):
        raise InvalidInput("a time is written in Unix seconds, or as 2026-12-31T23:59:59Z") from None
    if not 0 <= time <= MAX_MOMENT:
        raise InvalidInput("a time is one from 1970 to 9999")
    return time


def _from_rfc_3339(text: str) -> float:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no offset from UTC")
    return moment.timestamp()
