"""Lists in pages: one page, and all pages one after the other."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from math import inf
from typing import Any, Final, cast
from urllib.parse import parse_qs

import attrs

from mdashcore import _json
from mdashcore.client._http import Http
from mdashcore.documents import MAX_DEVICES_PAGE, DevicePart

__all__ = ["DevicesPage", "all_devices", "all_parts", "read_page"]

_NEXT: Final = re.compile(r'<[^>?]*\?([^>]*)>;\s*rel="?next"?')


@attrs.frozen
class DevicesPage:
    """A part of a list of devices."""

    devices: list[DevicePart]
    """Devices, or the members of them that were asked for."""
    next: str | None
    """The cursor for the next page; `None` at the end of the list."""
    total: int | None = None
    """The number of devices in all pages, if they were to be counted."""


async def read_page(
    http: Http,
    terms: Sequence[str],
    *,
    limit: int = MAX_DEVICES_PAGE,
    after: str | None = None,
    sort: str | None = None,
    fields: Sequence[str] | None = None,
    count: bool = False,
) -> DevicesPage:
    """Read a page. See `Client.devices_page`."""
    given = {"after": after, "sort": sort, "fields": None if fields is None else ",".join(fields)}
    given["count"] = "1" if count else None
    query: dict[str, str | Sequence[str]] = {name: value for name, value in given.items() if value is not None}
    answer = await http.request("GET", "devices", query={**query, "limit": str(limit), "filter": list(terms)})
    link = _NEXT.search(answer.headers.get("Link", ""))
    cursors = parse_qs(link[1]).get("after", []) if link else []
    total = answer.headers.get("X-Total-Count")
    devices = cast(list[DevicePart], _json.decode(answer.content))
    return DevicesPage(devices, cursors[0] if cursors else None, None if total is None else int(total))


async def all_devices(
    http: Http,
    terms: Sequence[str],
    *,
    sort: str | None = None,
    limit: int | None = None,
    fields: Sequence[str] | None = None,
) -> AsyncGenerator[DevicePart, None]:
    """Yield the devices of all pages. See `Client.iterate_devices`."""
    after, left = None, inf if limit is None else limit
    while left > 0:
        size = int(min(MAX_DEVICES_PAGE, left))
        page = await read_page(http, terms, limit=size, after=after, sort=sort, fields=fields)
        for device in page.devices:
            yield device
        after, left = page.next, left - len(page.devices)
        if after is None:
            return


async def all_parts(http: Http, *path: str, of: str, limit: int, outcome: str | None) -> AsyncIterator[Any]:
    """Yield the parts of a rollout or a job, of all pages.

    Args:
        of: the member of a page that has its parts.
        limit: the maximum number in a page.
        outcome: only parts that have it; `None` for all.
    """
    start: int | None = 0
    while start is not None:
        query = {"start": str(start), "limit": str(limit)} | ({} if outcome is None else {"outcome": outcome})
        page = await http.fetch("GET", *path, query=query)
        for part in page[of]:
            yield part
        start = page["next"]
