"""The connections of the Redis backend: one pipelined connection for each node, dialled when it is needed.

coredis speaks the protocol. Its pool is not used: with coredis 6.9 a place in the pool is lost for ever when a
subscriber's connection dies and, on asyncio, when a caller is cancelled while its connection is being made, until no
caller gets one. Commands are short here, so one connection can carry them all: concurrent callers share a pipeline.
"""

from __future__ import annotations

import hashlib
import logging
import ssl
from binascii import crc_hqx
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Unpack

import anyio
import attrs
from anyio import BrokenResourceError, CancelScope, CapacityLimiter, ClosedResourceError, EndOfStream
from anyio.abc import ByteStream, TaskGroup, TaskStatus
from coredis.connection import BaseConnection, BaseConnectionParams, TCPLocation
from coredis.exceptions import ConnectionError as ConnectionLost
from coredis.exceptions import MovedError, NoScriptError, RedisError

from mdashcore._errors import StorageError

__all__ = ["ANY_SLOT", "REDIS_FAILURES", "RedisClient", "Script", "Target", "background_tasks", "reason", "slot_of"]

# coredis logs each failed try without its cause. Here failures are raised, and the caller logs them.
logging.getLogger("coredis").setLevel(logging.CRITICAL)

MAX_IN_FLIGHT: Final = 256  # commands on one connection: pipelining gains nothing beyond, and memory stays bounded

MAX_WAIT: Final = 60.0  # seconds for one of those places, and for an answer of a server that answers others meanwhile:
# the calls of 10 000 devices that come back together need 15 to 40 in all, on one busy core

SILENCE_STEPS: Final = 8  # of a measured silence: more than the rounds of the event loop from a call to its answer

MAX_REDIRECTS: Final = 5  # redirects of one call in a cluster: more than a change of its topology causes

HASH_SLOTS: Final = 16384  # Redis Cluster specification, "Key distribution model"

ANY_SLOT: Final = -1  # for a command without keys: it goes to the node that the URL names

REDIS_FAILURES: Final = (RedisError, OSError, UnicodeError, BrokenResourceError, ClosedResourceError, EndOfStream)
"""The errors of a failed call: `TimeoutError` is an `OSError`, and a bad host name a `UnicodeError`."""


def reason(error: BaseException) -> str:
    """Return the texts of an error and of its causes."""
    said: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        text = str(cause) or type(cause).__name__
        if text not in said:
            said.append(text)
        cause = cause.__cause__
    return ": ".join(said)


def slot_of(tag: bytes) -> int:
    """Return the cluster slot of the keys that have this hash tag, given without its braces."""
    return crc_hqx(tag, 0) % HASH_SLOTS


@attrs.frozen
class Target:
    """The address of a server, and the credentials for it."""

    host: str
    port: int
    db: int = 0
    username: str | None = None
    password: str | None = attrs.field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    timeout: float = 2.0
    """Seconds that a connection may take to open, or may be silent while an answer is due."""

    def __str__(self) -> str:
        return f"redis at {self.host}:{self.port}"

    async def connect(self, gate: CapacityLimiter | None = None) -> BaseConnection:
        """Open a connection, which has yet to be run. Raises one of `REDIS_FAILURES`, in time.

        Args:
            gate: coredis acquires it before it parses messages that were not requested.
        """
        try:
            with anyio.fail_after(self.timeout):
                stream = await self._open_stream()
        except TimeoutError as exc:
            raise TimeoutError(f"no connection within {self.timeout:g} s") from exc
        return _RedisConnection(
            TCPLocation(self.host, self.port),
            stream,
            db=self.db,
            username=self.username,
            password=self.password,
            stream_timeout=self.timeout,
            decode_responses=False,
            processing_budget=gate or CapacityLimiter(1),
        )

    async def _open_stream(self) -> ByteStream:
        if self.tls is None:
            return await anyio.connect_tcp(self.host, self.port)
        return await anyio.connect_tcp(
            self.host, self.port, tls=True, ssl_context=self.tls, tls_standard_compatible=False
        )


class _RedisConnection(BaseConnection):
    """A coredis connection over an open stream. If coredis opens the stream itself and fails, it leaks its queues."""

    def __init__(self, location: TCPLocation, stream: ByteStream, **options: Unpack[BaseConnectionParams]) -> None:
        super().__init__(location, **options)
        self._given = stream

    async def _connect(self) -> ByteStream:
        return self._given

    def describe(self) -> str:
        return f"Connection<{self.location}>"


class Script:
    """A Lua script. It runs as one step, and in one round trip as soon as the server knows it."""

    def __init__(self, source: str) -> None:
        self.source = source.encode()
        self.sha = hashlib.sha1(self.source).hexdigest().encode()  # noqa: S324 - the name that Redis gives it


class RedisClient:
    """Calls to a server, or to the nodes of a cluster. Every failure is a `StorageError`."""

    def __init__(self, target: Target, tasks: TaskGroup) -> None:
        self.target = target
        self._tasks = tasks
        self._home = _NodeConnection(target, tasks)
        self._wires = {(target.host, target.port): self._home}
        self._owners: dict[int, _NodeConnection] = {}  # owners of slots, if they are not the URL's node: at most SLOTS

    async def call(self, slot: int, *command: bytes | int) -> Any:
        """Send a command. Returns its answer, with texts as bytes.

        Args:
            slot: the slot of its keys, or `ANY_SLOT`.
        """
        wire = self._owners.get(slot, self._home)
        try:
            for _ in range(MAX_REDIRECTS):
                try:
                    return await wire.call(*command)
                except MovedError as exc:
                    wire = self._owners[slot] = self._wire(exc.host or wire.target.host, exc.port)
        except REDIS_FAILURES as exc:
            if wire.lost:
                self._owners.pop(slot, None)  # a cluster without that node knows its successor
            raise StorageError(f"{wire.target}: {reason(exc)}") from exc
        raise StorageError(f"{self.target}: the cluster's nodes send each other's callers round in circles")

    async def run(self, script: Script, slot: int, keys: Sequence[bytes], *arguments: bytes | int) -> Any:
        """Run a script on keys that all have this slot."""
        try:
            return await self.call(slot, b"EVALSHA", script.sha, len(keys), *keys, *arguments)
        except StorageError as exc:
            if not isinstance(exc.__cause__, NoScriptError):
                raise
        return await self.call(slot, b"EVAL", script.source, len(keys), *keys, *arguments)

    def _wire(self, host: str, port: int) -> _NodeConnection:
        if (wire := self._wires.get((host, port))) is None:
            wire = self._wires[host, port] = _NodeConnection(
                attrs.evolve(self.target, host=host, port=port), self._tasks
            )
        return wire


class _NodeConnection:
    """The connection to one node, which all callers share.

    Callers are served in turn, however many there are, as long as the server goes on answering. When
    the connection fails, all waiting callers fail with it: each would only find out the same, one after the other.
    """

    def __init__(self, target: Target, tasks: TaskGroup) -> None:
        self.target = target
        self._tasks = tasks
        self._room = anyio.Semaphore(MAX_IN_FLIGHT, fast_acquire=True)
        self._failures = 0
        self._failure = ""
        self._connection: BaseConnection | None = None
        self._given_up: BaseConnection | None = None
        self._dial: _Dial | None = None

    @property
    def lost(self) -> bool:
        """Whether there is no connection at the moment."""
        return self._connection is None or not self._connection.usable

    async def call(self, *command: bytes | int) -> Any:
        """Send a command and return its answer, or raise one of `REDIS_FAILURES`, in time."""
        await self._enter()
        try:
            return await self._ask(command)
        except REDIS_FAILURES as exc:
            if self.lost:
                self._failures += 1
                self._failure = reason(exc)
            raise
        finally:
            self._room.release()

    async def _enter(self) -> None:
        """Take one of the places. If all are taken, wait in line."""
        failures = self._failures
        try:
            self._room.acquire_nowait()
        except anyio.WouldBlock:
            try:
                with anyio.fail_after(MAX_WAIT):
                    await self._room.acquire()
            except TimeoutError as exc:
                raise TimeoutError(f"so many calls wait that this one had no turn within {MAX_WAIT:g} s") from exc
            if self._failures != failures:
                self._room.release()
                raise ConnectionLost(self._failure) from None

    async def _ask(self, command: Sequence[bytes | int]) -> Any:
        connection = await self._connected()
        try:
            return await connection.create_request(*command, timeout=MAX_WAIT)  # type: ignore[arg-type]
        except ConnectionLost as exc:
            if connection is self._given_up:
                raise TimeoutError(f"no answer within {self.target.timeout:g} s") from exc
            raise

    async def _watch(self, connection: BaseConnection) -> None:
        """Close a connection if answers are due and none comes in time: the server or the way to it is gone.

        The event loop has run in each step. So a busy loop, which leaves answers unread, does not count as silence.
        """
        told = connection.statistics
        silent = read = 0
        while connection.usable and silent <= SILENCE_STEPS:
            await anyio.sleep(self.target.timeout / SILENCE_STEPS)
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
            raise ConnectionLost("no connection") from dial.error
        return dial.connection

    async def _make(self, dial: _Dial) -> None:
        try:
            connection = await self.target.connect()
            await self._tasks.start(connection.run)
            self._connection = dial.connection = connection
            self._tasks.start_soon(self._watch, connection)
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


@asynccontextmanager
async def background_tasks() -> AsyncIterator[TaskGroup]:
    """Open a task group that runs until the body has ended. Cancelling the body does not cancel its tasks: the last
    writes of the body need them.

    An error of the body is raised as it is, without an exception group.
    """

    async def host(*, task_status: TaskStatus[TaskGroup]) -> None:
        with CancelScope(shield=True):
            async with anyio.create_task_group() as shielded:
                task_status.started(shielded)
                await anyio.sleep_forever()

    try:
        async with anyio.create_task_group() as group:
            tasks = await group.start(host)
            try:
                yield tasks
            finally:
                tasks.cancel_scope.cancel()
    except BaseExceptionGroup as errors:
        if len(errors.exceptions) > 1:
            raise
        error = errors.exceptions[0]
        context = error.__context__
        try:
            raise error
        finally:
            error.__context__ = context  # not this group
            del error, errors
