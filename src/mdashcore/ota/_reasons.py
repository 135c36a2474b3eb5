"""The reasons that an update gives people for its state."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

from mdashcore.ota._builds import MAX_TEXT, Build
from mdashcore.ota._events import (
    BeginAccepted,
    BuildReported,
    CancelRequested,
    DeviceConnected,
    DeviceDisconnected,
    NewerUpdateQueued,
    StepFailed,
    StepTimedOut,
    UpdateEvent,
)
from mdashcore.ota._values import Update, UpdateState

COMMIT_UNKNOWN: Final = "whether it is committed is not known: the device does not say"

OVERDUE: Final[Mapping[UpdateState, str]] = MappingProxyType(
    {
        UpdateState.QUEUED: "the device was not there to take the update in time",
        UpdateState.TRANSFERRING: "the device stopped taking the image",
        UpdateState.REBOOTING: (
            "the device did not say in time what it runs after the reboot, and whether it is committed"
        ),
        UpdateState.UNCOMMITTED: "not committed in time; the device should have rolled back, and has not said so",
    }
)
"""The reason of an update that has run out of time, by the state in which it has."""


def build_name(build: Build) -> str:
    """Return the name of a build, by its id if the device has said one."""
    if build.id:
        return f"build {build.id}"
    return f"version {build.version}" if build.version else "an unnamed build"


def event_reason(u: Update, e: UpdateEvent) -> str:
    """Return what an event says of the update; an empty text if it explains nothing."""
    match e:
        case StepFailed(method, code, message):
            return f"{method}: {message[:MAX_TEXT] or 'error'} (code {code})"
        case StepTimedOut(method):
            return f"{method}: no answer in time"
        case BeginAccepted() | BuildReported() if u.state is UpdateState.TRANSFERRING:
            return "the device dropped out, and does not hold the transfer any more"
        case BuildReported(build):
            return f"the device says: {build.message or 'error'}"
        case DeviceConnected() | DeviceDisconnected():
            transfer = f"transfer {u.attempt} of {u.options.max_attempts}"
            return f"the device dropped out at {u.progress_percent} % of {transfer}"
        case CancelRequested() if u.state is UpdateState.TRANSFERRING:
            return f"canceled at {u.progress_percent} %; the device forgets the transfer by itself"
        case CancelRequested():
            return "canceled in the queue"
        case NewerUpdateQueued():
            return "a newer update was queued"
        case _:
            return ""


def waiting_reason(until: float) -> str:
    """Return the reason for people, with the time of the day. `until` is in Unix seconds."""
    latest = datetime.fromtimestamp(until, UTC)
    return f"waits until the device has forgotten the transfer before, at the latest {latest:%H:%M} UTC"
