"""What an update is: the values that are stored."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Protocol

import attrs
import msgspec

from mdashcore._checked import checked, whole
from mdashcore._errors import InvalidInput, InvalidSetting

CHUNK_SIZE = 1024  # raw bytes. Base64 and the envelope make 1.5 KB of it: far below a device's 4096-byte
# frame, and small enough for the frame and its decoded copy to fit in 20 KB of free RAM together
MAX_CHUNK_SIZE = 2944  # 3928 bytes of base64, which leaves 168 of the 4096 to the envelope
CHUNK_ATTEMPTS = 3  # as Cesanta's `mos` tool
MAX_ATTEMPTS = 3  # transfers of one image: flaky links pass, a broken device does not get the image for ever
MAX_IN_FLIGHT = 16  # chunks; a device queues 25 frames
DEVICE_TIMEOUT = 600  # seconds; without progress for so long, the device forgets a transfer: as `mos`
COMMIT_TIMEOUT = 300  # seconds after the reboot in which to commit: as `mos`
MAX_TIMEOUT = 86_400  # seconds, of both: a day
COMMIT_AFTER = 30  # seconds of health before an automatic commit: a crash loop shows within one boot
MAX_TEXT = 500  # characters kept of what a device says of itself: real names and messages have under 100


class State(StrEnum):
    """Where an update stands. It is stored and shown: names do not change."""

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


ENDS = frozenset(State) - {
    State.QUEUED,
    State.TRANSFERRING,
    State.VERIFYING,
    State.REBOOTING,
    State.UNCOMMITTED,
}
"""The states that nothing leads out of."""


class Session(StrEnum):
    """What is known of the transfer that a device holds open."""

    NONE = "none"  # OTA.Begin has to come first
    UNSURE = "unsure"  # the device cannot say whether it still holds it: the answer to OTA.Begin tells
    OPEN = "open"  # the device accepted OTA.Begin on this link
    LOST = "lost"  # it had, or may have, then the link dropped: the device has to be asked


class ImageFacts(Protocol):
    """What `Image.of` reads; `mdashcore.firmware.Image` has it."""

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def sha256(self) -> str: ...
    @property
    def build_id(self) -> str | None: ...
    @property
    def version(self) -> str | None: ...
    @property
    def platform(self) -> str | None: ...
    @property
    def app(self) -> str | None: ...
    @property
    def bare(self) -> bool: ...


@attrs.frozen
class Image:
    """The image as an update remembers it; the bytes themselves are in a blob."""

    name: str
    size: int = attrs.field(validator=whole())
    """Bytes."""
    sha256: str
    build_id: str | None = None
    version: str | None = None
    platform: str | None = None
    app: str | None = None
    """The application's name, as the manifest has it."""
    bare: bool = False
    """Not a firmware zip: without a manifest, and without digests that the device could check."""

    @classmethod
    def of(cls, image: ImageFacts) -> Image:
        return cls(**{field.name: getattr(image, field.name) for field in attrs.fields(cls)})


@attrs.frozen
class Build:
    """What a device says of the firmware it runs. None: it did not say."""

    id: str | None = None
    version: str | None = None
    platform: str | None = None
    partition: int | None = None
    is_committed: bool | None = None
    status: int | None = None
    """0 idle, 1 a transfer is open, 2 the last one failed, 3 taken, about to reboot."""
    progress_percent: int | None = None
    message: str | None = None
    app: str | None = None
    """The application's name."""

    def followed_by(self, later: Build) -> Build:
        """What was said, and what was said later: the later word counts."""
        return attrs.evolve(self, **{name: value for name, value in attrs.asdict(later).items() if value is not None})

    @classmethod
    def from_wire(cls, *answers: Mapping[str, object]) -> Build:
        """From `reported.ota`, or the results of `Sys.GetInfo` and `OTA.Status` together; later ones win.

        A member of a wrong type counts as not said: devices send what they like.
        """
        found: dict[str, Any] = {}
        for answer in answers:
            for key, (field, kind) in _WIRE.items():
                value = answer.get(key)
                if type(value) is kind:  # not isinstance: True is no partition
                    found[field] = value[:MAX_TEXT] if isinstance(value, str) else value
        return cls(**found)


_WIRE: Mapping[str, tuple[str, type]] = {
    "fw_id": ("id", str),
    "fw_version": ("version", str),
    "arch": ("platform", str),
    "app": ("app", str),
    "partition": ("partition", int),
    "is_committed": ("is_committed", bool),
    "status": ("status", int),  # in reported.ota
    "state": ("status", int),  # in the answer to OTA.Status
    "progress_percent": ("progress_percent", int),
    "message": ("message", str),
}


@attrs.frozen(kw_only=True, field_transformer=checked)
class Options:
    """What was asked for; the defaults are safe for every device known."""

    chunk_size: int = attrs.field(default=CHUNK_SIZE, validator=whole(1, MAX_CHUNK_SIZE))
    chunk_attempts: int = attrs.field(default=CHUNK_ATTEMPTS, validator=whole(1, 10))
    chunks_in_flight: int = attrs.field(default=1, validator=whole(1, MAX_IN_FLIGHT))
    """More than one only for devices that heed `offset`."""
    max_attempts: int = attrs.field(default=MAX_ATTEMPTS, validator=whole(1, 10))
    timeout: int = attrs.field(default=DEVICE_TIMEOUT, validator=whole(1, MAX_TIMEOUT))
    """Seconds without progress after which the device forgets the transfer."""
    commit_timeout: int = attrs.field(default=COMMIT_TIMEOUT, validator=whole(0, MAX_TIMEOUT))
    """Seconds to commit in, after the reboot; 0: the device commits by itself."""
    force: bool = False
    """Send the image even if the platform differs or the build is installed already."""
    auto_commit: bool = False
    """Commit after a health check: the device there without a break for `commit_after`, and answering."""
    commit_after: int = attrs.field(default=COMMIT_AFTER, validator=whole(1, MAX_TIMEOUT))
    """Seconds of health before an automatic commit; below `commit_timeout`, or the device rolls back before."""

    def __attrs_post_init__(self) -> None:
        if self.auto_commit and 0 < self.commit_timeout <= self.commit_after:
            raise InvalidSetting(f"'commit_after' must be < 'commit_timeout', which is {self.commit_timeout}")


@attrs.frozen(kw_only=True)
class Update:
    """One image on its way into one device. Times are Unix seconds. Made by `Update.queued`."""

    id: str
    image: Image
    created: float
    changed: float
    """When it came into its state: the total limit counts from here."""
    active: float
    """When it last got on: the idle limit counts from here."""
    options: Options = Options()
    blob: str | None = None
    """The id of the image's blob, if the update shares it with others; None: it has one of its own, under its id."""
    state: State = State.QUEUED
    reason: str = ""
    """Why it is where it is, for a person; in the device's own words where it gave some."""
    offset: int = 0
    """Bytes that the device has taken."""
    attempt: int = 1
    """Which transfer of the image this is, of `options.max_attempts`."""
    chunk_failures: int = 0
    """How often the chunk at `offset` has failed in a row."""
    session: Session = Session.NONE
    doubtful: bool = False
    """A chunk of this transfer may have been taken twice: an error is then a reason to begin again."""
    connected: bool = False
    reconnected: bool = False
    """In REBOOTING: a link newer than `OTA.End`. In UNCOMMITTED: newer than the report that it is."""
    end_accepted: bool = False
    """In REBOOTING: the device answered `OTA.End`; else only its report tells whether it took the image."""
    online_since: float | None = None
    """In UNCOMMITTED: since when the device is there without a break; None while it is away."""
    commit_unknown: bool = False
    """In UNCOMMITTED: the device does not say whether it is on trial."""
    commit_settled: bool = False
    """The device has accepted `OTA.Commit`, or does not have it."""
    commit_requested: bool = False
    questions: int = 0
    """How often the device was asked in this state without having said what was to be known."""
    held_until: float | None = None
    """When the device forgets a transfer that came before, as far as that is known."""
    waits_until: float | None = None
    """The device holds a transfer that came before: how long it is waited for, at most."""
    not_before: float | None = None
    """A pause: no call until then."""
    previous_build: Build | None = None
    """What the device ran when the transfer began."""
    started: float | None = None
    """When the update's turn came; None in the queue."""
    begun: float | None = None
    """When the device accepted `OTA.Begin` of the present transfer."""
    taken: float | None = None
    """When the device took the last chunk of the present transfer so far."""
    revision: int = 0
    """Grows with every change: of two descriptions of an update, the one with the greater number is the newer."""

    @classmethod
    def queued(
        cls,
        id: str,
        image: Image,
        *,
        now: float,
        options: Options = Options(),
        blob: str | None = None,
        held_until: float | None = None,
    ) -> Update:
        """A new update, waiting for its turn.

        Args:
            held_until: `held_until` of the update before it.
        """
        return cls(
            id=id,
            image=image,
            created=now,
            changed=now,
            active=now,
            options=options,
            blob=blob,
            held_until=held_until,
        )

    @property
    def ended(self) -> bool:
        """Whether it is over: no event changes it any more."""
        return self.state in ENDS

    @property
    def newest_time(self) -> float:
        """When something has happened to it last, in Unix seconds."""
        return max(self.created, self.changed, self.active)

    @property
    def image_taken(self) -> bool:
        """Whether the device has the whole image for sure: it accepted `OTA.End`, or has run what is in it."""
        if self.state is State.REBOOTING:
            return self.end_accepted
        return self.state in (State.UNCOMMITTED, State.COMMITTED)

    @property
    def progress_percent(self) -> int:
        """How much of the image the device has taken, 0 to 100, rounded down."""
        return self.offset * 100 // self.image.size

    @property
    def rate(self) -> float | None:
        """Bytes per second, over the present transfer so far, pauses included; None where nothing was taken yet."""
        if self.begun is None or self.taken is None or self.taken <= self.begun:
            return None
        return self.offset / (self.taken - self.begun)

    @property
    def blob_id(self) -> str:
        """The id of the image's blob."""
        return self.id if self.blob is None else self.blob

    @property
    def owns_blob(self) -> bool:
        """Whether the image is of no use to others when this update has ended."""
        return self.blob_id == self.id

    def to_stored(self) -> dict[str, Any]:
        """Plain JSON values, for a document store."""
        stored: dict[str, Any] = msgspec.to_builtins(self)
        return stored

    @classmethod
    def from_stored(cls, document: object) -> Update:
        """The inverse of `to_stored`. Unknown members are ignored, and what newer code added has its default.

        Raises:
            InvalidInput: the document is not a stored update.
        """
        try:
            return msgspec.convert(document, cls)
        except msgspec.ValidationError as exc:
            raise InvalidInput(f"not a stored update: {exc}") from None
