"""``/devices``: list, register, read, change, remove."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

from quart import Blueprint, Response, request

from mdashcore import _json, identity, selection
from mdashcore._errors import Damaged, InvalidInput
from mdashcore.hub.deltas import check_delta_limit, delta_limit
from mdashcore.hub.device_list import ListedDevice, unreadable_device
from mdashcore.hub.presence import OFFLINE
from mdashcore.identity import Device, DeviceKey
from mdashcore.selection import Selection
from mdashcore.server import operations
from mdashcore.server.api._lists import send_list
from mdashcore.server.api._request import (
    SMALL_BODY,
    answer,
    body_object,
    device_key,
    members,
    principal,
    service,
    takes_body,
    time_text,
)
from mdashcore.server.service import Service
from mdashcore.server.shielding import SOON, finish, shielded
from mdashcore.shadow import Shadow
from mdashcore.trio.turns import Pace

routes: Blueprint = Blueprint("devices", __name__, url_prefix="/devices")

T = TypeVar("T")

_READ_ONLY = ("id", "online", "last_seen", "created_at", "damaged")
"""Members that a client may send back as it has read them. They change nothing."""


@routes.get("")
async def list_devices() -> Response:
    """List the account's devices by id; with ``?filter=`` only those that match every term."""
    wanted = selection.parse(request.args.getlist("filter"))
    account, pace = principal().account, Pace(principal().account)
    return await send_list(_encoded(service(), account, wanted, pace), pace)


async def _encoded(service: Service, account: str, wanted: Selection, pace: Pace) -> AsyncGenerator[bytes, None]:
    async with aclosing(service.hub.device_list.select(account, wanted, pace)) as devices:
        async for each in devices:
            yield _json.encode(_document(service, each))


@routes.post("")
@takes_body(SMALL_BODY)
async def create_device() -> Response:
    """Register a device: ``{"id"?, "name"?}``. Its token is in this answer, and in no other."""
    value = await body_object()
    if "token" in value:
        raise InvalidInput("a token is generated, it cannot be chosen")
    members(value, "id", "name")
    created = await service().hub.create_device(principal().account, value.get("id"), value.get("name"))
    shadow = await service().hub.shadows.get(created.device.key)
    document = _document(service(), ListedDevice(created.device, OFFLINE, shadow))
    return answer({**document, "token": created.token}, 201)


@routes.get("/<id>")
async def get_device(id: str) -> Response:
    """Answer with one device."""
    return answer(await _read(id))


@routes.put("/<id>")
@routes.post("/<id>")
@takes_body(operations.MAX_BODY)
async def change_device(id: str) -> Response:
    """Change a device: ``{"name"?, "delta_limit"?, "shadow"?: {"state": …}}``. Answers with the device."""
    value = await body_object()
    members(value, "name", "delta_limit", "shadow", "shared_with", *_READ_ONLY)
    if value.get("shared_with"):
        raise InvalidInput("devices cannot be shared between users")
    if value.get("id", id) != id:
        raise InvalidInput("a device's id cannot be changed")
    key, hub = device_key(id), service().hub
    device = await hub.registry.get(key)
    limit = check_delta_limit(value.get("delta_limit"))
    if "name" in value:
        identity.check_label(value["name"])  # checked before anything is changed
    # a client that sends back the platform's limit does not set one
    if "delta_limit" in value and limit != await _delta_limit(device):
        await shielded(lambda: hub.set_delta_limit(key, limit))
    if "shadow" in value:
        await hub.shadows.update(key, value["shadow"], patience=SOON, protect=shielded)
    if "name" in value:
        await shielded(lambda: hub.rename_device(key, value["name"]))
    return answer(await _read(id))


@routes.delete("/<id>")
async def remove_device(id: str) -> Response:
    """Remove a device. Its token and its connection end immediately."""
    key, hub = device_key(id), service().hub
    await finish(lambda: hub.remove_device(key))
    return answer(True)


@routes.post("/<id>/token")
async def renew_token(id: str) -> Response:
    """Give a device a new token. The old token and its connection end immediately. The answer has the new token."""
    key, registry = device_key(id), service().hub.registry
    created = await finish(lambda: registry.renew_token(key))
    return answer({"id": id, "token": created.token})


async def _delta_limit(device: Device) -> int | None:
    """Return the delta limit that applies to the device now."""
    shadow = await service().hub.shadows.get(device.key)
    return delta_limit(device, shadow, service().node.settings.delta_limits)


async def _read(id: str) -> dict[str, Any]:
    key, hub = device_key(id), service().hub
    damaged: list[str] = []

    async def read(part: str, get: Callable[[DeviceKey], Awaitable[T]], otherwise: T) -> T:
        try:
            return await get(key)
        except Damaged:
            damaged.append(part)
            return otherwise

    device = await read("device", hub.registry.get, unreadable_device(key))
    presence = await read("presence", hub.presence.get, OFFLINE)
    shadow = await read("shadow", hub.shadows.get, Shadow())
    return _document(service(), ListedDevice(device, presence, shadow, tuple(damaged)))


def _document(service: Service, listed: ListedDevice) -> dict[str, Any]:
    """Return a device as clients see it."""
    device, presence = listed.device, listed.presence
    heard = service.node.devices.last_heard(device.key)
    return {
        "id": device.id,
        "name": device.name,
        "online": presence.online,
        "last_seen": time_text(presence.last_seen if heard is None else heard),
        "created_at": None if "device" in listed.damaged else time_text(device.created_at),
        "shared_with": [],
        "delta_limit": delta_limit(device, listed.shadow, service.node.settings.delta_limits),
        "shadow": listed.shadow.document(),
        **({"damaged": list(listed.damaged)} if listed.damaged else {}),
    }
