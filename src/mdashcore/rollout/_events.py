"""The events of a rollout: frozen values in the past tense."""

from __future__ import annotations

from typing import TypeAlias

import attrs

from mdashcore.rollout._members import Counts


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
    """The counts of each phase."""
    forgive: bool = False
    """Whether the failures among them are forgiven, and a phase without enough success is accepted."""


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
class RolloutDeadlinePassed:
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
    | RolloutDeadlinePassed
)
"""Any of the events of a rollout."""
