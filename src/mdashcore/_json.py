"""JSON as this package reads and writes it: the one place that knows its limits.

`msgspec` keeps integers of any size exact, refuses NaN and bad UTF-8, and raises three families of
errors; here they become one. Depth is limited because `msgspec` itself accepts more than a thousand
levels on Python 3.13, and what reads the document later may recurse on every one of them.
"""

from __future__ import annotations

import re
from math import isfinite
from typing import Any, Final

import msgspec

from mdashcore._errors import InvalidInput

MAX_DEPTH = 64  # a shadow may have 10 levels, a frame adds 4; nothing real comes near

_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
_encoder = msgspec.json.Encoder()
_check = msgspec.json.Decoder(msgspec.Raw).decode

encode = _encoder.encode
"""A Python value as compact JSON, in UTF-8; key order kept."""

DECODE_ERRORS = (msgspec.DecodeError, UnicodeError, RecursionError)
"""What a msgspec decoder raises for a text that it cannot accept; `UnicodeError` as a `str` may not encode."""


def decode(data: bytes | str, *, max_depth: int = MAX_DEPTH) -> Any:
    """The value of a JSON text.

    Raises:
        InvalidInput: it is not JSON (RFC 8259), or nested deeper than `max_depth`.
    """
    try:
        value = _decoder.decode(data)
    except DECODE_ERRORS as exc:
        raise InvalidInput(f"not valid JSON: {reason(exc)}") from None
    raw = data.encode() if isinstance(data, str) else data
    if too_deep(raw, max_depth):
        raise InvalidInput(f"JSON is nested deeper than {max_depth} levels")
    return value


def check(raw: bytes, *, max_depth: int = MAX_DEPTH) -> None:
    """Check that bytes are one JSON text in UTF-8, without making a value of it. Raises `InvalidInput`."""
    if type(raw) is not bytes:
        raise InvalidInput(f"raw JSON is bytes, not {type(raw).__name__}")
    try:
        if not raw.isascii():
            raw.decode()  # msgspec skips over what it does not read
        _check(raw)
    except DECODE_ERRORS as exc:
        raise InvalidInput(f"not valid JSON: {reason(exc)}") from None
    if too_deep(raw, max_depth):
        raise InvalidInput(f"JSON is nested deeper than {max_depth} levels")


def encode_strictly(value: object, *, max_depth: int = MAX_DEPTH) -> bytes:
    """A JSON value as compact JSON: None, a bool, a finite number, text, a list or tuple, a dict whose keys are text.

    `encode` also takes what it makes text of, such as bytes (as base64), and makes null of NaN, which deletes in a
    shadow: it is for values that are known to be JSON.

    Raises:
        InvalidInput: the value is, or holds, anything else; or it is nested deeper than `max_depth`.
    """
    try:
        raw = encode(value)
        _check_value(value)
    except InvalidInput:
        raise
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as exc:
        raise InvalidInput(f"not representable as JSON: {exc}") from None
    if too_deep(raw, max_depth):
        raise InvalidInput(f"JSON is nested deeper than {max_depth} levels")
    return raw


_PLAIN: Final = frozenset({str, int, bool, type(None)})  # a call for each of them would take most of the time


_SEQUENCES: Final = (list, tuple)


def _check_value(value: object) -> None:
    if isinstance(value, dict):
        for key, member in value.items():
            if type(key) is not str and not isinstance(key, str):
                raise InvalidInput(f"not representable as JSON: a key that is {type(key).__name__}")
            if type(member) not in _PLAIN:
                _check_value(member)
    elif isinstance(value, _SEQUENCES):
        for member in value:
            if type(member) not in _PLAIN:
                _check_value(member)
    elif isinstance(value, float):
        if not isfinite(value):
            raise InvalidInput("not representable as JSON: NaN or infinity")
    elif value is not None and not isinstance(value, str | int):
        raise InvalidInput(f"not representable as JSON: {type(value).__name__}")


def reason(exc: Exception) -> str:
    """What was wrong, in words that name no library."""
    if isinstance(exc, RecursionError):
        return "nested too deeply"
    if isinstance(exc, UnicodeError):
        return "not UTF-8"
    return str(exc).removeprefix("JSON is malformed: ")


_PLACE: Final = re.compile(r"\(byte (\d+)\)$")
_AROUND: Final = 24  # bytes that are quoted before and after a place: enough to find it, and no flood in a log


def place(data: bytes, exc: Exception) -> str:
    """`reason`, with the bytes around the place that it names, or those at the end."""
    words = reason(exc)
    found = _PLACE.search(words)
    if found is None and "truncated" not in words:
        return words
    at = len(data) if found is None else int(found[1])
    around = data[max(0, at - _AROUND) : at + _AROUND].decode("utf-8", "replace")
    return f"{words}, at {around!r}" if around else words


def too_deep(data: bytes, max_depth: int = MAX_DEPTH) -> bool:
    """Whether a JSON text nests deeper than `max_depth`, each level of which takes two bytes.

    The usual text costs two counts.

    Of a text that is not JSON the answer means nothing, but it comes in linear time.

    >>> too_deep(b'[[["[[["]]]', 3), too_deep(b"[[[[]]]]", 3)
    (False, True)
    """
    if len(data) <= 2 * max_depth or data.count(b"{") + data.count(b"[") <= max_depth:
        return False
    brackets = _brackets(data)
    depth = 0
    for byte in brackets:
        if byte in b"{[":
            depth += 1
            if depth > max_depth:
                return True
        else:
            depth -= 1
    return False


def balanced(data: bytes) -> bool:
    """Whether as many brackets close as open, strings left out; also of a text that is not JSON."""
    brackets = _brackets(data)
    return sum(map(brackets.count, (b"{", b"["))) == sum(map(brackets.count, (b"}", b"]")))


def _brackets(data: bytes) -> bytes:
    return _STRING.sub(b"", data).translate(None, _NOT_BRACKETS)


# The closing quote is optional: a search that fails at an open string starts again at each quote inside it.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NOT_BRACKETS = bytes(b for b in range(256) if b not in b"{}[]")
