"""A connection to a Redis server that all callers of a process share, dialled when it is needed.

Commands are short here, so one connection can carry them all: concurrent callers share a pipeline.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Hashable
from functools import partial
from typing import Any, Final

import anyio
import attrs
from anyio.abc import TaskGroup

from mdash_backends._redis_errors import REDIS_FAILURES, ConnectionLost, NotConnected, log_unexpected, reason
from mdash_backends._redis_pipeline import Pipeline
from mdash_backends._redis_places import CallPlaces
from mdash_backends._redis_servers import RedisHome, RedisServer

__all__ = ["MAX_IN_FLIGHT", "MAX_WAIT", "SILENCE_STEPS", "NodeConnection"]

MAX_IN_FLIGHT: Final = 256  # commands on one connection: pipelining gains nothing beyond, and memory stays bounded

MAX_WAIT: Final = 60.0  # seconds for one of those places, and for an answer of a server that answers others meanwhile:
# the calls of 10 000 devices that come back together need 15 to 40 in all, on one busy core

SILENCE_STEPS: Final = 8  # of a measured silence: more than the rounds of the event loop from a call to its answer


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
        self._pipeline: Pipeline | None = None
        self._dial: _Dial | None = None

    @property
    def lost(self) -> bool:
        """Whether there is no connection at the moment."""
        return self._pipeline is None or self._pipeline.failure is not None

    @property
    def address(self) -> tuple[str, int] | None:
        """The host and port that it is, or was last, connected to."""
        return None if self._pipeline is None else (self._pipeline.host, self._pipeline.port)

    @property
    def server_name(self) -> str:
        """The one server that it is, or was last, connected to, as people are told of it; before that its home."""
        return str(self.home if self._pipeline is None else RedisServer(self._pipeline.host, self._pipeline.port))

    def drop(self) -> None:
        """Close the connection. The next call opens another one, perhaps to another server."""
        if self._pipeline is not None:
            self._pipeline.close(ConnectionLost("it was given up"))

    async def call(self, *command: bytes | int, line: Hashable = None, asking: bool = False) -> Any:
        """Send a command and return its answer, or raise one of `REDIS_FAILURES`, in time.

        Args:
            line: the line in which it waits for its turn, if it has to.
            asking: the node is to answer although it does not own the slot yet (Redis Cluster specification, "ASK
                redirection").
        """
        if not self._places.acquire_nowait():
            await self._wait_for_place(line)
        try:
            pipeline = self._pipeline
            if pipeline is None or pipeline.failure is not None:
                pipeline = await self._connected()
            call = pipeline.begin(*command, asking=asking, on_end=partial(self._end_call, pipeline))
        except BaseException as exc:
            if self.lost and isinstance(exc, REDIS_FAILURES):
                self._count_failure(exc)
            self._places.release()
            raise
        return await call.result()

    def _end_call(self, pipeline: Pipeline) -> None:
        """Release the place of a command: not sooner than its answer has come, or it would be one more in flight."""
        if pipeline.failure is not None:
            self._count_failure(pipeline.failure)
        self._places.release()

    def _count_failure(self, error: Exception) -> None:
        """Have the callers fail that wait in line."""
        self._failures += 1
        self._failure = reason(error)

    async def _wait_for_place(self, line: Hashable) -> None:
        """Wait in line for one of the places, as all are taken."""
        failures = self._failures
        try:
            with anyio.fail_after(MAX_WAIT):
                await self._places.acquire(line)
        except TimeoutError as exc:
            raise TimeoutError(f"so many calls wait that this one had no turn within {MAX_WAIT:g} s") from exc
        if self._failures != failures:
            self._places.release()
            raise NotConnected(self._failure)

    async def _watch(self, pipeline: Pipeline) -> None:
        """Close a connection if answers are due and none comes in time: the server or the way to it is gone.

        The event loop has run in each step. So a busy loop, which leaves answers unread, does not count as silence.
        """
        timeout = self.home.timeout
        silent = received = 0
        sent: deque[tuple[int, float]] = deque([(0, 0.0)])  # how many commands had been sent, at the end of each step
        while pipeline.failure is None and silent <= SILENCE_STEPS:
            await anyio.sleep(timeout / SILENCE_STEPS)
            silent = silent + 1 if pipeline.pending and pipeline.received == received else 0
            received, now = pipeline.received, anyio.current_time()
            if (number := pipeline.answered + pipeline.pending) > sent[-1][0]:
                sent.append((number, now))
            while len(sent) > 1 and sent[0][0] <= pipeline.answered:
                sent.popleft()
            if sent[0][0] > pipeline.answered and now - sent[0][1] >= MAX_WAIT:
                pipeline.close(TimeoutError(f"no answer within {MAX_WAIT:g} s, while others came"))
        pipeline.close(TimeoutError(f"no answer within {timeout:g} s"))

    async def _connected(self) -> Pipeline:
        if self._dial is None:
            dial = _Dial()
            try:
                self._tasks.start_soon(self._make, dial)
            except RuntimeError as exc:  # the group has ended
                raise ConnectionLost("the backend is closed") from exc
            self._dial = dial
        dial = self._dial  # one for all callers; it goes on when one of them is cancelled
        await dial.done.wait()
        if dial.pipeline is None:
            raise NotConnected("no connection") from dial.error
        return dial.pipeline

    async def _make(self, dial: _Dial) -> None:
        try:
            self._pipeline = dial.pipeline = pipeline = await self.home.connect(self._tasks)
            self._tasks.start_soon(self._watch, pipeline)
            self._tasks.start_soon(self._on_connected, self)
        except REDIS_FAILURES as exc:
            dial.error = exc
        except Exception as exc:
            dial.error = log_unexpected(exc)
        finally:
            self._dial = None
            dial.done.set()


@attrs.define(eq=False)
class _Dial:
    """A connection that is being made."""

    done: anyio.Event = attrs.field(factory=anyio.Event)
    pipeline: Pipeline | None = None
    error: Exception | None = None
