"""Login by password for browsers: a cookie, how long it holds, and from which pages it counts."""

from __future__ import annotations

import os
from http.cookies import SimpleCookie

import pytest
import trio
from rows import every_row

from mdashcore._errors import StorageError, Unauthenticated
from mdashcore.hub.sessions import MAX_IDLE_TIME, MAX_SESSION_TIME, SESSION_TOUCH, Sessions
from mdashcore.server import handshakes
from mdashcore.server.auth import SESSION_COOKIE
from mdashcore.server.auth.login_failures import LOCK_TIME, MAX_FAILURES
from mdashcore.testing.device import connect_device


@pytest.fixture
def origin(server):
    """What a browser says of a page of ours."""
    return {"Origin": server.url}


async def log_in(anyone, name, password, **headers):
    """Log in; the cookie as a header. The client itself keeps none."""
    response = await anyone.post("/login", json={"user": name, "password": password}, headers=headers)
    assert response.status_code == 200, response.text
    anyone.cookies.clear()
    return {"Cookie": f"{SESSION_COOKIE}={set_cookie(response).value}"}


def set_cookie(response):
    """The cookie that a response sets."""
    return SimpleCookie(response.headers["set-cookie"])[SESSION_COOKIE]


async def user_of_cookie(anyone, cookie):
    """The user that the server finds by the cookie."""
    return (await anyone.get("/session", headers=cookie)).json()["user"]


def notify(server, **headers):
    """The notification socket, opened with these headers."""
    fields = [(name.encode(), value.encode()) for name, value in headers.items()]
    return connect_device(f"ws{server.url[4:]}/api/v2/notify", None, headers=fields)


async def test_a_session_is_its_user(alice, anyone, password):
    """A user who logs in reads what is theirs, as with a key; without a session the answer says so."""
    await alice.register("d1")
    cookie = await log_in(anyone, "alice", password)
    session = (await anyone.get("/session", headers=cookie)).json()
    assert session == {"user": "alice", "admin": False, "devices": 1, "log_end": 1}  # its registration was notified
    assert (await anyone.get("/me", headers=cookie)).json() == {"name": "alice", "admin": False}
    assert [device["id"] for device in (await anyone.get("/devices", headers=cookie)).json()] == ["d1"]
    unknown = {"user": None, "admin": False, "devices": None, "log_end": None}
    assert (await anyone.get("/session")).json() == unknown


async def test_an_admin_s_session_manages_users(root, alice, anyone, password, origin):
    """A session comes from a password, so it may what the password may; an ordinary user's may not."""
    cookie = await log_in(anyone, "root", password)
    session = (await anyone.get("/session", headers=cookie)).json()
    assert session == {"user": "root", "admin": True, "devices": 0, "log_end": 0}
    body = {"name": "carol", "password": "x"}
    assert (await anyone.post("/users", json=body, headers=cookie | origin)).status_code == 201
    assert (await anyone.get("/users", headers=await log_in(anyone, "alice", password))).status_code == 403


async def test_the_cookie_s_attributes(alice, anyone, password):
    """Out of reach of scripts and of other sites."""
    body = {"user": "alice", "password": password}
    cookie = set_cookie(await anyone.post("/login", json=body))
    assert (cookie["httponly"], cookie["samesite"], cookie["path"], cookie["domain"]) == (True, "Strict", "/", "")
    assert cookie["max-age"] == str(round(MAX_SESSION_TIME))
    assert not cookie["secure"]


async def test_the_secret_is_kept_as_a_hash(alice, anyone, password):
    """256 random bits, different each time, and nowhere in the store; nor are sessions in its copies."""
    first, second = [(await log_in(anyone, "alice", password))["Cookie"].partition(":")[2] for _ in range(2)]
    assert first != second
    assert len(first.removeprefix("mds_")) == 43  # 32 bytes in base64
    documents = alice.server.service.hub.backend.documents
    kept = [document.body async for document in documents.scan("sessions")]
    assert len(kept) == 2
    assert not [body for body in kept if first.encode() in body or second.encode() in body]


@every_row("secret", ["", ":", "alice", "alice:", "alice:mds_x", "nobody:mds_x", "../x:y", "ü:" + "x" * 99])
async def test_what_is_no_session(alice, anyone, secret):
    """401 for whatever else stands in the cookie, without an offer of Basic to a script."""
    headers = {"Cookie": f"{SESSION_COOKIE}={secret}".encode(), "X-Requested-With": "mdash"}
    answer = await anyone.get("/devices", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="mdash"'


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "OWN"}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://outside.example"}, 200),  # a proxy has changed the host
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
    ],
)
async def test_only_our_own_pages_change_things(alice, anyone, password, open_raw, headers, status):
    """With a cookie, every unsafe request and every socket needs the browser's word that the page is ours."""
    headers = {name: value.replace("OWN", alice.server.url) for name, value in headers.items()}
    await alice.register("d1")
    cookie = await log_in(anyone, "alice", password)
    for method, path, body in (
        ("POST", "/devices/d1", {"name": "new"}),
        ("PUT", "/devices/d1", {"name": "new"}),
        ("POST", "/devices/d1/ota", {}),
    ):
        answer = await anyone.request(method, path, json=body, headers=cookie | headers)
        assert (method, path, answer.status_code == 403) == (method, path, status == 403)
    assert (await alice.http.get("/devices/d1")).json()["name"] == ("d1" if status == 403 else "new")
    reads = await anyone.get("/devices", headers=cookie | headers)
    asked_by_a_person = headers in ({}, {"Sec-Fetch-Site": "none"})
    assert reads.status_code == (200 if status == 200 or asked_by_a_person else 403)
    called = await anyone.get(
        "/devices/d1/rpc/Sys.Reboot", headers=cookie | headers
    )  # reads nothing, though it is a GET
    assert called.status_code == (503 if status == 200 else 403)
    fields = [f"{name}: {value}" for name, value in (cookie | headers).items()]
    async with open_raw(alice.server) as raw:
        assert (await raw.handshake(None, *fields, path="/api/v2/notify")).status == (403 if status == 403 else 101)


async def test_a_foreign_page_cannot_log_in(alice, anyone, password):
    """Or it could make a browser work for an account of its own choice."""
    body = {"user": "alice", "password": password}
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        answer = await anyone.post("/login", json=body, headers=headers)
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers


async def test_a_key_goes_before_a_cookie(alice, bob, anyone, password):
    """A request with an Authorization header uses it, and needs no page."""
    cookie = await log_in(anyone, "alice", password)
    assert (await bob.http.get("/me", headers=cookie)).json()["name"] == "bob"
    assert (await bob.http.post("/devices", json={"id": "d2"}, headers=cookie)).status_code == 201


async def test_logout_ends_one_session(alice, anyone, password, origin):
    """Its cookie opens nothing any more and is taken back, and the socket it had opened is closed; others go on."""
    first, second = [await log_in(anyone, "alice", password) for _ in range(2)]
    async with notify(alice.server, **first, **origin) as mine, notify(alice.server, **second, **origin) as other:
        answer = await anyone.post("/logout", headers=first | origin)
        assert answer.json() is True
        assert set_cookie(answer)["max-age"] == "0"
        assert (await mine.wait_closed())[0] == 1008
        await alice.register("d1")
        assert (await other.receive())["name"] == "created"
    assert (await user_of_cookie(anyone, first), await user_of_cookie(anyone, second)) == (None, "alice")
    assert (await anyone.post("/logout", headers=first | origin)).status_code == 401
    assert (await alice.http.post("/logout")).status_code == 400


async def test_a_new_password_ends_every_session(alice, root, anyone, password, origin):
    """Also the same password given again; and their sockets. Another account's sessions go on."""
    cookies = [await log_in(anyone, "alice", password) for _ in range(2)]
    roots = await log_in(anyone, "root", password)
    async with notify(alice.server, **cookies[0], **origin) as socket:
        answer = await anyone.put("/users/alice", json={"password": password}, headers=roots | origin)
        assert answer.status_code == 200
        assert (await socket.wait_closed())[0] == 1008
    assert [await user_of_cookie(anyone, cookie) for cookie in (*cookies, roots)] == [None, None, "root"]


async def test_a_removed_user_s_sessions_are_gone(alice, root, anyone, password, origin):
    """They end with the account; a later account of the name gets none of them."""
    cookie, roots = await log_in(anyone, "alice", password), await log_in(anyone, "root", password)
    assert (await anyone.delete("/users/alice", headers=roots | origin)).status_code == 200
    keys = [document.key async for document in alice.server.service.hub.backend.documents.scan("sessions")]
    assert [key.partition("/")[0] for key in keys] == ["root"]
    await anyone.post("/users", json={"name": "alice", "password": password}, headers=roots | origin)
    assert await user_of_cookie(anyone, cookie) is None


async def test_a_client_that_guesses_is_locked_out(alice, anyone, password):
    """After some failures even the right password is not looked at, and the answer says when it will be."""
    for _ in range(MAX_FAILURES):
        assert (await anyone.post("/login", json={"user": "alice", "password": "no"})).status_code == 401
    answer = await anyone.post("/login", json={"user": "alice", "password": password})
    assert answer.status_code == 429
    assert LOCK_TIME - 10 <= int(answer.headers["Retry-After"]) <= LOCK_TIME


@pytest.mark.parametrize(
    "body", [{}, {"user": "alice"}, {"user": 1, "password": "x"}, {"user": "a", "password": "b", "c": 1}]
)
async def test_what_is_no_login(anyone, body):
    """400, not 401: no account was asked for."""
    assert (await anyone.post("/login", json=body)).status_code == 400


async def test_a_session_ends_with_time(alice, anyone, password, monkeypatch):
    """Unused for `MAX_IDLE_TIME` seconds, or `MAX_SESSION_TIME` after the login; its last use is stored at times."""
    hub = alice.server.service.hub
    account = await hub.accounts.get("alice")
    time = 1_000_000.0
    monkeypatch.setattr(hub.clock, "now", lambda: time)
    monkeypatch.setattr(hub.clock, "monotonic", lambda: time)
    idle, used = [(await hub.sessions.create(account)).secret for _ in range(2)]
    start = time
    while time + MAX_IDLE_TIME / 2 - start < MAX_SESSION_TIME:
        time += MAX_IDLE_TIME / 2
        session, _ = await hub.sessions.authenticate(used)
        assert time - session.used_at >= SESSION_TOUCH
        assert (await hub.sessions.authenticate(used))[0].used_at == time
    with pytest.raises(Unauthenticated):
        await hub.sessions.authenticate(idle)
    time = start + MAX_SESSION_TIME
    with pytest.raises(Unauthenticated):
        await hub.sessions.authenticate(used)


@pytest.mark.parametrize("step", [-10 * MAX_SESSION_TIME, -60.0, 60.0, 10 * MAX_SESSION_TIME, 2_000 * MAX_SESSION_TIME])
async def test_a_wall_clock_that_is_set_ends_no_session(alice, monkeypatch, step):
    """Nor does it prolong one, nor make a login end one. What is stored then is of the new clock: also the next process
    finds every session that was used since as old as it is.
    """
    hub = alice.server.service.hub
    account = await hub.accounts.get("alice")
    wall, time = 1_000_000_000.0, 0.0
    monkeypatch.setattr(hub.clock, "now", lambda: wall + time)
    monkeypatch.setattr(hub.clock, "monotonic", lambda: time)

    async def opens(secret):
        try:
            return (await hub.sessions.authenticate(secret))[1].name
        except Unauthenticated:
            return None

    idle, used = [(await hub.sessions.create(account)).secret for _ in range(2)]
    wall += step
    assert [await opens(used), await opens(idle)] == ["alice", "alice"]
    new = (await hub.sessions.create(account)).secret
    time += MAX_IDLE_TIME - 1
    assert [await opens(secret) for secret in (used, new)] == ["alice", "alice"]
    time += 2
    assert [await opens(secret) for secret in (idle, used, new)] == [None, "alice", "alice"]
    hub.sessions = Sessions(
        hub.backend.documents, hub.accounts, clock=hub.clock, entropy=os.urandom, on_revoked=lambda *which: None
    )
    assert [await opens(secret) for secret in (idle, used, new)] == [None, "alice", "alice"]
    time += MAX_SESSION_TIME - MAX_IDLE_TIME
    assert [await opens(secret) for secret in (idle, used, new)] == [None, None, None]


async def test_after_a_restart_what_is_stored_decides(alice, monkeypatch):
    """The wall clock decides: on a machine that boots years ahead no session is valid, in 1970 all are."""
    hub = alice.server.service.hub
    account = await hub.accounts.get("alice")
    secret = (await hub.sessions.create(account)).secret
    for time, knows in ((0.0, True), (hub.now() + 10 * MAX_SESSION_TIME, False)):
        monkeypatch.setattr(hub.clock, "now", lambda time=time: time)
        sessions = Sessions(
            hub.backend.documents, hub.accounts, clock=hub.clock, entropy=os.urandom, on_revoked=lambda *which: None
        )
        if knows:
            await sessions.authenticate(secret)
        else:
            with pytest.raises(Unauthenticated):
                await sessions.authenticate(secret)
            await sessions.create(account)  # throws away none that another clock may find good


async def test_an_account_has_only_so_many_sessions(alice):
    """One more ends the one that was not used for longest; what has ended by itself takes no place."""
    hub = alice.server.service.hub
    account = await hub.accounts.get("alice")
    secrets = [(await hub.sessions.create(account)).secret for _ in range(hub.limits.sessions + 1)]
    with pytest.raises(Unauthenticated):
        await hub.sessions.authenticate(secrets[0])
    for secret in secrets[1:]:
        await hub.sessions.authenticate(secret)
    assert len([document async for document in hub.backend.documents.scan("sessions")]) == hub.limits.sessions


async def test_a_socket_ends_with_its_session(alice, anyone, password, origin, monkeypatch):
    """Also if time ends the session, which is no event: the gateway checks now and then."""
    monkeypatch.setattr(handshakes, "SESSION_CHECK", 0.05)
    cookie = await log_in(anyone, "alice", password)
    hub = alice.server.service.hub
    async with notify(alice.server, **cookie, **origin) as socket:
        for clock in ("now", "monotonic"):
            later = getattr(hub.clock, clock)() + MAX_SESSION_TIME
            monkeypatch.setattr(hub.clock, clock, lambda later=later: later)
        with trio.fail_after(10):
            assert (await socket.wait_closed())[0] == 1008


async def test_a_storage_that_fails_is_told_to_a_socket_of_a_session(
    alice, anyone, password, origin, monkeypatch, caplog
):
    """As to any other socket: it is closed with 1013, and the log has no traceback."""
    cookie = await log_in(anyone, "alice", password)
    feed = alice.server.service.hub.feed
    end, asked = feed.end, []

    async def fail_later(account):
        asked.append(account)
        if len(asked) > 1:  # the handshake has asked
            raise StorageError("away")
        return await end(account)

    monkeypatch.setattr(feed, "end", fail_later)
    async with notify(alice.server, **cookie, **origin) as socket:
        with trio.fail_after(10):
            assert (await socket.wait_closed())[0] == 1013
    assert [record.exc_info for record in caplog.records if record.levelname == "ERROR"] == [None]


async def test_logging_out_everywhere(alice, bob, anyone, password, origin):
    """Ends all sessions of the account and what they opened, and no others; a malformed request ends none."""
    mine, other = [await log_in(anyone, "alice", password) for _ in range(2)]
    stranger = await log_in(anyone, "bob", password)
    for body in ({"everywhere": 1}, {"every": True}):
        assert (await anyone.post("/logout", json=body, headers=mine | origin)).status_code == 400
    async with notify(alice.server, **other, **origin) as socket:
        answer = await anyone.post("/logout", json={"everywhere": True}, headers=mine | origin)
        assert (answer.status_code, answer.json(), set_cookie(answer).value) == (200, True, "")
        assert (await socket.wait_closed())[0] == 1008
    assert [await user_of_cookie(anyone, cookie) for cookie in (mine, other, stranger)] == [None, None, "bob"]
    assert (await alice.http.get("/me")).status_code == 200


async def test_changing_one_s_password(alice, anyone, password, origin):
    """The browser that does it stays logged in, by another cookie; every other session and socket ends. Keys stay."""
    mine, other = [await log_in(anyone, "alice", password) for _ in range(2)]
    async with notify(alice.server, **other, **origin) as socket:
        body = {"old": password, "new": "another one"}
        answer = await anyone.put("/me/password", json=body, headers=mine | origin)
        assert (answer.status_code, answer.json()) == (200, {"name": "alice", "admin": False})
        assert (await socket.wait_closed())[0] == 1008
    anyone.cookies.clear()
    fresh = {"Cookie": f"{SESSION_COOKIE}={set_cookie(answer).value}"}
    assert [await user_of_cookie(anyone, cookie) for cookie in (mine, other, fresh)] == [None, None, "alice"]
    assert (await anyone.get("/me", auth=("alice", password))).status_code == 401
    assert (await anyone.get("/me", auth=("alice", "another one"))).status_code == 200
    assert (await alice.http.get("/me")).status_code == 200


async def test_a_new_password_needs_the_old_one(alice, anyone, password, origin):
    """No key changes it, and no other page; a wrong old one does not end the session, and counts as a guess."""
    body = {"old": password, "new": "new"}
    assert (await alice.http.put("/me/password", json=body)).status_code == 403
    cookie = await log_in(anyone, "alice", password)
    assert (await anyone.put("/me/password", json=body, headers=cookie)).status_code == 403
    for wrong in ({}, {"old": password}, {"old": 7, "new": "x"}, {"old": password, "new": ""}, {**body, "admin": True}):
        answer = await anyone.put("/me/password", json=wrong, headers=cookie | origin)
        assert (wrong, answer.status_code) == (wrong, 400)
    async with alice.as_user() as http:
        assert (await http.put("/me/password", json=body)).json() == {"name": "alice", "admin": False}
    assert (await anyone.get("/me", auth=("alice", "new"))).status_code == 200
    cookie = await log_in(anyone, "alice", "new")
    statuses = []
    for _ in range(MAX_FAILURES + 1):
        answer = await anyone.put("/me/password", json={"old": "guess", "new": "x"}, headers=cookie | origin)
        statuses.append(answer.status_code)
    assert statuses == [403] * MAX_FAILURES + [429]
    assert await user_of_cookie(anyone, cookie) == "alice"
