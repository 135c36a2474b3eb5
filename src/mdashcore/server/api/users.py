"""``/users`` and ``/me``: accounts, managed by admins."""

from __future__ import annotations

from typing import Any

from quart import Blueprint, Response

from mdashcore import identity
from mdashcore._errors import InvalidInput, NotFound
from mdashcore.identity import Account
from mdashcore.server.api._lists import send_values
from mdashcore.server.api._request import (
    SMALL_BODY,
    admin,
    answer,
    body_object,
    members,
    principal,
    service,
    takes_body,
    time_text,
)
from mdashcore.server.shielding import finish

routes: Blueprint = Blueprint("users", __name__)


@routes.get("/me")
async def get_me() -> Response:
    """Answer with the caller's account name, and whether this request may manage accounts."""
    found = principal()
    return answer({"name": found.account, "admin": found.admin})


@routes.get("/users")
async def list_users() -> Response:
    """List all accounts by name."""
    admin()
    damaged: list[str] = []
    accounts = await service().hub.accounts.all(damaged)
    unread = [{"name": name, "admin": False, "created_at": None, "damaged": ["account"]} for name in sorted(damaged)]
    return await send_values([*map(_document, accounts), *unread])


@routes.post("/users")
@takes_body(SMALL_BODY)
async def create_user() -> Response:
    """Create an account: ``{"name", "password", "admin"?}``."""
    by = admin()
    value = await body_object()
    members(value, "name", "password", "admin")
    name = identity.check_account_name(value.get("name"))
    digest = await service().passwords.hash(value.get("password"), name=by.account)
    account = await service().hub.accounts.register(name, digest, admin=_flag(value) or False)
    return answer(_document(account), 201)


@routes.put("/users/<name>")
@takes_body(SMALL_BODY)
async def change_user(name: str) -> Response:
    """Give an account a new password: ``{"password", "admin"?}``."""
    by = admin()
    value = await body_object()
    members(value, "password", "admin")
    if await service().hub.accounts.get(name) is None:
        raise NotFound(f"no user {name!r}")
    flag = _flag(value)
    if flag is False:
        await service().hub.accounts.check_not_last_admin(name)
    digest = await service().passwords.hash(value.get("password"), name=by.account)
    accounts = service().hub.accounts
    return answer(_document(await finish(lambda: accounts.set_password(name, digest, admin=flag))))


@routes.delete("/users/<name>")
async def remove_user(name: str) -> Response:
    """Remove an account with its devices and keys, or continue an interrupted removal. Their sockets are closed."""
    admin()
    hub = service().hub
    await finish(lambda: hub.remove_account(name))
    return answer(True)


def _flag(value: dict[str, Any]) -> bool | None:
    flag = value.get("admin")
    if flag is not None and not isinstance(flag, bool):
        raise InvalidInput("admin is true or false")
    return flag


def _document(account: Account) -> dict[str, Any]:
    document = {"name": account.name, "admin": account.admin, "created_at": time_text(account.created_at)}
    return {**document, "removing": True} if account.removing else document
