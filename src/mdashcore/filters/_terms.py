"""A term as a value, and its one canonical form."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Final

import attrs

from mdashcore import _json
from mdashcore._errors import InvalidInput
from mdashcore.filters._fields import FIELDS, FIRMWARE_FIELDS

__all__ = ["SAFE_BARE", "Field", "Term", "Value", "format_field", "format_term", "format_value"]

MAX_AGE: Final = 10 * 365 * 86_400.0  # seconds: ten years, longer than a device's record is of use

_SECONDS: Final = MappingProxyType({"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800})

SAFE_BARE = re.compile(r'[^|<>!*"\\=~\s][^|<>!*"\\\s]*')
_ESCAPED_IN_KEYS = re.compile(r'[.\\=!~<>|"*@\s]')
_AGE = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)([smhdw])", re.ASCII)


@attrs.frozen
class Field:
    """A field of a device."""

    name: str
    """``id``, ``name``, ``text``, ``online``, ``offline``, ``last_seen``, ``created_at``, ``update``,
    ``presence_changes``, ``damaged``, ``tag``, ``tag.`` or ``shadow``. The short names of firmware are places in the
    shadow."""
    path: tuple[str, ...] = ()
    """For ``shadow`` the keys that lead to the value; for ``tag.`` the name of the tag; else empty."""


@attrs.frozen
class Value:
    """A value that a term compares with."""

    text: str
    quoted: bool = False
    """Whether it is text in any case. A bare value is also a number, a boolean or null, if it reads as one in JSON."""

    @property
    def scalars(self) -> tuple[object, ...]:
        """The JSON scalar that the text stands for, if any."""
        if self.quoted:
            return ()
        try:
            value = _json.decode(self.text)
        except InvalidInput:
            return ()
        return () if isinstance(value, dict | list | str) else (value,)

    @property
    def seconds(self) -> float:
        """The age that the text stands for: ``90s``, ``5m``, ``1.5h``, ``7d``, ``2w``. Raises `InvalidInput`."""
        match = None if self.quoted else _AGE.fullmatch(self.text)
        if match is None or (seconds := float(match[1]) * _SECONDS[match[2]]) > MAX_AGE:
            raise InvalidInput(f"an age is a number with s, m, h, d or w, at most ten years: 5m; not {self.text!r}")
        return seconds


@attrs.frozen
class Term:
    """One condition of a filter."""

    field: Field
    operator: str
    """``=``, ``~``, ``<``, ``<=``, ``>``, ``>=``, or ``*``: the field exists."""
    values: tuple[Value, ...] = ()
    """The term holds if one of them fits; none with ``*``."""
    negated: bool = False

    @property
    def is_age(self) -> bool:
        """Whether its value is an age."""
        return FIELDS[self.field.name].is_age and self.operator not in ("=", "*")

    def __str__(self) -> str:
        return format_term(self)


def format_term(term: Term) -> str:
    """Return the canonical form of a term: `parse_term` reads it as an equal term, and a line may contain it."""
    sign = "!" if term.negated else ""
    if term.field.name == "online" and term.operator == "=":
        return sign + ("online" if term.values == (Value("true"),) else "offline")
    field = format_field(term.field)
    if term.operator == "*":
        return f"{field}{sign}=*"
    values = "|".join(map(format_value, term.values))
    return (
        f"{field}{sign}{term.operator}{values}"
        if term.operator in ("=", "~")
        else f"{sign}{field}{term.operator}{values}"
    )


def format_field(field: Field) -> str:
    """Return a field as a term names it."""
    if not field.path:
        return field.name
    if field.path[:2] == ("reported", "ota") and field.path[2:] in [(each,) for each in FIRMWARE_FIELDS]:
        return field.path[2]
    keys = ".".join(_ESCAPED_IN_KEYS.sub(r"\\\g<0>", key) for key in field.path)
    return f"{field.name.rstrip('.')}.{keys}"


def format_value(value: Value) -> str:
    """Return a value as a term contains it: quoted if it was, or if it has to be."""
    if value.quoted or not SAFE_BARE.fullmatch(value.text):
        return '"' + re.sub(r'["\\]', r"\\\g<0>", value.text) + '"'
    return value.text
