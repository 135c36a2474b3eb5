"""What a device of a rollout waits for."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import attrs

from mdashcore.ota import UpdateState
from mdashcore.rollout._judgement import begins_from, offline_deadline
from mdashcore.rollout._values import Rollout, RolloutState


class WaitKind(StrEnum):
    """What a device waits for. The names are those of the REST API."""

    APPROVAL = "approval"  # a user has to approve the rollout
    RESUME = "resume"  # the rollout is paused
    END = "end"  # the rollout is being aborted
    PHASE = "phase"  # its phase has not begun
    OFFLINE = "offline"  # it is not connected
    WINDOW = "window"  # the maintenance window is closed
    OTHER_UPDATE = "other_update"  # another update of it has not ended
    TURN = "turn"  # other devices are first: by the rate, or by the number at the same time
    TRANSFER = "transfer"  # it gets the image
    REBOOT = "reboot"  # it has the image, and reboots into it
    TRIAL = "trial"  # it runs the image, which is not committed yet


@attrs.frozen
class Waiting:
    """What a device waits for, and until when at most."""

    what: WaitKind
    until: float | None = None
    """Unix seconds, if that is known. A window opens then; an offline device is skipped then; a device on trial goes
    back then.
    """


_STATES: Final[Mapping[RolloutState, WaitKind]] = MappingProxyType(
    {
        RolloutState.AWAITING_APPROVAL: WaitKind.APPROVAL,
        RolloutState.PAUSED: WaitKind.RESUME,
        RolloutState.ABORTING: WaitKind.END,
    }
)
"""What a device whose turn has not come waits for, in states in which no turn comes."""

_UPDATES: Final[Mapping[UpdateState, WaitKind]] = MappingProxyType(
    {
        UpdateState.TRANSFERRING: WaitKind.TRANSFER,
        UpdateState.VERIFYING: WaitKind.REBOOT,
        UpdateState.REBOOTING: WaitKind.REBOOT,
        UpdateState.UNCOMMITTED: WaitKind.TRIAL,
    }
)
"""What a device waits for in its update, by the state of that."""


def waiting_update(state: UpdateState | None, *, online: bool, commit_by: float | None) -> Waiting | None:
    """Return what a device whose turn has come waits for; `None` if its update has ended.

    Args:
        state: the state of its update; `None` before that is made.
        online: whether the device is connected.
        commit_by: when an uncommitted device goes back, in Unix seconds.
    """
    if state in (None, UpdateState.QUEUED):
        return Waiting(WaitKind.TURN if online else WaitKind.OFFLINE)
    what = _UPDATES.get(state)
    if what is WaitKind.TRIAL:
        return Waiting(what, commit_by)
    if what is WaitKind.TRANSFER and not online:
        return Waiting(WaitKind.OFFLINE)
    return None if what is None else Waiting(what)


def waiting_turn(rollout: Rollout, phase: int, *, online: bool, updating: bool, now: float, wall: float) -> Waiting:
    """Return what a device waits for whose turn has not come.

    Args:
        phase: the index of its phase.
        online: whether the device is connected.
        updating: whether another update of it has not ended.
        now: Unix seconds, comparable with the times of the rollout.
        wall: the time on people's clocks, which opens the window.
    """
    if rollout.state in _STATES:
        return Waiting(_STATES[rollout.state])
    if phase > rollout.phase:
        return Waiting(WaitKind.PHASE)
    if not online:
        return Waiting(WaitKind.OFFLINE, offline_deadline(rollout, phase))
    window = rollout.plan.window
    if window is not None and not window.contains(wall):
        return Waiting(WaitKind.WINDOW, window.opens(wall))
    if updating:
        return Waiting(WaitKind.OTHER_UPDATE)
    begins = now if rollout.plan.rate is None else begins_from(rollout, now)
    return Waiting(WaitKind.TURN, begins if begins > now else None)
