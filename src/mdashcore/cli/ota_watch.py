"""An update seen from the command line: it sends the image, and watches the update until its end.

After the server has the update, the watch survives lost connections, for example a restart of the server.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from math import inf
from pathlib import Path
from typing import Any

import trio

from mdashcore import _json
from mdashcore._errors import Conflict, RpcError
from mdashcore.cli.client import Remote
from mdashcore.cli.exits import CliError, Exit
from mdashcore.cli.ota_display import UpdateDisplay, continue_hint
from mdashcore.cli.reconnecting import AWAY_EXITS, reconnecting
from mdashcore.cli.stream import open_notifications
from mdashcore.client import Client
from mdashcore.ota import UPDATE_ENDS, UpdateState, lacks_method

__all__ = ["UpdateWatch"]


class UpdateWatch:
    """Sends an image, and reads the update whenever a notification says that it has changed.

    Args:
        query: the options of the update, as `mdashcore.server.uploads.update_query` reads them.
        display: shows the progress.
        commit: call `OTA.Commit` as soon as the device runs the image.
        wait: wait for the end. Otherwise UNCOMMITTED is enough.
    """

    def __init__(
        self,
        remote: Remote,
        device: str,
        path: Path,
        query: Mapping[str, str],
        display: UpdateDisplay,
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
        self._answered: Callable[[], None] = lambda: None

    async def run(self) -> dict[str, Any]:
        """Send the image, and wait until the update ends; with ``queue`` also until it waits for an offline device.

        Returns:
            the update as the server describes it.

        Raises:
            CliError: the server or the device refuses the image, or the server is away for too long. In the second case
                the update goes on.
        """
        last_words = continue_hint(self._device)
        return await reconnecting(
            self._attempt, may_pass=self._outlives, say=self._display.print, last_words=last_words
        )

    async def _attempt(self, answered: Callable[[], None]) -> dict[str, Any]:
        """Do the remaining steps, on new connections. Raises as `run`, also in groups.

        Args:
            answered: called whenever the server has described the update.
        """
        self._answered = answered
        async with (
            open_notifications(self._remote) as frames,
            self._remote.client() as client,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._listen, frames)
            nursery.start_soon(self._tick)
            if self._id is None:
                await self._send(client)
            self._sent = True
            update = await self._until_settled(client)
            nursery.cancel_scope.cancel()
        return update

    def _outlives(self, code: Exit) -> bool:
        """Return whether the update goes on although the command met an error of this kind."""
        return self._id is not None and code in (AWAY_EXITS if self._sent else (Exit.UNREACHABLE,))

    async def _listen(self, frames: AsyncIterator[str]) -> None:
        async for frame in frames:
            said = _json.decode(frame)
            if said["id"] != self._device or not said["name"].startswith("ota."):
                continue
            name, data = said["name"], said["data"]
            if name == f"ota.{UpdateState.QUEUED}" and not self._sent and data["image"]["sha256"] == self._sha256:
                self._id = data["id"]
            if data["id"] != self._id:
                continue
            if name == "ota.progress":
                self._display.progress(data["progress_percent"])
            else:
                self._show(data)
                self._changed.set()

    async def _tick(self) -> None:
        while True:
            await trio.sleep(1)
            self._display.tick()

    async def _send(self, client: Client) -> None:
        """Upload the image. With ``queue`` the server answers after the upload, otherwise when the device has the
        image.
        """
        path = "devices", self._device, "ota"
        with self._remote.reaching(), self._path.open("rb") as file:
            self._sha256 = await trio.to_thread.run_sync(lambda: hashlib.file_digest(file, "sha256").hexdigest())
            file.seek(0)
            files = {"file": (self._path.name, file)}
            try:
                answer = await client.request("POST", *path, query=self._query, files=files, timeout=inf)
            except Conflict:
                update = await self._newest(client)
                if update is None or update["state"] != UpdateState.ALREADY_INSTALLED:
                    raise
                if update["image"]["sha256"] != self._sha256:
                    raise
                self._id = update["id"]
                return
        if "queue" in self._query:
            self._id = _json.decode(answer)["id"]

    async def _until_settled(self, client: Client) -> dict[str, Any]:
        """Wait until the update has ended, or nothing more is to be awaited, and return it."""
        while True:
            self._changed = changed = trio.Event()  # before reading: a later change is not missed
            update = await self._poll(client)
            state = update["state"]
            if state in UPDATE_ENDS or (state == UpdateState.UNCOMMITTED and not self._wait):
                return update
            if state == UpdateState.QUEUED and "queue" in self._query and not (await self._get(client))["online"]:
                return update
            if state == UpdateState.UNCOMMITTED and self._commit:
                await self._call_commit(client)
                continue
            await changed.wait()

    async def _newest(self, client: Client) -> dict[str, Any] | None:
        """Return the device's newest update; `None` if it never had one."""
        try:
            return await self._get(client, "ota")
        except CliError:
            return None

    async def _call_commit(self, client: Client) -> None:
        """Commit. After an earlier call a refusal of the device means nothing, because that call may have committed
        it.
        """
        again, self._commit_tried = self._commit_tried, True
        with self._remote.reaching():
            try:
                await client.call(self._device, "OTA.Commit")
            except RpcError as exc:
                if not again and not lacks_method(exc.code, exc.message):  # without it there is no trial, and the
                    raise  # server knows
        self._commit = False

    async def _poll(self, client: Client) -> dict[str, Any]:
        """Return the update that was sent, in its present or last state."""
        update = await self._get(client, "ota")
        self._id = self._id or update["id"]
        if update["id"] == self._id:
            self._show(update)
            return update
        found: dict[str, Any] | None = next((past for past in update["history"] if past["id"] == self._id), None)
        if found is None:
            raise CliError(f"another update of {self._device} has taken the place of this one")
        return found

    def _show(self, update: Mapping[str, Any]) -> None:
        self._answered()
        self._display.show(update)

    async def _get(self, client: Client, *path: str) -> dict[str, Any]:
        with self._remote.reaching():
            found: dict[str, Any] = _json.decode(await client.request("GET", "devices", self._device, *path))
        return found
