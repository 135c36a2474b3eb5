"""A live view of a rollout."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from types import TracebackType
from typing import Any, Final

import click
import trio

from mdashcore.cli.client import Remote
from mdashcore.cli.text import printable
from mdashcore.client import Notifications
from mdashcore.documents import RolloutDocument

__all__ = ["RolloutDisplay", "watch"]

READ_PAUSE: Final = 0.2  # seconds between two reads: as quick as people read

_COLUMNS: Final = ("pending", "updating", "succeeded", "failed", "skipped")


class RolloutDisplay:
    """A display on stderr: a table of the phases on a terminal, elsewhere a line for each state and phase."""

    def __init__(self) -> None:
        self._live: Any = None
        self._line = ""
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), auto_refresh=False)

    def __enter__(self) -> RolloutDisplay:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, present: Mapping[str, Any]) -> None:
        """Show a rollout as the server describes it."""
        if self._live is not None:
            self._live.update(_table(present), refresh=True)
            return
        line = f"{present['state']} phase {present['phase'] + 1} of {len(present['phases'])}"
        if line != self._line:
            self._line = line
            click.echo(printable(line), err=True)

    def print(self, text: str) -> None:
        """Write a line beside the table."""
        if self._live is not None:
            self._live.console.print(printable(text), markup=False, highlight=False)
        else:
            click.echo(printable(text), err=True)


def _table(present: Mapping[str, Any]) -> Any:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    title = f"{present['name']}: {present['state']} {present['reason']}".rstrip()
    table = Table("phase", "", *_COLUMNS, title=Text(printable(title)), box=None, pad_edge=False, title_justify="left")
    for number, phase in enumerate(present["phases"]):
        counts = phase["counts"]
        ended = counts["succeeded"] + counts["failed"] + counts["skipped"]
        bar = ProgressBar(total=max(1, phase["devices"]), completed=ended, width=30)
        cells = (Text(str(counts[name]), style="red" if name == "failed" and counts[name] else "") for name in _COLUMNS)
        table.add_row(f"{number + 1} ({phase['percent']:g} %)", bar, *cells)
    return table


async def watch(remote: Remote, id: str, display: RolloutDisplay, until: Collection[str]) -> RolloutDocument:
    """Show a rollout until it is in one of the states of `until`, and return it as the server describes it.

    If the server is gone for a while, the watch waits for it, because a rollout takes days. Raises `CliError`.
    """
    with remote.reaching():
        async with remote.client() as client, remote.notifications(client, say=display.print) as news:
            present = await client.rollout(id)
            display.show(present)
            while present["state"] not in until:
                await _receive_change(news, id)
                present = await news.read(lambda: client.rollout(id))
                display.show(present)
    return present


async def _receive_change(news: Notifications, id: str) -> None:
    """Wait until the rollout may have changed. Changes shortly after each other are one."""
    while (told := await news.receive()) is not None:
        if told["id"] == id and told["name"].startswith("rollout."):
            break
    with trio.move_on_after(READ_PAUSE):
        while True:
            await news.receive()
