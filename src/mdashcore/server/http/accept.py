"""Accepts connections, also when there are more of them than the process has file descriptors or memory for."""

from __future__ import annotations

import errno
import logging
import os
import resource
from collections.abc import Awaitable, Callable
from math import inf
from time import perf_counter
from typing import Any, Final, Protocol

import trio

from mdashcore.server.http.hangup import transport_of
from mdashcore.server.http.port_listener import EagerListener
from mdashcore.trio.transport.stream import close_now

__all__ = ["Acceptor"]

_log = logging.getLogger(__name__)

RESERVED_DESCRIPTORS: Final = 64  # for the clients that are connected: 40 threads of a store with a file each, and some
# more

ACCEPT_SLICE: Final = 0.001  # seconds of accepting until other tasks have their turn: 10 connections. Those that
# wait in the kernel are served a little later; those that its queue has no room for have to dial again

RETRY_ACCEPT: Final = 0.1  # seconds; at full load ten connections a second are refused

REFUSAL_LOG_INTERVAL: Final = 60.0  # seconds between two lines of the log

_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})


class MakeRoom(Protocol):
    """Ends some connections that have nothing to do."""

    def __call__(self, *, spare_unread: bool, by_descriptor: bool) -> bool:
        """Return `False` if there are none."""


class Acceptor:
    """Accepts the connections of listeners.

    Args:
        handle: serves a connection.
        make_room: ends some connections, as `Connections.make_room`.
        is_full: returns whether there are as many connections as the memory is meant for.
        wait_for_pace: waits until the server has time for more connections. Meanwhile they wait in the kernel.
    """

    def __init__(
        self,
        handle: Callable[[trio.abc.Stream], Awaitable[None]],
        make_room: MakeRoom,
        is_full: Callable[[], bool] = lambda: False,
        wait_for_pace: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
    ) -> None:
        self._handle = handle
        self._make_room = make_room
        self._is_full = is_full
        self._wait_for_pace = wait_for_pace
        self._logged_at = -inf

    async def run(self, listener: trio.abc.Listener[Any], connections: trio.Nursery) -> None:
        """Accept until cancelled, and serve each connection in a task of `connections`; close the listener then."""
        async with listener:
            while True:
                await self._wait_for_pace()
                try:
                    await self._accept(listener, connections)
                except OSError as exc:
                    if exc.errno not in _EXHAUSTED:
                        raise
                    self._log_shortage(f"no file descriptors for more connections ({exc})")
                    self._make_room(spare_unread=False, by_descriptor=True)
                    await trio.sleep(RETRY_ACCEPT)

    async def _accept(self, listener: trio.abc.Listener[Any], connections: trio.Nursery) -> None:
        """Accept a connection, and those that are there already, as many as a slice of time has room for."""
        await self._take(await listener.accept(), connections)
        if isinstance(listener, EagerListener):
            end = perf_counter() + ACCEPT_SLICE
            while perf_counter() < end and (stream := listener.accept_nowait()) is not None:
                await self._take(stream, connections)

    async def _take(self, stream: trio.abc.Stream, connections: trio.Nursery) -> None:
        """Serve a connection, or close it if there is no room."""
        if by_descriptor := _is_of_the_last(stream):
            self._log_shortage("no file descriptors for more connections (the limit of this process is near)")
        elif self._is_full():
            self._log_shortage("no more connections (max_connections)")
        else:
            connections.start_soon(self._handle, stream)
            return
        if not self._make_room(spare_unread=True, by_descriptor=by_descriptor):
            await trio.sleep(RETRY_ACCEPT)  # in which the server reads what has come
            if not self._make_room(spare_unread=False, by_descriptor=by_descriptor):
                await close_now(stream)
                return
        elif _is_of_the_very_last(stream):
            await trio.sleep(RETRY_ACCEPT)  # in which the ended ones go: after a password check, that takes a while
        connections.start_soon(self._handle, stream)

    def _log_shortage(self, words: str) -> None:
        now = trio.current_time()
        if now >= self._logged_at + REFUSAL_LOG_INTERVAL:
            self._logged_at = now
            _log.error("%s: those that wait for a request are closed", words)


def _is_of_the_last(stream: trio.abc.Stream) -> bool:
    """Return whether a connection has one of the reserved file descriptors, and the next one would have, too."""
    return _is_beyond(stream, _reserved())


def _is_of_the_very_last(stream: trio.abc.Stream) -> bool:
    """Return the same for the second half of the reserved ones."""
    return _is_beyond(stream, _reserved() // 2)


def _reserved() -> int:
    return min(RESERVED_DESCRIPTORS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)


def _is_beyond(stream: trio.abc.Stream, left: int) -> bool:
    """Return whether a connection has one of the last descriptors, of which so many are left, as the next one would.

    The kernel always gives the lowest free one. Connections that ended since this one was accepted have left room.
    """
    transport = transport_of(stream)
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if transport is None or limit == resource.RLIM_INFINITY:
        return False
    own = transport.socket.fileno()
    return own >= limit - left and _next_descriptor(own) >= limit - left


def _next_descriptor(known: int) -> float:
    """Return the number of the descriptor that the kernel would give next, given one that is open."""
    try:
        next_one = os.dup(known)
    except OSError:
        return inf
    os.close(next_one)
    return next_one
