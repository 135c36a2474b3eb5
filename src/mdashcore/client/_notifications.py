"""The stream of notifications, which goes on where it was after a lost connection."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from math import inf
from types import TracebackType
from typing import Final, TypeVar, cast

import anyio
import attrs

from mdashcore import _json
from mdashcore._backoff import Backoff
from mdashcore._errors import Busy, CallTimeout, DeviceOffline, MdashError, StorageError
from mdashcore.client._errors import ServerUnreachable, UnexpectedAnswer
from mdashcore.client._socket import ClientSocket
from mdashcore.documents import NotificationDocument

__all__ = ["BACKOFF", "MAX_OUTAGE", "Notifications", "OutageReport", "may_pass"]

T = TypeVar("T")

_log = logging.getLogger("mdashcore.client")

BACKOFF: Final = Backoff(first=0.5, most=10.0)  # a restart takes a few seconds; longer waits would make it longer

MAX_OUTAGE: Final = 3600.0  # seconds without the server after which a stream, or a watch of the command line, gives up


def may_pass(error: MdashError) -> bool:
    """Return whether another try can succeed after this error.

    The server is down, busy, or not yet up behind its proxy; it counts the old connection still; or it is up, and the
    device is not back yet.
    """
    return isinstance(error, (ServerUnreachable, StorageError, Busy, DeviceOffline, CallTimeout)) or (
        isinstance(error, UnexpectedAnswer) and error.status >= 500
    )


@attrs.frozen
class OutageReport:
    """What a stream says of an outage: each function is called once for it."""

    begins: Callable[[MdashError], None]
    ends: Callable[[], None]


LOGGED: Final = OutageReport(
    begins=lambda error: _log.warning("the stream of notifications is cut, connecting again: %s", error),
    ends=lambda: _log.info("the stream of notifications goes on"),
)


class Notifications:
    """The notifications of the account, in their order, each once: ``async for notification in notifications``.

    Made by `Client.notifications`. After a lost connection the stream connects again and goes on behind the last
    notification. The log has a line when that begins, and one when it is over. If the server's log is shorter than it
    was, as after a restore from a backup, the stream goes on at its end, with a warning.

    Attributes:
        cursor: the offset at which the stream goes on; a later program can start there.
    """

    def __init__(
        self,
        connect: Callable[[int], Awaitable[ClientSocket]],
        find_end: Callable[[], Awaitable[int]],
        start: int | None,
        max_outage: float,
        report: OutageReport = LOGGED,
    ) -> None:
        self._connect = connect
        self._find_end = find_end
        self._start = start
        self._max_outage = max_outage
        self._report = report
        self._socket: ClientSocket | None = None
        self._since = 0.0
        # Of the present outage. They outlast a call, because a caller may give up each call after a few seconds.
        self._failures = 0
        self._deadline = inf
        self._retry_at = 0.0
        self.cursor: int = 0

    async def __aenter__(self) -> Notifications:
        self.cursor = await self._find_end() if self._start is None else self._start
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._close()

    def __aiter__(self) -> AsyncIterator[NotificationDocument]:
        return self

    async def __anext__(self) -> NotificationDocument:
        """Return the next notification.

        Raises:
            MdashError: the credentials are not valid any more, or the server was away for too long.
        """
        while (received := await self.receive()) is None:
            pass
        return received

    async def receive(self) -> NotificationDocument | None:
        """Return the next notification; `None` once after an outage. Raises as `__anext__`."""
        while True:
            try:
                if self._socket is None:
                    await anyio.sleep_until(self._retry_at)
                    await self._open()
                    if self._failures:
                        return None
                    continue
                received = cast(NotificationDocument, _json.decode(await self._socket.receive()))
            except MdashError as exc:
                await self.reconnect(exc)
                continue
            self.end_outage()
            if received["offset"] < self.cursor:  # it was asked for none of these
                _log.warning(
                    "the server's log was reset: it has notification %d where %d was to come",
                    received["offset"],
                    self.cursor,
                )
            self.cursor = received["offset"] + 1
            return received

    async def read(self, read: Callable[[], Awaitable[T]]) -> T:
        """Return the result of a request, which is repeated after an error that may pass.

        After an outage the server's log may lack what came meanwhile: a caller that needs more than notifications reads
        it again. Raises as `reconnect`.
        """
        while True:
            try:
                found = await read()
            except MdashError as exc:
                await self.reconnect(exc)
                await self.receive()  # `None`, after the pause
            else:
                self.end_outage()
                return found

    def end_outage(self) -> None:
        """Report that an outage is over, if there was one: the server has answered. A notification is an answer too."""
        if self._failures:
            self._report.ends()
        self._failures, self._deadline = 0, inf

    async def pause(self) -> None:
        """Close the connection, because the caller reads nothing for a while. `receive` goes on where it was."""
        await self._close()
        self._retry_at = 0.0

    async def reconnect(self, error: MdashError) -> None:
        """Close the connection because of an error, so that `receive` connects again after a while.

        Raises:
            MdashError: this error, if it cannot pass, or the server was away for too long.
        """
        now = anyio.current_time()
        if self._socket is not None and now - self._since >= BACKOFF.stable:
            self.end_outage()  # it was up in between, although there was nothing to send
        self._failures += 1
        self._deadline = min(self._deadline, now + self._max_outage)
        wait = max(BACKOFF.delay(self._failures), error.retry_after if isinstance(error, Busy) else 0.0)
        self._retry_at = min(now + wait, self._deadline)
        if not may_pass(error) or now >= self._deadline:
            await self._close()
            raise error
        if self._failures == 1:
            self._report.begins(error)
        await self._close()

    async def _open(self) -> None:
        self._retry_at = anyio.current_time() + BACKOFF.delay(self._failures + 1)  # if the caller gives up meanwhile
        self._socket = await self._connect(self.cursor)
        self._since = anyio.current_time()

    async def _close(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            await socket.close()
