"""``/limits``: the limits of accounts, and their use."""

from __future__ import annotations

from typing import Any

import attrs
import trio
from quart import Blueprint, Response

from mdashcore._errors import NotFound
from mdashcore.hub.limits import AccountLimits, is_per_process
from mdashcore.server.api._request import admin, answer, principal, service

routes: Blueprint = Blueprint("limits", __name__)


@routes.get("/limits")
async def get_limits() -> Response:
    """Answer with each limit and the account's own use of it."""
    return answer(await _document(principal().account))


@routes.get("/users/<name>/limits")
async def get_limits_of(name: str) -> Response:
    """Answer with each limit and the use of any account, for admins."""
    admin()
    if await service().hub.accounts.get(name) is None:
        raise NotFound(f"no user {name!r}")
    return answer(await _document(name))


@routes.get("/users/limits")
async def list_limits() -> Response:
    """List each limit, the use of every account by name, and the disk, for admins."""
    admin()
    hub = service().hub
    accounts = []
    for account in await hub.accounts.all():
        await trio.lowlevel.checkpoint()
        accounts.append({"name": account.name, "use": await service().use(account.name)})
    disk = {"free": await hub.blobs.free_bytes(), "floor": hub.blobs.free_disk}
    return answer({"limits": _limits(), "accounts": accounts, "disk": disk})


async def _document(account: str) -> dict[str, Any]:
    use = await service().use(account)
    return {"name": account, "limits": [{**limit, "use": use[limit["name"]]} for limit in _limits()]}


def _limits() -> list[dict[str, Any]]:
    limits = service().hub.limits
    return [
        {
            "name": field.name,
            "limit": getattr(limits, field.name),
            "per": "process" if is_per_process(field.name) else "service",
        }
        for field in attrs.fields(AccountLimits)
    ]
