"""Rollouts: one image for many devices."""

from __future__ import annotations

from typing import Annotated, Final, NotRequired, Required, TypedDict

from msgspec import Meta

from mdashcore.documents._members import DamagedParts, member
from mdashcore.documents.updates import ImageDocument
from mdashcore.ota import Fit
from mdashcore.ota._values import COMMIT_AFTER, COMMIT_TIMEOUT
from mdashcore.rollout import Cause, Outcome, Plan, RolloutKind, RolloutState, WaitKind
from mdashcore.rollout._request import (
    MAX_ACTIVE,
    MAX_IMAGE_TEXT,
    MAX_RATE,
    MAX_ROLLOUT_TIMEOUT,
    MIN_ROLLOUT_TIMEOUT,
)

__all__ = [
    "MAX_MEMBERS_PAGE",
    "CountsDocument",
    "DamagedRollout",
    "FailureDocument",
    "ImageForm",
    "KeptRollout",
    "MemberDocument",
    "MembersPage",
    "MembersQuery",
    "NewRollout",
    "PhaseDocument",
    "PhaseSize",
    "PlanDocument",
    "PreviewImage",
    "PreviewRequest",
    "ReachedGroup",
    "ResumeRequest",
    "RolloutDocument",
    "RolloutForm",
    "RolloutPreviewDocument",
    "RolloutPreviewQuery",
    "RolloutQuery",
    "WaitingDocument",
    "WindowDocument",
]

_DAY: Final = 86_400  # seconds
_PLAN: Final = Plan()


class WindowDocument(TypedDict):
    """When devices begin, in UTC."""

    start: Annotated[str, member("HH:MM")]
    end: Annotated[str, member("HH:MM; 24:00 is midnight")]
    days: NotRequired[Annotated[list[str], member("the days on which it starts: some of `mon` to `sun`")]]


class PlanDocument(TypedDict, total=False):
    """The plan of a rollout."""

    phases: Annotated[
        list[float],
        member("percents of the devices, ascending, the last of them 100", [1, 10, 100], min_length=1, max_length=16),
    ]
    success_percent: Annotated[
        float,
        member("percent of a phase's devices that have to succeed before the next phase begins", 95, ge=0, le=100),
    ]
    error_percent: Annotated[
        float, member("percent: if more of a phase's ended devices have failed, the rollout pauses", 10, ge=0, le=100)
    ]
    min_sample: Annotated[
        int,
        member(
            "number of ended devices of a phase, or all of a smaller one, before errors are counted", 5, ge=1, le=1000
        ),
    ]
    rate: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_RATE)] | None,
        member("devices that begin in a minute; `null` for no limit", 60),
    ]
    max_active: Annotated[int, member("devices at the same time", _PLAN.max_active, ge=1, le=MAX_ACTIVE)]
    window: Annotated[
        WindowDocument | None,
        member('when devices begin, in UTC: `{"start": "22:00", "end": "04:00", "days"?: ["sat", "sun"]}`', None),
    ]
    offline_wait: Annotated[
        float,
        member(
            "seconds from the beginning of its phase in which a device may come online; `0` skips offline devices",
            int(_PLAN.offline_wait),
            ge=0,
            le=MAX_ROLLOUT_TIMEOUT,
        ),
    ]
    timeout: Annotated[
        float,
        member(
            "seconds in which the whole has to end", int(_PLAN.timeout), ge=MIN_ROLLOUT_TIMEOUT, le=MAX_ROLLOUT_TIMEOUT
        ),
    ]
    approval: Annotated[bool, member("wait for an approval before the first phase", False)]
    auto_commit: Annotated[
        bool, member("commit each device after a health check; with `false` you commit the devices yourself", True)
    ]
    commit_after: Annotated[
        int, member("seconds of health before a device is committed, as for one device", COMMIT_AFTER, ge=1, le=_DAY)
    ]
    commit_timeout: Annotated[
        int,
        member("seconds after which an uncommitted device goes back, as for one device", COMMIT_TIMEOUT, ge=0, le=_DAY),
    ]
    force: Annotated[bool, member("send the image whatever platform, application and build a device reports", False)]
    other_app: Annotated[bool, member("send the image also to devices that run another application", False)]


class NewRollout(PlanDocument, total=False):
    """A rollout to begin. One of `filter`, `devices` and `all` is needed."""

    kind: Annotated[
        RolloutKind,
        member(
            "`bulk`: all devices at the same time, without `phases`, `success_percent`, `error_percent`, `min_sample` "
            "and `approval`; its `rate` is `null` if not given",
            "rollout",
        ),
    ]
    name: Annotated[str, member("text for people; the image's name if not given", max_length=256)]
    filter: Annotated[list[str], member("terms that have to hold", max_length=16)]
    devices: Annotated[
        list[str] | None,
        member("ids, of which the filter picks; all if not given"),
    ]
    all: Annotated[bool, member("every device, in place of `filter` and `devices`", False)]
    expect: Annotated[
        int | None,
        member(
            "the number of devices that a preview has counted; with another one now, the rollout is refused with 409"
        ),
    ]


class KeptRollout(NewRollout, total=False):
    """A rollout of an image of the firmware library."""

    firmware: Required[Annotated[str, member("the id of the image")]]


class RolloutForm(TypedDict):
    """The form of a new rollout. Put `rollout` first: if it is wrong, the image is not waited for."""

    rollout: NewRollout
    file: Annotated[bytes, member("the image")]


class ImageForm(TypedDict):
    """A form with an image."""

    file: Annotated[bytes, member("the image, with a file name")]


class RolloutQuery(TypedDict, total=False):
    """The parameters of a new rollout."""

    bare: Annotated[bool, member("`1`: the image is a bare one, whatever its name or its first bytes look like", 0)]
    keep: Annotated[bool, member("`1`: keep the image in the firmware library", 0)]


_ManifestText = Annotated[str, Meta(max_length=MAX_IMAGE_TEXT)]


class PreviewImage(TypedDict, total=False):
    """What is known of an image that is not sent: its manifest."""

    platform: Annotated[_ManifestText | None, member("as `platform` of the manifest")]
    app: Annotated[_ManifestText | None, member("as `name` of the manifest")]
    version: Annotated[_ManifestText | None, member("as `version` of the manifest")]
    build_id: Annotated[_ManifestText | None, member("as `build_id` of the manifest")]
    bare: Annotated[bool, member("the image has no manifest", False)]


class PreviewRequest(NewRollout, total=False):
    """A rollout to preview, with or without its image."""

    firmware: Annotated[str, member("the id of an image of the library")]
    image: Annotated[PreviewImage, member("an image that is not in the library")]


class RolloutPreviewQuery(TypedDict, total=False):
    """The parameters of a preview."""

    bare: Annotated[bool, member("`1`: as for the rollout itself", 0)]


class ReachedGroup(TypedDict):
    """Devices that report the same. What they do not say is `null`."""

    platform: str | None
    app: Annotated[str | None, member("the application")]
    version: str | None
    fit: Annotated[Fit, member("how the image fits them; `fits` also without an image")]
    devices: int


class PhaseSize(TypedDict):
    """A phase of a rollout that is not made yet."""

    percent: float
    devices: int


class RolloutPreviewDocument(TypedDict):
    """What a rollout would be now."""

    devices: Annotated[int, member("how many are selected")]
    online: Annotated[int, member("how many of them are connected")]
    offline: Annotated[int, member("how many are not: their update waits for them")]
    fits: Annotated[int, member("how many the image fits, as far as they say what they are, and do not run it")]
    installed: Annotated[int, member("how many run it already")]
    other_platform: Annotated[int, member("how many report another platform, and refuse it")]
    other_app: Annotated[int, member("how many run another application")]
    unknown: Annotated[int, member("of those that fit: how many do not say their platform, or their application")]
    groups: Annotated[list[ReachedGroup], member("by platform, application and version, the largest first, up to 100")]
    other_groups: Annotated[int, member("devices in none of these groups")]
    phases: Annotated[list[PhaseSize], member("each with its number of devices")]
    missing: Annotated[
        list[str], member("the options without which the rollout is refused: some of `bare` and `other_app`")
    ]


class CountsDocument(TypedDict):
    """How many devices have which outcome."""

    pending: int
    updating: int
    succeeded: int
    failed: int
    skipped: int


class PhaseDocument(TypedDict):
    """A phase of a rollout."""

    percent: float
    devices: Annotated[int, member("the number of its devices")]
    started: Annotated[float | None, member("Unix seconds; `null`: not yet")]
    counts: CountsDocument


class FailureDocument(TypedDict):
    """A reason for which devices have failed."""

    reason: str
    devices: int


class ResumeRequest(TypedDict, total=False):
    """The body of `resume`; of no other action."""

    forgive: Annotated[
        int,
        member("how many failures are forgiven: `to_forgive` of the rollout. They are counted no longer", ge=0),
    ]


class RolloutDocument(TypedDict):
    """A rollout. Times are Unix seconds."""

    id: Annotated[str, member("the rollout's id")]
    kind: Annotated[RolloutKind, member("`bulk` for an update of many devices at the same time")]
    name: Annotated[str, member("text for people")]
    state: Annotated[RolloutState, member("its state; the states are those of its notifications")]
    reason: Annotated[str, member("why it is in this state, for people")]
    round: Annotated[int, member("grows with each `retry`")]
    created: Annotated[float, member("when it was made")]
    changed: Annotated[float, member("when it came into its state")]
    deadline: Annotated[float | None, member("when it ends at the latest; `null` at the end")]
    phase: Annotated[int, member("the index of the phase that has begun last")]
    phases: Annotated[
        list[PhaseDocument],
        member(
            "for each: its percent, its number of devices, when it began (`null`: not yet), and the number of "
            "devices with each outcome"
        ),
    ]
    counts: Annotated[CountsDocument, member("of all devices together, at most a second old")]
    cause: Annotated[Cause | None, member("what has paused it; `null`: it is not paused")]
    to_forgive: Annotated[
        int, member("how many failures a resume has to forgive, or they pause it again; at most a second old")
    ]
    failures: Annotated[list[FailureDocument], member("why devices have failed, the most frequent first, up to 5")]
    filter: Annotated[list[str], member("the terms by which its devices were picked")]
    plan: Annotated[PlanDocument, member("as it was asked for, with the defaults")]
    image: Annotated[ImageDocument, member("the image")]


class DamagedRollout(TypedDict):
    """A rollout of which nothing but its id can be read."""

    id: str
    damaged: DamagedParts


class WaitingDocument(TypedDict):
    """What a device waits for."""

    what: Annotated[WaitKind, member("what it waits for")]
    until: Annotated[
        float | None,
        member(
            "Unix seconds: when the window opens, an offline device is skipped, a device on trial goes back, or the "
            "rate lets the next device begin; `null`: not known"
        ),
    ]


class MemberDocument(TypedDict):
    """A device of a rollout."""

    device: str
    phase: Annotated[int, member("the index of its phase")]
    outcome: Outcome
    attempt: Annotated[int, member("which update this is of those that the rollout has begun")]
    reason: str
    changed: Annotated[float | None, member("Unix seconds of the last change")]
    waiting: Annotated[WaitingDocument | None, member("what it waits for; `null`: it has its outcome")]
    damaged: NotRequired[DamagedParts]


class MembersPage(TypedDict):
    """A page of a rollout's devices."""

    members: list[MemberDocument]
    next: Annotated[int | None, member("where the next page starts; `null` is the end")]


MAX_MEMBERS_PAGE: Final = 1000  # members in one answer: 200 KB


class MembersQuery(TypedDict, total=False):
    """The parameters of a page of members."""

    start: Annotated[int, member("where to start", 0, ge=0, le=2**31)]
    limit: Annotated[int, member("how many at most", 100, ge=1, le=MAX_MEMBERS_PAGE)]
    outcome: Annotated[Outcome, member("only those with this one; all if not given")]
