"""An update of a device from its image to its end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final, cast

import anyio

from mdashcore._errors import Conflict, DeviceOffline, MdashError, NotFound
from mdashcore.client._http import UPLOAD_TIMEOUT, Http
from mdashcore.client._notifications import Notifications, may_pass
from mdashcore.documents import NotificationDocument, UpdateDocument, UpdateWithHistory
from mdashcore.notifications import DELETED
from mdashcore.ota import UPDATE_ENDS, UpdateState

__all__ = ["Progress", "UpdateFollower"]

START_TIMEOUT: Final = 45.0  # seconds, as on the server, in which an update begins if its device is connected

_BEGUN: Final = frozenset(UpdateState) - {UpdateState.QUEUED}

Progress = Callable[[UpdateDocument], None]
"""Called with the update whenever its state or its progress has changed."""


class UpdateFollower:
    """One update of a device, from its image to its end.

    The server is asked to answer as soon as it has the image: from then on nothing depends on one request, and the
    stream of notifications survives a restart of the server.

    Args:
        news: opened before the upload, so that it has everything of the update.
        device: its id.
        progress: called with each newer description of the update.

    Attributes:
        update: as it was described last; only after `begin`.
    """

    update: UpdateDocument

    def __init__(self, http: Http, news: Notifications, device: str, progress: Progress | None) -> None:
        self._http = http
        self._news = news
        self._device = device
        self._progress = progress

    async def begin(
        self, path: Path | None, query: Mapping[str, str], *, queue: bool, until: Collection[UpdateState]
    ) -> None:
        """Upload the image. Without `queue`, wait until the update begins, which is soon.

        Args:
            path: the image; `None` if the query names one of the firmware library.
            query: the options of the update, as the server takes them.
            queue: whether the update may wait for a device that is offline.
            until: states in which nothing more is awaited.

        Raises:
            DeviceOffline: the device is not connected, or has gone before the update began, and `queue` was not asked
                for.
        """
        if not queue and not (await self._http.fetch("GET", "devices", self._device))["online"]:
            raise DeviceOffline(f"device {self._device!r} is not connected")
        await self._news.pause()  # a slow upload takes many minutes
        with nullcontext() if path is None else path.open("rb") as file:
            update = await self._http.fetch(
                "POST",
                *("devices", self._device, "ota"),
                query={**query, "queue": "1"},
                files=None if path is None else {"file": (path.name, file)},
                timeout=UPLOAD_TIMEOUT,
            )
        self._show(update)
        if not queue:
            with anyio.move_on_after(START_TIMEOUT):
                await self.follow(_BEGUN | {*until})
            if self.update["state"] not in _BEGUN | {*until}:
                await self._give_up()

    async def follow(self, until: Collection[UpdateState] = UPDATE_ENDS) -> UpdateDocument:
        """Read the notifications of the update until it has ended, or is in one of these states."""
        while not (self.update["state"] in UPDATE_ENDS or self.update["state"] in until):
            notification = await self._news.receive()
            if notification is None:  # the notification of the end may be lost with the server's log
                await self.read_again()
            elif notification["id"] == self._device:
                self._apply(notification)
        return self.update

    async def read_again(self) -> UpdateDocument:
        """Return the update as the server has it now, after an outage as soon as the server is back.

        Raises:
            NotFound: the server does not have it any more.
        """
        found: UpdateWithHistory = await self._news.read(
            lambda: self._http.fetch("GET", "devices", self._device, "ota")
        )
        if found["id"] == self.update["id"]:
            self._show(found)
            return found
        past = next((past for past in found["history"] if past["id"] == self.update["id"]), None)
        if past is None:
            raise NotFound(f"another update of device {self._device!r} has taken the place of this one")
        ended: Any = {**self.update, "state": past["state"], "reason": past["reason"], "changed": past["ended"]}
        self._show(ended)
        return self.update

    def _apply(self, notification: NotificationDocument) -> None:
        """Apply a notification of the device. Those of other things, and older ones, change nothing."""
        if notification["name"] == DELETED:
            raise NotFound(f"device {self._device!r} was removed during its update")
        data: Any = notification.get("data")
        if not notification["name"].startswith("ota.") or data["id"] != self.update["id"]:
            return
        if notification["name"] == "ota.progress":
            self._show(cast(UpdateDocument, {**self.update, **data}))
        elif data["revision"] > self.update["revision"]:
            self._show(data)

    async def _give_up(self) -> None:
        """Cancel an update that has not begun. Raises `DeviceOffline`, unless it has begun at the last moment."""
        try:
            await self._http.request("DELETE", "devices", self._device, "ota")
        except Conflict:
            return
        except MdashError as exc:
            if not may_pass(exc):
                raise
            return  # the server is away, and so nothing is known of the update
        raise DeviceOffline(f"device {self._device!r} has gone before the update began")

    def _show(self, update: UpdateDocument) -> None:
        self.update = update
        if self._progress is not None:
            self._progress(update)
