"""One listener to an account's notifications: a cursor in the log, and a queue of what is new.

A listener that keeps up is fed from memory. One that falls behind loses its queue, not a notification: it reads on
from the log at its own speed, and delays nobody. One that reads nothing at all is cut off by the stream.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import trio

from mdashcore._errors import StorageError
from mdashcore.hub.feed import Feed, FeedItem
from mdashcore.trio.link import TRY_AGAIN_LATER
from mdashcore.trio.stream import Keepalive, PingableStream

__all__ = ["Listener"]

MAX_QUEUE: Final = 1_000  # items: at 200 bytes, shared between listeners, next to nothing; a burst fits


class Listener:
    """A notification socket.

    Args:
        key: the id of the API key that opened it, if one did.
        start: the offset of the first notification wanted; None for what comes from now on.
    """

    def __init__(
        self, feed: Feed, account: str, stream: PingableStream, *, key: str | None = None, start: int | None = None
    ) -> None:
        self.account = account
        self.key = key
        self.stream = stream
        self.keepalive = Keepalive(stream)
        self._feed = feed
        self._cursor = start
        self._queue: deque[FeedItem] = deque()
        self._wakeup = trio.Event()
        stream.on_control = self.poke

    def offer(self, item: FeedItem) -> None:
        """Take a new notification; never waits."""
        if len(self._queue) >= MAX_QUEUE:
            self._queue.clear()  # the log has them
        self._queue.append(item)
        self._wakeup.set()

    def poke(self) -> None:
        """Look whether there is anything to send."""
        self._wakeup.set()

    async def run(self) -> None:
        """Send until the connection ends. Has to be registered for `offer` before."""
        if self._cursor is None:
            self._cursor = await self._feed.end(self.account)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, self._cursor)
                while await self.stream.receive() is not None:
                    pass  # the stream is read-only: what a client says is not listened to
                nursery.cancel_scope.cancel()
        except* trio.BrokenResourceError:
            pass

    async def _send(self, cursor: int) -> None:
        while True:
            self._wakeup = trio.Event()
            try:
                while page := await self._feed.page(self.account, cursor):
                    await self.stream.send([item.frame for item in page])
                    cursor = page[-1].offset + 1
            except StorageError:
                self.stream.close(TRY_AGAIN_LATER, f"start={cursor}")
            while True:
                frames = []
                while self._queue and self._queue[0].offset <= cursor:
                    item = self._queue.popleft()
                    if item.offset == cursor:
                        frames.append(item.frame)
                        cursor += 1
                if frames or self.stream.control_pending:
                    await self.stream.send(frames)
                elif self._queue:
                    break  # a gap before the next: the log has what is missing
                else:
                    self._wakeup = trio.Event()
                    await self._wakeup.wait()
