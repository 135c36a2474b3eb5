"""The connection of a simulated device, without a socket."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import trio


class DeviceStream:
    """The server's end of the connection.

    Args:
        receive: called with each message of the server.
    """

    on_control: Callable[[], None] = staticmethod(lambda: None)
    control_pending = False

    def __init__(self, receive: Callable[[bytes], None]) -> None:
        self._receive = receive
        self._inbox: deque[bytes] = deque()
        self._wakeup = trio.Event()
        self.ended = False

    @property
    def last_received(self) -> float:
        return trio.current_time()

    def ping(self) -> None:
        pass

    def put(self, frame: bytes) -> None:
        """Send a frame of the device."""
        self._inbox.append(frame)
        self._wakeup.set()

    async def receive(self) -> bytes | None:
        while not self._inbox and not self.ended:
            self._wakeup = trio.Event()
            await self._wakeup.wait()
        await trio.lowlevel.checkpoint()
        return self._inbox.popleft() if self._inbox else None

    async def send(self, messages: Sequence[bytes]) -> None:
        await trio.lowlevel.checkpoint()
        if self.ended:
            raise trio.BrokenResourceError
        for message in messages:
            self._receive(bytes(message))

    def close(self, code: int, reason: str) -> None:
        self.abort()

    def abort(self) -> None:
        self.ended = True
        self._wakeup.set()
