"""The known query parameters of each endpoint. Unknown ones, misspelt or of another service, are refused."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final
from urllib.parse import parse_qsl

from mdashcore._errors import InvalidInput

__all__ = ["ACCESS_TOKEN", "MAX_FIELDS", "check_query", "known_parameters"]

MAX_FIELDS: Final = 32  # of a query: sixteen terms of a filter, and far more than all other parameters together

ACCESS_TOKEN: Final = "access_token"  # noqa: S105 - a parameter's name
"""Known at every endpoint."""

REPEATABLE: Final = frozenset({"filter"})

_PREFIX: Final = "/api/v2"

_PARAMETERS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "GET /devices": ("filter",),
        "GET /devices/<id>/rpc/<method>": ("timeout",),
        "POST /devices/<id>/rpc/<method>": ("timeout",),
        "POST /devices/<id>/rpc": ("timeout",),
        "GET /rollouts/<id>/members": ("start", "limit", "outcome"),
        "GET /notify": ("start",),
    }
)
"""By method and route. Other routes have none; `mdashcore.server.uploads.update_query` has those of an upload."""


def known_parameters(method: str, rule: str) -> tuple[str, ...]:
    """Return the parameters of a route, beside ``access_token``.

    Args:
        method: the method of HTTP; HEAD has the parameters of GET.
        rule: the route in Quart's form: ``/api/v2/devices/<id>``.
    """
    return _PARAMETERS.get(f"{'GET' if method == 'HEAD' else method} {rule.removeprefix(_PREFIX)}", ())


def check_query(query: str, known: Collection[str]) -> None:
    """Raise `InvalidInput` for an unknown parameter. The text names it, and the known ones.

    Args:
        query: the query string as it was sent.
    """
    if not query:
        return
    try:
        given = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError:
        raise InvalidInput(f"the query is not valid, or has more than {MAX_FIELDS} parameters") from None
    seen = set()
    for name, _ in given:
        if name not in known and name != ACCESS_TOKEN:
            raise InvalidInput(f"unknown parameter {name[:64]!r}; known are {', '.join([*known, ACCESS_TOKEN])}")
        if name in seen and name not in REPEATABLE:
            raise InvalidInput(f"{name} is given twice")
        seen.add(name)
