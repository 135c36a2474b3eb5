"""``/users``: accounts, managed by admins with their passwords."""

from __future__ import annotations

import hashlib

import pytest

from mdashcore._errors import StorageError
from mdashcore.testing.device import connect_device


@pytest.fixture
async def admin(root):
    """The admin root, with name and password."""
    async with root.as_user() as http:
        yield http


async def test_an_admin_makes_accounts(admin, alice, anyone):
    """With a password, which is nowhere shown; the new account works immediately, and is empty."""
    await alice.register("d1")
    answer = await admin.post("/users", json={"name": "carol", "password": "pw ☕"})
    assert (answer.status_code, set(answer.json())) == (201, {"name", "admin", "created_at"})
    assert (answer.json()["name"], answer.json()["admin"]) == ("carol", False)
    listed = (await admin.get("/users")).json()
    assert [(user["name"], user["admin"]) for user in listed] == [("alice", False), ("carol", False), ("root", True)]
    assert "argon2" not in (await admin.get("/users")).text
    assert (await anyone.get("/me", auth=("carol", "pw ☕"))).json() == {"name": "carol", "admin": False}
    assert (await anyone.get("/devices", auth=("carol", "pw ☕"))).json() == []


NO_ACCOUNTS = [
    {},
    {"name": "carol"},
    {"password": "x"},
    {"name": "carol", "password": ""},
    {"name": "carol", "password": 7},
    {"name": "carol", "password": "x" * 1025},
    {"name": "ca:rol", "password": "x"},
    {"name": "ca/rol", "password": "x"},
    {"name": "", "password": "x"},
    {"name": "-carol", "password": "x"},
    {"name": "x" * 65, "password": "x"},
    {"name": ["carol"], "password": "x"},
    {"name": "carol", "password": "x", "admin": "yes"},
    {"name": "carol", "password": "x", "amdin": True},
    [],
]


async def test_what_is_no_account(admin):
    """400, and no account was made."""
    for body in NO_ACCOUNTS:
        answer = await admin.post("/users", json=body)
        assert (body, answer.status_code, answer.json()["error"]["code"]) == (body, 400, 400)
    assert [user["name"] for user in (await admin.get("/users")).json()] == ["root"]


async def test_a_name_is_taken_once(admin, alice):
    """409; the account keeps its password."""
    assert (await admin.post("/users", json={"name": "alice", "password": "x"})).status_code == 409
    async with alice.as_user() as http:
        assert (await http.get("/me")).status_code == 200


REQUESTS = [
    ("GET", "/users", None),
    ("POST", "/users", {"name": "carol", "password": "x"}),
    ("PUT", "/users/alice", {"password": "x"}),
    ("PUT", "/users/nobody", {"password": "x"}),
    ("DELETE", "/users/root", None),
    ("DELETE", "/users/nobody", None),
]


async def test_only_admins_administrate(alice, root):
    """403 for any other account, whether what is asked for exists or not; nothing has changed."""
    async with alice.as_user() as http:
        for method, path, body in REQUESTS:
            answer = await http.request(method, path, json=body)
            assert (method, path, answer.status_code, answer.json()["error"]["code"]) == (method, path, 403, 403)
        assert (await http.get("/me")).status_code == 200
    async with root.as_user() as http:
        assert [user["name"] for user in (await http.get("/users")).json()] == ["alice", "root"]


async def test_keys_cannot_administrate(root):
    """A key that leaks, also an admin's, makes and removes no account."""
    for method, path, body in REQUESTS:
        assert (method, path, (await root.http.request(method, path, json=body)).status_code) == (method, path, 403)
    assert (await root.http.get("/me")).json() == {"name": "root", "admin": False}


async def test_a_new_password_ends_the_old_one(admin, alice, anyone, password):
    """Immediately, also where it was just used; and the sockets that were opened with it are closed. Keys stay."""
    assert (await anyone.get("/me", auth=("alice", password))).status_code == 200
    credentials = alice.as_user().headers["Authorization"].encode()
    url = f"ws{alice.server.url[4:]}/api/v2/notify"
    async with connect_device(url, None, headers=[(b"Authorization", credentials)]) as socket:
        answer = await admin.put("/users/alice", json={"password": "new"})
        assert (answer.status_code, answer.json()["admin"]) == (200, False)
        assert (await socket.wait_closed())[0] == 1008
    assert (await anyone.get("/me", auth=("alice", password))).status_code == 401
    assert (await anyone.get("/me", auth=("alice", "new"))).status_code == 200
    assert (await alice.http.get("/me")).status_code == 200


async def test_an_admin_makes_and_unmakes_admins(admin, alice):
    """With a password in the same request; without `admin` it stays as it is."""
    async with alice.as_user("new") as http:
        assert (await admin.put("/users/alice", json={"password": "new", "admin": True})).json()["admin"]
        assert (await http.get("/users")).status_code == 200
        assert (await admin.put("/users/alice", json={"password": "new"})).json()["admin"]
        assert not (await admin.put("/users/alice", json={"password": "new", "admin": False})).json()["admin"]
        assert (await http.get("/users")).status_code == 403


async def test_what_is_no_change(admin, alice):
    """400; the password stays."""
    for body in ({}, {"password": ""}, {"admin": True}, {"password": "x", "admin": 1}, {"name": "x"}):
        assert (body, (await admin.put("/users/alice", json=body)).status_code) == (body, 400)
    async with alice.as_user() as http:
        assert (await http.get("/me")).status_code == 200


async def test_an_account_that_is_not_there(admin):
    """404, whatever the path holds."""
    for name in ("nobody", "x" * 3000, "%00", "ü", "a%20b"):
        assert (name, (await admin.put(f"/users/{name}", json={"password": "x"})).status_code) == (name, 404)
        assert (name, (await admin.delete(f"/users/{name}")).status_code) == (name, 404)


async def test_the_last_admin_stays(admin, alice, password):
    """The last admin is neither removed nor made an ordinary user: no account could undo it; others may go."""
    assert (await admin.delete("/users/root")).status_code == 409
    assert (await admin.put("/users/root", json={"password": "x", "admin": False})).status_code == 409
    assert (await admin.get("/users")).status_code == 200
    assert (await admin.delete("/users/alice")).status_code == 200
    assert (await admin.post("/users", json={"name": "other", "password": password, "admin": True})).status_code == 201
    assert (await admin.delete("/users/root")).status_code == 200
    assert (await admin.get("/users")).status_code == 401


async def test_a_removed_account_is_gone_with_everything(admin, alice, bob, anyone, password, open_raw):
    """Its password, keys, devices and sockets end immediately, and no others; a later account of the name is empty."""
    token = await alice.register("d1")
    await alice.http.post("/devices/d1/shadow", json={"state": {"desired": {"secret": 1}}})
    async with (
        connect_device(alice.server.device_url, token) as device,
        alice.listen() as ear,
        connect_device(
            f"ws{alice.server.url[4:]}/api/v2/notify",
            None,
            headers=[(b"Authorization", alice.as_user().headers["Authorization"].encode())],
        ) as by_password,
        await bob.connect("d1") as other,
    ):
        answer = await admin.delete("/users/alice")
        assert (answer.status_code, answer.json()) == (200, True)
        for socket in (device, ear.socket, by_password):
            assert (await socket.wait_closed())[0] == 1008
        await other.send({"id": 1, "method": "Dash.Shadow.Get"})
        assert (await other.receive())["id"] == 1
    for auth in (None, ("alice", password)):
        assert (await anyone.get("/me", auth=auth)).status_code == 401
    assert (await alice.http.get("/devices")).status_code == 401
    async with open_raw(alice.server) as raw:
        assert (await raw.handshake(token)).status == 401
    assert [device["id"] for device in (await bob.http.get("/devices")).json()] == ["d1"]

    await admin.post("/users", json={"name": "alice", "password": "another"})
    async with alice.as_user("another") as http:
        for path in ("/devices", "/keys"):
            assert (await http.get(path)).json() == []
        assert (await http.post("/logs")).json() == []
        created = (await http.post("/devices", json={"id": "d1"})).json()
        assert created["shadow"]["state"] == {}
    assert (await alice.http.get("/devices")).status_code == 401


async def test_a_removal_that_failed_is_finished_by_the_next(admin, alice, anyone, password, open_raw, monkeypatch):
    """503; until it is done there is no login, the name is not free, and no token is valid. Nothing is inherited."""
    token = await alice.register("d1")
    await alice.http.post("/devices/d1/shadow", json={"state": {"desired": {"secret": 1}}})
    documents = alice.server.service.hub.backend.documents
    inner = documents.delete

    async def delete(collection, *args, **options):
        if collection == "token_owners":
            raise StorageError("away")
        return await inner(collection, *args, **options)

    async with connect_device(alice.server.device_url, token) as device:
        with monkeypatch.context() as patch:
            patch.setattr(documents, "delete", delete)
            assert (await admin.delete("/users/alice")).status_code == 503
        assert (await device.wait_closed())[0] == 1008
    for auth in (None, ("alice", password)):
        assert (await anyone.get("/me", auth=auth)).status_code == 401
    assert (await alice.http.get("/devices")).status_code == 401
    async with open_raw(alice.server) as raw:
        assert (await raw.handshake(token)).status == 401
    assert (await admin.post("/users", json={"name": "alice", "password": "another"})).status_code == 409
    assert (await admin.put("/users/alice", json={"password": "another"})).status_code == 404
    listed = {user["name"]: user.get("removing", False) for user in (await admin.get("/users")).json()}
    assert listed == {"alice": True, "root": False}

    assert (await admin.delete("/users/alice")).status_code == 200
    assert (await admin.delete("/users/alice")).status_code == 404
    assert (await admin.post("/users", json={"name": "alice", "password": "another"})).status_code == 201
    async with alice.as_user("another") as http:
        assert (await http.get("/devices")).json() == (await http.post("/logs")).json() == []


async def test_a_configured_user_who_is_there_costs_nothing(alice, password, monkeypatch):
    """No hash, no write; and whatever the password that is configured, the account has its own."""
    service = alice.server.service
    before = await service.hub.accounts.get("alice")

    async def forbidden(*args, **options):
        raise AssertionError("it is not needed")

    monkeypatch.setattr(service.passwords, "hash", forbidden)
    monkeypatch.setattr(service.hub.backend.documents, "put", forbidden)
    for admin in (False, True):
        await service.ensure_user("alice", "x" * 5000, admin=admin)
    assert await service.hub.accounts.get("alice") == before


async def test_a_configured_user_inherits_nothing(alice):
    """A server that starts makes the users of its configuration; one that was being removed is removed first."""
    await alice.register("d1")
    service = alice.server.service
    await service.hub.accounts.begin_removal("alice")
    await service.ensure_user("alice", "another")
    async with alice.as_user("another") as http:
        assert (await http.get("/devices")).json() == []


TOKEN = "Q2hhbmdlIG1lIQ-8f2a9c"


async def test_a_device_is_adopted_with_its_token(admin, alice, bob):
    """An admin registers it for an account; it connects with the token that it had, or of which the hash was given."""
    body = {"id": "d1", "name": "Pump", "tags": {"site": "x"}, "token": TOKEN}
    async with alice.listen() as ear:
        made = await admin.post("/users/alice/devices", json=body)
        assert (made.status_code, made.json()) == (201, {"id": "d1"})
        assert (await ear.expect("created"))["data"] == {"name": "Pump", "tags": {"site": "x"}}
    hashed = {"id": "d2", "token_sha256": hashlib.sha256(b"another token, 16+").hexdigest().upper()}
    assert (await admin.post("/users/alice/devices", json=hashed)).status_code == 201
    for token in (TOKEN, "another token, 16+"):
        async with connect_device(alice.server.device_url, token):
            pass
    assert (await admin.post("/users/alice/devices", json=body)).status_code == 200
    assert (await admin.post("/users/bob/devices", json=body)).status_code == 409
    assert (await admin.post("/users/alice/devices", json=body | {"id": "d3"})).status_code == 409
    assert (await admin.post("/users/alice/devices", json=body | {"token": TOKEN + "x"})).status_code == 409
    assert (await admin.post("/users/nobody/devices", json=body)).status_code == 404
    assert [each["id"] for each in (await alice.http.get("/devices")).json()] == ["d1", "d2"]
    assert (await bob.http.get("/devices")).json() == []
    await alice.http.delete("/devices/d1")
    assert (await admin.post("/users/bob/devices", json=body)).status_code == 201


@pytest.mark.parametrize(
    "body",
    [
        {"id": "d1"},
        {"id": "d1", "token": "short"},
        {"id": "d1", "token": "a" * 40},
        {"id": "d1", "token": "with a space in it"},
        {"id": "d1", "token": "mdk_" + TOKEN},
        {"id": "d1", "token": 5},
        {"id": "d1", "token_sha256": "0" * 64},
        {"id": "d1", "token_sha256": "ab"},
        {"id": "d1", "token": TOKEN, "token_sha256": hashlib.sha256(b"x").hexdigest()},
        {"id": "a/b", "token": TOKEN},
        {"token": TOKEN},
        {"id": "d1", "token": TOKEN, "tags": {"a": 5}},
        {"id": "d1", "token": TOKEN, "colour": "red"},
    ],
)
async def test_a_weak_token_is_refused(admin, alice, body):
    """400, and no device was made."""
    assert (await admin.post("/users/alice/devices", json=body)).status_code == 400
    assert (await alice.http.get("/devices")).json() == []
