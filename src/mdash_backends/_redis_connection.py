"""A connection to a Redis server that all callers of a process share, dialled when it is needed.

coredis speaks the protocol. Its pool is not used: with coredis 6.9 a place in the pool is lost for ever when a
subscriber's connection dies and, on asyncio, when a caller is cancelled while its connection is being made, until no
caller gets one. Commands are short here, so one connection can carry them all: concurrent callers share a pipeline.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Hashable, Sequence
from typing import Any, Final

import anyio
import attrs
from anyio.abc import TaskGroup
from coredis.connection import BaseConnection, TCPLocation
from coredis.exceptions import ConnectionError as ConnectionLost

from mdash_backends._redis_places import CallPlaces
from mdash_backends._redis_servers import REDIS_FAILURES, RedisHome, RedisServer, reason

__all__ = ["MAX_IN_FLIGHT", "NodeConnection", "NotConnected"]

# coredis logs each failed try without its cause. Here failures are raised, and the caller logs them.
logging.getLogger("coredis").setLevel(logging.CRITICAL)

MAX_IN_FLIGHT: Final = 256  # commands on one connection: pipelining gains nothing beyond, and memory stays bounded

MAX_WAIT: Final = 60.0  # seconds for one of those places, and for an answer of a server that answers others meanwhile:
# the calls of 10 000 devices that come back together need 15 to 40 in all, on one busy core

SILENCE_STEPS: Final = 8  # of a measured silence: more than the rounds of the event loop from a call to its answer


class NotConnected(ConnectionLost):
    """No connection could be made, so the command was not sent."""


class NodeConnection:
    """The connection to one node, which all callers share.

    Callers are served in turn, however many there are, as long as the server goes on answering: those of each line in
    order, and the lines by turns. When the connection fails, all waiting callers fail with it: each would only find out
    the same, one after the other.

    Args:
        on_connected: runs in a task of its own whenever a connection has been made.
    """

    def __init__(
        self, home: RedisHome, tasks: TaskGroup, on_connected: Callable[[NodeConnection], Coroutine[Any, Any, None]]
    ) -> None:
        self.home = home
        self._tasks = tasks
        self._on_connected = on_connected
        self._places = CallPlaces(MAX_IN_FLIGHT)
        self._failures = 0
        self._failure = ""
        self._connection: BaseConnection | None = None
        self._given_up: BaseConnection | None = None
        self._dial: _Dial | None = None

    @property
    def lost(self) -> bool:
        """Whether there is no connection at the moment."""
        return self._connection is None or not self._connection.usable

    @property
    def host(self) -> str | None:
        """The host that it is, or was last, connected to."""
        location = None if self._connection is None else self._connection.location
        return location.host if isinstance(location, TCPLocation) else None

    @property
    def server_name(self) -> str:
        """The one server that it is, or was last, connected to, as people are told of it; before that its home."""
        location = None if self._connection is None else self._connection.location
        return str(RedisServer(location.host, location.port) if isinstance(location, TCPLocation) else self.home)

    def drop(self) -> None:
        """Close the connection. The next call opens another one, perhaps to another server."""
        if self._connection is not None:
            self._connection.invalidate()

    async def call(self, *command: bytes | int, line: Hashable = None, asking: bool = False) -> Any:
        """Send a command and return its answer, or raise one of `REDIS_FAILURES`, in time.

        Args:
            line: the line in which it waits for its turn, if it has to.
            asking: the node is to answer although it does not own the slot yet (Redis Cluster specification, "ASK
                redirection").
        """
        await self._enter(line)
        try:
            return await self._ask(command, asking=asking)
        except REDIS_FAILURES as exc:
            if self.lost:
                self._failures += 1
                self._failure = reason(exc)
            raise
        finally:
            self._places.release()

    async def _enter(self, line: Hashable) -> None:
        """Take one of the places. If all are taken, wait in line."""
        if self._places.acquire_nowait():
            return
        failures = self._failures
        try:
            with anyio.fail_after(MAX_WAIT):
                await self._places.acquire(line)
        except TimeoutError as exc:
            raise TimeoutError(f"so many calls wait that this one had no turn within {MAX_WAIT:g} s") from exc
        if self._failures != failures:
            self._places.release()
            raise ConnectionLost(self._failure)

    async def _ask(self, command: Sequence[bytes | int], *, asking: bool) -> Any:
        connection = await self._connected()
        try:
            if asking:
                connection.create_request(b"ASKING")  # counts for the next command of the connection
            return await connection.create_request(*command, timeout=MAX_WAIT)  # type: ignore[arg-type]
        except ConnectionLost as exc:
            if connection is self._given_up:
                raise TimeoutError(f"no answer within {self.home.timeout:g} s") from exc
            raise

    async def _watch(self, connection: BaseConnection) -> None:
        """Close a connection if answers are due and none comes in time: the server or the way to it is gone.

        The event loop has run in each step. So a busy loop, which leaves answers unread, does not count as silence.
        """
        told = connection.statistics
        silent = read = 0
        while connection.usable and silent <= SILENCE_STEPS:
            await anyio.sleep(self.home.timeout / SILENCE_STEPS)
            silent = silent + 1 if told.requests_pending and told.bytes_read == read else 0
            read = told.bytes_read
        if connection.usable:
            self._given_up = connection
            connection.invalidate()

    async def _connected(self) -> BaseConnection:
        if self._connection is not None and self._connection.usable:
            return self._connection
        if self._dial is None:
            dial = _Dial()
            try:
                self._tasks.start_soon(self._make, dial)
            except RuntimeError as exc:  # the group has ended
                raise ConnectionLost("the backend is closed") from exc
            self._dial = dial
        dial = self._dial  # one for all callers; it goes on when one of them is cancelled
        await dial.done.wait()
        if dial.connection is None:
            raise NotConnected("no connection") from dial.error
        return dial.connection

    async def _make(self, dial: _Dial) -> None:
        try:
            self._connection = dial.connection = connection = await self.home.connect(self._tasks)
            self._tasks.start_soon(self._watch, connection)
            self._tasks.start_soon(self._on_connected, self)
        except REDIS_FAILURES as exc:
            dial.error = exc
        finally:
            self._dial = None
            dial.done.set()


@attrs.define(eq=False)
class _Dial:
    """A connection that is being made."""

    done: anyio.Event = attrs.field(factory=anyio.Event)
    connection: BaseConnection | None = None
    error: Exception | None = None
