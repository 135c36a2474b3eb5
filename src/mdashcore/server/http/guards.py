"""Checks of an authenticated request before it is executed."""

from __future__ import annotations

from collections.abc import Collection

from mdashcore.server.asgi import Scope, has_body, header_list
from mdashcore.server.http.conditions import check_headers
from mdashcore.server.query import check_query

__all__ = ["check_request"]


def check_request(scope: Scope, parameters: Collection[str] | None, *, conditional: bool = False) -> None:
    """Refuse a request with unknown parameters or unsupported headers. Raises as `check_query` and `check_headers`.

    Args:
        parameters: the known parameters, beside ``access_token``; `None` if the endpoint checks its query itself.
        conditional: whether the endpoint heeds ``If-Match`` and ``If-None-Match``.
    """
    if parameters is not None:
        check_query(scope["query_string"].decode("latin-1"), parameters)

    def get(name: str) -> str | None:
        return header_list(scope, name.encode())

    check_headers(scope["method"], get, conditional=conditional, has_body=has_body(scope))
