"""The frames of a WebSocket's server side, without I/O: `websockets`' protocol, with bounds.

Nearly every frame is a whole text message, a ping or a pong. This module reads and writes those itself, and leaves
every other frame, and every error, to the library. Its protocol takes 2 KB, so it is made when it is needed.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable, Sequence
from math import inf
from time import perf_counter
from typing import Final

import trio
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import Protocol, Side, State

try:
    from websockets.speedups import apply_mask
except ImportError:  # installed without a compiler
    from websockets.utils import apply_mask

from mdashcore._events import BINARY, NOT_UTF8, TOO_LARGE
from mdashcore._salvage import END_SIZE
from mdashcore.trio.transport.skipped import SKIP_TIMEOUT, SkippedFrame
from mdashcore.trio.transport.stream import READ_SIZE, BrokenMessage

__all__ = ["LIBRARY_LOGGER", "FrameCodec"]

CLOSE_TIMEOUT: Final = 2.0  # seconds to wait for the peer's close frame; shutdown has to be done in 5

CONTROL_RATE: Final = 10.0  # pings and pongs a second, over a long time: a peer sends one ping a second, and one pong

CONTROL_BURST: Final = 100.0  # of them together after a silence: those that a link has held back. Until the peer, which
# does not read, is closed, their unsent pongs take 40 KB

TOO_MANY_CONTROL: Final = f"more than {CONTROL_RATE:g} pings and pongs a second"

_WHOLE_TEXT: Final = 0x81  # the first byte of a frame: FIN, no extension, text

_PING: Final = 0x89  # the same for pings and pongs
_PONG: Final = 0x8A

_LENGTH_SIZE: Final = {126: 2, 127: 8}  # bytes of the length, if the second byte of a frame does not hold it

_log = logging.getLogger(__name__)

LIBRARY_LOGGER: Final = logging.getLogger("mdashcore.websocket")
LIBRARY_LOGGER.setLevel(logging.WARNING)  # at DEBUG the library writes whole request lines, tokens included


class FrameCodec:
    """The frames of one WebSocket. Its owner passes on the bytes that arrive, and takes messages and frames out.

    After every call except `encode` the owner has to look at `attention`. Deadlines are on Trio's clock.

    Args:
        max_message: bytes; a larger frame or sum of fragments closes with 1009 before it is buffered.
        max_skipped: bytes of a frame beyond that limit which is skipped instead, if all of it comes in `SKIP_TIMEOUT`.
    """

    __slots__ = (
        "_buffer",
        "_control_count",
        "_control_time",
        "_deaf",
        "_flooded",
        "_fragments",
        "_in_fragments",
        "_max_message",
        "_max_skipped",
        "_missing",
        "_parts",
        "_protocol_made",
        "_skipped",
        "_start",
        "_state",
        "attention",
        "control",
        "deadline",
        "owner",
        "unfinished",
    )

    def __init__(self, max_message: int, max_skipped: int) -> None:
        self._max_message = max_message
        self._max_skipped = max_skipped
        self._protocol_made: Protocol | None = None
        self._state = State.CONNECTING  # until the library's protocol is made, which then has it
        self._buffer = b""  # bytes that were not read as frames yet
        self._start = 0  # index in it at which those begin
        self._parts: list[bytes] = []  # of a large frame, after those in the buffer
        self._missing = 0  # bytes of it that have not come yet
        self._skipped: SkippedFrame | None = None
        self._in_fragments = False
        self._fragments = bytearray()
        self._control_count = 0.0  # pings and pongs that have come, less the number that the rate allows since
        self._control_time = -inf
        self._flooded = False  # whether it was closed for too many control frames: no more bytes of the peer are read
        self._deaf = False  # whether this side has closed the connection: later messages of the peer are dropped
        self.unfinished: bool = False
        """Whether the bytes so far may have another message, or at least more than a part of a frame."""
        self.control: list[bytes] = []
        """Control frames to be sent, of which the owner empties the list; an empty one is the end of all sent bytes."""
        self.deadline: float = inf
        """When to call `time_out`, unless it moves before."""
        self.attention: bool = False
        """Whether `control` or `deadline` has changed. The owner resets it."""
        self.owner: Hashable = None
        """The peer's account, for the log."""

    @property
    def _protocol(self) -> Protocol:
        """The library's protocol, which is made at the first use."""
        if self._protocol_made is None:
            self._protocol_made = Protocol(
                Side.SERVER, state=self._state, max_size=self._max_message, logger=LIBRARY_LOGGER
            )
        return self._protocol_made

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent: after the handshake, and before either side has sent a close frame."""
        return (self._state if self._protocol_made is None else self._protocol_made.state) is State.OPEN

    def open(self) -> None:
        """Begin to read frames. The handshake is over."""
        self._state = State.OPEN

    # Out

    def encode(self, messages: Sequence[bytes]) -> Iterable[bytes]:
        """Return the frames of messages; none if the socket is not open."""
        return map(_text_frame, messages) if self.is_open else ()

    def ping(self) -> None:
        """Send a ping."""
        if self.is_open:
            self._send_control(_PING, b"")

    def close(self, code: int, reason: str) -> None:
        """Send a close frame. Later messages of the peer are dropped."""
        if self.is_open:
            self._protocol.send_close(code, reason)
            self._deaf = True
            self._closing()

    # In

    def receive(self, data: bytes) -> bool:
        """Buffer bytes. Returns whether a frame may be complete."""
        if self._flooded:
            return False
        if self._missing > len(data):  # joining each piece with the buffer would take time quadratic in their number
            self._parts.append(data)
            self._missing -= len(data)
            return False
        if self._missing:
            data = b"".join([*self._parts, data])
            self._parts, self._missing = [], 0
        self._buffer, self._start, self.unfinished = self._buffer[self._start :] + data, 0, True
        return True

    def receive_eof(self) -> None:
        """Read the rest as far as it goes, and end: the peer is gone, or the connection has to be cut."""
        if rest := self._buffer[self._start :]:
            self._protocol.receive_data(rest + b"".join(self._parts))
            self._buffer, self._start, self.unfinished = b"", 0, False
        self._parts, self._missing = [], 0
        if self._protocol_made is None:
            self._state = State.CLOSED  # the owner closes the stream next, which also ends the sent bytes
        else:
            self._protocol.receive_eof()
            self._queue_control()

    def time_out(self) -> BrokenMessage | None:
        """Close the socket because a skipped frame has not come in time. Returns its message; `None` without one."""
        if self._skipped is None or not self.is_open:
            return None
        message, self._skipped = self._skipped.message(), None
        self._fail(CloseCode.MESSAGE_TOO_BIG, f"a large message did not come within {SKIP_TIMEOUT:g} s")
        self.deadline = inf
        self._closing()
        return message

    def next_message(self, stop: float) -> bytes | BrokenMessage | None:
        """Return the next message of the buffer. Whole texts are read here, all other frames by the library.

        Args:
            stop: time at which to leave the rest, on the clock of `time.perf_counter`.

        Returns:
            The message, or `None` if there is none yet. Then `unfinished` says whether the rest may have one.
        """
        data, start, size = self._buffer, self._start, len(self._buffer)
        message: bytes | BrokenMessage | None = None
        self.unfinished = False
        if self._skipped is not None:
            start, message = self._skip(data, start)
            self.unfinished = message is not None and start < size
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
                        self._move_deadline(min(self.deadline, trio.current_time() + SKIP_TIMEOUT))
                        start, message = self._skip(data, head + 4)
                        self.unfinished = message is not None and start < size
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
            elif first in (_PING, _PONG) and length <= 125 and self.is_open:
                if first == _PING:
                    self._send_control(_PONG, apply_mask(data[head + 4 : end], data[head : head + 4]))
                self._count_control()
                if self._flooded:
                    start = size
                    break
            else:
                self._protocol.receive_data(data[start:end])
                message = self._handle_frame()
                if self._flooded:
                    start = size
                    break
            start = end
            if message is not None or (start < size and perf_counter() >= stop):
                self.unfinished = start < size
                break
        if self.unfinished:
            self._start = start
        else:
            self._buffer, self._start = data[start:], 0
        return message

    def _accepts_text(self) -> bool:
        """Return whether a text message may begin now."""
        return not self._in_fragments and self.is_open

    def _skip(self, data: bytes, start: int) -> tuple[int, BrokenMessage | None]:
        """Skip bytes of a frame. Returns the index of the rest of `data`, and at the frame's end its message."""
        frame = self._skipped
        assert frame is not None  # noqa: S101 - for the type checker
        start = frame.receive(data, start)
        if frame.missing:
            return start, None
        self._skipped = None
        if not self.is_open:
            return start, None
        self._move_deadline(inf)
        return start, frame.message()

    def _handle_frame(self) -> bytes | BrokenMessage | None:
        """Handle the one frame that the library has read. Returns the message that it completes."""
        message: bytes | BrokenMessage | None = None
        for frame in self._protocol.events_received():
            assert isinstance(frame, Frame)  # noqa: S101 - the handshake is over
            if frame.opcode is Opcode.BINARY:
                if not self._deaf:
                    data = bytes(frame.data)
                    message = BrokenMessage(BINARY, len(data), data[:END_SIZE], data[-END_SIZE:])
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
        if self.is_open:
            self._queue_control()
        else:
            if not self._deaf and (said := self._protocol.close_sent) and said.code == CloseCode.MESSAGE_TOO_BIG:
                head = bytes(self._fragments[:END_SIZE])
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
            return BrokenMessage(NOT_UTF8, len(message), message[:END_SIZE], message[-END_SIZE:])
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
        if self.deadline > deadline:
            self._move_deadline(deadline)
        self._queue_control()

    def _move_deadline(self, deadline: float) -> None:
        self.deadline = deadline
        self.attention = True

    def _send_control(self, kind: int, payload: bytes) -> None:
        self.control.append(b"%c%c%b" % (kind, len(payload), payload))
        self.attention = True

    def _queue_control(self) -> None:
        if parts := self._protocol.data_to_send():
            self.control += parts
            self.attention = True

    @property
    def has_peers_close(self) -> bool:
        """Whether the peer has sent a close frame."""
        return self._protocol_made is not None and self._protocol_made.close_rcvd is not None


def _text_frame(message: bytes) -> bytes:
    """Return a whole, unmasked text frame (RFC 6455, section 5.2)."""
    size = len(message)
    if size < 126:
        return b"%c%c%b" % (_WHOLE_TEXT, size, message)
    if size < 2**16:
        return b"%c\x7e%b%b" % (_WHOLE_TEXT, size.to_bytes(2, "big"), message)
    return b"%c\x7f%b%b" % (_WHOLE_TEXT, size.to_bytes(8, "big"), message)
