"""``/limits``: the limits of accounts, and their use."""

from __future__ import annotations

import attrs
import trio
from quart import Response

from mdashcore._errors import NotFound
from mdashcore.documents import AccountName, AccountUse, AllLimits, LimitDocument, LimitsDocument
from mdashcore.hub.limits import AccountLimits, is_per_process
from mdashcore.server.api._request import answer, principal, service
from mdashcore.server.endpoints import API, Access, Routes

routes: Routes = Routes(API, name=AccountName)


@routes.get("/limits", answers={200: LimitsDocument})
async def get_limits() -> Response:
    """Answer with each limit and the account's own use of it."""
    return answer(await _document(principal().account))


@routes.get("/users/<name>/limits", access=Access.ADMIN, answers={200: LimitsDocument})
async def get_limits_of(name: str) -> Response:
    """Answer with each limit and the use of any account, for admins."""
    if await service().hub.accounts.get(name) is None:
        raise NotFound(f"no user {name!r}")
    return answer(await _document(name))


@routes.get("/users/limits", access=Access.ADMIN, answers={200: AllLimits})
async def list_limits() -> Response:
    """List each limit, the use of every account by name, and the disk, for admins."""
    hub = service().hub
    accounts: list[AccountUse] = []
    for account in await hub.accounts.all():
        await trio.lowlevel.checkpoint()
        accounts.append({"name": account.name, "use": await service().use(account.name)})
    found: AllLimits = {
        "limits": _limits(),
        "accounts": accounts,
        "disk": {"free": await hub.blobs.free_bytes(), "floor": hub.blobs.free_disk},
    }
    return answer(found)


async def _document(account: str) -> LimitsDocument:
    use = await service().use(account)
    return {"name": account, "limits": [{**limit, "use": use[limit["name"]]} for limit in _limits()]}


def _limits() -> list[LimitDocument]:
    limits = service().hub.limits
    return [
        {
            "name": field.name,
            "limit": getattr(limits, field.name),
            "per": "process" if is_per_process(field.name) else "service",
        }
        for field in attrs.fields(AccountLimits)
    ]
