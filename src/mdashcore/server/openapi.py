"""The table of all endpoints, and its description as OpenAPI 3.1 at ``/openapi.json``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from http import HTTPStatus
from types import UnionType
from typing import Any, Final, cast, get_args, get_origin, get_type_hints

import msgspec
from quart import Response, request

from mdashcore import __version__, _json
from mdashcore.documents import ErrorDocument
from mdashcore.server import api
from mdashcore.server.api._request import answer
from mdashcore.server.asgi import Scope, root_path
from mdashcore.server.endpoints import Access, Endpoint, Form, Routes, Text
from mdashcore.server.query import ACCESS_TOKEN
from mdashcore.server.uploads.firmware_upload import FirmwareRoute
from mdashcore.server.uploads.rollout_upload import RolloutRoute
from mdashcore.server.uploads.update_upload import UploadRoute

__all__ = ["ALL_ENDPOINTS", "PUBLIC_PATHS", "describe", "errors_of"]

routes: Routes = Routes("")


@routes.get("/openapi.json", access=Access.PUBLIC, answers={200: dict[str, Any]})
async def get_openapi() -> Response:
    """Answer with this description of the API."""
    return answer(_encoded(root_path(cast(Scope, request.scope))))


ALL_ENDPOINTS: Final[tuple[Endpoint, ...]] = (
    *api.API_ENDPOINTS,
    *routes.endpoints,
    UploadRoute.endpoint,
    RolloutRoute.endpoint,
    FirmwareRoute.endpoint,
)
"""Every endpoint, of both lanes. What serves one stands in `Endpoint.handler`, or in front of Quart."""

PUBLIC_PATHS: Final = frozenset(each.path for each in ALL_ENDPOINTS if each.access is Access.PUBLIC)
"""The paths that are answered without a login."""

_SCHEMES: Final[Mapping[str, Mapping[str, str]]] = {
    "key": {"type": "http", "scheme": "bearer", "description": "an API key, `mdk_…`"},
    "password": {"type": "http", "scheme": "basic", "description": "a user and its password, or a key in its place"},
    "key_in_query": {"type": "apiKey", "in": "query", "name": ACCESS_TOKEN, "description": "an API key"},
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": "mdash_session",
        "description": "the cookie of a login; `__Host-mdash_session` over TLS",
    },
    "device_token": {"type": "http", "scheme": "bearer", "description": "a device's token, `mdd_…`"},
}

_SECURITY: Final[Mapping[Access, tuple[str, ...]]] = {
    Access.PUBLIC: (),
    Access.ACCOUNT: ("key", "password", "key_in_query", "session"),
    Access.USER: ("password", "session"),
    Access.ADMIN: ("password", "session"),
    Access.DEVICE: ("device_token",),
}

_COMPONENTS: Final = "#/components/schemas/{name}"


def errors_of(endpoint: Endpoint) -> tuple[int, ...]:
    """Return the statuses of an endpoint's errors: those of its kind, and its own."""
    found = {400, 500, 503, *endpoint.errors}
    if endpoint.is_socket:
        found = {*endpoint.errors}
    if endpoint.needs_login:
        found |= {401, 403, 429}  # 403: a page of another origin; 429: too many wrong passwords
    if "<" in endpoint.path:
        found.add(404)
    if endpoint.max_body != 0:
        found |= {408, 413, 415}
    if endpoint.conditional or endpoint.method != "GET":
        found.add(412)
    return tuple(sorted(found - endpoint.answers.keys()))


def describe(root: str = "") -> dict[str, Any]:
    """Return the OpenAPI document.

    Args:
        root: the path below which the server is reached, without a slash at its end.
    """
    schemas = _Schemas(ALL_ENDPOINTS)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in ALL_ENDPOINTS:
        paths.setdefault(_path(endpoint), {})[endpoint.method.lower()] = _operation(endpoint, schemas)
    used = sorted({status for endpoint in ALL_ENDPOINTS for status in errors_of(endpoint)})
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mdashcore",
            "version": __version__,
            "description": "Device management for Mongoose OS and any other JSON-RPC device.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": root or "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "responses": {_response_name(status): _error(status, schemas) for status in used},
            "securitySchemes": _SCHEMES,
        },
    }


@lru_cache(maxsize=8)  # one root path is in use; an app that is mounted twice has two
def _encoded(root: str) -> bytes:
    return _json.encode(describe(root))


def _path(endpoint: Endpoint) -> str:
    return endpoint.path.replace("<", "{").replace(">", "}")


def _operation(endpoint: Endpoint, schemas: _Schemas) -> dict[str, Any]:
    first, _, rest = endpoint.summary.partition(". ")
    found: dict[str, Any] = {
        "operationId": _operation_id(endpoint),
        "summary": first.removesuffix("."),
        "tags": [_tag(endpoint)],
        "security": [{name: []} for name in _SECURITY[endpoint.access]],
        "parameters": [*_places(endpoint, schemas), *_query(endpoint, schemas), *_conditions(endpoint)],
    }
    if rest:
        found["description"] = rest
    if endpoint.body is not None:
        found["requestBody"] = schemas.body(endpoint)
    answers = {str(status): _answer(status, each, schemas) for status, each in endpoint.answers.items()}
    if endpoint.conditional:
        for each in answers.values():
            each["headers"] = {"ETag": {"description": "the version", "schema": {"type": "string"}}}
    if endpoint.is_paged:
        words = 'the address of the next page, with `rel="next"` (RFC 8288); missing at the end of the list'
        total = "the number of devices in all pages, with `count=1`"
        for each in answers.values():
            each["headers"] = {
                "Link": {"description": words, "schema": {"type": "string"}},
                "X-Total-Count": {"description": total, "schema": {"type": "integer"}},
            }
    refused = {
        str(status): {"$ref": f"#/components/responses/{_response_name(status)}"} for status in errors_of(endpoint)
    }
    return {**found, "responses": answers | refused}


def _operation_id(endpoint: Endpoint) -> str:
    """Return a name for the operation: the handler's, with the method where a handler has several."""
    words = re.sub(r"\W+", "_", endpoint.path.replace("/api/v2", "")).strip("_")
    return f"{endpoint.method.lower()}_{words}".rstrip("_")


def _tag(endpoint: Endpoint) -> str:
    """Return the group of an endpoint: the first part of its path, the subject of a device's."""
    parts = endpoint.path.removeprefix("/api/v2").strip("/").split("/")
    return (
        parts[2]
        if parts[0] == "devices" and len(parts) > 2
        else parts[0]
        if parts[0] and "." not in parts[0]
        else "service"
    )


def _places(endpoint: Endpoint, schemas: _Schemas) -> Iterator[dict[str, Any]]:
    for name in re.findall(r"<(\w+)>", endpoint.path):
        yield {"name": name, "in": "path", "required": True, "schema": schemas.of(endpoint.places[name])}


def _query(endpoint: Endpoint, schemas: _Schemas) -> Iterator[dict[str, Any]]:
    for name, type_ in _hints(endpoint.query).items():
        schema = schemas.of(type_)
        if schema.get("type") == "boolean":
            schema = {**schema, "type": "integer", "enum": [0, 1]}
        yield {
            "name": name,
            "in": "query",
            "schema": {key: value for key, value in schema.items() if key != "description"},
            "description": schema.get("description", ""),
        }


def _conditions(endpoint: Endpoint) -> Iterator[dict[str, Any]]:
    if endpoint.conditional:
        for name in ("If-Match", "If-None-Match") if endpoint.method == "GET" else ("If-Match",):
            words = "entity tags of versions, or `*`"
            yield {"name": name, "in": "header", "description": words, "schema": {"type": "string"}}
    for name in endpoint.headers:
        yield {"name": name, "in": "header", "description": "as in RFC 9110", "schema": {"type": "string"}}


def _answer(status: int, value: Any, schemas: _Schemas) -> dict[str, Any]:
    if value is None:
        return {"description": HTTPStatus(status).phrase}
    if isinstance(value, Text):
        return {"description": value.description, "content": {value.content_type: {"schema": {"type": "string"}}}}
    schema = schemas.of(value)
    words = schemas.words(schema) or HTTPStatus(status).phrase
    return {"description": words, "content": {"application/json": {"schema": schema}}}


def _response_name(status: int) -> str:
    return f"Error{status}"


def _error(status: int, schemas: _Schemas) -> dict[str, Any]:
    schema = schemas.of(ErrorDocument)
    return {"description": HTTPStatus(status).phrase, "content": {"application/json": {"schema": schema}}}


class _Schemas:
    """The JSON Schemas of all types in the table."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        types = {repr(leaf): leaf for endpoint in endpoints for type_ in _types(endpoint) for leaf in _leaves(type_)}
        types[repr(ErrorDocument)] = ErrorDocument
        found, self.components = msgspec.json.schema_components(types.values(), ref_template=_COMPONENTS)
        self._of = dict(zip(types, found, strict=True))
        for endpoint in endpoints:
            if isinstance(endpoint.body, type) and not endpoint.open_body and endpoint.body.__name__ in self.components:
                self.components[endpoint.body.__name__]["additionalProperties"] = False

    def of(self, type_: Any) -> dict[str, Any]:
        """Return the schema of a type."""
        if get_origin(type_) is list:
            return {"type": "array", "items": self.of(get_args(type_)[0])}
        if isinstance(type_, UnionType):
            return {"anyOf": [self.of(part) for part in get_args(type_)]}
        return self._of[repr(type_)]

    def words(self, schema: Mapping[str, Any]) -> str:
        """Return the description of a schema; empty if it has none."""
        name = str(schema.get("$ref", "")).rpartition("/")[2]
        return str(self.components.get(name, schema).get("description", ""))

    def body(self, endpoint: Endpoint) -> dict[str, Any]:
        """Return the description of a request's body."""
        form = endpoint.body
        if not isinstance(form, Form):
            schema = self.of(form)
            target = self.components.get(str(schema.get("$ref", "")).rpartition("/")[2], schema)
            required = bool(target.get("required"))
            schema = schema if required or not target.keys() else {"anyOf": [schema, {"type": "null"}]}
            return {"content": {"application/json": {"schema": schema}}, "required": required}
        binary = {"type": "string", "contentMediaType": "application/octet-stream"}
        fields = {name: binary if _is_file(type_) else self.of(type_) for name, type_ in _hints(form.fields).items()}
        shape = {"type": "object", "properties": fields, "required": list(fields)}
        encoding = {
            name: {"contentType": "application/octet-stream" if _is_file(type_) else "application/json"}
            for name, type_ in _hints(form.fields).items()
        }
        content: dict[str, Any] = {"multipart/form-data": {"schema": shape, "encoding": encoding}}
        if form.or_file:
            content["application/octet-stream"] = {}
        if form.or_json is not None:
            content["application/json"] = {"schema": self.of(form.or_json)}
        return {"content": content, "required": True, "description": str(form.fields.__doc__)}


def _types(endpoint: Endpoint) -> Iterator[Any]:
    """Yield the types of an endpoint that have a schema."""
    yield from endpoint.places.values()
    yield from _hints(endpoint.query).values()
    if isinstance(endpoint.body, Form):
        yield from (type_ for type_ in _hints(endpoint.body.fields).values() if not _is_file(type_))
        if endpoint.body.or_json is not None:
            yield endpoint.body.or_json
    elif endpoint.body is not None:
        yield endpoint.body
    yield from (value for value in endpoint.answers.values() if value is not None and not isinstance(value, Text))


def _leaves(type_: Any) -> Iterator[Any]:
    """Yield the types in lists and unions: msgspec makes no schema of a union of two documents."""
    if get_origin(type_) is list or isinstance(type_, UnionType):
        for part in get_args(type_):
            yield from _leaves(part)
    else:
        yield type_


def _hints(document: Any) -> dict[str, Any]:
    """Return the members of a `TypedDict` with their types."""
    return {} if document is None else get_type_hints(document, include_extras=True)


def _is_file(type_: Any) -> bool:
    return getattr(type_, "__origin__", type_) is bytes
