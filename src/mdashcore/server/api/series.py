"""``/devices/:id/series``: what a device has reported over time, as JSON or CSV."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import Final
from urllib.parse import quote

import attrs
from quart import Response, request

from mdashcore import _json
from mdashcore._errors import InvalidInput
from mdashcore.documents import MAX_SERIES, DeviceId, SeriesDocument, SeriesQuery
from mdashcore.filters import parse_place
from mdashcore.hub.series_reader import SeriesRequest, StoredSeries
from mdashcore.identity import DeviceKey
from mdashcore.series import MAX_POINTS
from mdashcore.server.api._lists import send_pieces
from mdashcore.server.api._request import device_key, principal, query_time, service, time_text, whole_number
from mdashcore.server.csv_text import CSV_TYPE, csv_line
from mdashcore.server.endpoints import API, Routes
from mdashcore.server.service import Service
from mdashcore.trio.turns import Pace

routes: Routes = Routes(f"{API}/devices", id=DeviceId)

DEFAULT_POINTS: Final = 300  # of a plot: one for each two pixels

_SECTION: Final = "reported."


@routes.get("/<id>/series", query=SeriesQuery, answers={200: SeriesDocument}, headers=("Accept",))
async def get_series(id: str) -> Response:
    """Answer with what the device has reported over time: of each place the smallest, mean and largest value in each
    part of the time, and the gaps in which the device was offline. With ``format=csv`` the answer is CSV.
    """
    query = SeriesRequest(
        places=_places(request.args.getlist("path")),
        points=whole_number("points", 1, MAX_POINTS) or DEFAULT_POINTS,
        start=query_time("from"),
        end=query_time("to"),
    )
    as_csv = _wants_csv()
    key, pace = device_key(id), Pace(principal().account)
    headers: dict[str, str] = {}
    parts = _answer(service(), key, query, pace, headers if as_csv else None)
    response = await send_pieces(parts, CSV_TYPE if as_csv else "application/json", compress=pace)
    response.headers["Vary"] = "Accept, Accept-Encoding"
    if as_csv:
        response.headers.update(headers)
        response.headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(id, safe='')}.csv"
    return response


def _places(texts: list[str]) -> dict[str, tuple[str, ...]]:
    if not 1 <= len(texts) <= MAX_SERIES:
        raise InvalidInput(f"path is missing, or given more than {MAX_SERIES} times")
    return {text: parse_place(text if text.startswith(_SECTION) else _SECTION + text)[1:] for text in texts}


def _wants_csv() -> bool:
    form = request.args.get("format")
    if form is None:
        return request.accept_mimetypes.best_match(["application/json", "text/csv"]) == "text/csv"
    if form not in ("csv", "json"):
        raise InvalidInput("format is csv or json")
    return form == "csv"


async def _answer(
    service: Service, key: DeviceKey, query: SeriesRequest, pace: Pace, csv_headers: dict[str, str] | None
) -> AsyncGenerator[bytes, None]:
    """Yield the answer. All reading is done in here: it counts as one of the account's lists.

    Args:
        csv_headers: gets what a table has no cell for, before the first part; `None` for JSON.
    """
    await service.hub.registry.get(key)
    with service.reading_log():
        found = await service.hub.series.read(key, query, pace)
    if csv_headers is not None:
        csv_headers["X-Complete"] = "true" if found.is_complete else "false"
    for part in _document(found, query.points) if csv_headers is None else _csv(found):
        yield part
        await pace()


def _document(found: StoredSeries, points: int) -> Iterator[bytes]:
    """Yield the parts of a `SeriesDocument`, which may have two megabytes."""
    head = {"from": found.start, "to": found.end, "step": (found.end - found.start) / points}
    yield _json.encode(head)[:-1] + b',"series":['
    for number, (place, buckets) in enumerate(found.points.items()):
        yield b'%b{"path":%b,"points":[' % (b"," if number else b"", _json.encode(place))
        before = b""
        for point in buckets:
            yield before + _json.encode(attrs.asdict(point))
            before = b","
        yield b"]}"
    rest = {
        "gaps": [{"from": gap.start, "to": gap.end} for gap in found.gaps],
        "read_from": found.read_from,
        "complete": found.is_complete,
    }
    yield b"]," + _json.encode(rest)[1:]


def _csv(found: StoredSeries) -> Iterator[bytes]:
    """Yield a line for each part of the time that has values, place by place."""
    yield csv_line(["path", "time", "min", "avg", "max", "count"]).encode()
    for place, buckets in found.points.items():
        for point in buckets:
            cells: list[str | float] = [
                place,
                time_text(point.time) or "",
                point.min,
                point.avg,
                point.max,
                point.count,
            ]
            yield csv_line(cells).encode()
