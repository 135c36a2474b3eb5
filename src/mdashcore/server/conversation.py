"""One connection of a client, as the gateway and its lanes share it."""

from __future__ import annotations

from math import inf

import attrs
import trio

from mdashcore.server.asgi import LINGER
from mdashcore.trio.calls import BegunCall
from mdashcore.trio.inflow import Inflow
from mdashcore.trio.stream import write_now
from mdashcore.trio.websocket import READ_SIZE, SEND_TIMEOUT

__all__ = ["Conversation"]


@attrs.define(eq=False)
class Conversation:
    """One connection.

    Its task waits for what the client sends. Meanwhile a call may be under way that no task waits for.
    """

    stream: trio.abc.Stream
    inflow: Inflow
    scope: trio.CancelScope
    """Around all that is done for it; its deadline moves with what is waited for."""
    used: bool = attrs.field(init=False, default=False)
    """Whether a request was answered on it: it can become no socket any more, and may be idle for longer."""
    call: BegunCall | None = attrs.field(init=False, default=None)
    """What was asked of a device, and its answer is still to be sent."""
    deadline: float = attrs.field(init=False, default=inf)
    """When the waiting is over: for the device's answer, or for another request."""
    resting: trio.CancelScope = attrs.field(init=False, factory=trio.CancelScope)
    """Around that waiting. It may look too early: a deadline that moves on is not worth its price each time."""
    answered: trio.Event | None = attrs.field(init=False, default=None)
    """Set when the call has ended, for a task that cannot go on before."""
    _rest: bytes = attrs.field(init=False, default=b"")

    def wait_until(self, deadline: float) -> None:
        """Move the end of the waiting."""
        self.deadline = deadline
        if self.resting.deadline > deadline:
            self.resting.deadline = deadline

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
        self.used = True
        self._rest = data[write_now(self.stream, data) :]
        if self._rest:
            self.inflow.wake()

    async def flush(self) -> None:
        """Send the rest."""
        if self._rest:
            rest, self._rest = self._rest, b""
            self.scope.deadline = trio.current_time() + SEND_TIMEOUT
            await self.stream.send_all(rest)
            self.scope.deadline = inf

    async def send(self, data: bytes) -> None:
        """Send all of it."""
        self.put(data)
        await self.flush()

    async def part(self) -> None:
        """Have the client take the last answer before the connection is closed: bytes left unread would cut it off."""
        self.inflow.close()
        if isinstance(self.stream, trio.abc.HalfCloseableStream):
            with trio.move_on_after(LINGER):
                await self.stream.send_eof()
                while await self.stream.receive_some(READ_SIZE):
                    pass
