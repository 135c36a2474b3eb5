"""Endpoints: what is said of each where its handler stands.

`mdashcore.server.openapi` joins them. The routes of the app, the known parameters of a query, the limits of bodies,
`/openapi.json` and the tables of ``docs/reference/rest_api.md`` are all made from that one table.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from functools import cache
from types import MappingProxyType
from typing import Any, Final, TypeVar, get_type_hints

import attrs

__all__ = ["API", "SMALL_BODY", "Access", "Endpoint", "Form", "Routes", "Text", "members_of"]

API: Final = "/api/v2"

SMALL_BODY: Final = 2**12  # bytes: names, and passwords, which have 1024 characters at most

EndpointHandler = Callable[..., Awaitable[Any]]

_Handler = TypeVar("_Handler", bound=EndpointHandler)


class Access(Enum):
    """The callers of an endpoint."""

    PUBLIC = "everyone"
    ACCOUNT = "users and keys"
    USER = "users, not keys"
    ADMIN = "admins, not keys"
    DEVICE = "devices"


@attrs.frozen
class Text:
    """An answer that is no JSON."""

    content_type: str
    description: str


@attrs.frozen
class Form:
    """A body that is a form, or one of its fields alone.

    Args:
        fields: a `TypedDict`. A field of `bytes` is a file; any other is JSON.
        or_file: whether the body may also be the file alone.
        or_json: a `TypedDict` that the body may also be, as JSON.
    """

    fields: Any
    or_file: bool = False
    or_json: Any = None


@attrs.frozen
class Endpoint:
    """An endpoint: a method, a path, and what is known of its requests and answers."""

    method: str
    path: str
    """The whole path in Quart's form: ``/api/v2/devices/<id>``."""
    summary: str
    """One or more sentences, in Markdown."""
    answers: Mapping[int, Any]
    """The type of the answer by status, for success: a type, `Text`, or `None` for an answer without a body."""
    errors: tuple[int, ...] = ()
    """The statuses of errors beside those that all endpoints of this kind have."""
    access: Access = Access.ACCOUNT
    query: Any = None
    """A `TypedDict` with the parameters."""
    body: Any = None
    """A type or a `Form`; `None` if the endpoint takes no body."""
    max_body: int | None = 0
    """Bytes of a body that is read before the handler runs; 0 if none is, `None` for `ServiceSettings.max_body`."""
    open_body: bool = False
    """Whether unknown members of the body are ignored, not refused."""
    places: Mapping[str, Any] = MappingProxyType({})
    """The types of the parts of the path, by name."""
    conditional: bool = False
    """Whether ``If-Match`` and ``If-None-Match`` are heeded."""
    headers: tuple[str, ...] = ()
    """The names of other headers that are heeded."""
    is_paged: bool = False
    """Whether a list may end with a header ``Link`` to its next page."""
    is_socket: bool = False
    """Whether the endpoint is a WebSocket: without a handshake it is refused before authentication."""
    handler: EndpointHandler | None = None
    """A handler of Quart's; `None` for an endpoint that is served in front of Quart."""

    @property
    def name(self) -> str:
        """Method and path, as the endpoint is called in Quart's map of routes."""
        return f"{self.method} {self.path}"

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the known parameters, beside ``access_token``."""
        return members_of(self.query)

    @property
    def needs_login(self) -> bool:
        """Whether a request is authenticated before its handler runs."""
        return self.access is not Access.PUBLIC and not self.is_socket

    def body_limit(self, most: int) -> int:
        """Return the limit of the body in bytes; 0 if none is read.

        Args:
            most: the limit of endpoints that have none of their own, and the largest of any.
        """
        return most if self.max_body is None else min(self.max_body, most)


class Routes:
    """The endpoints of one resource.

    Args:
        prefix: the path that all have in common.
        places: the types of the parts of the path, by name.
    """

    def __init__(self, prefix: str = API, **places: Any) -> None:
        self._prefix = prefix
        self._places = places
        self.endpoints: list[Endpoint] = []

    def get(self, path: str = "", **facts: Any) -> Callable[[_Handler], _Handler]:
        """Mark a handler for GET and HEAD. See `Endpoint` for the facts; the summary is the handler's docstring."""
        return self._endpoint("GET", path, facts)

    def post(self, path: str = "", **facts: Any) -> Callable[[_Handler], _Handler]:
        return self._endpoint("POST", path, facts)

    def put(self, path: str = "", **facts: Any) -> Callable[[_Handler], _Handler]:
        return self._endpoint("PUT", path, facts)

    def delete(self, path: str = "", **facts: Any) -> Callable[[_Handler], _Handler]:
        return self._endpoint("DELETE", path, facts)

    def _endpoint(self, method: str, path: str, facts: dict[str, Any]) -> Callable[[_Handler], _Handler]:
        def mark(handler: _Handler) -> _Handler:
            summary = " ".join((handler.__doc__ or "").split()).replace("``", "`")
            known = {"summary": summary, "handler": handler, "places": self._places, **facts}
            self.endpoints.append(Endpoint(method, self._prefix + path, **known))
            return handler

        return mark


@cache  # each request asks; the documents are the fixed few of the endpoints
def members_of(document: Any) -> tuple[str, ...]:
    """Return the names of a `TypedDict`'s members in their order; none for `None`."""
    return () if document is None else tuple(get_type_hints(document))
