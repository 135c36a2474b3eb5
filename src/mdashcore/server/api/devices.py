"""``/devices``: list, register, read, change, remove."""

from __future__ import annotations

from typing import Any

import trio
from quart import Blueprint, Response, request

from mdashcore import _json, identity, jsonrpc, selection
from mdashcore._errors import InvalidInput
from mdashcore.hub.presence import OFFLINE, PresenceRecord
from mdashcore.hub.rollouts import facts
from mdashcore.identity import Device
from mdashcore.server.api._request import answer, body_object, members, principal, service, time_text
from mdashcore.server.finish import SOON, finish, finish_soon
from mdashcore.shadow import Shadow

routes = Blueprint("devices", __name__, url_prefix="/devices")

_READ_ONLY = ("id", "online", "last_seen", "created_at")
"""What a client that writes back what it has read may send, and what changes nothing."""


@routes.get("")
async def list_devices() -> Response:
    """The account's devices, by id; with ``?filter=`` those for which every given term holds."""
    wanted = selection.parse(request.args.getlist("filter"))
    account = principal().account
    hub = service().hub
    presence = await hub.presence.of(account)
    devices = {device.id: device for device in await hub.registry.of(account)}
    parts = dict.fromkeys(devices, b"")

    def put(id: str, shadow: Shadow) -> None:
        device, record = devices[id], presence.get(id, OFFLINE)
        if wanted.matches(facts(device, record, shadow)):
            parts[id] = _json.encode(_document(device, record, shadow))
        else:
            del parts[id]

    async for id, shadow in hub.shadows.of(account):
        await trio.lowlevel.checkpoint()  # a large fleet takes seconds, and must not stop everybody else for so long
        if id in devices:
            put(id, shadow)
    for id in [id for id, part in parts.items() if not part]:
        put(id, Shadow())
    return answer(jsonrpc.encode_batch(parts.values()))


@routes.post("")
async def create_device() -> Response:
    """Register a device: ``{"id"?, "name"?}``. The answer holds its token, this once."""
    value = await body_object()
    if "token" in value:
        raise InvalidInput("a token is generated, it cannot be chosen")
    members(value, "id", "name")
    created = await service().hub.create_device(principal().account, value.get("id"), value.get("name"))
    document = _document(
        created.device, OFFLINE, await service().hub.shadows.get(created.device.account, created.device.id)
    )
    return answer({**document, "token": created.token}, 201)


@routes.get("/<id>")
async def get_device(id: str) -> Response:
    """One device."""
    return answer(await _read(id))


@routes.put("/<id>")
@routes.post("/<id>")
async def change_device(id: str) -> Response:
    """Change a device: ``{"name"?, "shadow"?: {"state": …}}``; answers with the device."""
    value = await body_object()
    members(value, "name", "shadow", "shared_with", *_READ_ONLY)
    if value.get("shared_with"):
        raise InvalidInput("devices cannot be shared between users")
    if value.get("id", id) != id:
        raise InvalidInput("a device's id cannot be changed")
    account = principal().account
    hub = service().hub
    await hub.registry.get(account, id)
    if "name" in value:
        identity.check_label(value["name"])  # before anything is changed
    if "shadow" in value:
        await hub.shadows.update(account, id, value["shadow"], patience=SOON, protect=finish_soon)
    if "name" in value:
        await finish_soon(lambda: hub.rename_device(account, id, value["name"]))
    return answer(await _read(id))


@routes.delete("/<id>")
async def remove_device(id: str) -> Response:
    """Remove a device: its token and its connection end at once."""
    account, hub = principal().account, service().hub
    await finish(lambda: hub.remove_device(account, id))
    return answer(True)


@routes.post("/<id>/token")
async def renew_token(id: str) -> Response:
    """Give a device a new token, in the answer; the old one and its connection end at once."""
    account, registry = principal().account, service().hub.registry
    created = await finish(lambda: registry.renew_token(account, id))
    return answer({"id": id, "token": created.token})


async def _read(id: str) -> dict[str, Any]:
    account = principal().account
    hub = service().hub
    device = await hub.registry.get(account, id)
    return _document(device, await hub.presence.get(account, id), await hub.shadows.get(account, id))


def _document(device: Device, presence: PresenceRecord, shadow: Shadow) -> dict[str, Any]:
    heard = service().node.last_heard(device.account, device.id)
    return {
        "id": device.id,
        "name": device.name,
        "online": presence.online,
        "last_seen": time_text(presence.last_seen if heard is None else heard),
        "created_at": time_text(device.created_at),
        "shared_with": [],
        "shadow": shadow.document(),
    }
