"""What Hypercorn and Quart do by themselves, and this server must not: one test for each trap."""

from __future__ import annotations

import base64
import os
import resource
import time
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from rows import every_row
from websockets.frames import Opcode

from mdash_backends.memory import MemoryBlobs, MemoryBus, MemoryDocuments, MemoryLogs
from mdashcore import _json
from mdashcore._errors import StorageError
from mdashcore.hub import Hub
from mdashcore.identity import DeviceKey
from mdashcore.server.app import create_app, create_quart_app
from mdashcore.server.config import ServerConfig
from mdashcore.server.gateway import Gateway
from mdashcore.server.run import RunningServer, open_server
from mdashcore.server.service import Service
from mdashcore.storage import Backend
from mdashcore.testing.device import FRAME_TIMEOUT
from mdashcore.trio.node import NodeSettings, open_node

FrameBytes = Callable[..., bytes]

MEGABYTE = 2**20

IN_FLIGHT = 24 * MEGABYTE  # what the kernel's buffers of a connection may hold, both ends together, and some more

BLOCKED = 0.5  # seconds without progress after which a sender counts as held back


class Documents(MemoryDocuments):
    """Documents that are slow, or broken, for one device."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = self.broken = "\0"
        self.released = trio.Event()

    async def put(self, collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
        if collection == "shadows" and key.endswith(self.broken):
            raise RuntimeError("a bug in a backend")
        if collection == "shadows" and key.endswith(self.slow):
            await self.released.wait()
        return await super().put(collection, key, body, expected=expected)


class Blobs(MemoryBlobs):
    """Blobs that are slow to be stored."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = False
        self.began = trio.Event()
        self.released = trio.Event()

    async def put(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        async def slowly() -> AsyncIterator[bytes]:
            async for chunk in chunks:
                self.began.set()
                if self.slow:
                    await self.released.wait()
                yield chunk

        return await super().put(key, slowly())


@pytest.fixture
def backend() -> Backend:
    """What `server` stores in."""
    return Backend(Documents(), MemoryLogs(), Blobs(), MemoryBus())


async def serve(service: Service, stop: trio.Event, task_status: trio.TaskStatus[RunningServer]) -> None:
    """Run a gateway until `stop` is set."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    gateway = Gateway(service, create_app(service))
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(gateway.serve, listeners, stop=stop))
        task_status.started(RunningServer(service, "127.0.0.1", listeners[0].socket.getsockname()[1]))


@pytest.fixture
async def server(backend: Backend, node_settings: NodeSettings) -> AsyncIterator[RunningServer]:
    """A server on `backend`."""
    hub = Hub(backend, now=time.time, monotonic=time.monotonic, entropy=os.urandom)
    async with open_node(hub, settings=node_settings) as node, trio.open_nursery() as nursery:
        stop = trio.Event()
        yield await nursery.start(serve, Service(node), stop)
        stop.set()


def memory() -> int:
    """Bytes that this process holds in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def push(raw: Any, data: bytes, limit: int) -> int:
    """Send data again and again, until the other side holds back; the bytes that went out."""
    sent = 0
    while sent < limit:
        with trio.move_on_after(BLOCKED) as timer:
            await raw.send(data)
        if timer.cancelled_caught:
            break
        sent += len(data)
    return sent


def request(method: str, path: str, key: str, body: bytes = b"", *fields: str) -> bytes:
    """An HTTP request's bytes."""
    lines = [f"{method} /api/v2{path} HTTP/1.1", "Host: x", f"Authorization: Bearer {key}", *fields]
    if not any("Transfer-Encoding" in field or "Content-Length" in field for field in fields):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


# WebSockets, which Hypercorn is not trusted with


@pytest.mark.parametrize("node_settings", [NodeSettings(ping_interval=0.15)])
@pytest.mark.parametrize("path", ["/api/v2/rpc", "/api/v2/notify"])
async def test_a_half_open_link_is_found(
    server: RunningServer, open_raw: Any, alice: Any, node_settings: NodeSettings, path: str
) -> None:
    """Trap: Hypercorn pings and never looks for the pong. Here a silent device is cut off, and shown offline."""
    token = await alice.register("d1")
    async with open_raw(server) as raw:
        await raw.handshake(token if path.endswith("rpc") else alice.key, path=path)
        started = trio.current_time()
        while (frame := await raw.frame()) is not None:  # reads what comes, and answers nothing
            assert frame.opcode in (Opcode.PING, Opcode.TEXT)
        assert trio.current_time() - started > 2 * node_settings.ping_interval
    if path.endswith("rpc"):
        assert (await alice.told("offline"))["id"] == "d1"


@pytest.mark.parametrize("node_settings", [NodeSettings(ping_interval=0.15)])
async def test_a_link_that_answers_pings_stays(
    server: RunningServer, open_raw: Any, alice: Any, frame_bytes: FrameBytes, node_settings: NodeSettings
) -> None:
    """The other side of the same trap: silence between pongs is no reason to be cut off."""
    token = await alice.register("d1")
    async with open_raw(server) as raw:
        await raw.handshake(token)
        pings = 0
        while pings < 6:
            frame = await raw.frame()
            assert frame is not None
            if frame.opcode is Opcode.PING:
                pings += 1
                await raw.send(frame_bytes(Opcode.PONG, bytes(frame.data)))
        assert DeviceKey("alice", "d1") in server.service.node.devices


async def test_a_compressed_frame_cannot_be_sent(
    server: RunningServer, open_raw: Any, alice: Any, frame_bytes: FrameBytes
) -> None:
    """Trap: Hypercorn always compresses, and 400 KB become 544 MB. Here nothing is ever inflated."""
    token = await alice.register("d1")
    compressor = zlib.compressobj(wbits=-15)
    bomb = compressor.compress(bytes(100 * MEGABYTE)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    before = memory()
    async with open_raw(server) as raw:
        response = await raw.handshake(token, "Sec-WebSocket-Extensions: permessage-deflate")
        assert "sec-websocket-extensions" not in response.headers
        frame = bytearray(frame_bytes(Opcode.TEXT, bomb))
        frame[0] |= 0x40  # RSV1: compressed
        await raw.send(bytes(frame))
        assert await raw.close_code() == 1002
    assert memory() - before < 20 * MEGABYTE


async def test_a_reader_that_is_flooded_holds_the_sender_back(
    server: RunningServer, backend: Any, open_raw: Any, alice: Any, frame_bytes: FrameBytes
) -> None:
    """Trap: the newest quart-trio buffers without a bound, 1 GB in 6 s. Here the next frame waits in the network."""
    backend.documents.slow = "d1"
    token = await alice.register("d1")
    before = memory()
    async with open_raw(server) as raw:
        await raw.handshake(token)
        report = _json.encode({"method": "Dash.Shadow.Update", "params": {"state": {"reported": {"x": "y" * 2000}}}})
        flood = frame_bytes(Opcode.TEXT, report) * 100
        assert await push(raw, flood, 100 * MEGABYTE) < IN_FLIGHT
        assert memory() - before < IN_FLIGHT
        async with await alice.connect("d2") as other, alice.calling("POST", "/devices/d2/rpc/Sys.Ping") as response:
            await other.reply(await other.expect("Sys.Ping"), "pong")
            assert (await response()).json() == "pong"
    backend.documents.released.set()


# Requests and their bodies


@pytest.mark.parametrize(
    ("method", "path", "size", "status"),
    [
        ("POST", "/nowhere", 1000, 404),
        ("POST", "/devices/nobody/rpc", 1000, 404),
        ("POST", "/keys", 8 * MEGABYTE, 413),
        ("POST", "/devices/nobody/ota", 8 * MEGABYTE, 404),
        ("POST", "/devices/nobody/ota", 2**40, 404),
    ],
)
async def test_an_early_answer_does_not_hang_the_connection(
    server: RunningServer, open_raw: Any, alice: Any, method: str, path: str, size: int, status: int
) -> None:
    """Trap: an early 404 or 413 with the body unread hangs the next request. Here it is answered, or the connection
    ends after the answer; and a client that writes all of its body first still gets to read that answer."""
    async with open_raw(server) as raw:
        await raw.send(request(method, path, alice.key, b"", f"Content-Length: {size}"))
        try:
            for offset in range(0, size, 2**16):
                await raw.send(b"x" * min(2**16, size - offset))
        except trio.BrokenResourceError:
            assert size == 2**40  # the client does not wait for ever
        response = await raw.response()
        assert response.status == status
        if response.headers.get("connection") == "close":
            assert await raw.rest() == b""
        else:
            await raw.send(request("GET", "/devices", alice.key))
            assert (await raw.response()).status == 200


async def test_a_slow_refusal_of_an_upload_leaves_nothing_behind(
    server: RunningServer, open_raw: Any, alice: Any
) -> None:
    """Trap: Hypercorn cannot end a request whose queue is full, and keeps the connection for ever. Here an answer
    that took its time, while the body went on coming, ends it all the same."""
    wrong = "Authorization: Basic YWxpY2U6d3Jvbmc="
    async with open_raw(server) as raw:
        head = request("POST", "/devices/d1/ota", "", b"", f"Content-Length: {4 * MEGABYTE}")
        await raw.send(head.replace(b"Authorization: Bearer ", wrong.encode()))
        await raw.send(bytes(4 * MEGABYTE))
        assert (await raw.response()).status == 401
        assert await raw.rest() == b""


async def test_an_answer_that_ends_the_connection_does_so(server: RunningServer, open_raw: Any, alice: Any) -> None:
    """Trap: Hypercorn tells Quart that the request is over, Quart cancels what it does, and that is Hypercorn, closing
    the connection: a client that waits for its end would wait for ever."""
    for head in (
        request("GET", "/devices", alice.key, b"", "Connection: close"),
        request("GET", "/devices", alice.key).replace(b"HTTP/1.1", b"HTTP/1.0"),
        request("GET", "/notify", alice.key),
    ):
        async with open_raw(server) as raw:
            await raw.send(head)
            assert (await raw.response()).headers["connection"] == "close"
            assert await raw.rest() == b""


async def test_a_client_that_stops_reading_does_not_stop_the_server_from_going_down(
    autojump_clock: Any, backend: Backend, open_raw: Any
) -> None:
    """Trap: a client that stops reading blocks SIGTERM for ever, because Hypercorn shields its writing."""
    autojump_clock.autojump_threshold = 0.05
    hub = Hub(backend, now=time.time, monotonic=time.monotonic, entropy=os.urandom)
    await hub.accounts.register("alice", "no password")
    key = (await hub.accounts.create_key("alice")).secret
    for _ in range(500):
        await hub.feed.emit("alice", "rpc.out.Log", "d1", _json.encode("x" * 4000))
    async with open_node(hub) as node, AsyncExitStack() as clients:
        async with trio.open_nursery() as nursery:
            stop = trio.Event()
            server = await nursery.start(serve, Service(node), stop)
            raw = await clients.enter_async_context(open_raw(server))
            await raw.send(request("POST", "/logs", key, b'{"limit":500}') * 20)  # 40 MB of answers
            listener = await clients.enter_async_context(open_raw(server))
            await listener.handshake(key, path="/api/v2/notify?start=0")
            await trio.testing.wait_all_tasks_blocked(0.1)  # nothing moves any more
            started = trio.current_time()
            stop.set()
        assert trio.current_time() - started < 5


def child_processes() -> set[str]:
    """Of every thread of this process."""
    tasks = Path("/proc/self/task").iterdir()
    return {child for task in tasks for child in (task / "children").read_text().split()}


async def test_everything_runs_in_one_process() -> None:
    """Trap: kill -9 of one of Hypercorn's workers takes them all down. Here there are none to kill."""
    before = child_processes()
    async with (
        open_server(ServerConfig(bind="127.0.0.1:0", store="memory://")) as server,
        httpx.AsyncClient() as client,
    ):
        assert (await client.get(f"{server.url}/healthz")).status_code == 200
        assert child_processes() == before


async def test_a_slash_in_an_id_is_forbidden(server: RunningServer, open_raw: Any, alice: Any) -> None:
    """Trap: %2F is decoded before routing, so "a/b" could be reached as two ids. Here no id has a slash."""
    assert (await alice.http.post("/devices", json={"id": "a/b"})).status_code == 400
    await alice.register("a")
    async with open_raw(server) as raw:
        for path in ("/devices/a%2Fb", "/devices/a%2Fshadow%2F..", "/devices/a%2f%2e%2e%2fa/shadow"):
            await raw.send(request("GET", path, alice.key))
            assert (await raw.response()).status == 404
        await raw.send(request("POST", "/devices/a%2Fb/ota", alice.key, b"image"))
        assert (await raw.response()).status in (404, 405)


@every_row(
    "body",
    [
        b"\xff\xfe",
        b'{"id":"\xc3\x28"}',
        b"[" * 4000,  # a key's body has 4 KiB at most
        b'{"a":' * 600 + b"1" + b"}" * 600,
        b'{"x":NaN}',
        b"Infinity",
    ],
)
@every_row("path", ["/devices", "/devices/d1/shadow", "/devices/d1/rpc/Sys.Ping", "/logs", "/keys"])
async def test_a_body_that_is_no_json_is_the_clients_mistake(alice: Any, path: str, body: bytes) -> None:
    """Trap: Quart's get_json answers 500 for bad UTF-8 and deep nesting, and accepts NaN. Here all of it is 400."""
    await alice.http.post("/devices", json={"id": "d1"})  # there from the second row on
    response = await alice.http.post(path, content=body)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == 400


async def test_the_order_of_keys_is_kept(alice: Any) -> None:
    """Trap: jsonify sorts keys. Here a document comes back in the order in which it was written."""
    text = b'{"zeta":1,"alpha":{"y":1,"x":2},"mid":[{"b":1,"a":2}]}'
    async with await alice.connect("d1") as device:
        async with alice.calling("POST", "/devices/d1/rpc/Echo", content=text) as response:
            frame = await device.expect("Echo")
            await device.send(f'{{"id":{frame["id"]},"result":{text.decode()}}}')
            assert (await response()).content == text
        await alice.http.post("/devices/d1/shadow", content=b'{"state":{"desired":%b}}' % text)
        shadow = (await alice.http.get("/devices/d1/shadow")).content
        assert b'"desired":' + text in shadow


async def test_a_slow_handler_buffers_no_body(server: RunningServer, open_raw: Any, alice: Any) -> None:
    """Trap: Quart holds 100 MB of a body in memory while a handler is busy. Here a connection is read no further."""
    async with await alice.connect("d1") as device, open_raw(server) as raw:
        before = memory()
        await raw.send(request("POST", "/devices/d1/rpc/Slow", alice.key, b"{}"))
        call = await device.expect("Slow")
        next_request = request("POST", "/devices/d1/rpc/Slow", alice.key, b"", f"Content-Length: {200 * MEGABYTE}")
        await raw.send(next_request)
        assert await push(raw, bytes(MEGABYTE), 100 * MEGABYTE) < IN_FLIGHT
        assert memory() - before < IN_FLIGHT
        await device.reply(call, 1)
        assert (await raw.response()).body == b"1"


async def test_an_upload_is_read_no_faster_than_it_is_stored(
    server: RunningServer, backend: Any, open_raw: Any, alice: Any
) -> None:
    """The same trap, for the largest bodies: the memory of an upload does not grow with the image."""
    backend.blobs.slow = True
    async with await alice.connect("d1"), open_raw(server) as raw:
        before = memory()
        await raw.send(request("POST", "/devices/d1/ota", alice.key, b"", f"Content-Length: {60 * MEGABYTE}"))
        await raw.send(bytes(2**16))  # enough to see that it may be an image
        await backend.blobs.began.wait()
        assert await push(raw, bytes(MEGABYTE), 50 * MEGABYTE) < IN_FLIGHT
        assert memory() - before < IN_FLIGHT
    backend.blobs.released.set()


@pytest.mark.parametrize("path", ["/devices", "/devices/d1/shadow", "/logs"])
async def test_a_chunked_body_is_held_to_the_limit(server: RunningServer, open_raw: Any, alice: Any, path: str) -> None:
    """Trap: without a Content-Length, nothing holds a body to MAX_CONTENT_LENGTH. Here its bytes are counted."""
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    async with open_raw(server) as raw:
        await raw.send(request("POST", path, alice.key, b"", "Transfer-Encoding: chunked"))
        for _ in range(server.service.settings.max_body // 0x10000 + 1):
            await raw.send(chunk)
        assert (await raw.response()).status == 413


async def test_a_chunked_body_within_the_limit_is_taken(server: RunningServer, open_raw: Any, alice: Any) -> None:
    """The other side of the same trap: a body of unknown length is no mistake."""
    async with open_raw(server) as raw:
        await raw.send(request("POST", "/devices", alice.key, b"", "Transfer-Encoding: chunked"))
        await raw.send(b'5\r\n{"id"\r\n6\r\n:"d1"}\r\n0\r\n\r\n')
        assert (await raw.response()).status == 201


# Crashes, and clients that leave


async def test_a_crash_in_a_background_task_ends_nothing_else(
    server: RunningServer, alice: Any, server_log: Callable[[], str]
) -> None:
    """Trap: a crash in a task of app.nursery kills its siblings without a word. Here it is logged, and that is all."""

    async def crash() -> None:
        raise RuntimeError("a bug in a task")

    async with await alice.connect("d1") as device:
        server.service.node.background.spawn(crash)
        async with alice.calling("GET", "/devices/d1/rpc/Sys.Ping") as response:
            await device.reply(await device.expect("Sys.Ping"), 1)
            assert (await response()).status_code == 200
    assert "a bug in a task" in server_log()


async def test_a_crash_in_a_socket_ends_that_socket_only(
    server: RunningServer, backend: Any, alice: Any, server_log: Callable[[], str]
) -> None:
    """The same trap, in the handler of a connection."""
    backend.documents.broken = "d1"
    async with await alice.connect("d1") as broken, await alice.connect("d2") as whole:
        await broken.send({"method": "Dash.Shadow.Update", "params": {"state": {"reported": {"x": 1}}}})
        assert (await broken.wait_closed())[0] == 1006
        assert (await alice.told("offline"))["id"] == "d1"
        await whole.send({"id": 77, "method": "Dash.Shadow.Update", "params": {"state": {"reported": {"x": 1}}}})
        while (await whole.receive()).get("id") != 77:
            pass
    assert "a bug in a backend" in server_log()


async def test_a_crash_in_a_request_ends_that_request_only(
    server: RunningServer, backend: Any, alice: Any, server_log: Callable[[], str]
) -> None:
    """The same trap, in a handler of the REST app: 500, which tells nothing of the inside, and a line in the log."""
    backend.documents.broken = "d1"
    await alice.register("d1")
    response = await alice.http.post("/devices/d1/shadow", json={"state": {"desired": {"x": 1}}})
    assert response.status_code == 500
    assert response.json() == {"error": {"code": 500, "message": "internal error"}}
    assert "a bug in a backend" in server_log()
    assert (await alice.http.get("/devices/d1")).status_code == 200


async def test_an_update_goes_on_when_the_client_that_began_it_leaves(
    server: RunningServer, open_raw: Any, alice: Any, server_log: Callable[[], str]
) -> None:
    """Trap: on a disconnect the handler's scope is cancelled, with everything it does. Here long work is the node's."""
    image = os.urandom(3000)
    async with await alice.connect("d1") as device:
        async with open_raw(server) as raw:
            await raw.send(request("POST", "/devices/d1/ota", alice.key, image))
            while (begin := await device.receive())["method"] != "OTA.Begin":
                await device.reply(begin, {"fw_id": "old"})  # it is asked what it runs
        await device.reply(begin)
        received = b""
        while len(received) < len(image):
            write = await device.expect("OTA.Write")
            received += base64.b64decode(write["params"]["data"])
            await device.reply(write)
        await device.reply(await device.expect("OTA.End"))
        assert received == image
        with trio.fail_after(FRAME_TIMEOUT):
            while (await alice.http.get("/devices/d1/ota")).json()["state"] != "REBOOTING":
                pass
    assert "Traceback" not in server_log()


async def test_a_call_whose_caller_leaves_is_forgotten(server: RunningServer, open_raw: Any, alice: Any) -> None:
    """The other side of the same trap: an abandoned call holds nothing, and its late answer harms nothing."""
    async with await alice.connect("d1") as device:
        async with open_raw(server) as raw:
            await raw.send(request("POST", "/devices/d1/rpc/Slow", alice.key, b"{}"))
            late = await device.expect("Slow")
        link = server.service.node.devices[DeviceKey("alice", "d1")].link
        with trio.fail_after(FRAME_TIMEOUT):
            while "Slow" in link.connection._calls.values():
                await alice.http.get("/devices/d1")
        await device.reply(late, "too late")
        async with alice.calling("POST", "/devices/d1/rpc/Sys.Ping") as response:
            await device.reply(await device.expect("Sys.Ping"), "pong")
            assert (await response()).json() == "pong"


async def test_a_failure_of_the_storage_after_the_handshake_is_told_by_a_close_code(
    server: RunningServer, backend: Any, open_raw: Any, alice: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket is never answered with HTTP once it is one: 1013 tells the device to try again later."""
    token = await alice.register("d1")

    async def fail(*_: object, **__: object) -> int:
        raise StorageError("the store is away")

    monkeypatch.setattr(backend.documents, "put", fail)
    async with open_raw(server) as raw:
        assert (await raw.handshake(token)).status == 101
        assert await raw.close_code() == 1013
    monkeypatch.undo()


async def test_quart_has_no_websockets(server: RunningServer) -> None:
    """No route of the Quart app is a WebSocket: whatever it would do with one, it cannot be asked to."""
    app = create_quart_app(server.service)
    assert not [rule.rule for rule in app.url_map.iter_rules() if rule.websocket]
