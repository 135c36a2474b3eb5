"""``/logs``: the stored notifications."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final

from quart import Response, request

from mdashcore import _json
from mdashcore._errors import InvalidInput
from mdashcore.documents import FoundNotificationsDocument, LogSearchQuery, LogsQuery, NotificationDocument
from mdashcore.hub.log_search import LogSearch
from mdashcore.hub.notification_reader import MAX_RESULTS, LogQuery
from mdashcore.server.api._lists import send_list, send_pieces
from mdashcore.server.api._request import (
    body_object,
    members,
    principal,
    query_time,
    service,
    whole_number,
)
from mdashcore.server.endpoints import API, Routes
from mdashcore.server.service import Service
from mdashcore.trio.turns import Pace

routes: Routes = Routes(f"{API}/logs")

MAX_SEARCH_TEXT: Final = 256  # characters: a line of a log

MAX_SEARCH_NAMES: Final = 16  # of a search: as many as a filter has terms


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


@routes.get(query=LogSearchQuery, answers={200: FoundNotificationsDocument})
async def search_logs() -> Response:
    """Search in the stored notifications, from the newest back. Each answer has a part of what is found, and where to
    go on.
    """
    args = request.args
    names = args["name"].split("|") if "name" in args else []
    text = args.get("text", "")
    if len(names) > MAX_SEARCH_NAMES or len(text) > MAX_SEARCH_TEXT:
        raise InvalidInput(f"at most {MAX_SEARCH_NAMES} names, and a text of {MAX_SEARCH_TEXT} characters")
    if not all(names):
        raise InvalidInput("a name is empty; names are separated by |")
    start, end = query_time("from"), query_time("to")
    if start is not None and end is not None and start > end:
        raise InvalidInput("to is earlier than from")
    wanted = LogSearch(
        text,
        args.get("id"),
        tuple(names),
        start,
        end,
        _offset_before(args.get("before")),
        whole_number("limit", 1, MAX_RESULTS) or 100,
    )
    account, pace = principal().account, Pace(principal().account)
    return await send_pieces(_found(service(), account, wanted, pace), "application/json", compress=pace)


def _offset_before(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= 2**53):
        raise InvalidInput("before is an offset")
    return int(text)


async def _found(service: Service, account: str, wanted: LogSearch, pace: Pace) -> AsyncGenerator[bytes, None]:
    """Yield the answer. All reading is done in here: it counts as one of the account's lists."""
    with service.reading_log():
        found = await service.hub.log_search.search(account, wanted, pace)
    yield b'{"notifications":['
    before = b""
    for frame in found.frames:
        yield before + frame
        before = b","
        await pace()
    rest = {"next": found.next, "reached": found.reached, "checked": found.checked}
    yield b"]," + _json.encode(rest)[1:]


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
