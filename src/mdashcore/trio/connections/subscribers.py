"""Subscribers to notifications. A subscriber is a cursor in its account's log, and a queue of new notifications.

A subscriber that keeps up is fed from memory. One that falls behind loses its queue, but no notification: it reads on
from the log at its own speed, and delays no other subscriber. The stream closes one that reads nothing at all.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Final, TypeAlias

import trio

from mdashcore._errors import LimitReached, MdashError, StorageError, Unauthenticated
from mdashcore.hub.feed import Feed, FeedItem
from mdashcore.trio.background import Background
from mdashcore.trio.connections.link import POLICY_VIOLATION, TRY_AGAIN_LATER
from mdashcore.trio.spreading import spread
from mdashcore.trio.transport.stream import BrokenMessage, Keepalive, PingableStream, Pinger, direct_stream

__all__ = ["Authenticate", "Subscriber", "Subscribers"]

_log = logging.getLogger(__name__)

Authenticate: TypeAlias = Callable[[], Awaitable[object]]
"""Raises `Unauthenticated` if the credentials with which a subscriber has connected are not valid any more."""

CREDENTIALS_REVOKED: Final = "the credentials were revoked"

MAX_QUEUE: Final = 1_000  # items of 200 bytes, shared between subscribers: little memory, and a burst fits

NO_OFFSET: Final = 2**62  # no notification has this offset

MAX_SEND: Final = (
    2**16
)  # bytes in one write, or one frame: a slow subscriber can read them within the stream's time-out


RECHECK_INTERVAL: Final = 15.0  # seconds: a bus may lose the last message of a burst, and no later one would reveal it


class Subscriber:
    """A notification socket.

    Args:
        key: the id of the API key or of the session that opened it, if one did.
        start: the offset of the first notification to send. `None`, or an offset beyond the end of the log, sends only
            new ones.
    """

    def __init__(
        self, feed: Feed, account: str, stream: PingableStream, *, key: str | None = None, start: int | None = None
    ) -> None:
        self.account = account
        self.key = key
        self.stream = stream
        self.keepalive: Keepalive = Keepalive(stream)
        self._feed = feed
        self._cursor = start
        self._queue: deque[FeedItem] = deque()
        self._behind = False
        self._wakeup = trio.Event()
        self._direct = direct_stream(stream)
        self._next: int | None = None  # the offset to be sent next, while the sender waits for it
        if self._direct is not None:
            self._direct.on_message = _not_listened_to

    @property
    def queued(self) -> int:
        """The number of notifications in memory that wait to be sent."""
        return len(self._queue)

    def offer(self, item: FeedItem) -> None:
        """Send or queue a new notification. Never waits."""
        if item.offset == self._next and self._direct is not None and not self.stream.control_pending:
            self._next += 1
            if not self._direct.send_nowait((item.frame,)):
                self._wakeup.set()  # the sender sends the rest
            return
        if len(self._queue) >= MAX_QUEUE:
            self._queue.clear()  # they are in the log
        self._queue.append(item)
        self._wakeup.set()

    def catch_up(self) -> None:
        """Read the log, because a notification may not have been offered."""
        self._behind = True
        self._wakeup.set()

    async def run(self) -> None:
        """Send notifications until the connection ends. The subscriber has to be registered for `offer` before."""
        end = await self._feed.end(self.account)
        self._cursor = end if self._cursor is None else min(self._cursor, end)
        self.stream.on_control = lambda: self._wakeup.set()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, self._cursor)
                while await self.stream.receive() is not None:
                    pass  # as in `_not_listened_to`
                nursery.cancel_scope.cancel()
        except* trio.BrokenResourceError:
            pass
        finally:
            self.stream.on_control = _no_control  # else the two would refer to each other

    async def _send(self, cursor: int) -> None:
        while True:
            self._behind = False
            oldest = self._queue[0].offset if self._queue else cursor
            try:
                while page := await self._feed.page(self.account, cursor):
                    for frames in _portions(page):
                        await self.stream.send(frames)
                    cursor = page[-1].offset + 1
            except StorageError:
                self.stream.close(TRY_AGAIN_LATER, f"start={cursor}")
                cursor = NO_OFFSET  # only the close frame is still to be sent
            cursor = max(cursor, oldest)  # earlier notifications are not in the log any more
            while True:
                frames, size = [], 0
                while self._queue and self._queue[0].offset <= cursor and size < MAX_SEND:
                    item = self._queue.popleft()
                    if item.offset == cursor:
                        frames.append(item.frame)
                        size += len(item.frame)
                        cursor += 1
                if frames or self.stream.control_pending:
                    await self.stream.send(frames)
                elif self._queue or self._behind:
                    break  # a gap before the next one: the missing ones are in the log
                else:
                    self._wakeup = trio.Event()
                    self._next = cursor
                    with trio.move_on_after(RECHECK_INTERVAL) as timer:
                        await self._wakeup.wait()
                    cursor, self._next = self._next, None
                    self._behind |= timer.cancelled_caught


def _no_control() -> None:
    """Send no control frame: the subscriber has ended."""


def _not_listened_to(message: bytes | BrokenMessage) -> bool:
    """Ignore a message of the client: the socket only sends."""
    return True


def _portions(page: list[FeedItem]) -> Iterator[list[bytes]]:
    """Split a page into portions of frames, each for one write."""
    frames: list[bytes] = []
    size = 0
    for item in page:
        frames.append(item.frame)
        size += len(item.frame)
        if size >= MAX_SEND:
            yield frames
            frames, size = [], 0
    if frames:
        yield frames


class Subscribers:
    """All subscribers of a node.

    Args:
        pinger: pings their sockets.
        most: maximum number of an account's subscribers.
        follow: lets the account's notifications of other nodes be offered for as long as the context lasts.
    """

    def __init__(
        self,
        background: Background,
        pinger: Pinger,
        most: int,
        *,
        follow: Callable[[str], AbstractContextManager[object]] = lambda account: nullcontext(),
    ) -> None:
        self._background = background
        self._pinger = pinger
        self._most = most
        self._follow = follow
        self._accounts: dict[str, dict[Subscriber, Authenticate | None]] = {}
        self._draining: tuple[int, str] | None = None

    def __len__(self) -> int:
        return sum(map(len, self._accounts.values()))

    def of(self, account: str) -> int:
        """Return the number of the account's subscribers."""
        return len(self._accounts.get(account, ()))

    def __iter__(self) -> Iterator[Subscriber]:
        return iter([subscriber for subscriber, _ in self._all()])

    def check_room(self, account: str) -> None:
        """Raise `LimitReached` if the account has its maximum of subscribers."""
        if (present := self.of(account)) >= self._most:
            words = f"the account has {present} notification sockets, and may have {self._most}"
            raise LimitReached("subscribers", words, retry_after=1.0)

    async def serve(self, subscriber: Subscriber, *, authenticate: Authenticate | None = None) -> None:
        """Send notifications to an authenticated subscriber until its connection ends.

        Args:
            authenticate: raises `Unauthenticated` if the credentials were revoked before the subscriber was registered.
        """
        try:
            self.check_room(subscriber.account)  # again: others may have connected since the handshake began
        except LimitReached as exc:
            subscriber.stream.close(TRY_AGAIN_LATER, str(exc))
            await subscriber.stream.send([])
            return
        if self._draining is not None:
            subscriber.stream.close(*self._draining)
            await subscriber.stream.send([])
            return
        self._pinger.watch(subscriber.keepalive)
        try:
            await self._run(subscriber, authenticate)
        finally:
            self._pinger.unwatch(subscriber.keepalive)

    async def _run(self, subscriber: Subscriber, authenticate: Authenticate | None) -> None:
        others = self._accounts.setdefault(subscriber.account, {})
        others[subscriber] = authenticate
        try:
            with self._follow(subscriber.account):
                await _check(subscriber, authenticate)  # the credentials may have been revoked since the handshake
                await subscriber.run()
        finally:
            del others[subscriber]
            if not others and self._accounts.get(subscriber.account) is others:
                del self._accounts[subscriber.account]

    def offer(self, account: str, item: FeedItem) -> None:
        """Offer a new notification to the account's subscribers. Never waits."""
        for subscriber in self._accounts.get(account, ()):
            subscriber.offer(item)

    def catch_up(self, account: str) -> None:
        """Let the account's subscribers read the log, because notifications may not have been offered."""
        for subscriber in self._accounts.get(account, ()):
            subscriber.catch_up()

    def revoke(self, account: str, key: str | None) -> None:
        """Close the sockets that a key has opened, or all of the account if it is `None`."""
        for subscriber in self._accounts.get(account, ()):
            if key is None or subscriber.key == key:
                subscriber.stream.close(POLICY_VIOLATION, CREDENTIALS_REVOKED)

    async def drain(self, seconds: float, code: int, reason: str) -> None:
        """Close the sockets of all subscribers, evenly spread over the seconds, and later ones immediately."""
        self._draining = code, reason
        await spread([partial(subscriber.stream.close, code, reason) for subscriber in self], seconds)

    def close(self, code: int, reason: str) -> None:
        """Close the sockets of all subscribers."""
        for subscriber in self:
            subscriber.stream.close(code, reason)

    async def check(self, account: str | None = None) -> None:
        """Close the subscribers whose credentials are not valid any more, as soon as the storage answers.

        Args:
            account: check the subscribers of one account; by default, all.
        """
        for subscriber, authenticate in self._all() if account is None else [*self._accounts.get(account, {}).items()]:
            try:
                await self._background.persist(partial(_check, subscriber, authenticate))
            except MdashError as exc:  # undecided for now, for example after too many wrong passwords for a name
                _log.warning("a subscriber of %s cannot be checked: %s", subscriber.account, exc)

    def _all(self) -> list[tuple[Subscriber, Authenticate | None]]:
        return [each for subscribers in self._accounts.values() for each in subscribers.items()]


async def _check(subscriber: Subscriber, authenticate: Authenticate | None) -> None:
    try:
        if authenticate is not None:
            await authenticate()
    except Unauthenticated:
        subscriber.stream.close(POLICY_VIOLATION, CREDENTIALS_REVOKED)
