"""The two lanes, side by side: the same bytes to a server with the fast lane and to one without, the same answers."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import trio
import trio_websocket
from hypothesis import given
from hypothesis import strategies as st

from mdashcore import _json
from mdashcore._errors import StorageError
from mdashcore.hub import Hub
from mdashcore.server.config import ServerConfig
from mdashcore.server.gateway import HEAD_TIMEOUT, KEEP_ALIVE, Gateway
from mdashcore.server.http.request_head import RequestHead
from mdashcore.server.run import RunningServer, open_server
from mdashcore.server.service import Service, ServiceSettings
from mdashcore.storage import INSTANT, open_backend
from mdashcore.testing.device import connect_device
from mdashcore.trio.node import NodeSettings, open_node

KEY = "KEY"
"""Where a request needs the key of its server."""

LAST = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
"""Sent after every case, so that both servers close the connection when they are done."""

WAIT = 0.5  # seconds for the first answer; where none comes, the server waits for more


LINE = "POST /api/v2/devices/d1/rpc/Echo HTTP/1.1"


def request(line: str = LINE, *fields: str, body: bytes = b"[1]", host: bool = True) -> bytes:
    """A request, plain but for what a case says; a field with ``Content-Length`` stands in place of the right one."""
    lines = [line, *(["Host: x"] if host else []), *fields]
    if not any("authorization" in field.lower() for field in fields):
        lines.append(f"Authorization: Bearer {KEY}")
    if not any("content-length" in field.lower() or "transfer-encoding" in field.lower() for field in fields):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


SHADOW = "/api/v2/devices/d1/shadow"
CHUNKED = b"3\r\n[1]\r\n0\r\n\r\n"

CASES: dict[str, bytes] = {
    "a call": request(),
    "a call without params": request(body=b""),
    "a call by GET": request("GET /api/v2/devices/d1/rpc/Echo HTTP/1.1", body=b""),
    "a GET with a body": request("GET /api/v2/devices/d1/rpc/Echo HTTP/1.1"),
    "two in one packet": request() + request(body=b"[2]"),
    "ten, plain and not, in one packet": (request() + LAST.replace(b"Connection: close", b"X: y")) * 5,
    "a shadow": request(f"GET {SHADOW} HTTP/1.1", body=b""),
    "an update": request(f"POST {SHADOW} HTTP/1.1", body=b'{"state":{"desired":{"a":1}}}'),
    "an update that is refused": request(f"POST {SHADOW} HTTP/1.1", body=b'{"state":{"delta":{}}}'),
    "an update of an old version": request(f"POST {SHADOW} HTTP/1.1", body=b'{"state":{},"version":99}'),
    "an update without a body": request(f"POST {SHADOW} HTTP/1.1", body=b""),
    "another method": request(f"PUT {SHADOW} HTTP/1.1"),
    "a method in lower case": request(f"post {SHADOW} HTTP/1.1"),
    "HTTP/1.0": request("POST /api/v2/devices/d1/rpc/Echo HTTP/1.0"),
    "HTTP/1.0 that wants to stay": request("POST /api/v2/devices/d1/rpc/Echo HTTP/1.0", "Connection: keep-alive"),
    "HTTP/2.0 in words": request("POST /api/v2/devices/d1/rpc/Echo HTTP/2.0"),
    "no version": request("POST /api/v2/devices/d1/rpc/Echo"),
    "two spaces": request("POST  /api/v2/devices/d1/rpc/Echo HTTP/1.1"),
    "a tab": request("POST\t/api/v2/devices/d1/rpc/Echo HTTP/1.1"),
    "an absolute URL": request("POST http://x/api/v2/devices/d1/rpc/Echo HTTP/1.1"),
    "a percent-encoded id": request("POST /api/v2/devices/%641/rpc/Echo HTTP/1.1"),
    "a percent-encoded slash": request("POST /api/v2/devices/d1%2Frpc/Echo HTTP/1.1"),
    "a trailing slash": request("POST /api/v2/devices/d1/rpc/Echo/ HTTP/1.1"),
    "a double slash": request("POST /api/v2/devices//d1/rpc/Echo HTTP/1.1"),
    "dots": request("POST /api/v2/devices/../devices/d1/rpc/Echo HTTP/1.1"),
    "a device of dots": request("POST /api/v2/devices/../rpc/Echo HTTP/1.1"),
    "a fragment": request("POST /api/v2/devices/d1/rpc/Echo#x HTTP/1.1"),
    "a time-out": request("POST /api/v2/devices/d1/rpc/Echo?timeout=2.5 HTTP/1.1"),
    "a time-out of nothing": request("POST /api/v2/devices/d1/rpc/Echo?timeout= HTTP/1.1"),
    "a time-out of dots": request("POST /api/v2/devices/d1/rpc/Echo?timeout=1.2.3 HTTP/1.1"),
    "a time-out of an hour": request("POST /api/v2/devices/d1/rpc/Echo?timeout=3600 HTTP/1.1"),
    "two time-outs": request("POST /api/v2/devices/d1/rpc/Echo?timeout=1&timeout=2 HTTP/1.1"),
    "another query": request("POST /api/v2/devices/d1/rpc/Echo?x=1 HTTP/1.1"),
    "a shadow with a time-out": request(f"GET {SHADOW}?timeout=x HTTP/1.1", body=b""),
    "an unknown device": request("POST /api/v2/devices/nobody/rpc/Echo HTTP/1.1"),
    "an unknown device's shadow": request("GET /api/v2/devices/nobody/shadow HTTP/1.1", body=b""),
    "an id that is too long": request(f"POST /api/v2/devices/{'d' * 300}/rpc/Echo HTTP/1.1"),
    "a method that is too long": request(f"POST /api/v2/devices/d1/rpc/{'m' * 300} HTTP/1.1"),
    "a device's own error": request("POST /api/v2/devices/d1/rpc/Fail HTTP/1.1"),
    "no JSON": request(body=b"{"),
    "no UTF-8": request(body=b'"\xff"'),
    "not a number": request(body=b"NaN"),
    "deep JSON": request(body=b"[" * 70 + b"]" * 70),
    "two values": request(body=b"1 2"),
    "blanks": request(body=b" \r\n "),
    "null": request(body=b"null"),
    "no credentials": request().replace(b"Authorization: Bearer KEY\r\n", b""),
    "a wrong key": request("GET /api/v2/devices/d1/shadow HTTP/1.1", "Authorization: Bearer mdk_wrong", body=b""),
    "a wrong key with a body": request(LINE, "Authorization: Bearer x"),
    "two credentials": request(f"GET {SHADOW} HTTP/1.1", f"Authorization: Bearer {KEY}", "Authorization: x", body=b""),
    "the scheme in capitals": request(f"GET {SHADOW} HTTP/1.1", f"AUTHORIZATION: BEARER {KEY}", body=b""),
    "a key in the query": request(f"GET {SHADOW}?access_token={KEY} HTTP/1.1", "X: authorization", body=b""),
    "no host": request(host=False),
    "two hosts": request(LINE, "Host: y"),
    "a space before the colon": request(LINE, "X-A : 1"),
    "a folded field": request(LINE, "X-A: 1\r\n 2"),
    "a field without a colon": request(LINE, "X-A"),
    "a field without a name": request(LINE, ": 1"),
    "an empty field": request(LINE, "X-A:"),
    "a NUL in a field": request(LINE, "X-A: a\0b"),
    "a carriage return in a field": request(LINE, "X-A: a\rb"),
    "a newline alone": request(LINE, "X-A: a\nX-B: b"),
    "Latin-1 in a field": request(LINE, "X-A: \xe9"),
    "two hundred fields": request(LINE, *[f"X-{n}: 1" for n in range(200)]),
    "an oversized field": request(LINE, f"X-A: {'a' * 20_000}"),
    "newlines before the request": b"\r\n\r\n" + request(),
    "chunked": request(LINE, "Transfer-Encoding: chunked", body=CHUNKED),
    "chunked in capitals": request(LINE, "TRANSFER-ENCODING: CHUNKED", body=CHUNKED),
    "a length and chunked": request(
        LINE, "Content-Length: 3", "Transfer-Encoding: chunked", body=CHUNKED
    ),
    "chunked and a length": request(
        LINE, "Transfer-Encoding: chunked", "Content-Length: 3", body=CHUNKED
    ),
    "an unknown coding": request(LINE, "Transfer-Encoding: xchunked", body=CHUNKED),
    "two lengths": request(LINE, "Content-Length: 3", "Content-Length: 4"),
    "the same length twice": request(LINE, "Content-Length: 3", "Content-Length: 3"),
    "a list of lengths": request(LINE, "Content-Length: 3, 3"),
    "a signed length": request(LINE, "Content-Length: +3"),
    "a negative length": request(LINE, "Content-Length: -3"),
    "a length with zeros": request(LINE, "Content-Length: 003"),
    "a length in hex": request(LINE, "Content-Length: 0x3"),
    "a huge length": request(LINE, "Content-Length: 99999999999999999999"),
    "a body that is too large": request(LINE, "Content-Length: 3000000"),
    "the largest body": request(body=b'"' + b"x" * (2**17 + 5) + b'"'),
    "expect": request(LINE, "Expect: 100-continue"),
    "an unknown expectation": request(LINE, "Expect: magic"),
    "to be closed": request(LINE, "Connection: close"),
    "to be kept": request(LINE, "Connection: Keep-Alive"),
    "two wishes": request(LINE, "Connection: keep-alive, close"),
    "to be upgraded": request(LINE, "Connection: upgrade", "Upgrade: websocket"),
    "to be upgraded to HTTP/2": request(
        f"GET {SHADOW} HTTP/1.1", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AA", body=b""
    ),
    "a query of a shadow": request(f"GET {SHADOW}?name=wifi HTTP/1.1", body=b""),
    "two conditions": request(f"GET {SHADOW} HTTP/1.1", 'If-Match: "1"', 'If-Match: "2"', body=b""),
    "an empty condition": request(f"GET {SHADOW} HTTP/1.1", "If-Match:", body=b""),
}  # fmt: skip

MEANINGFUL = [
    "Accept: text/html",
    "Accept-Encoding: gzip, identity;q=0",
    "Content-Encoding: gzip",
    "Content-Encoding: identity",
    "Content-Range: bytes 0-2/3",
    "If-Match: *",
    'If-Match: "99999"',
    'If-Match: W/"99999", "99998"',
    "If-Match: 99999",
    "If-None-Match: *",
    'If-None-Match: "99999"',
    "If-None-Match: x",
    "If-Modified-Since: Sat, 29 Oct 2044 19:43:31 GMT",
    "If-Unmodified-Since: Sat, 29 Oct 1994 19:43:31 GMT",
    'If-Range: "1"',
    "Range: bytes=0-3",
    "Prefer: return=minimal",
    "X-HTTP-Method-Override: DELETE",
    "X-HTTP-Method: DELETE",
    "X-Method-Override: DELETE",
]
"""Headers that change what a request means, or would if they were heeded."""

CASES |= {
    f"{what} with {field}": request(f"{line} HTTP/1.1", field, body=body)
    for field in MEANINGFUL
    for what, line, body in (
        ("a shadow", f"GET {SHADOW}", b""),
        ("an update", f"POST {SHADOW}", b'{"state":{"desired":{"a":1}}}'),
        ("a call", "POST /api/v2/devices/d1/rpc/Echo", b"[1]"),
    )
}


@attrs.frozen
class Lanes:
    """A server in the immediate mode, one whose store may wait, and one without the fast lane.

    Each has alice and her device d1, which echoes params.
    """

    servers: list[RunningServer]
    keys: list[str]
    open_raw: Any

    async def answers(self, number: int, data: bytes, sizes: tuple[int, ...] = ()) -> list[Any]:
        """What a server answers to these bytes, sent in pieces of those sizes: status, body and header of each."""
        data = data.replace(KEY.encode(), self.keys[number].encode())
        async with self.open_raw(self.servers[number], patience=20) as raw:
            try:
                for size in sizes:
                    await raw.send(data[:size])
                    await trio.lowlevel.checkpoint()
                    data = data[size:]
                await raw.send(data)
                with trio.move_on_after(WAIT):  # Hypercorn drops an error that is followed by more, as it closes
                    await raw.response_arrived()
                await raw.send(LAST)
            except trio.BrokenResourceError:
                pass  # it has heard enough
            return list(_parse(await raw.rest()))


def _parse(data: bytes) -> Any:
    """Every response in what a server has sent."""
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ")[1])
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
        length = int(headers.get("content-length", 0))
        assert status == 100 or {"date", "x-request-id"} <= set(headers)
        for name in ("date", "etag", "last-modified", "x-request-id"):
            headers.pop(name, None)
        body, data = data[:length], data[length:]
        if status == 200 and body.startswith(b"{"):
            value = _json.decode(body)
            for name in ("timestamp", "version", "metadata"):  # when it was
                value.pop(name, None)
            body = _json.encode(value)
            headers.pop("content-length")
        yield status, body, headers


@asynccontextmanager
async def open_lanes(open_raw: Any) -> AsyncIterator[Lanes]:
    """The servers, with their devices."""
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        servers, keys = [], []
        for fast, capability in ((True, INSTANT), (True, "waiting"), (False, "waiting")):
            config = ServerConfig(bind="127.0.0.1:0", store="memory://")
            node = NodeSettings(introduction_delay=60)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("mdash_backends.memory.INSTANT", capability)
                server = await stack.enter_async_context(
                    open_server(config, settings=ServiceSettings(fast_lane=fast), node_settings=node)
                )
            await server.service.hub.accounts.register("alice", "-")
            keys.append((await server.service.hub.accounts.create_key("alice")).secret)
            token = (await server.service.hub.create_device("alice", "d1")).token
            device = await stack.enter_async_context(connect_device(server.device_url, token))
            nursery.start_soon(_echo, device)
            servers.append(server)
        yield Lanes(servers, keys, open_raw)
        nursery.cancel_scope.cancel()


async def _echo(device: Any) -> None:
    try:
        while True:
            call = _json.decode(await device.ws.get_message())
            if call.get("method") == "Fail":
                await device.reply_error(call, -7, "I will not")
            elif "id" in call:
                await device.reply(call, call.get("params"))
    except trio_websocket.ConnectionClosed:
        pass


async def test_odd_requests_are_answered_alike(open_raw: Any) -> None:
    """Every case of the table: the same statuses, bodies and headers from all, and the same end."""
    async with open_lanes(open_raw) as lanes:
        for name, data in CASES.items():
            with trio.fail_after(60):
                immediate, fast, slow = [await lanes.answers(number, data) for number in range(3)]
            assert immediate == fast == slow, name
            assert fast, name


async def test_a_plain_request_in_pieces_is_the_same_request(open_raw: Any) -> None:
    """However it comes, also byte by byte."""
    async with open_lanes(open_raw) as lanes:
        for name in ("a call", "two in one packet", "an update", "the largest body"):
            whole = await lanes.answers(0, CASES[name])
            for sizes in ((1,) * 200, (50, 150), (len(CASES[name]) - 1,)):
                for number in (0, 1):
                    assert await lanes.answers(number, CASES[name], sizes) == whole, (name, sizes)


def test_mutated_requests_are_answered_alike(open_raw: Any) -> None:
    """Whatever bytes are changed, left out or put in."""
    texts = st.sampled_from(list(CASES.values())[:40])
    scraps = st.sampled_from([b"", b"\r\n", b" ", b"\t", b"\0", b":", b"a", b"/", b"%20", b"\xff", b"?", b"\n", b","])
    changes = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 3), scraps), min_size=1, max_size=3)

    async def compare(data: bytes) -> None:
        async with open_lanes(open_raw) as lanes:
            seen: list[list[Any]] = [[], [], []]
            for _ in range(5):  # Hypercorn may close before it has sent an answer that is followed by rubbish, or after
                for number, answers in enumerate(seen):
                    with trio.fail_after(60):
                        answers.append(await lanes.answers(number, data))
                if any(answer in seen[1] and answer in seen[2] for answer in seen[0]):
                    return
            assert seen[0] == seen[1] == seen[2]

    @given(texts, changes)
    def run(data: bytes, changes: list[tuple[int, int, bytes]]) -> None:
        for place, length, scrap in changes:
            data = data[:place] + scrap + data[place + length :]
        if data.count(b"\n\r\n") and KEY.encode() in data:
            trio.run(functools.partial(compare, data))

    run()


@given(st.binary(max_size=300))
def test_what_is_plain_is_read_as_it_stands(data: bytes) -> None:
    """What is put into a plain head where it can be, in the body, moves nothing."""
    head = request(body=data).replace(KEY.encode(), b"k")
    found = RequestHead.read(head + b"GET / HTTP/1.1\r\n\r\n")
    assert found is not None
    assert (head + b"...")[found.body_start : found.body_end] == data
    assert (found.post, found.device, found.method, found.close) == (True, "d1", "Echo", False)


@pytest.mark.parametrize("instant", [False])
async def test_a_storage_that_is_away_is_waited_for_once(
    server: RunningServer, alice: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 immediately, in the lane itself: elsewhere the storage would be asked again."""
    asked = []

    async def fail(*question: object) -> None:
        asked.append(question)
        raise StorageError("the store is away")

    monkeypatch.setattr(server.service.hub.accounts, "authenticate_key", fail)
    response = await alice.http.get("/devices/d1/shadow")
    assert response.status_code == 503
    assert response.json() == {"error": {"code": 503, "message": "the storage is not available"}}
    assert len(asked) == 1


def plain(key: str, body: bytes, length: int | None = None, *fields: str) -> bytes:
    """A plain call of d1, with whatever length it announces."""
    size = len(body) if length is None else length
    return request(LINE, f"Content-Length: {size}", *fields, body=body).replace(KEY.encode(), key.encode())


async def test_a_body_that_does_not_come_times_out(
    autojump_clock: Any, server: RunningServer, open_raw: Any, alice: Any
) -> None:
    """408 after as long as in the other lane, whether nothing more comes or a byte at a time; then it is closed."""
    autojump_clock.autojump_threshold = 0.02  # what is sent to a socket is there within that
    await alice.register("d1")
    patience = server.service.settings.body_timeout
    for dribble, limit in ((False, patience), (True, 2 * patience)):
        async with open_raw(server, patience=100) as raw, trio.open_nursery() as nursery:
            started = trio.current_time()
            await raw.send(plain(alice.key, b"[", 1000))

            async def send_on(raw: Any = raw) -> None:
                while True:
                    await trio.sleep(patience / 3)
                    await raw.send(b" ")

            if dribble:
                nursery.start_soon(send_on)
            assert (await raw.response()).status == 408
            nursery.cancel_scope.cancel()
            assert trio.current_time() - started == pytest.approx(limit, abs=2)
            assert await raw.rest() == b""


async def test_a_connection_that_asks_nothing_more_is_closed(
    autojump_clock: Any, server: RunningServer, open_raw: Any, alice: Any
) -> None:
    """After the time that proxies expect; sooner where half a head has come."""
    autojump_clock.autojump_threshold = 0.02
    await alice.register("d1")
    shadow = f"GET {SHADOW} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {alice.key}\r\n\r\n".encode()
    for more, limit in ((b"", KEEP_ALIVE), (shadow[:40], HEAD_TIMEOUT)):
        async with open_raw(server, patience=100) as raw:
            await raw.send(shadow)
            assert (await raw.response()).status == 200
            started = trio.current_time()
            await raw.send(more) if more else None
            assert await raw.rest() == b""
            assert trio.current_time() - started == pytest.approx(limit, abs=2)


async def test_when_the_server_goes_down(open_raw: Any) -> None:
    """A call under way is answered, as the last of its connection; an idle connection is closed immediately."""
    async with (
        open_backend("memory://") as backend,
        open_node(Hub(backend, now=time.time, monotonic=time.monotonic, entropy=os.urandom)) as node,
    ):
        await node.hub.accounts.register("alice", "-")
        key = (await node.hub.accounts.create_key("alice")).secret
        token = (await node.hub.create_device("alice", "d1")).token
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        server = SimpleNamespace(host="127.0.0.1", port=listener.socket.getsockname()[1])
        stop = trio.Event()
        gateway = Gateway(Service(node))
        async with trio.open_nursery() as nursery, AsyncExitStack() as stack:

            async def serve(task_status: Any) -> None:
                await gateway.serve([listener], stop=stop, task_status=task_status)

            await nursery.start(serve)
            url = f"ws://127.0.0.1:{server.port}/api/v2/rpc"
            device = await stack.enter_async_context(connect_device(url, token))
            busy, idle = [await stack.enter_async_context(open_raw(server)) for _ in range(2)]
            await idle.send(plain(key, b"").replace(b"POST", b"GET").replace(b"rpc/Echo", b"shadow"))
            assert (await idle.response()).status == 200
            await busy.send(plain(key, b"[1]"))
            await device.expect("Echo")
            stop.set()
            assert await idle.rest() == b""
            answer = await busy.response()
            assert (answer.status, answer.headers["connection"]) == (503, "close")
            assert await busy.rest() == b""
