"""What a transport of messages has to offer, so that a `Link` can run over it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import Final, NamedTuple, Protocol, cast

import trio

__all__ = [
    "BrokenMessage",
    "EagerStream",
    "Keepalive",
    "MessageStream",
    "PingableStream",
    "Pinger",
    "close_now",
    "eager",
    "write_now",
]


class BrokenMessage(NamedTuple):
    """A message that was not taken as a whole: what `Connection.receive_broken` is told of it."""

    kind: str
    """What is wrong with it, as in `FrameRejected`."""
    size: int | None
    """Bytes; `None` where it is not known."""
    head: bytes
    tail: bytes = b""


class MessageStream(Protocol):
    """Text messages, both ways, over one connection.

    One task receives and one, at times, sends. Either end may go away at any moment: then `receive` gives None,
    and `send` raises `trio.BrokenResourceError`.
    """

    on_control: Callable[[], None]
    """Called when something beside messages (a pong, a close) waits to be sent: someone has to call `send`."""

    @property
    def control_pending(self) -> bool:
        """Whether something beside messages waits to be sent."""

    async def receive(self) -> bytes | BrokenMessage | None:
        """The next message, in UTF-8; None when there will be no more."""

    async def send(self, messages: Sequence[bytes]) -> None:
        """Send messages, and what waits beside them. Never from two tasks at once.

        Raises:
            trio.BrokenResourceError: the connection is gone, or the peer does not read.
        """

    def close(self, code: int, reason: str) -> None:
        """Say goodbye: what was sent before still goes out, `receive` ends soon."""

    def abort(self) -> None:
        """Cut the connection now, without a word. `receive` ends at once."""


class EagerStream(MessageStream, Protocol):
    """A stream that can often do without waking a task, which is most of what a message costs."""

    on_message: Callable[[bytes | BrokenMessage], bool]
    """Offered a message that comes while somebody waits in `receive`: True if it has been taken."""

    def send_nowait(self, messages: Sequence[bytes]) -> bool:
        """Send messages, and what waits beside them, as far as that needs no waiting.

        Not while a `send` is under way. False: a rest waits, and someone has to call `send` for it, first of all.
        """


def eager(stream: MessageStream) -> EagerStream | None:
    """The stream, if it is one. Not by `isinstance`, which takes as long for a protocol as half a handshake."""
    return cast(EagerStream, stream) if hasattr(stream, "send_nowait") else None


async def close_now(stream: trio.abc.Stream) -> None:
    """Close without a word, and without waiting where that can be."""
    if isinstance(stream, trio.SocketStream):
        stream.socket.close()
    else:
        await trio.aclose_forcefully(stream)


def write_now(stream: trio.abc.Stream, data: bytes) -> int:
    """How many of these bytes the system took at once. None where it cannot be tried, or fails: a later write tells."""
    if isinstance(stream, trio.SocketStream):
        try:
            return os.write(stream.socket.fileno(), data)
        except OSError:
            pass
    return 0


class PingableStream(MessageStream, Protocol):
    """A stream whose silence can be told from a dead connection."""

    @property
    def last_received(self) -> float:
        """When the peer last sent anything at all, on Trio's clock."""

    def ping(self) -> None:
        """Ask for a sign of life, which shows in `last_received`."""


MAX_MISSED: Final = 2  # pings: one can be lost in a bad moment, two in a row mean a half-open connection


class Keepalive:
    """Finds out that a connection is dead although nobody said so."""

    __slots__ = ("_missed", "_pinged_at", "_stream")

    def __init__(self, stream: PingableStream) -> None:
        self._stream = stream
        self._missed = 0
        self._pinged_at = -inf

    def check(self) -> None:
        """Ping; cut the connection if the last pings were not followed by anything from the peer.

        To be called at regular intervals: a silent peer is cut off after `MAX_MISSED` + 1 of them at most.
        """
        if self._stream.last_received >= self._pinged_at:
            self._missed = 0
        if self._missed >= MAX_MISSED:
            self._stream.abort()
            return
        self._missed += 1
        self._pinged_at = trio.current_time()
        self._stream.ping()


PING_SLOTS: Final = 15  # connections are pinged in turns, so that a large fleet does not answer all at once


class Pinger:
    """Checks many connections, each once in an interval."""

    def __init__(self, interval: float) -> None:
        self._pause = interval / PING_SLOTS
        self._slots: list[set[Keepalive]] = [set() for _ in range(PING_SLOTS)]

    def watch(self, keepalive: Keepalive) -> Callable[[], None]:
        """Check a connection from now on; returns what ends that."""
        slot = min(self._slots, key=len)
        slot.add(keepalive)
        return partial(slot.discard, keepalive)

    async def run(self) -> None:
        """Check, for ever."""
        turn = 0
        while True:
            await trio.sleep(self._pause)
            turn = (turn + 1) % PING_SLOTS
            for keepalive in tuple(self._slots[turn]):
                keepalive.check()
