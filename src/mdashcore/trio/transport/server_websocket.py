"""A WebSocket's server side on a Trio stream: `websockets`' sans-IO protocol and the bounds around it.

Nearly every frame is a whole text message. Those are read and written here; every other frame, and everything that is
wrong, is left to the library.
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
except ImportError:  # where there was no compiler
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
"""What is answered with 426, also to a valid token: the usual cause is the configuration of a proxy."""

READ_SIZE: Final = 2**14  # one shadow frame fits; a larger one takes several reads

SEND_TIMEOUT: Final = 30.0  # seconds one write may take: a peer that reads nothing for so long is gone

CLOSE_TIMEOUT: Final = 2.0  # seconds to wait for the peer's goodbye; shutdown has to be done in 5

MAX_DEFERRED: Final = 2**14  # bytes that wait for the end of a turn: a thousand listeners take 16 MB for it at most

CONTROL_RATE: Final = 10.0  # pings and pongs a second, for long: a peer sends one a second at most, and answers ours

CONTROL_BURST: Final = 100.0  # of them at once, after a silence: what a link has held back. Not sent on, their pongs
# take 40 KB until the peer, which does not read, is given up

TOO_MANY_CONTROL: Final = f"more than {CONTROL_RATE:g} pings and pongs a second"

_WHOLE_TEXT: Final = 0x81  # the first byte of a frame: FIN, no extension, text

_LENGTH_SIZE: Final = {126: 2, 127: 8}  # bytes of the length, where the second byte of a frame does not hold it

_SUBPROTOCOLS: Final = "Sec-WebSocket-Protocol"

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2: what a sub-protocol's name is

_log = logging.getLogger(__name__)

_logger = logging.getLogger("mdashcore.websocket")
_logger.setLevel(logging.WARNING)  # at DEBUG the library writes whole request lines, tokens included


class ServerWebSocket:
    """One WebSocket, from the request's head on. Implements `PingableStream`.

    No extensions are offered: compression would let a small frame become a very large one.

    Args:
        max_message: bytes; more, in one frame or in fragments, closes with 1009 before it is buffered.
        max_skipped: bytes of a frame beyond that which is passed over instead, if it comes whole and in `SKIP_TIMEOUT`.
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
        self._buffer = b""  # what came and is not taken yet; frames that came with the request
        self._start = 0  # where in it that begins
        self._unfinished = False  # whether more than a part of a frame may be there
        self._message: bytes | BrokenMessage | None = None  # was taken, and `on_message` left it
        self._parts: list[bytes] = []  # of a large frame, behind what is in the buffer
        self._missing = 0  # bytes of it that have not come yet
        self._skipped: SkippedFrame | None = None
        self._in_fragments = False
        self._fragments = bytearray()
        self._control: list[bytes] = []
        self._control_count = 0.0  # how many have come, less what the rate allows for the time since
        self._control_time = -inf
        self._turn = Turn()
        self._rest = b""  # of what was begun to be sent
        self._flushing = False  # whether that is sent at the end of this turn
        self._receiving: trio.CancelScope | None = None
        self._deadline = inf  # of all receiving, once one side has said goodbye
        self._flooded = False  # it was closed for what it sent: nothing of that is looked at any more
        self._left = 0.0  # when the last message was given out, on the clock of `time.perf_counter`
        self._deaf = False  # this side has ended the conversation: what the peer has sent since is not taken
        self.last_received: float = trio.current_time()
        self.on_control = _nobody
        self.on_message = _not_taken

    def limit(self, max_message: int, max_skipped: int) -> None:
        """Change both limits, before the handshake is accepted."""
        self._protocol = Protocol(Side.SERVER, state=State.CONNECTING, max_size=max_message, logger=_logger)
        self._max_message = max_message
        self._max_skipped = max_skipped

    # The handshake

    def feed(self, data: bytes) -> Request | None:
        """Take the head of the handshake request, whole, with what came behind it; None if it cannot be read."""
        head, end, self._buffer = data.partition(b"\r\n\r\n")
        handshake = self._handshake = ServerProtocol(extensions=None, logger=_logger)
        handshake.receive_data(head + end)
        if handshake.handshake_exc is None:
            for event in handshake.events_received():
                if isinstance(event, Request):
                    return event
        return None

    async def accept(self, request: Request) -> bool:
        """Answer the request with 101; False if it is no valid handshake, which has then been refused."""
        handshake, self._handshake = self._handshake, None  # it holds all headers: more than all that is kept
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
        """Whose work it is to take what comes; `None` for a stranger's. All sockets of an owner share one turn."""
        return self._turn.owner

    @owner.setter
    def owner(self, owner: Hashable) -> None:
        self._turn.owner = self._inflow.owner = owner

    # PingableStream

    @property
    def control_pending(self) -> bool:
        return bool(self._control or (self._rest and not self._flushing))

    async def receive(self) -> bytes | BrokenMessage | None:
        if self._unfinished:  # a read full of messages
            self._turn.count(perf_counter() - self._left)
            await self._turn.pause()
        message, self._message = self._message, None
        while message is None:
            if self._unfinished:
                message = self._take_in_turn()
                if message is None and self._unfinished:
                    await self._turn.give_way()
                    if trio.current_time() >= self._deadline:
                        self._end()
                        return None
            else:
                if self._inflow.wakeable and self._deadline == inf:
                    data = await self._inflow.receive()  # no call between: each that waits takes 230 bytes
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
        is_end = b"" in self._control  # the protocol's sign for the end of what we send
        self._rest, self._control = b"", []
        await self._send_all(b"".join(parts))
        if is_end:
            await self._send_eof()

    def send_nowait(self, messages: Sequence[bytes]) -> bool:
        self._rest += b"".join(self._encode(messages))
        if self._control:
            return False  # rare, and perhaps a goodbye, after which the stream has to be closed
        if len(self._rest) < MAX_DEFERRED:
            self._flushing = self._flushing or self._inflow.at_end_of_turn(self._flush)
            if self._flushing:
                return True
        self._write_rest()
        return not self._rest

    def _flush(self) -> None:
        """The end of the turn."""
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

    # Inside

    def _encode(self, messages: Sequence[bytes]) -> Iterable[bytes]:
        return map(_text_frame, messages) if self._protocol.state is State.OPEN else ()

    def _add(self, data: bytes) -> bool:
        """Keep what has come until it is taken; whether a frame may be complete."""
        self.last_received = trio.current_time()
        if self._flooded:
            return False
        if self._missing > len(data):  # to join it with what is there would take longer with each piece
            self._parts.append(data)
            self._missing -= len(data)
            return False
        if self._missing:
            data = b"".join([*self._parts, data])
            self._parts, self._missing = [], 0
        self._buffer, self._start, self._unfinished = self._buffer[self._start :] + data, 0, True
        return True

    def _take_now(self, data: bytes) -> bytes | None:
        """Take bytes while somebody waits in `receive`, who stays there if `on_message` takes all messages in time."""
        if not self._add(data):
            return None
        stop = self._inflow.stop
        while (message := self._take(stop)) is not None:
            if not self.on_message(message):
                self._message = message
                return b""
            if not self._unfinished:
                return None
            if perf_counter() >= stop:
                return b""
        return b"" if self._unfinished else None

    def _take_in_turn(self) -> bytes | BrokenMessage | None:
        """The same in the task's own turn: the next message."""
        started = perf_counter()
        message = self._take(started + self._turn.left)
        self._turn.count(perf_counter() - started)
        return message

    def _take(self, stop: float) -> bytes | BrokenMessage | None:
        """The next message of what has come: a whole text right here, each other frame by way of the library.

        Args:
            stop: when to leave the rest, on the clock of `time.perf_counter`.

        Returns:
            `None` where there is none yet. Then `_unfinished` says whether there may be one in the rest.
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
                if second >= 0x80 and first == _WHOLE_TEXT and self._takes_text():
                    if size < head + 4:
                        break
                    self._skipped = SkippedFrame(data[head : head + 4], length)
                    if length <= self._max_skipped:
                        self._move_deadline(min(self._deadline, trio.current_time() + SKIP_TIMEOUT))
                        start, message = self._skip(data, head + 4)
                        self._unfinished = message is not None and start < size
                        break
                    self._skipped.take(data, head + 4)
                self._protocol.receive_data(data[start:])  # which ends the connection
                message = self._take_events()
                start = size
                break
            if size < end:
                if end - size > READ_SIZE:
                    self._missing = end - size
                break
            if first == _WHOLE_TEXT and self._takes_text():
                message = self._checked(apply_mask(data[head + 4 : end], data[head : head + 4]))
            else:
                self._protocol.receive_data(data[start:end])
                message = self._take_events()
                if self._flooded:  # what else it has sent is not looked at
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
        """The peer is gone, or to be gone."""
        self._inflow.close()
        if rest := self._buffer[self._start :]:
            self._protocol.receive_data(rest + b"".join(self._parts))
            self._buffer, self._start, self._unfinished = b"", 0, False
        self._parts, self._missing = [], 0
        self._protocol.receive_eof()
        self._queue_control()

    async def _receive_in_time(self) -> bytes | None:
        """What the peer sent; None when it is gone, when this side aborts, or when no goodbye comes."""
        with trio.CancelScope(deadline=self._deadline) as self._receiving:
            return await self._inflow.receive()
        if self._skipped is not None and self._deadline > -inf and self._protocol.state is State.OPEN:
            self._message, self._skipped = self._skipped.message(), None
            self._fail(CloseCode.MESSAGE_TOO_BIG, f"a large message did not come within {SKIP_TIMEOUT:g} s")
            self._deadline = inf
            self._closing()
            return b""
        return None

    def _takes_text(self) -> bool:
        """Whether a text may begin now."""
        return not self._in_fragments and self._protocol.state is State.OPEN

    def _skip(self, data: bytes, start: int) -> tuple[int, BrokenMessage | None]:
        """Pass over what has come of a frame: where the rest of `data` begins, and at its end what to tell of it."""
        frame = self._skipped
        assert frame is not None  # noqa: S101 - for the type checker
        start = frame.take(data, start)
        if frame.missing:
            return start, None
        self._skipped = None
        if self._protocol.state is not State.OPEN:
            return start, None
        if self._deadline > -inf:
            self._move_deadline(inf)
        return start, frame.message()

    def _take_events(self) -> bytes | BrokenMessage | None:
        """Take the one frame that the library was given: the message that it completes."""
        message: bytes | BrokenMessage | None = None
        for frame in self._protocol.events_received():
            assert isinstance(frame, Frame)  # noqa: S101 - the request came first, and once
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
        """A message, if there is one to be told of."""
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
        """One side has said goodbye: the other gets a moment to do so too."""
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
            self.abort()  # both have said goodbye: the server closes at once (RFC 6455, section 7.1.1)
            return
        if not isinstance(self._stream, trio.abc.HalfCloseableStream):
            return  # TLS cannot be closed by half
        try:
            await self._stream.send_eof()
        except trio.ClosedResourceError as exc:
            raise trio.BrokenResourceError from exc


def _answer(handshake: ServerProtocol, request: Request) -> Response:
    """The response to a handshake: 101 with the first sub-protocol that is offered, or what is wrong."""
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
    """A whole, unmasked text frame (RFC 6455, section 5.2)."""
    size = len(message)
    if size < 126:
        return b"%c%c%b" % (_WHOLE_TEXT, size, message)
    if size < 2**16:
        return b"%c\x7e%b%b" % (_WHOLE_TEXT, size.to_bytes(2, "big"), message)
    return b"%c\x7f%b%b" % (_WHOLE_TEXT, size.to_bytes(8, "big"), message)


def _not_taken(message: bytes | BrokenMessage) -> bool:
    """Before anyone takes messages at once, they wait for `receive`."""
    return False


def _nobody() -> None:
    """Before anyone listens, what waits is sent with the first message."""
