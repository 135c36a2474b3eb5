"""``/devices/:id/shadow``: what a device should be, and what it says it is."""

from __future__ import annotations

from quart import Blueprint, Response

from mdashcore.server import hot
from mdashcore.server.api._request import answer, principal, raw_body, service

routes = Blueprint("shadow", __name__, url_prefix="/devices/<id>/shadow")


@routes.get("")
async def get_shadow(id: str) -> Response:
    """The shadow: ``{"state", "metadata", "version", "timestamp"}``."""
    return answer(await hot.read_shadow(service(), principal().account, id))


@routes.post("")
async def update_shadow(id: str) -> Response:
    """Update it: ``{"state", "version"?, "clientToken"?}``; answers with what was accepted and the new version."""
    return answer(await hot.update_shadow(service(), principal().account, id, await raw_body()))
