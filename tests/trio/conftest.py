"""What the tests of the Trio transports share: a WebSocket's client end over memory, of another library."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest
import trio
import trio.testing
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.uri import parse_uri

from mdashcore import _json
from mdashcore.trio.transport.server_websocket import ServerWebSocket


class Chopped(trio.abc.HalfCloseableStream):
    """A stream whose bytes arrive in pieces of given sizes, over and over."""

    def __init__(self, stream: Any, sizes: Sequence[int]) -> None:
        self._stream = stream
        self._sizes = iter_forever(sizes)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._stream.receive_some(min(next(self._sizes), max_bytes or 2**16)))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


def iter_forever(sizes: Sequence[int]) -> Iterator[int]:
    """Those numbers, again and again."""
    while True:
        yield from sizes


class MemoryClient:
    """The client's end: `websockets`' own protocol on a stream. It answers pings when it is read, and not before."""

    def __init__(self, stream: Any, server_end: Any) -> None:
        self.stream = stream
        self.server_end = server_end
        """What the server closes when it is done with the connection."""
        self.protocol = ClientProtocol(parse_uri("ws://test/api/v2/rpc"), max_size=None)
        self.frames: deque[Frame] = deque()
        self.response: Response | None = None

    async def flush(self) -> None:
        """Send what the protocol wants to be sent."""
        for data in self.protocol.data_to_send():
            if data:
                await self.stream.send_all(data)
            else:
                await self.stream.send_eof()

    async def handshake(self) -> int:
        """Ask for a WebSocket; the status of the answer."""
        self.protocol.send_request(self.protocol.connect())
        await self.flush()
        while self.response is None:
            assert await self.pump()
        return self.response.status_code

    async def pump(self) -> bool:
        """Take what has come, waiting for it; False at the end."""
        data = await self.stream.receive_some(2**16)
        if not data:
            self.protocol.receive_eof()
            return False
        self.protocol.receive_data(data)
        for event in self.protocol.events_received():
            if isinstance(event, Response):
                self.response = event
            else:
                assert isinstance(event, Frame)
                self.frames.append(event)
        try:
            await self.flush()
        except trio.BrokenResourceError:
            pass  # the server is gone already; what it said before is there to be read
        return True

    async def frame(self) -> Frame | None:
        """The next frame; None at the end."""
        while not self.frames:
            if not await self.pump():
                return None
        return self.frames.popleft()

    async def receive(self) -> Any:
        """The value of the next text message; control frames are passed over."""
        while (frame := await self.frame()) is not None:
            if frame.opcode is Opcode.TEXT:
                return _json.decode(bytes(frame.data))
        raise AssertionError("the connection has ended")

    async def expect(self, method: str) -> Any:
        """The next message with that method; others are passed over."""
        while (message := await self.receive()).get("method") != method:
            pass
        return message

    async def send(self, *messages: object) -> None:
        """Send texts, or values as JSON, in one packet."""
        for message in messages:
            self.protocol.send_text(message if isinstance(message, bytes) else _json.encode(message))
        await self.flush()

    async def close(self, code: int = 1000) -> None:
        """Say goodbye."""
        self.protocol.send_close(code)
        await self.flush()

    async def close_code(self) -> int | None:
        """Read on until the server says goodbye: its code; None where the connection just ends."""
        while (frame := await self.frame()) is not None:
            if frame.opcode is Opcode.CLOSE:
                return int.from_bytes(frame.data[:2], "big")
        return None


async def accept(stream: Any, **options: Any) -> ServerWebSocket:
    """The server's end: what the gateway does with a request for a WebSocket."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += await stream.receive_some(2**14)
    ws = ServerWebSocket(stream, **options)
    request = ws.feed(head)
    assert request is not None
    assert await ws.accept(request)
    return ws


OpenPair = Callable[..., Awaitable[tuple[ServerWebSocket, MemoryClient]]]


@pytest.fixture(scope="session")
def open_pair() -> OpenPair:
    """Makes both ends of a WebSocket: ``server, client = await open_pair(sizes=…, lockstep=…, max_message=…)``.

    With ``sockets=True`` over a pair of real ones; the test has to close both.
    """

    async def open_(
        *, sizes: Sequence[int] = (2**16,), lockstep: bool = False, sockets: bool = False, **options: Any
    ) -> tuple[ServerWebSocket, MemoryClient]:
        make = trio.testing.lockstep_stream_pair if lockstep else trio.testing.memory_stream_pair
        client_end, server_end = map(trio.SocketStream, trio.socket.socketpair()) if sockets else make()
        client = MemoryClient(client_end, server_end)
        servers: list[ServerWebSocket] = []

        async def serve() -> None:
            servers.append(await accept(server_end if sockets else Chopped(server_end, sizes), **options))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            assert await client.handshake() == 101
        return servers[0], client

    return open_
