"""Jobs: values of `desired` for many devices."""

from __future__ import annotations

from typing import Annotated, Any, Final, Required, TypedDict

from mdashcore.documents._members import DamagedParts, DeviceId, member
from mdashcore.job import JobOutcome, JobState

__all__ = [
    "MAX_RESULTS_PAGE",
    "DamagedJob",
    "DeviceChangesDocument",
    "JobCountsDocument",
    "JobDocument",
    "JobPreviewDocument",
    "JobResultDocument",
    "JobResultsPage",
    "JobResultsQuery",
    "NewJob",
    "RefusedDevice",
    "ValueChangeDocument",
    "ValueDifference",
]


class NewJob(TypedDict, total=False):
    """A job to begin, or to preview. One of `filter`, `devices` and `all` is needed."""

    desired: Required[
        Annotated[dict[str, Any], member("values for `desired`: a merge patch, in which `null` removes a key")]
    ]
    filter: Annotated[list[str], member("terms that have to hold, `@NAME` for a saved filter", max_length=16)]
    devices: Annotated[list[str] | None, member("ids, of which the filter picks, up to 20000; all if not given")]
    all: Annotated[bool, member("every device, in place of `filter` and `devices`", False)]
    name: Annotated[str, member("text for people", "", max_length=256)]
    preview: Annotated[bool, member("change nothing: answer what would change", False)]


class ValueDifference(TypedDict):
    """A value that changes."""

    path: Annotated[list[str], member("the keys that lead to it")]
    before: Annotated[Any, member("what it is; `null`: there is none")]
    after: Annotated[Any, member("what it becomes; `null`: it is removed")]


class ValueChangeDocument(ValueDifference):
    """A value that changes, and in how many devices."""

    devices: int


class DeviceChangesDocument(TypedDict):
    """A device that would change."""

    device: DeviceId
    changes: list[ValueDifference]


class RefusedDevice(TypedDict):
    """A device that cannot take the values."""

    device: DeviceId
    reason: str


class JobPreviewDocument(TypedDict):
    """What a job would do."""

    devices: Annotated[int, member("how many are selected")]
    changed: Annotated[int, member("how many would change")]
    unchanged: Annotated[int, member("how many have all the values already")]
    failed: Annotated[int, member("how many cannot take them")]
    changes: Annotated[
        list[ValueChangeDocument],
        member(
            "from what to what, the most frequent first, up to 100; if there are others, each has at least its number"
        ),
    ]
    other_changes: Annotated[int, member("changes of values that are not among them")]
    shown: Annotated[list[DeviceChangesDocument], member("the first devices that would change, up to 100")]
    failures: Annotated[list[RefusedDevice], member("the first devices that cannot take the values, up to 100")]


class JobCountsDocument(TypedDict):
    """How many devices have which outcome."""

    pending: int
    changed: int
    unchanged: int
    failed: int


class JobDocument(TypedDict):
    """A job. Times are Unix seconds."""

    id: Annotated[str, member("the job's id")]
    name: Annotated[str, member("text for people")]
    state: Annotated[JobState, member("its state; the states are those of its notifications")]
    reason: Annotated[str, member("the result in words, for people")]
    desired: Annotated[dict[str, Any], member("the values, as they were asked for")]
    filter: Annotated[list[str], member("the terms by which its devices were picked")]
    devices: Annotated[int, member("how many were selected; they do not change later")]
    counts: Annotated[JobCountsDocument, member("the number of devices with each outcome")]
    created: Annotated[float, member("when it was made")]
    created_by: Annotated[str, member("the user that made it, or the name of its API key: its id, if it has no name")]
    changed: Annotated[float, member("when it came into its state")]
    canceled_by: Annotated[str | None, member("as `created_by`; `null`: it was not canceled")]


class DamagedJob(TypedDict):
    """A job of which nothing but its id can be read."""

    id: str
    damaged: DamagedParts


class JobResultDocument(TypedDict):
    """The result of a job for one device."""

    device: DeviceId
    outcome: JobOutcome
    reason: Annotated[str, member("why it failed")]
    changed: Annotated[float | None, member("Unix seconds of the outcome; `null`: pending")]


class JobResultsPage(TypedDict):
    """A page of the results of a job."""

    results: Annotated[list[JobResultDocument], member("in the order of ids")]
    damaged: Annotated[int, member("devices between `start` and `next` whose result cannot be read, of any outcome")]
    next: Annotated[int | None, member("where the next page starts; `null` is the end")]


MAX_RESULTS_PAGE: Final = 1000  # results in one answer: 150 KB


class JobResultsQuery(TypedDict, total=False):
    """The parameters of a page of results."""

    start: Annotated[int, member("where to start", 0, ge=0, le=2**31)]
    limit: Annotated[int, member("how many at most", 100, ge=1, le=MAX_RESULTS_PAGE)]
    outcome: Annotated[JobOutcome, member("only those with this one; all if not given")]
