"""What the end of an update is for the device in its rollout."""

from __future__ import annotations

from typing import Protocol

import attrs

from mdashcore.ota import UpdateState
from mdashcore.rollout._members import Member, Outcome
from mdashcore.rollout._values import RolloutState

_OUTCOMES = {
    UpdateState.COMMITTED: Outcome.SUCCEEDED,
    UpdateState.ALREADY_INSTALLED: Outcome.SUCCEEDED,
    UpdateState.ROLLED_BACK: Outcome.FAILED,
    UpdateState.FAILED: Outcome.FAILED,
    UpdateState.REJECTED: Outcome.FAILED,
    UpdateState.TIMED_OUT: Outcome.FAILED,
    UpdateState.CANCELED: Outcome.SKIPPED,
    UpdateState.SUPERSEDED: Outcome.SKIPPED,
}
"""The outcome of a device, by the end of its update."""


class Ended(Protocol):
    """An update that has ended: the update itself, or the record that is kept of it."""

    @property
    def state(self) -> UpdateState:
        """The end that it has reached."""

    @property
    def reason(self) -> str:
        """The reason for the end, for people."""

    @property
    def started(self) -> float | None:
        """When it began, in Unix seconds; `None` if it never did."""


def settled(member: Member, update: Ended, state: RolloutState, *, now: float) -> Member:
    """Return a member after its update has ended, while the rollout is in `state`.

    Args:
        now: Unix seconds.
    """
    outcome = _OUTCOMES[update.state]
    if update.started is None and update.state in (UpdateState.TIMED_OUT, UpdateState.CANCELED):
        # Nothing was ever sent to the device. An update that a pause took out of the queue gets its turn again.
        held = update.state is UpdateState.CANCELED and state is RolloutState.PAUSED
        outcome = Outcome.PENDING if held else Outcome.SKIPPED
    reason = "" if outcome is Outcome.SUCCEEDED else f"{update.state}: {update.reason or 'no reason given'}"
    return attrs.evolve(member, outcome=outcome, reason=reason, changed=now)
