"""The stream of notifications, received by a client."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio
import trio_websocket

from mdashcore.cli.client import CONNECT_TIMEOUT, Remote, refusal, tls_context
from mdashcore.cli.exits import CliError, Exit
from mdashcore.trio.transport.client_websocket import Refused, open_socket

__all__ = ["open_notifications"]

PING_INTERVAL: Final = 30.0  # seconds: below the idle time-outs of usual NAT gateways, which start at 60
PING_TIMEOUT: Final = 20.0
MAX_EARLY: Final = 10_000  # messages before the answer to the first ping: those of a large fleet in a second
MAX_MESSAGE: Final = 2**20  # bytes: a frame of a device has at most an eighth
POLICY_VIOLATION: Final = 1008  # the code with which the server closes when a key is revoked


@asynccontextmanager
async def open_notifications(remote: Remote, start: int | None = None) -> AsyncIterator[AsyncIterator[str]]:
    """Open the stream of notifications. No frame after the entry of the context is missed.

    Args:
        start: the offset of the first notification; by default only new ones.

    Raises:
        CliError: the server cannot be reached, refuses, or ends the stream.
    """
    url = remote.notify_url if start is None else f"{remote.notify_url}?start={start}"
    try:
        async with open_socket(
            url,
            remote.credentials.header,
            max_message=MAX_MESSAGE,
            ssl_context=tls_context(remote.server, remote.cafile),
            timeout=CONNECT_TIMEOUT,
        ) as ws:
            early: deque[str | bytes] = deque()
            if start is None:  # with a start nothing is missed, and its notifications come before the answer
                await _ping_first(remote, ws, early)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_keep_alive, remote, ws)
                yield _frames(remote, ws, early)
                nursery.cancel_scope.cancel()
    except Refused as exc:  # an error from inside is a group, and passes
        raise refusal(exc.status, exc.body) from None
    except OSError as exc:
        raise remote.unreachable(exc) from None


async def _frames(
    remote: Remote, ws: trio_websocket.WebSocketConnection, early: deque[str | bytes]
) -> AsyncIterator[str]:
    while True:
        try:
            message = early.popleft() if early else await ws.get_message()
        except trio_websocket.ConnectionClosed as exc:
            raise _ended(remote, exc) from None
        yield message if isinstance(message, str) else message.decode("utf-8", "replace")


async def _ping_first(remote: Remote, ws: trio_websocket.WebSocketConnection, early: deque[str | bytes]) -> None:
    """Ping the server: its answer shows that it has subscribed this connection to the feed.

    The messages before the answer are read into `early`, because the answer comes after them.
    """

    async def read() -> None:
        try:
            while len(early) < MAX_EARLY:
                early.append(await ws.get_message())
        except trio_websocket.ConnectionClosed:
            pass  # the ping raises the error

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await _ping(remote, ws)
        nursery.cancel_scope.cancel()


async def _ping(remote: Remote, ws: trio_websocket.WebSocketConnection) -> None:
    try:
        with trio.fail_after(PING_TIMEOUT):
            await ws.ping()
    except trio.TooSlowError:
        raise CliError(f"{remote.server} does not answer any more", Exit.UNREACHABLE) from None
    except trio_websocket.ConnectionClosed as exc:
        raise _ended(remote, exc) from None


async def _keep_alive(remote: Remote, ws: trio_websocket.WebSocketConnection) -> None:
    while True:
        await trio.sleep(PING_INTERVAL)
        await _ping(remote, ws)


def _ended(remote: Remote, closed: trio_websocket.ConnectionClosed) -> CliError:
    reason = closed.reason
    why = (reason.reason if reason is not None else None) or "the connection is lost"
    refused = reason is not None and reason.code == POLICY_VIOLATION
    return CliError(f"{remote.server}: {why}", Exit.UNAUTHENTICATED if refused else Exit.UNREACHABLE)
