"""The current request, read by the rules of this API, and the one form of its answers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

from quart import Response, current_app, g, request

from mdashcore import _json
from mdashcore._checked import check_members
from mdashcore._errors import InvalidInput
from mdashcore._moments import parse_moment
from mdashcore.identity import DeviceKey
from mdashcore.server.auth import Principal
from mdashcore.server.endpoints import Endpoint, members_of
from mdashcore.server.service import Service
from mdashcore.trio.transport.stream import READ_SIZE
from mdashcore.trio.turns import Turn

__all__ = [
    "answer",
    "body",
    "body_object",
    "device_key",
    "members",
    "principal",
    "query_time",
    "raw_body",
    "service",
    "time_text",
    "whole_number",
]


def service() -> Service:
    """Return the service for which the app was made."""
    return cast(Service, current_app.config["MDASH_SERVICE"])


def principal() -> Principal:
    """Return the principal that sent the request."""
    return cast(Principal, g.principal)


def device_key(id: str) -> DeviceKey:
    """Return the key of a device that the current request names. Raises `NotFound` if no device can have that id."""
    return DeviceKey.find(principal().account, id)


async def raw_body() -> bytes:
    """Return the body's bytes. A body is JSON whatever its Content-Type: ``curl -d`` declares a form.

    Only for endpoints with a body.
    """
    if cast(Endpoint, g.endpoint).max_body == 0:
        raise RuntimeError(f"{request.endpoint} reads a body and does not take one")
    data = cast(bytes, await request.get_data(cache=False, as_text=False))
    if len(data) > READ_SIZE:  # decoding this much takes time
        await Turn(principal().account).give_way()
    return data


async def body() -> Any:
    """Return the body as a value; `None` if the request has none. Raises `InvalidInput`."""
    data = await raw_body()
    return _json.decode_foreign(data) if data.strip() else None


async def body_object() -> dict[str, Any]:
    """Return the body as an object; empty if the request has none. Raises `InvalidInput`."""
    value = await body()
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInput("the body has to be a JSON object")
    return value


def members(value: dict[str, Any], document: Any) -> None:
    """Refuse unknown members, so that a misspelt one is not lost silently. Raises `InvalidInput`.

    Args:
        document: the `TypedDict` that has the known ones.
    """
    check_members(value, members_of(document))


def answer(value: Any, status: int = 200) -> Response:
    """Return a JSON response. `bytes` are sent as they are."""
    data = value if isinstance(value, bytes) else _json.encode(value)
    return Response(data, status, content_type="application/json")


def whole_number(name: str, low: int, high: int) -> int | None:
    """Return a parameter of the query that is an integer; `None` if the query does not have it.

    Raises:
        InvalidInput: it is no integer from `low` to `high`.
    """
    text = request.args.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and low <= int(text) <= high):
        raise InvalidInput(f"{name} is an integer from {low} to {high}")
    return int(text)


def query_time(name: str) -> float | None:
    """Return a parameter of the query that is a time, in Unix seconds; `None` if the query does not have it.

    Raises:
        InvalidInput: it is neither a number nor RFC 3339, or no time from 1970 to 9999.
    """
    text = request.args.get(name)
    if text is None:
        return None
    try:
        return parse_moment(text)
    except InvalidInput as exc:
        raise InvalidInput(f"{name}: {exc}") from None


def time_text(seconds: float | None) -> str | None:
    """Return Unix seconds as RFC 3339 in UTC, with milliseconds."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
