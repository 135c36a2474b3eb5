"""The account of a request: API keys, names with passwords, and what a wrong one costs."""

from __future__ import annotations

import base64
from itertools import product

import httpx
import pytest
import trio
import trio.testing

from mdashcore.server.auth import login_failures
from mdashcore.server.auth.login_failures import LoginFailures
from mdashcore.testing.device import FRAME_TIMEOUT


def basic(name, password):
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


# The forms


async def test_the_forms_of_credentials(alice, anyone, password):
    """A key as Bearer or in the query; a name with its password as Basic. The scheme's case does not matter."""
    for authorization in (
        f"Bearer {alice.key}",
        f"bearer  {alice.key}",
        basic("alice", password),
        basic("alice", password).replace("Basic", "BASIC"),
    ):
        answer = await anyone.get("/me", headers={"Authorization": authorization})
        assert (answer.status_code, answer.json()["name"]) == (200, "alice")
    assert (await anyone.get(f"/me?access_token={alice.key}")).json()["name"] == "alice"
    assert (await anyone.get(f"/devices?filter=online&access_token={alice.key}")).json() == []


NOT_VALID = [
    None,
    "",
    "Bearer",
    "Bearer mdk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "Bearer \u00ff",
    "Token {key}",
    "{key}",
    "Basic",
    "Basic !!!",
    "Basic " + base64.b64encode(b"alice").decode(),
    "Basic " + base64.b64encode(b"\xff:\xfe").decode(),
    basic("alice", "wrong"),
    basic("Alice", "correct horse"),
    basic("nobody", "correct horse"),
    basic("", ""),
    basic("alice/../root", "x"),
    basic("x" * 1000, "x"),
    basic("alice", "x" * 2000),
    "Digest username=alice",
]


async def test_credentials_that_are_not_valid(alice, anyone):
    """401, an error in JSON that does not say which part was wrong, and how to authenticate."""
    paths = [("GET", "/devices"), ("POST", "/devices"), ("GET", "/nowhere"), ("POST", "/devices/d1/ota")]
    for authorization, (method, path) in product(NOT_VALID, paths):
        value = None if authorization is None else authorization.format(key=alice.key).encode("latin-1")
        answer = await anyone.request(method, path, headers={} if value is None else {"Authorization": value})
        assert (value, answer.status_code, answer.json()["error"]["code"]) == (value, 401, 401)
        assert answer.headers["www-authenticate"].startswith('Bearer realm="mdash", Basic')
        assert "alice" not in answer.text
        alice.server.service.passwords._failures = LoginFailures()


async def test_a_key_as_the_password_of_any_name(alice, bob, anyone, monkeypatch, password):
    """What has a key's form is looked up as a key: no password is checked, nothing counts against a name."""
    passwords = alice.server.service.passwords
    monkeypatch.setattr(passwords, "check", None)
    for name in ("x", "", "bob", "root", "no such name", "x" * 500, "\u0645"):
        answer = await anyone.get("/me", headers={"Authorization": basic(name, alice.key)})
        assert (answer.status_code, answer.json()) == (200, {"name": "alice", "admin": False})
    unknown = "mdk_" + "A" * 43
    for _ in range(30):  # three times as many as lock a name
        answer = await anyone.get("/devices", headers={"Authorization": basic("alice", unknown)})
        assert (answer.status_code, answer.json()["error"]["message"]) == (401, "the key is not valid")
    monkeypatch.undo()
    good = await anyone.get("/me", headers={"Authorization": basic("alice", password)})
    assert (good.status_code, good.json()["name"]) == (200, "alice")


async def test_what_only_looks_like_a_key_is_a_password(alice, anyone):
    """Too short, too long, or with another sign in it: it is checked as the password that it may be."""
    accounts, passwords = alice.server.service.hub.accounts, alice.server.service.passwords
    for like in ("mdk_" + "A" * 42, "mdk_" + "A" * 44, "mdk_" + "A" * 42 + "!", "MDK_" + "A" * 43):
        await accounts.set_password("alice", await passwords.hash(like))
        answer = await anyone.get("/me", headers={"Authorization": basic("alice", like)})
        assert (like, answer.status_code) == (like, 200)


async def test_a_key_in_the_place_of_a_password_is_no_admin_and_no_login(root, anyone, password):
    """Not at the users, not at the login, not for changing the password."""
    headers = {"Authorization": basic("root", root.key)}
    assert (await anyone.get("/users", headers=headers)).status_code == 403
    change = {"old": password, "new": "another one"}
    assert (await anyone.put("/me/password", headers=headers, json=change)).status_code == 403


async def test_a_key_is_no_password_anywhere(root, anyone, password, monkeypatch):
    """Not at the login, as the old password, nor as a new one: no password is checked for it, nothing counts against
    the name.
    """
    passwords = root.server.service.passwords
    checks = []
    verify = passwords._verify

    async def counted(*args):
        checks.append(args)
        return await verify(*args)

    monkeypatch.setattr(passwords, "_verify", counted)
    login = {"user": "root", "password": root.key}
    headers = {"Authorization": basic("root", password)}
    assert (await anyone.get("/me", headers=headers)).status_code == 200
    count = len(checks)
    for _ in range(30):  # three times as many as lock a name
        refused = await anyone.post("/login", json=login)
        assert (refused.status_code, "API key" in refused.json()["error"]["message"]) == (400, True)
    assert (await anyone.put("/me/password", headers=headers, json={"old": root.key, "new": "x"})).status_code == 403
    new = {"old": password, "new": root.key}
    assert (await anyone.put("/me/password", headers=headers, json=new)).status_code == 400
    user = {"name": "eve", "password": root.key, "admin": False}
    assert (await anyone.post("/users", headers=headers, json=user)).status_code == 400
    assert len(checks) == count  # the right password is remembered from a moment ago
    monkeypatch.undo()
    passwords._remembered.clear()
    assert (await anyone.post("/login", json={"user": "root", "password": password})).status_code == 200


async def test_a_foreign_page_gains_nothing_by_a_key_that_the_browser_remembers(alice, anyone):
    """A browser adds what it knows for Basic by itself, whatever it is."""
    for fetch, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
        headers = {"Authorization": basic("x", alice.key), "Sec-Fetch-Site": fetch}
        assert (fetch, (await anyone.get("/devices", headers=headers)).status_code) == (fetch, status)


async def test_a_key_as_a_password_ends_with_the_key(alice, anyone):
    """Immediately."""
    created = (await alice.http.post("/keys")).json()
    headers = {"Authorization": basic("x", created["key"])}
    assert (await anyone.get("/devices", headers=headers)).status_code == 200
    assert (await alice.http.delete(f"/keys/{created['id']}")).status_code == 200
    assert (await anyone.get("/devices", headers=headers)).status_code == 401


async def test_an_access_token_that_is_not_valid(alice, anyone):
    """401 as for a header; and a header that is there is the one that counts."""
    for query in ("access_token=", "access_token=mdk_x", "access_token=%ff", f"token={alice.key}"):
        assert (query, (await anyone.get(f"/devices?{query}")).status_code) == (query, 401)
    wrong = {"Authorization": "Bearer mdk_wrong"}
    assert (await anyone.get(f"/devices?access_token={alice.key}", headers=wrong)).status_code == 401


async def test_a_query_of_too_many_fields(alice, anyone):
    """400, not a crash; of REST and of an upload."""
    query = "&".join(f"a{n}=1" for n in range(40)) + f"&access_token={alice.key}"
    assert (await anyone.get(f"/devices?{query}")).status_code == 400
    assert (await anyone.post(f"/devices/d1/ota?{query}")).status_code == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "HOST", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "HOST"}, 200),
    ],
)
async def test_a_password_that_the_browser_adds_by_itself_is_no_consent(alice, headers, status):
    """Once typed into a browser's own login box, it comes with every request, also with one of another's page."""
    own = {"HOST": alice.server.url}
    async with alice.as_user() as http:
        response = await http.get("/devices", headers={name: own.get(value, value) for name, value in headers.items()})
    assert response.status_code == status


async def test_basic_works_on_the_whole_api(alice):
    """Name and password do everything that a key does, calls, shadows and keys too."""
    async with alice.as_user() as http:
        assert (await http.post("/devices", json={"id": "d1"})).status_code == 201
        assert (await http.get("/devices/d1")).status_code == 200
        assert (await http.post("/devices/d1/shadow", json={"state": {}})).status_code == 200
        assert (await http.post("/devices/d1/rpc/X")).status_code == 503
        assert (await http.post("/devices/d1/ota", content=b"x")).status_code == 503
        key = (await http.post("/keys")).json()
        assert (await http.get("/me", headers={"Authorization": f"Bearer {key['key']}"})).status_code == 200
        assert (await http.delete(f"/keys/{key['id']}")).status_code == 200
        assert len((await http.post("/logs")).json()) == 2
        assert (await http.delete("/devices/d1")).status_code == 200


async def test_wrong_passwords_lock_the_name(alice, bob, monkeypatch):
    """After ten, 429 with the time to wait, for the right password too; keys and other names go on working."""
    monkeypatch.setattr(login_failures, "LOCK_TIME", 0.5)
    async with alice.as_user("wrong") as wrong, alice.as_user() as right, bob.as_user() as other:
        for _ in range(login_failures.MAX_FAILURES):
            assert (await wrong.get("/me")).status_code == 401
        for http in (wrong, right):
            answer = await http.get("/me")
            assert (answer.status_code, answer.json()["error"]["code"]) == (429, 429)
            assert answer.headers["retry-after"] == "1"
        assert (await other.get("/me")).status_code == 200
        assert (await alice.http.get("/me")).status_code == 200
        with trio.fail_after(FRAME_TIMEOUT):
            while (answer := await right.get("/me")).status_code == 429:
                await trio.testing.wait_all_tasks_blocked(0.05)
        assert answer.status_code == 200


async def test_health_needs_no_credentials_and_tells_nothing(alice, server):
    """Any client learns that the server works, and nothing of any device."""
    async with await alice.connect("d1"), httpx.AsyncClient(verify=False) as client:
        answer = await client.get(f"{server.url}/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_a_body_without_credentials_is_not_waited_for(server, open_raw):
    """A request without credentials gets 401 as soon as its head is there: no memory is given to the body."""
    async with open_raw(server) as raw:
        await raw.send(b"POST /api/v2/devices HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{")
        assert (await raw.response()).status == 401


async def test_guesses_do_not_shut_out_a_known_user(alice, anyone, password):
    """A login that was right a moment ago goes on while a stranger's guesses lock the name."""
    url = f"{alice.server.url}/api/v2/me"
    assert (await anyone.get(url, auth=("alice", password))).status_code == 200
    for guess in range(12):
        refused = await anyone.get(url, auth=("alice", f"guess {guess}"))
    assert refused.status_code == 429
    assert (await anyone.get(url, auth=("alice", password))).status_code == 200
