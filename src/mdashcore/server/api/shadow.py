"""``/devices/:id/shadow``: what a device should be, and what it says it is."""

from __future__ import annotations

from quart import Blueprint, Response

from mdashcore.server.api._request import answer, body, principal, service

routes = Blueprint("shadow", __name__, url_prefix="/devices/<id>/shadow")


@routes.get("")
async def get_shadow(id: str) -> Response:
    """The shadow: ``{"state", "metadata", "version", "timestamp"}``."""
    account = principal().account
    await service().hub.registry.get(account, id)
    return answer((await service().hub.shadows.get(account, id)).document())


@routes.post("")
async def update_shadow(id: str) -> Response:
    """Update it: ``{"state", "version"?, "clientToken"?}``; answers with what was accepted and the new version."""
    account = principal().account
    await service().hub.registry.get(account, id)
    change = await service().hub.shadows.update(account, id, await body())
    return answer(change.accepted_document())
