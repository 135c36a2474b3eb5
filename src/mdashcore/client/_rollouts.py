"""Rollouts: one image for many devices."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, cast

from mdashcore import _json
from mdashcore.client._firmware import check_one_image
from mdashcore.client._http import UPLOAD_TIMEOUT, Resource
from mdashcore.client._pages import all_parts
from mdashcore.documents import MAX_MEMBERS_PAGE, MemberDocument, NewRollout, RolloutDocument
from mdashcore.rollout import Outcome

__all__ = ["RolloutRequests"]


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
            plan: the devices, as `filter` or `devices`, and how it goes on.
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

    async def rollouts(self) -> list[RolloutDocument]:
        """Return the account's rollouts, the newest first. One that is damaged has only `id` and `damaged`."""
        return cast(list[RolloutDocument], await self._http.fetch("GET", "rollouts"))

    async def rollout(self, id: str) -> RolloutDocument:
        """Return a rollout. Raises `NotFound`."""
        return cast(RolloutDocument, await self._http.fetch("GET", "rollouts", id))

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
