"""Two connections back to back, without a transport."""

from __future__ import annotations

from collections import deque
from typing import Final

from mdashcore._connection import Connection
from mdashcore._events import Event

__all__ = ["ConnectionPair"]

MAX_ROUNDS: Final = 8  # connections answer frames that they cannot read, and ignore such answers: two rounds are enough


class ConnectionPair:
    """Two connections whose transport is a pair of queues: nothing waits, nothing is lost, no clock runs.

    Each end is a plain `Connection`; the test calls, answers and closes it. `pump` carries frames both
    ways until none is left. `deliver_to_left` and `deliver_to_right` carry some of them one way, for tests of
    the order of events.

    Args:
        left: one end; by default a new `Connection`.
        right: the other end; by default a new `Connection`.

    >>> pair = ConnectionPair()
    >>> id = pair.left.call("Sys.GetInfo")
    >>> _, [request] = pair.pump()
    >>> pair.right.reply(request.ref, {"app": "demo"})
    >>> [response], _ = pair.pump()
    >>> response.id == id, response.result
    (True, b'{"app":"demo"}')
    """

    def __init__(self, left: Connection | None = None, right: Connection | None = None) -> None:
        self.left: Connection = Connection() if left is None else left
        self.right: Connection = Connection() if right is None else right
        self.to_left: deque[bytes] = deque()
        """Frames on their way from `right`, oldest first. A test may remove some, or insert others."""
        self.to_right: deque[bytes] = deque()
        """Frames on their way from `left`, as `to_left`."""

    def pump(self) -> tuple[list[Event], list[Event]]:
        """Carry every frame to the other end, until both are quiet. Returns the new events of left and right.

        Raises:
            RemoteProtocolError: one end cannot go on after a frame, and is closed. Its `events()` tell the rest.
            AssertionError: the ends go on answering each other.
        """
        for _ in range(MAX_ROUNDS):
            self._collect()
            if not (self.to_left or self.to_right):
                return self.left.events(), self.right.events()
            _carry(self.to_right, self.right)
            _carry(self.to_left, self.left)
        raise AssertionError(f"not quiet after {MAX_ROUNDS} rounds; on their way: {[*self.to_left, *self.to_right]}")

    def deliver_to_left(self, frames: int | None = None) -> list[Event]:
        """Carry at most `frames` frames, or all, from right to left. Returns the new events of left.

        Raises:
            RemoteProtocolError: left cannot go on after a frame, and is closed. Its `events()` tell the rest.
        """
        self._collect()
        _carry(self.to_left, self.left, frames)
        return self.left.events()

    def deliver_to_right(self, frames: int | None = None) -> list[Event]:
        """Carry at most `frames` frames, or all, from left to right. Otherwise as `deliver_to_left`."""
        self._collect()
        _carry(self.to_right, self.right, frames)
        return self.right.events()

    def _collect(self) -> None:
        self.to_right.extend(self.left.data_to_send())
        self.to_left.extend(self.right.data_to_send())


def _carry(wire: deque[bytes], to: Connection, frames: int | None = None) -> None:
    for _ in range(len(wire) if frames is None else min(frames, len(wire))):
        to.receive_data(wire.popleft())
