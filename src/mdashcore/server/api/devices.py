"""``/devices``: list, register, read, change, remove."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, Final, Literal, TypeVar
from urllib.parse import urlencode

import attrs
from quart import Response, request

from mdashcore import _json, identity, selection, tags
from mdashcore._errors import Damaged, InvalidInput
from mdashcore._trees import values_equal
from mdashcore.documents import (
    MAX_DEVICES_PAGE,
    DeviceChange,
    DeviceDocument,
    DeviceId,
    DevicePart,
    DevicesQuery,
    DeviceToken,
    NewDevice,
    RegisteredDevice,
)
from mdashcore.hub.deltas import check_delta_limit, delta_limit
from mdashcore.hub.device_list import ListedDevice, unreadable_device
from mdashcore.hub.fleet.order import BY_ID, Order
from mdashcore.hub.fleet.pages import MAX_WHOLE, PageDevice
from mdashcore.hub.fleet.rows import DeviceRow
from mdashcore.hub.presence import OFFLINE_RECORD
from mdashcore.identity import Device, DeviceKey
from mdashcore.selection import Selection
from mdashcore.server import operations
from mdashcore.server.api._device_documents import (
    CSV_FIELDS,
    DeviceFields,
    csv_cells,
    device_document,
    page_document,
    parse_fields,
)
from mdashcore.server.api._lists import send_list, send_pieces
from mdashcore.server.api._request import (
    answer,
    body_object,
    device_key,
    members,
    principal,
    service,
    whole_number,
)
from mdashcore.server.csv_text import CSV_TYPE, csv_line
from mdashcore.server.endpoints import API, SMALL_BODY, Routes
from mdashcore.server.query import ACCESS_TOKEN
from mdashcore.server.service import Service
from mdashcore.shadow import Shadow
from mdashcore.trio.shielding import WRITES_TIMEOUT, finish, shielded
from mdashcore.trio.turns import Pace

routes: Routes = Routes(f"{API}/devices", id=DeviceId)

T = TypeVar("T")

_CHANGE: Final[dict[str, Any]] = {
    "body": DeviceChange,
    "max_body": operations.MAX_BODY,
    "answers": {200: DeviceDocument},
    "errors": (409,),
}


@routes.get(query=DevicesQuery, answers={200: list[DeviceDocument] | list[DevicePart]}, errors=(413,), is_paged=True)
async def list_devices() -> Response:
    """List the account's devices by id; with ``?filter=`` only those that match every term.

    With ``?limit=`` the answer is a page. The header ``Link`` has the address of the next one (RFC 8288), if there is
    one, and with ``?count=1`` the header ``X-Total-Count`` has the number of devices in all pages. Without ``limit``
    the answer has all devices, or the error 413 if these are more than 10 000. With ``format=csv`` the answer is CSV,
    in which the first page begins with the names of the columns.
    """
    account, pace = principal().account, Pace(principal().account)
    wanted = selection.parse(await service().hub.saved_filters.resolve(account, request.args.getlist("filter")))
    as_csv, named = _wants_csv(), request.args.get("fields")
    fields = parse_fields(CSV_FIELDS if as_csv and named is None else named)
    order = Order.parse(request.args.get("sort", "id"))
    after = request.args.get("after")
    if after is not None:
        order.after(after)  # a wrong one is an error, whatever else is wrong
    limit = whole_number("limit", 1, MAX_DEVICES_PAGE)
    is_counted = whole_number("count", 0, 1) == 1
    if is_counted and limit is None:
        raise InvalidInput("count belongs to a page: it needs limit")
    listing = _Listing(service(), account, wanted, fields, order, after, limit, is_counted, pace)
    if as_csv:
        columns = (CSV_FIELDS if named is None else named).split(",")
        response = await send_pieces(listing.csv(columns), CSV_TYPE)
        response.headers["Content-Disposition"] = 'attachment; filename="devices.csv"'
    else:
        response = await send_list(listing.encoded(), pace, compress=not fields.with_shadow)
    if listing.next is not None:
        response.headers["Link"] = f'<?{_next_query(listing.next)}>; rel="next"'
    if listing.total is not None:
        response.headers["X-Total-Count"] = str(listing.total)
    return response


def _wants_csv() -> bool:
    form = request.args.get("format", "json")
    if form not in ("csv", "json"):
        raise InvalidInput("format is csv or json")
    return form == "csv"


@attrs.define
class _Listing:
    """A list of devices that is asked for."""

    _service: Service
    _account: str
    _wanted: Selection
    _fields: DeviceFields
    _order: Order
    _after: str | None
    _limit: int | None
    _is_counted: bool
    _pace: Pace
    next: str | None = None
    """The cursor for the next page, once the first device was encoded."""
    total: int | None = None
    """The number of devices in all pages, once the first device was encoded, if they are counted."""

    async def encoded(self) -> AsyncGenerator[bytes, None]:
        """Yield each device as JSON. All reading is done in here: it counts as one of the account's lists."""
        async with aclosing(self._documents()) as documents:
            async for document in documents:
                yield _json.encode(document)

    async def csv(self, columns: list[str]) -> AsyncGenerator[bytes, None]:
        """Yield the lines of a table: the names of its columns, unless an earlier page had them, and each device."""
        if self._after is None:
            yield csv_line(columns).encode()
        async with aclosing(self._documents()) as documents:
            async for document in documents:
                yield csv_line(csv_cells(document, columns)).encode()
                await self._pace()

    async def _documents(self) -> AsyncGenerator[dict[str, Any], None]:
        async with aclosing(self._devices()) as devices:
            async for device in devices:
                yield page_document(self._service, self._account, device, self._fields)

    async def _devices(self) -> AsyncGenerator[PageDevice, None]:
        account, wanted, pace = self._account, self._wanted, self._pace
        pages = self._service.hub.device_pages
        if self._limit is None:
            await pages.check_whole(account, wanted, pace)
            if self._order == BY_ID and self._after is None and self._fields.with_shadow:
                async with aclosing(self._service.hub.device_list.select(account, wanted, pace)) as listed:
                    async for each in listed:
                        yield PageDevice(DeviceRow.of(each), each.shadow)
                return
        page = await pages.read(
            account,
            wanted,
            MAX_WHOLE if self._limit is None else self._limit,
            order=self._order,
            after=self._after,
            with_builds=self._fields.with_build and not self._fields.with_shadow,
            with_total=self._is_counted,
            pause=pace,
        )
        self.next, self.total = page.next, page.total
        if not self._fields.with_shadow:
            for row in page.rows:
                yield PageDevice(row)
            return
        async with aclosing(pages.with_shadows(account, page, pace)) as devices:
            async for device in devices:
                yield device


def _next_query(cursor: str) -> str:
    """Return the query for the page behind a cursor: that of the current request, without its credentials."""
    kept = [(name, value) for name, value in request.args.items(multi=True) if name not in ("after", ACCESS_TOKEN)]
    return urlencode([*kept, ("after", cursor)])


@routes.post(body=NewDevice, max_body=SMALL_BODY, answers={201: RegisteredDevice}, errors=(409,))
async def create_device() -> Response:
    """Register a device. Its token is in this answer, and in no other."""
    value = await body_object()
    if "token" in value:
        raise InvalidInput("a token is generated, it cannot be chosen")
    members(value, NewDevice)
    hub = service().hub
    account, id, name, labels = principal().account, value.get("id"), value.get("name"), value.get("tags")
    created = await finish(lambda: hub.create_device(account, id, name, labels))
    shadow = await hub.shadows.get(created.device.key)
    document = device_document(service(), ListedDevice(created.device, OFFLINE_RECORD, shadow))
    registered: RegisteredDevice = {**document, "token": created.token}
    return answer(registered, 201)


@routes.get("/<id>", answers={200: DeviceDocument})
async def get_device(id: str) -> Response:
    """Answer with one device."""
    return answer(await _read(id))


@routes.post("/<id>", **_CHANGE)
@routes.put("/<id>", **_CHANGE)
async def change_device(id: str) -> Response:
    """Change a device. Answers with the device."""
    value = await body_object()
    members(value, DeviceChange)
    if value.get("shared_with") not in (None, []):
        raise InvalidInput("devices cannot be shared between users")
    if value.get("id", id) != id:
        raise InvalidInput("a device's id cannot be changed")
    key, hub = device_key(id), service().hub
    device = await hub.registry.get(key)
    updates, patches = _shadow_and_tags(value)
    for patch in patches:
        tags.merge(device.tags, patch)  # checked before anything is changed
    limit = check_delta_limit(value.get("delta_limit"))
    if "name" in value:
        identity.check_label(value["name"])  # checked before anything is changed
    # a client that sends back the platform's limit does not set one
    if "delta_limit" in value and limit != await _delta_limit(device):
        await shielded(lambda: hub.set_delta_limit(key, limit))
    for update in updates:
        await hub.shadows.update(key, update, patience=WRITES_TIMEOUT, protect=shielded)
    for patch in patches:  # after the shadow: a document with an old version changes nothing
        await shielded(partial(hub.change_tags, key, patch))
    if "name" in value:
        await shielded(lambda: hub.rename_device(key, value["name"]))
    return answer(await _read(id))


def _shadow_and_tags(value: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """Return the update of the shadow, if there is one, and the patch of the tags, if there is one."""
    updates = [value["shadow"]] if "shadow" in value else []
    patches = [value["tags"]] if "tags" in value else []
    if updates and isinstance(updates[0], dict) and "tags" in updates[0]:
        update = dict(updates[0])
        patch = update.pop("tags")
        if patches and not values_equal(patches[0], patch):
            raise InvalidInput("tags and shadow.tags are the same tags: send one of them")
        updates, patches = ([update] if update else []), [patch]
    return updates, patches


@routes.delete("/<id>", answers={200: Literal[True]})
async def remove_device(id: str) -> Response:
    """Remove a device. Its token and its connection end immediately."""
    key, hub = device_key(id), service().hub
    await finish(lambda: hub.remove_device(key))
    return answer(True)


@routes.post("/<id>/token", answers={200: DeviceToken})
async def renew_token(id: str) -> Response:
    """Give a device a new token. The old token and its connection end immediately. The answer has the new token."""
    key, registry = device_key(id), service().hub.registry
    created = await finish(lambda: registry.renew_token(key))
    renewed: DeviceToken = {"id": id, "token": created.token}
    return answer(renewed)


async def _delta_limit(device: Device) -> int | None:
    """Return the delta limit that applies to the device now."""
    shadow = await service().hub.shadows.get(device.key)
    return delta_limit(device, shadow, service().node.settings.delta_limits)


async def _read(id: str) -> DeviceDocument:
    key, hub = device_key(id), service().hub
    damaged: list[str] = []

    async def read(part: str, get: Callable[[DeviceKey], Awaitable[T]], otherwise: T) -> T:
        try:
            return await get(key)
        except Damaged:
            damaged.append(part)
            return otherwise

    device = await read("device", hub.registry.get, unreadable_device(key))
    presence = await read("presence", hub.presence.get, OFFLINE_RECORD)
    shadow = await read("shadow", hub.shadows.get, Shadow())
    return device_document(service(), ListedDevice(device, presence, shadow, tuple(damaged)))
