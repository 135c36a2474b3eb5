"""The gateway: which handshakes it takes, what it refuses and how cheaply, and what it hands on to the REST app."""

from __future__ import annotations

import base64
import logging
import os
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import hypercorn.trio
import pytest
import trio
import trio_websocket
import trustme
from hypercorn.config import Config
from rows import every_row
from websockets.frames import Opcode

from mdashcore import _json
from mdashcore.hub import Hub
from mdashcore.server.app import create_app
from mdashcore.server.asgi import LINGER_TIME
from mdashcore.server.config import ServerConfig
from mdashcore.server.gateway import HEAD_TIMEOUT, Gateway
from mdashcore.server.handshakes import MAX_ENTERING
from mdashcore.server.run import RunningServer, open_server
from mdashcore.server.service import Service
from mdashcore.storage import open_backend
from mdashcore.testing.device import FRAME_TIMEOUT, connect_device
from mdashcore.trio.agent import open_agent
from mdashcore.trio.node import NodeSettings, open_node
from mdashcore.trio.pacing import STORE_CALLERS
from mdashcore.trio.turns import _turns, waiting_tasks

SWITCHING = 101

FrameBytes = Callable[..., bytes]

CALL = b'{"id":77,"method":"Dash.Shadow.Get"}'


async def answered(receive: Callable[[], Awaitable[Any]]) -> None:
    """Wait for the answer to `CALL`; the server's own calls are passed over."""
    while (await receive()).get("id") != 77:
        pass


@pytest.fixture
async def token(alice: Any) -> str:
    """The token of a device that is registered and not connected."""
    return str(await alice.register("d1"))


# Handshakes


@every_row("path", ["/api/v2/rpc", "/api/v2/notify"])
@every_row(
    ("offers", "chosen"),
    [
        ([], None),
        (["json-rpc"], "json-rpc"),
        (["clubby.cesanta.com"], "clubby.cesanta.com"),
        (["dash.mongoose-os.com"], "dash.mongoose-os.com"),
        (["json-rpc, clubby.cesanta.com"], "json-rpc"),
        (["MQTT\t,x", "json-rpc"], "MQTT"),
        (["json-rpc", "mqtt"], "json-rpc"),
        ([""], None),
        ([" , ,json-rpc"], "json-rpc"),
        (["json rpc, {}, mqtt"], "mqtt"),
        (["json-rpc; v=2"], None),
        (["\u00fcber"], None),
        (["a" * 4000 + ",json-rpc"], "a" * 4000),
    ],
)
async def test_the_first_subprotocol_that_is_offered_is_chosen(
    server: RunningServer, open_raw: Any, alice: Any, token: str, path: str, offers: list[str], chosen: str | None
) -> None:
    """Browsers close a socket for which none was chosen of those that they offered. What is no name is passed over: a
    device that writes the header in its own way is let in all the same."""
    async with open_raw(server) as raw:
        fields = [f"Sec-WebSocket-Protocol: {offer}" for offer in offers]
        response = await raw.handshake(token if path.endswith("rpc") else alice.key, *fields, path=path)
    assert response.status == SWITCHING
    assert response.headers.get("sec-websocket-protocol") == chosen


@every_row("origin", [None, "https://mongoose-os.com", "https://api.cesanta.com/", "ws://127.0.0.1/api/v2/rpc", "null"])
@every_row("path", ["/api/v2/rpc", "/api/v2/notify"])
async def test_any_origin_is_taken(
    server: RunningServer, open_raw: Any, alice: Any, token: str, origin: str | None, path: str
) -> None:
    """What authenticates is a token, never a cookie: where a page came from does not matter."""
    fields = [] if origin is None else [f"Origin: {origin}"]
    async with open_raw(server) as raw:
        response = await raw.handshake(token if path.endswith("rpc") else alice.key, *fields, path=path)
    assert response.status == SWITCHING


@pytest.mark.parametrize("host", ["127.0.0.1", "mdash.example", "mdash.example:443"])
async def test_a_host_header_may_lack_the_port(server: RunningServer, open_raw: Any, token: str, host: str) -> None:
    """Old firmware sends a Host without its port; a proxy sends another one."""
    async with open_raw(server) as raw:
        assert (await raw.handshake(token, f"Host: {host}")).status == SWITCHING


@pytest.mark.parametrize(
    "offer", ["permessage-deflate", "permessage-deflate; client_max_window_bits, x-webkit-deflate"]
)
async def test_no_extension_is_accepted(server: RunningServer, open_raw: Any, token: str, offer: str) -> None:
    """Whatever a client offers, nothing will be compressed."""
    async with open_raw(server) as raw:
        response = await raw.handshake(token, f"Sec-WebSocket-Extensions: {offer}")
    assert response.status == SWITCHING
    assert "sec-websocket-extensions" not in response.headers


@pytest.mark.parametrize("query", ["access_token={key}", "start=0&access_token={key}"])
async def test_a_listener_may_give_its_key_in_the_query(
    server: RunningServer, open_raw: Any, alice: Any, query: str
) -> None:
    """Browsers cannot set headers on a WebSocket."""
    async with open_raw(server) as raw:
        path = f"/api/v2/notify?{query.format(key=alice.key)}"
        assert (await raw.handshake(None, path=path)).status == SWITCHING


@every_row(
    "fields",
    [
        [],
        ["Authorization: Bearer "],
        ["Authorization: Bearer mdd_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"],
        ["Authorization: Basic YWxpY2U6Y29ycmVjdCBob3JzZQ=="],
        ["Authorization: Bearer \u00ff\u00fe"],
        ["Authorization: Bearer one", "Authorization: Bearer two"],
    ],
)
@every_row("path", ["/api/v2/rpc", "/api/v2/notify"])
async def test_credentials_that_are_not_valid_are_refused_with_401(
    server: RunningServer, open_raw: Any, path: str, fields: list[str]
) -> None:
    """The handshake is answered with 401 and an error in JSON, and the connection is closed."""
    async with open_raw(server) as raw:
        response = await raw.handshake(None, *fields, path=path)
        assert response.status == 401
        assert _json.decode(response.body)["error"]["code"] == 401
        assert response.headers["www-authenticate"].startswith("Bearer")
        assert await raw.rest() == b""


async def test_a_revoked_token_is_refused(server: RunningServer, open_raw: Any, alice: Any, token: str) -> None:
    """A token that was renewed, or whose device was deleted, opens nothing."""
    renewed = (await alice.http.post("/devices/d1/token")).json()["token"]
    async with open_raw(server) as raw:
        assert (await raw.handshake(token)).status == 401
    await alice.http.delete("/devices/d1")
    async with open_raw(server) as raw:
        assert (await raw.handshake(renewed)).status == 401


async def test_a_key_is_no_device_token_and_a_device_token_is_no_key(
    server: RunningServer, open_raw: Any, alice: Any, token: str
) -> None:
    """The secrets of people and of devices do not open each other's sockets."""
    async with open_raw(server) as raw:
        assert (await raw.handshake(alice.key)).status == 401
    async with open_raw(server) as raw:
        assert (await raw.handshake(token, path="/api/v2/notify")).status == 401


async def test_a_refusal_is_cheap(server: RunningServer, open_raw: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A device without a valid token that dials in a busy loop costs well under 10 ms of work a try, and no log."""
    tries = 200
    caplog.set_level(logging.INFO)
    before = time.process_time()  # of client and server together
    for _ in range(tries):
        async with open_raw(server) as raw:
            assert (await raw.handshake("mdd_nobody")).status == 401
    assert (time.process_time() - before) / tries < 0.01
    assert not [record for record in caplog.records if record.name.startswith("mdashcore")]


async def test_a_refused_client_that_stays_is_closed(autojump_clock: Any, server: RunningServer, open_raw: Any) -> None:
    """A refusal holds a connection no longer than its answer needs."""
    autojump_clock.autojump_threshold = 0.02
    async with open_raw(server) as raw:
        assert (await raw.handshake("mdd_nobody")).status == 401
        started = trio.current_time()
        try:
            while trio.current_time() - started < HEAD_TIMEOUT:
                await trio.sleep(1)
                await raw.send(b"\x81\x80mask")
        except trio.BrokenResourceError:
            pass
        assert trio.current_time() - started <= LINGER_TIME + 2


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"GET /api/v2/rpc HTTP/1.1\r\n{auth}Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n", 400),
        (b"GET /api/v2/rpc HTTP/1.1\r\n{auth}{key}Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n", 426),
        (b"GET /api/v2/rpc HTTP/1.1\r\n{auth}{key}Upgrade: h2c\r\nConnection: Upgrade\r\n\r\n", 426),
        (
            b"GET /api/v2/rpc HTTP/1.1\r\n{auth}{key}Upgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 8\r\n\r\n",
            400,
        ),
    ],
    ids=["no key", "no Connection", "another protocol", "an old version"],
)
async def test_a_handshake_that_is_none_is_refused(
    server: RunningServer, open_raw: Any, token: str, request_head: bytes, status: int
) -> None:
    """What asks for a WebSocket in a wrong way is told so, and the connection is closed."""
    head = request_head.replace(b"{auth}", f"Host: x\r\nAuthorization: Bearer {token}\r\n".encode())
    head = head.replace(b"{key}", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n")
    async with open_raw(server) as raw:
        await raw.send(head)
        assert (await raw.response()).status == status
        assert await raw.rest() == b""


@pytest.mark.parametrize("query", ["start=x", "start=-1", "start=" + "9" * 19, "&".join(f"a{i}=1" for i in range(40))])
async def test_a_query_that_cannot_be_read_is_refused_with_400(
    server: RunningServer, open_raw: Any, alice: Any, query: str
) -> None:
    """A wrong offset, or far too many parameters, is the client's mistake and no crash."""
    async with open_raw(server) as raw:
        assert (await raw.handshake(alice.key, path=f"/api/v2/notify?{query}")).status == 400


async def test_far_too_many_parameters_hide_no_key(server: RunningServer, open_raw: Any, alice: Any) -> None:
    """A key behind forty other parameters is not looked for, on a socket or over REST."""
    query = "&".join(f"a{i}=1" for i in range(40)) + f"&access_token={alice.key}"
    async with open_raw(server) as raw:
        assert (await raw.handshake(None, path=f"/api/v2/notify?{query}")).status == 400
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"{server.url}/api/v2/devices?{query}")).status_code == 400


async def test_devices_do_not_wait_for_logins(
    server: RunningServer, open_raw: Any, alice: Any, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor subscribers with a key. Each such login waits outside of the places for handshakes that read the store."""
    passwords = server.service.passwords
    monkeypatch.setattr(passwords, "_refusal_delay", float("inf"))
    basic = base64.b64encode(b"stranger:" + b"x" * 2000).decode()  # no password, so it is refused after the delay
    async with AsyncExitStack() as stack:
        for _ in range(STORE_CALLERS):
            raw = await stack.enter_async_context(open_raw(server))
            await raw.send(raw.handshake_bytes("/api/v2/notify", None, f"Authorization: Basic {basic}"))
        with trio.fail_after(60):
            while passwords._delayed < STORE_CALLERS:  # noqa: ASYNC110 - of the server, which says nothing of it
                await trio.sleep(0.01)
        with trio.fail_after(20):
            for key, path in ((token, "/api/v2/rpc"), (alice.key, "/api/v2/notify")):
                async with open_raw(server) as raw:
                    assert (await raw.handshake(key, path=path)).status == SWITCHING


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
async def test_a_handshake_does_not_wait_behind_those_of_clients_that_have_gone(
    open_raw: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secure: bool
) -> None:
    """They leave the queue, whether they have closed or reset the connection, and the store is not read for them. A
    fleet whose time-out is shorter than the queue would otherwise never get in.
    """
    async with tls_server(tmp_path) if secure else plain_server() as (server, context), AsyncExitStack() as living:
        client_context = context() if context else None
        hub, changed, asked = server.service.hub, trio.Condition(), 0
        _, token = await register_alice(server)
        authenticate, answers = hub.registry.authenticate, trio.Event()

        async def slowly(token: str) -> Any:
            nonlocal asked
            async with changed:
                asked += 1
                changed.notify_all()
            await answers.wait()
            return await authenticate(token)

        async def dial(stack: AsyncExitStack) -> Any:
            raw = await stack.enter_async_context(open_raw(server, context=client_context))
            await raw.send(raw.handshake_bytes("/api/v2/rpc", token))
            return raw

        async def have_asked(number: int) -> None:
            with trio.fail_after(20):
                async with changed:
                    while asked < number:
                        await changed.wait()

        monkeypatch.setattr(hub.registry, "authenticate", slowly)
        async with AsyncExitStack() as gone:
            for number in range(STORE_CALLERS + 2 * MAX_ENTERING):
                raw = await dial(gone)
                if number % 2:
                    transport = raw.stream.transport_stream if secure else raw.stream
                    transport.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await have_asked(STORE_CALLERS)
        raw = await dial(living)
        await have_asked(STORE_CALLERS + 1)
        answers.set()
        assert (await raw.response()).status == SWITCHING
        assert asked == STORE_CALLERS + 1


# How bytes arrive


async def test_a_head_may_arrive_byte_by_byte(server: RunningServer, open_raw: Any, token: str) -> None:
    """TCP keeps no borders: a handshake and a REST request are understood one byte at a time."""
    async with open_raw(server) as raw:
        for byte in raw.handshake_bytes("/api/v2/rpc", token):
            await raw.send(bytes([byte]))
        assert (await raw.response()).status == SWITCHING
    for target, status in ((b"/healthz", 200), (b"/api/v2/rpc/", 426), (b"/api/v2/keys", 401)):
        async with open_raw(server) as raw:
            for byte in b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n":
                await raw.send(bytes([byte]))
            assert (await raw.response()).status == status


async def test_frames_may_come_with_the_head(
    server: RunningServer, open_raw: Any, frame_bytes: FrameBytes, token: str
) -> None:
    """A client that does not wait for the answer loses nothing: its call is answered."""
    async with open_raw(server) as raw:
        await raw.send(raw.handshake_bytes("/api/v2/rpc", token) + frame_bytes(Opcode.TEXT, CALL))
        assert (await raw.response()).status == SWITCHING
        await answered(raw.receive)


@pytest.mark.parametrize("node_settings", [NodeSettings(introduction_delay=60)])  # nothing else is sent
@pytest.mark.parametrize("path", ["/api/v2/rpc", "/api/v2/notify"])
async def test_a_ping_that_comes_with_the_head_is_answered(
    server: RunningServer, open_raw: Any, frame_bytes: FrameBytes, alice: Any, token: str, path: str
) -> None:
    """The pong is sent immediately, not beside the next message."""
    async with open_raw(server) as raw:
        secret = token if path.endswith("rpc") else alice.key
        await raw.send(raw.handshake_bytes(path, secret) + frame_bytes(Opcode.PING, b"early"))
        assert (await raw.response()).status == SWITCHING
        frame = await raw.frame()
        assert frame is not None
        assert (frame.opcode, bytes(frame.data)) == (Opcode.PONG, b"early")


@pytest.mark.parametrize("path", ["/api/v2/rpc", "/api/v2/notify"])
async def test_a_goodbye_that_comes_with_the_head_is_answered(
    server: RunningServer, open_raw: Any, frame_bytes: FrameBytes, alice: Any, token: str, path: str
) -> None:
    """A connection that is over as soon as it is open is closed in order."""
    async with open_raw(server) as raw:
        secret = token if path.endswith("rpc") else alice.key
        await raw.send(raw.handshake_bytes(path, secret) + frame_bytes(Opcode.CLOSE, b"\x03\xe8"))
        assert (await raw.response()).status == SWITCHING
        assert await raw.close_code() == 1000


@pytest.mark.parametrize("target", ["/api/v2/rpc", "/healthz"])
@pytest.mark.parametrize("line", ["X: " + "x" * 2**18, "\r\n".join(f"X-{i}: {'x' * 200}" for i in range(1000))])
async def test_a_head_that_is_too_large_is_refused(
    server: RunningServer, open_raw: Any, token: str, target: str, line: str
) -> None:
    """Of a head without an end little is kept; then it is refused, and the connection closed."""
    async with open_raw(server) as raw:
        try:
            await raw.send(raw.handshake_bytes(target, token)[:-2] + line.encode())
            assert (await raw.response()).status in (400, 431)
        except (trio.BrokenResourceError, EOFError):
            pass  # it was closed while it still came in
        await raw.rest()


@pytest.mark.parametrize(
    ("beginning", "patience"),
    [
        (b"", HEAD_TIMEOUT),
        (b"GET /api/v2/rpc HTTP/1.1\r\nUpgrade: web", HEAD_TIMEOUT),
        (b"POST /api/v2/devices HTTP/1.1\r\n", HEAD_TIMEOUT),
    ],
    ids=["nothing", "half a handshake", "half a request"],
)
async def test_a_slow_head_times_out(
    autojump_clock: Any, server: RunningServer, open_raw: Any, beginning: bytes, patience: float
) -> None:
    """A client that connects and sends no request is sent away."""
    autojump_clock.autojump_threshold = 0.02  # what is sent to a socket is there within that
    async with open_raw(server, patience=100) as raw:
        started = trio.current_time()
        await raw.send(beginning)
        await raw.rest()
        assert trio.current_time() - started == pytest.approx(patience, abs=2)


async def test_a_slow_head_does_not_pay_for_a_busy_server(
    autojump_clock: Any, server: RunningServer, open_raw: Any
) -> None:
    """Between two pieces of a head, the seconds do not count in which the server does other work."""
    autojump_clock.autojump_threshold = 0.02
    async with open_raw(server, patience=100) as raw:
        async with _turns()._next:
            await raw.send(b"GET /healthz HTTP/1.1\r\n")
            await trio.sleep(6 * HEAD_TIMEOUT)
            assert waiting_tasks()
        await raw.send(b"Host: x\r\n\r\n")
        assert (await raw.response()).status == 200


# What is no socket


@every_row("path", ["/api/v2/rpc", "/api/v2/notify"])
@every_row("method", ["GET", "HEAD"])
@every_row("secret", ["token", "key", "password", "unknown", None])
async def test_a_plain_get_of_a_socket_path_is_told_to_upgrade(
    server: RunningServer, alice: Any, token: str, path: str, method: str, secret: str | None
) -> None:
    """426, with the protocol that is expected and words that name the proxy; never 401, after which a device would take
    its good token for a bad one."""
    values = {"token": f"Bearer {token}", "key": f"Bearer {alice.key}", "password": "Basic YTpi", "unknown": "Bearer x"}
    fields = {} if secret is None else {"Authorization": values[secret]}
    async with httpx.AsyncClient() as client:
        response = await client.request(method, f"{server.url}{path}", headers=fields)
    assert response.status_code == 426
    assert response.headers["Upgrade"] == "websocket"
    if method == "GET":
        assert "a proxy on the way" in response.json()["error"]["message"]


@pytest.mark.parametrize("dropped", ["Upgrade", "Connection"])
async def test_a_handshake_of_which_a_proxy_drops_a_header(
    server: RunningServer, open_raw: Any, token: str, dropped: str
) -> None:
    """Proxies do so unless they are told otherwise: 426 with the same words, whichever of the two it was."""
    lines = ["GET /api/v2/rpc HTTP/1.1", "Host: x", f"Authorization: Bearer {token}", "Sec-WebSocket-Version: 13"]
    lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    lines += ["Upgrade: websocket"] if dropped == "Connection" else ["Connection: upgrade"]
    async with open_raw(server) as raw:
        await raw.send("\r\n".join([*lines, "", ""]).encode())
        response = await raw.response()
    assert response.status == 426
    assert "a proxy on the way" in _json.decode(response.body)["error"]["message"]


async def test_an_agent_behind_such_a_proxy_comes_back(autojump_clock: Any) -> None:
    """A device that is answered 426 dials on, however often, and is there as soon as the proxy is mended."""
    autojump_clock.autojump_threshold = 0.05
    answers = 0

    async def refuse(stream: Any) -> None:
        nonlocal answers
        answers += 1
        async with stream:
            await stream.receive_some(2**14)
            await stream.send_all(b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n")
            if answers == 5:
                enough.set()

    enough = trio.Event()
    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, refuse, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        async with open_agent(f"ws://127.0.0.1:{port}/api/v2/rpc", "mdd_x", _never_asked):
            await enough.wait()
        nursery.cancel_scope.cancel()


async def _never_asked(method: str, params: Any) -> None:
    raise AssertionError(method)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("path", ["/api/v2/rpc", "/api/v2/notify"])
async def test_a_page_then_requests_then_a_socket(
    open_raw: Any, frame_bytes: FrameBytes, tmp_path: Path, secure: bool, path: str
) -> None:
    """A proxy reuses its connections: one that has carried requests, in either lane, still becomes a WebSocket, and a
    frame that comes with the handshake is not lost."""
    async with AsyncExitStack() as stack:
        if secure:
            server, client_context = await stack.enter_async_context(tls_server(tmp_path))
            raw = await stack.enter_async_context(open_raw(server, context=client_context()))
        else:
            config = ServerConfig(bind="127.0.0.1:0", store="memory://")
            server = await stack.enter_async_context(open_server(config))
            raw = await stack.enter_async_context(open_raw(server))
        key, token = await register_alice(server)
        bearer = f"Host: x\r\nAuthorization: Bearer {key}\r\n\r\n"
        for target in ("/ui/index.html", "/api/v2/devices", "/api/v2/devices/d1/shadow", "/api/v2/devices", "/healthz"):
            await raw.send(f"GET {target} HTTP/1.1\r\n{bearer}".encode())
            assert (await raw.response()).status == 200
        handshake = raw.handshake_bytes(path, token if path.endswith("rpc") else key)
        await raw.send(handshake + frame_bytes(Opcode.PING, b"early"))
        assert (await raw.response()).status == SWITCHING
        while (frame := await raw.frame()) is not None and frame.opcode is not Opcode.PONG:
            pass
        assert frame is not None


async def test_a_handshake_behind_requests_in_one_packet_is_served(
    server: RunningServer, open_raw: Any, alice: Any, token: str
) -> None:
    """Pipelined: the answers come in order, the last of them is 101."""
    request = f"GET /api/v2/devices/d1{{}} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {alice.key}\r\n\r\n"
    for suffixes in (["/shadow"], [""], ["/shadow", "", "/shadow"]):
        async with open_raw(server) as raw:
            requests = "".join(map(request.format, suffixes)).encode()
            await raw.send(requests + raw.handshake_bytes("/api/v2/notify", alice.key))
            assert [(await raw.response()).status for _ in suffixes] == [200] * len(suffixes)
            assert (await raw.response()).status == SWITCHING


@pytest.mark.parametrize("path", ["/api/v2/devices", "/nowhere"])
async def test_an_upgrade_elsewhere_late_in_a_connection_is_refused_and_not_hung(
    server: RunningServer, open_raw: Any, alice: Any, path: str
) -> None:
    """There are two WebSockets, and no third: 426, and the connection is closed."""
    async with open_raw(server) as raw:
        await raw.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await raw.response()).status == 200
        response = await raw.handshake(alice.key, path=path)
        assert response.status == 426
        assert response.headers["upgrade"] == "websocket"
        assert _json.decode(response.body)["error"]["code"] == 426
        assert await raw.rest() == b""


@pytest.mark.parametrize(
    "fields", [["Content-Length: 5"], [f"X-{i}: 1" for i in range(130)]], ids=["a body", "headers"]
)
async def test_a_handshake_that_only_the_rest_server_would_take_is_refused(
    server: RunningServer, open_raw: Any, token: str, fields: list[str]
) -> None:
    """Two parsers that differ in a detail open no way around the bounds of the sockets."""
    async with open_raw(server) as raw:
        assert (await raw.handshake(token, *fields)).status in (400, 426, 431)
        assert await raw.rest() == b""


async def test_an_upgrade_of_another_path_is_refused(server: RunningServer, open_raw: Any, alice: Any) -> None:
    """There are two WebSockets, and no third."""
    async with open_raw(server) as raw:
        assert (await raw.handshake(alice.key, path="/api/v2/devices")).status == 426
        assert await raw.rest() == b""


async def test_a_connection_serves_one_request_after_the_other(server: RunningServer, open_raw: Any) -> None:
    """HTTP/1.1 connections are kept alive."""
    async with open_raw(server) as raw:
        for _ in range(3):
            await raw.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await raw.response()).status == 200


async def test_pipelined_requests_are_answered_in_order(server: RunningServer, open_raw: Any, alice: Any) -> None:
    """What was read with the first head is handed on with it, byte for byte."""
    for id in ("a", "b", "c"):
        await alice.register(id)
    async with open_raw(server) as raw:
        fields = f"Host: x\r\nAuthorization: Bearer {alice.key}\r\n"
        await raw.send("".join(f"GET /api/v2/devices/{id} HTTP/1.1\r\n{fields}\r\n" for id in "abc").encode())
        assert [_json.decode((await raw.response()).body)["id"] for _ in "abc"] == ["a", "b", "c"]


async def test_a_body_that_comes_with_the_head_is_handed_on(server: RunningServer, open_raw: Any, alice: Any) -> None:
    """A whole request in one packet, and a second one behind it."""
    async with open_raw(server) as raw:
        for id in ("a", "b"):
            body = b'{"id":"%b"}' % id.encode()
            await raw.send(
                f"POST /api/v2/devices HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {alice.key}\r\n"
                f"Content-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            assert (await raw.response()).status == 201


async def test_http_1_0_is_served(server: RunningServer, open_raw: Any) -> None:
    """Old tools get an answer, and the end of the connection."""
    async with open_raw(server) as raw:
        await raw.send(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert (await raw.response()).status == 200
        assert await raw.rest() == b""


# TLS, versions, IPv6


@asynccontextmanager
async def tls_server(folder: Path) -> AsyncIterator[tuple[RunningServer, Callable[[], ssl.SSLContext]]]:
    """A server with a certificate, and what makes a client's context that trusts it."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(folder / "cert.pem")

    def client_context() -> ssl.SSLContext:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        return context

    async with open_server(ServerConfig(bind="127.0.0.1:0", store="memory://", certfile=folder / "cert.pem")) as server:
        yield server, client_context


@asynccontextmanager
async def plain_server() -> AsyncIterator[tuple[RunningServer, None]]:
    """A server without a certificate, in the form of `tls_server`."""
    async with open_server(ServerConfig(bind="127.0.0.1:0", store="memory://")) as server:
        yield server, None


async def register_alice(server: RunningServer) -> tuple[str, str]:
    """An account with a device "d1": its API key and the device's token."""
    hub = server.service.hub
    await hub.accounts.register("alice", "no password")
    return (await hub.accounts.create_key("alice")).secret, (await hub.create_device("alice", "d1")).token


async def test_http_2_is_not_offered(tmp_path: Path) -> None:
    """A client that offers both gets HTTP/1.1, over which all works."""
    async with tls_server(tmp_path) as (server, client_context):
        context = client_context()
        context.set_alpn_protocols(["h2", "http/1.1"])
        stream = await trio.open_ssl_over_tcp_stream("127.0.0.1", server.port, ssl_context=context)
        await stream.do_handshake()
        assert stream.selected_alpn_protocol() == "http/1.1"
        await trio.aclose_forcefully(stream)


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HTTP_2_SETTINGS = bytes.fromhex("000000040000000000")


@pytest.mark.parametrize("first", [b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"], ids=["first", "later"])
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
async def test_http_2_with_prior_knowledge_is_answered_with_505(
    open_raw: Any, tmp_path: Path, secure: bool, first: bytes
) -> None:
    """On any request of a connection, which then ends; over TLS also where the client has offered nothing else."""
    async with tls_server(tmp_path) as (server, client_context):
        context = client_context()
        context.set_alpn_protocols(["h2"])
        if not secure:
            config = ServerConfig(bind="127.0.0.1:0", store="memory://")
            async with open_server(config) as plain, open_raw(plain) as raw:
                await ask_in_http_2(raw, first)
        else:
            async with open_raw(server, context=context) as raw:
                await ask_in_http_2(raw, first)


async def ask_in_http_2(raw: Any, first: bytes) -> None:
    """Send `first`, and go on in HTTP/2."""
    if first:
        await raw.send(first)
        assert (await raw.response()).status == 200
    await raw.send(PREFACE + HTTP_2_SETTINGS)
    answer = await raw.response()
    assert (answer.status, answer.headers["connection"]) == (505, "close")
    assert _json.decode(answer.body)["error"]["code"] == 505
    assert await raw.rest() == b""


@pytest.mark.parametrize("version", ["2.0", "3.0", "0.9"])
async def test_other_major_versions_are_answered_with_505(server: RunningServer, open_raw: Any, version: str) -> None:
    """RFC 9110, section 15.6.6; a higher minor version is served as 1.1."""
    async with open_raw(server) as raw:
        await raw.send(f"GET /healthz HTTP/{version}\r\nHost: x\r\n\r\n".encode())
        assert (await raw.response()).status == 505
        assert await raw.rest() == b""


@pytest.mark.parametrize("target", ["/healthz", "/api/v2/devices/d1/shadow", "/api/v2/devices", "/ui/index.html"])
async def test_an_upgrade_to_http_2_is_ignored(
    server: RunningServer, open_raw: Any, alice: Any, token: str, target: str
) -> None:
    """RFC 9110, section 7.8: the answer is in HTTP/1.1, and so is the next."""
    upgrade = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    async with open_raw(server) as raw:
        for _ in range(2):
            fields = f"Host: x\r\nAuthorization: Bearer {alice.key}\r\n{upgrade}\r\n"
            await raw.send(f"GET {target} HTTP/1.1\r\n{fields}".encode())
            assert (await raw.response()).status == 200


async def test_http_1_1_works_over_tls(tmp_path: Path) -> None:
    """For clients that offer nothing at all."""
    async with tls_server(tmp_path) as (server, client_context):
        async with httpx.AsyncClient(verify=client_context(), base_url=server.url) as client:
            response = await client.get("/healthz")
            assert (response.http_version, response.status_code) == ("HTTP/1.1", 200)


@asynccontextmanager
async def secure_websocket(url: str, context: ssl.SSLContext, token: str) -> AsyncIterator[Any]:
    """A client's WebSocket over TLS."""
    bearer = [(b"Authorization", f"Bearer {token}".encode())]
    async with trio_websocket.open_websocket_url(url, ssl_context=context, extra_headers=bearer) as ws:
        yield ws
    await trio.aclose_forcefully(ws._stream)  # left open by the library where the server said goodbye first


async def test_sockets_work_over_tls(tmp_path: Path) -> None:
    """A device and a listener, with calls, notifications, and goodbyes from either side."""
    async with tls_server(tmp_path) as (server, client_context):
        key, token = await register_alice(server)
        accounts = server.service.hub.accounts
        notify_url = f"wss://127.0.0.1:{server.port}/api/v2/notify"
        with trio.fail_after(2 * FRAME_TIMEOUT):
            async with secure_websocket(notify_url, client_context(), key) as listener:
                async with secure_websocket(server.device_url, client_context(), token) as device:
                    await device.send_message(CALL.decode())
                    assert _json.decode(await device.get_message())["id"] == 77
                    assert _json.decode(await listener.get_message())["name"] == "online"
                assert _json.decode(await listener.get_message())["name"] == "offline"
                await accounts.remove_key("alice", (await accounts.keys("alice"))[0].id)
                with pytest.raises(trio_websocket.ConnectionClosed) as closed:
                    await listener.get_message()
                assert closed.value.reason.code == 1008


async def test_plain_http_on_a_tls_port_harms_no_other_client(
    tmp_path: Path, open_raw: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection is dropped, without a word in the log that anyone could flood."""
    async with tls_server(tmp_path) as (server, client_context):
        async with open_raw(server) as raw:
            await raw.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert not (await raw.rest()).startswith(b"HTTP")
        async with httpx.AsyncClient(verify=client_context()) as client:
            assert (await client.get(f"{server.url}/healthz")).status_code == 200
    assert not [record for record in caplog.records if record.name.startswith("mdashcore")]


async def test_a_tls_handshake_that_stops_times_out(autojump_clock: Any, tmp_path: Path, open_raw: Any) -> None:
    """Half a ClientHello holds a connection no longer than half a head."""
    autojump_clock.autojump_threshold = 0.02
    async with tls_server(tmp_path) as (server, _):
        async with open_raw(server, patience=100) as raw:
            started = trio.current_time()
            await raw.send(bytes.fromhex("16030100c8"))
            await raw.rest()
            assert trio.current_time() - started == pytest.approx(HEAD_TIMEOUT, abs=2)


async def test_a_tls_handshake_does_not_pay_for_a_busy_server(autojump_clock: Any, tmp_path: Path) -> None:
    """It goes on after its turn has come very late."""
    autojump_clock.autojump_threshold = 0.02
    async with tls_server(tmp_path) as (server, client_context):
        plain = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with trio.SSLStream(plain, client_context(), server_hostname="127.0.0.1") as stream:
            async with trio.open_nursery() as nursery, _turns()._next:
                nursery.start_soon(stream.do_handshake)
                await trio.sleep(6 * HEAD_TIMEOUT)
                assert waiting_tasks()
            await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")


async def test_ipv6_is_served() -> None:
    """A host in brackets; sockets and REST."""
    try:
        server_context = open_server(ServerConfig(bind="[::1]:0", store="memory://"))
        server = await server_context.__aenter__()
    except OSError as exc:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"THIS MACHINE HAS NO IPv6: {exc}")
    try:
        _, token = await register_alice(server)
        assert server.url.startswith("http://[::1]:")
        async with connect_device(server.device_url, token) as device, httpx.AsyncClient() as client:
            await device.send(CALL.decode())
            await answered(device.receive)
            assert (await client.get(f"{server.url}/healthz")).status_code == 200
    finally:
        await server_context.__aexit__(None, None, None)


# Embedding


@asynccontextmanager
async def bare_service() -> AsyncIterator[Service]:
    """A service without a gateway yet."""
    async with open_backend("memory://") as backend:
        async with open_node(Hub(backend, now=time.time, monotonic=time.monotonic, entropy=os.urandom)) as node:
            yield Service(node)


@asynccontextmanager
async def serving(gateway: Gateway) -> AsyncIterator[int]:
    """A gateway at work; its port."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    stop = trio.Event()
    async with trio.open_nursery() as nursery:

        async def serve(task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
            await gateway.serve(listeners, stop=stop, task_status=task_status)

        await nursery.start(serve)
        yield listeners[0].socket.getsockname()[1]
        stop.set()


async def test_an_embedder_may_mount_only_the_sockets() -> None:
    """A gateway without an app serves devices and subscribers; whatever else is asked is not found."""
    async with bare_service() as service, serving(Gateway(service)) as port:
        await service.hub.accounts.register("alice", "no password")
        token = (await service.hub.create_device("alice", "d1")).token
        async with connect_device(f"ws://127.0.0.1:{port}/api/v2/rpc", token) as device:
            await device.send(CALL.decode())
            await answered(device.receive)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            for response in (
                await client.get("/api/v2/devices"),
                await client.post("/api/v2/devices", content=b"x" * 2_000_000),
                await client.get("/api/v2/rpc"),
            ):
                assert response.status_code == 404
                assert response.json()["error"]["code"] == 404


async def test_an_embedder_may_mount_only_the_app(open_raw: Any) -> None:
    """The REST API runs under Hypercorn itself, which has no sockets then."""
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.accesslog = config.errorlog = None
    stop = trio.Event()
    async with bare_service() as service, trio.open_nursery() as nursery:
        await service.hub.accounts.register("alice", "no password")
        key = (await service.hub.accounts.create_key("alice")).secret

        async def serve(task_status: Any) -> None:
            app: Any = create_app(service)
            await hypercorn.trio.serve(app, config, shutdown_trigger=stop.wait, task_status=task_status)

        binds = await nursery.start(serve)
        port = int(binds[0].rpartition(":")[2])
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {key}"}
        ) as client:
            assert (await client.post("/api/v2/devices", json={"id": "d1"})).status_code == 201
            assert [device["id"] for device in (await client.get("/api/v2/devices")).json()] == ["d1"]
        server = RunningServer(service, "127.0.0.1", port)
        async with open_raw(server) as raw:
            assert (await raw.handshake(key, path="/api/v2/notify")).status == 426
        stop.set()
