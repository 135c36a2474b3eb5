"""One connection of a client, as the gateway and its lanes share it."""

from __future__ import annotations

import socket
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress
from math import inf
from typing import Final

import attrs
import trio

from mdashcore.server.asgi import LINGER
from mdashcore.server.http.hangup import transport_of
from mdashcore.trio.connections.calls import BegunCall
from mdashcore.trio.transport.readiness import Inflow
from mdashcore.trio.transport.server_websocket import SEND_TIMEOUT
from mdashcore.trio.transport.stream import write_now
from mdashcore.trio.turns import Turn

__all__ = ["SEND_PIECE", "HttpConnection"]

SEND_PIECE: Final = (
    2**16
)  # bytes that a client has to take within SEND_TIMEOUT: 2 kB/s; under TLS also what is encrypted ahead

DRAIN_SIZE: Final = 2**18  # bytes that a refused client still sends, thrown away at once
DRAIN_PAUSE: Final = 0.005  # seconds until the next of them: 50 MB/s, so that a flood costs a fiftieth of a core


@attrs.define(eq=False)
class HttpConnection:
    """One connection.

    Its task waits for what the client sends. Meanwhile a call may be under way that no task waits for.
    """

    stream: trio.abc.Stream
    inflow: Inflow
    scope: trio.CancelScope
    """Around all that is done for it, until it becomes a WebSocket; its deadline moves with what is waited for."""
    answered_at: float = attrs.field(init=False, factory=trio.current_time)
    """When something was last sent to the client, on Trio's clock; before that, when the connection was accepted."""
    used: bool = attrs.field(init=False, default=False)
    """Whether a request was answered on it: it may be idle for longer."""
    call: BegunCall | None = attrs.field(init=False, default=None)
    """What was asked of a device, and its answer is still to be sent."""
    deadline: float = attrs.field(init=False, default=inf)
    """When the waiting is over: for the device's answer, or for another request."""
    resting: trio.CancelScope = attrs.field(init=False, factory=trio.CancelScope)
    """Around that waiting. It may look too early: a deadline that moves on is not worth its price each time."""
    answered: trio.Event | None = attrs.field(init=False, default=None)
    """Set when the call has ended, for a task that cannot go on before."""
    secure: bool = attrs.field(init=False, default=False)
    """Whether the client of the present request uses TLS, to the server or to a trusted proxy."""
    turn: Turn = attrs.field(init=False, factory=Turn)
    """The work that its requests are, where one follows the other."""
    _rest: bytes = attrs.field(init=False, default=b"")
    _waiting: bool = attrs.field(init=False, default=False)

    @property
    def is_stranger(self) -> bool:
        """Whether it is not known who has sent the last request, or who sends the present one."""
        return self.turn.owner is None

    @property
    def waits_for_client(self) -> bool:
        """Whether nothing happens on the connection before its client does something."""
        return self._waiting and self.call is None

    @property
    def owner(self) -> Hashable:
        """The account that asks; `None` for a stranger. All connections of an account share one turn."""
        return self.turn.owner

    @owner.setter
    def owner(self, owner: Hashable) -> None:
        self.turn.owner = self.inflow.owner = owner

    def wait_until(self, deadline: float) -> None:
        """Move the end of the waiting."""
        self.deadline = deadline
        if self.resting.deadline > deadline:
            self.resting.deadline = deadline

    def identify(self, account: str) -> None:
        """Take note of the account that has sent the present request."""
        self.owner = account

    def cancel(self) -> None:
        """End the connection, whatever is under way on it."""
        self.scope.cancel()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Mark what is inside as waiting for the client."""
        self._waiting = True
        try:
            yield
        finally:
            self._waiting = False

    async def receive(self) -> bytes | None:
        """Wait for what the client sends next; `None` once the stream has ended, in whatever way."""
        self._waiting = True
        try:
            return await self.inflow.receive()
        finally:
            self._waiting = False

    def end(self, answer: bytes) -> None:
        """Send the answer to what was asked last."""
        self.call = None
        self.put(answer)
        if self.answered is not None:
            self.answered.set()

    def abandon(self) -> None:
        """Forget what was asked: nobody is there to be answered."""
        if self.call is not None:
            self.call.abandon()
            self.call = None

    async def wait_answered(self) -> None:
        """Wait for the end of the call, as long as it has time."""
        self.answered = trio.Event()
        with trio.CancelScope(deadline=self.deadline):
            await self.answered.wait()
        self.answered = None

    def put(self, data: bytes) -> None:
        """Send, as far as the system takes it at once; the task has to `flush`, and is told."""
        self.answered_at = trio.current_time()
        if not self.used:
            self.used = True
            self.set_unread_timeout(SEND_TIMEOUT)
        self._rest = data[write_now(self.stream, data) :]
        if self._rest:
            self.inflow.wake()

    async def flush(self) -> None:
        """Send the rest. Raises `trio.TooSlowError` where the client does not read."""
        if self._rest:
            rest, self._rest = memoryview(self._rest), b""
            for start in range(0, len(rest), SEND_PIECE):
                with trio.fail_after(SEND_TIMEOUT):
                    await self.stream.send_all(rest[start : start + SEND_PIECE])

    async def send(self, data: bytes) -> None:
        """Send all of it. Raises `trio.TooSlowError` where the client does not read."""
        self.put(data)
        await self.flush()

    def set_unread_timeout(self, seconds: float) -> None:
        """Have the system end the connection when the client takes nothing of what is in its buffers; 0: never.

        An answer may fit into those whole, and no write would find out.
        """
        transport = transport_of(self.stream)
        if transport is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            with suppress(OSError):  # closed meanwhile
                transport.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * seconds))

    async def part(self) -> None:
        """Have the client take the last answer before the connection is closed: bytes left unread would cut it off."""
        self.inflow.close()
        transport = transport_of(self.stream)
        with self.waiting(), trio.move_on_after(LINGER):
            if isinstance(self.stream, trio.SSLStream):
                try:
                    await self.stream.unwrap()  # says goodbye, and waits for the client's
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass  # it still sends, or is gone
            if transport is not None:
                try:
                    await transport.send_eof()
                    while await transport.receive_some(DRAIN_SIZE):  # noqa: ASYNC110 - the pause is no wait for an event
                        await trio.sleep(DRAIN_PAUSE)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass
        if transport is not None:
            transport.socket.close()  # after `unwrap` it is not the stream's any more
