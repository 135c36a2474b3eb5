"""The machine of a job: its events, the table of its transitions, and the function that applies an event."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias, get_args

import attrs

from mdashcore._checked import check_time
from mdashcore.job._values import Job, JobCounts, JobState


@attrs.frozen
class PieceDone:
    """The results of the present piece are stored. After a cancellation some of its devices may be pending."""

    counts: JobCounts


@attrs.frozen
class AllPiecesDone:
    """No piece is left."""


@attrs.frozen
class JobCancelRequested:
    """A user wants no more devices to be changed."""

    by: str
    """As `Job.created_by`."""


@attrs.frozen
class JobStopped:
    """The job was canceled, and no device is being changed any more."""


JobEvent: TypeAlias = PieceDone | AllPiecesDone | JobCancelRequested | JobStopped
"""Any of the events of a job."""

JobAction: TypeAlias = Callable[[Job, Any], dict[str, Any]]


@attrs.frozen
class JobTransition:
    """One arrow of the machine."""

    to: JobState
    do: JobAction
    """The action, which returns the other fields that change."""


def _count(job: Job, event: PieceDone) -> dict[str, Any]:
    return {"piece": job.piece + 1, "counts": job.counts.after(event.counts)}


def _complete(job: Job, event: Any) -> dict[str, Any]:
    return {"reason": _in_words(job.counts)}


def _cancel(job: Job, event: JobCancelRequested) -> dict[str, Any]:
    return {"canceled_by": event.by, "reason": "canceled on request"}


def _stop(job: Job, event: Any) -> dict[str, Any]:
    return {"reason": f"canceled on request: {_in_words(job.counts)}, {job.counts.pending} not done"}


def _in_words(counts: JobCounts) -> str:
    return f"{counts.changed} changed, {counts.unchanged} had the values already, {counts.failed} failed"


def _table() -> dict[tuple[JobState, type], JobTransition]:
    s, t = JobState, JobTransition
    return {
        (s.RUNNING, PieceDone): t(s.RUNNING, _count),
        (s.RUNNING, AllPiecesDone): t(s.COMPLETED, _complete),
        (s.RUNNING, JobCancelRequested): t(s.CANCELING, _cancel),
        (s.CANCELING, PieceDone): t(s.CANCELING, _count),
        (s.CANCELING, AllPiecesDone): t(s.COMPLETED, _complete),
        (s.CANCELING, JobStopped): t(s.CANCELED, _stop),
    }


JOB_TRANSITIONS: Mapping[tuple[JobState, type], JobTransition] = _table()
"""The machine: (state, kind of event) → arrow. An event without an arrow changes nothing."""


def advance(job: Job, event: JobEvent, *, now: float) -> Job:
    """Return the job after an event. It is the same object if the event changes nothing.

    Args:
        job: the job before the event.
        event: an instance of one of the classes in `JobEvent`.
        now: Unix seconds.

    Raises:
        TypeError: `job` or `event` has another type, for example a class of events in place of an instance.
        InvalidInput: `now` is no time.
    """
    _check(job, event)
    check_time("now", now)
    transition = JOB_TRANSITIONS.get((job.state, type(event)))
    if transition is None:
        return job
    changes = transition.do(job, event)
    if transition.to is not job.state:
        changes |= {"state": transition.to, "changed": now}
    return attrs.evolve(job, **changes)


def next_event(job: Job) -> JobEvent | None:
    """Return the event that follows from the job alone, or `None`: the present piece is to be done, or it has ended.

    A piece that a process was killed in has to be settled before `JobStopped` is applied.
    """
    if job.ended:
        return None
    if not job.counts.pending:
        return AllPiecesDone()
    if job.state is JobState.CANCELING:
        return JobStopped()
    return AllPiecesDone() if job.piece >= job.pieces else None


_EVENTS: Final = frozenset(get_args(JobEvent))


def _check(job: object, event: object) -> None:
    if not isinstance(job, Job) or type(event) not in _EVENTS:
        raise TypeError(f"a Job and one of its events are needed, not {job!r:.60} and {event!r:.60}")
