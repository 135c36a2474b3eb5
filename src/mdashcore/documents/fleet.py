"""The fleet as a whole."""

from __future__ import annotations

from typing import Annotated, TypedDict

from mdashcore.documents._members import DeviceId, member
from mdashcore.documents.accounts import NotificationDocument
from mdashcore.documents.rollouts import CountsDocument
from mdashcore.ota import UpdateState
from mdashcore.rollout import RolloutState

__all__ = [
    "FailedUpdate",
    "FlappingDevice",
    "FleetBuild",
    "FleetDevices",
    "FleetDocument",
    "FleetRollout",
    "FleetUpdates",
    "OnlineHistory",
    "SilentDevice",
]

Terms = Annotated[list[str], member("the filter that lists them")]


class FleetDevices(TypedDict):
    """Numbers of devices."""

    all: int
    online: int
    offline: int
    never_seen: Annotated[int, member("that were never connected")]
    uncommitted: Annotated[int, member("that run a build on trial")]
    damaged: Annotated[int, member("of which a part cannot be read")]
    flapping: Annotated[int, member("that have changed between online and offline at least 6 times in the last day")]


class OnlineHistory(TypedDict):
    """The number of devices that were online over the last day, counted back from now by their notifications."""

    step: Annotated[float, member("seconds between two numbers")]
    online: Annotated[list[int], member("the numbers, the oldest first; the last is the present one")]


class FleetBuild(TypedDict):
    """A build that devices report."""

    app: str | None
    fw_version: str | None
    devices: int
    online: Annotated[int, member("how many of them are online")]
    filter: Terms


class FailedUpdate(TypedDict):
    """The newest update of a device, which has failed."""

    id: DeviceId
    name: str
    state: UpdateState
    reason: str
    changed: Annotated[float, member("Unix seconds")]


class FleetUpdates(TypedDict):
    """The newest updates of all devices."""

    under_way: Annotated[dict[str, int], member("the number of those that have not ended, by state")]
    failed: Annotated[int, member("the number of those that have failed in the last day")]
    last_failed: Annotated[list[FailedUpdate], member("the last ones of these, up to 10")]


class FleetRollout(TypedDict):
    """A rollout that has not ended."""

    id: str
    name: str
    state: RolloutState
    reason: str
    counts: CountsDocument


class FlappingDevice(TypedDict):
    """A device that comes and goes."""

    id: DeviceId
    name: str
    changes: Annotated[int, member("between online and offline, in the last day")]


class SilentDevice(TypedDict):
    """A device that is offline."""

    id: DeviceId
    name: str
    last_seen: str | None


class FleetDocument(TypedDict):
    """The account's devices as a whole."""

    devices: FleetDevices
    day: OnlineHistory
    builds: Annotated[list[FleetBuild], member("the most frequent ones first, up to 20")]
    other_builds: Annotated[int, member("devices with any other build")]
    updates: FleetUpdates
    rollouts: Annotated[list[FleetRollout], member("those that have not ended, the newest first, up to 10")]
    flapping: Annotated[list[FlappingDevice], member("the worst ones first, up to 10")]
    silent: Annotated[list[SilentDevice], member("those that are silent for longest first, up to 10")]
    events: Annotated[list[NotificationDocument], member("the last ones first, up to 20")]
    filters: Annotated[
        dict[str, list[str]],
        member(
            "the filter that lists the devices of a figure: those in `devices`, `silent`, and of `updates` "
            "`under_way` (all states together; `update=STATE` is one of them) and `failed`"
        ),
    ]
