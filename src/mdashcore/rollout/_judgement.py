"""The judgement of a rollout by its numbers and the time: the events that follow, and the devices that may begin."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor

import attrs

from mdashcore._checked import check_time
from mdashcore.rollout._events import (
    AllEnded,
    ErrorsExceeded,
    PhasePassed,
    RolloutDeadlinePassed,
    RolloutEvent,
    Settled,
    SuccessMissed,
)
from mdashcore.rollout._machine import advance
from mdashcore.rollout._members import Counts, added
from mdashcore.rollout._plan import DAY
from mdashcore.rollout._values import Cause, Rollout, RolloutState

BATCH = 32  # devices that begin by one decision: the records stored for it stay small

SETTLED_TIME = 120.0  # seconds: at the slowest rate a device that is online begins within one minute

ABORT_LIMIT = 2 * DAY  # seconds for running updates after an abort: an update past the end of its transfer has a day


def judge(rollout: Rollout, counts: Sequence[Counts], now: float) -> Rollout:
    """Return the rollout after all events that follow from the numbers of its phases and from the time.

    It is the same object if nothing follows. The result does not change if it is judged again with the same arguments.

    Args:
        rollout: the rollout as stored.
        counts: the outcomes of each phase.
        now: Unix seconds.
    """
    check_time("now", now)
    while (event := _verdict(rollout, counts, now)) is not None:
        rollout = attrs.evolve(advance(rollout, event, now=now), counts=tuple(counts))
    return rollout


def _verdict(r: Rollout, counts: Sequence[Counts], now: float) -> RolloutEvent | None:
    """Return the event that follows from the numbers, or `None`. Each takes the rollout to a later state or phase."""
    if r.ended:
        return None
    if r.state is RolloutState.ABORTING and not any(each.updating for each in counts):
        return Settled()
    if now >= deadline(r):
        return RolloutDeadlinePassed(added(counts))
    if r.state is not RolloutState.RUNNING:
        return None
    for phase in range(r.phase + 1):
        if (errors := _errors(r, phase, counts[phase])) is not None:
            return errors
    present = counts[r.phase]
    last = r.phase == len(r.ends) - 1
    if last:
        return AllEnded(added(counts)) if all(each.all_ended for each in counts) else None
    if _successful(r, present):
        return PhasePassed()
    if not present.all_ended:
        return None
    return PhasePassed() if r.accepted > r.phase else SuccessMissed(present)


def _successful(r: Rollout, counts: Counts) -> bool:
    """Return whether enough devices of a phase have succeeded. A phase without devices has succeeded."""
    if not counts.total:
        return True
    wanted = counts.total - counts.skipped
    return wanted > 0 and counts.succeeded * 100 >= r.plan.success_percent * wanted


def _errors(r: Rollout, phase: int, counts: Counts) -> ErrorsExceeded | None:
    before = r.forgiven[phase] if phase < len(r.forgiven) else Counts()
    judged, failed = counts.judged - before.judged, counts.failed - before.failed
    sample = min(r.plan.min_sample, counts.total - counts.skipped - before.judged)
    if failed <= 0 or judged < sample or failed * 100 <= r.plan.error_percent * judged:
        return None
    return ErrorsExceeded(phase, failed, judged)


def to_forgive(rollout: Rollout, counts: Sequence[Counts]) -> int:
    """Return the number of failures that a resume has to forgive, so that they do not pause the rollout again.

    If the present phase has not enough success, these are all failures of it, forgiven or not: the next phase begins in
    spite of them.
    """
    if rollout.cause is Cause.SUCCESS:
        return counts[rollout.phase].failed
    before = rollout.forgiven or (Counts(),) * len(counts)
    return sum(max(0, now.failed - then.failed) for now, then in zip(counts, before, strict=True))


def deadline(rollout: Rollout) -> float:
    """Return when `RolloutDeadlinePassed` is due, in Unix seconds."""
    if rollout.state is RolloutState.ABORTING:
        return rollout.changed + ABORT_LIMIT
    return rollout.created + rollout.plan.timeout


def offline_deadline(rollout: Rollout, phase: int) -> float:
    """Return until when devices of a phase that has begun may come online, in Unix seconds. A pause does not count."""
    return max(rollout.phase_started[phase], rollout.resumed or 0.0) + rollout.plan.offline_wait


def only_waits(rollout: Rollout, now: float) -> bool:
    """Return whether only offline devices are left of the phases that have begun.

    Any other device would have begun by now: the window is open, and rate and number of active devices let one begin.
    """
    begun = max(rollout.phase_started[-1], rollout.resumed or 0.0, rollout.next_start) if rollout.phase_started else now
    idle = rollout.state is RolloutState.RUNNING and not any(each.updating for each in rollout.counts)
    return (
        idle and rollout.plan.is_open(now) and rollout.plan.is_open(now - SETTLED_TIME) and now - begun >= SETTLED_TIME
    )


def budget(rollout: Rollout, counts: Sequence[Counts], now: float, *, wall: float | None = None) -> int:
    """Return how many devices may begin now.

    Args:
        rollout: the rollout as stored.
        counts: the outcomes of each phase.
        now: Unix seconds.
        wall: the time on people's clocks, in Unix seconds, which opens the window. By default it is `now`.
    """
    plan = rollout.plan
    if rollout.state is not RolloutState.RUNNING or not plan.is_open(now if wall is None else wall):
        return 0
    free = min(BATCH, plan.max_active - sum(each.updating for each in counts))
    if plan.rate is not None:
        since = begins_from(rollout, now)
        if now < since:
            return 0
        free = min(free, 1 + floor((now - since) * plan.rate / 60))
    return max(0, free)


def claim(rollout: Rollout, number: int, now: float) -> Rollout:
    """Return the rollout with `number` devices beginning now, at most as many as `budget` allows."""
    if rollout.plan.rate is None:
        return rollout
    return attrs.evolve(rollout, next_start=begins_from(rollout, now) + number * 60 / rollout.plan.rate)


def begins_from(rollout: Rollout, now: float) -> float:
    """Return from when the next device may begin. An unused part of the rate is lost, except for the last second."""
    ahead = 1 + 60 / (rollout.plan.rate or 1)  # seconds: a start that lies further ahead is of a clock that was wrong
    return max(rollout.next_start if rollout.next_start <= now + ahead else now, now - 1.0)


def next_look(
    rollout: Rollout, counts: Sequence[Counts], now: float, *, ready: bool, wall: float | None = None
) -> float:
    """Return when the rollout has to be judged again even if no event comes, in Unix seconds on the clock of `now`.

    Args:
        rollout: the rollout as stored.
        counts: the outcomes of each phase.
        now: Unix seconds.
        ready: whether a device that could begin waits for its turn.
        wall: as for `budget`.
    """
    times = [deadline(rollout)]
    if rollout.state is RolloutState.RUNNING:
        ends = [offline_deadline(rollout, i) for i in range(rollout.phase + 1) if not counts[i].all_ended]
        times += [end for end in ends if end > now]
        if ready:
            window, wall = rollout.plan.window, now if wall is None else wall
            opens_in = 0.0 if window is None else window.opens(wall) - wall
            times.append(max(now + opens_in, begins_from(rollout, now)))
    return min(times)
