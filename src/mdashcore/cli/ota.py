"""``mdash ota``: a firmware update, watched until its end."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Final

import click

from mdashcore import _json
from mdashcore.cli.client import Remote
from mdashcore.cli.exits import CliError, Exit
from mdashcore.cli.options import DEVICE, EXISTING_FILE, json_option, remote_options
from mdashcore.cli.text import examples, printable, show_json
from mdashcore.ota import State

if TYPE_CHECKING:
    import trio

__all__ = ["OUTCOMES", "ota"]

OUTCOMES: Final[Mapping[str, Exit]] = MappingProxyType(
    {
        State.UNCOMMITTED: Exit.OK,
        State.COMMITTED: Exit.OK,
        State.ALREADY_INSTALLED: Exit.OK,
        State.ROLLED_BACK: Exit.FAILED,
        State.FAILED: Exit.FAILED,
        State.REJECTED: Exit.FAILED,
        State.CANCELED: Exit.FAILED,
        State.SUPERSEDED: Exit.FAILED,
        State.TIMED_OUT: Exit.NOT_NOW,
    }
)
"""The states that the command ends in, with its exit code; with ``--commit``, UNCOMMITTED is only on the way."""

_WORDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        State.UNCOMMITTED: "runs it, and rolls back unless it is committed: mdash call {device} OTA.Commit",
        State.COMMITTED: "runs it, committed",
        State.ALREADY_INSTALLED: "ran it already",
    }
)


@click.command(
    short_help="Update a device's firmware over the air.",
    epilog=examples("mdash ota lamp fw.zip", "mdash ota lamp fw.zip --commit", "mdash ota lamp fw.bin --json"),
)
@click.argument("device", type=DEVICE, metavar="DEVICE")
@click.argument("file", type=EXISTING_FILE)
@click.option("--commit", is_flag=True, help="Commit the update as soon as the device runs it.")
@json_option
@remote_options()
def ota(remote: Remote, *, device: str, file: Path, commit: bool, as_json: bool) -> None:
    """Update a device's firmware over the air, and watch until the device runs it.

    FILE is a Mongoose OS firmware zip, or a bare image for devices that take one. The device starts the new firmware
    and goes back to the old one unless the update is committed within five minutes: try it, then commit.
    """
    import trio

    with _Display() as display:
        update = trio.run(_update, remote, device, file, commit, display)
    if as_json:
        show_json(update)
    state = update["state"]
    code = OUTCOMES[state]
    if code is not Exit.OK:
        raise CliError(f"the update of {device} is {state}: {update['reason'] or 'no reason given'}", code)
    if not as_json:
        click.echo(printable(f"{state}: {device} {_WORDS[state].format(device=device)}"))


class _Display:
    """Progress on stderr: a bar on a terminal, elsewhere a line for each state."""

    def __init__(self) -> None:
        self._state = ""
        self._changed = 0.0
        self._bar: Any = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

            columns = TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn()
            self._bar = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True))
            self._task = self._bar.add_task("sending", total=100)

    def __enter__(self) -> _Display:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, update: Mapping[str, Any]) -> None:
        """Take an update as the server describes it; one that is older than the last is passed over."""
        if update["changed"] < self._changed:
            return
        state, self._changed = update["state"], update["changed"]
        if self._bar is not None:
            self._bar.update(self._task, description=printable(state), completed=update["progress_percent"])
        elif state != self._state:
            click.echo(printable(state), err=True)
        self._state = state

    def progress(self, percent: int) -> None:
        """Take what has been sent so far."""
        if self._bar is not None and self._state == State.TRANSFERRING:
            self._bar.update(self._task, completed=percent)


class _Watch:
    """Knows by the notifications when there is something new to look at."""

    def __init__(self, device: str, display: _Display) -> None:
        self.changed = _event()
        self._device = device
        self._display = display

    async def run(self, frames: AsyncIterator[str]) -> None:
        async for frame in frames:
            said = _json.decode(frame)
            if said["id"] != self._device or not said["name"].startswith("ota."):
                continue
            if said["name"] == "ota.progress":
                self._display.progress(said["data"]["progress_percent"])
                continue
            self._display.show(said["data"])
            self.changed.set()
            self.changed = _event()


def _event() -> trio.Event:
    import trio

    return trio.Event()


async def _update(remote: Remote, device: str, path: Path, commit: bool, display: _Display) -> dict[str, Any]:
    """Send the image, and wait for an outcome. Returns the update as the server describes it."""
    import trio

    from mdashcore.cli.stream import open_notifications

    async with open_notifications(remote) as frames, remote.open_async() as http, trio.open_nursery() as nursery:
        watch = _Watch(device, display)
        nursery.start_soon(watch.run, frames)

        async def look() -> dict[str, Any]:
            with remote.reaching():
                response = await http.get(remote.url(("devices", device, "ota")))
            found: dict[str, Any] = _json.decode(remote.checked(response))
            return found

        with remote.reaching(), path.open("rb") as file:
            response = await http.post(remote.url(("devices", device, "ota")), files={"file": (path.name, file)})
        if response.status_code != HTTPStatus.CONFLICT or (update := await look())["state"] != State.ALREADY_INSTALLED:
            remote.checked(response)
        committing = False
        while True:
            changed = watch.changed  # before the look: what happens after it is not missed
            update = await look()
            display.show(update)
            if commit and not committing and update["state"] == State.UNCOMMITTED:
                committing = True
                with remote.reaching():
                    remote.checked(await http.post(remote.url(("devices", device, "rpc", "OTA.Commit"))))
            elif update["state"] in OUTCOMES and not (commit and update["state"] == State.UNCOMMITTED):
                break
            else:
                await changed.wait()
        nursery.cancel_scope.cancel()
    return update
