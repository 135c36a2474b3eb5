"""Uploads of firmware: an update from its image to its end, and the start of a rollout."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final, cast

from mdashcore import _json
from mdashcore._errors import DeviceOffline, MdashError, NotFound
from mdashcore.client._http import Http
from mdashcore.client._notifications import Notifications
from mdashcore.documents import NewRollout, NotificationDocument, RolloutDocument, UpdateDocument
from mdashcore.notifications import DELETED
from mdashcore.ota import UPDATE_ENDS, UpdateState

__all__ = ["UPLOAD_TIMEOUT", "Progress", "perform_update", "start_rollout"]

UPLOAD_TIMEOUT: Final = 1800.0  # seconds, as on the server

Progress = Callable[[UpdateDocument], None]
"""Called with the update whenever its state or its progress has changed."""


async def perform_update(
    http: Http,
    news: Notifications,
    device: str,
    path: Path,
    query: Mapping[str, str],
    *,
    queue: bool,
    progress: Progress | None,
    until: Collection[UpdateState],
) -> UpdateDocument:
    """Upload an image, and read what is told of its update until it ends. See `Client.update`.

    The server is asked to answer as soon as it has the image: from then on nothing depends on one request, and the
    stream of notifications survives a restart of the server.

    Args:
        news: opened before the upload, so that it has everything of the update.
        query: the options of the update, as the server takes them.
    """
    if not queue and not (await http.fetch("GET", "devices", device))["online"]:
        raise DeviceOffline(f"device {device!r} is not connected")
    with path.open("rb") as file:
        update: UpdateDocument = await http.fetch(
            "POST",
            *("devices", device, "ota"),
            query={**query, "queue": "1"},
            files={"file": (path.name, file)},
            timeout=UPLOAD_TIMEOUT,
        )
    id = update["id"]
    _show(progress, update)
    while not (update["state"] in UPDATE_ENDS or update["state"] in until):
        told = await news.receive()
        if told is None:  # connected again: the notification of the end may be lost with the server's log
            try:
                update = await _read_again(http, device, id)
            except MdashError as exc:
                await news.reconnect(exc)
            else:
                _show(progress, update)
            continue
        if told["id"] != device:
            continue
        if told["name"] == DELETED:
            raise NotFound(f"device {device!r} was removed during its update")
        found = _applied(update, told)
        if found is not None and found["id"] == id:
            update = found
            _show(progress, update)
    return update


async def start_rollout(http: Http, path: Path, plan: NewRollout, *, bare: bool) -> RolloutDocument:
    """Upload an image, and begin its rollout. See `Client.create_rollout`."""
    with path.open("rb") as file:
        # In this order: an invalid plan is refused before the image is sent.
        fields: list[tuple[str, Any]] = [("rollout", (None, _json.encode(plan))), ("file", (path.name, file))]
        query = {"bare": "1"} if bare else None
        found = await http.fetch("POST", "rollouts", files=fields, query=query, timeout=UPLOAD_TIMEOUT)
        return cast(RolloutDocument, found)


async def _read_again(http: Http, device: str, id: str) -> UpdateDocument:
    """Return an update as the server has it. Raises `NotFound` if that is not the device's newest one any more."""
    found: UpdateDocument = await http.fetch("GET", "devices", device, "ota")
    if found.get("id") != id:
        raise NotFound(f"the server does not have the update of device {device!r} any more, or a newer one")
    return found


def _applied(update: UpdateDocument, told: NotificationDocument) -> UpdateDocument | None:
    """Return the update after a notification; `None` for one of something else, or an older one."""
    data: Any = told.get("data")
    if told["name"] == "ota.progress" and data["id"] == update["id"]:
        return cast(UpdateDocument, {**update, **data})
    if told["name"].startswith("ota.") and "state" in data and data["revision"] > update["revision"]:
        return cast(UpdateDocument, data)
    return None


def _show(progress: Progress | None, update: UpdateDocument) -> None:
    if progress is not None:
        progress(update)
