"""The stored values of a rollout."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from enum import StrEnum
from math import ceil
from typing import Any, Final, Protocol

import attrs
import msgspec

from mdashcore import identity
from mdashcore._checked import Check, check_time, checked, instance, number
from mdashcore._errors import InvalidInput
from mdashcore._first_grammar import translated
from mdashcore.ota import Options, UpdateImage
from mdashcore.ota import UpdateState as UpdateState
from mdashcore.rollout._window import Window

MAX_MEMBERS = 20_000  # devices: their ids are 20 documents, and stay in memory while the rollout goes on
FILTER_GRAMMAR = 2  # of the filters that are stored now; 1 was that of version 0.1

MAX_PHASES = 16  # more steps than an operator watches

DAY = 86_400.0  # seconds


class RolloutState(StrEnum):
    """The state of a rollout. It is stored and shown, so the names do not change."""

    AWAITING_APPROVAL = "AWAITING_APPROVAL"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    ABORTING = "ABORTING"
    COMPLETED = "COMPLETED"
    ABORTED = "ABORTED"


ROLLOUT_ENDS = frozenset({RolloutState.COMPLETED, RolloutState.ABORTED})
"""The states in which a rollout ends: no transition leaves them."""


class Outcome(StrEnum):
    """The state of one device in a rollout."""

    PENDING = "PENDING"  # its turn has not come
    UPDATING = "UPDATING"  # it has an update that has not ended
    SUCCEEDED = "SUCCEEDED"  # it runs the image, committed
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"  # it had no chance to take the image, so the judgement leaves it out


class Cause(StrEnum):
    """The cause of a pause, which a resume overrules."""

    REQUEST = "request"
    ERRORS = "errors"
    SUCCESS = "success"


_PERCENT: Final = number(0, 100, above=False)

PHASES: Final = Check(
    f"1 to {MAX_PHASES} percents in ascending order, above 0, the last of them 100",
    lambda value: (
        isinstance(value, tuple)
        and 1 <= len(value) <= MAX_PHASES
        and all(type(each) in (int, float) and 0 < each <= 100 for each in value)
        and list(value) == sorted(set(value))
        and value[-1] == 100
    ),
)


@attrs.frozen(kw_only=True, field_transformer=checked)
class Plan:
    """The plan of a rollout. Percents are from 0 to 100."""

    phases: tuple[float, ...] = attrs.field(default=(1.0, 10.0, 100.0), validator=PHASES)
    """Percents of the devices, in ascending order, the last of them 100."""
    success_percent: float = attrs.field(default=95.0, validator=_PERCENT)
    """So many of a phase's devices, without the skipped ones, have to succeed before the next phase begins."""
    error_percent: float = attrs.field(default=10.0, validator=_PERCENT)
    """The rollout pauses if more than so many of a phase's ended devices have failed."""
    min_sample: int = 5
    """Devices of a phase, or all of a smaller one, that must have ended before errors are counted."""
    rate: int | None = 60
    """Devices that begin in a minute; `None` for as many as `max_active` allows."""
    max_active: int = 50
    """Devices with a running update at the same time: at most so many have an image that is not judged yet."""
    window: Window | None = attrs.field(default=None, validator=instance(Window).or_none())
    """When devices may begin; `None` for always. Running updates are not stopped at the end of the window."""
    offline_wait: float = attrs.field(default=7 * DAY, validator=number(above=False))
    """Seconds from the beginning of its phase in which a device may still come online. With 0 offline devices are
    skipped.
    """
    timeout: float = 30 * DAY
    """Seconds in which the whole rollout has to end."""
    approval: bool = False
    """Whether a user has to approve before the first phase begins."""
    options: Options = attrs.field(default=Options(), validator=instance(Options))
    """The options of each device's update."""

    def is_open(self, now: float) -> bool:
        """Return whether devices may begin at `now`, in Unix seconds."""
        return self.window is None or self.window.contains(now)


@attrs.frozen
class Counts:
    """How many devices have which outcome."""

    pending: int = 0
    updating: int = 0
    succeeded: int = 0
    failed: int = 0
    skipped: int = 0

    @property
    def total(self) -> int:
        """The number of devices."""
        return self.pending + self.updating + self.succeeded + self.failed + self.skipped

    @property
    def judged(self) -> int:
        """The number of devices whose end counts for success and errors."""
        return self.succeeded + self.failed

    @property
    def all_ended(self) -> bool:
        """Whether no device is pending or has a running update."""
        return not self.pending and not self.updating

    def plus(self, outcome: Outcome, number: int = 1) -> Counts:
        """Return the counts with `number` more of an outcome."""
        name = outcome.value.lower()
        return attrs.evolve(self, **{name: getattr(self, name) + number})


def added(counts: Iterable[Counts]) -> Counts:
    """Return the sum of the counts of several phases."""
    rows = [attrs.astuple(each) for each in counts]
    return Counts(*map(sum, zip(*rows, strict=True))) if rows else Counts()


@attrs.frozen(kw_only=True)
class Member:
    """One device of a rollout, after its turn has come. A device without a member is PENDING."""

    device: str
    outcome: Outcome = Outcome.PENDING
    attempt: int = 0
    """How often the device was given the image. The update's id is made with it."""
    round: int = 1
    """The round in which the outcome was reached. A FAILED of an earlier round counts as PENDING."""
    reason: str = ""
    """Why it failed or was skipped, for people."""
    changed: float = 0.0
    """Unix seconds."""
    before: str | None = None
    """The id of the device's update when its turn came, which is an earlier one; empty if it had none, `None` if that
    is not known, because a version without this field has stored the member."""


@attrs.frozen(kw_only=True)
class Rollout:
    """One image on its way into many devices. Times are Unix seconds. Create it with `Rollout.begun`."""

    id: str
    name: str
    image: UpdateImage
    plan: Plan
    filter: tuple[str, ...]
    """The terms by which the devices were selected. The devices are fixed when the rollout is made."""
    created: float
    changed: float
    """When it entered its state."""
    ends: tuple[int, ...]
    """The index behind the last device of each phase, in the order of `ordered`."""
    counts: tuple[Counts, ...]
    """The counts of each phase at the time when this was stored."""
    state: RolloutState = RolloutState.RUNNING
    reason: str = ""
    """The reason for its state, for people."""
    phase: int = 0
    """The index of the phase that has begun last."""
    phase_started: tuple[float, ...] = ()
    """When the phases began, or continued after a pause. Waiting for offline devices counts from here."""
    round: int = 1
    """Grows when the failed devices are tried again."""
    cause: Cause | None = None
    """Why it is paused; `None` if it is not."""
    forgiven: tuple[Counts, ...] = ()
    """The counts of each phase at the last resume. Only later outcomes are judged."""
    accepted: int = 0
    """Phases before this index may end without the success that they should have had."""
    next_start: float = 0.0
    """When the next device may begin, by the rate."""
    grammar: int = 1
    """The grammar of `filter` as stored: 1 up to version 0.1, whose terms `from_stored` translates, else 2."""
    driver: str | None = None
    """The id of the node that drives it, or `None` if none has so far. When it is gone, another one takes over."""
    blob: str | None = None
    """The id of the image's blob, if that is kept in the firmware library; `None` if the rollout has its own, under its
    own id."""

    @classmethod
    def begun(
        cls,
        id: str,
        name: str,
        image: UpdateImage,
        plan: Plan,
        filter: Sequence[str],
        members: int,
        *,
        now: float,
        blob: str | None = None,
    ) -> Rollout:
        """Return a new rollout.

        Args:
            members: the number of selected devices.
            now: Unix seconds.
            blob: the id of a blob in the firmware library; `None` for a blob of its own.

        Raises:
            InvalidInput: there are no devices, or more than `MAX_MEMBERS`; or `now` is no time.
        """
        check_time("now", now)
        if not members:
            raise InvalidInput("the selection has no devices")
        if members > MAX_MEMBERS:
            raise InvalidInput(f"the selection has {members} devices; a rollout has at most {MAX_MEMBERS}")
        ends = tuple(ceil(members * percent / 100) for percent in plan.phases)
        starts = (0, *ends)
        return cls(
            id=id,
            name=name,
            image=image,
            plan=plan,
            filter=tuple(filter),
            created=now,
            changed=now,
            ends=ends,
            counts=tuple(Counts(end - start) for start, end in zip(starts, ends, strict=False)),
            state=RolloutState.AWAITING_APPROVAL if plan.approval else RolloutState.RUNNING,
            phase_started=() if plan.approval else (now,),
            grammar=FILTER_GRAMMAR,
            blob=blob,
        )

    @property
    def ended(self) -> bool:
        """Whether the rollout has ended: no event changes it any more."""
        return self.state in ROLLOUT_ENDS

    @property
    def blob_id(self) -> str:
        """The id of the image's blob."""
        return self.id if self.blob is None else self.blob

    @property
    def members(self) -> int:
        """The number of its devices."""
        return self.ends[-1]

    @property
    def newest_time(self) -> float:
        """The time of the last change, in Unix seconds."""
        return max(self.created, self.changed, *self.phase_started)

    def moved(self, seconds: float) -> Rollout:
        """Return the rollout with all its times later by so many seconds: it has the same age on another clock."""
        check_time("seconds", seconds)
        return attrs.evolve(
            self,
            created=self.created + seconds,
            changed=self.changed + seconds,
            phase_started=tuple(time + seconds for time in self.phase_started),
            next_start=self.next_start + seconds if self.next_start else 0.0,
        )

    def outcome(self, member: Member | None) -> Outcome:
        """Return the outcome of a device in the present round."""
        if member is None or (member.outcome is Outcome.FAILED and member.round < self.round):
            return Outcome.PENDING
        return member.outcome

    def to_stored(self) -> dict[str, Any]:
        """Return the rollout as plain JSON values, for a document store."""
        stored: dict[str, Any] = msgspec.to_builtins(self)
        return stored

    @classmethod
    def from_stored(cls, document: object) -> Rollout:
        """Return the rollout that `to_stored` has written. Raises `InvalidInput` for another document."""
        try:
            found = msgspec.convert(document, cls)
        except msgspec.ValidationError as exc:
            raise InvalidInput(f"not a stored rollout: {exc}") from None
        if found.grammar >= FILTER_GRAMMAR:
            return found
        return attrs.evolve(found, filter=tuple(map(translated, found.filter)), grammar=FILTER_GRAMMAR)


def ordered(account: str, devices: Iterable[str]) -> list[str]:
    """Return device ids in the order of a hash of account and id. So the same devices come first in every rollout."""

    def place(device: str) -> bytes:
        return hashlib.sha256(f"{account}/{device}".encode()).digest()

    return sorted(devices, key=place)


def update_id(rollout: str, device: str, attempt: int) -> str:
    """Return the id of a device's update. It is the same in every process, however often it is made.

    >>> update_id("rol_a", "lamp", 1) == update_id("rol_a", "lamp", 1) != update_id("rol_a", "lamp", 2)
    True
    """
    return identity.make_id("ota", hashlib.sha256(f"{rollout}/{attempt}/{device}".encode()).digest())


_OUTCOMES = {
    UpdateState.COMMITTED: Outcome.SUCCEEDED,
    UpdateState.ALREADY_INSTALLED: Outcome.SUCCEEDED,
    UpdateState.ROLLED_BACK: Outcome.FAILED,
    UpdateState.FAILED: Outcome.FAILED,
    UpdateState.REJECTED: Outcome.FAILED,
    UpdateState.TIMED_OUT: Outcome.FAILED,
    UpdateState.CANCELED: Outcome.SKIPPED,
    UpdateState.SUPERSEDED: Outcome.SKIPPED,
}
"""The outcome of a device, by the end of its update."""


class Ended(Protocol):
    """An update that has ended: the update itself, or the record that is kept of it."""

    @property
    def state(self) -> UpdateState:
        """The end that it has reached."""

    @property
    def reason(self) -> str:
        """The reason for the end, for people."""

    @property
    def started(self) -> float | None:
        """When it began, in Unix seconds; `None` if it never did."""


def settled(member: Member, update: Ended, state: RolloutState, *, now: float) -> Member:
    """Return a member after its update has ended, while the rollout is in `state`.

    Args:
        now: Unix seconds.
    """
    outcome = _OUTCOMES[update.state]
    if update.started is None and update.state in (UpdateState.TIMED_OUT, UpdateState.CANCELED):
        # Nothing was ever sent to the device. An update that a pause took out of the queue gets its turn again.
        held = update.state is UpdateState.CANCELED and state is RolloutState.PAUSED
        outcome = Outcome.PENDING if held else Outcome.SKIPPED
    reason = "" if outcome is Outcome.SUCCEEDED else f"{update.state}: {update.reason or 'no reason given'}"
    return attrs.evolve(member, outcome=outcome, reason=reason, changed=now)
