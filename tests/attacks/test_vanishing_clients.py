"""Clients that vanish, or stop reading, at any point of any request leave nothing behind; nor do clients that behave.

Every route of the app is walked, whatever routes there are.
"""

from __future__ import annotations

import base64
import os
import re
import signal
import socket
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final

import argon2
import attrs
import pytest
import trio

from mdashcore.server.http.hangup import HALF_CLOSED_TIME
from mdashcore.server.static import read_files
from mdashcore.testing.device import connect_device

RESET_BOUND: Final = 2.0  # seconds: after them nothing is left of a client that reset its connection, or closed it
STOPPED_BOUND: Final = 40.0  # seconds: nor of one that stopped reading
STOP_BOUND: Final = 5.0  # seconds from SIGTERM to the end

PATIENCE: Final = 60.0  # seconds for what takes a moment, on a machine that has other work

PLACES = ("in the head", "in the body", "before the answer", "in the answer", "behind the answer")

TELLING_UNDER_TLS: Final = {"reset": ("in the head", "in the answer"), "closed": ("in the body", "before the answer")}
"""Places that stand for the others: where TLS has to be read, and where it has to be written."""

IMPATIENT: Final = {
    "mdashcore.server.gateway.HEAD_TIMEOUT": 4.0,
    "mdashcore.server.http.connection.SEND_TIMEOUT": 1.0,
}
"""What takes 10 and 30 s, so that a test need not wait for it. Many TLS handshakes take seconds on a busy machine."""

LARGE_LIST: Final = 250  # devices with a shadow of 30 kB: more than all buffers between server and client hold

LARGEST_FILE: Final = max(files := read_files(), key=lambda name: len(files[name].body))

LARGE: Final = ("/api/v2/devices", "/api/v2/backup", "/ui/<path>")
"""Answers that do not fit into a client's receive buffer: they are being sent when it vanishes."""


@attrs.frozen
class Request:
    """A request to one of the routes."""

    method: str
    rule: str
    head: bytes
    body: bytes

    @property
    def large(self) -> bool:
        """Whether its answer is larger than what the client takes."""
        return self.method == "GET" and self.rule in LARGE


@attrs.frozen
class Scene:
    """A server with what the requests ask for."""

    server: Any
    key: str
    requests: Sequence[Request]
    slack: float
    """Seconds that a busy machine may need more: as many as 50 ordinary requests took before."""
    log: str
    """What the server has said so far."""
    clients: list[Client] = attrs.field(init=False, factory=list)

    async def connect(self) -> Client:
        """A client whose receive buffer is small."""
        sock = trio.socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client = Client(sock)
        self.clients.append(client)
        await sock.connect((self.server.host, self.server.port))
        stream = trio.SocketStream(sock)
        client.stream = await self.server.secure(stream) if self.server.tls else stream
        return client

    async def figures(self) -> tuple[int, int]:
        """How many sockets the server has open, and how many tasks serve connections and requests."""
        tasks = (await self.server.command("figures"))["tasks"]
        folder = f"/proc/{self.server.pid}/fd"
        sockets = 0
        for name in os.listdir(folder):
            with suppress(FileNotFoundError):  # closed meanwhile
                sockets += os.readlink(f"{folder}/{name}").startswith("socket:")
        return sockets, sum(count for name, count in tasks.items() if name.startswith(("mdashcore.server", "quart")))

    async def nothing_left(self, before: tuple[int, int], within: float, where: str) -> None:
        """Wait until there are no more sockets and tasks than before. Fails where that takes longer than allowed."""
        started = trio.current_time()
        with trio.move_on_after(within + self.slack):
            while True:
                sockets, tasks = await self.figures()
                if sockets <= before[0] and tasks <= before[1]:
                    print(f"{where}: nothing left after {trio.current_time() - started:.1f} s")  # noqa: T201 - with -rP
                    return
                await trio.sleep(0.05)
        raise AssertionError(f"{where}: {sockets - before[0]} sockets and {tasks - before[1]} tasks are left")


def make_requests(routes: Sequence[tuple[str, str]], key: str) -> list[Request]:
    """One for each route. What needs an admin comes from one."""
    found = []
    password = base64.b64encode(b"root:secret").decode()
    for method, rule in routes:
        is_call = "/rpc/" in rule
        names = {
            "<id>": "silent" if is_call or rule.endswith("/ota") else "other",
            "<method>": "Never",
            "<path>": LARGEST_FILE,
            "<action>": "pause",
            "<name>": "nobody",
        }
        path = rule
        for name, value in names.items():
            path = path.replace(name, value)
        secret = f"Basic {password}" if rule.endswith(("/backup", "/users")) else f"Bearer {key}"
        fields = ["Host: x", f"Authorization: {secret}", "Connection: close"]
        body = b"" if method in ("GET", "DELETE") else b"{}"
        fields += [f"Content-Length: {len(body)}"] if body else []
        head = "\r\n".join([f"{method} {path} HTTP/1.1", *fields, "", ""]).encode()
        found.append(Request(method, rule, head, body))
    return found


@pytest.fixture
def open_scene(open_attacked: Callable[..., Any]) -> Callable[..., Any]:
    """Starts a server whose lists and backups are large, with a device that never answers."""

    @asynccontextmanager
    async def open_(*, tls: bool, **options: Any) -> AsyncIterator[Scene]:
        async with open_attacked(tls=tls, **options) as server:
            hasher = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
            await server.account("root", hashed=hasher.hash("secret"), admin=True)
            key = await server.account("alice")
            await server.devices("alice", [f"d{number}" for number in range(LARGE_LIST)], {"text": "x" * 30_000})
            tokens = await server.devices("alice", ["silent"])
            async with AsyncExitStack() as stack:
                if not tls:  # its calls hang; over TLS they end with 503, and others hang on their answers
                    await stack.enter_async_context(connect_device(server.device_url, tokens["silent"]))
                async with server.http() as http:
                    await http.get(f"{server.url}/healthz")
                started = trio.current_time()
                for _ in range(10):
                    async with server.http() as http:
                        await http.get(f"{server.url}/healthz")
                scene = Scene(
                    server,
                    key,
                    make_requests(await server.command("routes"), key),
                    slack=5 * (trio.current_time() - started),
                    log=server.log,
                )
                try:
                    yield scene
                finally:
                    for client in scene.clients:
                        client.sock.close()

    return open_


@attrs.define
class Client:
    """A client that takes little, and vanishes."""

    sock: Any
    stream: trio.abc.Stream = attrs.field(init=False)

    async def go_to(self, place: str, request: Request) -> None:
        """Get that far with a request, or as far as it can be got."""
        if place == "in the head":
            await self.stream.send_all(request.head[:40])
        elif place == "in the body":
            longer = request.head.replace(b"Content-Length: 2", b"Content-Length: 90000")
            await self.stream.send_all(longer + request.body)
        else:
            await self.stream.send_all(request.head + request.body)
            if place == "behind the answer" and not request.large:
                await self._read_for_a_while(2**16)
            elif place != "before the answer":
                await self._read_for_a_while(1)

    async def _read_for_a_while(self, size: int) -> None:
        """Read what is there soon: a call may not be answered for long."""
        with trio.move_on_after(0.2):
            while await self.stream.receive_some(size):
                if size == 1:
                    return

    async def vanish(self, way: str) -> None:
        """Go away."""
        if way == "reset":
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.sock.close()
        elif way == "closed":
            with trio.move_on_after(1):
                await self.stream.aclose()
            self.sock.close()


async def walk(scene: Scene, place: str, way: str) -> None:
    """Have a client for each route get to a place, and vanish there."""

    async def walk_one(request: Request) -> None:
        client = await scene.connect()
        if way == "stopped" and request.rule.endswith("/ota"):  # an upload waits for its device, not for its client
            request = attrs.evolve(request, head=request.head.replace(b"silent", b"other"))
        await client.go_to(place, request)
        await client.vanish(way)

    async with trio.open_nursery() as nursery:
        for request in scene.requests:
            if place != "in the body" or request.body:
                nursery.start_soon(walk_one, request)


BOTH = pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])


@BOTH
async def test_a_client_that_vanishes_or_behaves_leaves_nothing(open_scene: Any, tls: bool, every: bool) -> None:
    """On every route, at every point: no socket and no task after 2 s, no word in the log; nor do ordinary ones. The
    server then ends by SIGTERM, whatever others do."""
    async with open_scene(tls=tls) as scene:
        before = await scene.figures()
        for way in ("reset", "closed"):
            for place in PLACES if every or not tls else TELLING_UNDER_TLS[way]:
                await walk(scene, place, way)
                await scene.nothing_left(before, RESET_BOUND, f"{way} {place}")
        await ordinary_clients_leave_nothing(scene)
        assert scene.server.log == scene.log
        await sigterm_ends_the_server_whatever_clients_do(scene)


@BOTH
async def test_a_client_that_stops_reading_leaves_nothing(open_scene: Any, tls: bool) -> None:
    """On every route, at every point, after the time-outs, which are short here, and what they need to take effect.

    So it is where all was written, and lies in the buffers of the system: no write is left that could find out that it
    is not read, and the client may ask for more.
    """
    settings = {"body_timeout": 1.0, "call_timeout": 1.0}
    async with open_scene(tls=tls, constants=IMPATIENT, settings=settings) as scene:
        before = await scene.figures()
        for place in PLACES:
            await walk(scene, place, "stopped")
        for client in [await scene.connect() for _ in range(5)]:
            await client.stream.send_all(f"GET /ui/{LARGEST_FILE} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * 10)
            assert await client.stream.receive_some(1)
        # The head's time-out, or two for a body; LINGER; and some: not KEEP_ALIVE.
        await scene.nothing_left(before, 8.0, "anywhere")
        assert scene.server.log == scene.log


@pytest.mark.proof
@BOTH
async def test_a_client_that_stops_reading_leaves_nothing_after_40_seconds(open_scene: Any, tls: bool) -> None:
    """With the time-outs as they are."""
    async with open_scene(tls=tls) as scene:
        before = await scene.figures()
        for place in PLACES:
            await walk(scene, place, "stopped")
        await scene.nothing_left(before, STOPPED_BOUND, "anywhere")


async def sigterm_ends_the_server_whatever_clients_do(scene: Scene) -> None:
    """Within 5 s, with a client at every point of every route that neither reads nor goes away; without a traceback."""
    for place in PLACES:
        await walk(scene, place, "stopped")
    started = trio.current_time()
    os.kill(scene.server.pid, signal.SIGTERM)
    await scene.server.program.process.wait_async()
    assert trio.current_time() - started < STOP_BOUND + scene.slack
    assert scene.server.program.process.returncode == 0
    assert "Traceback" not in scene.server.log


async def ordinary_clients_leave_nothing(scene: Scene) -> None:
    """Those that close their connection after the answer: it is closed here too, immediately. One
    that ends only its own side gets the answer, in either lane."""
    before = await scene.figures()
    for _ in range(50):
        client = await scene.connect()
        await client.stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await client.stream.receive_some(12)).startswith(b"HTTP/1.1 200")
        await client.vanish("closed")
    await scene.nothing_left(before, RESET_BOUND, "behind the answer")
    # As `printf … | nc` does, which ends only its own side: two requests in one packet, and a slow reader.
    for path in ("/healthz", "/api/v2/devices/d1/shadow", f"/ui/{LARGEST_FILE}", "/api/v2/devices/d1"):
        client = await scene.connect()
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {scene.key}\r\n"
        await client.stream.send_all(f"{request}\r\n{request}Connection: close\r\n\r\n".encode())
        client.sock.shutdown(socket.SHUT_WR)
        answer = b""
        with trio.fail_after(PATIENCE):
            while part := await client.stream.receive_some(2**12):
                answer += part
        assert answer.count(b"HTTP/1.1 200") == 2, path
        lengths = [int(found) for found in re.findall(rb"\ncontent-length: (\d+)", answer)]
        assert len(lengths) == 2
        assert len(answer.rpartition(b"\r\n\r\n")[2]) == lengths[1], path


async def test_what_a_client_asked_for_before_it_ended(open_scene: Any) -> None:
    """A call that takes long ends `HALF_CLOSED_TIME` after its client has ended its own side, in either lane. A change
    whose client vanishes is made: the shadow of each device is changed, though no client waits for it."""
    async with open_scene(tls=False) as scene:
        before = await scene.figures()
        for field in ("X: y", "TE: trailers"):  # the second is not plain
            client = await scene.connect()
            head = f"GET /api/v2/devices/silent/rpc/Never?timeout=60 HTTP/1.1\r\nHost: x\r\n{field}\r\n"
            await client.stream.send_all(f"{head}Authorization: Bearer {scene.key}\r\n\r\n".encode())
            client.sock.shutdown(socket.SHUT_WR)
        await scene.nothing_left(before, HALF_CLOSED_TIME + 1, "in either lane")
        body = b'{"state":{"desired":{"on":true}}}'
        for number in range(50):
            client = await scene.connect()
            head = f"POST /api/v2/devices/d{number}/shadow HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {scene.key}\r\n"
            await client.stream.send_all(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            await client.vanish("closed")
        async with scene.server.http(scene.key) as http:
            with trio.fail_after(PATIENCE):
                for number in range(50):
                    while "on" not in (await http.get(f"/devices/d{number}/shadow")).json()["state"].get("desired", {}):
                        pass
