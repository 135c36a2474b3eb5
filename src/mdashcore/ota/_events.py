"""The events of an update: frozen values in the past tense."""

from __future__ import annotations

from enum import Enum, auto
from typing import ClassVar, TypeAlias

import attrs

from mdashcore._checked import instance, whole
from mdashcore.ota._builds import Build


class Status(Enum):
    """The result of the question `OTA.Status`."""

    NOT_ASKED = auto()
    ANSWERED = auto()
    NO_METHOD = auto()  # the device does not have the method
    FAILED = auto()  # another error, or no answer in time


@attrs.frozen
class Started:
    """The update's turn has come. The device is connected, and has said on this link what it runs."""

    build: Build | None = attrs.field(default=None, validator=instance(Build).or_none())


@attrs.frozen
class BeginAccepted:
    """The device accepted `OTA.Begin`: it gave any answer that is not an error."""

    method: ClassVar[str] = "OTA.Begin"


@attrs.frozen
class ChunkAccepted:
    """The device answered `OTA.Write`."""

    offset: int = attrs.field(validator=whole(0))
    size: int = attrs.field(validator=whole(0))
    method: ClassVar[str] = "OTA.Write"


@attrs.frozen
class EndAccepted:
    """The device answered `OTA.End`: it has the whole image, and reboots soon."""

    method: ClassVar[str] = "OTA.End"


@attrs.frozen
class StepFailed:
    """The device answered a step's call with an error."""

    method: str = attrs.field(validator=instance(str))
    code: int = attrs.field(validator=instance(int))
    message: str = attrs.field(validator=instance(str))
    readable: bool = True
    """Whether its answer could be read; else the code and the message say what is wrong with that."""


@attrs.frozen
class StepTimedOut:
    """The device did not answer a step's call in time."""

    method: str = attrs.field(validator=instance(str))


@attrs.frozen
class DeviceConnected:
    """The device has a new link."""


@attrs.frozen
class DeviceDisconnected:
    """The device's link is gone. Also the first event from a performer that continues a stored update."""

    resumed: bool = attrs.field(default=False, validator=instance(bool))
    """Whether a performer continues a stored update that none has performed meanwhile: the device may have reported to
    none, so the time since the last change counts for no limit.
    """


@attrs.frozen
class BuildReported:
    """The device said on its present link what it runs, by itself or as the answer to the step `Ask`.

    The build joins all reports of this link. Reports of an older link do not count, because they may be from before a
    reboot.
    """

    build: Build = attrs.field(validator=instance(Build))
    answered: bool = False
    """Whether the device has just answered `Sys.GetInfo`. Such a device is not only connected, it also works."""
    status: Status = attrs.field(default=Status.NOT_ASKED, validator=instance(Status))
    """The result of asking for the state of transfer and trial. The answer itself is in `build`."""

    @property
    def asked(self) -> bool:
        """Whether this answers the step `Ask`, instead of a report that the device sent by itself."""
        return self.answered or self.status is not Status.NOT_ASKED


@attrs.frozen
class CommitRequested:
    """A user wants the update committed."""


@attrs.frozen
class CommitAccepted:
    """The device accepted `OTA.Commit`, from the performer or from another caller."""


@attrs.frozen
class CommitUnsupported:
    """A person called `OTA.Commit`, and the device does not have the method."""


@attrs.frozen
class TransferEnded:
    """A person called `OTA.End` to end the transfer that the device holds, and the device answered."""


@attrs.frozen
class RevertAccepted:
    """The device accepted `OTA.Revert`, from any caller."""


@attrs.frozen
class CancelRequested:
    """A user canceled the update."""


@attrs.frozen
class NewerUpdateQueued:
    """Another update was queued for the same device."""


@attrs.frozen
class UpdateDeadlinePassed:
    """The time of `next_deadline` has come."""


UpdateEvent: TypeAlias = (
    Started
    | BeginAccepted
    | ChunkAccepted
    | EndAccepted
    | StepFailed
    | StepTimedOut
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
    | UpdateDeadlinePassed
)
"""Any of the events of an update."""

ANSWERS = (BeginAccepted, ChunkAccepted, EndAccepted, StepFailed, StepTimedOut)
"""The events that answer a step's call: each has the `method` that was called."""
