"""The stream of notifications on stdout, which survives a restart of the server."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing

import click

from mdashcore import _json
from mdashcore.cli.client import Remote
from mdashcore.cli.exits import Exit
from mdashcore.cli.reconnecting import AWAY_EXITS, reconnecting
from mdashcore.cli.stream import open_notifications
from mdashcore.cli.text import json_line, printable

__all__ = ["NotificationPrinter"]


class NotificationPrinter:
    """Writes each notification as a line of JSON, in their order, each once.

    Args:
        start: the offset of the first one; by default only new ones are written.
    """

    def __init__(self, remote: Remote, start: int | None) -> None:
        self._remote = remote
        self._cursor = start
        self._connected = False

    async def run(self) -> None:
        """Write until the command is interrupted.

        Raises:
            CliError: the first connection fails, the credentials end, or the server was away for too long.
        """
        await reconnecting(
            self._attempt, may_pass=self._may_pass, say=lambda text: click.echo(printable(text), err=True)
        )

    def _may_pass(self, code: Exit) -> bool:
        return self._connected and code in AWAY_EXITS

    async def _attempt(self, answered: Callable[[], None]) -> None:
        if self._cursor is None:  # from here on, so that an outage hides none
            async with self._remote.client() as client:
                with self._remote.reaching():
                    self._cursor = await client.end_of_log()
        async with open_notifications(self._remote, self._cursor) as frames, aclosing(frames):
            answered()
            if not self._connected:
                click.echo(f"Listening to {self._remote.server}", err=True)
            self._connected = True
            async for frame in frames:
                click.echo(json_line(frame))
                self._cursor = _json.decode(frame)["offset"] + 1
