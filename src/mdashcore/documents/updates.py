"""Firmware updates."""

from __future__ import annotations

from typing import Annotated, NotRequired, TypedDict

from mdashcore.documents._members import DamagedParts, member
from mdashcore.ota import UpdateState
from mdashcore.ota._values import COMMIT_AFTER, COMMIT_TIMEOUT, MAX_CHUNK_SIZE, MAX_CHUNKS_IN_FLIGHT, MAX_UPDATE_TIMEOUT

__all__ = ["ImageDocument", "PastUpdateDocument", "UpdateDocument", "UpdateQuery", "UpdateWithHistory"]


class ImageDocument(TypedDict):
    """A firmware image. What its manifest does not say is `null`."""

    name: Annotated[str, member("the name of the file")]
    size: Annotated[int, member("bytes")]
    sha256: str
    build_id: str | None
    version: str | None
    platform: str | None
    app: str | None
    bare: Annotated[bool, member("whether it is no firmware zip")]


class UpdateDocument(TypedDict):
    """A firmware update. Times are Unix seconds."""

    id: Annotated[str, member("the update's id")]
    revision: Annotated[
        int,
        member(
            "grows with every change: of an answer and a notification, which may arrive in any order, the one with the "
            "greater number is newer"
        ),
    ]
    state: Annotated[UpdateState, member("its state; the states are those of its notifications")]
    reason: Annotated[str, member("why it is in this state, for people; the device's own message if it sent one")]
    progress_percent: Annotated[int, member("how much of the image the device has, in whole percent")]
    offset: Annotated[int, member("how much of the image the device has, in bytes")]
    size: Annotated[int, member("bytes of the image")]
    rate: Annotated[
        float | None,
        member("bytes per second over the present transfer, pauses included; `null` before its first chunk"),
    ]
    attempt: Annotated[int, member("which transfer this is, of at most 3")]
    created: Annotated[float, member("when it was queued")]
    started: Annotated[float | None, member("when it began; `null`: not yet")]
    changed: Annotated[float, member("when it came into its state")]
    deadline: Annotated[float | None, member("when its state ends at the latest; `null` at the end")]
    waits_until: Annotated[
        float | None,
        member(
            "until when an update in `TRANSFERRING` waits, at the latest, for the device to forget an earlier "
            "transfer; else `null`"
        ),
    ]
    commit: Annotated[str, member("`auto` or `manual`, as asked for", pattern="^(auto|manual)$")]
    commit_known: Annotated[
        bool, member("`false` in `UNCOMMITTED` and later: the device does not say whether it is committed")
    ]
    commit_by: Annotated[float | None, member("in `UNCOMMITTED`: until when the device waits for its commit")]
    commit_seconds_left: Annotated[float | None, member("in `UNCOMMITTED`: the seconds until then")]
    image: Annotated[ImageDocument, member("the image; `bare` if it was no zip")]


class PastUpdateDocument(TypedDict):
    """The summary of an update that has ended. Times are Unix seconds."""

    id: str
    state: UpdateState
    reason: str
    created: float
    started: float | None
    ended: float
    name: Annotated[str, member("the name of the image")]
    version: str | None
    build_id: str | None
    size: int


class UpdateWithHistory(UpdateDocument):
    """A device's newest update, and the earlier ones."""

    history: Annotated[
        list[PastUpdateDocument],
        member(
            "the last 20 updates that have ended, newest first, this one included: `id`, `state`, `reason`, `created`, "
            "`started`, `ended`, and of the image `name`, `version`, `build_id`, `size`"
        ),
    ]
    damaged: NotRequired[DamagedParts]


class UpdateQuery(TypedDict, total=False):
    """The parameters of an update."""

    queue: Annotated[
        bool,
        member(
            "`1`: answer 202 with the update, as `GET` does, as soon as the image is stored; an offline device "
            "gets it when it connects",
            0,
        ),
    ]
    force: Annotated[bool, member("`1`: send it whatever platform, application and build the device reports", 0)]
    bare: Annotated[bool, member("`1`: the image is a bare one, whatever its name or its first bytes look like", 0)]
    keep: Annotated[bool, member("`1`: keep the image in the firmware library", 0)]
    firmware: Annotated[str, member("the id of an image of the firmware library, in place of a body")]
    commit: Annotated[str, member("`auto`: commit after a health check", "manual", pattern="^(auto|manual)$")]
    commit_after: Annotated[
        int,
        member(
            "with `commit=auto`: seconds that the device has to be connected without a break, before it is "
            "called (`Sys.GetInfo`) and committed; below `commit_timeout`",
            COMMIT_AFTER,
            ge=1,
            le=MAX_UPDATE_TIMEOUT,
        ),
    ]
    commit_timeout: Annotated[
        int,
        member(
            "seconds after which the device goes back to the old firmware unless it is committed; `0`: it commits by "
            "itself",
            COMMIT_TIMEOUT,
            ge=0,
            le=MAX_UPDATE_TIMEOUT,
        ),
    ]
    chunk_size: Annotated[int, member("bytes of a chunk", 1024, ge=1, le=MAX_CHUNK_SIZE)]
    attempts: Annotated[int, member("tries of each chunk", 3, ge=1, le=10)]
    in_flight: Annotated[
        int,
        member("chunks on their way; more than 1 only for devices that use `offset`", 1, ge=1, le=MAX_CHUNKS_IN_FLIGHT),
    ]
