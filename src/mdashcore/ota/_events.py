"""What can happen to an update: frozen events, past tense."""

from __future__ import annotations

from enum import Enum, auto
from typing import ClassVar, TypeAlias

import attrs

from mdashcore.ota._values import Build


class Status(Enum):
    """What became of the question `OTA.Status`."""

    NOT_ASKED = auto()
    ANSWERED = auto()
    NO_METHOD = auto()  # the device does not have it
    FAILED = auto()  # another error, or no answer in time


@attrs.frozen
class Started:
    """It is this update's turn; the device is connected, and has said on this link what it runs."""

    build: Build | None = None


@attrs.frozen
class BeginAccepted:
    """The device answered `OTA.Begin`; any answer that is not an error is an acceptance."""

    method: ClassVar[str] = "OTA.Begin"


@attrs.frozen
class ChunkAccepted:
    """The device answered `OTA.Write`."""

    offset: int
    size: int
    method: ClassVar[str] = "OTA.Write"


@attrs.frozen
class EndAccepted:
    """The device answered `OTA.End`: it has the whole image, and reboots soon."""

    method: ClassVar[str] = "OTA.End"


@attrs.frozen
class CallFailed:
    """The device answered a step's call with an error."""

    method: str
    code: int
    message: str


@attrs.frozen
class CallTimedOut:
    """The device did not answer a step's call in time."""

    method: str


@attrs.frozen
class DeviceConnected:
    """The device has a new link."""


@attrs.frozen
class DeviceDisconnected:
    """The device's link is gone; also what who takes up a stored update says first."""


@attrs.frozen
class BuildReported:
    """The device said what it runs, on its present link: by itself, or asked by the step `Ask`.

    All that it said on this link together; nothing from an older link, which may be from before a reboot.
    """

    build: Build
    answered: bool = False
    """The device answered `Sys.GetInfo` just now: it is not only there, it also works."""
    status: Status = Status.NOT_ASKED
    """Whether the device was asked how its transfer and its trial stand; what it said of them is in `build`."""

    @property
    def asked(self) -> bool:
        """Whether this answers the step `Ask`; else the device said it by itself."""
        return self.answered or self.status is not Status.NOT_ASKED


@attrs.frozen
class CommitRequested:
    """Somebody wants the update committed."""


@attrs.frozen
class CommitAccepted:
    """The device answered `OTA.Commit`, whoever called it."""


@attrs.frozen
class CommitUnsupported:
    """The device has no `OTA.Commit`: a person has called it."""


@attrs.frozen
class TransferEnded:
    """The device answered an `OTA.End` that a person has called, to end the transfer that it holds."""


@attrs.frozen
class RevertAccepted:
    """The device answered `OTA.Revert`, whoever called it."""


@attrs.frozen
class CancelRequested:
    """Somebody does not want the update any more."""


@attrs.frozen
class NewerUpdateQueued:
    """Another update for the same device came into the queue."""


@attrs.frozen
class DeadlinePassed:
    """`next_deadline` has come."""


Event: TypeAlias = (
    Started
    | BeginAccepted
    | ChunkAccepted
    | EndAccepted
    | CallFailed
    | CallTimedOut
    | DeviceConnected
    | DeviceDisconnected
    | BuildReported
    | CommitRequested
    | CommitAccepted
    | CommitUnsupported
    | TransferEnded
    | RevertAccepted
    | CancelRequested
    | NewerUpdateQueued
    | DeadlinePassed
)

ANSWERS = (BeginAccepted, ChunkAccepted, EndAccepted, CallFailed, CallTimedOut)
"""The events that answer a step's call: each has the `method` that was called."""
