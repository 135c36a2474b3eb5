"""JSON as this package reads and writes it. All limits for JSON are set here.

`msgspec` keeps integers of any size exact, refuses NaN and bad UTF-8, and raises three families of
errors, which become one here. Depth is limited because `msgspec` itself accepts more than a thousand
levels on Python 3.13, and later readers of the document may recurse once for each level.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import accumulate
from math import isfinite
from typing import Any, Final

import msgspec

from mdashcore._errors import InvalidInput, TooLarge

MAX_DEPTH = 64  # a shadow may have 10 levels, a frame adds 4; no real message comes near

MAX_CONTAINERS = 2**14  # objects and arrays of a text from outside: a full shadow has room for 11 000 empty arrays, and
# more of them delay all other connections by 10 ms

_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
_encoder = msgspec.json.Encoder()
_check = msgspec.json.Decoder(msgspec.Raw).decode

encode = _encoder.encode
"""Encode a Python value as compact JSON in UTF-8, with the keys in their order."""

DECODE_ERRORS = (msgspec.DecodeError, UnicodeError, RecursionError)
"""The errors of a msgspec decoder. `UnicodeError` is there because a `str` may have no encoding."""


def decode(data: bytes | str, *, max_depth: int = MAX_DEPTH) -> Any:
    """Decode a JSON text.

    Args:
        max_depth: levels of nesting.

    Raises:
        InvalidInput: the text is not JSON (RFC 8259), or is nested deeper than `max_depth`.
    """
    try:
        value = _decoder.decode(data)
    except DECODE_ERRORS as exc:
        raise InvalidInput(f"not valid JSON: {reason(exc)}") from None
    if len(data) > 2 * max_depth and too_deep(data.encode() if isinstance(data, str) else data, max_depth):
        raise InvalidInput(f"JSON is nested deeper than {max_depth} levels")
    return value


def decode_foreign(data: bytes, *, max_depth: int = MAX_DEPTH) -> Any:
    """Return the value of a JSON text that a client or a device has sent.

    Raises:
        InvalidInput: as `decode`.
        TooLarge: it has more objects and arrays than `MAX_CONTAINERS`, which is seen before they are made.
    """
    if data.count(b"{") + data.count(b"[") > MAX_CONTAINERS:
        brackets = _brackets(data)  # brackets in strings do not count
        if brackets.count(b"{") + brackets.count(b"[") > MAX_CONTAINERS:
            raise TooLarge(f"JSON has more than {MAX_CONTAINERS} objects and arrays")
    return decode(data, max_depth=max_depth)


def check(raw: bytes, *, max_depth: int = MAX_DEPTH) -> None:
    """Raise `InvalidInput` unless the bytes are one JSON text in UTF-8. Makes no Python value of it."""
    if type(raw) is not bytes:
        raise InvalidInput(f"raw JSON is bytes, not {type(raw).__name__}")
    try:
        if not raw.isascii():
            raw.decode()  # msgspec does not check the UTF-8 of strings that it skips
        _check(raw)
    except DECODE_ERRORS as exc:
        raise InvalidInput(f"not valid JSON: {reason(exc)}") from None
    if len(raw) > 2 * max_depth and too_deep(raw, max_depth):
        raise InvalidInput(f"JSON is nested deeper than {max_depth} levels")


def json_array(parts: Iterable[bytes]) -> bytes:
    """Return the JSON array of values that are already encoded."""
    return b"[%b]" % b",".join(parts)


def encode_strictly(value: object, *, max_depth: int = MAX_DEPTH) -> bytes:
    """Encode a value that is exactly representable as compact JSON.

    Accepted are `None`, a bool, a finite number, text, a list or tuple, and a dict whose keys are text. `encode`
    accepts more: it makes a base64 string of bytes, and null of NaN, which would delete a key of a shadow. So `encode`
    is only for values that are known to be JSON.

    Raises:
        InvalidInput: the value is, or holds, anything else; or is nested deeper than `max_depth`.
    """
    try:
        raw = encode(value)
        _check_value(value)
    except InvalidInput:
        raise
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as exc:
        raise InvalidInput(f"not representable as JSON: {exc}") from None
    if len(raw) > 2 * max_depth and too_deep(raw, max_depth):
        raise InvalidInput(f"JSON is nested deeper than {max_depth} levels")
    return raw


_PLAIN: Final = frozenset({str, int, bool, type(None)})  # a function call for each of these would take most of the time


_SEQUENCES: Final = (list, tuple)


def _check_value(value: object) -> None:
    if isinstance(value, dict):
        for key, member in value.items():
            if type(key) is not str and not isinstance(key, str):
                raise InvalidInput(f"not representable as JSON: a key that is {type(key).__name__}")
            kind = type(member)
            if kind not in _PLAIN and (kind is not float or not isfinite(member)):
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
    """Return the cause of a decoding error in words that name no library."""
    if isinstance(exc, RecursionError):
        return "nested too deeply"
    if isinstance(exc, UnicodeError):
        return "not UTF-8"
    return str(exc).removeprefix("JSON is malformed: ")


_PLACE: Final = re.compile(r"\(byte (\d+)\)$")
_AROUND: Final = 24  # bytes that are quoted before and after a place: enough to find it, without flooding a log


def place(data: bytes, exc: Exception) -> str:
    """Return `reason`, followed by the bytes around the place that the error names, or the last bytes of the text."""
    words = reason(exc)
    found = _PLACE.search(words)
    if found is None and "truncated" not in words:
        return words
    at = len(data) if found is None else int(found[1])
    around = data[max(0, at - _AROUND) : at + _AROUND].decode("utf-8", "replace")
    return f"{words}, at {around!r}" if around else words


def too_deep(data: bytes, max_depth: int = MAX_DEPTH) -> bool:
    """Return whether a JSON text is nested deeper than `max_depth`.

    A usual text costs two counts. For a text that is not JSON the result has no meaning, but is still found in linear
    time.

    >>> too_deep(b'[[["[[["]]]', 3), too_deep(b"[[[[]]]]", 3)
    (False, True)
    """
    if len(data) <= 2 * max_depth or data.count(b"{") + data.count(b"[") <= max_depth:
        return False
    steps = memoryview(_brackets(data).translate(_STEPS)).cast("b")
    return max(accumulate(steps), default=0) > max_depth


def balanced(data: bytes) -> bool:
    """Return whether as many brackets close as open, outside of strings. The text need not be JSON."""
    brackets = _brackets(data)
    return sum(map(brackets.count, (b"{", b"["))) == sum(map(brackets.count, (b"}", b"]")))


def _brackets(data: bytes) -> bytes:
    return _STRING.sub(b"", data).translate(None, _NOT_BRACKETS)


# The closing quote is optional: else a search that fails at an open string would start again at each quote inside it.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_STEPS = bytes.maketrans(b"{[}]", b"\x01\x01\xff\xff")  # one level down, or up: 1 and -1
_NOT_BRACKETS = bytes(b for b in range(256) if b not in b"{}[]")
