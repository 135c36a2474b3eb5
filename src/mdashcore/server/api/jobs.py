"""``/jobs``: values of `desired` for many devices."""

from __future__ import annotations

from typing import Any, Literal

from quart import Response, request

from mdashcore._errors import InvalidInput
from mdashcore.documents import (
    MAX_RESULTS_PAGE,
    DamagedJob,
    JobDocument,
    JobPreviewDocument,
    JobResultDocument,
    JobResultsPage,
    JobResultsQuery,
    NewJob,
    ValueDifference,
)
from mdashcore.hub.jobs.describe import describe
from mdashcore.hub.jobs.preview import JobPreview
from mdashcore.job import Difference, JobOutcome, JobResult
from mdashcore.server.api._lists import send_values
from mdashcore.server.api._request import answer, body_object, principal, service, whole_number
from mdashcore.server.auth import caller_name
from mdashcore.server.endpoints import API, Routes
from mdashcore.trio.shielding import finish
from mdashcore.trio.turns import Pace

routes: Routes = Routes(f"{API}/jobs", id=str)


@routes.post(body=NewJob, max_body=None, answers={200: JobPreviewDocument, 201: JobDocument}, errors=(404, 413))
async def create_job() -> Response:
    """Begin a job, or preview it. A preview is answered with 200 and changes nothing."""
    value, account, jobs = await body_object(), principal().account, service().hub.jobs
    if "filter" in value:
        value["filter"] = await service().hub.saved_filters.resolve(account, value["filter"])
    wanted, pace = jobs.parse(value), Pace(account)
    with service().lists.one(account):
        if wanted.preview:
            return answer(_describe_preview(await jobs.preview(account, wanted, pace)))
        by = await caller_name(service().hub.accounts, principal())
        return answer(describe(await finish(lambda: jobs.create(account, wanted, by=by, pause=pace))), 201)


@routes.get(answers={200: list[JobDocument | DamagedJob]})
async def list_jobs() -> Response:
    """List the account's jobs, the newest first."""
    damaged: list[str] = []
    found = await service().hub.jobs.of(principal().account, damaged)
    return await send_values([*map(describe, found), *({"id": id, "damaged": ["job"]} for id in sorted(damaged))])


@routes.get("/<id>", answers={200: JobDocument})
async def get_job(id: str) -> Response:
    """Answer with one job."""
    return answer(describe(await service().hub.jobs.get(principal().account, id)))


@routes.get("/<id>/devices", query=JobResultsQuery, answers={200: JobResultsPage})
async def list_job_results(id: str) -> Response:
    """List the result of each device of a job, in pages."""
    start, limit = whole_number("start", 0, 2**31) or 0, whole_number("limit", 1, MAX_RESULTS_PAGE) or 100
    asked = request.args.get("outcome")
    if asked is not None and asked not in set(JobOutcome):
        raise InvalidInput(f"outcome is one of {', '.join(JobOutcome)}")
    outcome = None if asked is None else JobOutcome(asked)
    account, jobs = principal().account, service().hub.jobs
    present = await jobs.get(account, id)
    with service().lists.one(account):
        damaged: list[int] = []
        found, following = await jobs.results(account, present, start, limit, outcome, Pace(account), damaged=damaged)
    page: JobResultsPage = {
        "results": list(map(_describe_result, found)),
        "damaged": len(damaged),
        "next": following,
    }
    return answer(page)


@routes.post("/<id>/cancel", answers={200: JobDocument}, errors=(409,))
async def cancel_job(id: str) -> Response:
    """Cancel a job. Devices that it has changed keep the values. Answers with the job."""
    account, by = principal().account, await caller_name(service().hub.accounts, principal())
    return answer(describe(await finish(lambda: service().hub.jobs.cancel(account, id, by=by))))


@routes.delete("/<id>", answers={200: Literal[True]}, errors=(409,))
async def remove_job(id: str) -> Response:
    """Remove a job that has ended."""
    account = principal().account
    await finish(lambda: service().hub.jobs.remove(account, id))
    return answer(True)


def _describe_result(result: JobResult) -> JobResultDocument:
    return {
        "device": result.device,
        "outcome": result.outcome,
        "reason": result.reason,
        "changed": result.changed or None,
    }


def _describe_preview(preview: JobPreview) -> JobPreviewDocument:
    return {
        "devices": preview.devices,
        "changed": preview.changed,
        "unchanged": preview.unchanged,
        "failed": preview.failed,
        "changes": [{**_difference(each.difference), "devices": each.devices} for each in preview.changes],
        "other_changes": preview.other_changes,
        "shown": [
            {"device": each.device, "changes": list(map(_difference, each.differences))} for each in preview.shown
        ],
        "failures": [{"device": device, "reason": reason} for device, reason in preview.failures],
    }


def _difference(change: Difference) -> ValueDifference:
    before: Any = change.before
    after: Any = change.after
    return {"path": list(change.path), "before": before, "after": after}
