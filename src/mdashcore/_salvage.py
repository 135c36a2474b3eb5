"""Recovers the id and the kind of a frame that is broken, or of which only the ends were kept.

The scanner accepts any token in the place of a value. It tracks brackets and strings, so that it can tell a member of
the frame itself from a member of a nested value.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

__all__ = ["END_SIZE", "SalvagedFrame", "salvage"]

END_SIZE: Final = 2**12  # bytes of each end: real frames have the id before or behind all large members

_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\],:]|[^\s{}\[\],:"]++|"', re.DOTALL)

_ID: Final = re.compile(rb'-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|"[ !#-\[\]-~]*"')
"""Strictly JSON, because the id may be echoed. Only strings without escapes match."""

_SCALAR: Final = rb'(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"|[^\s{}\[\],:"]++)'

_LAST_MEMBERS: Final = re.compile(rb"\s*+(%b)\s*+(?:,\s*+%b\s*+:\s*+%b\s*+)*+\}\s*+" % (_SCALAR, _SCALAR, _SCALAR))
"""The text behind a key and its colon: a scalar, and then only members with scalars until the end of the frame."""

_REQUEST: Final = frozenset((b'"method"', b'"params"', b'"args"'))
_ANSWER: Final = frozenset((b'"result"', b'"error"'))


class SalvagedFrame(NamedTuple):
    """The facts that could be recovered from a frame."""

    id: bytes | None
    """Raw JSON of a number or a string; `None` if no id was found."""

    is_request: bool
    """Whether the frame was meant as a request or a notification. False for an answer, and if the kind is unknown."""


def salvage(head: bytes, tail: bytes = b"") -> SalvagedFrame:
    """Recover the id and the kind of a frame, in linear time for any bytes.

    Args:
        head: the first bytes of the frame, or all of them.
        tail: the last bytes, if `head` is not the whole frame.

    >>> salvage(b'{"id":7,"error":{"code":500,"message":}}')
    SalvagedFrame(id=b'7', is_request=False)
    """
    members = _first_members(head[:END_SIZE])
    for key in (b'"id"', b'"method"'):
        if key not in members and (value := _last_member(tail[-END_SIZE:], key)) is not None:
            members[key] = value
    id_ = members.get(b'"id"', b"")
    is_request = not _REQUEST.isdisjoint(members) and _ANSWER.isdisjoint(members)
    return SalvagedFrame(id_ if _ID.fullmatch(id_) else None, is_request)


def _first_members(head: bytes) -> dict[bytes, bytes]:
    """Return the members of the frame itself, as far as they can be read.

    A value is empty if it is not a scalar, or may be cut off.
    """
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
            break  # a string without an end: the rest of the frame may belong to it
        elif token == b":":
            key, text = text, b""
            members.setdefault(key, b"")
        elif key:
            value = b"" if value else token
        else:
            text = token
    return members


def _last_member(tail: bytes, key: bytes) -> bytes | None:
    """Return the value of the frame's own member `key`, if only members with scalars follow it."""
    start = max((found.end() for found in re.finditer(rb"[,{]\s*+%b\s*+:" % key, tail)), default=None)
    found = None if start is None else _LAST_MEMBERS.fullmatch(tail, start)
    return None if found is None else found[1]
