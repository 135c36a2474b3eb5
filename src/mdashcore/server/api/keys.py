"""``/keys``: API keys, shown once and stored as hashes."""

from __future__ import annotations

from typing import Literal

from quart import Response

from mdashcore.documents import CreatedKey, KeyDocument, NewKey
from mdashcore.identity import ApiKey
from mdashcore.server.api._lists import send_values
from mdashcore.server.api._request import (
    answer,
    body_object,
    members,
    principal,
    service,
    time_text,
)
from mdashcore.server.endpoints import API, SMALL_BODY, Routes
from mdashcore.trio.shielding import finish

routes: Routes = Routes(f"{API}/keys", id=str)


@routes.get(answers={200: list[KeyDocument]})
async def list_keys() -> Response:
    """List the account's keys, without their secrets."""
    damaged: list[str] = []
    keys = await service().hub.accounts.keys(principal().account, damaged)
    unread: list[KeyDocument] = [
        {"id": id, "name": "", "created_at": None, "last_used": None, "damaged": ["key"]} for id in sorted(damaged)
    ]
    return await send_values([*map(_document, keys), *unread])


@routes.post(body=NewKey, max_body=SMALL_BODY, answers={201: CreatedKey})
async def create_key() -> Response:
    """Create a key. The key is in this answer, and in no other."""
    value = await body_object()
    members(value, NewKey)
    created = await service().hub.accounts.create_key(principal().account, value.get("name", ""))
    document: CreatedKey = {**_document(created.key), "key": created.secret}
    return answer(document, 201)


@routes.delete("/<id>", answers={200: Literal[True]})
async def remove_key(id: str) -> Response:
    """Remove a key. It authenticates nothing from now on, and its sockets are closed."""
    account, accounts = principal().account, service().hub.accounts
    await finish(lambda: accounts.remove_key(account, id))
    return answer(True)


def _document(key: ApiKey) -> KeyDocument:
    return {
        "id": key.id,
        "name": key.name,
        "created_at": time_text(key.created_at),
        "last_used": time_text(key.used_at),
    }
