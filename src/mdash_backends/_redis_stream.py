"""The socket of a connection to Redis, read and written without the detours of a general stream.

A general stream tries to read before anything can be there, and lets all other tasks run after each write. Both cost a
pipeline of short commands a round of the event loop each time.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Protocol

import anyio
from anyio.abc import SocketAttribute, SocketStream

__all__ = ["OpenStream", "without_detours"]


class OpenStream(Protocol):
    """What a connection needs of a stream."""

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Wait for bytes, and return them. Raises `EndOfStream`, or another of `REDIS_FAILURES`."""

    async def send(self, item: bytes) -> None:
        """Send bytes. Raises one of `REDIS_FAILURES`."""

    async def aclose(self) -> None:
        """Close the stream."""


class _DirectStream:
    """The socket of an open stream, which it closes at the end. One task reads, and one writes."""

    def __init__(self, stream: SocketStream, raw: socket.socket) -> None:
        self._stream = stream
        self._raw = raw

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Do the same as `SocketStream.receive`."""
        while True:
            await anyio.wait_readable(self._raw)
            try:
                data = self._raw.recv(max_bytes)
            except BlockingIOError:
                continue
            if not data:
                raise anyio.EndOfStream
            return data

    async def send(self, item: bytes) -> None:
        """Do the same as `SocketStream.send`, without waiting if the system takes all of the bytes immediately."""
        left = memoryview(item)
        while True:
            with suppress(BlockingIOError):
                left = left[self._raw.send(left) :]
            if not left:
                return
            await anyio.wait_writable(self._raw)

    async def aclose(self) -> None:
        """Close the stream."""
        await self._stream.aclose()


def without_detours(stream: SocketStream) -> OpenStream:
    """Return the faster form of a plain stream, or the stream itself where the event loop does not share the socket."""
    raw: object = stream.extra(SocketAttribute.raw_socket)  # noqa: S610 - not Django's
    return _DirectStream(stream, raw) if isinstance(raw, socket.socket) else stream
