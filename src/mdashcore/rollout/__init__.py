"""A rollout: one image into many devices, a few of them first; a frozen value, one table, and a judge.

Nothing here does I/O or knows the time. Who performs a rollout goes round a loop::

    rollout = judge(rollout, counts, now)         # what the devices' outcomes mean for the whole
    ...                                           # store it, with compare-and-set
    number = budget(rollout, counts, now)         # how many devices may begin now
    rollout = claim(rollout, number, now)         # store it, then each device as UPDATING, then begin its update

Each decision is stored before what follows from it is done, and what follows can be done twice: the id of a
device's update is made of the rollout, the device and the attempt. So any process can go on at any point.

The devices are fixed when a rollout is made, in the order of a hash of account and id; phases are cuts through
that order. RUNNING → COMPLETED is the straight way. Too many errors in a phase, or not enough success at its end,
lead to PAUSED, where a person decides: resume (what has failed so far is forgiven), retry (what has failed is tried
again) or abort. Every rollout ends: the whole has a deadline, so has the waiting for devices that are offline, and
so have the updates themselves.
"""

from __future__ import annotations

from mdashcore.rollout._machine import (
    BATCH,
    TRANSITIONS,
    AbortRequested,
    AllEnded,
    Approved,
    DeadlinePassed,
    ErrorsExceeded,
    Event,
    PauseRequested,
    PhasePassed,
    ResumeRequested,
    RetryRequested,
    Settled,
    SuccessMissed,
    Transition,
    advance,
    budget,
    claim,
    deadline,
    judge,
    next_look,
    offline_deadline,
    only_waits,
    summary,
)
from mdashcore.rollout._request import Request, describe_plan, parse_request
from mdashcore.rollout._values import (
    ENDS,
    MAX_MEMBERS,
    Cause,
    Counts,
    Ended,
    Member,
    Outcome,
    Plan,
    Rollout,
    State,
    added,
    ordered,
    settled,
    update_id,
)
from mdashcore.rollout._window import Window

__all__ = [
    "BATCH",
    "ENDS",
    "MAX_MEMBERS",
    "TRANSITIONS",
    "AbortRequested",
    "AllEnded",
    "Approved",
    "Cause",
    "Counts",
    "DeadlinePassed",
    "Ended",
    "ErrorsExceeded",
    "Event",
    "Member",
    "Outcome",
    "PauseRequested",
    "PhasePassed",
    "Plan",
    "Request",
    "ResumeRequested",
    "RetryRequested",
    "Rollout",
    "Settled",
    "State",
    "SuccessMissed",
    "Transition",
    "Window",
    "added",
    "advance",
    "budget",
    "claim",
    "deadline",
    "describe_plan",
    "judge",
    "next_look",
    "offline_deadline",
    "only_waits",
    "ordered",
    "parse_request",
    "settled",
    "summary",
    "update_id",
]
