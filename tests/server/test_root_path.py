"""A server that shares its host with others, below a path: as one that has the host for itself, but for the path."""

from __future__ import annotations

import re
import ssl
from contextlib import asynccontextmanager
from functools import partial
from http.cookies import SimpleCookie

import httpx
import pytest
import trio
import trustme
from hypothesis import given
from hypothesis import strategies as st
from rows import every_row

from mdashcore import InvalidSetting, _json
from mdashcore.cli.client import device_url, parse_server
from mdashcore.server.app import create_app
from mdashcore.server.config import ServerConfig, load_config
from mdashcore.server.http.root_path import RootPath
from mdashcore.server.run import open_server
from mdashcore.server.service import ServiceSettings

BELOW = ServiceSettings(root_path="/mdash")

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@asynccontextmanager
async def person_at(root_path, store="memory://", **settings):
    """A server below a path, with an account and a device; what is needed to use it."""
    config = ServerConfig(bind="127.0.0.1:0", store=store)
    async with open_server(config, settings=ServiceSettings(root_path=root_path, **settings)) as server:
        hub = server.service.hub
        await hub.accounts.register("alice", "$argon2id$none")
        key = (await hub.accounts.create_key("alice")).secret
        await hub.create_device("alice", "d1")
        yield server, key


# The same, but for the path

REQUESTS = [
    "GET / HTTP/1.1|Accept: text/html",
    "GET / HTTP/1.1",
    "HEAD / HTTP/1.1|Accept: text/html",
    "GET /healthz HTTP/1.1",
    "GET /ui/api.js HTTP/1.1",
    "GET /ui/index.html HTTP/1.1",
    "GET /nowhere HTTP/1.1",
    "GET /data HTTP/1.1",
    "GET //healthz HTTP/1.1",
    "GET /../healthz HTTP/1.1",
    "GET /api/v2/session HTTP/1.1",
    "GET /api/v2/devices HTTP/1.1",
    "GET /api/v2/devices HTTP/1.1|AUTH",
    "GET /api/v2/devices?filter=online HTTP/1.1|AUTH",
    "GET /api/v2/devices/d1/shadow HTTP/1.1|AUTH",
    "GET /api/v2/devices/d1/shadow HTTP/1.1",
    "GET /api/v2/devices/d%31/shadow HTTP/1.1|AUTH",
    "POST /api/v2/devices/d1/rpc/Sys.GetInfo HTTP/1.1|AUTH",
    "POST /api/v2/devices/d1/rpc/Sys.GetInfo?timeout=x HTTP/1.1|AUTH",
    "POST /api/v2/login HTTP/1.1|Content-Length: 2||{}",
    'POST /api/v2/devices/d1/shadow HTTP/1.1|AUTH|Content-Length: 23||{"state":{"desired":{}}}'[:-1] + "}",
    "DELETE /api/v2/nothing HTTP/1.1|AUTH",
    "PATCH /api/v2/devices HTTP/1.1|AUTH",
    "GET /api/v2/rpc HTTP/1.1",
    "GET /api/v2/notify HTTP/1.1|AUTH",
    "GET /healthz HTTP/1.0",
    "GET http://elsewhere.example/healthz HTTP/1.1",
    "GET /healthz HTTP/2.0",
    "GET /health\x00z HTTP/1.1",
    "GET /healthz",
    "get /healthz HTTP/1.1",
    "GET  /healthz HTTP/1.1",
]
"""A request each; AUTH is the key, and an empty field ends the head."""


def raw(request, key, root_path):
    """The bytes of a request, below a path."""
    line, *fields = request.split("|")
    line = re.sub(r"^(\S+ +(?:http://[^/]*)?)/", rf"\1{root_path}/", line)
    body = ""
    if "" in fields:
        body = fields[fields.index("") + 1]
        fields = fields[: fields.index("")]
    fields = [f"Authorization: Bearer {key}" if field == "AUTH" else field for field in fields]
    return "\r\n".join([line, "Host: x", *fields, "Connection: close", "", body]).encode("latin-1")


async def answer(server, data):
    """All that comes, without what is different each time."""
    async with await trio.open_tcp_stream(server.host, server.port) as stream:
        await stream.send_all(data)
        with trio.fail_after(20):
            said = b"".join([bytes(part) async for part in stream])
    said = re.sub(rb"(?i)(date|etag|content-length|x-request-id): [^\r]*", rb"\1", said)
    said = re.sub(rb'"(created_at|last_seen|timestamp)":[^,}]*', rb"", said)
    return said.replace(b"/mdash/", b"/").replace(b"/mdash", b"")


@pytest.mark.parametrize("fast_lane", [True, False])
async def test_every_answer_is_that_of_a_server_of_its_own(fast_lane):
    """But for the path, in links and words: of the page, the API, and what is refused, in both lanes."""
    async with (
        person_at("", fast_lane=fast_lane) as (alone, alone_key),
        person_at("/mdash", fast_lane=fast_lane) as (below, below_key),
    ):
        for request in REQUESTS:
            wanted = await answer(alone, raw(request, alone_key, ""))
            found = await answer(below, raw(request, below_key, "/mdash"))
            assert wanted, request
            assert found == wanted, request


@every_row(
    ("target", "status"),
    [
        *(("/", 404), ("/healthz", 404), ("/api/v2/devices", 404), ("/api/v2/rpc", 404), ("/mdashboard/", 404)),
        *(("/MDASH/healthz", 404), ("/%6ddash/healthz", 404), ("//mdash/healthz", 404), ("/mdash%2Fhealthz", 404)),
        *(("/./mdash/healthz", 404), ("/x/mdash/healthz", 404), ("/mdash/mdash/healthz", 404), ("/mdash/healthz", 200)),
        *(("http://x/healthz", 404), ("http://x/mdash/healthz", 200), ("http://mdash/healthz", 404)),
    ],
)
@pytest.mark.parametrize("settings", [BELOW])
async def test_what_is_not_below_the_path(server, open_raw, target, status):
    """Is not there, however it is written; the words say where the server is. It never reaches the app."""
    async with open_raw(server) as socket:
        await socket.send(f"GET {target} HTTP/1.1\r\nHost: x\r\nX-Forwarded-Prefix: /x\r\n\r\n".encode())
        response = await socket.response()
        assert response.status == status
        if status == 404:
            assert "/mdash/" in _json.decode(response.body)["error"]["message"] or target.startswith("/mdash/")


@pytest.mark.parametrize("settings", [BELOW])
async def test_the_path_itself_leads_to_the_page(server, open_raw):
    """With the slash that relative links need; a query goes along. Only for what reads."""
    for method, query in [("GET", ""), ("HEAD", "?a=1&b=%0d%0a"), ("GET", "?x")]:
        async with open_raw(server) as socket:
            await socket.send(f"{method} /mdash{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            said = await socket.rest()
        assert said.startswith(b"HTTP/1.1 308 ")
        assert f"\r\nlocation: /mdash/{query}\r\n".encode() in said
        assert said.endswith(b"\r\n\r\n") == (method == "HEAD")
    async with open_raw(server) as socket:
        await socket.send(b"POST /mdash HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
        assert (await socket.response()).status == 404


@every_row("header", ["X-Forwarded-Prefix", "X-Script-Name", "X-Forwarded-Path", "Forwarded"])
@pytest.mark.parametrize("settings", [ServiceSettings(), BELOW])
async def test_the_path_is_taken_from_no_header(server, anyone, header):
    """Neither where there is none, nor in place of the one that is configured."""
    root = server.service.settings.root_path
    response = await anyone.get(f"{server.url}/", headers={header: "/evil", "Accept": "application/json"})
    assert response.json()["api"] == f"{root}/api/v2"
    page = await anyone.get(f"{server.url}/", headers={header: "/evil", "Accept": "text/html"})
    assert re.search(rf'src="{root}/ui/\w+/app\.js"', page.text)
    assert "/evil" not in page.text


@pytest.mark.parametrize("settings", [BELOW])
async def test_every_link_of_the_page_leads_below_the_path(server, anyone):
    """Wherever it is opened; and what they lead to is there."""
    for path in ("/", "/ui/index.html"):
        page = (await anyone.get(f"{server.url}{path}", headers={"Accept": "text/html"})).text
        links = re.findall(r'(?:src|href)="([^"#][^"]*)"', page)
        assert len(links) > 5
        for link in links:
            assert link.startswith("/mdash/ui/")
            assert (await anyone.get(server.url.removesuffix("/mdash") + link)).status_code == 200
        assert "see /mdash/api/v2" in page


# Devices, subscribers, browsers


@pytest.mark.parametrize("instant", [True, False])
@pytest.mark.parametrize("settings", [BELOW])
async def test_a_device_and_a_subscriber(alice, server):
    """Both sockets are below the path, and calls and shadows come through, on a connection that is used again."""
    assert server.device_url == f"ws://127.0.0.1:{server.port}/mdash/api/v2/rpc"
    async with alice.listen() as ear, await alice.connect("d1") as device:
        await ear.expect("online", "d1")
        for number in range(3):
            async with alice.calling("POST", "/devices/d1/rpc/Sum", json=[number]) as response:
                call = await device.expect("Sum")
                await device.send({"id": call["id"], "result": number})
                assert (await response()).json() == number
            update = {"state": {"desired": {"n": number}}}
            assert (await alice.http.post("/devices/d1/shadow", json=update)).status_code == 200
            assert (await alice.http.get("/devices/d1/shadow")).json()["state"]["desired"] == {"n": number}


@pytest.mark.parametrize("settings", [BELOW])
async def test_sockets_that_are_not_below_the_path(alice, server, open_raw):
    """Are not there: a device of a neighbour does not end up here."""
    token = await alice.register("d1")
    for path, status in [("/api/v2/rpc", 404), ("/mdash/api/v2/rpc", 101)]:
        async with open_raw(server) as socket:
            assert (await socket.handshake(token, path=path)).status == status


def cookie_of(response):
    """The only cookie that a response sets."""
    ((name, morsel),) = SimpleCookie(response.headers["set-cookie"]).items()
    return name, morsel


@pytest.mark.parametrize("settings", [BELOW])
async def test_the_cookie_without_tls(alice, anyone, password, server, open_raw):
    """Goes to no neighbour: its path is the server's. It opens the page's socket, and ends with the session."""
    response = await anyone.post("/login", json={"user": "alice", "password": password})
    name, morsel = cookie_of(response)
    assert (name, morsel["path"], morsel["secure"]) == ("mdash_session", "/mdash/", "")
    fields = (f"Cookie: {name}={morsel.value}", f"Origin: http://127.0.0.1:{server.port}")
    async with open_raw(server) as socket:
        assert (await socket.handshake(None, *fields, path="/mdash/api/v2/notify")).status == 101
    out = await anyone.post("/logout", headers={"Origin": f"http://127.0.0.1:{server.port}"})
    assert out.status_code == 200
    assert cookie_of(out)[1]["path"] == "/mdash/"


async def test_the_cookie_under_tls(tmp_path, password, cheap_hasher):
    """Is for TLS only, and for the path: `__Host-` would be sent to the neighbours too. The socket knows it as well."""
    authority = trustme.CA()
    certificate = tmp_path / "cert.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    config = ServerConfig(bind="127.0.0.1:0", store="memory://", certfile=certificate, root_path="/a/b.c")
    async with open_server(config) as server:
        server.service.passwords._hasher = cheap_hasher
        await server.service.hub.accounts.register("alice", cheap_hasher.hash(password))
        assert server.url == f"https://127.0.0.1:{server.port}/a/b.c"
        async with httpx.AsyncClient(base_url=f"{server.url}/api/v2", verify=context, timeout=20) as client:
            response = await client.post("/login", json={"user": "alice", "password": password})
            name, morsel = cookie_of(response)
            assert (name, morsel["path"], morsel["secure"]) == ("__Secure-mdash_session", "/a/b.c/", True)
            assert (await client.get("/session")).json()["user"] == "alice"
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with trio.SSLStream(stream, context, server_hostname="127.0.0.1", https_compatible=True) as tls:
            lines = [
                *("GET /a/b.c/api/v2/notify HTTP/1.1", f"Host: 127.0.0.1:{server.port}", "Upgrade: websocket"),
                *("Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"),
                *(f"Origin: https://127.0.0.1:{server.port}", f"Cookie: {name}={morsel.value}", "", ""),
            ]
            await tls.send_all("\r\n".join(lines).encode())
            assert (await tls.receive_some()).startswith(b"HTTP/1.1 101 ")


# An app that mounts the API


async def ask(app, path, root_path, *, method="GET", query=b""):
    """What an ASGI app answers: status, headers and body."""
    sent = []

    messages = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive():
        return messages.pop() if messages else await trio.sleep_forever()

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": query, "root_path": root_path,
        "headers": [(b"host", b"x")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "extensions": {},
    }  # fmt: skip
    await app(scope, receive, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:])


async def test_the_app_heeds_the_root_path_of_its_scope(server):
    """As ASGI has it, with the whole path; and as some frameworks have it, which have taken the root path off."""
    app = create_app(server.service)
    for path in ("/sub/", "/"):
        status, _, body = await ask(app, path, "/sub")
        assert (status, _json.decode(body)["health"]) == (200, "/sub/healthz")
    assert (await ask(app, "/sub/healthz", "/sub/"))[0] == 200
    assert (await ask(app, "/api/api/v2/session", "/api"))[0] == 200
    status, headers, _ = await ask(app, "/sub", "/sub", query=b"x=1")
    assert (status, headers["location"]) == (308, "/sub/?x=1")
    status, _, body = await ask(app, "/sub/none", "/sub")
    assert (status, _json.decode(body)["error"]["message"]) == (404, "nothing is served at /sub/none")


# Settings


@pytest.mark.parametrize("path", ["", "/mdash", "/a/b", "/a.b/_c~/-", "/...", "/.well-known"])
def test_paths_that_can_be(path):
    """Whatever a URL has as it is."""
    assert ServerConfig(root_path=path).root_path == ServiceSettings(root_path=path).root_path == path


@every_row(
    "path",
    [
        *(
            "mdash",
            "/",
            "/mdash/",
            "//mdash",
            "/a//b",
            "/./a",
            "/a/..",
            "/..",
            "/.",
            "/a b",
            "/a%20b",
            "/ä",
            "/a?b",
            "/a#b",
        ),
        *("/a;b", '/a"b', "/a\n", "/" + "a" * 128, "http://x/mdash", None, 5, b"/mdash", ("/mdash",)),
    ],
)
def test_paths_that_cannot_be(path):
    """What could be read in two ways, or would have to be escaped in a cookie or a link."""
    for cls in (ServerConfig, ServiceSettings):
        with pytest.raises(InvalidSetting, match="root_path"):
            cls(root_path=path)


def test_a_configuration_file_may_name_it(tmp_path):
    """As any other."""
    file = tmp_path / "mdash.toml"
    file.write_text('root_path = "/mdash"')
    assert load_config(file).root_path == "/mdash"


def test_the_command_line_takes_such_an_address():
    """The server's, the page's, the device's and the API's are all the same server."""
    for end in ("", "/", "/api/v2", "/api/v2/", "/api/v2/rpc"):
        assert parse_server(f"https://x/mdash{end}") == "https://x/mdash"
    assert device_url("https://x/mdash") == "wss://x/mdash/api/v2/rpc"


SEGMENTS = st.lists(st.sampled_from(["mdash", "mdash2", "", ".", "..", "api", "%6d", "a?b", "*"]), max_size=4)


@given(
    root=st.sampled_from(["/mdash", "/a/b"]),
    method=st.sampled_from(["GET", "POST", "X-Y", "get"]),
    segments=SEGMENTS,
    rest=st.binary(max_size=40),
)
def test_the_law_of_taking_off(root, method, segments, rest):
    """What is below the path comes out as if there were none; nothing else comes out."""
    strip = partial(RootPath.strip, RootPath(root))
    path = "/" + "/".join(segments)
    tail = b" HTTP/1.1\r\n" + rest
    assert strip(f"{method} {root}{path}".encode() + tail) == f"{method} {path}".encode() + tail
    below = path.partition("?")[0].startswith(f"{root}/")
    assert (strip(f"{method} {path}".encode() + tail) is None) == (not below)
    assert RootPath("").strip(rest) == rest
