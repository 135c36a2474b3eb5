"""A server behind proxies, and under TLS: whose address counts, which cookie a browser gets, and what it is told."""

from __future__ import annotations

import logging
import ssl
from http.cookies import SimpleCookie

import attrs
import httpx
import pytest
import trio
import trustme

from mdashcore._errors import InvalidInput
from mdashcore.server.auth.login_failures import MAX_FAILURES
from mdashcore.server.auth.session_cookie import MAX_TRIED, SESSION_COOKIE, SessionCookie
from mdashcore.server.config import ServerConfig
from mdashcore.server.run import open_server
from mdashcore.server.service import ServiceSettings

BEHIND = ServiceSettings(trusted_proxies=("127.0.0.0/8", "10.0.0.0/8"), forwarded_header="X-Forwarded-For")
BEHIND_STANDARD = ServiceSettings(trusted_proxies=("127.0.0.1",), forwarded_header="Forwarded")

HOST_COOKIE = f"__Host-{SESSION_COOKIE}"


def cookies(response):
    """The cookies that a response sets, by name."""
    return dict(SimpleCookie(response.headers.get("set-cookie", "")))


def from_(address, proto="https"):
    """What the proxy says of a client."""
    return {"X-Forwarded-For": address, "X-Forwarded-Proto": proto}


async def log_in(anyone, password, headers, name="alice"):
    """A login's response; the client keeps no cookie of it."""
    response = await anyone.post("/login", json={"user": name, "password": password}, headers=headers)
    anyone.cookies.clear()
    return response


@pytest.mark.parametrize("settings", [BEHIND])
async def test_a_lock_holds_for_the_client_behind_the_proxy(alice, anyone, password, open_raw, server_log):
    """For REST, for the login, and for the notification socket; whatever the client itself has put into the header."""
    for number in range(MAX_FAILURES):
        headers = from_(f"{number}.1.1.1, 203.0.113.9, 10.1.2.3")
        assert (await log_in(anyone, "wrong", headers)).status_code == 401
    locked = from_("9.9.9.9, 203.0.113.9")
    assert (await log_in(anyone, password, locked)).status_code == 429
    assert (await anyone.get("/me", auth=("alice", password), headers=locked)).status_code == 429
    credentials = f"Authorization: {alice.as_user().headers['Authorization']}"
    for address, status in [("203.0.113.9", 429), ("203.0.113.8", 101)]:
        async with open_raw(alice.server) as raw:
            fields = (credentials, f"X-Forwarded-For: {address}")
            assert (await raw.handshake(None, *fields, path="/api/v2/notify")).status == status
    assert (await log_in(anyone, password, from_("203.0.113.8"))).status_code == 200
    assert (await anyone.get("/me", auth=("alice", password))).status_code == 200  # the proxy's own address
    assert server_log().count('mdashcore.login: login failed: address=203.0.113.9 name="alice"') == MAX_FAILURES


@pytest.mark.parametrize("settings", [BEHIND_STANDARD])
async def test_the_standard_header(alice, anyone, password):
    """As the other one, with the scheme in the same element."""
    told = {"Forwarded": 'for=1.1.1.1, for="[2001:db8::7]:80";proto=https'}
    for _ in range(MAX_FAILURES):
        await log_in(anyone, "wrong", told)
    assert (await log_in(anyone, password, {"Forwarded": 'for="[2001:db8::8]"'})).status_code == 429  # the same /64
    other = {"Forwarded": 'for="[2001:db8:0:1::7]";proto=https'}
    assert HOST_COOKIE in cookies(await log_in(anyone, password, other))


async def test_what_is_not_trusted_is_not_believed(alice, anyone, password):
    """Without named proxies the headers change neither address nor scheme."""
    for number in range(MAX_FAILURES):
        assert (await log_in(anyone, "wrong", from_(f"203.0.113.{number}"))).status_code == 401
    assert (await log_in(anyone, password, from_("203.0.113.99"))).status_code == 429
    response = await anyone.get("/session", headers=from_("203.0.113.99"))
    assert "strict-transport-security" not in response.headers


@pytest.mark.parametrize("settings", [BEHIND])
async def test_the_cookie_behind_a_proxy_with_tls(alice, anyone, password, open_raw):
    """It is the one of TLS, in requests and handshakes alike; the one without TLS counts for nothing there."""
    response = await log_in(anyone, password, from_("203.0.113.8"))
    (name,) = cookies(response)
    assert (name, cookies(response)[name]["secure"], cookies(response)[name]["path"]) == (HOST_COOKIE, True, "/")
    assert response.headers["strict-transport-security"] == "max-age=31536000"
    secret = cookies(response)[name].value
    for cookie, proto, known in [
        (HOST_COOKIE, "https", True),
        (SESSION_COOKIE, "https", False),
        (HOST_COOKIE, "http", False),
        (SESSION_COOKIE, "http", True),
    ]:
        headers = {**from_("203.0.113.8", proto), "Cookie": f"{cookie}={secret}"}
        assert ((await anyone.get("/session", headers=headers)).json()["user"] == "alice") == known
        fields = [f"{name}: {value}" for name, value in headers.items()]
        async with open_raw(alice.server) as raw:
            own = "Sec-Fetch-Site: same-origin"
            status = (await raw.handshake(None, *fields, own, path="/api/v2/notify")).status
            assert status == (101 if known else 401)
    plain = await anyone.get("/session", headers=from_("203.0.113.8", "http"))
    assert "strict-transport-security" not in plain.headers


@pytest.mark.parametrize("settings", [BEHIND])
async def test_either_lane_tells_browsers_to_stay_with_tls_behind_a_proxy(alice):
    """Also in answers to calls and shadows; each request by what the proxy says of it, on one connection."""
    await alice.http.post("/devices", json={"id": "d1"})
    for path in ("/devices/d1/shadow", "/devices/d1"):
        for proto, told in (("https", ["max-age=31536000"]), ("http", []), ("https", ["max-age=31536000"])):
            answer = await alice.http.get(path, headers=from_("203.0.113.8", proto))
            assert (answer.status_code, answer.headers.get_list("strict-transport-security")) == (200, told)
    answer = await alice.http.post("/devices/d1/rpc/X", headers=from_("203.0.113.8"))
    assert answer.headers.get_list("strict-transport-security") == ["max-age=31536000"]


async def test_under_tls(alice_over_tls):
    """The cookie is bound to the host, a login by it works, and every answer tells browsers to stay with TLS."""
    client, key, password = alice_over_tls
    response = await client.post("/api/v2/login", json={"user": "alice", "password": password})
    (name,) = cookies(response)
    assert name == HOST_COOKIE
    assert cookies(response)[name]["secure"]
    assert (await client.get("/api/v2/session")).json()["user"] == "alice"  # the client has taken the cookie
    bearer = {"Authorization": f"Bearer {key}"}
    answers = [
        await client.get("/", headers={"Accept": "text/html"}),
        await client.get("/api/v2/nowhere", headers=bearer),
        await client.get("/api/v2/devices"),
        await client.get("/api/v2/devices/d1/shadow", headers=bearer),  # the fast lane
        await client.post("/api/v2/devices/d1/ota", headers=bearer, content=b"x"),
    ]
    assert [answer.headers.get_list("strict-transport-security") for answer in answers] == [["max-age=31536000"]] * 5
    own = {"Sec-Fetch-Site": "same-origin"}
    gone = await client.post("/api/v2/logout", headers=own)
    assert cookies(gone)[HOST_COOKIE]["max-age"] == "0"
    assert (await client.get("/api/v2/session")).json()["user"] is None


@pytest.fixture
async def alice_over_tls(tmp_path, password, cheap_hasher):
    """A client of a server that speaks TLS, alice's key and her password."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    config = ServerConfig(bind="127.0.0.1:0", store="memory://", certfile=tmp_path / "both.pem")
    async with open_server(config) as server:
        server.service.passwords._hasher = cheap_hasher
        accounts = server.service.hub.accounts
        await accounts.register("alice", cheap_hasher.hash(password))
        await server.service.hub.create_device("alice", "d1")
        key = (await accounts.create_key("alice")).secret
        url = f"https://localhost:{server.port}"
        context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
        async with httpx.AsyncClient(base_url=url, verify=context, timeout=20) as client:
            yield client, key, password


@pytest.mark.parametrize(
    ("scheme", "prefix", "name", "path"),
    [
        ("http", "", SESSION_COOKIE, "/"),
        ("https", "", HOST_COOKIE, "/"),
        ("http", "/mdash", SESSION_COOKIE, "/mdash/"),
        ("https", "/mdash", f"__Secure-{SESSION_COOKIE}", "/mdash/"),
        ("https", "/a/b/", f"__Secure-{SESSION_COOKIE}", "/a/b/"),
    ],
)
def test_the_cookie_of_a_page(scheme, prefix, name, path):
    """Scheme and path prefix decide its name and attributes."""
    assert SessionCookie.of(scheme, prefix) == SessionCookie(name, path, scheme == "https")


async def test_junk_before_the_cookie_keeps_the_session(alice, anyone, password, open_raw):
    """Another page of the domain may have set cookies of the same name: each that could be a session is tried."""
    real = cookies(await log_in(anyone, password, {}))[SESSION_COOKIE].value
    other = f"alice:mds_{'x' * 43}"
    junk = ["", "x", '"x"', "alice:", "x" * 3000, "alice:mds_short", other, f"nobody:mds_{'y' * 43}", other]
    for values, user in [
        ([*junk, real], "alice"),
        ([real, *junk], "alice"),
        ([*junk, real, *junk], "alice"),
        (junk, None),
        ([f"a{n}:mds_{'z' * 43}" for n in range(MAX_TRIED - 1)] + [real], "alice"),
        ([f"a{n}:mds_{'z' * 43}" for n in range(MAX_TRIED)] + [real], None),  # so many that it has a bound
    ]:
        header = "; ".join(f"{SESSION_COOKIE}={value}" for value in values)
        answer = await anyone.get("/session", headers={"Cookie": header})
        assert answer.json()["user"] == user
        async with open_raw(alice.server) as raw:
            fields = (f"Cookie: {header}", "Sec-Fetch-Site: same-origin")
            status = (await raw.handshake(None, *fields, path="/api/v2/notify")).status
            assert status == (401 if user is None else 101)


@pytest.mark.parametrize("settings", [attrs.evolve(BEHIND, hsts_max_age=0)])
async def test_browsers_can_be_told_to_forget_tls(anyone):
    """An operator who goes back to plain HTTP says 0."""
    answer = await anyone.get("/session", headers=from_("203.0.113.8"))
    assert answer.headers["strict-transport-security"] == "max-age=0"


async def test_a_forgotten_proxy_is_named_once(anyone, caplog):
    """The log says what is missing; not for every request."""
    caplog.set_level(logging.WARNING)
    for _ in range(3):
        await anyone.get("/session", headers=from_("203.0.113.9"))
    found = [record.getMessage() for record in caplog.records if "trusted_proxies" in record.getMessage()]
    assert len(found) == 1
    assert "requests from 127.0.0.1 come through a proxy" in found[0]


async def test_wrong_proxies_are_a_wrong_start():
    """Before anything is served."""
    config = ServerConfig(bind="127.0.0.1:0", store="memory://", trusted_proxies=("10.0.0.1/8",), forwarded_header="X")
    with trio.fail_after(10), pytest.raises(InvalidInput, match="has host bits set"):
        async with open_server(config):
            raise AssertionError("it serves")
