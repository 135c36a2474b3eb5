"""What most tests need: a real server on a real port, people who may use it, and devices that do as they are told."""

from __future__ import annotations

import asyncio
import base64
import functools
import gc
import importlib.metadata
import logging
import os
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import argon2
import attrs
import httpx
import hypothesis
import pytest
import trio
from httpx import Response
from spread import spread
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader
from werkzeug.routing import Rule

from mdashcore import _json
from mdashcore.hub.feed import Feed, LogQuery, feed_topic
from mdashcore.notifications import decode
from mdashcore.server import static
from mdashcore.server.config import ServerConfig
from mdashcore.server.run import RunningServer, open_server
from mdashcore.server.service import ServiceSettings
from mdashcore.testing.device import FRAME_TIMEOUT, ScriptedDevice, connect_device
from mdashcore.trio.node import NodeSettings

# How long laws are looked at; `make proofs` chooses the other one. Without a deadline: a busy machine is no failure.
# The gate looks at the same examples each time, so that what it refuses is a fault of the change, and not of its luck.
hypothesis.settings.register_profile("gate", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.register_profile("again", deadline=None, max_examples=10, derandomize=True)  # on another Python
hypothesis.settings.register_profile("proof", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("gate")

TESTS = Path(__file__).parent

PASSWORD = "correct horse"
CHEAP_HASHER = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
"""So little work that every test can have its own accounts."""
CHEAP_HASH = CHEAP_HASHER.hash(PASSWORD)

compile_builder = Rule._compile_builder
builders: dict[Any, Any] = {}


def compile_builder_once(rule: Rule, append_unknown: bool = True) -> Any:
    """The function that builds a route's URLs: half of the time of a server's start, and the same for each server."""
    defaults = tuple(sorted((rule.defaults or {}).items()))
    key = (tuple(rule._trace), defaults, append_unknown)
    if key not in builders:
        builders[key] = compile_builder(rule, append_unknown)
    return builders[key]


find_entry_points = importlib.metadata.entry_points


@functools.cache
def entry_points_below(folders: tuple[str, ...], options: tuple[tuple[str, str], ...]) -> Any:
    """The entry points of what is installed in those folders."""
    return find_entry_points(**dict(options))


@pytest.fixture(scope="session", autouse=True)
def quick_starts() -> Iterator[None]:
    """What is the same for each server and client of a run is made once: a server starts in a fifth of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rule, "_compile_builder", compile_builder_once)
        patch.setattr(static, "read_files", functools.cache(static.read_files))
        patch.setattr(
            importlib.metadata,
            "entry_points",
            lambda **options: entry_points_below(tuple(sys.path), tuple(sorted(options.items()))),
        )
        make_context = httpx._transports.default.create_ssl_context
        patch.setattr(httpx._transports.default, "create_ssl_context", functools.cache(make_context))
        yield


@pytest.fixture
def cheap_logins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords of servers that a test opens by itself cost as little as those of `server`."""
    monkeypatch.setattr(argon2, "PasswordHasher", functools.partial(argon2.PasswordHasher, time_cost=1, memory_cost=8))


@pytest.hookimpl(trylast=True)  # those that are left out are gone
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Several workers take the tests in an order by which they end together."""
    if workers := getattr(config, "workerinput", {}).get("workercount"):
        folders = [item.path.relative_to(TESTS).parts[0] for item in items]
        items[:] = [items[index] for index in spread(folders, workers)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Each test may run an asyncio loop, also in a worker in which Playwright has left its own running.

    A thread runs one loop at a time. Playwright's goes on with the next test of the dashboard.
    """
    if item.path.is_relative_to(TESTS / "ui"):
        return (yield)
    loop = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        return (yield)
    finally:
        asyncio._set_running_loop(loop)


def pytest_collection_finish() -> None:
    """Take thousands of tests out of the garbage collector's sight, which looks at all that it has over and over."""
    gc.collect()
    gc.freeze()


def open_client(server: RunningServer, headers: Mapping[str, str]) -> httpx.AsyncClient:
    """A client of the API; TLS is not set up, which would take longer than most tests."""
    return httpx.AsyncClient(base_url=f"{server.url}/api/v2", headers=headers, timeout=20, verify=False)


class Ear:
    """A notification socket that is listened to."""

    def __init__(self, socket: ScriptedDevice) -> None:
        self.socket = socket

    async def hear(self) -> dict[str, Any]:
        """The next notification."""
        return decode(_json.encode(await self.socket.receive()))

    async def expect(self, name: str, device: str | None = None) -> dict[str, Any]:
        """The next notification of that name; others are passed over."""
        while True:
            heard = await self.hear()
            if heard["name"] == name and device in (None, heard["id"]):
                return heard


@attrs.define
class Person:
    """An account with an API key, and a client that uses it."""

    name: str
    key: str
    http: httpx.AsyncClient
    """Its base URL is the API's."""
    server: RunningServer

    async def register(self, id: str) -> str:
        """Register a device; its token."""
        response = await self.http.post("/devices", json={"id": id})
        assert response.status_code == 201, response.text
        return str(response.json()["token"])

    async def connect(self, id: str) -> AbstractAsyncContextManager[ScriptedDevice]:
        """Register a device and connect it: ``async with await person.connect("d1") as device``."""
        return connect_device(self.server.device_url, await self.register(id))

    @asynccontextmanager
    async def listen(self, start: int | None = None) -> AsyncIterator[Ear]:
        """A notification socket, from now on or from an offset on."""
        query = "" if start is None else f"?start={start}"
        url = f"ws{self.server.url.removeprefix('http')}/api/v2/notify{query}"
        async with connect_device(url, self.key) as socket:
            yield Ear(socket)

    def as_user(self, password: str = PASSWORD) -> httpx.AsyncClient:
        """A client that uses the name and a password."""
        credentials = base64.b64encode(f"{self.name}:{password}".encode()).decode()
        return open_client(self.server, {"Authorization": f"Basic {credentials}"})

    @asynccontextmanager
    async def calling(self, method: str, url: str, **options: Any) -> AsyncIterator[Callable[[], Awaitable[Response]]]:
        """A request beside the test: ``async with person.calling(…) as response: …; await response()``."""
        async with trio.open_nursery() as nursery:
            done = trio.Event()
            responses: list[Response] = []

            async def run() -> None:
                responses.append(await self.http.request(method, url, **options))
                done.set()

            async def response() -> Response:
                with trio.fail_after(FRAME_TIMEOUT):
                    await done.wait()
                return responses[0]

            nursery.start_soon(run)
            yield response

    async def told(self, name: str, device: str | None = None) -> dict[str, Any]:
        """The newest notification of that name, waiting for the first."""
        hub = self.server.service.hub
        with trio.fail_after(FRAME_TIMEOUT):
            async with hub.bus.subscribe(feed_topic(self.name)) as messages:
                if found := await hub.feed.query(self.name, LogQuery(name=name, device=device)):
                    return decode(found[-1])
                async for message in messages:
                    value = decode(Feed.parse(message).frame)
                    if value["name"] == name and device in (None, value["id"]):
                        return value
        raise AssertionError("the bus has ended")


MakePerson = Callable[[str], Awaitable[Person]]


@pytest.fixture
def node_settings() -> NodeSettings:
    """Those of `server`; a test may give others by parametrizing with this name."""
    return NodeSettings()


@pytest.fixture
def settings() -> ServiceSettings:
    """The limits of `server`; a test may give others by parametrizing with this name."""
    return ServiceSettings()


@pytest.fixture
def instant() -> bool:
    """Whether the store of `server` says that it never waits; a test may deny that by parametrizing with this name."""
    return True


@pytest.fixture
def configured() -> dict[str, Any]:
    """What `server` has in its configuration beside an address and a store; a module may have its own."""
    return {}


@pytest.fixture
async def server(
    node_settings: NodeSettings, settings: ServiceSettings, instant: bool, configured: dict[str, Any]
) -> AsyncIterator[RunningServer]:
    """A server without accounts, on a free port."""
    with pytest.MonkeyPatch.context() as patch:
        if not instant:
            patch.setattr("mdash_backends.memory.INSTANT", "waiting")
        config = ServerConfig(bind="127.0.0.1:0", store="memory://", **configured)
        async with open_server(config, settings=settings, node_settings=node_settings) as running:
            running.service.passwords._hasher = CHEAP_HASHER
            running.service.passwords._refusal_delay = 0.0
            yield running


@pytest.fixture
async def make_person(server: RunningServer) -> AsyncIterator[MakePerson]:
    """Makes accounts; all have the password `PASSWORD`; the one called "root" is an admin."""
    async with AsyncExitStack() as stack:

        async def make(name: str) -> Person:
            accounts = server.service.hub.accounts
            await accounts.register(name, CHEAP_HASH, admin=name == "root")
            key = (await accounts.create_key(name)).secret
            client = open_client(server, {"Authorization": f"Bearer {key}"})
            return Person(name, key, await stack.enter_async_context(client), server)

        yield make


@pytest.fixture
async def alice(make_person: MakePerson) -> Person:
    """An account."""
    return await make_person("alice")


@pytest.fixture
async def bob(make_person: MakePerson) -> Person:
    """Another account."""
    return await make_person("bob")


@pytest.fixture
async def root(make_person: MakePerson) -> Person:
    """An admin."""
    return await make_person("root")


@pytest.fixture
async def anyone(server: RunningServer) -> AsyncIterator[httpx.AsyncClient]:
    """A client without credentials."""
    async with open_client(server, {}) as client:
        yield client


@pytest.fixture
def server_log(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """Everything that is logged, to the last detail, except by the tests' own clients."""
    caplog.set_level(logging.DEBUG)
    clients = ("httpx", "httpcore", "trio-websocket")

    def read() -> str:
        return "\n".join(
            f"{record.name}: {record.getMessage()} {record.exc_text or ''}"
            for record in caplog.records
            if not record.name.startswith(clients)
        )

    return read


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of two megabytes; of another size where a test parametrizes it with one: ``32m``."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={getattr(request, 'param', '2m')}", "none", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small file system")
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:  # root of a container may not
        pytest.skip(f"a small file system cannot be mounted: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="session")
def cheap_hasher() -> argon2.PasswordHasher:
    """`CHEAP_HASHER`."""
    return CHEAP_HASHER


@pytest.fixture(scope="session")
def password() -> str:
    """Every test account's password."""
    return PASSWORD


@attrs.frozen
class RawResponse:
    """An HTTP response as it stood on the wire."""

    status: int
    headers: dict[str, str]
    """By lower-case name."""
    body: bytes


class RawSocket:
    """A connection on which a test writes whatever bytes it likes, when it likes, or none at all."""

    KEY = "dGhlIHNhbXBsZSBub25jZQ=="

    def __init__(self, stream: trio.abc.Stream, host: str, patience: float) -> None:
        self.stream = stream
        self._host = host
        self._patience = patience
        self._reader = StreamReader()

    async def send(self, data: bytes) -> None:
        """Write bytes."""
        with trio.fail_after(self._patience):
            await self.stream.send_all(data)

    async def response(self) -> RawResponse:
        """The next HTTP response; the body by its Content-Length."""
        head = [bytes(await self._read(self._reader.read_line(2**14))).rstrip(b"\r\n")]
        while head[-1]:
            head.append(bytes(await self._read(self._reader.read_line(2**14))).rstrip(b"\r\n"))
        fields = [line.decode("latin-1").split(":", 1) for line in head[1:-1]]
        headers = {name.strip().lower(): value.strip() for name, value in fields}
        body = await self._read(self._reader.read_exact(int(headers.get("content-length", 0))))
        return RawResponse(int(head[0].split(b" ")[1]), headers, bytes(body))

    async def response_arrived(self) -> None:
        """Wait until the next HTTP response is there, whole, without taking it; or the end of the stream."""
        while not self._reader.eof:
            head, end, body = bytes(self._reader.buffer).partition(b"\r\n\r\n")
            length = re.search(rb"(?i)\ncontent-length: *([0-9]+)", head)
            if end and (length is None or len(body) >= int(length[1])):
                return
            await self._fill()

    def handshake_bytes(self, path: str, token: str | None, *fields: str) -> bytes:
        """The request of a handshake; `fields` are whole header lines, which stand before the usual ones."""
        lines = [f"GET {path} HTTP/1.1", *fields]
        lines += [f"Authorization: Bearer {token}"] if token else []
        lines += [] if any(field.startswith("Host:") for field in fields) else [f"Host: {self._host}"]
        lines += ["Upgrade: websocket", "Connection: Upgrade"]
        lines += [f"Sec-WebSocket-Key: {self.KEY}", "Sec-WebSocket-Version: 13", "", ""]
        return "\r\n".join(lines).encode()

    async def handshake(self, token: str | None, *fields: str, path: str = "/api/v2/rpc") -> RawResponse:
        """Ask for a WebSocket; the server's answer, whatever it is."""
        await self.send(self.handshake_bytes(path, token, *fields))
        return await self.response()

    async def frame(self) -> Frame | None:
        """The next WebSocket frame; None at the end of the stream."""
        if await self._read(self._reader.at_eof()):
            return None
        return await self._read(Frame.parse(self._reader.read_exact, mask=False))

    async def text(self) -> bytes:
        """The next text message; control frames are passed over."""
        while True:
            frame = await self.frame()
            assert frame is not None, "the server has closed the connection"
            if frame.opcode is Opcode.TEXT:
                return bytes(frame.data)

    async def receive(self) -> Any:
        """The value of the next text message."""
        return _json.decode(await self.text())

    async def close_code(self) -> int | None:
        """Read on until the server says goodbye: its code; None where it cuts the connection without a word."""
        try:
            while (frame := await self.frame()) is not None:
                if frame.opcode is Opcode.CLOSE:
                    return int.from_bytes(frame.data[:2], "big")
        except trio.BrokenResourceError:
            pass
        return None

    async def rest(self) -> bytes:
        """Everything until the end of the stream, which has to come."""
        try:
            while not self._reader.eof:
                await self._fill()
        except trio.BrokenResourceError:
            pass
        return bytes(self._reader.buffer)

    async def _read(self, parser: Generator[None, None, Any]) -> Any:
        """Run one of the parsers of `websockets`, which pause for more data."""
        while True:
            try:
                next(parser)
            except StopIteration as done:
                return done.value
            await self._fill()

    async def _fill(self) -> None:
        with trio.fail_after(self._patience):
            data = await self.stream.receive_some(2**16)
        if data:
            self._reader.feed_data(data)
        elif not self._reader.eof:
            self._reader.feed_eof()


OpenRaw = Callable[..., AbstractAsyncContextManager[RawSocket]]


@pytest.fixture(scope="session")
def open_raw() -> OpenRaw:
    """Opens a `RawSocket` to a server: ``async with open_raw(server) as raw``; over TLS with a `context`."""

    @asynccontextmanager
    async def open_(
        server: RunningServer, *, patience: float = 10, context: ssl.SSLContext | None = None
    ) -> AsyncIterator[RawSocket]:
        stream: trio.abc.Stream = await trio.open_tcp_stream(server.host, server.port)
        if context is not None:
            stream = trio.SSLStream(stream, context, server_hostname=server.host, https_compatible=True)
        try:
            yield RawSocket(stream, f"{server.host}:{server.port}", patience)
        finally:
            await trio.aclose_forcefully(stream)

    return open_


@pytest.fixture(scope="session")
def frame_bytes() -> Callable[..., bytes]:
    """Encodes a client's frame: ``frame_bytes(Opcode.TEXT, b"{}", fin=True)``."""

    def encode(opcode: Opcode, data: bytes = b"", *, fin: bool = True) -> bytes:
        return Frame(opcode, data, fin).serialize(mask=True)

    return encode
