"""``/keys``: shown once, kept as hashes, gone immediately."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from mdashcore.identity import DeviceKey
from mdashcore.testing.device import connect_device
from mdashcore.trio.transport.server_websocket import ServerWebSocket


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
async def key(alice):
    """Another key of alice's: its id and secret."""
    created = (await alice.http.post("/keys", json={"name": "ci"})).json()
    return created["id"], created["key"]


async def test_a_key_is_shown_once(alice):
    """In the answer that made it; a list has names, and no secret."""
    response = await alice.http.post("/keys", json={"name": "Büro ☕"})
    created = response.json()
    assert response.status_code == 201
    assert set(created) == {"id", "name", "created_at", "last_used", "key"}
    assert (created["key"].startswith("mdk_"), created["name"]) == (True, "Büro ☕")
    listed = (await alice.http.get("/keys")).json()
    assert [set(key) for key in listed] == [{"id", "name", "created_at", "last_used"}] * 2
    assert {key["id"]: key["last_used"] is None for key in listed}[created["id"]]
    await alice.http.get("/me", headers=bearer(created["key"]))
    assert all(key["last_used"] for key in (await alice.http.get("/keys")).json())
    assert created["id"] in [key["id"] for key in listed]
    assert created["key"].removeprefix("mdk_") not in (await alice.http.get("/keys")).text


async def test_a_key_needs_no_name(alice):
    """Every key is another one, and works."""
    created = [
        (await alice.http.post("/keys", content=content)).json() for content in (None, b"", b"{}", b'{"name":""}')
    ]
    assert len({key["key"] for key in created}) == 4
    for key in created:
        assert (await alice.http.get("/me", headers=bearer(key["key"]))).json() == {"name": "alice", "admin": False}


async def test_what_is_no_key_is_refused(alice):
    """A chosen secret too; nothing is made."""
    for body in ({"name": 7}, {"name": "x" * 257}, {"key": "mdk_mine"}, {"id": "mine"}, [], "ci"):
        response = await alice.http.post("/keys", json=body)
        assert (body, response.status_code, response.json()["error"]["code"]) == (body, 400, 400)
    assert len((await alice.http.get("/keys")).json()) == 1


async def test_keys_are_kept_as_hashes(alice, key, anyone, server_log):
    """A reader of the whole store, or of the server's log, finds no key that works."""
    _, secret = key
    await alice.http.get("/devices", headers=bearer(secret))
    assert (await anyone.get(f"/devices?access_token={secret}")).status_code == 200
    async with connect_device(f"ws{alice.server.url[4:]}/api/v2/notify?access_token={secret}", None):
        pass
    documents = alice.server.service.hub.accounts._keys._documents
    stored = [
        f"{document.key} {document.body.decode()}"
        for collection in ("accounts", "keys", "key_owners")
        async for document in documents.scan(collection)
    ]
    assert len(stored) >= 5  # an account, two keys, two entries of the index
    for text in (*stored, server_log()):
        assert secret.removeprefix("mdk_") not in text


async def test_a_deleted_key_opens_nothing(alice, key, anyone):
    """From the answer on; the others go on working."""
    id, secret = key
    assert (await alice.http.get("/devices", headers=bearer(secret))).status_code == 200
    response = await alice.http.delete(f"/keys/{id}")
    assert (response.status_code, response.json()) == (200, True)
    assert (await alice.http.get("/devices", headers=bearer(secret))).status_code == 401
    assert (await anyone.get(f"/devices?access_token={secret}")).status_code == 401
    assert (await alice.http.get("/devices")).status_code == 200
    assert len((await alice.http.get("/keys")).json()) == 1
    assert (await alice.http.delete(f"/keys/{id}")).status_code == 404


async def test_a_deleted_key_closes_its_sockets(alice, key, open_raw):
    """Those that it opened, immediately; the ones of other keys stay, and it opens no new one."""
    id, secret = key
    url = f"ws{alice.server.url[4:]}/api/v2/notify"
    async with (
        alice.listen() as ear,
        connect_device(url, secret) as one,
        connect_device(f"{url}?access_token={secret}", None) as two,
    ):
        await alice.http.delete(f"/keys/{id}")
        for socket in (one, two):
            code, reason = await socket.wait_closed()
            assert (code, "revoked" in reason) == (1008, True)
        await alice.register("d1")
        assert (await ear.hear())["name"] == "created"
    async with open_raw(alice.server) as raw:
        assert (await raw.handshake(secret, path="/api/v2/notify")).status == 401


async def test_a_key_that_is_deleted_during_a_handshake_opens_nothing(alice, key, monkeypatch):
    """It was valid when it was checked; the socket is closed all the same."""
    id, secret = key
    accept = ServerWebSocket.accept

    async def slow(ws, *request):
        assert (await alice.http.delete(f"/keys/{id}")).status_code == 200
        return await accept(ws, *request)

    monkeypatch.setattr(ServerWebSocket, "accept", slow)
    async with connect_device(f"ws{alice.server.url[4:]}/api/v2/notify", secret) as socket:
        assert (await socket.wait_closed())[0] == 1008


async def test_a_key_may_delete_itself(alice):
    """The answer still comes; the next request is refused."""
    (listed,) = (await alice.http.get("/keys")).json()
    assert (await alice.http.delete(f"/keys/{listed['id']}")).json() is True
    assert (await alice.http.get("/keys")).status_code == 401


async def test_a_key_that_is_not_there(alice):
    """404, whatever the path holds."""
    for id in ("key_unknown", "x" * 5000, "ü", "...", "%00"):
        response = await alice.http.delete(f"/keys/{id}")
        assert (id, response.status_code, response.json()["error"]["code"]) == (id, 404, 404)


async def test_keys_are_listed_oldest_first(alice):
    """In the order in which they were made."""
    names = ["c", "a", "b"]
    for name in names:
        await alice.http.post("/keys", json={"name": name})
    assert [key["name"] for key in (await alice.http.get("/keys")).json()] == ["", *names]


@pytest.mark.parametrize("query", ["", "?access_token=x"])
async def test_a_key_that_is_deleted_while_a_body_comes(alice, key, open_raw, query):
    """In either lane: what was valid when the request began opens nothing when it is complete."""
    await alice.register("d1")
    id, secret = key
    body = b'{"state":{"desired":{"on":true}}}'
    head = f"POST /api/v2/devices/d1/shadow{query} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\n"
    async with open_raw(alice.server) as raw:
        await raw.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:5])
        await trio.testing.wait_all_tasks_blocked(0.05)  # the server has read it, and waits for the rest
        assert (await alice.http.delete(f"/keys/{id}")).status_code == 200
        await raw.send(body[5:])
        assert (await raw.response()).status == 401
    assert (await alice.http.get("/devices/d1/shadow")).json()["state"] == {}


async def test_a_key_that_is_deleted_while_an_image_comes(alice, key, open_raw):
    """The upload is refused when it is complete, and nothing of it is left."""
    await alice.register("d1")
    id, secret = key
    head = f"POST /api/v2/devices/d1/ota?queue=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\n"
    async with open_raw(alice.server) as raw:
        await raw.send(f"{head}Content-Length: 2000\r\n\r\n".encode() + b"A" * 1000)
        await trio.testing.wait_all_tasks_blocked(0.05)  # the server has read it, and waits for the rest
        assert (await alice.http.delete(f"/keys/{id}")).status_code == 200
        await raw.send(b"B" * 1000)
        assert (await raw.response()).status == 401
    hub = alice.server.service.hub
    assert await hub.updates.get(DeviceKey("alice", "d1")) is None
    assert [key async for key in hub.blobs.scan()] == []
