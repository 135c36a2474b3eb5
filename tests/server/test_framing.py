"""Requests that a proxy in front may have understood in another way are refused, and end their connection."""

from __future__ import annotations

import ssl
from contextlib import suppress

import pytest
import trio
import trustme
from rows import every_row

from mdashcore import _json
from mdashcore.server.config import ServerConfig
from mdashcore.server.lanes.slow_lane import MAX_HEAD
from mdashcore.server.run import open_server

PATHS = [
    "POST /api/v2/devices/d1/shadow",
    "POST /api/v2/devices/d1/rpc/Echo",
    "POST /api/v2/devices/d1/ota",
    "POST /api/v2/rollouts",
    "POST /api/v2/login",
    "GET /ui/",
    "GET /healthz",
]
NEXT = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"3\r\n{ }\r\n0\r\n\r\n"


@pytest.fixture
async def tls_server(tmp_path):
    """A server that speaks TLS, and what a client has to know for it."""
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "cert.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    async with open_server(ServerConfig("127.0.0.1:0", "memory://", certfile=tmp_path / "cert.pem")) as running:
        yield running, context


@pytest.fixture
async def d1(server, alice):
    """A device of alice's, offline."""
    await server.service.hub.create_device("alice", "d1")


@every_row("path", PATHS)
@every_row(
    ("version", "fields"),
    [
        ("1.1", "Content-Length: 5\r\nTransfer-Encoding: chunked"),
        ("1.1", "Transfer-Encoding: chunked\r\nContent-Length: 13"),
        ("1.1", "transfer-encoding: Chunked\r\nCONTENT-LENGTH: 0"),
        ("1.0", "Connection: keep-alive\r\nTransfer-Encoding: chunked"),
    ],
)
async def test_two_ends_of_a_body(server, alice, open_raw, path, version, fields):
    """A length beside a coding, or a coding in HTTP/1.0: 400, on every route; what follows is no request."""
    head = f"{path} HTTP/{version}\r\nHost: x\r\nAuthorization: Bearer {alice.key}\r\n{fields}\r\n\r\n"
    async with open_raw(server) as raw:
        await raw.send(head.encode() + CHUNKED)
        answer = await raw.response()
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        with suppress(trio.BrokenResourceError):
            await raw.send(NEXT)
        assert await raw.rest() == b""
    async with open_raw(server) as raw:  # in one packet
        await raw.send(head.encode() + CHUNKED + NEXT)
        assert (await raw.response()).status == 400
        assert await raw.rest() == b""


async def test_a_coding_alone_is_right(server, alice, open_raw):
    """Chunks without a length are what they were: the next request is answered too."""
    await server.service.hub.create_device("alice", "d1")
    fields = f"Host: x\r\nAuthorization: Bearer {alice.key}\r\nTransfer-Encoding: chunked"
    async with open_raw(server) as raw:
        await raw.send(f"POST /api/v2/logs HTTP/1.1\r\n{fields}\r\n\r\n".encode() + CHUNKED)
        assert (await raw.response()).status == 200
        await raw.send(NEXT)
        assert (await raw.response()).status == 200


@every_row("path", ["/api/v2/devices", "/api/v2/devices/d1/shadow", "/api/v2/devices/d1/ota"])
@every_row("second", ["Bearer KEY", "Basic eDp5", ""])
@every_row("ours_first", [True, False])
async def test_two_credentials(server, alice, d1, open_raw, path, second, ours_first):
    """Two Authorization headers authenticate no account, in either order, also where both are the same."""
    values = [f"Bearer {alice.key}", second.replace("KEY", alice.key)]
    fields = "".join(f"Authorization: {value}\r\n" for value in (values if ours_first else reversed(values)))
    async with open_raw(server) as raw:
        await raw.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n".encode())
        assert (await raw.response()).status == 401


REFUSED = {
    "an unreadable head": b"GET /healthz HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
    "no request at all": b"\x16\x03\x01 this is no request\r\n",
    "another version": b"GET /healthz HTTP/2.0\r\nHost: x\r\n\r\n",
    "a head that is too large": b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 2**14 + b"\r\n\r\n",
    "a head of too many fields": b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"a:\r\n" * 100 + b"\r\n",
    "broken chunks": b"POST /api/v2/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
    "a socket elsewhere": b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    "no credentials": b"POST /api/v2/devices HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n" + b"x" * 500_000,
    "an upload of nobody": b"POST /api/v2/devices/d1/ota HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n123456789",
    "a socket of nobody": b"GET /api/v2/rpc HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    "a host that is none": b"GET /healthz HTTP/1.1\r\nHost: a..b\r\n\r\n",
    "a target that is no path": b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n",
}


@every_row("more", [0, 1, 2000])
@every_row("secure", [False, True])
@every_row("name", REFUSED)
async def test_the_answer_to_a_refused_request_is_not_lost(server, open_raw, name, secure, more, tls_server):
    """However much follows in the same packet: one answer, with a reason in JSON, and then the end of the connection. A
    connection that is closed over unread bytes is reset, and the client may never see the answer."""
    running, context = tls_server if secure else (server, None)
    async with open_raw(running, context=context) as raw:
        with suppress(trio.BrokenResourceError):
            await raw.send(REFUSED[name] + NEXT * more)
        answer = await raw.response()
        assert 400 <= answer.status < 600
        assert _json.decode(answer.body)["error"]["code"] == answer.status
        if answer.headers.get("connection") == "close":
            assert await raw.rest() == b""
        else:  # it was read to its end
            assert name in ("an upload of nobody", "no credentials")


HOSTS = {"a..b": 400, ".": 400, "x" * 64: 400, "a b": 400, "u@x": 400, "[": 400, "x/y": 400, "\xe9": 400}
HOSTS |= {"x": 200, "x.y.": 200, "x_y:8080": 200, "[::1]:80": 200, "": 200}


@every_row("host", HOSTS)
async def test_a_host_that_is_none(server, alice, d1, open_raw, host):
    """RFC 9112, section 3.2: 400, in either lane, and not a fault of the framework's."""
    for path in ("/healthz", "/api/v2/devices/d1/shadow", "/ui/index.html"):
        async with open_raw(server) as raw:
            head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {alice.key}\r\n\r\n"
            await raw.send(head.encode("latin-1"))
            assert (await raw.response()).status == HOSTS[host]


def with_head_of(size, target, key, *fields):
    """A GET whose head has so many bytes."""
    lines = [f"GET {target} HTTP/1.1", "Host: x", f"Authorization: Bearer {key}", *fields, "X: "]
    head = "\r\n".join([*lines, "", ""]).encode()
    return head.replace(b"X: ", b"X: " + b"x" * (size - len(head)))


@every_row("behind", [False, True])
@every_row(("size", "status"), [(MAX_HEAD, 200), (MAX_HEAD + 1, 431), (MAX_HEAD + 5000, 431)])
@every_row(
    ("target", "field"),
    [("/healthz", "A: b"), ("/api/v2/devices/d1/shadow", "A: b"), ("/api/v2/devices/d1/shadow", "TE: trailers")],
)
async def test_one_limit_of_heads(server, alice, d1, open_raw, target, field, size, status, behind):
    """The same to the byte in either lane, whether a head comes alone or behind another request."""
    async with open_raw(server) as raw:
        first = with_head_of(200, target, alice.key, field) if behind else b""
        await raw.send(first + with_head_of(size, target, alice.key, field))
        if behind:
            assert (await raw.response()).status == 200
        answer = await raw.response()
        assert answer.status == status
        if status == 431:
            assert await raw.rest() == b""


async def test_a_handshake_is_held_to_the_same_limit(server, alice, open_raw):
    """A WebSocket's head is a request's head."""
    async with open_raw(server) as raw:
        handshake = raw.handshake_bytes("/api/v2/notify", alice.key)
        fields = b"".join(b"X-%d: %b\r\n" % (number, b"x" * 4000) for number in range(5))
        await raw.send(handshake[:-2] + fields + b"\r\n")
        assert (await raw.response()).status == 431
        assert await raw.rest() == b""


@pytest.mark.parametrize(("trailers", "status"), [(0, 401), (100, 401), (101, 400), (4000, 400)])
async def test_trailers_of_a_chunked_body(server, open_raw, trailers, status):
    """As many as a head may have fields are skipped, more are refused before they are read; so is what follows."""
    body = b'{"user":"a","password":"b"}'
    request = b"POST /api/v2/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    request += b"%x\r\n%b\r\n0\r\n" % (len(body), body) + b"a:\r\n" * trailers + b"\r\n"
    async with open_raw(server) as raw:
        await raw.send(request + b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"b: c\r\n" * 90 + b"\r\n")
        answer = await raw.response()
        assert answer.status == status
        if status == 400:
            assert b"the body cannot be read" in answer.body
        else:
            assert (await raw.response()).status == 200
