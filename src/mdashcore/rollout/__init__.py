"""A rollout: one image into many devices, a few of them first. A frozen value, one table, and a judge.

The functions do no I/O and read no clock. A performer of a rollout runs a loop::

    rollout = judge(rollout, counts, now)         # apply the devices' outcomes to the whole
    ...                                           # store it, with compare-and-set
    number = budget(rollout, counts, now)         # how many devices may begin now
    rollout = claim(rollout, number, now)         # store it, then each device as UPDATING, then begin its update

Each decision is stored before the actions that follow from it, and the actions can be repeated: the id of a
device's update is made of the rollout, the device and the attempt. So any process can continue at any point.

The devices are fixed when a rollout is made, in the order of a hash of account and id; phases are cuts through
that order. The straight way is RUNNING → COMPLETED. Too many errors in a phase, or not enough success at its end,
lead to PAUSED, where a person decides: resume (with or without forgiving the failures), retry (the failed devices are
tried again) or abort. Every rollout ends, because the whole has a deadline, and so have the waiting for offline devices
and the updates themselves.
"""

from __future__ import annotations

from mdashcore.rollout._actions import summary
from mdashcore.rollout._ends import Ended, settled
from mdashcore.rollout._events import (
    AbortRequested,
    AllEnded,
    Approved,
    ErrorsExceeded,
    PauseRequested,
    PhasePassed,
    ResumeRequested,
    RetryRequested,
    RolloutDeadlinePassed,
    RolloutEvent,
    Settled,
    SuccessMissed,
)
from mdashcore.rollout._judgement import (
    BATCH,
    budget,
    claim,
    deadline,
    judge,
    next_look,
    offline_deadline,
    only_waits,
    to_forgive,
)
from mdashcore.rollout._machine import ROLLOUT_TRANSITIONS, RolloutTransition, advance
from mdashcore.rollout._members import Counts, Failure, Member, Outcome, added, most_frequent, ordered, update_id
from mdashcore.rollout._plan import Plan, RolloutKind
from mdashcore.rollout._request import RolloutRequest, describe_plan, parse_image, parse_request
from mdashcore.rollout._values import MAX_MEMBERS, ROLLOUT_ENDS, Cause, Rollout, RolloutState
from mdashcore.rollout._waiting import Waiting, WaitKind, waiting_turn, waiting_update
from mdashcore.rollout._window import Window

__all__ = [
    "BATCH",
    "MAX_MEMBERS",
    "ROLLOUT_ENDS",
    "ROLLOUT_TRANSITIONS",
    "AbortRequested",
    "AllEnded",
    "Approved",
    "Cause",
    "Counts",
    "Ended",
    "ErrorsExceeded",
    "Failure",
    "Member",
    "Outcome",
    "PauseRequested",
    "PhasePassed",
    "Plan",
    "ResumeRequested",
    "RetryRequested",
    "Rollout",
    "RolloutDeadlinePassed",
    "RolloutEvent",
    "RolloutKind",
    "RolloutRequest",
    "RolloutState",
    "RolloutTransition",
    "Settled",
    "SuccessMissed",
    "WaitKind",
    "Waiting",
    "Window",
    "added",
    "advance",
    "budget",
    "claim",
    "deadline",
    "describe_plan",
    "judge",
    "most_frequent",
    "next_look",
    "offline_deadline",
    "only_waits",
    "ordered",
    "parse_image",
    "parse_request",
    "settled",
    "summary",
    "to_forgive",
    "update_id",
    "waiting_turn",
    "waiting_update",
]
