"""The query of ``POST /devices/:id/ota``, parsed and bounded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import attrs

from mdashcore import ota
from mdashcore._errors import InvalidInput
from mdashcore.server.query import check_query, flag

__all__ = ["PARAMETERS", "UpdateRequest"]


@attrs.frozen
class UpdateRequest:
    """A requested update."""

    queue: bool = False
    """Whether to answer immediately, and let the update wait for a device that is offline."""
    bare: bool = False
    """Whether the image is a bare one, whatever its name or its first bytes look like."""
    keep: bool = False
    """Whether to keep the image in the library."""
    firmware: str | None = None
    """The id of an image of the library, if there is none in the body."""
    options: ota.Options = ota.Options()

    @classmethod
    def of(cls, query: str) -> UpdateRequest:
        """Parse a query string. Raises `InvalidInput`, whose text names the unknown or invalid parameter."""
        values: dict[str, Any] = {}
        for name, text in check_query(query, PARAMETERS):
            field, read = PARAMETERS[name]
            values[field] = read(name, text)
        asked = {name: values.pop(name) for name in ("queue", "bare", "keep", "firmware") if name in values}
        if asked.get("keep") and "firmware" in asked:
            raise InvalidInput("keep is for an image that is uploaded: that of firmware is kept already")
        if "commit_after" in values and not values.get("auto_commit"):
            raise InvalidInput("commit_after is for commit=auto")
        try:
            return cls(**asked, options=ota.Options(**values))
        except ValueError as exc:
            raise InvalidInput(_words(exc)) from None


def _text(name: str, text: str) -> str:
    return text


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):  # a billion is beyond every bound
        raise InvalidInput(f"{name} is a whole number, not {text[:64]!r}")
    return int(text)


def _commit(name: str, text: str) -> bool:
    if text not in ("auto", "manual"):
        raise InvalidInput(f"{name} is auto or manual, not {text[:64]!r}")
    return text == "auto"


_Reader: TypeAlias = Callable[[str, str], Any]

PARAMETERS: Final[Mapping[str, tuple[str, _Reader]]] = MappingProxyType(
    {
        "queue": ("queue", flag),
        "bare": ("bare", flag),
        "keep": ("keep", flag),
        "firmware": ("firmware", _text),
        "force": ("force", flag),
        "commit": ("auto_commit", _commit),
        "commit_after": ("commit_after", _number),
        "commit_timeout": ("commit_timeout", _number),
        "chunk_size": ("chunk_size", _number),
        "attempts": ("chunk_attempts", _number),
        "in_flight": ("chunks_in_flight", _number),
    }
)
"""The parameters by name: the field of each, and its parser."""


def _words(error: ValueError) -> str:
    """Return the text of a broken bound, with the parameter's name in place of the field's."""
    words = str(error.args[0] if error.args else error)
    for name, (field, _) in PARAMETERS.items():
        words = words.replace(f"'{field}'", name)
    return words
