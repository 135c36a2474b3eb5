"""The devices of a rollout: the outcome of each, and how many have which."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from enum import StrEnum

import attrs

from mdashcore import identity

MAX_FAILURE_REASONS = 5  # different reasons that a rollout keeps: devices that fail for one image mostly say the same

MAX_FAILURE_TEXT = 200  # characters of each: a device's own words have under 100


class Outcome(StrEnum):
    """The state of one device in a rollout."""

    PENDING = "PENDING"  # its turn has not come
    UPDATING = "UPDATING"  # it has an update that has not ended
    SUCCEEDED = "SUCCEEDED"  # it runs the image, committed
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"  # it had no chance to take the image, so the judgement leaves it out


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


@attrs.frozen
class Failure:
    """A reason for which devices have failed."""

    reason: str
    devices: int


def most_frequent(reasons: Iterable[str]) -> tuple[Failure, ...]:
    """Return the most frequent reasons of failed devices, the most frequent first."""
    found = Counter(reason[:MAX_FAILURE_TEXT] for reason in reasons).most_common(MAX_FAILURE_REASONS)
    return tuple(Failure(reason, devices) for reason, devices in found)


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
