"""``/devices/:id/ota``: how a firmware update stands. The upload itself is in `mdashcore.server.upload`."""

from __future__ import annotations

from quart import Blueprint, Response

from mdashcore._errors import NotFound
from mdashcore.hub.updates import describe
from mdashcore.server.api._request import answer, principal, service

routes = Blueprint("update", __name__, url_prefix="/devices/<id>/ota")


@routes.get("")
async def get_update(id: str) -> Response:
    """The device's newest update."""
    account = principal().account
    await service().hub.registry.get(account, id)
    update = await service().hub.updates.get(account, id)
    if update is None:
        raise NotFound(f"device {id!r} was never updated")
    return answer(describe(update))
