"""A listener that accepts many connections together."""

from __future__ import annotations

import errno
import socket
from abc import abstractmethod
from typing import Final, Generic, TypeVar

import trio

__all__ = ["EagerListener", "PortListener"]

StreamT = TypeVar("StreamT", bound=trio.abc.Stream)

_GONE: Final = frozenset(
    {
        errno.ECONNABORTED, errno.ECONNRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH,
        errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EPERM, errno.EPROTO, errno.ETIMEDOUT,
    }
)  # fmt: skip
"""Errors of a connection that has failed before it was accepted, which Linux reports at the listener (accept(2))."""


class EagerListener(trio.abc.Listener[StreamT], Generic[StreamT]):
    """A listener that can be asked for a connection without waiting.

    Trio's own accepts one each time that all tasks have run. A fleet that comes back opens them faster: those that find
    the kernel's queue full dial again, and again, later each time.
    """

    @abstractmethod
    def accept_nowait(self) -> StreamT | None:
        """Return the next connection, or `None` if there is none yet. Raises as `accept`."""


class PortListener(EagerListener[trio.SocketStream]):
    """Accepts the connections of a socket.

    Args:
        sock: a socket that listens. From now on it belongs to the listener.
    """

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self._socket = socket.socket(fileno=sock.detach())

    async def accept(self) -> trio.SocketStream:
        """Return the next connection. Raises as `trio.SocketListener.accept`."""
        await trio.lowlevel.checkpoint()
        while (stream := self.accept_nowait()) is None:
            await trio.lowlevel.wait_readable(self._socket)
        return stream

    def accept_nowait(self) -> trio.SocketStream | None:
        """Return the next connection, or `None` if there is none yet. Raises as `trio.SocketListener.accept`."""
        if self._socket.fileno() < 0:
            raise trio.ClosedResourceError
        while True:
            try:
                sock, _ = self._socket.accept()
            except BlockingIOError:
                return None
            except OSError as exc:
                if exc.errno not in _GONE:
                    raise
            else:
                return trio.SocketStream(trio.socket.from_stdlib_socket(sock))

    async def aclose(self) -> None:
        """Stop listening."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
        await trio.lowlevel.checkpoint()
