"""Ranges of bytes: the part of a document that a client asks for (RFC 9110, section 14)."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["NO_PART", "parse_range"]

_RANGE: Final = re.compile(r"bytes=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*", re.IGNORECASE)

NO_PART: Final = range(0)
"""The part that a client gets which asks for one behind the end."""


def parse_range(text: str | None, size: int) -> range | None:
    """Return the bytes that a header ``Range`` asks for, of a document of `size` bytes.

    `None` stands for the whole document: the header is missing, has another unit or is not valid, or asks for several
    parts, which no client needs to continue a download.

    >>> parse_range("bytes=2-", 5), parse_range("bytes=-2", 5), parse_range("bytes=1-99", 5), parse_range(None, 5)
    (range(2, 5), range(3, 5), range(1, 5), None)
    >>> parse_range("bytes=5-", 5) == NO_PART
    True
    """
    match = _RANGE.fullmatch(text or "")
    if match is None or match[1] == match[2] == "":
        return None
    if not match[1]:
        last = min(int(match[2]), size)
        return range(size - last, size) if last else NO_PART
    first = int(match[1])
    end = min(int(match[2]) + 1, size) if match[2] else size
    if match[2] and int(match[2]) < first:
        return None  # not valid, so the header is ignored
    return range(first, end) if first < size else NO_PART
