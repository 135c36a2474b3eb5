"""A server with a virtual device, and a way to run a program of a client on either loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pytest
import trio

from mdashcore.client import Client
from mdashcore.virtual_device import VirtualDevice
from mdashcore.virtual_device.connect import run_virtual_device

T = TypeVar("T")

Run = Callable[[Callable[[Client], Awaitable[T]]], Awaitable[T]]


@pytest.fixture(params=["trio", "asyncio"])
def run(request: pytest.FixtureRequest, alice: Any) -> Run[Any]:
    """Runs a program with a client of alice's: beside the server, or on asyncio in a thread of its own."""

    async def with_client(program: Callable[[Client], Awaitable[T]]) -> T:
        async with Client(alice.server.url, key=alice.key) as client:
            with anyio.fail_after(30):
                return await program(client)

    async def on_loop(program: Callable[[Client], Awaitable[T]]) -> T:
        if request.param == "trio":
            return await with_client(program)
        return await trio.to_thread.run_sync(asyncio.run, with_client(program))

    return on_loop


@pytest.fixture
async def lamp(alice: Any, tmp_path: Path) -> AsyncIterator[VirtualDevice]:
    """A virtual device of alice's, connected."""
    token = await alice.register("lamp")
    device = VirtualDevice("lamp", tmp_path / "lamp")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(run_virtual_device, device, alice.server.device_url, token, name="lamp"))
        await alice.told("online", "lamp")
        yield device
        nursery.cancel_scope.cancel()


class Cable:
    """A TCP relay to a server, that can be cut and joined again."""

    def __init__(self, port: int, server_port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._server_port = server_port
        self._streams: set[trio.SocketStream] = set()
        self.whole = True
        self.refused = trio.Event()
        """Set when a client has found the cable cut."""

    async def carry(self, near: trio.SocketStream) -> None:
        """Relay one connection."""
        if not self.whole:
            self.refused.set()
            await trio.aclose_forcefully(near)
            return
        far = await trio.open_tcp_stream("127.0.0.1", self._server_port)
        self._streams |= {near, far}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._copy, near, far)
            nursery.start_soon(self._copy, far, near)

    async def _copy(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        try:
            async for data in source:
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(source)
                await trio.aclose_forcefully(sink)

    async def cut(self) -> None:
        """End all connections, and let no new ones through."""
        self.whole = False
        for stream in tuple(self._streams):
            await trio.aclose_forcefully(stream)
        self._streams.clear()

    def join(self) -> None:
        """Let connections through again."""
        self.whole, self.refused = True, trio.Event()


@pytest.fixture
async def cable(alice: Any) -> AsyncIterator[Cable]:
    """A cable to the server."""
    async with _serving(lambda stream: cable.carry(stream)) as port:
        cable = Cable(port, int(alice.server.url.rpartition(":")[2]))
        yield cable


@asynccontextmanager
async def _serving(handler: Callable[[trio.SocketStream], Awaitable[None]]) -> AsyncIterator[int]:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, handler, 0, host="127.0.0.1"))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@pytest.fixture
def serving() -> Callable[..., Any]:
    """Serves with a handler on a free port, as long as the context lasts."""
    return _serving
