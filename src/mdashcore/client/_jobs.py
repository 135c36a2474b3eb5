"""Jobs: values of `desired` for many devices."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, cast

from mdashcore.client._http import Resource
from mdashcore.client._pages import all_parts
from mdashcore.client._selecting import selecting
from mdashcore.documents import MAX_RESULTS_PAGE, JobDocument, JobPreviewDocument, JobResultDocument
from mdashcore.job import JobOutcome

__all__ = ["JobRequests"]


class JobRequests(Resource):
    """What `Client` does with jobs."""

    async def create_job(
        self,
        desired: Mapping[str, Any],
        *terms: str,
        devices: Sequence[str] | None = None,
        all_devices: bool = False,
        name: str = "",
    ) -> JobDocument:
        """Set desired values of the devices for which every term holds.

        The job goes on by itself: see `job`, or the notifications ``job.…``.

        Args:
            desired: the values of each device. A value of `None` removes its key.
            devices: ids, of which the terms pick; `None` for devices with any id.
            all_devices: every device, in place of terms and ids.
            name: text for people.

        Raises:
            InvalidInput: the values fit into no shadow, or no device is selected.
            NotFound: a device of `devices` does not exist.
            LimitReached: too many jobs of the account have not ended.
        """
        asked = {**_job(desired, terms, devices, all_devices=all_devices), "name": name}
        return cast(JobDocument, await self._http.fetch("POST", "jobs", json=asked, timeout=math.inf))

    async def preview_job(
        self,
        desired: Mapping[str, Any],
        *terms: str,
        devices: Sequence[str] | None = None,
        all_devices: bool = False,
    ) -> JobPreviewDocument:
        """Return what `create_job` would change, from what to what. Changes nothing."""
        asked = {**_job(desired, terms, devices, all_devices=all_devices), "preview": True}
        return cast(JobPreviewDocument, await self._http.fetch("POST", "jobs", json=asked, timeout=math.inf))

    async def jobs(self) -> list[JobDocument]:
        """Return the account's jobs, the newest first."""
        return cast(list[JobDocument], await self._http.fetch("GET", "jobs"))

    async def job(self, id: str) -> JobDocument:
        """Return a job. Raises `NotFound`."""
        return cast(JobDocument, await self._http.fetch("GET", "jobs", id))

    async def cancel_job(self, id: str) -> JobDocument:
        """Let a job change no more devices. Raises `Conflict` if it has ended."""
        return cast(JobDocument, await self._http.fetch("POST", "jobs", id, "cancel"))

    async def remove_job(self, id: str) -> None:
        """Remove a job that has ended, with its results. Raises `Conflict` if it has not."""
        await self._http.request("DELETE", "jobs", id)

    def job_results(self, id: str, outcome: JobOutcome | None = None) -> AsyncIterator[JobResultDocument]:
        """Yield the result of a job for each device by id, or those with an outcome. They are read in pages."""
        return all_parts(self._http, "jobs", id, "devices", of="results", limit=MAX_RESULTS_PAGE, outcome=outcome)


def _job(
    desired: Mapping[str, Any], terms: Sequence[str], devices: Sequence[str] | None, *, all_devices: bool
) -> dict[str, Any]:
    """Return the request for a job."""
    return {"desired": dict(desired), **selecting(terms, devices, all_devices=all_devices)}
