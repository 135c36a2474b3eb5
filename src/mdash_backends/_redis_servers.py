"""Redis servers and how to connect to them: one server, several of which any will do, or what Sentinels name."""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeAlias

import anyio
import attrs
from anyio.abc import TaskGroup

from mdash_backends._redis_errors import (
    REDIS_FAILURES,
    ConnectionLost,
    ReplyError,
    UnknownCommand,
    reason,
    unexpected_is_lost,
)
from mdash_backends._redis_pipeline import Pipeline
from mdash_backends._redis_stream import OpenStream, without_detours

__all__ = ["AnyServer", "RedisHome", "RedisServer", "SentinelService", "takes_writes"]

MAX_LEARNED: Final = 16  # nodes of a cluster that are remembered beside those of the URL, in case those are gone

DIAL_TIMEOUTS: Final = 2  # time-outs that one attempt to connect to any of several servers may take in all


OnPush: TypeAlias = Callable[[list[Any]], None]
"""Receives a message that answers no command."""


class RedisHome(Protocol):
    """The servers that a URL names. `str` of it names them to people."""

    @property
    def timeout(self) -> float:
        """Seconds that a connection may take to open, or may be silent while an answer is due."""

    async def connect(self, tasks: TaskGroup, on_push: OnPush | None = None) -> Pipeline:
        """Open a connection to a server that takes writes, and run it in a task group.

        Args:
            on_push: is called with each message that answers no command.

        Raises:
            Exception: one of `REDIS_FAILURES`, in time.
        """


@attrs.frozen
class RedisServer:
    """The address of a server, and the credentials for it."""

    host: str
    port: int
    db: int = 0
    username: str | None = None
    password: str | None = attrs.field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    timeout: float = 2.0
    """Seconds that a connection may take to open, or may be silent while an answer is due."""

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def __str__(self) -> str:
        return f"redis at {self.address}"

    async def connect(self, tasks: TaskGroup, on_push: OnPush | None = None) -> Pipeline:
        """Open a connection, whatever the role of the server, and run it. Raises as `RedisHome.connect`."""
        return (await self.greet(tasks, on_push))[0]

    async def greet(self, tasks: TaskGroup, on_push: OnPush | None = None) -> tuple[Pipeline, dict[bytes, Any]]:
        """Do the same as `connect`. Returns also what the server tells of itself."""
        with unexpected_is_lost():
            return await self._greet(tasks, on_push)

    async def _greet(self, tasks: TaskGroup, on_push: OnPush | None) -> tuple[Pipeline, dict[bytes, Any]]:
        try:
            with anyio.fail_after(self.timeout):
                stream = await self._open_stream()
        except TimeoutError as exc:
            raise TimeoutError(f"no connection within {self.timeout:g} s") from exc
        pipeline = Pipeline(stream, self.host, self.port, on_push)
        tasks.start_soon(pipeline.run)
        try:
            with anyio.fail_after(self.timeout):
                told: Any = await pipeline.ask(*self._hello())
                if not isinstance(told, dict) or b"mode" not in told:  # a Sentinel tells no role
                    raise ConnectionLost("what answers is no Redis server: it does not tell its mode")
                if self.db:
                    await pipeline.ask(b"SELECT", self.db)
        except BaseException as exc:
            pipeline.close(ConnectionLost("it was not opened"))
            if isinstance(exc, UnknownCommand):
                raise ConnectionLost(
                    "Redis 6.0 or newer, or Valkey, is needed; this server is older, or its HELLO is renamed"
                ) from exc
            if isinstance(exc, ReplyError) and self.password and self.password in str(exc):  # as of a proxy
                raise ReplyError(str(exc).replace(self.password, "…")) from None
            if isinstance(exc, TimeoutError):
                raise TimeoutError(f"no answer within {self.timeout:g} s") from exc
            raise
        return pipeline, told

    def _hello(self) -> tuple[bytes | int, ...]:
        """Return the command that begins a connection in RESP3, with the credentials."""
        if self.username is None and self.password is None:
            return (b"HELLO", 3)
        return (b"HELLO", 3, b"AUTH", (self.username or "default").encode(), (self.password or "").encode())

    async def _open_stream(self) -> OpenStream:
        if self.tls is None:
            return without_detours(await anyio.connect_tcp(self.host, self.port))
        return await anyio.connect_tcp(
            self.host, self.port, tls=True, ssl_context=self.tls, tls_standard_compatible=False
        )


def takes_writes(told: Any) -> bool:
    """Return whether a server is a master, or a node of a cluster, by its answer to HELLO."""
    return isinstance(told, dict) and (told.get(b"role") == b"master" or told.get(b"mode") == b"cluster")


async def _connect_to_master(server: RedisServer, tasks: TaskGroup, on_push: OnPush | None = None) -> Pipeline:
    """Connect to a server that takes writes. In a cluster any node will do: it redirects what it does not have."""
    pipeline, told = await server.greet(tasks, on_push)
    if not takes_writes(told):
        error = ConnectionLost("it is a replica, which takes no writes: the URL has to name the master")
        pipeline.close(error)
        raise error
    return pipeline


class AnyServer:
    """Servers of which any will do that takes writes: one server, the nodes of a cluster, a master and its replicas."""

    def __init__(self, servers: Sequence[RedisServer]) -> None:
        self._named = tuple(servers)
        self._turns = deque(servers)
        self._learned: deque[RedisServer] = deque(maxlen=MAX_LEARNED)

    def __str__(self) -> str:
        return f"redis at {', '.join(server.address for server in self._named)}"

    @property
    def timeout(self) -> float:
        """That of each server."""
        return self._named[0].timeout

    def learn(self, server: RedisServer) -> None:
        """Remember a node of the cluster, for a time when those of the URL are gone."""
        if server not in self._turns:
            if len(self._learned) == MAX_LEARNED:
                self._turns.remove(self._learned[0])
            self._learned.append(server)
            self._turns.append(server)

    async def connect(self, tasks: TaskGroup, on_push: OnPush | None = None) -> Pipeline:
        """Connect to the server that was connected last, or else to the next that can be."""
        failures: list[str] = []
        error: Exception | None = None
        with anyio.move_on_after(DIAL_TIMEOUTS * self.timeout):
            for server in tuple(self._turns):
                try:
                    return await _connect_to_master(server, tasks, on_push)
                except REDIS_FAILURES as exc:
                    error = exc
                    failures.append(f"{server.address}: {reason(exc)}")
                if self._turns[0] == server:
                    self._turns.rotate(-1)  # the next attempt goes on with the others
        if error is not None and len(self._turns) == 1:
            raise error
        raise ConnectionLost("; ".join(failures) or f"no connection within {DIAL_TIMEOUTS * self.timeout:g} s")


class SentinelService:
    """The master of a service, which Sentinels name (Redis documentation, "Sentinel clients").

    Args:
        name: of the service, as in `sentinel monitor NAME`.
        server: the credentials for the master; host and port are not used.
    """

    def __init__(self, name: str, sentinels: Sequence[RedisServer], server: RedisServer) -> None:
        self._name = name
        self._sentinels = deque(sentinels)
        self._server = server
        self._text = f"redis {name!r} of the Sentinels at {', '.join(each.address for each in sentinels)}"

    def __str__(self) -> str:
        return self._text

    @property
    def timeout(self) -> float:
        """That of each server."""
        return self._server.timeout

    async def connect(self, tasks: TaskGroup, on_push: OnPush | None = None) -> Pipeline:
        """Connect to the server that a Sentinel names, if it is the master."""
        failures: dict[str, str] = {}
        with anyio.move_on_after(DIAL_TIMEOUTS * self.timeout):
            for sentinel in tuple(self._sentinels):
                try:
                    host, port = await self._ask(sentinel, tasks)
                except REDIS_FAILURES as exc:
                    failures[f"Sentinel {sentinel.address}"] = reason(exc)
                    if self._sentinels[0] == sentinel:
                        self._sentinels.rotate(-1)
                    continue
                server = attrs.evolve(self._server, host=host, port=port)
                if str(server) in failures:
                    continue
                try:
                    return await _connect_to_master(server, tasks, on_push)
                except REDIS_FAILURES as exc:  # another Sentinel may know its successor already
                    failures[str(server)] = reason(exc)
        said = "; ".join(f"{name}: {why}" for name, why in failures.items())
        raise ConnectionLost(said or f"no connection within {DIAL_TIMEOUTS * self.timeout:g} s")

    async def _ask(self, sentinel: RedisServer, tasks: TaskGroup) -> tuple[str, int]:
        """Return the host and port of the master, as a Sentinel knows them."""
        pipeline = await sentinel.connect(tasks)
        try:
            with anyio.fail_after(sentinel.timeout):
                answer: Any = await pipeline.ask(b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", self._name.encode())
        except TimeoutError as exc:
            raise TimeoutError(f"no answer within {sentinel.timeout:g} s") from exc
        finally:
            pipeline.close(ConnectionLost("it is not needed any more"))
        if answer is None:
            raise ConnectionLost(f"it knows no service {self._name!r}")
        with unexpected_is_lost():
            return answer[0].decode(), int(answer[1])
