"""Detects that a client has gone while no task reads from its connection.

The kernel reports a closed connection beside the bytes that wait to be read (`EPOLLRDHUP`, `EPOLLHUP`), also with TLS.
Without epoll, the next read or write detects it.
"""

from __future__ import annotations

import errno
import logging
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import inf
from typing import Final, TypeAlias

import trio

from mdashcore.trio.run_wide import RunWide

__all__ = ["HALF_CLOSED_TIME", "Hangup", "cancelled_by_hangup", "detects_hangups", "transport_of"]

_log = logging.getLogger(__name__)

HALF_CLOSED_TIME: Final = 1.0  # seconds without an answer to a client that has ended its own side. `nc` does so after a
# request, and a client that has gone looks the same until the next write

OnEnd: TypeAlias = Callable[[bool], None]
"""Called with `True` if the connection has ended both ways, with `False` if the client has only ended its own side."""


def transport_of(stream: trio.abc.Stream) -> trio.SocketStream | None:
    """Return the socket below a stream; `None` if it has none, such as the stream of a test."""
    transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    transport = getattr(transport, "below", transport)  # of a `HandshakeTransport`
    return transport if isinstance(transport, trio.SocketStream) else None


def detects_hangups() -> bool:
    """Return whether the kernel reports connections that end."""
    return hasattr(select, "epoll")


class _Watcher:
    """Calls a function when a connection ends, in a system task of the Trio run."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, OnEnd] = {}

    def watch(self, fd: int, on_end: OnEnd) -> None:
        self._epoll.register(fd, select.EPOLLRDHUP | select.EPOLLONESHOT)
        self._watched[fd] = on_end

    def forget(self, fd: int, on_end: OnEnd) -> None:
        if self._watched.get(fd) is on_end:  # else its number has been given to another connection
            del self._watched[fd]
            with suppress(OSError, ValueError):  # closed already
                self._epoll.unregister(fd)

    async def run(self) -> None:
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                for fd, events in self._epoll.poll(0):
                    gone = bool(events & (select.EPOLLHUP | select.EPOLLERR))
                    if not gone:
                        with suppress(OSError):
                            self._epoll.modify(fd, select.EPOLLONESHOT)  # from now on only a reset is reported
                    if (on_end := self._watched.get(fd)) is not None:
                        on_end(gone)
        finally:
            self._epoll.close()


_watcher: Final = RunWide("mdash_hangups", _Watcher, _Watcher.run)


class Hangup:
    """The end of one connection, as far as it is known.

    Args:
        half_closed_time: seconds without an answer to a client that has ended its own side.
    """

    def __init__(self, transport: trio.SocketStream | None, half_closed_time: float = HALF_CLOSED_TIME) -> None:
        self.scope: trio.CancelScope = trio.CancelScope()
        """The scope of the work for the client. It is cancelled when the client has gone."""
        self._transport = transport
        self._half_closed_time = half_closed_time
        self._half_closed = False
        self._sending = False

    @property
    def gone(self) -> bool:
        """Whether the client has gone. The socket may be closed then, even if the work was finished."""
        return self.scope.cancel_called

    def on_end(self, gone: bool) -> None:
        """Record the kernel's report. After a reset the socket is closed, so that no shield can keep the connection."""
        if gone:
            self.scope.cancel()
            if self._transport is not None:
                self._transport.socket.close()
        else:
            self._half_closed = True
            self._move_deadline()

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Give the client any time to read. A client that has gone would reset the connection."""
        self._sending = True
        self._move_deadline()
        try:
            yield
        finally:
            self._sending = False
            self._move_deadline()

    def _move_deadline(self) -> None:
        if self._half_closed:
            self.scope.deadline = inf if self._sending else trio.current_time() + self._half_closed_time


@contextmanager
def cancelled_by_hangup(stream: trio.abc.Stream, half_closed_time: float = HALF_CLOSED_TIME) -> Iterator[Hangup]:
    """Cancel the context when the client resets the connection, or some time after it has ended its own side.

    Args:
        half_closed_time: that time in seconds.
    """
    transport = transport_of(stream)
    hangup = Hangup(transport, half_closed_time)
    on_end = hangup.on_end
    watcher: _Watcher | None = None
    fd = -1
    if transport is not None and detects_hangups():
        if (fd := transport.socket.fileno()) < 0:
            hangup.scope.cancel()  # the socket is closed already, because the server goes down
        else:
            try:
                _watcher().watch(fd, on_end)
                watcher = _watcher()
            except OSError as exc:
                if exc.errno not in (errno.ENOSPC, errno.ENOMEM):
                    raise
                _log.warning("a connection is served without looking for its end: %s", exc)
    try:
        with hangup.scope:
            yield hangup
    finally:
        if watcher is not None:
            watcher.forget(fd, on_end)
