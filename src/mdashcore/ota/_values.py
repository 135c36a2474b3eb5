"""The stored values of an update."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import attrs
import msgspec

from mdashcore._checked import check_time, checked, whole
from mdashcore._errors import InvalidInput, InvalidSetting
from mdashcore.ota._builds import Build
from mdashcore.ota._images import UpdateImage

CHUNK_SIZE = 1024  # raw bytes. Base64 and the envelope make 1.5 KB of it: far below a device's 4096-byte
# frame, and small enough for the frame and its decoded copy to fit in 20 KB of free RAM together
MAX_CHUNK_SIZE = 2944  # 3928 bytes of base64, which leaves 168 of the 4096 to the envelope
CHUNK_ATTEMPTS = 3  # as Cesanta's `mos` tool
MAX_ATTEMPTS = 3  # transfers of one image: enough for a flaky link, and a broken device does not get the image for ever
MAX_CHUNKS_IN_FLIGHT = 16  # chunks; a device queues 25 frames
DEVICE_TIMEOUT = 600  # seconds without progress after which the device forgets a transfer: as `mos`
COMMIT_TIMEOUT = 300  # seconds after the reboot in which to commit: as `mos`
MAX_UPDATE_TIMEOUT = 86_400  # seconds, for both: a day
COMMIT_AFTER = 30  # seconds of health before an automatic commit: a crash loop shows within one boot


class UpdateState(StrEnum):
    """The state of an update. It is stored and shown, so the names do not change."""

    QUEUED = "QUEUED"
    TRANSFERRING = "TRANSFERRING"
    VERIFYING = "VERIFYING"
    REBOOTING = "REBOOTING"
    UNCOMMITTED = "UNCOMMITTED"
    COMMITTED = "COMMITTED"
    ROLLED_BACK = "ROLLED_BACK"
    FAILED = "FAILED"
    REJECTED = "REJECTED"
    TIMED_OUT = "TIMED_OUT"
    CANCELED = "CANCELED"
    SUPERSEDED = "SUPERSEDED"
    ALREADY_INSTALLED = "ALREADY_INSTALLED"


UPDATE_ENDS = frozenset(UpdateState) - {
    UpdateState.QUEUED,
    UpdateState.TRANSFERRING,
    UpdateState.VERIFYING,
    UpdateState.REBOOTING,
    UpdateState.UNCOMMITTED,
}
"""The states in which an update ends: no transition leaves them."""


class Session(StrEnum):
    """The knowledge about the transfer that a device holds open."""

    NONE = "none"  # OTA.Begin has to come first
    UNSURE = "unsure"  # the device cannot say whether it still holds it: its answer to OTA.Begin decides
    OPEN = "open"  # the device accepted OTA.Begin on this link
    LOST = "lost"  # it was open, or may have been, then the link dropped: the device has to be asked


@attrs.frozen(kw_only=True, field_transformer=checked)
class Options:
    """The options of an update. The defaults are safe for every known device."""

    chunk_size: int = attrs.field(default=CHUNK_SIZE, validator=whole(1, MAX_CHUNK_SIZE))
    chunk_attempts: int = attrs.field(default=CHUNK_ATTEMPTS, validator=whole(1, 10))
    chunks_in_flight: int = attrs.field(default=1, validator=whole(1, MAX_CHUNKS_IN_FLIGHT))
    """More than one only for devices that obey `offset`."""
    max_attempts: int = attrs.field(default=MAX_ATTEMPTS, validator=whole(1, 10))
    timeout: int = attrs.field(default=DEVICE_TIMEOUT, validator=whole(1, MAX_UPDATE_TIMEOUT))
    """Seconds without progress after which the device forgets the transfer."""
    commit_timeout: int = attrs.field(default=COMMIT_TIMEOUT, validator=whole(0, MAX_UPDATE_TIMEOUT))
    """Seconds to commit in, after the reboot. With 0 the device commits by itself."""
    force: bool = False
    """Send the image even if the platform or the application differs, or the build is installed already."""
    other_app: bool = False
    """Send the image even if the device runs another application."""
    auto_commit: bool = False
    """Commit after a health check: the device is connected for `commit_after` without a break, and answers."""
    commit_after: int = attrs.field(default=COMMIT_AFTER, validator=whole(1, MAX_UPDATE_TIMEOUT))
    """Seconds of health before an automatic commit. It must be below `commit_timeout`, or the device rolls back
    first.
    """

    def __attrs_post_init__(self) -> None:
        if self.auto_commit and 0 < self.commit_timeout <= self.commit_after:
            raise InvalidSetting(
                f"'commit_after' is {self.commit_after} s, and has to be below 'commit_timeout', which is "
                f"{self.commit_timeout} s: a device that is not committed by then goes back to its old firmware"
            )


@attrs.frozen(kw_only=True)
class Update:
    """One image on its way into one device. Times are Unix seconds. Create it with `Update.queued`."""

    id: str
    image: UpdateImage
    created: float
    changed: float
    """When it entered its state. The total limit counts from here."""
    active: float
    """When it last made progress. The idle limit counts from here."""
    unattended: float = 0.0
    """Seconds in its state in which no performer performed it. The total limit does not count them."""
    options: Options = Options()
    blob: str | None = None
    """The id of the image's blob, if the update shares it with others; `None` if it has its own blob, under its own
    id.
    """
    state: UpdateState = UpdateState.QUEUED
    reason: str = ""
    """The reason for its state, for people; in the device's own words if it gave any."""
    offset: int = 0
    """Bytes that the device has accepted."""
    attempt: int = 1
    """The number of the present transfer, of `options.max_attempts`."""
    chunk_failures: int = 0
    """How often in a row the chunk at `offset` has failed."""
    session: Session = Session.NONE
    doubtful: bool = False
    """Whether a chunk of this transfer may have been taken twice. Then an error makes the transfer begin again."""
    connected: bool = False
    reconnected: bool = False
    """In REBOOTING: the link is newer than `OTA.End`. In UNCOMMITTED: it is newer than the report of that state."""
    end_accepted: bool = False
    """In REBOOTING: the device answered `OTA.End`. If not, only its report shows whether it accepted the image."""
    online_since: float | None = None
    """In UNCOMMITTED: since when the device is connected without a break; `None` while it is away."""
    commit_unknown: bool = False
    """In UNCOMMITTED: the device does not say whether it is on trial."""
    commit_settled: bool = False
    """The device has accepted `OTA.Commit`, or does not have the method."""
    commit_requested: bool = False
    questions: int = 0
    """How often the device was asked in this state without a decisive answer."""
    held_until: float | None = None
    """When the device forgets an earlier transfer, if that is known."""
    waits_until: float | None = None
    """How long to wait at most for a device that holds an earlier transfer."""
    not_before: float | None = None
    """The end of a pause: no call before this time."""
    previous_build: Build | None = None
    """The build that the device ran when the transfer began."""
    started: float | None = None
    """When the update's turn came; `None` in the queue."""
    begun: float | None = None
    """When the device accepted `OTA.Begin` of the present transfer."""
    taken: float | None = None
    """When the device accepted the last chunk so far of the present transfer."""
    revision: int = 0
    """Grows with every change. Of two descriptions of an update, the one with the greater number is the newer."""
    driver: str | None = None
    """The id of the node that drives it, or `None` if none has so far. It is the node that holds the device; while the
    device is offline, the one that held it last, or that has queued the update. Another one takes over when that node
    is gone.
    """

    @classmethod
    def queued(
        cls,
        id: str,
        image: UpdateImage,
        *,
        now: float,
        options: Options = Options(),
        blob: str | None = None,
        held_until: float | None = None,
        driver: str | None = None,
    ) -> Update:
        """Return a new update that waits for its turn.

        Args:
            id: the id of the update.
            image: the image to install.
            now: Unix seconds.
            options: the options of this update.
            blob: the id of a blob that is shared with other updates; `None` for a blob of its own.
            held_until: the result of `held_until` for the update before this one.
            driver: the id of the node that drives it.

        Raises:
            InvalidInput: `now` is no time.
        """
        check_time("now", now)
        return cls(
            id=id,
            image=image,
            created=now,
            changed=now,
            active=now,
            options=options,
            blob=blob,
            held_until=held_until,
            driver=driver,
        )

    @property
    def ended(self) -> bool:
        """Whether the update has ended: no event changes it any more."""
        return self.state in UPDATE_ENDS

    @property
    def newest_time(self) -> float:
        """The time of the last change or progress, in Unix seconds."""
        return max(self.created, self.changed, self.active)

    @property
    def image_taken(self) -> bool:
        """Whether the device certainly has the whole image: it accepted `OTA.End`, or has run the image."""
        if self.state is UpdateState.REBOOTING:
            return self.end_accepted
        return self.state in (UpdateState.UNCOMMITTED, UpdateState.COMMITTED)

    @property
    def progress_percent(self) -> int:
        """The share of the image that the device has accepted, 0 to 100, rounded down."""
        return self.offset * 100 // self.image.size

    @property
    def rate(self) -> float | None:
        """Bytes per second over the present transfer so far, pauses included; `None` before the first chunk."""
        if self.begun is None or self.taken is None or self.taken <= self.begun:
            return None
        return self.offset / (self.taken - self.begun)

    @property
    def blob_id(self) -> str:
        """The id of the image's blob."""
        return self.id if self.blob is None else self.blob

    @property
    def owns_blob(self) -> bool:
        """Whether the image's blob belongs to this update alone, and can be deleted after it."""
        return self.blob_id == self.id

    def to_stored(self) -> dict[str, Any]:
        """Return the update as plain JSON values, for a document store."""
        stored: dict[str, Any] = msgspec.to_builtins(self)
        return stored

    @classmethod
    def from_stored(cls, document: object) -> Update:
        """Return the update that `to_stored` has written. Unknown members are ignored; missing ones get their default.

        Raises:
            InvalidInput: the document is not a stored update.
        """
        try:
            return msgspec.convert(document, cls)
        except msgspec.ValidationError as exc:
            raise InvalidInput(f"not a stored update: {exc}") from None
