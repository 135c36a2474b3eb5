"""What can be read of a frame that is broken, or of which only the ends were kept: whose answer it was.

A scanner that takes whatever comes in the place of a value. It knows brackets and strings, so that a member of the
frame itself is told from one of a value in it.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

__all__ = ["ENDS", "Salvaged", "salvage"]

ENDS: Final = 2**12  # bytes of each end: real frames have the id before or behind all that is large

_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\],:]|[^\s{}\[\],:"]++|"', re.DOTALL)

_ID: Final = re.compile(rb'-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|"[ !#-\[\]-~]*"')
"""Strictly JSON, for it may be echoed; of strings the plain ones."""

_SCALAR: Final = rb'(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"|[^\s{}\[\],:"]++)'

_LAST_MEMBERS: Final = re.compile(rb"\s*+(%b)\s*+(?:,\s*+%b\s*+:\s*+%b\s*+)*+\}\s*+" % (_SCALAR, _SCALAR, _SCALAR))
"""Behind a key and its colon: a scalar, and nothing but more members with scalars until the end of the frame."""

_REQUEST: Final = frozenset((b'"method"', b'"params"', b'"args"'))
_ANSWER: Final = frozenset((b'"result"', b'"error"'))


class Salvaged(NamedTuple):
    """What is known of a frame."""

    id: bytes | None
    """Raw JSON: a number or a string. None: not found."""

    is_request: bool
    """It was meant as a request or a notification; otherwise as an answer, or it is not known as what."""


def salvage(head: bytes, tail: bytes = b"") -> Salvaged:
    """Read what can be read; in linear time, whatever the bytes are.

    Args:
        head: the first bytes of the frame, or all of them.
        tail: the last bytes, where `head` is not all.

    >>> salvage(b'{"id":7,"error":{"code":500,"message":}}')
    Salvaged(id=b'7', is_request=False)
    """
    members = _first_members(head[:ENDS])
    for key in (b'"id"', b'"method"'):
        if key not in members and (value := _last_member(tail[-ENDS:], key)) is not None:
            members[key] = value
    id_ = members.get(b'"id"', b"")
    is_request = not _REQUEST.isdisjoint(members) and _ANSWER.isdisjoint(members)
    return Salvaged(id_ if _ID.fullmatch(id_) else None, is_request)


def _first_members(head: bytes) -> dict[bytes, bytes]:
    """The members of the frame itself, as far as they go: empty where the value is no scalar, or may be cut off."""
    members: dict[bytes, bytes] = {}
    depth, text, key, value = 0, b"", b"", b""
    for token in map(re.Match[bytes].group, _TOKEN.finditer(head)):
        if token in b"{[":
            depth += 1
            if depth == 1 and token == b"[":
                break  # a batch
        elif token in b"}]":
            depth -= 1
        is_end = depth == 0 or (depth == 1 and token == b",")
        if is_end:
            if key:
                members[key] = value
            text = key = value = b""
            if depth == 0:
                break
        elif depth > 1 or token in b"{}[]":
            continue
        elif token == b'"':
            break  # a string without an end, and all the rest may be in it
        elif token == b":":
            key, text = text, b""
            members.setdefault(key, b"")
        elif key:
            value = b"" if value else token
        else:
            text = token
    return members


def _last_member(tail: bytes, key: bytes) -> bytes | None:
    """The value of the frame's own member of this name, where only scalars follow it."""
    start = max((found.end() for found in re.finditer(rb"[,{]\s*+%b\s*+:" % key, tail)), default=None)
    found = None if start is None else _LAST_MEMBERS.fullmatch(tail, start)
    return None if found is None else found[1]
