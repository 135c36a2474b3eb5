"""``/users`` and ``/me``: accounts, managed by admins."""

from __future__ import annotations

import logging
from typing import Any, Literal

from quart import Response

from mdashcore import identity
from mdashcore._errors import InvalidInput, NotFound
from mdashcore.documents import AccountName, AdoptedDevice, DeviceToAdopt, MeDocument, NewUser, UserChange, UserDocument
from mdashcore.identity import Account
from mdashcore.server.api._lists import send_values
from mdashcore.server.api._request import (
    answer,
    body_object,
    members,
    principal,
    service,
    time_text,
)
from mdashcore.server.endpoints import API, SMALL_BODY, Access, Routes
from mdashcore.trio.shielding import finish

_log = logging.getLogger(__name__)

routes: Routes = Routes(API, name=AccountName)


@routes.get("/me", answers={200: MeDocument})
async def get_me() -> Response:
    """Answer with the caller's account name, and whether this request may manage accounts."""
    found = principal()
    document: MeDocument = {"name": found.account, "admin": found.admin}
    return answer(document)


@routes.get("/users", access=Access.ADMIN, answers={200: list[UserDocument]})
async def list_users() -> Response:
    """List all accounts by name."""
    damaged: list[str] = []
    accounts = await service().hub.accounts.all(damaged)
    unread: list[UserDocument] = [
        {"name": name, "admin": False, "created_at": None, "damaged": ["account"]} for name in sorted(damaged)
    ]
    return await send_values([*map(_document, accounts), *unread])


@routes.post(
    "/users", access=Access.ADMIN, body=NewUser, max_body=SMALL_BODY, answers={201: UserDocument}, errors=(409,)
)
async def create_user() -> Response:
    """Create an account."""
    value = await body_object()
    members(value, NewUser)
    name = identity.check_account_name(value.get("name"))
    digest = await service().passwords.hash(value.get("password"), name=principal().account)
    account = await service().hub.accounts.register(name, digest, admin=_flag(value) or False)
    return answer(_document(account), 201)


@routes.put(
    "/users/<name>",
    access=Access.ADMIN,
    body=UserChange,
    max_body=SMALL_BODY,
    answers={200: UserDocument},
    errors=(409,),
)
async def change_user(name: str) -> Response:
    """Give an account a new password, and change whether it may manage accounts."""
    value = await body_object()
    members(value, UserChange)
    if await service().hub.accounts.get(name) is None:
        raise NotFound(f"no user {name!r}")
    flag = _flag(value)
    if flag is False:
        await service().hub.accounts.check_not_last_admin(name)
    digest = await service().passwords.hash(value.get("password"), name=principal().account)
    accounts = service().hub.accounts
    return answer(_document(await finish(lambda: accounts.set_password(name, digest, admin=flag))))


@routes.post(
    "/users/<name>/devices",
    access=Access.ADMIN,
    body=DeviceToAdopt,
    max_body=4 * SMALL_BODY,  # tags, too
    answers={200: AdoptedDevice, 201: AdoptedDevice},
    errors=(409,),
)
async def adopt_device(name: str) -> Response:
    """Register a device of an account with the token that another service has given it.

    Answers 200 if the account has this device with this token already.
    """
    value = await body_object()
    members(value, DeviceToAdopt)
    hub = service().hub
    if await hub.accounts.get(name) is None:
        raise NotFound(f"no user {name!r}")
    id = identity.check_device_id(value.get("id"))
    token_hash = identity.hash_foreign_token(value.get("token"), value.get("token_sha256"))
    is_new = await finish(lambda: hub.adopt_device(name, id, token_hash, value.get("name"), value.get("tags")))
    if is_new:
        _log.info("%s has registered %s/%s with a token of another service", principal().account, name, id)
    adopted: AdoptedDevice = {"id": id}
    return answer(adopted, 201 if is_new else 200)


@routes.delete("/users/<name>", access=Access.ADMIN, answers={200: Literal[True]}, errors=(409,))
async def remove_user(name: str) -> Response:
    """Remove an account with its devices and keys, or continue an interrupted removal. Their sockets are closed."""
    hub = service().hub
    await finish(lambda: hub.remove_account(name))
    return answer(True)


def _flag(value: dict[str, Any]) -> bool | None:
    flag = value.get("admin")
    if flag is not None and not isinstance(flag, bool):
        raise InvalidInput("admin is true or false")
    return flag


def _document(account: Account) -> UserDocument:
    document: UserDocument = {"name": account.name, "admin": account.admin, "created_at": time_text(account.created_at)}
    if account.removing:
        document["removing"] = True
    return document
