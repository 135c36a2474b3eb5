"""Query strings: how one is parsed. Unknown parameters are refused."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final
from urllib.parse import parse_qsl

from mdashcore._errors import InvalidInput

__all__ = ["ACCESS_TOKEN", "check_query", "flag", "parse_query", "query_value"]

MAX_PARAMETERS: Final = 32  # of a query: 16 terms of a filter and 16 places

ACCESS_TOKEN: Final = "access_token"  # noqa: S105 - a parameter's name
"""Known at every endpoint."""

REPEATABLE_NAMES: Final = frozenset({"filter", "path", "place"})


def parse_query(query: str, *, errors: str = "strict") -> list[tuple[str, str]]:
    """Return the parameters of a query string in their order. Raises `InvalidInput`.

    Args:
        errors: how bytes are treated that are not UTF-8, as in `bytes.decode`.
    """
    try:
        return parse_qsl(query, keep_blank_values=True, errors=errors, max_num_fields=MAX_PARAMETERS)
    except ValueError:
        raise InvalidInput(f"the query is not valid, or has more than {MAX_PARAMETERS} parameters") from None


def query_value(query: str, name: str) -> str | None:
    """Return the first value of a parameter, `None` if the query has none. Raises `InvalidInput`.

    Bytes that are not UTF-8 become U+FFFD: the value is then not a valid one, whatever the parameter is.
    """
    return next((value for given, value in parse_query(query, errors="replace") if given == name), None)


def check_query(query: str, known: Collection[str]) -> list[tuple[str, str]]:
    """Return the parameters of a query string, without the access token.

    Args:
        query: the query string as it was sent.

    Raises:
        InvalidInput: a parameter is unknown, or given twice. The text names it, and the known ones.
    """
    given = parse_query(query) if query else []
    seen = set()
    for name, _ in given:
        if name not in known and name != ACCESS_TOKEN:
            raise InvalidInput(f"unknown parameter {name[:64]!r}; known are {', '.join([*known, ACCESS_TOKEN])}")
        if name in seen and name not in REPEATABLE_NAMES:
            raise InvalidInput(f"{name} is given twice")
        seen.add(name)
    return [(name, value) for name, value in given if name != ACCESS_TOKEN]


def flag(name: str, text: str) -> bool:
    """Parse a parameter that is 1 or 0. Raises `InvalidInput`."""
    found = {"1": True, "true": True, "0": False, "false": False}.get(text.lower())
    if found is None:
        raise InvalidInput(f"{name} is 1 or 0, not {text[:64]!r}")
    return found
