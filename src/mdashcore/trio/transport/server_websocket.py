"""A WebSocket's server side on a Trio stream: `websockets`' sans-IO protocol, with bounds.

Nearly every frame is a whole text message. This module reads and writes those itself, and leaves every other frame, and
every error, to the library.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from http import HTTPStatus
from math import inf
from time import perf_counter
from typing import Final

import trio
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import Protocol, Side, State
from websockets.server import ServerProtocol

try:
    from websockets.speedups import apply_mask
except ImportError:  # installed without a compiler
    from websockets.utils import apply_mask

from mdashcore import _json
from mdashcore._connection import ConnectionLimits
from mdashcore._events import BINARY, NOT_UTF8, TOO_LARGE
from mdashcore._salvage import ENDS
from mdashcore.trio.transport.readiness import Inflow
from mdashcore.trio.transport.skipped import SKIP_TIMEOUT, SkippedFrame
from mdashcore.trio.transport.stream import BrokenMessage, write_now
from mdashcore.trio.turns import Turn

__all__ = ["NO_HANDSHAKE", "Request", "ServerWebSocket"]

NO_HANDSHAKE: Final = (
    "a WebSocket handshake is expected here. If the client did send one, a proxy on the way has not passed it on: "
    "it has to forward the headers Upgrade and Connection, over HTTP/1.1"
)
"""The message of a 426 answer, also to a valid token: the usual cause is the configuration of a proxy."""

READ_SIZE: Final = 2**14  # bytes: one shadow frame fits; a larger one takes several reads

SEND_TIMEOUT: Final = 30.0  # seconds one write may take: a peer that reads nothing for so long is gone

CLOSE_TIMEOUT: Final = 2.0  # seconds to wait for the peer's close frame; shutdown has to be done in 5

MAX_DEFERRED: Final = 2**14  # bytes that wait for the end of a turn: 16 MB at most for a thousand subscribers

CONTROL_RATE: Final = 10.0  # pings and pongs a second, over a long time: a peer sends one ping a second, and one pong

CONTROL_BURST: Final = 100.0  # of them together after a silence: those that a link has held back. Until the peer, which
# does not read, is closed, their unsent pongs take 40 KB

TOO_MANY_CONTROL: Final = f"more than {CONTROL_RATE:g} pings and pongs a second"

_WHOLE_TEXT: Final = 0x81  # the first byte of a frame: FIN, no extension, text

_LENGTH_SIZE: Final = {126: 2, 127: 8}  # bytes of the length, if the second byte of a frame does not hold it

_SUBPROTOCOLS: Final = "Sec-WebSocket-Protocol"

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2: the name of a sub-protocol

_log = logging.getLogger(__name__)

_logger = logging.getLogger("mdashcore.websocket")
_logger.setLevel(logging.WARNING)  # at DEBUG the library writes whole request lines, tokens included


class ServerWebSocket:
    """One WebSocket, from the request's head on. Implements `PingableStream`.

    No extensions are offered: compression would let a small frame become a very large one.

    Args:
        max_message: bytes; a larger frame or sum of fragments closes with 1009 before it is buffered.
        max_skipped: bytes of a frame beyond that limit which is skipped instead, if all of it comes in `SKIP_TIMEOUT`.
    """

    __slots__ = (
        "_buffer",
        "_control",
        "_control_count",
        "_control_time",
        "_deadline",
        "_deaf",
        "_flooded",
        "_flushing",
        "_fragments",
        "_handshake",
        "_in_fragments",
        "_inflow",
        "_left",
        "_max_message",
        "_max_skipped",
        "_message",
        "_missing",
        "_parts",
        "_protocol",
        "_receiving",
        "_rest",
        "_skipped",
        "_start",
        "_stream",
        "_turn",
        "_unfinished",
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
        self._handshake: ServerProtocol | None = None
        self.limit(max_message, max_skipped)
        self._buffer = b""  # bytes that were not read as frames yet; frames that came with the request
        self._start = 0  # index in it at which those begin
        self._unfinished = False  # whether more than a part of a frame may be there
        self._message: bytes | BrokenMessage | None = None  # a message for which `on_message` has returned `False`
        self._parts: list[bytes] = []  # of a large frame, after those in the buffer
        self._missing = 0  # bytes of it that have not come yet
        self._skipped: SkippedFrame | None = None
        self._in_fragments = False
        self._fragments = bytearray()
        self._control: list[bytes] = []
        self._control_count = 0.0  # pings and pongs that have come, less the number that the rate allows since
        self._control_time = -inf
        self._turn = Turn()
        self._rest = b""  # the unsent rest of a write
        self._flushing = False  # whether that is sent at the end of this turn
        self._receiving: trio.CancelScope | None = None
        self._deadline = inf  # of all receiving, once one side has sent a close frame
        self._flooded = False  # whether it was closed for too many control frames: no more bytes of it are read
        self._left = 0.0  # when the last message was returned, on the clock of `time.perf_counter`
        self._deaf = False  # whether this side has closed the connection: later messages of the peer are dropped
        self.last_received: float = trio.current_time()
        self.on_control = _nobody
        self.on_message = _not_taken

    def limit(self, max_message: int, max_skipped: int) -> None:
        """Change both limits before the handshake is accepted."""
        self._protocol = Protocol(Side.SERVER, state=State.CONNECTING, max_size=max_message, logger=_logger)
        self._max_message = max_message
        self._max_skipped = max_skipped

    # The handshake

    def feed(self, data: bytes) -> Request | None:
        """Read the whole head of the handshake request, with the bytes after it. Returns `None` if it is invalid."""
        head, end, self._buffer = data.partition(b"\r\n\r\n")
        handshake = self._handshake = ServerProtocol(extensions=None, logger=_logger)
        handshake.receive_data(head + end)
        if handshake.handshake_exc is None:
            for event in handshake.events_received():
                if isinstance(event, Request):
                    return event
        return None

    async def accept(self, request: Request) -> bool:
        """Answer the request with 101. Returns `False` if the handshake is invalid, and was refused."""
        handshake, self._handshake = self._handshake, None  # it holds all headers, which take most of the memory
        if handshake is None:
            raise ValueError("accept what feed has returned, once")
        handshake.send_response(_answer(handshake, request))
        data = b"".join(handshake.data_to_send())
        if (sent := write_now(self._stream, data)) < len(data):
            await self._send_all(data[sent:])
        if handshake.state is not State.OPEN:
            return False
        self._protocol.state = State.OPEN
        self._unfinished = bool(self._buffer)
        self._inflow.take = self._take_now
        return True

    @property
    def owner(self) -> Hashable:
        """Owner of the work that incoming bytes cause; `None` for an unauthenticated peer's.

        All sockets of an owner share one turn.
        """
        return self._turn.owner

    @owner.setter
    def owner(self, owner: Hashable) -> None:
        self._turn.owner = self._inflow.owner = owner

    # PingableStream

    @property
    def control_pending(self) -> bool:
        return bool(self._control or (self._rest and not self._flushing))

    async def receive(self) -> bytes | BrokenMessage | None:
        if self._unfinished:  # the last read had several messages
            self._turn.count(perf_counter() - self._left)
            await self._turn.pause()
        message, self._message = self._message, None
        while message is None:
            if self._unfinished:
                message = self._next_in_turn()
                if message is None and self._unfinished:
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
        if self._unfinished:
            self._left = perf_counter()
        return message

    async def send(self, messages: Sequence[bytes]) -> None:
        parts = [self._rest, *self._control, *self._encode(messages)]
        is_end = b"" in self._control  # the protocol's sign for the end of the sent bytes
        self._rest, self._control = b"", []
        await self._send_all(b"".join(parts))
        if is_end:
            await self._send_eof()

    def send_nowait(self, messages: Sequence[bytes]) -> bool:
        self._rest += b"".join(self._encode(messages))
        if self._control:
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
        if self._protocol.state is State.OPEN:
            self._protocol.send_ping(b"")
            self._queue_control()

    def close(self, code: int, reason: str) -> None:
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(code, reason)
            self._deaf = True
            self._message = None
            self._closing()

    def abort(self) -> None:
        self._move_deadline(-inf)

    # Internals

    def _encode(self, messages: Sequence[bytes]) -> Iterable[bytes]:
        return map(_text_frame, messages) if self._protocol.state is State.OPEN else ()

    def _add(self, data: bytes) -> bool:
        """Buffer bytes. Returns whether a frame may be complete."""
        self.last_received = trio.current_time()
        if self._flooded:
            return False
        if self._missing > len(data):  # joining each piece with the buffer would take time quadratic in their number
            self._parts.append(data)
            self._missing -= len(data)
            return False
        if self._missing:
            data = b"".join([*self._parts, data])
            self._parts, self._missing = [], 0
        self._buffer, self._start, self._unfinished = self._buffer[self._start :] + data, 0, True
        return True

    def _take_now(self, data: bytes) -> bytes | None:
        """Read messages in the poller. The task in `receive` waits on if `on_message` handles all of them in time."""
        if not self._add(data):
            return None
        stop = self._inflow.stop
        while (message := self._next_message(stop)) is not None:
            if not self.on_message(message):
                self._message = message
                return b""
            if not self._unfinished:
                return None
            if perf_counter() >= stop:
                return b""
        return b"" if self._unfinished else None

    def _next_in_turn(self) -> bytes | BrokenMessage | None:
        """Return the next message, read in the task's own turn."""
        started = perf_counter()
        message = self._next_message(started + self._turn.left)
        self._turn.count(perf_counter() - started)
        return message

    def _next_message(self, stop: float) -> bytes | BrokenMessage | None:
        """Return the next message of the buffer. Whole texts are read here, all other frames by the library.

        Args:
            stop: time at which to leave the rest, on the clock of `time.perf_counter`.

        Returns:
            The message, or `None` if there is none yet. Then `_unfinished` says whether the rest may have one.
        """
        data, start, size = self._buffer, self._start, len(self._buffer)
        message: bytes | BrokenMessage | None = None
        self._unfinished = False
        if self._skipped is not None:
            start, message = self._skip(data, start)
            self._unfinished = message is not None and start < size
        while message is None and size - start >= 2:
            first, second = data[start], data[start + 1]
            length = second & 0x7F
            head = start + 2 + _LENGTH_SIZE.get(length, 0)
            if size < head:
                break
            if length > 125:
                length = int.from_bytes(data[start + 2 : head], "big")
            end = head + 4 + length
            if second < 0x80 or length > self._max_message:
                if second >= 0x80 and first == _WHOLE_TEXT and self._accepts_text():
                    if size < head + 4:
                        break
                    self._skipped = SkippedFrame(data[head : head + 4], length)
                    if length <= self._max_skipped:
                        self._move_deadline(min(self._deadline, trio.current_time() + SKIP_TIMEOUT))
                        start, message = self._skip(data, head + 4)
                        self._unfinished = message is not None and start < size
                        break
                    self._skipped.receive(data, head + 4)
                self._protocol.receive_data(data[start:])  # the library then closes the connection
                message = self._handle_frame()
                start = size
                break
            if size < end:
                if end - size > READ_SIZE:
                    self._missing = end - size
                break
            if first == _WHOLE_TEXT and self._accepts_text():
                message = self._checked(apply_mask(data[head + 4 : end], data[head : head + 4]))
            else:
                self._protocol.receive_data(data[start:end])
                message = self._handle_frame()
                if self._flooded:  # no more bytes of the peer are read
                    start = size
                    break
            start = end
            if message is not None or (start < size and perf_counter() >= stop):
                self._unfinished = start < size
                break
        if self._unfinished:
            self._start = start
        else:
            self._buffer, self._start = data[start:], 0
        return message

    def _end(self) -> None:
        """End the protocol, because the peer is gone, or the connection has to be cut."""
        self._inflow.close()
        if rest := self._buffer[self._start :]:
            self._protocol.receive_data(rest + b"".join(self._parts))
            self._buffer, self._start, self._unfinished = b"", 0, False
        self._parts, self._missing = [], 0
        self._protocol.receive_eof()
        self._queue_control()

    async def _receive_in_time(self) -> bytes | None:
        """Return received bytes, or `None` if the peer is gone, this side aborts, or no close frame comes in time."""
        with trio.CancelScope(deadline=self._deadline) as self._receiving:
            return await self._inflow.receive()
        if self._skipped is not None and self._deadline > -inf and self._protocol.state is State.OPEN:
            self._message, self._skipped = self._skipped.message(), None
            self._fail(CloseCode.MESSAGE_TOO_BIG, f"a large message did not come within {SKIP_TIMEOUT:g} s")
            self._deadline = inf
            self._closing()
            return b""
        return None

    def _accepts_text(self) -> bool:
        """Return whether a text message may begin now."""
        return not self._in_fragments and self._protocol.state is State.OPEN

    def _skip(self, data: bytes, start: int) -> tuple[int, BrokenMessage | None]:
        """Skip bytes of a frame. Returns the index of the rest of `data`, and at the frame's end its message."""
        frame = self._skipped
        assert frame is not None  # noqa: S101 - for the type checker
        start = frame.receive(data, start)
        if frame.missing:
            return start, None
        self._skipped = None
        if self._protocol.state is not State.OPEN:
            return start, None
        if self._deadline > -inf:
            self._move_deadline(inf)
        return start, frame.message()

    def _handle_frame(self) -> bytes | BrokenMessage | None:
        """Handle the one frame that the library has read. Returns the message that it completes."""
        message: bytes | BrokenMessage | None = None
        for frame in self._protocol.events_received():
            assert isinstance(frame, Frame)  # noqa: S101 - the only request came first
            if frame.opcode is Opcode.BINARY:
                if not self._deaf:
                    data = bytes(frame.data)
                    message = BrokenMessage(BINARY, len(data), data[:ENDS], data[-ENDS:])
                self._fail(CloseCode.UNSUPPORTED_DATA, "text frames only")
            elif frame.opcode is Opcode.TEXT or frame.opcode is Opcode.CONT:
                self._in_fragments = not frame.fin
                self._fragments += frame.data
                if frame.fin:
                    whole = bytes(self._fragments)
                    self._fragments.clear()
                    message = self._checked(whole)
            elif frame.opcode is not Opcode.CLOSE:
                self._count_control()
        if self._protocol.state is State.OPEN:
            self._queue_control()
        else:
            if not self._deaf and (said := self._protocol.close_sent) and said.code == CloseCode.MESSAGE_TOO_BIG:
                head = bytes(self._fragments[:ENDS])
                message = BrokenMessage(TOO_LARGE, None, head) if self._skipped is None else self._skipped.message()
                self._deaf, self._skipped = True, None
            self._closing()
        return message

    def _checked(self, message: bytes) -> bytes | BrokenMessage | None:
        """Return a message as valid or broken, or `None` if this side has closed the connection."""
        if self._deaf:
            return None
        try:
            message.decode()
        except UnicodeDecodeError:
            self._fail(CloseCode.INVALID_DATA, "not UTF-8")
            self._closing()
            return BrokenMessage(NOT_UTF8, len(message), message[:ENDS], message[-ENDS:])
        return message

    def _count_control(self) -> None:
        """Close the socket of a peer that sends pings or pongs all the time."""
        now = trio.current_time()
        self._control_count = max(0.0, self._control_count - CONTROL_RATE * (now - self._control_time)) + 1.0
        self._control_time = now
        if self._control_count > CONTROL_BURST and not self._flooded:
            _log.warning("a socket of %s is closed: %s", self.owner, TOO_MANY_CONTROL)
            self.close(CloseCode.POLICY_VIOLATION, TOO_MANY_CONTROL)
            self._flooded = True

    def _fail(self, code: CloseCode, reason: str) -> None:
        self._deaf = True
        self._protocol.fail(code, reason)

    def _closing(self) -> None:
        """Give the other side a moment for its close frame, after one side has sent one."""
        deadline = trio.current_time() + CLOSE_TIMEOUT
        if self._deadline > deadline:
            self._move_deadline(deadline)
        self._queue_control()

    def _move_deadline(self, deadline: float) -> None:
        self._deadline = deadline
        if self._receiving is not None:
            self._receiving.deadline = deadline
        self._inflow.wake()

    def _queue_control(self) -> None:
        parts = self._protocol.data_to_send()
        if not parts:
            return
        self._control += parts
        self.on_control()

    async def _send_all(self, data: bytes) -> None:
        try:
            with trio.CancelScope(deadline=trio.current_time() + SEND_TIMEOUT) as scope:
                await self._stream.send_all(data)
        except trio.ClosedResourceError as exc:
            raise trio.BrokenResourceError("the peer is gone") from exc
        if scope.cancelled_caught:
            raise trio.BrokenResourceError("the peer does not read")

    async def _send_eof(self) -> None:
        if self._protocol.close_rcvd is not None:
            self.abort()  # both have sent a close frame: the server closes immediately (RFC 6455, section 7.1.1)
            return
        if not isinstance(self._stream, trio.abc.HalfCloseableStream):
            return  # TLS has no half-close
        try:
            await self._stream.send_eof()
        except trio.ClosedResourceError as exc:
            raise trio.BrokenResourceError from exc


def _answer(handshake: ServerProtocol, request: Request) -> Response:
    """Return the response to a handshake: 101 with the first sub-protocol that is offered, or an error."""
    offered = request.headers.get_all(_SUBPROTOCOLS)
    if offered:
        del request.headers[_SUBPROTOCOLS]  # the library would refuse a device for an odd one
    response = handshake.accept(request)
    if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
        names = (name.strip(" \t") for value in offered for name in value.split(","))
        if (first := next(filter(_TOKEN.fullmatch, names), None)) is not None:
            response.headers[_SUBPROTOCOLS] = first
    elif response.status_code == HTTPStatus.UPGRADE_REQUIRED:
        body = _json.encode({"error": {"code": response.status_code, "message": NO_HANDSHAKE}})
        for name, value in (("Content-Type", "application/json"), ("Content-Length", str(len(body)))):
            del response.headers[name]
            response.headers[name] = value
        response.body = body
    return response


def _text_frame(message: bytes) -> bytes:
    """Return a whole, unmasked text frame (RFC 6455, section 5.2)."""
    size = len(message)
    if size < 126:
        return b"%c%c%b" % (_WHOLE_TEXT, size, message)
    if size < 2**16:
        return b"%c\x7e%b%b" % (_WHOLE_TEXT, size.to_bytes(2, "big"), message)
    return b"%c\x7f%b%b" % (_WHOLE_TEXT, size.to_bytes(8, "big"), message)


def _not_taken(message: bytes | BrokenMessage) -> bool:
    """Leave a message to `receive`: the default of `on_message`."""
    return False


def _nobody() -> None:
    """Do nothing, so that control frames go out with the first message: the default of `on_control`."""
