"""The device's end: dialling, dialling again, answering; against real servers on real ports, mostly in virtual time."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from mdash_backends.memory import MemoryBlobs, MemoryBus, MemoryDocuments, MemoryLogs
from mdashcore import _json
from mdashcore._errors import CallTimeout, DeviceOffline, InvalidInput, NotFound, RpcError, Unauthenticated
from mdashcore.hub import Hub
from mdashcore.identity import DeviceKey
from mdashcore.server.gateway import Gateway
from mdashcore.server.service import Service
from mdashcore.storage import Backend
from mdashcore.testing.device import FRAME_TIMEOUT
from mdashcore.trio.agent import PING_INTERVAL, PING_TIMEOUT, Agent, Backoff, open_agent
from mdashcore.trio.node import Node, open_node
from mdashcore.trio.transport.server_websocket import ServerWebSocket

DAY = 86_400

THRESHOLD = 0.02  # seconds: what is sent to a socket of this machine is there within that

QUICK = Backoff(first=0.01, most=0.01)


async def no_handler(method: str, params: Any) -> Any:
    """Offers nothing."""
    raise RpcError(404, f"No handler for {method}")


# A real server


@asynccontextmanager
async def serve_node(hub: Hub, port: int = 0) -> AsyncIterator[tuple[Node, int]]:
    """A node behind a gateway, and its port."""
    async with open_node(hub) as node, trio.open_nursery() as nursery:
        stop = trio.Event()
        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
        await nursery.start(partial(Gateway(Service(node)).serve, listeners, stop=stop))
        yield node, listeners[0].socket.getsockname()[1]
        stop.set()


@pytest.fixture
async def hub() -> Hub:
    """What stays when a server is restarted: the account "alice" with the device "d1"."""
    backend = Backend(MemoryDocuments(), MemoryLogs(), MemoryBlobs(), MemoryBus())
    hub = Hub(backend, now=time.time, monotonic=time.monotonic, entropy=os.urandom)
    await hub.accounts.register("alice", "no password")
    return hub


def url(port: int) -> str:
    """What a device dials."""
    return f"ws://127.0.0.1:{port}/api/v2/rpc"


# A server that does as it is told


@attrs.define
class Visit:
    """One connection of the agent."""

    ws: ServerWebSocket
    time: float
    stream: trio.SocketStream
    authorization: str

    async def receive(self) -> Any:
        """The agent's next frame."""
        with trio.fail_after(10):
            message = await self.ws.receive()
        assert message is not None, "the agent has closed the connection"
        return _json.decode(message)

    async def send(self, *frames: object) -> None:
        """Send frames."""
        await self.ws.send([_json.encode(frame) for frame in frames])

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Say goodbye, and wait for the answer."""
        self.ws.close(code, reason)
        await self.ws.send([])
        assert await self.ws.receive() is None
        await trio.aclose_forcefully(self.stream)


Answer = Callable[[trio.SocketStream], Awaitable[bool]]
"""Does something with a new connection; True if it is to become a `Visit`."""


@attrs.define
class ScriptedServer:
    """A server that hands each connection of an agent to the test."""

    port: int
    visits: trio.MemoryReceiveChannel[Visit]
    dials: list[float] = attrs.field(factory=list)
    """When it was dialled, whatever came of it."""
    dialled: trio.Event = attrs.field(factory=trio.Event)
    """Set by the next dial."""

    async def wait_dialled(self, count: int) -> None:
        """Wait until it was dialled that often."""
        while len(self.dials) < count:
            await self.dialled.wait()

    async def visit(self) -> Visit:
        """The agent's next connection."""
        with trio.fail_after(DAY):
            return await self.visits.receive()


async def take(stream: trio.SocketStream) -> bool:
    """Take every connection."""
    return True


@asynccontextmanager
async def scripted_server(answer: Answer = take) -> AsyncIterator[ScriptedServer]:
    """A server on a free port."""
    send, visits = trio.open_memory_channel[Visit](100)

    async def handle(stream: trio.SocketStream) -> None:
        server.dials.append(trio.current_time())
        server.dialled.set()
        server.dialled = trio.Event()
        if not await answer(stream):
            return
        head = b""
        while b"\r\n\r\n" not in head:
            data = await stream.receive_some()
            if not data:
                return
            head += data
        ws = ServerWebSocket(stream)
        request = ws.feed(head)
        assert request is not None
        assert await ws.accept(request)
        await send.send(Visit(ws, trio.current_time(), stream, request.headers["Authorization"]))
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, handle, 0, host="127.0.0.1"))
        server = ScriptedServer(listeners[0].socket.getsockname()[1], visits)
        yield server
        nursery.cancel_scope.cancel()


def gaps(times: list[float]) -> list[float]:
    """Seconds between one and the next."""
    return [b - a for a, b in pairwise(times)]


# Backoff


@given(st.floats(0.001, 10), st.floats(10, 1000), st.integers(1, 10_000))
def test_a_delay_doubles_up_to_its_bound(first: float, most: float, failures: int) -> None:
    """Between half and the whole of it, at random: a fleet does not come back all together."""
    backoff = Backoff(first, most)
    longest = min(most, first * 2 ** min(failures - 1, 40))
    delays = [backoff.delay(failures) for _ in range(20)]
    assert all(longest / 2 <= delay <= longest for delay in delays)
    assert len(set(delays)) > 1


async def test_failures_in_a_row_are_waited_for_longer_and_longer(autojump_clock: Any) -> None:
    """A server that hangs up immediately is dialled after 1, 2, 4 … 60 seconds, and never given up."""
    autojump_clock.autojump_threshold = THRESHOLD

    async def hang_up(stream: trio.SocketStream) -> bool:
        return False

    async with scripted_server(hang_up) as server, open_agent(url(server.port), "token", no_handler):
        await server.wait_dialled(11)
    for gap, longest in zip(gaps(server.dials), (1, 2, 4, 8, 16, 32, 60, 60, 60, 60), strict=True):
        assert longest / 2 - 0.1 <= gap <= longest + 0.1


async def test_a_connection_that_was_stable_is_no_failure(autojump_clock: Any) -> None:
    """After it the first delay is the shortest again; a connection that ended soon goes on with the next."""
    autojump_clock.autojump_threshold = THRESHOLD
    backoff = Backoff(first=1, most=1000, stable=10)
    async with scripted_server() as server, open_agent(url(server.port), "token", no_handler, backoff=backoff):
        ended: list[float] = []
        visits: list[Visit] = []
        for lasts in (0, 0, 0, 0, 20, 0, 0):
            visits.append(await server.visit())
            await trio.sleep(lasts)
            await visits[-1].close()
            ended.append(trio.current_time())
        visits.append(await server.visit())
    waits = [visit.time - end for visit, end in zip(visits[1:], ended, strict=True)]
    for wait, longest in zip(waits, (1, 2, 4, 8, 1, 2, 4), strict=True):
        assert longest / 2 - 0.1 <= wait <= longest + 0.1


async def test_a_connection_that_the_device_ends_is_no_failure(autojump_clock: Any) -> None:
    """A reboot after a bad time is not waited for longer: what began anew begins its waits anew."""
    autojump_clock.autojump_threshold = THRESHOLD
    backoff = Backoff(first=1, most=1000, stable=10)
    async with scripted_server() as server, open_agent(url(server.port), "token", no_handler, backoff=backoff) as agent:
        for _ in range(4):
            await (await server.visit()).close()
        await server.visit()
        await agent.wait_connected()
        ended = trio.current_time()
        agent.disconnect("rebooting")
        assert (await server.visit()).time - ended <= 1.1


async def test_a_dial_that_takes_long_is_no_stable_connection(autojump_clock: Any) -> None:
    """A server that lets itself be waited for is dialled less and less often, too."""
    autojump_clock.autojump_threshold = THRESHOLD

    async def hold(stream: trio.SocketStream) -> bool:
        await trio.sleep(15)
        return False

    async with scripted_server(hold) as server:
        backoff = Backoff(first=10, most=1000, stable=10)
        async with open_agent(url(server.port), "token", no_handler, backoff=backoff):
            await server.wait_dialled(6)
    assert gaps(server.dials)[-1] > 80 + 15 - 1


@pytest.mark.parametrize(
    "words",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"",
    ],
    ids=["SSH", "503", "200", "302", "TLS", "nothing"],
)
async def test_a_server_that_is_none_is_dialled_again(autojump_clock: Any, words: bytes) -> None:
    """Whatever it answers instead of 101: the agent waits, and tries anew."""
    autojump_clock.autojump_threshold = THRESHOLD
    talk = True

    async def answer(stream: trio.SocketStream) -> bool:
        if not talk:
            return True
        await stream.receive_some()
        await stream.send_all(words)
        return False

    async with scripted_server(answer) as server, open_agent(url(server.port), "token", no_handler) as agent:
        await server.wait_dialled(3)
        assert not agent.connected
        talk = False
        await server.visit()
        await agent.wait_connected()


async def test_a_token_that_is_refused_ends_the_agent(hub: Hub) -> None:
    """Dialling again would not help."""
    async with serve_node(hub) as (_, port):
        with pytest.raises(Unauthenticated):
            await Agent(url(port), "mdd_wrong", no_handler).run()


async def test_a_token_that_is_revoked_ends_the_agent(hub: Hub) -> None:
    """The connection is closed, and at the next dial the agent learns why."""
    token = (await hub.create_device("alice", "d1")).token
    async with serve_node(hub) as (_, port):
        agent = Agent(url(port), token, no_handler, backoff=QUICK)
        async with trio.open_nursery() as nursery:

            async def revoke() -> None:
                await agent.wait_connected()
                await hub.remove_device(DeviceKey("alice", "d1"))

            nursery.start_soon(revoke)
            with pytest.raises(Unauthenticated):
                await agent.run()


@pytest.mark.parametrize("wrong", ["http://x/api/v2/rpc", "x", "", "ws:/x"])
async def test_a_url_that_is_none_is_refused_immediately(wrong: str) -> None:
    """Not at the first dial, and not in a background task."""
    with pytest.raises(InvalidInput):
        Agent(wrong, "token", no_handler)


# Connections


async def test_it_comes_back_when_the_server_does(hub: Hub) -> None:
    """A restart on the same port: the same agent is connected again, and works."""
    token = (await hub.create_device("alice", "d1")).token

    async def handle(method: str, params: Any) -> Any:
        return "pong"

    async with serve_node(hub) as (_, port):
        pass  # this port is free again
    async with open_agent(url(port), token, handle, backoff=QUICK) as agent:
        for _ in range(3):
            async with serve_node(hub, port) as (node, _):
                await agent.wait_connected()
                assert await node.calls.call(DeviceKey("alice", "d1"), "Sys.Ping") == b'"pong"'
                assert (await hub.presence.get(DeviceKey("alice", "d1"))).online
            assert not (await hub.presence.get(DeviceKey("alice", "d1"))).online


async def test_hello_is_the_first_word_on_each_connection(autojump_clock: Any) -> None:
    """Made anew each time; before anything that the program says."""
    autojump_clock.autojump_threshold = THRESHOLD
    count = 0

    def hello() -> list[tuple[str, Any]]:
        nonlocal count
        count += 1
        return [("Hello", {"n": count}), ("World", None)]

    async with scripted_server() as server, open_agent(url(server.port), "secret", no_handler, hello=hello) as agent:
        for n in (1, 2, 3):
            visit = await server.visit()
            await agent.wait_connected()
            agent.notify("Later")
            assert visit.authorization == "Bearer secret"
            frames = [await visit.receive() for _ in range(3)]
            assert [frame["method"] for frame in frames] == ["Hello", "World", "Later"]
            assert frames[0]["params"] == {"n": n}
            assert not any("id" in frame for frame in frames)
            await visit.close(1001)


async def test_it_says_goodbye_when_it_leaves(hub: Hub) -> None:
    """The server knows immediately that the device is offline."""
    token = (await hub.create_device("alice", "d1")).token
    async with serve_node(hub) as (node, port):
        async with open_agent(url(port), token, no_handler) as agent:
            await agent.wait_connected()
        with trio.fail_after(FRAME_TIMEOUT):
            while DeviceKey("alice", "d1") in node.devices:
                await trio.lowlevel.checkpoint()


async def test_disconnect_makes_it_dial_again(autojump_clock: Any) -> None:
    """With a goodbye; without a connection it does nothing."""
    autojump_clock.autojump_threshold = THRESHOLD
    async with scripted_server() as server, open_agent(url(server.port), "token", no_handler) as agent:
        agent.disconnect()
        visit = await server.visit()
        await agent.wait_connected()
        agent.disconnect("reboot")
        assert await visit.ws.receive() is None
        await visit.ws.send([])
        await trio.aclose_forcefully(visit.stream)
        assert (await server.visit()).time > visit.time


async def test_a_server_that_is_silent_is_left(autojump_clock: Any) -> None:
    """One that answers no ping: after an interval and a time-out it is dialled anew. One that does is kept."""
    autojump_clock.autojump_threshold = THRESHOLD
    async with scripted_server() as server, open_agent(url(server.port), "token", no_handler) as agent:
        silent = await server.visit()
        second = await server.visit()
        assert second.time - silent.time == pytest.approx(PING_INTERVAL + PING_TIMEOUT, abs=5)
        async with trio.open_nursery() as nursery:

            async def serve() -> None:
                while await second.ws.receive() is not None:
                    pass

            async def write() -> None:
                while True:
                    wakeup = trio.Event()
                    second.ws.on_control = wakeup.set
                    await second.ws.send([])
                    await wakeup.wait()

            nursery.start_soon(serve)
            nursery.start_soon(write)
            await trio.sleep(10 * PING_INTERVAL)
            assert agent.connected
            nursery.cancel_scope.cancel()
        assert len(server.dials) == 2


async def test_without_a_connection_nothing_is_said() -> None:
    """`DeviceOffline`, immediately."""
    agent = Agent("ws://127.0.0.1:1/", "token", no_handler)
    assert not agent.connected
    with pytest.raises(DeviceOffline):
        agent.notify("X")
    with pytest.raises(DeviceOffline):
        await agent.call("X")


# HttpConnection


async def test_calls_go_both_ways(hub: Hub) -> None:
    """The server's to the handler, as values; the agent's to the server."""
    token = (await hub.create_device("alice", "d1")).token
    heard: list[tuple[str, Any]] = []

    async def handle(method: str, params: Any) -> Any:
        heard.append((method, params))
        return {"echo": params}

    async with serve_node(hub) as (node, port), open_agent(url(port), token, handle) as agent:
        await agent.wait_connected()
        assert _json.decode(await node.calls.call(DeviceKey("alice", "d1"), "A", b'{"x":[1,2.5,null]}')) == {
            "echo": {"x": [1, 2.5, None]}
        }
        assert _json.decode(await node.calls.call(DeviceKey("alice", "d1"), "B")) == {"echo": None}
        assert [call for call in heard if call[0] in "AB"] == [("A", {"x": [1, 2.5, None]}), ("B", None)]
        await agent.call("Dash.Shadow.Update", {"state": {"reported": {"on": True}}})
        assert (await agent.call("Dash.Shadow.Get"))["reported"]["on"] is True
        with pytest.raises(RpcError) as raised:
            await agent.call("No.Such.Method")
        assert raised.value.code == -32601


async def test_what_a_handler_raises_is_answered(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    """An `RpcError` as it is; anything else as an internal error, which tells nothing of the inside."""
    token = (await hub.create_device("alice", "d1")).token

    async def handle(method: str, params: Any) -> Any:
        match method:
            case "Refuse":
                raise RpcError(-7, "not now", {"when": 5})
            case "Miss":
                raise NotFound("no such file")
            case "Crash":
                raise ZeroDivisionError("secret detail")
            case "Object":
                return object()
            case "Huge":
                return "x" * 2**20
            case _:
                return "still here"

    async with serve_node(hub) as (node, port), open_agent(url(port), token, handle) as agent:
        await agent.wait_connected()
        codes = {}
        for method in ("Refuse", "Miss", "Crash", "Object", "Huge"):
            with pytest.raises(RpcError) as raised:
                await node.calls.call(DeviceKey("alice", "d1"), method)
            codes[method] = (raised.value.code, raised.value.message, raised.value.data)
        assert codes["Refuse"] == (-7, "not now", {"when": 5})
        assert codes["Miss"] == (-32603, "no such file", None)
        assert codes["Crash"] == (-32603, "Internal error", None)
        assert "secret detail" in caplog.text
        assert {codes[method][0] for method in ("Object", "Huge")} == {-32603}
        assert await node.calls.call(DeviceKey("alice", "d1"), "Any") == b'"still here"'


@pytest.mark.parametrize(("workers", "order"), [(1, ["slow", "fast"]), (2, ["fast", "slow"])])
async def test_requests_are_answered_in_order_or_immediately(
    autojump_clock: Any, workers: int, order: list[str]
) -> None:
    """One worker keeps the order, more do not wait for each other."""
    autojump_clock.autojump_threshold = THRESHOLD

    async def handle(method: str, params: Any) -> Any:
        await trio.sleep(10 if method == "slow" else 0)
        return method

    async with scripted_server() as server:
        async with open_agent(url(server.port), "token", handle, workers=workers):
            visit = await server.visit()
            await visit.send({"id": 1, "method": "slow"}, {"id": 2, "method": "fast"})
            with trio.fail_after(60):
                answers = [_json.decode(await visit.ws.receive() or b"") for _ in range(2)]
            assert [answer["result"] for answer in answers] == order


async def test_notifications_are_taken_in_order(autojump_clock: Any, caplog: pytest.LogCaptureFixture) -> None:
    """One after the other, however long each takes; one that cannot be handled is logged, and the next one comes."""
    autojump_clock.autojump_threshold = THRESHOLD
    heard: list[int] = []
    done = trio.Event()

    async def on_notification(method: str, params: Any) -> None:
        await trio.sleep(1 - params["n"] / 10)
        heard.append(params["n"])
        if params["n"] == 9:
            done.set()
        if params["n"] == 3:
            raise InvalidInput("three")
        if params["n"] == 5:
            raise ZeroDivisionError("five")

    async with scripted_server() as server:
        async with open_agent(url(server.port), "token", no_handler, on_notification=on_notification):
            visit = await server.visit()
            await visit.send(*({"method": "N", "params": {"n": n}} for n in range(10)))
            await done.wait()
    assert heard == list(range(10))
    assert "three" in caplog.text
    assert "five" in caplog.text
    assert len(server.dials) == 1


async def test_a_call_that_the_server_does_not_answer_times_out(autojump_clock: Any) -> None:
    """And its late answer is ignored."""
    autojump_clock.autojump_threshold = THRESHOLD
    async with scripted_server() as server, open_agent(url(server.port), "token", no_handler) as agent:
        visit = await server.visit()
        await agent.wait_connected()
        with pytest.raises(CallTimeout):
            await agent.call("X", timeout=2)
        late = await visit.receive()
        await visit.send({"id": late["id"], "result": 1})
        async with trio.open_nursery() as nursery:

            async def answer() -> None:
                request = await visit.receive()
                await visit.send({"id": request["id"], "result": 2})

            nursery.start_soon(answer)
            assert await agent.call("Y") == 2


async def test_a_call_ends_with_its_connection(autojump_clock: Any) -> None:
    """`DeviceOffline`, and the next connection is not asked for the answer."""
    autojump_clock.autojump_threshold = THRESHOLD
    async with scripted_server() as server, open_agent(url(server.port), "token", no_handler) as agent:
        visit = await server.visit()
        await agent.wait_connected()
        async with trio.open_nursery() as nursery:

            async def call() -> None:
                with pytest.raises(DeviceOffline):
                    await agent.call("X", timeout=DAY)

            nursery.start_soon(call)
            await visit.receive()
            await visit.close()
        assert (await server.visit()).time < 10
