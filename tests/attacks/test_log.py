"""Nothing that a stranger can send makes the server log a traceback, or an error of its own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import trio

TARGETS = [
    "/",
    "*",
    "//",
    "//[",
    "http://[",
    "http://[::1",
    "http://x",
    "http://x?y",
    "http://x:99999/healthz",
    "x:[",
    "[",
    "/healthz",
    "/%",
    "/%zz",
    "/%00",
    "/%ff%fe",
    "/%2e%2e/%2e%2e",
    "/ui/..%2f..",
    "/ui/%00",
    "/ui/index.html#x",
    "/?",
    "/;a=b",
    "/api/v2/devices",
    "/api/v2/devices/%ff",
    "/api/v2/devices/a%2Fb/shadow",
    "/api/v2/devices//rpc/",
    "/api/v2/login",
    "/api/v2/devices/d1/ota?commit_timeout=x",
    "/api/v2/devices/d1/rpc/X?timeout=NaN",
    "/api/v2/session",
    "/api/v2/logout",
    "/api/v2/rollouts",
    "/api/v2/rpc",
    "/api/v2/notify",
    "/api/v2/notify?start=-1",
    "/api/v2/notify?%ff=%ff",
    "/api/v2/devices?filter=" + "(" * 500,
    "/api/v2/devices?access_token=%00",
    "/api/v2/devices?" + "a&" * 3000,
    "/api/v2/backup",
    "/api/v2/users/%F0%9F",
    "/" + "a/" * 4000,
]
METHODS = [
    "GET",
    "POST",
    "PUT",
    "DELETE",
    "HEAD",
    "OPTIONS",
    "CONNECT",
    "TRACE",
    "PATCH",
    "PRI",
    "get",
    "G" * 30,
    "M-SEARCH",
]
VERSIONS = ["HTTP/1.1", "HTTP/1.0", "HTTP/1.9", "HTTP/2.0", "HTTP/0.9", "HTTP/x", "", "HTTP/1.1 x"]
FIELDS = [
    "Host: x",
    "Host: [",
    "Host: \xff",
    "Host: x@y:z",
    "Host:",
    "Host: " + "x" * 5000,
    "Authorization: Basic",
    "Authorization: Basic ====",
    "Authorization: Basic /////w==",
    "Authorization: Bearer \xff",
    "Authorization: Digest x",
    "Authorization: Basic OjoK",
    "Cookie: mdash_session=" + "x" * 4000,
    'Cookie: "; =;=;;',
    "Cookie: a=\xff; __Host-mdash_session=\xfe:x",
    "Origin: null",
    "Origin: http://[",
    "Content-Length: 5",
    "Content-Length: -1",
    "Content-Length: 5, 5",
    "Content-Length: 99999999999999999999",
    "Content-Length: \xb2",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: x",
    "Transfer-Encoding: chunked, chunked",
    "Expect: 100-continue",
    "Expect: x",
    "Upgrade: websocket",
    "Upgrade: h2c",
    "Connection: Upgrade",
    "Connection: close, keep-alive, x",
    "HTTP2-Settings: \xff",
    "Sec-WebSocket-Key: x",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Version: x",
    "Sec-WebSocket-Extensions: ;;=,",
    "Sec-WebSocket-Protocol: ,,",
    "Content-Type: multipart/form-data",
    "Content-Type: multipart/form-data; boundary=\xff",
    "Content-Type: ;;;=",
    "If-None-Match: \xff",
    'If-Match: W/"',
    "Range: bytes=x",
    "X-Forwarded-For: [",
    "Forwarded: for=\xff;;",
    "X-Requested-With: x",
    "Accept: text/html",
    "Accept: \xff",
    "X: \0",
    " folded",
    "no colon",
    "Date: x",
    "If-Modified-Since: \xff",
    "Accept-Encoding: \xff",
    "Sec-Fetch-Site: x",
    "Keep-Alive: timeout=x",
]
BODIES = [
    b"",
    b"{}",
    b"\xff",
    b"[" * 100,
    b'{"name":"a","password":"b"}',
    b'{"name":"\\ud800","password":"\\u0000"}',
    b"5\r\n{ }  \r\n0\r\n\r\n",
    b"ffffffffffffffff\r\n",
    b"-1\r\n",
    b"0\r\nX: y\r\n\r\n",
    b"5;" + b"x" * 20_000 + b"\r\nabcde",
    b"\r\n\r\n",
    b"--\r\n",
    b"\x81\x85mask12345",
    b"GET / HTTP/1.1\r\n\r\n",
]
RAW = [
    b"\0" * 1000,
    bytes(range(256)) * 100,
    b"\n" * 50_000,
    b"GET",
    b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(200),
    b"\x16\x03\x01\x00\x02ab",
    b"\x80\x2e\x01\x03\x01",
    b"EHLO x\r\n",
    b"SSH-2.0-x\r\n",
    b"\xff\xfb\x01",
]

BESIDE = 5  # clients of each seed that send at the same time: most of them wait


def messages(seed: int, count: int) -> Iterator[bytes]:
    """Requests that are put together of the odd, some of them with changed bytes."""
    source = random.Random(seed)
    yield from RAW
    for target in TARGETS:
        yield f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode("latin-1")
    for field in FIELDS:
        yield f"POST /api/v2/login HTTP/1.1\r\nHost: x\r\n{field}\r\n\r\n{{}}".encode("latin-1")
    for _ in range(count):
        line = f"{source.choice(METHODS)} {source.choice(TARGETS)} {source.choice(VERSIONS)}"
        head = "\r\n".join([line, *source.sample(FIELDS, source.randrange(6)), "", ""]).encode("latin-1")
        message = bytearray(head + source.choice(BODIES))
        for _ in range(source.choice((0, 0, 1, 5))):
            place = source.randrange(len(message))
            message[place : place + source.randrange(2)] = source.randbytes(source.randrange(3))
        yield bytes(message)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize(("seeds", "count"), [(3, 60), pytest.param(12, 150, marks=pytest.mark.proof)])
async def test_no_bytes_of_a_stranger_make_a_traceback(open_attacked: Any, tls: bool, seeds: int, count: int) -> None:
    """Odd requests of every kind, alone and one behind the other, by clients that read and others that do not; over TLS
    also where TLS is expected, and is not what comes. The server works as before."""
    constants = {"mdashcore.server.gateway.HEAD_TIMEOUT": 2.0, "mdashcore.server.http.connection.LINGER_TIME": 0.2}
    async with open_attacked(tls=tls, constants=constants, settings={"body_timeout": 0.3}) as server:
        await server.account("alice")

        async def send(data: bytes, end: str) -> None:
            tcp = await trio.open_tcp_stream(server.host, server.port)
            stream: Any = await server.secure(tcp) if tls and end != "raw" else tcp
            try:
                await stream.send_all(data)
                with trio.move_on_after(0.5 if end == "read" else 0.05):
                    while await stream.receive_some(2**14):
                        pass
            except trio.BrokenResourceError:
                pass  # it has heard enough
            await trio.aclose_forcefully(stream)

        async def send_some(seed: int, start: int) -> None:
            batch = list(messages(seed, count))
            for number, data in list(enumerate(batch))[start::BESIDE]:
                end = ("read", "leave", "raw" if tls else "leave")[(number + seed) % 3]
                await send(data, end)
                if number % (10 * BESIDE) == 11 * start:  # each tenth, in turns
                    await send(b"".join(batch[number : number + 10]), "read")

        async with trio.open_nursery() as nursery:
            for seed in range(seeds):
                for start in range(BESIDE):
                    nursery.start_soon(send_some, seed, start)
        async with server.http() as http:
            assert (await http.get(f"{server.url}/healthz")).status_code == 200
        assert "Traceback" not in server.log, server.log[:4000]
        assert "ERROR" not in server.log, server.log[:4000]
