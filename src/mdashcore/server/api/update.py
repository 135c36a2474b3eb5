"""``/devices/:id/ota``: how a firmware update stands, and taking it back.

The upload itself is in `mdashcore.server.uploads.update_upload`.
"""

from __future__ import annotations

from quart import Blueprint, Response

from mdashcore._errors import Damaged, NotFound
from mdashcore.hub.records.schema import History
from mdashcore.server.api._request import answer, device_key, service

routes: Blueprint = Blueprint("update", __name__, url_prefix="/devices/<id>/ota")


@routes.get("")
async def get_update(id: str) -> Response:
    """The device's newest update, and those before it."""
    key, hub = device_key(id), service().hub
    await hub.registry.get(key)
    update = await hub.updates.get(key)
    if update is None:
        raise NotFound(f"device {id!r} was never updated")
    damaged = {}
    try:
        history = await hub.updates.history(key)
    except Damaged:
        history, damaged = History(), {"damaged": ["history"]}
    if update.ended:  # also where whoever ended it was stopped before it was remembered
        history = history.with_(update)
    return answer({**hub.updates.describe(key, update), "history": history.describe(), **damaged})


@routes.post("/end")
async def end_transfer(id: str) -> Response:
    """End the transfer that the device holds, which is none of an update that goes on."""
    await service().node.user_calls.end_transfer(device_key(id))
    return answer(True)


@routes.delete("")
async def cancel_update(id: str) -> Response:
    """Take the device's update back; the answer is how it ended."""
    key, hub = device_key(id), service().hub
    await hub.registry.get(key)
    update = await service().node.update_supervisor.cancel(key)
    return answer(hub.updates.describe(key, update))
