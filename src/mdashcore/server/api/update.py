"""``/devices/:id/ota``: the state of a firmware update, and its cancellation.

`mdashcore.server.uploads.update_upload` takes the upload.
"""

from __future__ import annotations

from typing import Literal

from quart import Response

from mdashcore._errors import Damaged, NotFound
from mdashcore.documents import DeviceId, UpdateDocument, UpdateWithHistory
from mdashcore.hub.records.schema import History
from mdashcore.server.api._request import answer, device_key, service
from mdashcore.server.endpoints import API, Routes

routes: Routes = Routes(f"{API}/devices/<id>/ota", id=DeviceId)


@routes.get(answers={200: UpdateWithHistory})
async def get_update(id: str) -> Response:
    """Answer with the device's newest update and the earlier ones."""
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
    if update.ended:  # a node that stopped may have ended the update without adding it to the history
        history = history.with_(update)
    return answer({**hub.updates.describe(key, update), "history": history.describe(), **damaged})


@routes.post("/end", answers={200: Literal[True]}, errors=(409, 422, 502, 504))
async def end_transfer(id: str) -> Response:
    """End a transfer that the device holds and that belongs to no running update."""
    await service().node.user_calls.end_transfer(device_key(id))
    return answer(True)


@routes.delete(answers={200: UpdateDocument}, errors=(409,))
async def cancel_update(id: str) -> Response:
    """Cancel the device's update. The answer is the update's final state."""
    key, hub = device_key(id), service().hub
    await hub.registry.get(key)
    update = await service().node.update_supervisor.cancel(key)
    return answer(hub.updates.describe(key, update))
