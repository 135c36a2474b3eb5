"""Headers that change the meaning of a request: the two that a shadow heeds, and those that are not supported.

A header such as "only if", "as another method", "compressed" or "a part of it" must not be overlooked: the client would
take the answer for the answer to another question. The headers that RFC 9110 lets a server ignore are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

import attrs

from mdashcore._errors import InvalidInput, PreconditionFailed, UnsupportedContent

__all__ = ["ODD_HEADERS", "Conditions", "check_headers", "etag"]

METHOD_OVERRIDES: Final = ("x-http-method-override", "x-http-method", "x-method-override")

ODD_HEADERS: Final = ("content-encoding", "content-range", *METHOD_OVERRIDES)
"""The headers that `check_headers` checks on every path, in lower case."""

_TAG: Final = re.compile(r'[ \t]*(?:W/)?"([!\x23-\x7e\x80-\xff]*)"[ \t]*(?:,|\Z)')
_EMPTY: Final = re.compile(r"[ \t]*,")  # empty elements of a list, which a recipient has to ignore (section 5.6.1)


def etag(version: int) -> str:
    """Return a version of a shadow as an entity tag."""
    return f'"{version}"'


@attrs.frozen
class Conditions:
    """The conditions of a request on a shadow's version (RFC 9110, section 13.1).

    A weak tag counts as a strong one, because proxies that compress weaken tags on the way.
    """

    match: frozenset[str] | None = None
    """The versions that ``If-Match`` names; `None` if it is missing or ``*``."""
    none_match: frozenset[str] | None = None
    """The versions that ``If-None-Match`` names; `None` if it is missing."""
    none_at_all: bool = False
    """Whether the request has ``If-None-Match: *``, which matches only without a shadow. Every device has a shadow."""

    @classmethod
    def of(cls, if_match: str | None, if_none_match: str | None) -> Conditions | None:
        """Parse the values of both headers. Returns `None` if both are missing. Raises `InvalidInput`."""
        if if_match is None and if_none_match is None:
            return None
        match = None if if_match is None else _tags("If-Match", if_match)
        none_match = None if if_none_match is None else _tags("If-None-Match", if_none_match)
        return cls(match, none_match, none_match is None and if_none_match is not None)

    def check_match(self, version: int) -> None:
        """Raise `PreconditionFailed` unless `match` names this version."""
        if not self._matches(version):
            raise PreconditionFailed(f"the shadow is at version {version}")

    def is_known(self, version: int) -> bool:
        """Return whether the client has this version already."""
        return self.none_at_all or (self.none_match is not None and str(version) in self.none_match)

    def allow(self, version: int) -> bool:
        """Return whether an update may be applied to this version."""
        return self._matches(version) and not self.is_known(version)

    def _matches(self, version: int) -> bool:
        return self.match is None or str(version) in self.match


def _tags(name: str, value: str) -> frozenset[str] | None:
    """Return the opaque tags of a list; `None` for ``*``."""
    value = value.strip()
    if value == "*":
        return None
    found, place = set(), 0
    while place < len(value):
        if (match := _EMPTY.match(value, place)) is None:
            match = _TAG.match(value, place)
            if match is None:
                raise InvalidInput(f'{name} is a list of "VERSION", or *')
            found.add(match[1])
        place = match.end()
    if not found:
        raise InvalidInput(f'{name} is a list of "VERSION", or *')
    return frozenset(found)


def check_headers(
    method: str, get: Callable[[str], str | None], *, conditional: bool = False, has_body: bool = False
) -> None:
    """Refuse a request whose headers ask for something unsupported.

    Args:
        get: returns the value of a header by its lower-case name; the values of several fields as a list.
        conditional: whether the path heeds ``If-Match`` and ``If-None-Match``.

    Raises:
        InvalidInput: the request asks for another method, or carries a part of a document.
        UnsupportedContent: the body has a content coding.
        PreconditionFailed: the request is for a certain version of something without versions.
    """
    for name in METHOD_OVERRIDES:
        other = get(name)
        if other is not None and other.strip().upper() != method:
            raise InvalidInput(f"{name} is not heeded: send the method itself")
    if has_body:
        codings = _items(get("content-encoding"))
        if any(coding != "identity" for coding in codings):
            raise UnsupportedContent(f"the body has to come without a content coding, not as {', '.join(codings)[:64]}")
        if get("content-range") is not None:
            raise InvalidInput("Content-Range is not heeded: send the whole")
    if not conditional and method not in ("GET", "HEAD"):
        if_match, if_none_match = get("if-match"), get("if-none-match")
        if (if_match or "*").strip() != "*" or (if_none_match or "").strip() == "*":
            raise PreconditionFailed("only a shadow has versions that If-Match can name")


def _items(value: str | None) -> Iterable[str]:
    """Return a list of tokens in lower case."""
    return [item for part in (value or "").split(",") if (item := part.strip().lower())]
