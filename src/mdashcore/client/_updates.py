"""Updates of a device's firmware."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import cast

from mdashcore.client._feed import FeedRequests
from mdashcore.client._firmware import check_one_image
from mdashcore.client._update_follower import Progress, UpdateFollower
from mdashcore.documents import UpdateDocument, UpdateWithHistory
from mdashcore.ota import UPDATE_ENDS, UpdateState

__all__ = ["UpdateRequests"]


class UpdateRequests(FeedRequests):
    """What `Client` does with updates. It follows one by the notifications."""

    async def update(
        self,
        device: str,
        file: str | Path | None = None,
        *,
        firmware: str | None = None,
        auto_commit: bool = False,
        queue: bool = False,
        force: bool = False,
        bare: bool = False,
        keep: bool = False,
        options: Mapping[str, int] | None = None,
        progress: Progress | None = None,
        until: Collection[UpdateState] = UPDATE_ENDS,
    ) -> UpdateDocument:
        """Update a device's firmware, and wait for the end. Returns the update in its last state, good or bad.

        The wait survives a restart of the server. To cancel it leaves the update as it is: see `cancel_update`.

        Args:
            file: a Mongoose OS firmware zip, or a bare image.
            firmware: the id of an image of the library, in place of a file.
            auto_commit: whether the server commits after a health check. Otherwise call ``OTA.Commit`` before the
                device goes back to the old firmware; give `until` to learn when.
            queue: whether a device that is offline gets the image when it comes.
            force: send it whatever platform, application and build the device reports.
            bare: the image is a bare one, whatever it looks like.
            keep: keep the file in the firmware library.
            options: more parameters of the endpoint: ``commit_timeout``, ``chunk_size``, …
            progress: called with the update whenever it has changed.
            until: states in which to return before the end, such as ``{UpdateState.UNCOMMITTED}``.

        Raises:
            InvalidInput: the file is no image, an option is out of its bounds, or not exactly one image is given.
            NotFound: there is no such device, or no such image in the library.
            DeviceOffline: the device is not connected, or has gone before the update began, and `queue` was not asked
                for.
            Conflict: the image is likely meant for another device, or an update is going on.
        """
        query = {name: str(value) for name, value in (options or {}).items()}
        check_one_image(file, firmware)
        query |= {name: "1" for name, wanted in {"force": force, "bare": bare, "keep": keep}.items() if wanted}
        query |= {} if firmware is None else {"firmware": firmware}
        query |= {"commit": "auto"} if auto_commit else {}
        async with self.notifications() as news:
            follower = UpdateFollower(self._http, news, device, progress)
            await follower.begin(None if file is None else Path(file), query, queue=queue, until=until)
            return await follower.follow(until)

    async def update_status(self, device: str) -> UpdateWithHistory:
        """Return a device's newest update, and the earlier ones. Raises `NotFound` if it was never updated."""
        return cast(UpdateWithHistory, await self._http.fetch("GET", "devices", device, "ota"))

    async def cancel_update(self, device: str) -> UpdateDocument:
        """Cancel a device's update. Raises `Conflict` if the device has the whole image already."""
        return cast(UpdateDocument, await self._http.fetch("DELETE", "devices", device, "ota"))
