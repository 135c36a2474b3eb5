"""One connection of a client, as the gateway and its lanes share it."""

from __future__ import annotations

import socket
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress
from math import inf
from typing import Final

import attrs
import trio

from mdashcore.server.asgi import LINGER_TIME
from mdashcore.server.http.forwarded import peer_of
from mdashcore.server.http.hangup import transport_of
from mdashcore.server.networks import network_of
from mdashcore.trio.transport.readiness import Inflow
from mdashcore.trio.transport.stream import SEND_TIMEOUT, write_now
from mdashcore.trio.turns import Turn

__all__ = ["SEND_PIECE", "HttpConnection"]

SEND_PIECE: Final = (
    2**16
)  # bytes that a client has to take within SEND_TIMEOUT: 2 kB/s. With TLS it also bounds the encrypted bytes ahead

DRAIN_SIZE: Final = 2**18  # bytes read at a time from a refused client that still sends; they are discarded
DRAIN_PAUSE: Final = 0.005  # seconds until the next read: 50 MB/s, so that a flood costs a fiftieth of a core


@attrs.define(eq=False)
class HttpConnection:
    """One connection."""

    stream: trio.abc.Stream
    inflow: Inflow
    scope: trio.CancelScope
    """The scope of all work for the connection, until it becomes a WebSocket. Its deadline moves with each wait."""
    quiet_since: float = attrs.field(init=False, factory=trio.current_time)
    """When bytes were last sent to the client, or the connection was accepted, on Trio's clock. The time in which a
    request, or a part of one, waits for its turn is added: it is not the client's."""
    used: bool = attrs.field(init=False, default=False)
    """Whether a request was answered on the connection. Such a connection may be idle for longer."""
    waits_for_client: bool = attrs.field(init=False, default=False)
    """Whether the connection waits for its client, and for nothing else."""
    in_request: bool = attrs.field(init=False, default=True)
    """Whether the first byte of a request has come, whose client would lose it with the connection."""
    secure: bool = attrs.field(init=False, default=False)
    """Whether the client of the present request uses TLS, to the server or to a trusted proxy."""
    request_id: str = attrs.field(init=False, default="")
    """The id of the present or the last request."""
    turn: Turn = attrs.field(init=False, factory=Turn)
    """The turn for the work of the connection's requests."""

    account: Hashable = attrs.field(init=False, default=None)
    """The account of the last request that was authenticated: the next one is not yet, when it comes."""
    _network: str | None = attrs.field(init=False, default=None)
    _queued_at: float | None = attrs.field(init=False, default=None)

    @property
    def network(self) -> str:
        """The network of the client, as `network_of` returns it."""
        if self._network is None:
            self._network = network_of(peer_of(self.stream))
        return self._network

    @property
    def sender(self) -> Hashable:
        """The account of the present request, or a stranger's network: owner of work before a request is known."""
        return ("client", self.network) if self.owner is None else self.owner

    @property
    def is_unread(self) -> bool:
        """Whether the client has sent what the server has not handled yet: the server is late, not the client."""
        if self.inflow.has_data:
            return True
        transport = transport_of(self.stream)
        return transport is not None and transport.socket.fileno() >= 0 and transport.socket.is_readable()

    @property
    def known(self) -> bool:
        """Whether a request on the connection is, or was, authenticated."""
        return self.account is not None

    @property
    def owner(self) -> Hashable:
        """The account of the present request; `None` for a stranger. All connections of an account share one turn."""
        return self.turn.owner

    @owner.setter
    def owner(self, owner: Hashable) -> None:
        self.turn.owner = self.inflow.owner = owner
        if owner is not None:
            self.account = owner

    def identify(self, account: str) -> None:
        """Record the account that has sent the present request."""
        self.owner = account

    def quiet_time(self, now: float) -> float:
        """Return the seconds for which the client has got nothing, without those in which it waited for its turn."""
        return (now if self._queued_at is None else self._queued_at) - self.quiet_since

    @contextmanager
    def queued(self) -> Iterator[None]:
        """Mark the context as waiting for a turn, because the server is busy with other requests."""
        self._queued_at = trio.current_time()
        try:
            yield
        finally:
            self.quiet_since += trio.current_time() - self._queued_at
            self._queued_at = None

    async def give_way(self) -> None:
        """Wait for a turn of the sender. Neither the deadline of the scope nor the silence of the client goes on."""
        waits, self.waits_for_client = self.waits_for_client, False
        deadline, self.scope.deadline = self.scope.deadline, inf
        started = trio.current_time()
        try:
            with self.queued():
                await Turn(self.sender).give_way()
        finally:
            self.waits_for_client = waits
            self.scope.deadline = deadline + trio.current_time() - started

    def cancel(self) -> None:
        """End the connection, whatever is under way on it."""
        self.scope.cancel()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Mark the context as waiting for the client."""
        self.waits_for_client = True
        try:
            yield
        finally:
            self.waits_for_client = False

    async def receive(self) -> bytes | None:
        """Return the next bytes of the client; `None` after the end of the stream, whatever has ended it."""
        self.waits_for_client = True
        try:
            return await self.inflow.receive()
        finally:
            self.waits_for_client = False

    def send_nowait(self, data: bytes) -> bytes:
        """Send without waiting. Returns the bytes that the kernel did not accept, for `send_rest`."""
        self.quiet_since = trio.current_time()
        if not self.used:
            self.used = True
            self.set_unread_timeout(SEND_TIMEOUT)
        return data[write_now(self.stream, data) :]

    async def send_rest(self, rest: bytes) -> None:
        """Send bytes that `send_nowait` has returned. Raises `trio.TooSlowError` if the client does not read."""
        view = memoryview(rest)
        for start in range(0, len(view), SEND_PIECE):
            with trio.fail_after(SEND_TIMEOUT):
                await self.stream.send_all(view[start : start + SEND_PIECE])
            self.quiet_since = trio.current_time()

    async def send(self, data: bytes) -> None:
        """Send all bytes. Raises `trio.TooSlowError` if the client does not read."""
        await self.send_rest(self.send_nowait(data))

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

    async def linger(self) -> None:
        """Let the client take the last answer before the connection is closed.

        The kernel resets a connection with unread bytes when it is closed, so those are read and discarded.
        """
        self.inflow.close()
        transport = transport_of(self.stream)
        with self.waiting(), trio.move_on_after(LINGER_TIME):
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
