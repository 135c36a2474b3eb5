"""A live view of work that the server does by itself: a rollout, or a job."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Collection, Mapping
from types import TracebackType
from typing import Any, Final, TypeVar

import click
import trio

from mdashcore.cli.client import Remote
from mdashcore.cli.text import printable
from mdashcore.client import Client, Notifications

__all__ = ["LiveDisplay", "watch"]

READ_PAUSE: Final = 0.2  # seconds between two reads: as quick as people read

READ_INTERVAL: Final = 60.0  # seconds without a notification after which it is read: its removal may not be notified

_Present = TypeVar("_Present", bound=Mapping[str, Any])


class LiveDisplay:
    """A display on stderr: a table on a terminal, elsewhere a line whenever it changes.

    Args:
        table: makes the table of what the server describes.
        line: makes the line of it.
    """

    def __init__(self, table: Callable[[Mapping[str, Any]], Any], line: Callable[[Mapping[str, Any]], str]) -> None:
        self._table = table
        self._line_of = line
        self._live: Any = None
        self._line = ""
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), auto_refresh=False)

    def __enter__(self) -> LiveDisplay:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, present: Mapping[str, Any]) -> None:
        """Show the work as the server describes it."""
        if self._live is not None:
            self._live.update(self._table(present), refresh=True)
            return
        line = self._line_of(present)
        if line != self._line:
            self._line = line
            click.echo(printable(line), err=True)

    def print(self, text: str) -> None:
        """Write a line beside the table."""
        if self._live is not None:
            self._live.console.print(printable(text), markup=False, highlight=False)
        else:
            click.echo(printable(text), err=True)


async def watch(
    remote: Remote,
    id: str,
    names: str,
    read: Callable[[Client], Awaitable[_Present]],
    display: LiveDisplay,
    until: Collection[str],
) -> _Present:
    """Show some work until it is in one of the states of `until`, and return it as the server describes it.

    If the server is gone for a while, the watch waits for it, because such work may take days. Raises `CliError`.

    Args:
        names: the beginning of the names of its notifications.
        read: asks the server for it.
    """
    with remote.reaching():
        async with remote.client() as client, remote.notifications(client, say=display.print) as news:
            present = await read(client)
            display.show(present)
            while present["state"] not in until:
                await _receive_change(news, id, names)
                present = await news.read(lambda: read(client))
                display.show(present)
    return present


async def _receive_change(news: Notifications, id: str, names: str) -> None:
    """Wait until the work may have changed, for `READ_INTERVAL` at most. Changes shortly after each other are one."""
    with trio.move_on_after(READ_INTERVAL):
        while (told := await news.receive()) is not None:
            if told["id"] == id and told["name"].startswith(names):
                break
    with trio.move_on_after(READ_PAUSE):
        while True:
            await news.receive()
