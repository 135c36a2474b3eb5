"""An update seen from the command line: sent, and watched until there is nothing to wait for any more."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any

import click
import httpx
import trio

from mdashcore import _json
from mdashcore.cli.client import Remote
from mdashcore.cli.exits import CliError
from mdashcore.cli.stream import open_notifications
from mdashcore.cli.text import printable
from mdashcore.ota import ENDS, State

__all__ = ["Display", "watch_update"]


class Display:
    """Progress on stderr: a bar on a terminal, elsewhere a line for each state."""

    def __init__(self) -> None:
        self.state = ""
        """The last state that was shown; empty while the server has no update yet."""
        self._changed = 0.0
        self._bar: Any = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

            columns = TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn()
            self._bar = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True))
            self._task = self._bar.add_task("sending", total=100)

    def __enter__(self) -> Display:
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
        elif state != self.state:
            click.echo(printable(state), err=True)
        self.state = state

    def progress(self, percent: int) -> None:
        """Take what has been sent so far."""
        if self._bar is not None and self.state == State.TRANSFERRING:
            self._bar.update(self._task, completed=percent)


async def watch_update(
    remote: Remote, device: str, path: Path, query: Mapping[str, str], display: Display, *, commit: bool
) -> dict[str, Any]:
    """Send an image, and wait: until the update has ended, the device waits for its commit, or is waited for.

    Args:
        query: what is asked for, as `mdashcore.server.update_request` takes it.
        commit: call `OTA.Commit` as soon as the device runs the image.

    Returns:
        the update as the server describes it.

    Raises:
        CliError: the server or the device does not take the image.
    """
    async with open_notifications(remote) as frames, remote.open_async() as http, trio.open_nursery() as nursery:
        watch = _Watch(remote, device, http, display)
        nursery.start_soon(watch.listen, frames)
        await watch.send(path, query)
        update = await watch.until_settled(trial_goes_on=commit or query.get("commit") == "auto", commit=commit)
        nursery.cancel_scope.cancel()
    return update


class _Watch:
    """Looks at an update whenever the notifications say that there is something new."""

    def __init__(self, remote: Remote, device: str, http: httpx.AsyncClient, display: Display) -> None:
        self._remote = remote
        self._device = device
        self._http = http
        self._display = display
        self._changed = trio.Event()
        self._id: str | None = None

    async def listen(self, frames: AsyncIterator[str]) -> None:
        async for frame in frames:
            said = _json.decode(frame)
            if said["id"] != self._device:
                continue
            if said["name"] == "ota.progress":
                self._display.progress(said["data"]["progress_percent"])
            elif said["name"].startswith("ota."):
                self._display.show(said["data"])
                self._changed.set()

    async def send(self, path: Path, query: Mapping[str, str]) -> None:
        """Upload the image. With ``queue`` that is all; without it, the answer comes when the device has the image."""
        with self._remote.reaching(), path.open("rb") as file:
            url, files = self._remote.url(("devices", self._device, "ota")), {"file": (path.name, file)}
            response = await self._http.post(url, params=query, files=files)
        if response.status_code == HTTPStatus.CONFLICT and (await self._get("ota"))["state"] == State.ALREADY_INSTALLED:
            return
        body = self._remote.checked(response)
        if response.status_code == HTTPStatus.ACCEPTED:
            self._id = _json.decode(body)["id"]

    async def until_settled(self, *, trial_goes_on: bool, commit: bool) -> dict[str, Any]:
        """Wait until there is nothing to wait for.

        Args:
            trial_goes_on: UNCOMMITTED is only on the way.
        """
        while True:
            self._changed = changed = trio.Event()  # before the look: what happens after it is not missed
            update = await self._look()
            state = update["state"]
            if state in ENDS or (state == State.UNCOMMITTED and not trial_goes_on):
                return update
            if state == State.QUEUED and not (await self._get())["online"]:
                return update
            if state == State.UNCOMMITTED and commit:
                commit = False
                with self._remote.reaching():
                    url = self._remote.url(("devices", self._device, "rpc", "OTA.Commit"))
                    self._remote.checked(await self._http.post(url))
                continue
            await changed.wait()

    async def _look(self) -> dict[str, Any]:
        """The update that was sent, as it stands or as it ended."""
        update = await self._get("ota")
        self._id = self._id or update["id"]
        if update["id"] == self._id:
            self._display.show(update)
            return update
        found: dict[str, Any] | None = next((past for past in update["history"] if past["id"] == self._id), None)
        if found is None:
            raise CliError(f"another update of {self._device} has taken the place of this one")
        return found

    async def _get(self, *path: str) -> dict[str, Any]:
        with self._remote.reaching():
            response = await self._http.get(self._remote.url(("devices", self._device, *path)))
        found: dict[str, Any] = _json.decode(self._remote.checked(response))
        return found
