"""The machine of a rollout: the table of its transitions, and the function that applies an event."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias, get_args

import attrs

from mdashcore._checked import check_time
from mdashcore.rollout import _actions as acts
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
from mdashcore.rollout._values import Rollout, RolloutState

RolloutAction: TypeAlias = Callable[[Rollout, Any, float], dict[str, Any]]


@attrs.frozen
class RolloutTransition:
    """One arrow of the machine."""

    to: RolloutState
    do: RolloutAction | None = None
    """The action, which returns the other fields that change."""


def _table() -> dict[tuple[RolloutState, type], RolloutTransition]:
    s, t = RolloutState, RolloutTransition
    return {
        (s.AWAITING_APPROVAL, Approved): t(s.RUNNING, acts.begin),
        (s.AWAITING_APPROVAL, AbortRequested): t(s.ABORTING, acts.abort),
        (s.AWAITING_APPROVAL, RolloutDeadlinePassed): t(s.ABORTING, acts.run_out),
        (s.RUNNING, PhasePassed): t(s.RUNNING, acts.next_phase),
        (s.RUNNING, SuccessMissed): t(s.PAUSED, acts.stop_at_success),
        (s.RUNNING, ErrorsExceeded): t(s.PAUSED, acts.stop_at_errors),
        (s.RUNNING, AllEnded): t(s.COMPLETED, acts.complete),
        (s.RUNNING, PauseRequested): t(s.PAUSED, acts.pause),
        (s.RUNNING, RetryRequested): t(s.RUNNING, acts.try_again),
        (s.RUNNING, AbortRequested): t(s.ABORTING, acts.abort),
        (s.RUNNING, RolloutDeadlinePassed): t(s.ABORTING, acts.run_out),
        (s.PAUSED, ResumeRequested): t(s.RUNNING, acts.go_on),
        (s.PAUSED, RetryRequested): t(s.RUNNING, acts.try_again),
        (s.PAUSED, AbortRequested): t(s.ABORTING, acts.abort),
        (s.PAUSED, RolloutDeadlinePassed): t(s.ABORTING, acts.run_out),
        (s.ABORTING, Settled): t(s.ABORTED),
        (s.ABORTING, RolloutDeadlinePassed): t(s.ABORTED, acts.give_up),
    }


ROLLOUT_TRANSITIONS: Mapping[tuple[RolloutState, type], RolloutTransition] = _table()
"""The machine: (state, kind of event) → arrow. An event without an arrow changes nothing."""


def advance(rollout: Rollout, event: RolloutEvent, *, now: float) -> Rollout:
    """Return the rollout after an event. It is the same object if the event changes nothing.

    Args:
        rollout: the rollout before the event.
        event: an instance of one of the classes in `RolloutEvent`.
        now: Unix seconds.

    Raises:
        TypeError: `rollout` or `event` has another type, for example a class of events in place of an instance.
        InvalidInput: `now` is no time.
    """
    _check(rollout, event)
    check_time("now", now)
    transition = ROLLOUT_TRANSITIONS.get((rollout.state, type(event)))
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
