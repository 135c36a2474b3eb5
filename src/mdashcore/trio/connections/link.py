"""A `Connection` on a stream: one task reads, another writes while there is something to write, callers wait.

The reader never waits for a caller. A caller that is cancelled never leaves half a frame behind, because callers do not
write.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeAlias

import trio

from mdashcore._connection import Connection
from mdashcore._errors import CallTimeout, DeviceOffline, LocalProtocolError, RemoteProtocolError, RpcError
from mdashcore._events import (
    ConnectionClosed,
    FrameRejected,
    NotificationReceived,
    RequestReceived,
    ResponseReceived,
)
from mdashcore.trio.transport.stream import BrokenMessage, MessageStream, direct_stream

__all__ = [
    "GOING_AWAY",
    "POLICY_VIOLATION",
    "SERVICE_RESTART",
    "TRY_AGAIN_LATER",
    "EventHandler",
    "Link",
    "PeerEvent",
    "ResultCallback",
    "late",
]

_log = logging.getLogger(__name__)

# Close codes of RFC 6455, section 7.4.1, and of its registry.
GOING_AWAY: Final = 1001
PROTOCOL_ERROR: Final = 1002
POLICY_VIOLATION: Final = 1008
SERVICE_RESTART: Final = 1012
TRY_AGAIN_LATER: Final = 1013

_METHOD: Final = b'"method"'
_ESCAPE: Final = b"\\"  # the beginning of an escape, with which the method could be written too
"""A message without either is no request, and no notification."""

ResultCallback: TypeAlias = Callable[[bytes | Exception], None]
"""Called with the outcome of a call: the result as raw JSON, or the error."""

PeerEvent = RequestReceived | NotificationReceived
"""The events that a link passes to its handler."""

EventHandler: TypeAlias = Callable[[PeerEvent], Coroutine[Any, Any, None]]
"""Handles an event of the peer."""


class _Slot:
    """A slot in which one caller waits for one answer."""

    __slots__ = ("_answered", "_outcome")

    def __init__(self) -> None:
        self._answered = trio.Event()
        self._outcome: bytes | Exception = b""

    def set(self, outcome: bytes | Exception) -> None:
        self._outcome = outcome
        self._answered.set()

    @property
    def is_answered(self) -> bool:
        return self._answered.is_set()

    async def wait(self) -> bytes:
        await self._answered.wait()
        return self.outcome()

    def outcome(self) -> bytes:
        """Return the result, or raise the error of the call. Has to be called only once."""
        outcome, self._outcome = self._outcome, b""
        if not isinstance(outcome, Exception):
            return outcome
        try:
            raise outcome
        finally:
            del outcome  # the error refers to this frame


def late(method: str, timeout: float) -> CallTimeout:
    """Return the error for a call that was not answered within that many seconds."""
    return CallTimeout(f"{method} was not answered within {timeout:g} s")


class Link:
    """One live connection.

    Args:
        spawn: starts a task that outlives its caller, such as `nursery.start_soon`.
        connection: a new one, if the usual limits do not fit.
        on_rejected: called with each frame of the peer that was rejected; must not raise.
    """

    __slots__ = (
        "_callers",
        "_direct",
        "_handler",
        "_latest",
        "_spawn",
        "_writing",
        "connection",
        "on_rejected",
        "stream",
    )

    def __init__(
        self,
        stream: MessageStream,
        *,
        spawn: Callable[[Callable[[], Awaitable[None]]], object],
        connection: Connection | None = None,
        on_rejected: Callable[[FrameRejected], None] = lambda event: None,
    ) -> None:
        self.stream: MessageStream = stream
        self.connection: Connection = connection or Connection()
        self._spawn = spawn
        self._direct = direct_stream(stream)
        self._writing = False
        self._latest: tuple[str, object] | None = None
        self.on_rejected: Callable[[FrameRejected], None] = on_rejected
        self._handler: EventHandler = _drop
        self._callers: dict[int, ResultCallback] = {}
        stream.on_control = self._wake_writer

    async def run(self, handler: EventHandler) -> None:
        """Read until the connection ends. `handler` is awaited for each event before the next one."""
        self._wake_writer()  # for control frames that the handshake has caused
        if self._direct is not None:
            self._handler = handler
            self._direct.on_message = self._receive_now
        try:
            while (message := await self.stream.receive()) is not None:
                for peer_event in self._receive(message):
                    await handler(peer_event)
                self._wake_writer()
        finally:
            self.connection.close("the connection has ended")
            for event in self.connection.events():
                if isinstance(event, ConnectionClosed):
                    self._fail_calls(event)
            self._forget_callbacks()

    def _forget_callbacks(self) -> None:
        """Refer to nothing that refers to the link. Python would free such a cycle much later."""
        self.on_rejected = _ignore
        self._handler = _drop
        self.stream.on_control = _do_nothing
        if self._direct is not None:
            self._direct.on_message = _leave

    async def call(
        self,
        method: str,
        params: object = None,
        *,
        timeout: float,
        meanwhile: Callable[[], Awaitable[object]] | None = None,
    ) -> bytes:
        """Call the peer and wait for its result, as raw JSON.

        Args:
            timeout: seconds.
            meanwhile: awaited after the call was sent, while the peer answers. Its time counts, but an answer that has
                come by its end is never late.

        Raises:
            RpcError: the peer's own error.
            InvalidAnswer: the peer's answer cannot be read, or is too large.
            CallTimeout: no answer in time; a later one is ignored.
            DeviceOffline: the connection ended first.
            Busy, TooLarge, InvalidInput: nothing was sent; see `Connection.call`. Nor was `meanwhile` called.
            Exception: the error of `meanwhile`. The call was sent then.
        """
        slot = _Slot()
        id_ = self.begin(method, params, slot.set)
        deadline = trio.current_time() + timeout
        try:
            if meanwhile is not None:
                await meanwhile()
                if slot.is_answered:
                    return slot.outcome()
            with trio.CancelScope(deadline=deadline):
                return await slot.wait()
        finally:
            self.abandon(id_)
        raise late(method, timeout)

    def begin(self, method: str, params: object, done: ResultCallback) -> int:
        """Call the peer without waiting. Returns the call's id. Raises as `call`, except for the errors of an answer.

        Args:
            done: called once, after this has returned, with the result or the error.
        """
        try:
            id_ = self.connection.call(method, params)
        except LocalProtocolError as exc:
            raise DeviceOffline(str(exc)) from None
        self._callers[id_] = done
        self._wake_writer()
        return id_

    def abandon(self, id: int) -> None:
        """Stop waiting for a call: its callback is not called any more. An unknown id is ignored."""
        self._callers.pop(id, None)
        if not self._callers:
            self._callers = {}  # an emptied dict keeps its memory
        self.connection.abandon(id)

    def notify(self, method: str, params: object = None) -> None:
        """Send a notification to the peer. Raises `DeviceOffline`, and as `call`."""
        try:
            self.connection.notify(method, params)
        except LocalProtocolError as exc:
            raise DeviceOffline(str(exc)) from None
        self._wake_writer()

    def notify_latest(self, method: str, params: object) -> None:
        """Send a notification of which only the newest counts. While the peer does not read, only the last one waits.

        Raises as `notify` if it does not have to wait.
        """
        if self._writing:
            self._latest = method, params
        else:
            self.notify(method, params)

    def forget_latest(self) -> None:
        """Drop the notification that `notify_latest` has left waiting."""
        self._latest = None

    def reply(self, ref: int, result: object) -> None:
        """Answer a request; see `Connection.reply`."""
        self.connection.reply(ref, result)
        self._wake_writer()

    def reply_error(self, ref: int, error: RpcError) -> None:
        """Answer a request with an error; see `Connection.reply_error`."""
        self.connection.reply_error(ref, error)
        self._wake_writer()

    def close(self, code: int, reason: str) -> None:
        """Close the connection: `run` ends soon, calls fail immediately, unsent frames are dropped."""
        self.connection.close(reason)
        self.stream.close(code, reason)
        for event in self.connection.events():
            if isinstance(event, ConnectionClosed):
                self._fail_calls(event)

    def abort(self) -> None:
        """Abort the connection: `run` ends immediately."""
        self.stream.abort()

    def _receive(self, message: bytes | BrokenMessage) -> list[PeerEvent]:
        """Receive a message. Returns the events for the handler."""
        try:
            if type(message) is bytes:
                self.connection.receive_data(message)
            else:
                self.connection.receive_broken(*message)
        except RemoteProtocolError as exc:
            self.stream.close(PROTOCOL_ERROR, exc.message)
        events: list[PeerEvent] = []
        for event in self.connection.events():
            if isinstance(event, ResponseReceived):
                self._resolve(event.id, event.error or event.result)
            elif isinstance(event, RequestReceived | NotificationReceived):
                events.append(event)
            elif isinstance(event, FrameRejected):
                self.on_rejected(event)
            elif isinstance(event, ConnectionClosed):
                self._fail_calls(event)
        return events

    def _receive_now(self, message: bytes | BrokenMessage) -> bool:
        """Receive a message without waking the task of `run`, unless the handler may be needed. It may have to wait.

        Returns whether the message was received.
        """
        if type(message) is bytes and (_METHOD in message or _ESCAPE in message):
            return False
        self._receive(message)  # no events: those have a method
        self._wake_writer()
        return True

    def _resolve(self, id_: int, outcome: bytes | Exception) -> None:
        if (done := self._callers.pop(id_, None)) is not None:
            try:
                done(outcome)
            except Exception:  # a defect of the caller: neither the peer nor other callers may suffer from it
                _log.exception("the outcome of a call could not be delivered")

    def _fail_calls(self, event: ConnectionClosed) -> None:
        for id_ in event.calls:
            self._resolve(id_, DeviceOffline(event.reason))

    def _wake_writer(self) -> None:
        if self._writing or not (self.connection.has_data_to_send or self.stream.control_pending):
            return
        if self._direct is None or not self._direct.send_nowait(self.connection.data_to_send()):
            self._writing = True
            self._spawn(self._write)

    def _latest_to_send(self) -> list[bytes]:
        """Return the frames of the notification that has waited for the peer to read."""
        if self._latest is None or self.connection.closed:
            return []
        latest, self._latest = self._latest, None
        self.connection.notify(*latest)
        return self.connection.data_to_send()

    async def _write(self) -> None:
        try:
            while True:
                frames = self.connection.data_to_send() or self._latest_to_send()
                if not frames and not self.stream.control_pending:
                    break
                await self.stream.send(frames)
        except trio.BrokenResourceError:
            self.stream.abort()
        finally:
            self._writing = False


def _ignore(event: FrameRejected) -> None:
    """Ignore a rejected frame: the link has ended."""


async def _drop(event: PeerEvent) -> None:
    """Drop an event: the link does not run."""


def _do_nothing() -> None:
    """Send no control frame: the link has ended."""


def _leave(message: bytes | BrokenMessage) -> bool:
    """Leave a message unread: the link has ended."""
    return False
