"""A WebSocket's server side on a Trio stream: `websockets`' sans-IO protocol and the bounds around it."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import Final

import trio
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from mdashcore._connection import ConnectionLimits

__all__ = ["Request", "ServerWebSocket"]

READ_SIZE: Final = 2**14  # one shadow frame fits; a larger one takes several reads

SEND_TIMEOUT: Final = 30.0  # seconds one write may take: a peer that reads nothing for so long is gone

CLOSE_TIMEOUT: Final = 2.0  # seconds to wait for the peer's goodbye; shutdown has to be done in 5

MAX_CONTROL: Final = 2**16  # bytes of pongs not sent yet: the peer floods with pings and does not read

_logger = logging.getLogger("mdashcore.websocket")
_logger.setLevel(logging.WARNING)  # at DEBUG the library writes whole request lines, tokens included


class ServerWebSocket:
    """One WebSocket, from the request's head on. Implements `PingableStream`.

    No extensions are offered: compression would let a small frame become a very large one.

    Args:
        max_message: bytes; more, in one frame or in fragments, closes with 1009 before it is buffered.
    """

    on_control: Callable[[], None]

    def __init__(self, stream: trio.abc.Stream, *, max_message: int = ConnectionLimits().max_frame) -> None:
        self._stream = stream
        self._protocol = ServerProtocol(extensions=None, max_size=max_message, logger=_logger)
        self._early = b""  # frames that came with the request
        self._fragments = bytearray()
        self._messages: deque[bytes] = deque()
        self._control: list[bytes] = []
        self._control_size = 0
        self._receiving = trio.CancelScope()
        self._deadline = inf  # of all receiving, once one side has said goodbye
        self._aborted = False
        self._deaf = False  # this side has ended the conversation: what the peer has sent since is not taken
        self.last_received = trio.current_time()
        self.on_control = _nobody

    # The handshake

    def feed(self, data: bytes) -> Request | None:
        """Take the head of the handshake request, whole, with what came behind it; None if it cannot be read."""
        head, end, self._early = data.partition(b"\r\n\r\n")
        self._protocol.receive_data(head + end)  # the rest later: the library answers frames before the handshake
        if self._protocol.handshake_exc is not None:
            self._protocol.data_to_send()
            return None
        for event in self._protocol.events_received():
            if isinstance(event, Request):
                return event
        return None

    async def accept(self, request: Request) -> bool:
        """Answer the request with 101; False if it is no valid handshake, which has then been refused."""
        response = self._protocol.accept(request)
        self._protocol.send_response(response)
        await self._send_all(b"".join(self._protocol.data_to_send()))
        if self._protocol.state is not State.OPEN:
            return False
        self._protocol.receive_data(self._early)
        self._take_events()
        return True

    # PingableStream

    @property
    def control_pending(self) -> bool:
        return bool(self._control)

    async def receive(self) -> bytes | None:
        if self._messages:
            await trio.lowlevel.checkpoint()  # a read full of tiny messages does not keep everybody else waiting
        while not self._messages:
            data = b"" if self._aborted else await self._receive_some()
            if not data:
                self._protocol.receive_eof()
                self._queue_control()
                return None
            self.last_received = trio.current_time()
            self._protocol.receive_data(data)
            self._take_events()
        return self._messages.popleft()

    async def send(self, messages: Sequence[bytes]) -> None:
        parts = self._control
        self._control = []
        self._control_size = 0
        if messages and self._protocol.state is State.OPEN:
            for message in messages:
                self._protocol.send_text(message)
            parts += self._protocol.data_to_send()
        await self._send_all(b"".join(parts))
        if b"" in parts:  # the protocol's sign for the end of what we send
            await self._send_eof()

    def ping(self) -> None:
        if self._protocol.state is State.OPEN:
            self._protocol.send_ping(b"")
            self._queue_control()

    def close(self, code: int, reason: str) -> None:
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(code, reason)
            self._deaf = True
            self._messages.clear()
            self._closing()

    def abort(self) -> None:
        self._aborted = True
        self._receiving.cancel()

    # Inside

    async def _receive_some(self) -> bytes:
        """What the peer sent; nothing when it is gone, when this side aborts, or when no goodbye comes."""
        with trio.CancelScope(deadline=self._deadline) as self._receiving:
            try:
                return bytes(await self._stream.receive_some(READ_SIZE))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
        return b""

    def _take_events(self) -> None:
        for frame in self._protocol.events_received():
            assert isinstance(frame, Frame)  # noqa: S101 - the request came first, and once
            if frame.opcode is Opcode.BINARY:
                self._fail(CloseCode.UNSUPPORTED_DATA, "text frames only")
            elif frame.opcode is Opcode.TEXT or frame.opcode is Opcode.CONT:
                self._fragments += frame.data
                if frame.fin:
                    self._finish_message()
        if self._protocol.state is State.OPEN:
            self._queue_control()
        else:
            self._closing()

    def _finish_message(self) -> None:
        message = bytes(self._fragments)
        self._fragments.clear()
        if self._deaf:
            return
        try:
            message.decode()
        except UnicodeDecodeError:
            self._fail(CloseCode.INVALID_DATA, "not UTF-8")
        else:
            self._messages.append(message)

    def _fail(self, code: CloseCode, reason: str) -> None:
        self._deaf = True
        self._protocol.fail(code, reason)

    def _closing(self) -> None:
        """One side has said goodbye: the other gets a moment to do so too."""
        if self._deadline == inf:
            self._deadline = trio.current_time() + CLOSE_TIMEOUT
            self._receiving.deadline = self._deadline
        self._queue_control()

    def _queue_control(self) -> None:
        parts = self._protocol.data_to_send()
        if not parts:
            return
        self._control += parts
        self._control_size += sum(map(len, parts))
        if self._control_size > MAX_CONTROL:
            self.abort()
        self.on_control()

    async def _send_all(self, data: bytes) -> None:
        try:
            with trio.fail_after(SEND_TIMEOUT):
                await self._stream.send_all(data)
        except (trio.ClosedResourceError, trio.TooSlowError) as exc:
            raise trio.BrokenResourceError("the peer is gone, or does not read") from exc

    async def _send_eof(self) -> None:
        if self._protocol.close_rcvd is not None:
            self.abort()  # both have said goodbye: the server closes at once (RFC 6455, section 7.1.1)
            return
        if not isinstance(self._stream, trio.abc.HalfCloseableStream):
            return  # TLS cannot be closed by half
        try:
            await self._stream.send_eof()
        except trio.ClosedResourceError as exc:
            raise trio.BrokenResourceError from exc


def _nobody() -> None:
    """Before anyone listens, what waits is sent with the first message."""
