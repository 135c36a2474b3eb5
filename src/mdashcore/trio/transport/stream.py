"""The interfaces of message streams, over which a `Link` can run."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from math import inf
from typing import Final, NamedTuple, Protocol, cast

import trio

__all__ = [
    "READ_SIZE",
    "SEND_TIMEOUT",
    "BrokenMessage",
    "DirectStream",
    "Keepalive",
    "MessageStream",
    "PingableStream",
    "Pinger",
    "close_now",
    "direct_stream",
    "write_now",
]


READ_SIZE: Final = 2**14  # bytes: one shadow frame fits; a larger one takes several reads

SEND_TIMEOUT: Final = 30.0  # seconds one write may take: a peer that reads nothing for so long is gone


class BrokenMessage(NamedTuple):
    """A message that was not received as a whole, in the terms of `Connection.receive_broken`."""

    kind: str
    """The defect of the message, as in `FrameRejected`."""
    size: int | None
    """Bytes, or `None` if the number is not known."""
    head: bytes
    tail: bytes = b""


class MessageStream(Protocol):
    """Text messages, both ways, over one connection.

    One task receives, and at most one at a time sends. Either end may disappear at any moment: then `receive` returns
    `None`, and `send` raises `trio.BrokenResourceError`.
    """

    on_control: Callable[[], None]
    """Called when a control frame (a pong, a close) waits to be sent: the owner of the stream has to call `send`."""

    @property
    def control_pending(self) -> bool:
        """Whether a control frame waits to be sent."""

    async def receive(self) -> bytes | BrokenMessage | None:
        """Return the next message in UTF-8, or `None` when there will be no more."""

    async def send(self, messages: Sequence[bytes]) -> None:
        """Send messages, and control frames that wait. Must not be called by two tasks at the same time.

        Raises:
            trio.BrokenResourceError: the connection is gone, or the peer does not read.
        """

    def close(self, code: int, reason: str) -> None:
        """Send a close frame. Earlier messages still go out, and `receive` ends soon."""

    def abort(self) -> None:
        """Cut the connection without a close frame. `receive` ends immediately."""


class DirectStream(MessageStream, Protocol):
    """A stream that often needs no task to be woken, which is most of the cost of a message."""

    on_message: Callable[[bytes | BrokenMessage], bool]
    """Called with a message that arrives while a task waits in `receive`. Returns `True` if it has handled it."""

    def send_nowait(self, messages: Sequence[bytes]) -> bool:
        """Send messages, and control frames that wait, without waiting. Must not be called during a `send`.

        Returns `False` if a rest waits. The caller then has to call `send` for it before sending anything else.
        """


def direct_stream(stream: MessageStream) -> DirectStream | None:
    """Return the stream if it is direct, else `None`. `isinstance` would take as long as half a handshake."""
    return cast(DirectStream, stream) if hasattr(stream, "send_nowait") else None


async def close_now(stream: trio.abc.Stream) -> None:
    """Close a stream without a close frame, and without waiting if it can be."""
    if isinstance(stream, trio.SocketStream):
        stream.socket.close()
    else:
        await trio.aclose_forcefully(stream)


def write_now(stream: trio.abc.Stream, data: bytes) -> int:
    """Write without waiting. Returns the number of bytes that the kernel accepted.

    Returns 0 if the stream cannot be written directly, or if the write fails: a later write raises the error.
    """
    if isinstance(stream, trio.SocketStream):
        try:
            return os.write(stream.socket.fileno(), data)
        except OSError:
            pass
    return 0


class PingableStream(MessageStream, Protocol):
    """A stream with which a silent peer can be distinguished from a dead connection."""

    @property
    def last_received(self) -> float:
        """Time of the last bytes from the peer, on Trio's clock."""

    def ping(self) -> None:
        """Send a ping. The answer shows in `last_received`."""


MAX_MISSED: Final = 2  # pings: one can be lost in a bad moment, two in a row mean a half-open connection


class Keepalive:
    """Detects that a connection is dead although no end of it was received."""

    __slots__ = ("_missed", "_pinged_at", "_stream")

    def __init__(self, stream: PingableStream) -> None:
        self._stream = stream
        self._missed = 0
        self._pinged_at = -inf

    def check(self) -> None:
        """Send a ping, or cut the connection if the last pings were not followed by any bytes from the peer.

        Has to be called at regular intervals. A silent peer is cut off after `MAX_MISSED` + 1 of them at most.
        """
        if self._stream.last_received >= self._pinged_at:
            self._missed = 0
        if self._missed >= MAX_MISSED:
            self._stream.abort()
            return
        self._missed += 1
        self._pinged_at = trio.current_time()
        self._stream.ping()


PING_SLOTS: Final = 15  # connections are pinged in turns, so that a large fleet does not answer at the same time


class Pinger:
    """Checks many connections, each of them once in an interval."""

    def __init__(self, interval: float) -> None:
        self._pause = interval / PING_SLOTS
        self._slots: list[set[Keepalive]] = [set() for _ in range(PING_SLOTS)]

    def watch(self, keepalive: Keepalive) -> None:
        """Check a connection from now on, until `unwatch`."""
        min(self._slots, key=len).add(keepalive)

    def unwatch(self, keepalive: Keepalive) -> None:
        """Check a connection no more."""
        for slot in self._slots:
            slot.discard(keepalive)

    async def run(self) -> None:
        """Check the connections, for ever."""
        turn = 0
        while True:
            await trio.sleep(self._pause)
            turn = (turn + 1) % PING_SLOTS
            for keepalive in tuple(self._slots[turn]):
                keepalive.check()
