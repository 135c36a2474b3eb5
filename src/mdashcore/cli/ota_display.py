"""The display of a running update on stderr."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import click
import trio

from mdashcore.cli.text import printable

__all__ = ["UpdateDisplay", "continue_hint"]


class UpdateDisplay:
    """Progress on stderr: a bar on a terminal, elsewhere a line for each state.

    Args:
        device: the id of the device.
        hint: whether to say how to commit an update on trial, and until when.
    """

    def __init__(self, device: str, *, hint: bool) -> None:
        self.state: str = ""
        """The last state that was shown; empty while the server has no update yet."""
        self._device = device
        self._hint = hint
        self._revision = 0
        self._waits = False
        self._commit_until: float | None = None
        self._bar: Any = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

            columns = TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn()
            self._bar = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True))
            self._task = self._bar.add_task("sending", total=100)

    def __enter__(self) -> UpdateDisplay:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, update: Mapping[str, Any]) -> None:
        """Show an update as the server describes it. An older description than the last one is ignored."""
        if update["revision"] < self._revision:
            return
        before = self.state
        self.state, self._revision = str(update["state"]), update["revision"]
        waited, self._waits = self._waits, update["waits_until"] is not None
        if self._waits and not waited:
            helps = f"to end that transfer: mdash ota {self._device} --end-transfer"
            self.print(f"{self._device}: {update['reason']}; {helps}")
        left = update["commit_seconds_left"]
        self._commit_until = None if left is None else trio.current_time() + left
        if self._bar is not None:
            self._bar.update(self._task, completed=update["progress_percent"])
            self.tick()
        elif self.state != before:
            self.print(self.state)
        if left is not None and self.state != before and self._hint:
            if update["commit_known"]:
                what = "runs it on trial, and goes back"
            else:
                what = "runs it, and does not say whether it is on trial. Then it goes back"
            self.print(f"{self._device} {what} in {left:.0f} s unless {_committer(self._device, update)}")

    def tick(self) -> None:
        """Update the remaining time. Called once a second."""
        if self._bar is None or not self.state:
            return
        left = (
            "" if self._commit_until is None else f", {max(0.0, self._commit_until - trio.current_time()):.0f} s left"
        )
        self._bar.update(self._task, description=printable(f"{self.state}{left}"))

    def print(self, text: str) -> None:
        """Write a line of its own."""
        if self._bar is None:
            click.echo(printable(text), err=True)
        else:
            self._bar.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)


def continue_hint(device: str) -> str:
    """Return the hint for a user that stops watching, without a full stop."""
    return f"The update goes on: mdash ota {device} --status shows it, --cancel takes it back"


def _committer(device: str, update: Mapping[str, Any]) -> str:
    if update["commit"] == "auto":
        return "the server finds it well, and commits it"
    return f"you commit it: mdash call {device} OTA.Commit"
