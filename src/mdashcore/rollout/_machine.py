"""The machine: which event leads from which state to which, and what a rollout's numbers bring about."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import floor
from typing import Any, Final, TypeAlias, get_args

import attrs

from mdashcore.rollout._values import DAY, Cause, Counts, Rollout, State, added

BATCH = 32  # devices that begin at once: what is stored for one decision stays small

SETTLED = 120.0  # seconds: at the slowest rate a device that is online begins within one minute

ABORT_LIMIT = 2 * DAY  # seconds for what is under way at an abort: an update past its end of transfer has a day


# ------------------------------------------------------------------------------------ what can happen: events


@attrs.frozen
class Approved:
    """Somebody lets the first phase begin."""


@attrs.frozen
class PauseRequested:
    """Somebody wants no more devices to begin."""


@attrs.frozen
class ResumeRequested:
    """Somebody wants it to go on, whatever it was paused for."""

    counts: tuple[Counts, ...]
    """Of each phase: what is forgiven."""


@attrs.frozen
class RetryRequested:
    """Somebody wants the devices that failed to have another try."""


@attrs.frozen
class AbortRequested:
    """Somebody wants it to end."""


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
    """No device is being updated any more."""


@attrs.frozen
class DeadlinePassed:
    """`deadline` has come."""

    counts: Counts


Event: TypeAlias = (
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


# --------------------------------------------------------------------- what changes on the way beside the state


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
    """The time that it stood still is not held against devices that are offline."""
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
    """How it ended, in a line."""
    skipped = f", {counts.skipped} skipped" if counts.skipped else ""
    return f"{counts.succeeded} of {counts.total} devices succeeded, {counts.failed} failed{skipped}"


# ------------------------------------------------------------------------------------------------- the table

Action: TypeAlias = Callable[[Rollout, Any, float], dict[str, Any]]


@attrs.frozen
class Transition:
    """One arrow of the machine."""

    to: State
    do: Action | None = None
    """Which other fields change."""


def _table() -> dict[tuple[State, type], Transition]:
    s, t = State, Transition
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


TRANSITIONS: Mapping[tuple[State, type], Transition] = _table()
"""The machine: (state, kind of event) → arrow. An event that has none changes nothing."""


def advance(rollout: Rollout, event: Event, *, now: float) -> Rollout:
    """The rollout after an event; the very same object if the event changes nothing.

    Args:
        now: Unix seconds.

    Raises:
        TypeError: the rollout is none, or the event is none: a class of events in place of one, say.
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


_EVENTS: Final = frozenset(get_args(Event))


def _check(rollout: object, event: object) -> None:
    if not isinstance(rollout, Rollout) or type(event) not in _EVENTS:
        raise TypeError(f"a Rollout and one of its events are needed, not {rollout!r:.60} and {event!r:.60}")


# ------------------------------------------------------------------------------------- what the numbers mean


def judge(rollout: Rollout, counts: Sequence[Counts], now: float) -> Rollout:
    """The rollout, as far as the numbers of its phases and the time take it; the very same if they change nothing.

    What comes out, judged again by the same numbers at the same time, stays as it is.
    """
    while (event := _verdict(rollout, counts, now)) is not None:
        rollout = attrs.evolve(advance(rollout, event, now=now), counts=tuple(counts))
    return rollout


def _verdict(r: Rollout, counts: Sequence[Counts], now: float) -> Event | None:
    """What has happened, if it leads anywhere: each of these takes the rollout to a later state or phase."""
    if r.ended:
        return None
    if r.state is State.ABORTING and not any(each.updating for each in counts):
        return Settled()
    if now >= deadline(r):
        return DeadlinePassed(added(counts))
    if r.state is not State.RUNNING:
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
    """Whether enough of a phase have succeeded; a phase that nobody is in has nothing to show."""
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
    """When to tell `DeadlinePassed`, in Unix seconds."""
    if rollout.state is State.ABORTING:
        return rollout.changed + ABORT_LIMIT
    return rollout.created + rollout.plan.timeout


def offline_deadline(rollout: Rollout, phase: int) -> float:
    """Until when devices of a phase that has begun may come online, in Unix seconds."""
    return rollout.phase_started[phase] + rollout.plan.offline_wait


def only_waits(rollout: Rollout, now: float) -> bool:
    """Whether nothing but devices that are offline is left of the phases that have begun.

    Any other would have begun by now: the window is open, the rate and the number of active devices let one begin.
    """
    begun = max(rollout.phase_started[-1], rollout.next_start) if rollout.phase_started else now
    idle = rollout.state is State.RUNNING and not any(each.updating for each in rollout.counts)
    return idle and rollout.plan.is_open(now) and rollout.plan.is_open(now - SETTLED) and now - begun >= SETTLED


def budget(rollout: Rollout, counts: Sequence[Counts], now: float, *, wall: float | None = None) -> int:
    """How many devices may begin now.

    Args:
        wall: the time on people's clocks, by which the window opens, where it is not `now`.
    """
    plan = rollout.plan
    if rollout.state is not State.RUNNING or not plan.is_open(now if wall is None else wall):
        return 0
    free = min(BATCH, plan.max_active - sum(each.updating for each in counts))
    if plan.rate is not None:
        since = _from(rollout, now)
        if now < since:
            return 0
        free = min(free, 1 + floor((now - since) * plan.rate / 60))
    return max(0, free)


def claim(rollout: Rollout, number: int, now: float) -> Rollout:
    """The rollout with so many devices beginning now, of those that `budget` lets."""
    if rollout.plan.rate is None:
        return rollout
    return attrs.evolve(rollout, next_start=_from(rollout, now) + number * 60 / rollout.plan.rate)


def _from(rollout: Rollout, now: float) -> float:
    """From when the next device may begin. What was not used of the rate is lost, but for the last second."""
    ahead = 1 + 60 / (rollout.plan.rate or 1)  # seconds: more than the rate ever asks for is of a clock that was wrong
    return max(rollout.next_start if rollout.next_start <= now + ahead else now, now - 1.0)


def next_look(
    rollout: Rollout, counts: Sequence[Counts], now: float, *, ready: bool, wall: float | None = None
) -> float:
    """When there is something to do although nothing happens, in Unix seconds, on the clock of `now`.

    Args:
        ready: whether a device waits for its turn that could begin.
        wall: as `budget` has it.
    """
    times = [deadline(rollout)]
    if rollout.state is State.RUNNING:
        ends = [offline_deadline(rollout, i) for i in range(rollout.phase + 1) if counts[i].pending]
        times += [end for end in ends if end > now]
        if ready:
            window, wall = rollout.plan.window, now if wall is None else wall
            opens_in = 0.0 if window is None else window.opens(wall) - wall
            times.append(max(now + opens_in, _from(rollout, now)))
    return min(times)
