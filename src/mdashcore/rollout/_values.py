"""The stored values of a rollout."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import attrs
import msgspec

from mdashcore._checked import check_time
from mdashcore._errors import InvalidInput
from mdashcore._first_grammar import translated
from mdashcore.ota import UpdateImage
from mdashcore.rollout._members import Counts, Failure, Member, Outcome
from mdashcore.rollout._plan import Plan, RolloutKind

MAX_MEMBERS = 20_000  # devices: their ids are 20 documents, and stay in memory while the rollout goes on
FILTER_GRAMMAR = 2  # of the filters that are stored now; 1 was that of version 0.1


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


class Cause(StrEnum):
    """The cause of a pause, which a resume overrules."""

    REQUEST = "request"
    ERRORS = "errors"
    SUCCESS = "success"


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
    """When the phases began. A version without `resumed` has stored when they continued after a pause."""
    resumed: float | None = None
    """When it continued after its last pause, or tried failed devices again; `None` if it never did."""
    round: int = 1
    """Grows when the failed devices are tried again."""
    cause: Cause | None = None
    """Why it is paused; `None` if it is not."""
    forgiven: tuple[Counts, ...] = ()
    """The counts of each phase when its failures were forgiven last. Only later outcomes are judged for errors."""
    failures: tuple[Failure, ...] = ()
    """Why devices have failed in the present round, the most frequent reasons first."""
    accepted: int = 0
    """Phases before this index may end without the success that they should have had."""
    next_start: float = 0.0
    """When the next device may begin, by the rate."""
    kind: RolloutKind = RolloutKind.ROLLOUT
    grammar: int = 1
    """The grammar of `filter` as stored: 1 up to version 0.1, whose terms `from_stored` translates, else 2."""
    driver: str | None = None
    """The id of the node that drives it, or `None` if none has so far. When it is gone, another one takes over."""
    blob: str | None = None
    """The id of the image's blob, if that is kept in the firmware library; `None` if the rollout has its own, under its
    own id."""
    owner: str = ""
    """The account for which it was created, told from a later one of that name; empty if that is not known."""
    unannounced: tuple[str, ...] = ()
    """States, or ``phase``, of which subscribers may not have been notified yet. They are notified at least once."""

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
        owner: str = "",
        kind: RolloutKind = RolloutKind.ROLLOUT,
    ) -> Rollout:
        """Return a new rollout.

        Args:
            members: the number of selected devices.
            now: Unix seconds.
            blob: the id of a blob in the firmware library; `None` for a blob of its own.
            owner: as in `Rollout`.
            kind: what it is for people; the plan says how it goes on.

        Raises:
            InvalidInput: there are no devices, or more than `MAX_MEMBERS`; or `now` is no time.
        """
        check_time("now", now)
        if not members:
            raise InvalidInput("the selection has no devices")
        if members > MAX_MEMBERS:
            raise InvalidInput(f"the selection has {members} devices; a rollout has at most {MAX_MEMBERS}")
        ends = plan.ends(members)
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
            owner=owner,
            kind=kind,
        )

    @property
    def ended(self) -> bool:
        """Whether the rollout has ended: no event changes it any more."""
        return self.state in ROLLOUT_ENDS

    @property
    def finished(self) -> bool:
        """Whether it has ended and subscribers were notified of that: nothing is left to drive."""
        return self.ended and not self.unannounced

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
        return max(self.created, self.changed, self.resumed or 0.0, *self.phase_started)

    def moved(self, seconds: float) -> Rollout:
        """Return the rollout with all its times later by so many seconds: it has the same age on another clock."""
        check_time("seconds", seconds)
        return attrs.evolve(
            self,
            created=self.created + seconds,
            changed=self.changed + seconds,
            phase_started=tuple(time + seconds for time in self.phase_started),
            resumed=None if self.resumed is None else self.resumed + seconds,
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
