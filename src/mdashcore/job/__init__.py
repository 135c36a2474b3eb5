"""A job: values of `desired` for many devices. A frozen value, and one table.

The functions do no I/O and read no clock. The devices are fixed when a job is made, and stand in *pieces*. A performer
takes one piece after the other::

    before = fingerprint(shadow, job.desired)          # of each device that differs; stored, with compare-and-set
    ...                                                # the shadows are changed; the piece is stored with its results
    job = advance(job, PieceDone(counts), now=now)     # stored, with compare-and-set

So any process can continue at any point, and a device is changed once: the fingerprint shows whether a change that was
begun has happened. A job ends when the shadows are written. A device that is offline gets the values when it comes
back, as with any other change of its shadow.
"""

from __future__ import annotations

from mdashcore.job._machine import (
    JOB_TRANSITIONS,
    AllPiecesDone,
    JobCancelRequested,
    JobEvent,
    JobStopped,
    JobTransition,
    PieceDone,
    advance,
    next_event,
)
from mdashcore.job._patches import Difference, after_interruption, check_desired, differences, fingerprint
from mdashcore.job._request import JobRequest, parse_request
from mdashcore.job._values import (
    JOB_ENDS,
    MAX_JOB_DEVICES,
    PIECE_SIZE,
    Job,
    JobCounts,
    JobOutcome,
    JobPiece,
    JobResult,
    JobState,
)

__all__ = [
    "JOB_ENDS",
    "JOB_TRANSITIONS",
    "MAX_JOB_DEVICES",
    "PIECE_SIZE",
    "AllPiecesDone",
    "Difference",
    "Job",
    "JobCancelRequested",
    "JobCounts",
    "JobEvent",
    "JobOutcome",
    "JobPiece",
    "JobRequest",
    "JobResult",
    "JobState",
    "JobStopped",
    "JobTransition",
    "PieceDone",
    "advance",
    "after_interruption",
    "check_desired",
    "differences",
    "fingerprint",
    "next_event",
    "parse_request",
]
