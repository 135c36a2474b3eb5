"""Rollouts: one image for many devices."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final, cast

import anyio.to_thread

from mdashcore import _json
from mdashcore.client._firmware import check_one_image
from mdashcore.client._http import UPLOAD_TIMEOUT, Resource
from mdashcore.client._pages import all_parts
from mdashcore.documents import (
    MAX_MEMBERS_PAGE,
    MemberDocument,
    NewRollout,
    PreviewImage,
    RolloutDocument,
    RolloutPreviewDocument,
)
from mdashcore.firmware import FirmwareLimits, read_image
from mdashcore.rollout import Outcome

__all__ = ["RolloutRequests"]

_ANY_SIZE: Final = FirmwareLimits(size=2**40)  # bytes: the server judges the size


class RolloutRequests(Resource):
    """What `Client` does with rollouts."""

    async def create_rollout(
        self,
        file: str | Path | None,
        plan: NewRollout,
        *,
        firmware: str | None = None,
        bare: bool = False,
        keep: bool = False,
    ) -> RolloutDocument:
        """Begin a rollout of an image to many devices.

        Args:
            file: the image; `None` with `firmware`.
            plan: the devices, as `filter`, `devices` or `all`, and how it goes on.
            firmware: the id of an image of the library.
            bare: the image is a bare one, whatever it looks like.
            keep: keep the file in the firmware library.
        """
        check_one_image(file, firmware)
        query = {name: "1" for name, wanted in {"bare": bare, "keep": keep}.items() if wanted}
        if file is None:
            body = {**plan, "firmware": firmware}
            return cast(RolloutDocument, await self._http.fetch("POST", "rollouts", json=body, query=query))
        return await self._upload_rollout(Path(file), plan, query)

    async def preview_rollout(
        self, file: str | Path | None, plan: NewRollout, *, firmware: str | None = None, bare: bool = False
    ) -> RolloutPreviewDocument:
        """Return which devices a rollout would reach, and which of them its image fits. Begins and uploads nothing.

        Args:
            file: the image, of which only the manifest is sent; `None` with `firmware`.
            plan: as for `create_rollout`.
            firmware: the id of an image of the library.
            bare: the image is a bare one, whatever it looks like.

        Raises:
            InvalidInput: the file is no image, or the plan is wrong.
        """
        check_one_image(file, firmware)
        image = {"firmware": firmware} if file is None else {"image": await _described(Path(file), bare=bare)}
        query = {"bare": "1"} if bare else None
        body = {**plan, **image}
        found = await self._http.fetch("POST", "rollouts", "preview", json=body, query=query, timeout=math.inf)
        return cast(RolloutPreviewDocument, found)

    async def rollouts(self) -> list[RolloutDocument]:
        """Return the account's rollouts, the newest first. One that is damaged has only `id` and `damaged`."""
        return cast(list[RolloutDocument], await self._http.fetch("GET", "rollouts"))

    async def rollout(self, id: str) -> RolloutDocument:
        """Return a rollout. Raises `NotFound`."""
        return cast(RolloutDocument, await self._http.fetch("GET", "rollouts", id))

    async def resume_rollout(self, id: str, *, forgive: int | None = None) -> RolloutDocument:
        """Continue a paused rollout. The failures so far count on, unless they are forgiven.

        Args:
            forgive: how many failures are forgiven: `to_forgive` of the rollout.

        Raises:
            Conflict: it is not paused, another number of devices has failed, or failures have paused it and are not
                forgiven.
        """
        body = {} if forgive is None else {"forgive": forgive}
        return cast(RolloutDocument, await self._http.fetch("POST", "rollouts", id, "resume", json=body))

    async def change_rollout(self, id: str, action: str) -> RolloutDocument:
        """Approve, pause, resume, retry or abort a rollout: `action` is one of these words. Raises `Conflict`."""
        return cast(RolloutDocument, await self._http.fetch("POST", "rollouts", id, action))

    async def remove_rollout(self, id: str) -> None:
        """Remove a rollout that has ended. Raises `Conflict` if it has not."""
        await self._http.request("DELETE", "rollouts", id)

    def members(self, id: str, outcome: Outcome | None = None) -> AsyncIterator[MemberDocument]:
        """Yield the devices of a rollout in order, or those with an outcome. They are read in pages."""
        return all_parts(self._http, "rollouts", id, "members", of="members", limit=MAX_MEMBERS_PAGE, outcome=outcome)

    async def _upload_rollout(self, path: Path, plan: NewRollout, query: Mapping[str, str]) -> RolloutDocument:
        with path.open("rb") as file:
            # In this order: an invalid plan is refused before the image is sent.
            fields: list[tuple[str, Any]] = [("rollout", (None, _json.encode(plan))), ("file", (path.name, file))]
            found = await self._http.fetch("POST", "rollouts", files=fields, query=query, timeout=UPLOAD_TIMEOUT)
        return cast(RolloutDocument, found)


async def _described(path: Path, *, bare: bool) -> PreviewImage:
    """Return what the manifest of an image says. Raises `InvalidInput` if the file is no image."""

    def read() -> PreviewImage:
        with path.open("rb") as file:
            image = read_image(file, name=path.name, limits=_ANY_SIZE, bare=bare)
        said = {"platform": image.platform, "app": image.app, "version": image.version, "build_id": image.build_id}
        return cast(PreviewImage, {**said, "bare": image.bare})

    return await anyio.to_thread.run_sync(read)
