"""SIGTERM to a real server process: it says goodbye and is gone within five seconds, whatever its clients do."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import attrs
import httpx
import pytest
import trio
from forked import Piped, piped
from websockets.frames import Opcode

from mdashcore import _json
from mdashcore.testing.device import FRAME_TIMEOUT, connect_device

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")

LIMIT = 5.0  # seconds from the signal to the end
GRACE = 60.0  # seconds, in place of two, that running requests get where there are none

SERVER = """
import json, logging, sys, trio
from mdash_backends.memory import MemoryDocuments
from mdashcore.server.config import ServerConfig
from mdashcore.server.run import serve

class Broken(MemoryDocuments):
    async def put(self, collection, key, body, *, expected=None):
        if collection == "shadows" and key.endswith("crash"):
            raise RuntimeError("a bug in a backend")
        return await MemoryDocuments.put(self, collection, key, body, expected=expected)

async def started(server):
    hub = server.service.hub
    await hub.accounts.register("alice", "no password")
    key = (await hub.accounts.create_key("alice")).secret
    tokens = {id: (await hub.create_device("alice", id)).token for id in ("d1", "d2", "crash")}
    for _ in range(1000):
        await hub.feed.emit("alice", "rpc.out.Log", "d1", json.dumps("x" * 4000).encode())
    print(json.dumps({"port": server.port, "key": key, "tokens": tokens}), flush=True)

logging.basicConfig(level=logging.WARNING)
import mdash_backends.memory, mdashcore.server.gateway
mdash_backends.memory.MemoryDocuments = Broken
options = json.loads(sys.argv[1])
mdashcore.server.gateway.SHUTDOWN_GRACE = options.pop("grace", mdashcore.server.gateway.SHUTDOWN_GRACE)
config = ServerConfig(bind="127.0.0.1:0", store="memory://", **options)
trio.run(lambda: serve(config, on_start=started))
"""


@attrs.define
class Child:
    """A server in a process of its own."""

    process: Piped
    port: int
    key: str
    tokens: dict[str, str]
    host: str = "127.0.0.1"

    @property
    def device_url(self) -> str:
        return f"ws://{self.host}:{self.port}/api/v2/rpc"

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def client(self) -> httpx.AsyncClient:
        """A client of its API."""
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.AsyncClient(base_url=f"{self.url}/api/v2", headers=headers, timeout=20)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[float, str]:
        """Send a signal, and wait: the seconds until its end, and what it wrote as errors. It has to succeed."""
        started = trio.current_time()
        self.process.send_signal(number)
        with trio.fail_after(4 * LIMIT):
            await self.process.wait_async()
        took = trio.current_time() - started
        errors = b"".join([chunk async for chunk in self.process.errors]).decode()
        assert self.process.returncode == 0, errors
        return took, errors


@asynccontextmanager
async def child_server(**config: Any) -> AsyncIterator[Child]:
    """A server that runs, and accepts connections."""
    async with piped("-c", SERVER, _json.encode(config).decode()) as process:
        line = b""
        with trio.fail_after(4 * FRAME_TIMEOUT):
            while not line.endswith(b"\n"):
                line += await process.output.receive_some()
        yield Child(process, **_json.decode(line))


async def request(raw: Any, child: Child, method: str, path: str, body: bytes = b"", length: int | None = None) -> None:
    """Send a request whose body may be announced longer than it is."""
    await raw.send(
        f"{method} /api/v2{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {child.key}\r\n"
        f"Content-Length: {len(body) if length is None else length}\r\n\r\n".encode()
        + body
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_server_at_rest_ends_immediately(open_raw: Any, number: signal.Signals) -> None:
    """Connections that are idle, or answer a goodbye as they should, hold nothing up."""
    async with child_server(grace=GRACE) as child, open_raw(child) as idle, open_raw(child) as silent:
        await request(idle, child, "GET", "/devices")
        assert (await idle.response()).status == 200
        assert silent is not idle
        async with connect_device(child.device_url, child.tokens["d1"]) as device, trio.open_nursery() as nursery:

            async def be_told() -> None:
                assert (await device.wait_closed())[0] == 1001

            nursery.start_soon(be_told)
            took, errors = await child.end(number)
        assert took < GRACE / 2
        assert errors == ""
        assert await idle.rest() == b""


async def test_a_server_goes_on_while_load_balancers_look_elsewhere(open_raw: Any) -> None:
    """After SIGTERM with a delay `/readyz` is 503, and all else works, also for new clients; another signal ends it."""
    async with child_server(shutdown_delay=3600, grace=GRACE) as child, child.client() as http:
        async with connect_device(child.device_url, child.tokens["d1"]):
            assert (await http.get(f"{child.url}/readyz")).json()["status"] == "ready"
            child.process.send_signal(signal.SIGTERM)
            with trio.fail_after(FRAME_TIMEOUT):
                while (answer := await http.get(f"{child.url}/readyz")).status_code == 200:  # noqa: ASYNC110 - its own word
                    await trio.sleep(0.01)
            assert (answer.status_code, answer.json()["error"]["message"]) == (503, "not ready: accepting")
            async with connect_device(child.device_url, child.tokens["d2"]), child.client() as another:
                online = [each["online"] for each in (await another.get("/devices")).json()]
                assert online == [False, True, True]
            assert (await http.get(f"{child.url}/livez")).status_code == 200
        took, errors = await child.end(signal.SIGINT)
        assert took < GRACE / 2
        assert errors == ""


async def test_a_server_that_drains_sends_its_devices_elsewhere(open_raw: Any) -> None:
    """After SIGTERM handshakes are refused with `Retry-After`, and devices are told to connect again, one by one;
    requests are answered, each as the last of its connection. Another signal ends that."""
    async with child_server(drain_seconds=3600, grace=GRACE) as child, open_raw(child) as http, open_raw(child) as idle:
        await request(http, child, "GET", "/devices")
        assert (await http.response()).status == 200
        first, second = open_raw(child), open_raw(child)
        async with first as first_device, second as second_device:
            assert (await first_device.handshake(child.tokens["d1"])).status == 101
            assert (await second_device.handshake(child.tokens["d2"])).status == 101
            child.process.send_signal(signal.SIGTERM)
            assert await first_device.close_code() == 1012
            for path, token in (("/api/v2/rpc", child.tokens["d1"]), ("/api/v2/notify", child.key)):
                async with open_raw(child) as refused:
                    answer = await refused.handshake(token, path=path)
                    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
            await request(http, child, "GET", "/devices/d2")
            answer = await http.response()
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert _json.decode(answer.body)["online"] is True
            await request(idle, child, "POST", "/devices/d2/shadow", b'{"state":{"desired":{"n":1}}}')
            answer = await idle.response()
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            while (await second_device.receive()).get("method") != "Shadow.Delta":
                pass
            took, errors = await child.end()
            assert await second_device.close_code() == 1001
        assert took < GRACE / 2
        assert errors == ""


async def test_a_server_under_stress_ends_in_time(open_raw: Any, frame_bytes: Callable[..., bytes]) -> None:
    """Clients that read nothing, an upload in the middle, calls that hang, devices that do not say goodbye."""
    async with child_server() as child, AsyncExitStack() as clients:

        async def connect() -> Any:
            return await clients.enter_async_context(open_raw(child))

        idle = await connect()
        await request(idle, child, "GET", "/devices")
        assert (await idle.response()).status == 200
        deaf = await connect()
        for _ in range(10):
            await request(deaf, child, "POST", "/logs", b'{"limit":1000}')  # 40 MB of answers
        for _ in range(3):
            listener = await connect()
            assert (await listener.handshake(child.key, path="/api/v2/notify?start=0")).status == 101
        rude, polite = await connect(), await connect()
        await rude.handshake(child.tokens["d1"])  # it will not say goodbye
        await polite.handshake(child.tokens["d2"])
        hanging = await connect()
        await request(hanging, child, "POST", "/devices/d1/rpc/Never?timeout=60", b"{}")
        while (await rude.receive()).get("method") != "Never":
            pass
        upload = await connect()
        await request(upload, child, "POST", "/devices/d2/ota", os.urandom(2**20), length=2**24)
        head = await connect()
        await head.send(b"POST /api/v2/devices HTTP/1.1\r\nHost")
        async with trio.open_nursery() as nursery:

            async def be_told() -> None:
                assert await polite.close_code() == 1001
                await polite.send(frame_bytes(Opcode.CLOSE, b"\x03\xe9"))

            nursery.start_soon(be_told)
            took, errors = await child.end()
        assert took < LIMIT
        assert "Traceback" not in errors
        assert await rude.close_code() == 1001
        with pytest.raises(OSError, match="connect"):
            await trio.open_tcp_stream(child.host, child.port)


async def test_a_crash_of_one_handler_leaves_the_process_alive() -> None:
    """A handler with a bug costs its client the connection; others go on, and the server still ends in order."""
    async with child_server() as child, child.client() as client:
        async with connect_device(child.device_url, child.tokens["d1"]) as whole:
            for _ in range(3):
                async with connect_device(child.device_url, child.tokens["crash"]) as device:
                    await device.send({"method": "Dash.Shadow.Update", "params": {"state": {"reported": {"x": 1}}}})
                    assert (await device.wait_closed())[0] == 1006
            assert (
                await client.post("/devices/crash/shadow", json={"state": {"desired": {"x": 1}}})
            ).status_code == 500
            await whole.send({"id": 77, "method": "Dash.Shadow.Get"})
            while (await whole.receive()).get("id") != 77:
                pass
            assert (await client.get("/devices/d1")).json()["online"] is True
        assert child.process.returncode is None
        _, errors = await child.end()
        assert errors.count("RuntimeError: a bug in a backend") == 4
