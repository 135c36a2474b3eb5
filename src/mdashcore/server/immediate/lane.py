"""A fast lane that answers requests without waking the tasks of their connections."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import attrs
import trio

from mdashcore._errors import MdashError
from mdashcore.identity import DeviceKey
from mdashcore.server.auth import Principal
from mdashcore.server.http.connection import HttpConnection
from mdashcore.server.http.hangup import cancelled_by_hangup, detects_hangups
from mdashcore.server.http.request_head import RequestHead
from mdashcore.server.http.request_id import as_current, current
from mdashcore.server.http.root_path import RootPath
from mdashcore.server.immediate.calls import BegunCall, begin_call
from mdashcore.server.immediate.coroutines import run_now
from mdashcore.server.lanes.fast_lane import KEEP_ALIVE, Answer, FastLane, failure
from mdashcore.server.service import Service

__all__ = ["ImmediateLane"]


@attrs.define(eq=False)
class _Rest:
    """The rest of one connection's task, during which requests are answered."""

    connection: HttpConnection
    deadline: float
    """The end of the wait for the device's answer, or for another request."""
    scope: trio.CancelScope = attrs.field(init=False, factory=trio.CancelScope)
    """The scope of that wait. It may end too early, because it costs too much to move its deadline every time."""
    call: BegunCall | None = attrs.field(init=False, default=None)
    """The running call of a device, whose answer is still to be sent."""
    answered: trio.Event | None = attrs.field(init=False, default=None)
    """Set when the call has ended, for the task that cannot go on before."""
    _unsent: bytes = attrs.field(init=False, default=b"")

    def begin(self, call: BegunCall) -> None:
        """Wait for the answer to a call."""
        self.call = call
        self.connection.waits_for_client = False
        self._wait_until(trio.current_time() + call.timeout)

    def end(self, answer: bytes) -> None:
        """Send the answer to the last request. If the kernel does not accept all, the task is woken to `flush`."""
        self.call = None
        self._unsent = self.connection.send_nowait(answer)
        if self._unsent:
            self.connection.inflow.wake()
        if self.answered is not None:
            self.answered.set()
        else:
            self.connection.waits_for_client = True
        self._wait_until(trio.current_time() + KEEP_ALIVE)

    def abandon(self) -> None:
        """Abandon the running call. Its client has gone."""
        if self.call is not None:
            self.call.abandon()
            self.call = None

    async def wait_answered(self) -> None:
        """Wait for the end of the call, until its deadline."""
        self.answered = trio.Event()
        with trio.CancelScope(deadline=self.deadline):
            await self.answered.wait()
        self.answered = None

    async def flush(self) -> None:
        """Send the remaining bytes. Raises `trio.TooSlowError` if the client does not read."""
        if self._unsent:
            unsent, self._unsent = self._unsent, b""
            await self.connection.send_rest(unsent)

    def _wait_until(self, deadline: float) -> None:
        self.deadline = deadline
        if self.scope.deadline > deadline:
            self.scope.deadline = deadline


class ImmediateLane(FastLane):
    """Answers plain requests while the tasks of their connections rest.

    Args:
        authenticate: as for `FastLane`. It never waits.
        is_open: as for `FastLane`.
    """

    def __init__(
        self, service: Service, authenticate: Callable[[str], Awaitable[Principal]], *, is_open: bool = True
    ) -> None:
        super().__init__(service, authenticate, is_open=is_open)
        self._strip = RootPath(service.settings.root_path).strip

    async def wait_for_request(self, connection: HttpConnection, idle: float) -> bytes:
        if not self._open:
            return await super().wait_for_request(connection, idle)
        rest = _Rest(connection, trio.current_time() + idle)
        connection.inflow.on_data = partial(self._answer_now, rest)
        try:
            while not self.closing.is_set():
                rest.scope = trio.CancelScope(deadline=rest.deadline)
                with self._resting_in(rest.scope):
                    data = await connection.receive()
                if rest.scope.cancelled_caught:
                    if trio.current_time() < rest.deadline and not self.closing.is_set():
                        continue
                    if rest.call is None:
                        break
                    data = b""
                if data is None and (rest.call is None or not detects_hangups()):
                    break
                if rest.call is not None:
                    await self._end_call(rest, rest.call)
                await rest.flush()
                if data is None:
                    break
                if self.closing.is_set():
                    await connection.linger()
                elif data:
                    return data
            return b""
        finally:
            connection.inflow.on_data = None
            rest.abandon()

    async def _end_call(self, rest: _Rest, call: BegunCall) -> None:
        """Wait for the end of the call, and end it at its deadline.

        Raises:
            trio.BrokenResourceError: the client has gone. No answer is sent.
        """
        with cancelled_by_hangup(rest.connection.stream) as hangup:  # no task reads meanwhile
            await rest.wait_answered()
        if hangup.gone:
            raise trio.BrokenResourceError("the client has gone")
        if rest.call is not None:
            self._put(rest, failure(call.give_up()))

    def _answer_now(self, rest: _Rest, data: bytes) -> bytes | None:
        """Answer a plain request, or begin to. Returns the bytes that cannot be answered without waiting."""
        if rest.call is not None or self.draining.is_set():  # `answer` makes its answer the last one
            return data
        below = self._strip(data)
        request = None if below is None else RequestHead.read(below)
        if below is None or request is None or request.body_end != len(below) or request.close:
            return data
        if request.body_end - request.body_start > self._max_body:
            return data
        self._note_scheme(rest.connection, below[: request.body_start])
        rest.connection.request_id = self.ids.begin(rest.connection.stream, below)
        try:
            return None if run_now(self._begin(rest, request, below[request.body_start :])) else data
        finally:
            current.set("")  # the task that reads from all sockets works for no request after this one

    async def _begin(self, rest: _Rest, request: RequestHead, body: bytes) -> bool:
        """Answer a request, or call its device. Returns `False` for a request that a task has to answer."""
        try:
            account = rest.connection.owner = (await self._authenticate(request.authorization)).account
        except MdashError:
            return False
        if request.method is None:
            self._put(rest, await self._answer(request, account, body))
            return True
        try:
            key = DeviceKey.find(account, request.device)
            done = partial(self._done, rest)
            call = await begin_call(self._service, key, request.method, body, request.timeout, done)
        except Exception as exc:
            self._put(rest, failure(exc))
            return True
        if call is None:
            return False
        rest.begin(call)
        return True

    def _done(self, rest: _Rest, outcome: bytes | Exception) -> None:
        if isinstance(outcome, bytes):
            self._put(rest, Answer(200, outcome))
        else:
            with as_current(rest.connection.request_id):  # the task is that of the device's connection
                self._put(rest, failure(outcome))

    def _put(self, rest: _Rest, answer: Answer) -> None:
        """Send an answer for which the connection's task does not wait."""
        rest.end(self._encode(rest.connection, answer, close=self.closing.is_set()))
