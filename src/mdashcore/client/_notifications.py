"""The stream of notifications, which goes on where it was after a lost connection."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from math import inf
from types import TracebackType
from typing import Final, cast

import anyio

from mdashcore import _json
from mdashcore._backoff import Backoff
from mdashcore._errors import Busy, LimitReached, MdashError, StorageError
from mdashcore.client._errors import ServerUnreachable, UnexpectedAnswer
from mdashcore.client._socket import ClientSocket
from mdashcore.documents import NotificationDocument

__all__ = ["BACKOFF", "MAX_OUTAGE", "Notifications", "may_pass"]

_log = logging.getLogger("mdashcore.client")

BACKOFF: Final = Backoff(first=0.5, most=10.0)  # a restart takes a few seconds; longer waits would make it longer

MAX_OUTAGE: Final = 3600.0  # seconds without the server after which a stream, or a watch of the command line, gives up


def may_pass(error: MdashError) -> bool:
    """Return whether an error can be over at a later try: the server is down, busy, or not yet up behind its proxy."""
    return isinstance(error, (ServerUnreachable, StorageError)) or (
        (isinstance(error, Busy) and not isinstance(error, LimitReached))
        or (isinstance(error, UnexpectedAnswer) and error.status >= 500)
    )


class Notifications:
    """The notifications of the account, in their order, each once: ``async for notification in notifications``.

    Made by `Client.notifications`. After a lost connection the stream connects again and goes on behind the last
    notification. The log has a line when that begins, and one when it is over.

    Attributes:
        cursor: the offset at which the stream goes on; a later program can start there.
    """

    def __init__(
        self,
        connect: Callable[[int], Awaitable[ClientSocket]],
        find_end: Callable[[], Awaitable[int]],
        start: int | None,
        max_outage: float,
    ) -> None:
        self._connect = connect
        self._find_end = find_end
        self._start = start
        self._max_outage = max_outage
        self._socket: ClientSocket | None = None
        self._since = 0.0
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
        failures, deadline = 0, inf
        while True:
            try:
                socket = self._socket or await self._open()
                received = cast(NotificationDocument, _json.decode(await socket.receive()))
            except MdashError as exc:
                if self._socket is not None and anyio.current_time() - self._since >= BACKOFF.stable:
                    failures, deadline = 0, inf  # it was up in between, although nothing was to be said
                await self._close()
                deadline = min(deadline, anyio.current_time() + self._max_outage)
                if not may_pass(exc) or anyio.current_time() >= deadline:
                    raise
                if not failures:
                    _log.warning("the stream of notifications is cut, connecting again: %s", exc)
                failures += 1
                await anyio.sleep(max(BACKOFF.delay(failures), exc.retry_after if isinstance(exc, Busy) else 0.0))
                continue
            if failures:
                _log.info("the stream of notifications goes on")
            if received["offset"] < self.cursor:
                continue
            self.cursor = received["offset"] + 1
            return received

    async def _open(self) -> ClientSocket:
        self._socket = await self._connect(self.cursor)
        self._since = anyio.current_time()
        return self._socket

    async def _close(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            await socket.close()
