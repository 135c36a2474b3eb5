"""What a rollout is: the values that are stored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from enum import StrEnum
from math import ceil
from typing import Any, Final, Protocol

import attrs
import msgspec

from mdashcore import identity
from mdashcore._checked import Check, checked, instance, number
from mdashcore._errors import InvalidInput
from mdashcore.ota import Image, Options
from mdashcore.ota import State as UpdateState
from mdashcore.rollout._window import Window

MAX_MEMBERS = 20_000  # devices: their ids are 20 documents, and in memory for as long as the rollout goes on
MAX_PHASES = 16  # more steps than anybody watches

DAY = 86_400.0  # seconds


class State(StrEnum):
    """Where a rollout stands. It is stored and shown: names do not change."""

    AWAITING_APPROVAL = "AWAITING_APPROVAL"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    ABORTING = "ABORTING"
    COMPLETED = "COMPLETED"
    ABORTED = "ABORTED"


ENDS = frozenset({State.COMPLETED, State.ABORTED})
"""The states that nothing leads out of."""


class Outcome(StrEnum):
    """How one device of a rollout stands."""

    PENDING = "PENDING"  # its turn has not come
    UPDATING = "UPDATING"  # it has an update that has not ended
    SUCCEEDED = "SUCCEEDED"  # it runs the image, committed
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"  # it had no chance to take the image: nothing is concluded from it


class Cause(StrEnum):
    """Why a rollout is paused: what a resume overrules."""

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
    """How a rollout is to go. Percents are from 0 to 100."""

    phases: tuple[float, ...] = attrs.field(default=(1.0, 10.0, 100.0), validator=PHASES)
    """Percents of the devices, in ascending order, the last of them 100."""
    success_percent: float = attrs.field(default=95.0, validator=_PERCENT)
    """Of a phase's devices, those skipped left out, so many have to succeed before the next phase begins."""
    error_percent: float = attrs.field(default=10.0, validator=_PERCENT)
    """If more than so many of a phase's devices that have ended have failed, the rollout pauses."""
    min_sample: int = 5
    """Devices of a phase, or all of a smaller one, that must have ended before errors are counted."""
    rate: int | None = 60
    """Devices that begin in a minute; None: as many as `max_active` lets."""
    max_active: int = 50
    """Devices that are being updated at the same time: at most so many have an image that is not judged yet."""
    window: Window | None = attrs.field(default=None, validator=instance(Window).or_none())
    """When devices may begin; None: always. Updates that are under way are not stopped at its end."""
    offline_wait: float = attrs.field(default=7 * DAY, validator=number(above=False))
    """Seconds from the beginning of its phase in which a device may still come online; 0: who is offline is skipped."""
    timeout: float = 30 * DAY
    """Seconds in which the whole has to end."""
    approval: bool = False
    """Whether somebody has to approve before the first phase begins."""
    options: Options = attrs.field(default=Options(), validator=instance(Options))
    """Of each device's update."""

    def is_open(self, now: float) -> bool:
        """Whether devices may begin at a time, in Unix seconds."""
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
        return self.pending + self.updating + self.succeeded + self.failed + self.skipped

    @property
    def judged(self) -> int:
        """Those from whose end something can be concluded."""
        return self.succeeded + self.failed

    @property
    def all_ended(self) -> bool:
        return not self.pending and not self.updating

    def plus(self, outcome: Outcome, number: int = 1) -> Counts:
        """With so many more of an outcome."""
        name = outcome.value.lower()
        return attrs.evolve(self, **{name: getattr(self, name) + number})


def added(counts: Iterable[Counts]) -> Counts:
    """The sum."""
    rows = [attrs.astuple(each) for each in counts]
    return Counts(*map(sum, zip(*rows, strict=True))) if rows else Counts()


@attrs.frozen(kw_only=True)
class Member:
    """One device of a rollout, once its turn has come. A device without one is PENDING."""

    device: str
    outcome: Outcome = Outcome.PENDING
    attempt: int = 0
    """How often it was given the image; with it the update's id is made."""
    round: int = 1
    """In which round its outcome was reached: a FAILED of an earlier one is PENDING again."""
    reason: str = ""
    """Why it failed or was skipped, for a person."""
    changed: float = 0.0
    """Unix seconds."""


@attrs.frozen(kw_only=True)
class Rollout:
    """One image on its way into many devices. Times are Unix seconds. Made by `Rollout.begun`."""

    id: str
    name: str
    image: Image
    plan: Plan
    filter: tuple[str, ...]
    """The terms by which the devices were selected; they were fixed when the rollout was made."""
    created: float
    changed: float
    """When it came into its state."""
    ends: tuple[int, ...]
    """The index behind the last device of each phase, in the order of `ordered`."""
    counts: tuple[Counts, ...]
    """Of each phase, as they were when this was stored."""
    state: State = State.RUNNING
    reason: str = ""
    """Why it is where it is, for a person."""
    phase: int = 0
    """The index of the phase that has begun last."""
    phase_started: tuple[float, ...] = ()
    """When the phases began, or were taken up again: waiting for devices that are offline counts from here."""
    round: int = 1
    """Grows when what has failed is tried again."""
    cause: Cause | None = None
    """Why it is paused."""
    forgiven: tuple[Counts, ...] = ()
    """What each phase had come to at the last resume: only what came after it is judged."""
    accepted: int = 0
    """Phases before this index may be left without the success that they should have had."""
    next_start: float = 0.0
    """The next device may begin from here on, by the rate."""

    @classmethod
    def begun(
        cls, id: str, name: str, image: Image, plan: Plan, filter: Sequence[str], members: int, *, now: float
    ) -> Rollout:
        """A new rollout to a number of devices. Raises `InvalidInput` for none, or too many."""
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
            state=State.AWAITING_APPROVAL if plan.approval else State.RUNNING,
            phase_started=() if plan.approval else (now,),
        )

    @property
    def ended(self) -> bool:
        """Whether it is over: no event changes it any more."""
        return self.state in ENDS

    @property
    def members(self) -> int:
        """How many devices it has."""
        return self.ends[-1]

    @property
    def newest_time(self) -> float:
        """When something has happened to it last, in Unix seconds."""
        return max(self.created, self.changed, *self.phase_started)

    def moved(self, seconds: float) -> Rollout:
        """The rollout with all its times later by so many seconds: of the same age, on another clock."""
        return attrs.evolve(
            self,
            created=self.created + seconds,
            changed=self.changed + seconds,
            phase_started=tuple(time + seconds for time in self.phase_started),
            next_start=self.next_start + seconds if self.next_start else 0.0,
        )

    def outcome(self, member: Member | None) -> Outcome:
        """How a device stands in the present round."""
        if member is None or (member.outcome is Outcome.FAILED and member.round < self.round):
            return Outcome.PENDING
        return member.outcome

    def to_stored(self) -> dict[str, Any]:
        """Plain JSON values, for a document store."""
        stored: dict[str, Any] = msgspec.to_builtins(self)
        return stored

    @classmethod
    def from_stored(cls, document: object) -> Rollout:
        """The inverse of `to_stored`. Raises `InvalidInput`."""
        try:
            return msgspec.convert(document, cls)
        except msgspec.ValidationError as exc:
            raise InvalidInput(f"not a stored rollout: {exc}") from None


def ordered(account: str, devices: Iterable[str]) -> list[str]:
    """Device ids in the order of a hash of account and id: whatever the rollout, the same devices come first."""

    def place(device: str) -> bytes:
        return hashlib.sha256(f"{account}/{device}".encode()).digest()

    return sorted(devices, key=place)


def update_id(rollout: str, device: str, attempt: int) -> str:
    """The id of a device's update: the same, whoever makes it, and however often.

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
"""What the end of a device's update means for the rollout."""


class Ended(Protocol):
    """An update that has ended: itself, or what is remembered of it."""

    @property
    def state(self) -> UpdateState: ...
    @property
    def reason(self) -> str: ...
    @property
    def started(self) -> float | None: ...


def settled(member: Member, update: Ended, state: State, *, now: float) -> Member:
    """A member after its update has ended, while the rollout is in `state`."""
    outcome = _OUTCOMES[update.state]
    if update.started is None and update.state in (UpdateState.TIMED_OUT, UpdateState.CANCELED):
        # Nothing was ever sent to the device. What a pause took out of the queue has its turn again.
        held = update.state is UpdateState.CANCELED and state is State.PAUSED
        outcome = Outcome.PENDING if held else Outcome.SKIPPED
    reason = "" if outcome is Outcome.SUCCEEDED else f"{update.state}: {update.reason or 'no reason given'}"
    return attrs.evolve(member, outcome=outcome, reason=reason, changed=now)
