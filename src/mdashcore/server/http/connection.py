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
)  # bytes that a client has to take within SEND_TIMEOUT: 2 kB/s. With TLS it also bounds the encrypted bytes ahead

DRAIN_SIZE: Final = 2**18  # bytes read at a time from a refused client that still sends; they are discarded
DRAIN_PAUSE: Final = 0.005  # seconds until the next read: 50 MB/s, so that a flood costs a fiftieth of a core


@attrs.define(eq=False)
class HttpConnection:
    """One connection.

    Its task waits for the bytes of the client. Meanwhile a call may be under way for which no task waits.
    """

    stream: trio.abc.Stream
    inflow: Inflow
    scope: trio.CancelScope
    """The scope of all work for the connection, until it becomes a WebSocket. Its deadline moves with each wait."""
    answered_at: float = attrs.field(init=False, factory=trio.current_time)
    """When bytes were last sent to the client, or the connection was accepted, on Trio's clock."""
    used: bool = attrs.field(init=False, default=False)
    """Whether a request was answered on the connection. Such a connection may be idle for longer."""
    call: BegunCall | None = attrs.field(init=False, default=None)
    """The running call of a device, whose answer is still to be sent."""
    deadline: float = attrs.field(init=False, default=inf)
    """The end of the wait for the device's answer, or for another request."""
    resting: trio.CancelScope = attrs.field(init=False, factory=trio.CancelScope)
    """The scope of that wait. It may end too early, because it costs too much to move its deadline every time."""
    answered: trio.Event | None = attrs.field(init=False, default=None)
    """Set when the call has ended, for a task that cannot go on before."""
    secure: bool = attrs.field(init=False, default=False)
    """Whether the client of the present request uses TLS, to the server or to a trusted proxy."""
    turn: Turn = attrs.field(init=False, factory=Turn)
    """The turn for the work of the connection's requests."""
    _rest: bytes = attrs.field(init=False, default=b"")
    _waiting: bool = attrs.field(init=False, default=False)

    @property
    def is_stranger(self) -> bool:
        """Whether the sender of the present or the last request is not authenticated."""
        return self.turn.owner is None

    @property
    def waits_for_client(self) -> bool:
        """Whether the connection waits for its client, and for nothing else."""
        return self._waiting and self.call is None

    @property
    def owner(self) -> Hashable:
        """The account of the present request; `None` for a stranger. All connections of an account share one turn."""
        return self.turn.owner

    @owner.setter
    def owner(self, owner: Hashable) -> None:
        self.turn.owner = self.inflow.owner = owner

    def wait_until(self, deadline: float) -> None:
        """Move the end of the wait."""
        self.deadline = deadline
        if self.resting.deadline > deadline:
            self.resting.deadline = deadline

    def identify(self, account: str) -> None:
        """Record the account that has sent the present request."""
        self.owner = account

    def cancel(self) -> None:
        """End the connection, whatever is under way on it."""
        self.scope.cancel()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Mark the context as waiting for the client."""
        self._waiting = True
        try:
            yield
        finally:
            self._waiting = False

    async def receive(self) -> bytes | None:
        """Return the next bytes of the client; `None` after the end of the stream, whatever has ended it."""
        self._waiting = True
        try:
            return await self.inflow.receive()
        finally:
            self._waiting = False

    def end(self, answer: bytes) -> None:
        """Send the answer to the last request, and end its call."""
        self.call = None
        self.put(answer)
        if self.answered is not None:
            self.answered.set()

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

    def put(self, data: bytes) -> None:
        """Send without waiting. The task that waits is woken to `flush` the bytes that the kernel did not accept."""
        self.answered_at = trio.current_time()
        if not self.used:
            self.used = True
            self.set_unread_timeout(SEND_TIMEOUT)
        self._rest = data[write_now(self.stream, data) :]
        if self._rest:
            self.inflow.wake()

    async def flush(self) -> None:
        """Send the remaining bytes. Raises `trio.TooSlowError` if the client does not read."""
        if self._rest:
            rest, self._rest = memoryview(self._rest), b""
            for start in range(0, len(rest), SEND_PIECE):
                with trio.fail_after(SEND_TIMEOUT):
                    await self.stream.send_all(rest[start : start + SEND_PIECE])

    async def send(self, data: bytes) -> None:
        """Send all bytes. Raises `trio.TooSlowError` if the client does not read."""
        self.put(data)
        await self.flush()

    def set_unread_timeout(self, seconds: float) -> None:
        """Have the kernel end the connection if the client accepts none of the buffered bytes in time.

        A whole answer may fit into the kernel's buffers, and then no write would fail.

        Args:
            seconds: 0 for any time.
        """
        transport = transport_of(self.stream)
        if transport is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            with suppress(OSError):  # closed meanwhile
                transport.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * seconds))

    async def part(self) -> None:
        """Let the client take the last answer before the connection is closed.

        The kernel resets a connection with unread bytes when it is closed, so those are read and discarded.
        """
        self.inflow.close()
        transport = transport_of(self.stream)
        with self.waiting(), trio.move_on_after(LINGER):
            if isinstance(self.stream, trio.SSLStream):
                try:
                    await self.stream.unwrap()  # sends the closing alert, and waits for the client's
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass  # the client still sends, or has gone
            if transport is not None:
                try:
                    await transport.send_eof()
                    while await transport.receive_some(DRAIN_SIZE):  # noqa: ASYNC110 - the pause limits the rate
                        await trio.sleep(DRAIN_PAUSE)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass
        if transport is not None:
            transport.socket.close()  # after `unwrap` the socket no longer belongs to the stream
