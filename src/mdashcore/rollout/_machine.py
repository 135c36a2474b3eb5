"""The machine of a rollout: the table of its transitions, and the judgement of its numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import floor
from typing import Any, Final, TypeAlias, get_args

import attrs

from mdashcore.rollout._values import DAY, Cause, Counts, Rollout, RolloutState, added

BATCH = 32  # devices that begin by one decision: the records stored for it stay small

SETTLED = 120.0  # seconds: at the slowest rate a device that is online begins within one minute

ABORT_LIMIT = 2 * DAY  # seconds for running updates after an abort: an update past the end of its transfer has a day


# ------------------------------------------------------------------------------------------------- the events


@attrs.frozen
class Approved:
    """A user lets the first phase begin."""


@attrs.frozen
class PauseRequested:
    """A user wants no more devices to begin."""


@attrs.frozen
class ResumeRequested:
    """A user wants the rollout to go on, whatever paused it."""

    counts: tuple[Counts, ...]
    """The failures of each phase so far, which are forgiven."""


@attrs.frozen
class RetryRequested:
    """A user wants to try the failed devices again."""


@attrs.frozen
class AbortRequested:
    """A user wants the rollout to end."""


@attrs.frozen
class PhasePassed:
    """Enough devices of the present phase have succeeded."""


@attrs.frozen
class SuccessMissed:
    """All devices of the present phase have ended, and not enough have succeeded."""

    counts: Counts


@attrs.frozen
class ErrorsExceeded:
    """Too many devices of a phase have failed."""

    phase: int
    failed: int
    judged: int


@attrs.frozen
class AllEnded:
    """Every device of the last phase, and of those before, has ended."""

    counts: Counts


@attrs.frozen
class Settled:
    """No device has a running update any more."""


@attrs.frozen
class DeadlinePassed:
    """The time of `deadline` has come."""

    counts: Counts


RolloutEvent: TypeAlias = (
    Approved
    | PauseRequested
    | ResumeRequested
    | RetryRequested
    | AbortRequested
    | PhasePassed
    | SuccessMissed
    | ErrorsExceeded
    | AllEnded
    | Settled
    | DeadlinePassed
)
"""Any of the events of a rollout."""


# --------------------------------------------------------------------- the actions: which other fields change


def _begin(r: Rollout, e: Any, now: float) -> dict[str, Any]:
    return {"phase_started": (now,)}


def _next_phase(r: Rollout, e: Any, now: float) -> dict[str, Any]:
    return {"phase": r.phase + 1, "phase_started": (*r.phase_started, now)}


def _pause(r: Rollout, e: Any, now: float) -> dict[str, Any]:
    return {"cause": Cause.REQUEST, "reason": "paused on request"}


def _stop_at_errors(r: Rollout, e: ErrorsExceeded, now: float) -> dict[str, Any]:
    reason = (
        f"{e.failed} of {e.judged} devices of phase {e.phase + 1} failed: "
        f"more than {r.plan.error_percent:g} %, the error threshold"
    )
    return {"cause": Cause.ERRORS, "reason": reason}


def _stop_at_success(r: Rollout, e: SuccessMissed, now: float) -> dict[str, Any]:
    c = e.counts
    if c.judged:
        reason = (
            f"{c.succeeded} of {c.judged} devices of phase {r.phase + 1} succeeded: "
            f"less than {r.plan.success_percent:g} %, the success threshold"
        )
    else:
        reason = f"no device of phase {r.phase + 1} had the chance to take the image, {c.skipped} were skipped"
    return {"cause": Cause.SUCCESS, "reason": reason}


def _go_on(r: Rollout, e: ResumeRequested, now: float) -> dict[str, Any]:
    accepted = r.phase + 1 if r.cause is Cause.SUCCESS else r.accepted
    return _restarted(r, now) | {"forgiven": e.counts, "accepted": accepted}


def _try_again(r: Rollout, e: Any, now: float) -> dict[str, Any]:
    return _restarted(r, now) | {"round": r.round + 1, "forgiven": ()}


def _restarted(r: Rollout, now: float) -> dict[str, Any]:
    """Begin the waiting for offline devices again: the time of the pause does not count."""
    return {"cause": None, "reason": "", "phase_started": (now,) * len(r.phase_started)}


def _complete(r: Rollout, e: AllEnded, now: float) -> dict[str, Any]:
    return {"reason": summary(e.counts)}


def _abort(r: Rollout, e: Any, now: float) -> dict[str, Any]:
    return {"cause": None, "reason": "aborted on request"}


def _run_out(r: Rollout, e: DeadlinePassed, now: float) -> dict[str, Any]:
    was = f"; it was {r.state}" + (f": {r.reason}" if r.reason else "")
    return {"cause": None, "reason": f"not done in time ({now - r.created:.0f} s){was}"}


def _give_up(r: Rollout, e: DeadlinePassed, now: float) -> dict[str, Any]:
    return {"reason": f"{r.reason}; of {e.counts.updating} devices it is not known what became of them"}


def summary(counts: Counts) -> str:
    """Return the result of a rollout in one line."""
    skipped = f", {counts.skipped} skipped" if counts.skipped else ""
    return f"{counts.succeeded} of {counts.total} devices succeeded, {counts.failed} failed{skipped}"


# ------------------------------------------------------------------------------------------------- the table

Action: TypeAlias = Callable[[Rollout, Any, float], dict[str, Any]]


@attrs.frozen
class Transition:
    """One arrow of the machine."""

    to: RolloutState
    do: Action | None = None
    """The action, which returns the other fields that change."""


def _table() -> dict[tuple[RolloutState, type], Transition]:
    s, t = RolloutState, Transition
    return {
        (s.AWAITING_APPROVAL, Approved): t(s.RUNNING, _begin),
        (s.AWAITING_APPROVAL, AbortRequested): t(s.ABORTING, _abort),
        (s.AWAITING_APPROVAL, DeadlinePassed): t(s.ABORTING, _run_out),
        (s.RUNNING, PhasePassed): t(s.RUNNING, _next_phase),
        (s.RUNNING, SuccessMissed): t(s.PAUSED, _stop_at_success),
        (s.RUNNING, ErrorsExceeded): t(s.PAUSED, _stop_at_errors),
        (s.RUNNING, AllEnded): t(s.COMPLETED, _complete),
        (s.RUNNING, PauseRequested): t(s.PAUSED, _pause),
        (s.RUNNING, RetryRequested): t(s.RUNNING, _try_again),
        (s.RUNNING, AbortRequested): t(s.ABORTING, _abort),
        (s.RUNNING, DeadlinePassed): t(s.ABORTING, _run_out),
        (s.PAUSED, ResumeRequested): t(s.RUNNING, _go_on),
        (s.PAUSED, RetryRequested): t(s.RUNNING, _try_again),
        (s.PAUSED, AbortRequested): t(s.ABORTING, _abort),
        (s.PAUSED, DeadlinePassed): t(s.ABORTING, _run_out),
        (s.ABORTING, Settled): t(s.ABORTED),
        (s.ABORTING, DeadlinePassed): t(s.ABORTED, _give_up),
    }


TRANSITIONS: Mapping[tuple[RolloutState, type], Transition] = _table()
"""The machine: (state, kind of event) → arrow. An event without an arrow changes nothing."""


def advance(rollout: Rollout, event: RolloutEvent, *, now: float) -> Rollout:
    """Return the rollout after an event. It is the same object if the event changes nothing.

    Args:
        rollout: the rollout before the event.
        event: an instance of one of the classes in `RolloutEvent`.
        now: Unix seconds.

    Raises:
        TypeError: `rollout` or `event` has another type, for example a class of events in place of an instance.
    """
    _check(rollout, event)
    transition = TRANSITIONS.get((rollout.state, type(event)))
    if transition is None:
        return rollout
    changes: dict[str, Any] = {}
    if transition.to is not rollout.state:
        changes = {"state": transition.to, "changed": now}
    if transition.do is not None:
        changes |= transition.do(rollout, event, now)
    return attrs.evolve(rollout, **changes)


_EVENTS: Final = frozenset(get_args(RolloutEvent))


def _check(rollout: object, event: object) -> None:
    if not isinstance(rollout, Rollout) or type(event) not in _EVENTS:
        raise TypeError(f"a Rollout and one of its events are needed, not {rollout!r:.60} and {event!r:.60}")


# --------------------------------------------------------------------------------- the meaning of the numbers


def judge(rollout: Rollout, counts: Sequence[Counts], now: float) -> Rollout:
    """Return the rollout after all events that follow from the numbers of its phases and from the time.

    It is the same object if nothing follows. The result does not change if it is judged again with the same arguments.

    Args:
        rollout: the rollout as stored.
        counts: the outcomes of each phase.
        now: Unix seconds.
    """
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
        return DeadlinePassed(added(counts))
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


def deadline(rollout: Rollout) -> float:
    """Return when `DeadlinePassed` is due, in Unix seconds."""
    if rollout.state is RolloutState.ABORTING:
        return rollout.changed + ABORT_LIMIT
    return rollout.created + rollout.plan.timeout


def offline_deadline(rollout: Rollout, phase: int) -> float:
    """Return until when devices of a phase that has begun may come online, in Unix seconds."""
    return rollout.phase_started[phase] + rollout.plan.offline_wait


def only_waits(rollout: Rollout, now: float) -> bool:
    """Return whether only offline devices are left of the phases that have begun.

    Any other device would have begun by now: the window is open, and rate and number of active devices let one begin.
    """
    begun = max(rollout.phase_started[-1], rollout.next_start) if rollout.phase_started else now
    idle = rollout.state is RolloutState.RUNNING and not any(each.updating for each in rollout.counts)
    return idle and rollout.plan.is_open(now) and rollout.plan.is_open(now - SETTLED) and now - begun >= SETTLED


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
        since = _from(rollout, now)
        if now < since:
            return 0
        free = min(free, 1 + floor((now - since) * plan.rate / 60))
    return max(0, free)


def claim(rollout: Rollout, number: int, now: float) -> Rollout:
    """Return the rollout with `number` devices beginning now, at most as many as `budget` allows."""
    if rollout.plan.rate is None:
        return rollout
    return attrs.evolve(rollout, next_start=_from(rollout, now) + number * 60 / rollout.plan.rate)


def _from(rollout: Rollout, now: float) -> float:
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
            times.append(max(now + opens_in, _from(rollout, now)))
    return min(times)
