"""``/keys``: API keys, shown once and stored as hashes."""

from __future__ import annotations

from typing import Any

from quart import Blueprint, Response

from mdashcore.identity import ApiKey
from mdashcore.server.api._lists import send_values
from mdashcore.server.api._request import (
    SMALL_BODY,
    answer,
    body_object,
    members,
    principal,
    service,
    takes_body,
    time_text,
)
from mdashcore.server.shielding import finish

routes: Blueprint = Blueprint("keys", __name__, url_prefix="/keys")


@routes.get("")
async def list_keys() -> Response:
    """List the account's keys, without their secrets."""
    damaged: list[str] = []
    keys = await service().hub.accounts.keys(principal().account, damaged)
    unread = [
        {"id": id, "name": "", "created_at": None, "last_used": None, "damaged": ["key"]} for id in sorted(damaged)
    ]
    return await send_values([*map(_document, keys), *unread])


@routes.post("")
@takes_body(SMALL_BODY)
async def create_key() -> Response:
    """Create a key: ``{"name"?}``. The key is in this answer, and in no other."""
    value = await body_object()
    members(value, "name")
    created = await service().hub.accounts.create_key(principal().account, value.get("name", ""))
    return answer({**_document(created.key), "key": created.secret}, 201)


@routes.delete("/<id>")
async def remove_key(id: str) -> Response:
    """Remove a key. It authenticates nothing from now on, and its sockets are closed."""
    account, accounts = principal().account, service().hub.accounts
    await finish(lambda: accounts.remove_key(account, id))
    return answer(True)


def _document(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "created_at": time_text(key.created_at),
        "last_used": time_text(key.used_at),
    }
