"""The present request, read the way this API reads it, and the one form of its answers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, TypeVar, cast

from quart import Response, current_app, g, request

from mdashcore import _json
from mdashcore._errors import Forbidden, InvalidInput
from mdashcore.identity import DeviceKey
from mdashcore.server.auth import Principal
from mdashcore.server.service import Service
from mdashcore.trio.transport.server_websocket import READ_SIZE
from mdashcore.trio.turns import Turn

__all__ = [
    "SMALL_BODY",
    "admin",
    "answer",
    "body",
    "body_limit",
    "body_object",
    "device_key",
    "members",
    "principal",
    "raw_body",
    "service",
    "takes_body",
    "time_text",
]

SMALL_BODY: Final = 2**12  # bytes: names, and passwords, which have 1024 characters at most

_LIMIT: Final = "body_limit"

_Handler = TypeVar("_Handler", bound=Callable[..., Any])


def takes_body(limit: int | None = None) -> Callable[[_Handler], _Handler]:
    """Mark a handler that reads its request's body: for all others no body is read.

    Args:
        limit: bytes; `None` for `ServiceSettings.max_body`.
    """

    def mark(handler: _Handler) -> _Handler:
        setattr(handler, _LIMIT, limit)
        return handler

    return mark


def body_limit(handler: object, most: int) -> int:
    """Return how many bytes a handler's body may have; 0 where it reads none."""
    limit: int | None = getattr(handler, _LIMIT, 0)
    return most if limit is None else min(limit, most)


def service() -> Service:
    """What the app was made for."""
    return cast(Service, current_app.config["MDASH_SERVICE"])


def principal() -> Principal:
    """Who sent the request."""
    return cast(Principal, g.principal)


def device_key(id: str) -> DeviceKey:
    """Return the key of a device that the present request names. Raises `NotFound` where none can have that id."""
    return DeviceKey.find(principal().account, id)


def admin() -> Principal:
    """Who sent the request, if they may manage accounts. Raises `Forbidden`."""
    found = principal()
    if not found.admin:
        raise Forbidden("only an admin, with user name and password, may do this")
    return found


async def raw_body() -> bytes:
    """The body's bytes. Whatever the Content-Type says, a body is JSON: ``curl -d`` says it were a form.

    Only for handlers that are marked with `takes_body`.
    """
    if not hasattr(current_app.view_functions[request.endpoint or ""], _LIMIT):
        raise RuntimeError(f"{request.endpoint} reads a body and does not take one")
    data = cast(bytes, await request.get_data(cache=False, as_text=False))
    if len(data) > READ_SIZE:  # to decode it is work
        await Turn(principal().account).give_way()
    return data


async def body() -> Any:
    """The body as a value; None without one. Raises `InvalidInput`."""
    data = await raw_body()
    return _json.decode(data) if data.strip() else None


async def body_object() -> dict[str, Any]:
    """The body as an object; empty without one. Raises `InvalidInput`."""
    value = await body()
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInput("the body has to be a JSON object")
    return value


def members(value: dict[str, Any], *known: str) -> None:
    """Refuse members that nothing would heed: a misspelt one must not be lost silently. Raises `InvalidInput`."""
    unknown = [name for name in value if name not in known]
    if unknown:
        raise InvalidInput(f"unknown member {unknown[0]!r}; known are {', '.join(known)}")


def answer(value: Any, status: int = 200) -> Response:
    """A JSON response; `bytes` are JSON already."""
    data = value if isinstance(value, bytes) else _json.encode(value)
    return Response(data, status, content_type="application/json")


def time_text(seconds: float | None) -> str | None:
    """Unix seconds as RFC 3339 in UTC, to the millisecond."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
