"""A WebSocket's server side on a Trio stream. Its handshake and its frames are in modules of their own."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from math import inf
from time import perf_counter
from types import MappingProxyType
from typing import Final

import trio

from mdashcore._connection_limits import ConnectionLimits
from mdashcore.trio.transport.frames import FrameCodec
from mdashcore.trio.transport.handshake import Handshake, HandshakeRequest, read_handshake
from mdashcore.trio.transport.plain_handshake import PlainHandshake
from mdashcore.trio.transport.readiness import Inflow
from mdashcore.trio.transport.stream import READ_SIZE, SEND_TIMEOUT, BrokenMessage, write_now
from mdashcore.trio.turns import Turn

__all__ = ["ServerWebSocket"]

MAX_DEFERRED: Final = 2**14  # bytes that wait for the end of a turn: 16 MB at most for a thousand subscribers


class ServerWebSocket:
    """One WebSocket, from the request's head on. Implements `PingableStream`.

    Args:
        max_message, max_skipped: bytes, as for `FrameCodec`.
    """

    __slots__ = (
        "_codec",
        "_deadline",
        "_flushing",
        "_handshake",
        "_inflow",
        "_left",
        "_message",
        "_receiving",
        "_rest",
        "_stream",
        "_turn",
        "last_received",
        "on_control",
        "on_message",
    )

    on_control: Callable[[], None]
    on_message: Callable[[bytes | BrokenMessage], bool]

    def __init__(
        self,
        stream: trio.abc.Stream,
        *,
        inflow: Inflow | None = None,
        max_message: int = ConnectionLimits().max_frame,
        max_skipped: int = 0,
    ) -> None:
        self._stream = stream
        self._inflow = inflow or Inflow(stream, READ_SIZE)
        self._handshake: Handshake | PlainHandshake | None = None
        self._codec = FrameCodec(max_message, max_skipped)
        self._message: bytes | BrokenMessage | None = None  # a message for which `on_message` has returned `False`
        self._turn = Turn()
        self._rest = b""  # the unsent rest of a write
        self._flushing = False  # whether that is sent at the end of this turn
        self._receiving: trio.CancelScope | None = None
        self._deadline = inf  # of all receiving: the codec's, or -inf after `abort`
        self._left = 0.0  # when the last message was returned, on the clock of `time.perf_counter`
        self.last_received: float = trio.current_time()
        self.on_control = _no_control
        self.on_message = _not_taken

    # The handshake

    def feed(self, data: bytes) -> HandshakeRequest | None:
        """Read the whole head of the handshake request, with the bytes after it. Returns `None` if it is invalid."""
        head, end, rest = data.partition(b"\r\n\r\n")
        if rest:
            self._codec.receive(rest)
        self._handshake, request = read_handshake(head + end)
        return request

    async def accept(self, request: HandshakeRequest, headers: Mapping[str, str] = MappingProxyType({})) -> bool:
        """Answer the request with 101. Returns `False` if the handshake is invalid, and was refused.

        Args:
            headers: more headers of the answer.
        """
        handshake, self._handshake = self._handshake, None  # it holds all headers, which take most of the memory
        if handshake is None:
            raise ValueError("accept what feed has returned, once")
        data, accepted = handshake.answer(request, headers)  # type: ignore[arg-type]  # that which `feed` has returned
        if (sent := write_now(self._stream, data)) < len(data):
            await self._send_all(data[sent:])
        if accepted:
            self._codec.open()
            self._inflow.on_data = self._receive_now
        return accepted

    @property
    def owner(self) -> Hashable:
        """Owner of the work that incoming bytes cause; `None` for an unauthenticated peer's.

        All sockets of an owner share one turn.
        """
        return self._turn.owner

    @owner.setter
    def owner(self, owner: Hashable) -> None:
        self._turn.owner = self._inflow.owner = self._codec.owner = owner

    # PingableStream

    @property
    def control_pending(self) -> bool:
        return bool(self._codec.control or (self._rest and not self._flushing))

    async def receive(self) -> bytes | BrokenMessage | None:
        codec = self._codec
        if codec.unfinished:  # the last read had several messages
            self._turn.count(perf_counter() - self._left)
            await self._turn.pause()
        message, self._message = self._message, None
        while message is None:
            if codec.unfinished:
                message = self._next_in_turn()
                if message is None and codec.unfinished:
                    await self._turn.give_way()
                    if trio.current_time() >= self._deadline:
                        self._end()
                        return None
            else:
                if self._inflow.wakeable and self._deadline == inf:
                    data = await self._inflow.receive()  # not by another function: each that waits takes 230 bytes
                else:
                    data = await self._receive_in_time()
                if data is None:
                    self._end()
                    return None
                if data:
                    self._add(data)
                message, self._message = self._message, None
        if codec.unfinished:
            self._left = perf_counter()
        return message

    async def send(self, messages: Sequence[bytes]) -> None:
        codec = self._codec
        parts = [self._rest, *codec.control, *codec.encode(messages)]
        is_end = b"" in codec.control
        self._rest, codec.control = b"", []
        await self._send_all(b"".join(parts))
        if is_end:
            await self._send_eof()

    def send_nowait(self, messages: Sequence[bytes]) -> bool:
        self._rest += b"".join(self._codec.encode(messages))
        if self._codec.control:
            return False  # rare, and possibly a close frame, after which the stream has to be closed
        if len(self._rest) < MAX_DEFERRED:
            self._flushing = self._flushing or self._inflow.at_end_of_turn(self._flush)
            if self._flushing:
                return True
        self._write_rest()
        return not self._rest

    def _flush(self) -> None:
        """Write the deferred frames at the end of the turn."""
        self._write_rest()
        if self._rest:
            self.on_control()

    def _write_rest(self) -> None:
        self._flushing = False
        self._rest = self._rest[write_now(self._stream, self._rest) :]

    def ping(self) -> None:
        self._codec.ping()
        self._attend()

    def close(self, code: int, reason: str) -> None:
        if self._codec.is_open:
            self._codec.close(code, reason)
            self._message = None
            self._attend()

    def abort(self) -> None:
        self._move_deadline(-inf)

    # Internals

    def _attend(self) -> None:
        """Heed the codec's deadline, and have its control frames sent."""
        codec = self._codec
        if not codec.attention:
            return
        codec.attention = False
        if codec.deadline != self._deadline and self._deadline > -inf:
            self._move_deadline(codec.deadline)
        if codec.control:
            self.on_control()

    def _add(self, data: bytes) -> bool:
        """Pass bytes to the codec. Returns whether a frame may be complete."""
        self.last_received = trio.current_time()
        return self._codec.receive(data)

    def _receive_now(self, data: bytes) -> bytes | None:
        """Read messages in the poller. The task in `receive` waits on if `on_message` handles all of them in time."""
        if not self._add(data):
            return None
        codec, stop = self._codec, self._inflow.stop
        while (message := self._next_message(stop)) is not None:
            if not self.on_message(message):
                self._message = message
                return b""
            if not codec.unfinished:
                return None
            if perf_counter() >= stop:
                return b""
        return b"" if codec.unfinished else None

    def _next_in_turn(self) -> bytes | BrokenMessage | None:
        """Return the next message, read in the task's own turn."""
        started = perf_counter()
        message = self._next_message(started + self._turn.left)
        self._turn.count(perf_counter() - started)
        return message

    def _next_message(self, stop: float) -> bytes | BrokenMessage | None:
        message = self._codec.next_message(stop)
        if self._codec.attention:
            self._attend()
        return message

    def _end(self) -> None:
        """End the protocol, because the peer is gone, or the connection has to be cut."""
        self._inflow.close()
        self._codec.receive_eof()
        self._attend()

    async def _receive_in_time(self) -> bytes | None:
        """Return received bytes, or `None` if the peer is gone, this side aborts, or no close frame comes in time."""
        with trio.CancelScope(deadline=self._deadline) as self._receiving:
            return await self._inflow.receive()
        if self._deadline > -inf and (message := self._codec.time_out()) is not None:
            self._message = message
            self._attend()
            return b""
        return None

    def _move_deadline(self, deadline: float) -> None:
        self._deadline = deadline
        if self._receiving is not None:
            self._receiving.deadline = deadline
        self._inflow.wake()

    async def _send_all(self, data: bytes) -> None:
        try:
            with trio.CancelScope(deadline=trio.current_time() + SEND_TIMEOUT) as scope:
                await self._stream.send_all(data)
        except trio.ClosedResourceError as exc:
            raise trio.BrokenResourceError("the peer is gone") from exc
        if scope.cancelled_caught:
            raise trio.BrokenResourceError("the peer does not read")

    async def _send_eof(self) -> None:
        if self._codec.has_peers_close:
            self.abort()  # both have sent a close frame: the server closes immediately (RFC 6455, section 7.1.1)
            return
        if not isinstance(self._stream, trio.abc.HalfCloseableStream):
            return  # TLS has no half-close
        try:
            await self._stream.send_eof()
        except trio.ClosedResourceError as exc:
            raise trio.BrokenResourceError from exc


def _not_taken(message: bytes | BrokenMessage) -> bool:
    """Leave a message to `receive`: the default of `on_message`."""
    return False


def _no_control() -> None:
    """Do nothing, so that control frames go out with the first message: the default of `on_control`."""
