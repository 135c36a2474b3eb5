"""The stored values of a job."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any, Final

import attrs
import msgspec

from mdashcore._checked import check_time
from mdashcore._errors import InvalidInput

MAX_JOB_DEVICES: Final = 100_000  # devices: as many as an account has by default; their results take 7 MB in the store

PIECE_SIZE: Final = 128  # devices of one document: it has 10 KB, and is written twice for all their shadows


class JobState(StrEnum):
    """The state of a job. It is stored and shown, so the names do not change."""

    RUNNING = "RUNNING"
    CANCELING = "CANCELING"
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"


JOB_ENDS: Final = frozenset({JobState.COMPLETED, JobState.CANCELED})
"""The states in which a job ends: no transition leaves them."""


class JobOutcome(StrEnum):
    """The result of a job for one device. It is stored and shown, so the names do not change."""

    PENDING = "PENDING"  # its turn has not come; in a job that was canceled it never will
    CHANGED = "CHANGED"
    UNCHANGED = "UNCHANGED"  # it had all the values already, and was not written
    FAILED = "FAILED"


class JobResult(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=False):
    """The result for one device. A pending one is stored as its id alone."""

    device: str
    outcome: JobOutcome = JobOutcome.PENDING
    reason: str = ""
    """Why it failed, for people."""
    changed: float = 0.0
    """Unix seconds of the outcome; 0 before."""
    before: str | None = None
    """The `fingerprint` of what the job is changing; `None` if no change has begun."""

    def ended(self, outcome: JobOutcome, now: float, reason: str = "") -> JobResult:
        """Return the result after its end."""
        return JobResult(self.device, outcome, reason, now)


class JobPiece(msgspec.Struct, frozen=True):
    """Some of a job's devices, in order, with their results."""

    results: tuple[JobResult, ...]

    @property
    def counts(self) -> JobCounts:
        """The number of devices with each outcome."""
        return JobCounts.of(result.outcome for result in self.results)

    @classmethod
    def from_stored(cls, document: object) -> JobPiece:
        """Return a piece as it is stored. Raises `InvalidInput` for another document."""
        try:
            return msgspec.convert(document, cls)
        except msgspec.ValidationError as exc:
            raise InvalidInput(f"not a piece of a job: {exc}") from None


@attrs.frozen
class JobCounts:
    """How many devices have which outcome."""

    pending: int = 0
    changed: int = 0
    unchanged: int = 0
    failed: int = 0

    @classmethod
    def of(cls, outcomes: Iterable[JobOutcome]) -> JobCounts:
        """Return the counts of some outcomes."""
        numbers = dict.fromkeys(JobOutcome, 0)
        for outcome in outcomes:
            numbers[outcome] += 1
        return cls(**{outcome.value.lower(): number for outcome, number in numbers.items()})

    @property
    def done(self) -> int:
        """The number of devices that are not pending."""
        return self.changed + self.unchanged + self.failed

    def after(self, piece: JobCounts) -> JobCounts:
        """Return the counts of a job after a piece, whose devices were all pending before."""
        return JobCounts(
            self.pending - piece.done,
            self.changed + piece.changed,
            self.unchanged + piece.unchanged,
            self.failed + piece.failed,
        )


@attrs.frozen(kw_only=True)
class Job:
    """Values of `desired` on their way into many shadows. Times are Unix seconds. Create it with `Job.begun`."""

    id: str
    name: str
    desired: dict[str, Any]
    """The values: a merge patch (RFC 7396), in which null removes a key."""
    filter: tuple[str, ...]
    """The terms by which the devices were selected. The devices are fixed when the job is made."""
    created: float
    created_by: str
    """The name of the user, or of the API key: its id, if it has no name."""
    changed: float
    """When it entered its state."""
    devices: int
    counts: JobCounts
    """The counts when this was stored: those of all pieces that are done."""
    state: JobState = JobState.RUNNING
    reason: str = ""
    """The result in words, for people."""
    piece_size: int = PIECE_SIZE
    """The number of devices in each piece but the last, as it was when the job was made."""
    piece: int = 0
    """The index of the first piece that is not done."""
    canceled_by: str | None = None
    """As `created_by`; `None` if it was not canceled."""
    driver: str | None = None
    """The id of the node that drives it, or `None` if none has so far. When it is gone, another one takes over."""
    owner: str = ""
    """The account for which it was created, told from a later one of that name; empty if that is not known."""
    unannounced: tuple[str, ...] = ()
    """States of which subscribers may not have been notified yet. They are notified at least once."""

    @classmethod
    def begun(
        cls,
        id: str,
        name: str,
        desired: dict[str, Any],
        filter: Sequence[str],
        devices: int,
        *,
        by: str,
        now: float,
        owner: str = "",
    ) -> Job:
        """Return a new job.

        Args:
            devices: the number of selected devices.
            by: as `created_by`.
            now: Unix seconds.
            owner: as in `Job`.

        Raises:
            InvalidInput: there are no devices, or more than `MAX_JOB_DEVICES`; or `now` is no time.
        """
        check_time("now", now)
        if not devices:
            raise InvalidInput("the selection has no devices")
        if devices > MAX_JOB_DEVICES:
            raise InvalidInput(f"the selection has {devices} devices; a job has at most {MAX_JOB_DEVICES}")
        return cls(
            id=id,
            name=name,
            desired=desired,
            filter=tuple(filter),
            created=now,
            created_by=by,
            changed=now,
            devices=devices,
            counts=JobCounts(devices),
            piece_size=PIECE_SIZE,
            owner=owner,
        )

    @property
    def ended(self) -> bool:
        """Whether the job has ended: no event changes it any more."""
        return self.state in JOB_ENDS

    @property
    def finished(self) -> bool:
        """Whether it has ended and subscribers were notified of that: nothing is left to drive."""
        return self.ended and not self.unannounced

    @property
    def pieces(self) -> int:
        """The number of its pieces."""
        return -(-self.devices // self.piece_size)

    def size_of(self, piece: int) -> int:
        """Return the number of devices in a piece."""
        return min(self.piece_size, self.devices - piece * self.piece_size)

    def to_stored(self) -> dict[str, Any]:
        """Return the job as plain JSON values, for a document store."""
        stored: dict[str, Any] = msgspec.to_builtins(self)
        return stored

    @classmethod
    def from_stored(cls, document: object) -> Job:
        """Return the job that `to_stored` has written. Raises `InvalidInput` for another document."""
        try:
            return msgspec.convert(document, cls)
        except msgspec.ValidationError as exc:
            raise InvalidInput(f"not a stored job: {exc}") from None
