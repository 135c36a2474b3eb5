"""What is looked at of a request, once it is known from whom it comes, before it is done."""

from __future__ import annotations

from collections.abc import Collection

from mdashcore.server.asgi import Scope, has_body, header_list
from mdashcore.server.http.conditions import check_headers
from mdashcore.server.http.query import check_query

__all__ = ["check_request"]


def check_request(scope: Scope, parameters: Collection[str] | None, *, conditional: bool = False) -> None:
    """Refuse a request that asks for what nothing here heeds. Raises as `check_query` and `check_headers`.

    Args:
        parameters: of its query, beside ``access_token``; None where the endpoint checks its query itself.
        conditional: whether the endpoint heeds ``If-Match`` and ``If-None-Match``.
    """
    if parameters is not None:
        check_query(scope["query_string"].decode("latin-1"), parameters)

    def get(name: str) -> str | None:
        return header_list(scope, name.encode())

    check_headers(scope["method"], get, conditional=conditional, has_body=has_body(scope))
