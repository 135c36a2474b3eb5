"""``/logs``: the stored notifications."""

from __future__ import annotations

from typing import Any

from quart import Response

from mdashcore._errors import InvalidInput
from mdashcore.documents import LogsQuery, NotificationDocument
from mdashcore.hub.notification_reader import MAX_RESULTS, LogQuery
from mdashcore.server.api._lists import send_list
from mdashcore.server.api._request import body_object, members, principal, service
from mdashcore.server.endpoints import API, Routes
from mdashcore.trio.turns import Pace

routes: Routes = Routes(f"{API}/logs")


@routes.post(body=LogsQuery, max_body=None, answers={200: list[NotificationDocument]})
async def read_logs() -> Response:
    """Answer with stored notifications, oldest first."""
    value = await body_object()
    members(value, LogsQuery)
    query = LogQuery(
        start=_integer(value, "start", 0, 0, 2**63 - 1),
        limit=_integer(value, "limit", 100, 1, MAX_RESULTS),
        device=_text(value, "id"),
        name=_text(value, "name"),
        before=_integer(value, "before", 0, 0, 2**63 - 1) if "before" in value else None,
    )
    account, pace = principal().account, Pace(principal().account)
    return await send_list(service().hub.feed.select(account, query, pace), pace)


def _integer(value: dict[str, Any], name: str, default: int, low: int, high: int) -> int:
    number = value.get(name, default)
    if type(number) is not int or not low <= number <= high:
        raise InvalidInput(f"{name} is an integer from {low} to {high}")
    return number


def _text(value: dict[str, Any], name: str) -> str | None:
    text = value.get(name)
    if text is not None and not isinstance(text, str):
        raise InvalidInput(f"{name} is text")
    return text
