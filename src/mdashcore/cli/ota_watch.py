"""An update seen from the command line: sent, and watched until there is nothing to wait for any more.

Once the server has the update, a connection that is lost (the server is restarted, say) only means to look again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from math import inf
from pathlib import Path
from typing import Any, Final

import httpx
import trio

from mdashcore import _json
from mdashcore.cli.client import Remote
from mdashcore.cli.exits import CliError, Exit
from mdashcore.cli.ota_display import Display, goes_on
from mdashcore.cli.stream import open_notifications
from mdashcore.ota import ENDS, State

__all__ = ["watch_update"]

FIRST_PAUSE: Final = 0.5  # seconds before a lost server is looked for again; doubled each time: a restart takes a few
LAST_PAUSE: Final = 10.0  # seconds: longer ones would make a restart longer than it is
MAX_OUTAGE: Final = 3600.0  # seconds: the update's deadline comes first, but for one that waits in the queue for days

_AWAY: Final = (Exit.UNREACHABLE, Exit.NOT_NOW)
"""Errors that may pass: the server is down, or it is up and the device not back yet."""


async def watch_update(
    remote: Remote, device: str, path: Path, query: Mapping[str, str], display: Display, *, commit: bool, wait: bool
) -> dict[str, Any]:
    """Send an image, and wait until the update has ended, or with ``queue``, until it waits for an offline device.

    Args:
        query: what is asked for, as `mdashcore.server.update_request` takes it.
        commit: call `OTA.Commit` as soon as the device runs the image.
        wait: false: UNCOMMITTED is the end.

    Returns:
        the update as the server describes it.

    Raises:
        CliError: the server or the device does not take the image, or the server is gone for longer than the update
            can last; it goes on then.
    """
    watch = _Watch(remote, device, path, query, display, commit=commit, wait=wait)
    pause = FIRST_PAUSE
    said = ""
    while True:
        began = trio.current_time()
        try:
            return await watch.attempt()
        except CliError as exc:
            lost = exc
        except BaseExceptionGroup as group:
            found, others = group.split(CliError)
            if found is None or others is not None:
                raise
            lost = next(_leaves(found))
        if not watch.outlives(lost):
            raise lost
        if trio.current_time() >= watch.deadline:
            raise CliError(f"{remote.server} was not back in time. {goes_on(device)}", lost.code)
        if trio.current_time() - began > LAST_PAUSE:
            pause = FIRST_PAUSE
        if str(lost) != said:  # once of an outage
            said = str(lost)
            display.say(f"Looking again until it is back: {lost}")
        await trio.sleep(pause)
        pause = min(2 * pause, LAST_PAUSE)


class _Watch:
    """Looks at an update whenever the notifications say that there is something new."""

    def __init__(
        self,
        remote: Remote,
        device: str,
        path: Path,
        query: Mapping[str, str],
        display: Display,
        *,
        commit: bool,
        wait: bool,
    ) -> None:
        self._remote = remote
        self._device = device
        self._path = path
        self._query = query
        self._display = display
        self._commit = commit
        self._commit_tried = False
        self._wait = wait
        self._changed = trio.Event()
        self._sha256 = ""
        self._id: str | None = None
        self._sent = False
        self.deadline = inf
        """When the update has come to its own deadline, or an outage has lasted too long, by Trio's clock."""

    async def attempt(self) -> dict[str, Any]:
        """What is left to do, on new connections. Raises as `watch_update`, also in groups."""
        async with (
            open_notifications(self._remote) as frames,
            self._remote.open_async() as http,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._listen, frames)
            nursery.start_soon(self._tick)
            if self._id is None:
                await self._send(http)
            self._sent = True
            update = await self._until_settled(http)
            nursery.cancel_scope.cancel()
        return update

    def outlives(self, error: CliError) -> bool:
        """Whether the update goes on although this happened to the command."""
        return self._id is not None and error.code in (_AWAY if self._sent else (Exit.UNREACHABLE,))

    async def _listen(self, frames: AsyncIterator[str]) -> None:
        async for frame in frames:
            said = _json.decode(frame)
            if said["id"] != self._device or not said["name"].startswith("ota."):
                continue
            name, data = said["name"], said["data"]
            if name == f"ota.{State.QUEUED}" and not self._sent and data["image"]["sha256"] == self._sha256:
                self._id = data["id"]
            if data["id"] != self._id:
                continue
            if name == "ota.progress":
                self._display.progress(data["progress_percent"])
            else:
                self._take(data, now=data["changed"])
                self._changed.set()

    async def _tick(self) -> None:
        while True:
            await trio.sleep(1)
            self._display.tick()

    async def _send(self, http: httpx.AsyncClient) -> None:
        """Upload the image. With ``queue`` that is all; without it, the answer comes when the device has the image."""
        with self._remote.reaching(), self._path.open("rb") as file:
            self._sha256 = await trio.to_thread.run_sync(lambda: hashlib.file_digest(file, "sha256").hexdigest())
            file.seek(0)
            url, files = self._url("ota"), {"file": (self._path.name, file)}
            response = await http.post(url, params=self._query, files=files)
        if response.status_code == HTTPStatus.CONFLICT:
            _, update = await self._get(http, "ota")
            if update["state"] == State.ALREADY_INSTALLED:
                self._id = update["id"]
                return
        body = self._remote.checked(response)
        if response.status_code == HTTPStatus.ACCEPTED:
            self._id = _json.decode(body)["id"]

    async def _until_settled(self, http: httpx.AsyncClient) -> dict[str, Any]:
        """Wait until there is nothing to wait for."""
        while True:
            self._changed = changed = trio.Event()  # before the look: what happens after it is not missed
            update = await self._look(http)
            state = update["state"]
            if state in ENDS or (state == State.UNCOMMITTED and not self._wait):
                return update
            if state == State.QUEUED and "queue" in self._query and not (await self._get(http))[1]["online"]:
                return update
            if state == State.UNCOMMITTED and self._commit:
                await self._call_commit(http)
                continue
            await changed.wait()

    async def _call_commit(self, http: httpx.AsyncClient) -> None:
        """Commit. If a call before may have done it already, the device's refusal says nothing."""
        again, self._commit_tried = self._commit_tried, True
        with self._remote.reaching():
            response = await http.post(self._url("rpc", "OTA.Commit"))
        if not (again and response.status_code == HTTPStatus.UNPROCESSABLE_ENTITY):
            self._remote.checked(response)
        self._commit = False

    async def _look(self, http: httpx.AsyncClient) -> dict[str, Any]:
        """The update that was sent, as it stands or as it ended."""
        now, update = await self._get(http, "ota")
        self._id = self._id or update["id"]
        if update["id"] == self._id:
            self._take(update, now=now)
            return update
        found: dict[str, Any] | None = next((past for past in update["history"] if past["id"] == self._id), None)
        if found is None:
            raise CliError(f"another update of {self._device} has taken the place of this one")
        return found

    def _take(self, update: Mapping[str, Any], *, now: float) -> None:
        """It stands like this; `now` is by the server's clock, as all its times are."""
        self._display.show(update)
        if update["deadline"] is not None:
            self.deadline = trio.current_time() + min(MAX_OUTAGE, max(0.0, update["deadline"] - now))

    async def _get(self, http: httpx.AsyncClient, *path: str) -> tuple[float, dict[str, Any]]:
        """The server's time in Unix seconds, and its answer."""
        with self._remote.reaching():
            response = await http.get(self._url(*path))
        found: dict[str, Any] = _json.decode(self._remote.checked(response))
        date = response.headers.get("date")
        return parsedate_to_datetime(date).timestamp() if date else time.time(), found

    def _url(self, *path: str) -> str:
        return self._remote.url(("devices", self._device, *path))


def _leaves(error: BaseException) -> Iterator[CliError]:
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _leaves(member)
    elif isinstance(error, CliError):
        yield error
