"""The actions of the machine: the other fields that a transition changes, and the reason that it writes.

Each function takes (rollout, event, now) and returns the changed fields. The event has the type of its row.
"""

from __future__ import annotations

from typing import Any

from mdashcore.rollout._events import AllEnded, ErrorsExceeded, ResumeRequested, RolloutDeadlinePassed, SuccessMissed
from mdashcore.rollout._members import Counts
from mdashcore.rollout._values import Cause, Rollout


def begin(r: Rollout, e: Any, now: float) -> dict[str, Any]:
    return {"phase_started": (now,)}


def next_phase(r: Rollout, e: Any, now: float) -> dict[str, Any]:
    return {"phase": r.phase + 1, "phase_started": (*r.phase_started, now)}


def pause(r: Rollout, e: Any, now: float) -> dict[str, Any]:
    return {"cause": Cause.REQUEST, "reason": "paused on request"}


def stop_at_errors(r: Rollout, e: ErrorsExceeded, now: float) -> dict[str, Any]:
    reason = (
        f"{e.failed} of {e.judged} devices of phase {e.phase + 1} failed: "
        f"more than {r.plan.error_percent:g} %, the error threshold"
    )
    return {"cause": Cause.ERRORS, "reason": reason}


def stop_at_success(r: Rollout, e: SuccessMissed, now: float) -> dict[str, Any]:
    c = e.counts
    if c.judged:
        reason = (
            f"{c.succeeded} of {c.judged} devices of phase {r.phase + 1} succeeded: "
            f"less than {r.plan.success_percent:g} %, the success threshold"
        )
    else:
        reason = f"no device of phase {r.phase + 1} had the chance to take the image, {c.skipped} were skipped"
    return {"cause": Cause.SUCCESS, "reason": reason}


def go_on(r: Rollout, e: ResumeRequested, now: float) -> dict[str, Any]:
    changes = _restarted(r, now)
    if e.forgive:
        changes["forgiven"] = e.counts
    if r.cause is Cause.SUCCESS and (e.forgive or not e.counts[r.phase].failed):
        changes["accepted"] = r.phase + 1
    return changes


def try_again(r: Rollout, e: Any, now: float) -> dict[str, Any]:
    return _restarted(r, now) | {"round": r.round + 1, "forgiven": (), "failures": ()}


def _restarted(r: Rollout, now: float) -> dict[str, Any]:
    """Begin the waiting for offline devices again: the time of the pause does not count."""
    return {"cause": None, "reason": "", "resumed": now}


def complete(r: Rollout, e: AllEnded, now: float) -> dict[str, Any]:
    return {"reason": summary(e.counts)}


def abort(r: Rollout, e: Any, now: float) -> dict[str, Any]:
    return {"cause": None, "reason": "aborted on request"}


def run_out(r: Rollout, e: RolloutDeadlinePassed, now: float) -> dict[str, Any]:
    was = f"; it was {r.state}" + (f": {r.reason}" if r.reason else "")
    return {"cause": None, "reason": f"not done in time ({now - r.created:.0f} s){was}"}


def give_up(r: Rollout, e: RolloutDeadlinePassed, now: float) -> dict[str, Any]:
    return {"reason": f"{r.reason}; of {e.counts.updating} devices it is not known what became of them"}


def summary(counts: Counts) -> str:
    """Return the result of a rollout in one line."""
    skipped = f", {counts.skipped} skipped" if counts.skipped else ""
    return f"{counts.succeeded} of {counts.total} devices succeeded, {counts.failed} failed{skipped}"
