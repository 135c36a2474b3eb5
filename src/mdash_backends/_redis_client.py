"""Calls to a Redis server, or to the nodes of a cluster, and the background tasks that they need."""

from __future__ import annotations

import hashlib
import logging
from binascii import crc_hqx
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import anyio
import attrs
from anyio import CancelScope
from anyio.abc import TaskGroup, TaskStatus

from mdash_backends._redis_connection import NodeConnection
from mdash_backends._redis_errors import (
    REDIS_FAILURES,
    AskRedirect,
    ConnectionLost,
    MovedRedirect,
    NotConnected,
    ReadOnlyServer,
    ReplyError,
    TryAgain,
    UnknownScript,
    reason,
    unexpected_is_lost,
)
from mdash_backends._redis_servers import AnyServer, RedisHome, RedisServer
from mdashcore._errors import StorageError

__all__ = ["ANY_SLOT", "RedisClient", "Script", "background_tasks", "slot_of"]

_log = logging.getLogger(__name__)

MAX_REDIRECTS: Final = 5  # redirects of one call in a cluster: more than a change of its topology causes

TRY_AGAIN_DELAY: Final = 0.05  # seconds until a call is repeated whose keys are just being moved to another node

MAX_NODES: Final = 1000  # Redis Cluster specification, "Redis Cluster goals": the largest cluster

HASH_SLOTS: Final = 16384  # Redis Cluster specification, "Key distribution model"

ANY_SLOT: Final = -1  # for a command without keys: it goes to a server that the URL names


def slot_of(tag: bytes) -> int:
    """Return the cluster slot of the keys that have this hash tag, given without its braces."""
    return crc_hqx(tag, 0) % HASH_SLOTS


class Script:
    """A Lua script. It runs as one step, and in one round trip as soon as the server knows it."""

    def __init__(self, source: str) -> None:
        self.source = source.encode()
        self.sha = hashlib.sha1(self.source).hexdigest().encode()  # noqa: S324 - the name that Redis gives it


class RedisClient:
    """Calls to a server, or to the nodes of a cluster. Every failure is a `StorageError`.

    Args:
        home: the servers of the URL, one of which gets the calls for which no owner is known.
        server: the credentials for every server.
        tasks: run the connections.
    """

    def __init__(self, home: RedisHome, server: RedisServer, tasks: TaskGroup) -> None:
        self.home = home
        self._server = server
        self._tasks = tasks
        self.inspect: Callable[[NodeConnection], Awaitable[None]] | None = None
        """Called with each node when a connection to it has been made: another server may be there than before."""
        self.on_demotion: Callable[[], None] | None = None
        """Called when the server of the URL takes no writes any more: what else is connected to it has to leave it."""
        self._home = NodeConnection(home, tasks, self._on_connected)
        self._nodes: dict[RedisServer, NodeConnection] = {}
        self._owners: dict[int, NodeConnection] = {}  # of slots that the home does not own: at most HASH_SLOTS
        self._moving_said = False

    async def call(self, slot: int, *command: bytes | int) -> Any:
        """Send a command. Returns its answer, with texts as bytes.

        Args:
            slot: the slot of its keys, or `ANY_SLOT`. If too many calls are under way, it waits in a line with the
                calls for the same slot, which are those for one collection or one log.
        """
        node, asking, redirects = self._owners.get(slot, self._home), False, 0
        lost: StorageError | None = None
        moving_since: float | None = None
        while redirects <= MAX_REDIRECTS:
            redirects += 1
            try:
                return await node.call(*command, line=slot, asking=asking)
            except MovedRedirect as exc:
                node = self._owners[slot] = self._node(exc, node)
                asking = False
            except AskRedirect as exc:  # for this command only: the slot is being moved there, key by key
                node, asking = self._node(exc, node), True
            except TryAgain as exc:
                moving_since = anyio.current_time() if moving_since is None else moving_since
                if anyio.current_time() - moving_since > self.home.timeout:
                    raise self._failed(node, exc) from exc
                self._say_moving()
                await anyio.sleep(TRY_AGAIN_DELAY)
                node, asking, redirects = self._owners.get(slot, self._home), False, 0
            except NotConnected as exc:
                failed = self._failed(node, exc)
                if node is self._home or lost is not None:
                    raise failed from exc
                lost, node, asking = failed, self._home, False  # nothing was sent: try the successor, once
            except REDIS_FAILURES as exc:
                raise self._failed(node, exc) from exc
        raise lost or StorageError(f"{self.home}: the cluster's nodes send each other's callers round in circles")

    @property
    def home_node(self) -> NodeConnection:
        """The connection to the server that the URL names."""
        return self._home

    def leave(self, host: str, port: int) -> None:
        """Close the connection to a server that takes no writes any more: a replica publishes to its own clients only.

        Does nothing if the next server of the URL is connected already.
        """
        if self._home.address == (host, port):
            self._home.drop()

    async def masters(self) -> list[NodeConnection]:
        """Return the servers that take writes: one, or the masters of a cluster that have slots, connected or not.

        Raises:
            StorageError: no server answers.
        """
        if not await self.is_cluster():
            return [self._home]
        try:
            ranges = await self.call(ANY_SLOT, b"CLUSTER", b"SLOTS")
        except StorageError as exc:
            if not isinstance(exc.__cause__, ReplyError):
                raise
            _log.warning("%s: the other nodes are not known until they are used: %s", self.home, reason(exc.__cause__))
            return [self._home]
        named = self._host_of(self._home)  # for a node that does not know its own address
        try:
            with unexpected_is_lost():
                places = dict.fromkeys((master[0] or b"", master[1]) for _, _, master, *_ in ranges)
                return [self._node_at(named if host in (b"", b"?") else host.decode(), port) for host, port in places]
        except ConnectionLost as exc:
            raise StorageError(f"{self.home}: {reason(exc)}") from exc

    async def is_cluster(self) -> bool:
        """Whether the server is a node of a cluster, where a script may change keys of one slot only."""
        told = await self.call(ANY_SLOT, b"HELLO", 3)  # Redis 6.0 needs the number
        return isinstance(told, dict) and told.get(b"mode") == b"cluster"

    async def _on_connected(self, node: NodeConnection) -> None:
        if self.inspect is not None:
            with suppress(ConnectionLost), unexpected_is_lost():
                await self.inspect(node)

    def _failed(self, node: NodeConnection, error: Exception) -> StorageError:
        """Return the error of a call, and see to it that the next call goes to another server if that is needed."""
        if isinstance(error, ReadOnlyServer):  # another server is the master now
            node.drop()
            if self.on_demotion is not None:
                self.on_demotion()
        if node.lost and node is not self._home:  # the cluster knows the successor
            self._owners = {slot: owner for slot, owner in self._owners.items() if owner is not node}
        return StorageError(f"{node.home}: {reason(error)}")

    async def run(self, script: Script, slot: int, keys: Sequence[bytes], *arguments: bytes | int) -> Any:
        """Run a script on keys that all have this slot."""
        try:
            return await self.call(slot, b"EVALSHA", script.sha, len(keys), *keys, *arguments)
        except StorageError as exc:
            if not isinstance(exc.__cause__, UnknownScript):
                raise
        return await self.call(slot, b"EVAL", script.source, len(keys), *keys, *arguments)

    def _node(self, told: AskRedirect, teller: NodeConnection) -> NodeConnection:
        """Return the node to which another one redirects. A node without a host is on the host of that other one."""
        return self._node_at(told.host or self._host_of(teller), told.port)

    def _host_of(self, node: NodeConnection) -> str:
        return self._server.host if node.address is None else node.address[0]

    def _node_at(self, host: str, port: int) -> NodeConnection:
        server = attrs.evolve(self._server, host=host, port=port)
        if (node := self._nodes.get(server)) is None:
            if len(self._nodes) >= MAX_NODES:
                self._nodes = {server: node for server, node in self._nodes.items() if not node.lost}
            node = self._nodes[server] = NodeConnection(server, self._tasks, self._on_connected)
            if isinstance(self.home, AnyServer):
                self.home.learn(server)
        return node

    def _say_moving(self) -> None:
        if not self._moving_said:
            self._moving_said = True
            _log.warning("%s: slots are being moved to other nodes; calls for their keys are repeated", self.home)


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
