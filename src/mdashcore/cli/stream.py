"""The stream of notifications, frame by frame as the server sends it, until the connection ends."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from mdashcore.cli.client import Remote
from mdashcore.client import ClientSocket

__all__ = ["open_notifications"]


@asynccontextmanager
async def open_notifications(remote: Remote, start: int | None = None) -> AsyncIterator[AsyncGenerator[str, None]]:
    """Open the stream of notifications. No frame after the entry of the context is missed.

    Args:
        start: the offset of the first notification; by default only new ones.

    Raises:
        CliError: the server cannot be reached, refuses, or ends the stream.
    """
    async with remote.client() as client:
        with remote.reaching():
            socket = await client.open_socket(start)
        try:
            if start is None:  # with a start nothing is missed
                with remote.reaching():
                    await socket.ping()  # its answer shows that the server has subscribed this connection
            yield _frames(remote, socket)
        finally:
            await socket.close()


async def _frames(remote: Remote, socket: ClientSocket) -> AsyncGenerator[str, None]:
    while True:
        with remote.reaching():
            message = await socket.receive()
        yield message.decode("utf-8", "replace")
