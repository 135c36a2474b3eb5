"""One open connection to a Redis server, in RESP3: commands go out, and their answers come in, in the same order.

hiredis packs and parses. A command costs no task, timer or write of its own: the commands that are given in one turn
of the event loop are sent together, and the answers of one read wake their callers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, Final

import anyio
import hiredis
from anyio import CancelScope, EndOfStream

from mdash_backends._redis_errors import REDIS_FAILURES, ConnectionLost, NotConnected, log_unexpected, reply_error
from mdash_backends._redis_stream import OpenStream

__all__ = ["PendingCommand", "Pipeline"]

READ_SIZE: Final = 2**16  # bytes of one read: the answers of a full pipeline, parsed in a fraction of a millisecond

_INCOMPLETE: Final = object()


class Pipeline:
    """A connection that lives for as long as `run` runs.

    Args:
        stream: is closed at the end.
        on_push: is called with each message that answers no command.

    Attributes:
        host, port: the server's.
        failure: why the connection has ended; `None` while it works.
        closed: is set when it has ended.
        received: bytes that have been read.
        answered: commands that have been answered.
    """

    def __init__(
        self, stream: OpenStream, host: str, port: int, on_push: Callable[[list[Any]], None] | None = None
    ) -> None:
        self.host = host
        self.port = port
        self.failure: Exception | None = None
        self.closed = anyio.Event()
        self.received = 0
        self.answered = 0
        self._stream = stream
        self._on_push = on_push
        self._scope = CancelScope()
        self._unsent: list[bytes] = []
        self._unsent_news = anyio.Event()
        self._pending: deque[PendingCommand | None] = deque()
        """The commands whose answers are due, in their order; `None` for an answer that nothing waits for."""

    @property
    def pending(self) -> int:
        """The number of answers that are due."""
        return len(self._pending)

    async def ask(self, *command: bytes | int, asking: bool = False) -> Any:
        """Send a command and return its answer, with texts as bytes. There is no time limit.

        Args:
            asking: the server is to answer although it does not own the slot yet (`AskRedirect`).

        Raises:
            ReplyError: the answer is an error.
            NotConnected: the connection had ended before.
            ConnectionLost: the connection has ended. The server may have run the command.
        """
        return await self.begin(*command, asking=asking).result()

    def begin(
        self, *command: bytes | int, asking: bool = False, on_end: Callable[[], None] | None = None
    ) -> PendingCommand:
        """Send a command. Raises `NotConnected` if the connection has ended before.

        Args:
            on_end: is called once, when the answer has come or the connection has ended, also if the caller does not
                wait for it any more.
        """
        if asking:
            self._send((b"ASKING",))  # counts for the next command of the connection
            self._pending.append(None)
        self._send(command)
        call = PendingCommand(on_end)
        self._pending.append(call)
        return call

    def send(self, *command: bytes | int) -> None:
        """Send a command whose answer is a push message, if it is not an error. Raises `NotConnected`."""
        self._send(command)

    def close(self, why: Exception) -> None:
        """End the connection. Every caller that waits for an answer fails immediately, with `why` as the cause."""
        if self.failure is not None:
            return
        self.failure = why
        for call in self._pending:
            if call is not None:
                call.resolve(self._lost())
        self._pending.clear()
        self._unsent.clear()
        self._scope.cancel()

    async def run(self) -> None:
        """Carry commands and answers until the connection ends, for a reason that `failure` then is."""
        try:
            with self._scope:
                async with aclosing(self._stream), anyio.create_task_group() as tasks:
                    tasks.start_soon(self._write)
                    tasks.start_soon(self._read)
        except* REDIS_FAILURES as errors:
            self.close(_first(errors))
        except* Exception as errors:
            self.close(log_unexpected(_first(errors)))
        finally:
            self.close(ConnectionLost("the backend is closed"))
            self.closed.set()

    def _send(self, command: tuple[bytes | int, ...]) -> None:
        if self.failure is not None:
            raise NotConnected("the connection was lost") from self.failure
        self._unsent.append(hiredis.pack_command(command))  # type: ignore[arg-type]  # the stubs know tuples of one only
        if len(self._unsent) == 1:
            self._unsent_news.set()

    async def _write(self) -> None:
        while True:
            await self._unsent_news.wait()
            self._unsent_news = anyio.Event()
            data = b"".join(self._unsent)
            self._unsent.clear()
            await self._stream.send(data)

    async def _read(self) -> None:
        reader = hiredis.Reader(protocolError=_not_redis, replyError=reply_error, notEnoughData=_INCOMPLETE)
        while True:
            try:
                data = await self._stream.receive(READ_SIZE)
            except EndOfStream:
                raise ConnectionLost("the server has closed it") from None
            self.received += len(data)
            reader.feed(data)
            while (answer := reader.gets()) is not _INCOMPLETE:
                self._take(answer)

    def _take(self, answer: Any) -> None:
        if isinstance(answer, hiredis.PushNotification):
            if self._on_push is not None:
                self._on_push(answer)
        elif self._pending:
            self.answered += 1
            call = self._pending.popleft()
            if call is not None:
                call.resolve(answer)
        else:  # to a command that has a push message as its answer
            raise answer if isinstance(answer, Exception) else ConnectionLost(f"unexpected answer {answer!r}")

    def _lost(self) -> ConnectionLost:
        """Return the error for one caller: each raises its own."""
        error = ConnectionLost("the connection was lost")
        error.__cause__ = self.failure
        return error


class PendingCommand:
    """A command whose answer a task waits for, or has given up waiting for."""

    __slots__ = ("_answer", "_done", "_on_end")

    def __init__(self, on_end: Callable[[], None] | None) -> None:
        self._done = anyio.Event()
        self._answer: Any = None
        self._on_end = on_end

    def resolve(self, answer: Any) -> None:
        """Give the caller its answer, or the error that it raises."""
        self._answer = answer
        self._done.set()
        if self._on_end is not None:
            self._on_end()

    async def result(self) -> Any:
        """Wait for the answer. Raises as `Pipeline.ask`."""
        await self._done.wait()
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


def _first(errors: BaseExceptionGroup[Any]) -> Any:
    """Return the first error of a group, whatever other groups are around it."""
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _not_redis(text: str) -> ConnectionLost:
    return ConnectionLost(f"what answers is no Redis server: {text}")
