"""``/metrics``: the numbers of the account's devices, for an engine that keeps their history."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from quart import Response, request

from mdashcore import selection
from mdashcore.documents import MetricsQuery
from mdashcore.selection import Selection
from mdashcore.server.api._lists import send_pieces
from mdashcore.server.api._request import principal, service
from mdashcore.server.endpoints import API, Routes, Text
from mdashcore.server.metrics.device_table import DeviceTable, Places, parse_places
from mdashcore.server.metrics.exposition import CONTENT_TYPE, OPEN_METRICS, wants_open_metrics
from mdashcore.server.service import Service
from mdashcore.trio.turns import Pace

routes: Routes = Routes(f"{API}/metrics")


@routes.get(query=MetricsQuery, answers={200: Text("text/plain", "the metrics")})
async def get_device_metrics() -> Response:
    """Answer with the numbers of the devices, in the text of Prometheus or, if the client prefers it, OpenMetrics."""
    places = parse_places(request.args.getlist("place"))
    account = principal().account
    wanted = selection.parse(await service().hub.saved_filters.resolve(account, request.args.getlist("filter")))
    open_metrics = wants_open_metrics(request.headers.get("Accept", ""))
    parts = _text(service(), account, wanted, places, open_metrics=open_metrics)
    response = await send_pieces(parts, OPEN_METRICS if open_metrics else CONTENT_TYPE)
    response.headers["Vary"] = "Accept"
    return response


async def _text(
    service: Service, account: str, wanted: Selection, places: Places, *, open_metrics: bool
) -> AsyncGenerator[bytes, None]:
    """Yield the text. All devices are read before the first piece, so that a failure is still an error of its own."""
    pace = Pace(account)
    table = DeviceTable(places, service.hub.now())
    async with aclosing(service.hub.device_list.select(account, wanted, pace)) as devices:
        async for each in devices:
            table.add(each, service.node.devices.last_seen(each.device.key, each.presence.last_seen))
    for line in table.lines(open_metrics=open_metrics):
        yield line.encode()
        await pace()
