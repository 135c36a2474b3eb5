"""Requests that a proxy in front may have understood in another way are refused, and end their connection."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio

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


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
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
    async with open_raw(server) as raw:  # in one packet: Hypercorn may drop the answer, and serves nothing
        await raw.send(head.encode() + CHUNKED + NEXT)
        assert b"HTTP/1.1 200" not in await raw.rest()


async def test_a_coding_alone_is_right(server, alice, open_raw):
    """Chunks without a length are what they were: the next request is answered too."""
    await server.service.hub.create_device("alice", "d1")
    fields = f"Host: x\r\nAuthorization: Bearer {alice.key}\r\nTransfer-Encoding: chunked"
    async with open_raw(server) as raw:
        await raw.send(f"POST /api/v2/logs HTTP/1.1\r\n{fields}\r\n\r\n".encode() + CHUNKED)
        assert (await raw.response()).status == 200
        await raw.send(NEXT)
        assert (await raw.response()).status == 200


@pytest.mark.parametrize("path", ["/api/v2/devices", "/api/v2/devices/d1/shadow", "/api/v2/devices/d1/ota"])
@pytest.mark.parametrize("second", ["Bearer KEY", "Basic eDp5", ""])
@pytest.mark.parametrize("ours_first", [True, False])
async def test_two_credentials(server, alice, open_raw, path, second, ours_first):
    """Two Authorization headers name nobody, in either order, also where both are the same."""
    await server.service.hub.create_device("alice", "d1")
    values = [f"Bearer {alice.key}", second.replace("KEY", alice.key)]
    fields = "".join(f"Authorization: {value}\r\n" for value in (values if ours_first else reversed(values)))
    async with open_raw(server) as raw:
        await raw.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n".encode())
        assert (await raw.response()).status == 401
