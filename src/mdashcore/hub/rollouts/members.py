"""The devices of a rollout that is being driven: the state of each, and the counts of each phase."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import attrs

from mdashcore import rollout
from mdashcore._errors import Damaged, NotFound, VersionConflict
from mdashcore.hub.records.store import Record, scoped
from mdashcore.hub.rollouts.service import Rollouts, count
from mdashcore.identity import DeviceKey
from mdashcore.ota import Update
from mdashcore.rollout import Counts, Ended, Failure, Member, Outcome, Rollout, update_id

__all__ = ["START_GRACE", "Members"]

START_GRACE: Final = 60.0  # seconds in which a node that has stored an update's beginning begins it, or has died


MEMBER_DAMAGED: Final = "what was stored of it is damaged"


class Members:
    """The members of one rollout. Every change is a compare-and-set. A lost one loads the stored value."""

    def __init__(self, rollouts: Rollouts, account: str, present: Rollout) -> None:
        self._rollouts = rollouts
        self._account = account
        self._present = present
        self._devices: list[str] = []
        self._phases: dict[str, int] = {}
        self._known: dict[str, Record[Member]] = {}
        self._counts: list[Counts] = []
        self.unbegun: dict[str, float] = {}
        """Devices that are stored as UPDATING without having an update, and the time since which that is known, by the
        monotonic clock."""

    async def load(self) -> None:
        """Read the ids of the rollout's devices."""
        self._devices = await self._rollouts.devices(self._account, self._present.id)
        start = 0
        for phase, end in enumerate(self._present.ends):
            self._phases |= dict.fromkeys(self._devices[start:end], phase)
            start = end

    async def refresh(self) -> list[str]:
        """Read all stored members. Returns the devices that are UPDATING."""
        damaged: list[str] = []
        stored = [member async for member in self._rollouts.begun_members(self._account, self._present.id, damaged)]
        for device in damaged:
            if device in self._phases:
                await self.read(device)
        for member in stored:
            if self.get(member.device) != member and member.device in self._phases:
                await self.read(member.device)
        self._count()
        return self.updating()

    def follow(self, present: Rollout) -> None:
        """Use a changed rollout from now on."""
        before, self._present = self._present, present
        if before.round != present.round:
            self._count()

    # Their states

    def __contains__(self, device: str) -> bool:
        return device in self._phases

    @property
    def counts(self) -> tuple[Counts, ...]:
        """The number of devices with each outcome, for each phase."""
        return tuple(self._counts)

    def phase(self, device: str) -> int:
        """Return the index of a device's phase."""
        return self._phases[device]

    def of_phase(self, phase: int) -> Iterator[str]:
        """Yield the devices of a phase, in order."""
        start = self._present.ends[phase - 1] if phase else 0
        yield from self._devices[start : self._present.ends[phase]]

    def get(self, device: str) -> Member | None:
        """Return the member of a device, or `None` before its turn."""
        record = self._known.get(device)
        return None if record is None else record.value

    def outcome(self, device: str) -> Outcome:
        """Return the outcome of a device in the present round."""
        return self._present.outcome(self.get(device))

    def failures(self) -> tuple[Failure, ...]:
        """Return the most frequent reasons of the devices that have failed in the present round."""
        failed = (record.value for record in self._known.values() if record.value.outcome is Outcome.FAILED)
        return rollout.most_frequent(each.reason for each in failed if self._present.outcome(each) is Outcome.FAILED)

    def waits(self, device: str) -> bool:
        """Return whether a device may still begin."""
        return self.outcome(device) is Outcome.PENDING or device in self.unbegun

    def updating(self) -> list[str]:
        """Return the devices that are UPDATING."""
        return [device for device in self._known if self.outcome(device) is Outcome.UPDATING]

    def update_id(self, device: str) -> str:
        """Return the id of the device's present update."""
        member = self.get(device)
        return update_id(self._present.id, device, member.attempt if member is not None else 0)

    # Changing them

    async def read(self, device: str) -> Outcome:
        """Read the stored member of a device. Returns its outcome."""
        try:
            record = await self._rollouts.members.get(self._key(device))
        except Damaged:  # the device's turn may have come already, so it is skipped from now on
            member = Member(device=device, outcome=Outcome.SKIPPED, reason=MEMBER_DAMAGED, round=self._present.round)
            member = attrs.evolve(member, changed=self._rollouts.clock.now())
            record = Record(member, await self._rollouts.members.put(self._key(device), member))
        if record is not None:
            self._set(device, record)
        return self.outcome(device)

    async def begin(self, device: str) -> bool:
        """Store that a device's update begins. Returns `False` if another writer was quicker."""
        clock = self._rollouts.clock
        member = self.get(device) or Member(device=device)
        try:
            before = await self._rollouts.updates.get(self._device(device))
        except Damaged:
            before = None  # the new update takes its place
        begun = attrs.evolve(
            member,
            outcome=Outcome.UPDATING,
            attempt=member.attempt + 1,
            round=self._present.round,
            reason="",
            changed=clock.now(),
            before="" if before is None else before.id,
        )
        if await self._put(begun):
            self.unbegun[device] = clock.monotonic()
            return True
        return False

    async def postpone(self, device: str) -> None:
        """Return a device to the waiting ones, because its update could not begin."""
        await self._end(device, Outcome.PENDING, "")

    async def skip(self, device: str, reason: str) -> None:
        """Leave a device out of the rollout."""
        await self._end(device, Outcome.SKIPPED, reason)

    async def resolve(self, device: str) -> Update | None:
        """Store the end of the update of a device that is UPDATING. Returns the update if it has not ended."""
        since = self.unbegun.pop(device, self._rollouts.clock.monotonic())
        member = self.get(device)
        if member is None or self.outcome(device) is not Outcome.UPDATING:
            return None
        try:
            return await self._resolve(device, member, since)
        except Damaged:
            await self.skip(device, MEMBER_DAMAGED)
            return None

    async def _resolve(self, device: str, member: Member, since: float) -> Update | None:
        clock = self._rollouts.clock
        id = self.update_id(device)
        updates = self._rollouts.updates
        update = await updates.get(self._device(device))
        if update is not None and update.id == id and not update.ended:
            return update
        ended: Ended | None = update if update is not None and update.id == id else None
        if ended is None:
            past = (await updates.history(self._device(device))).past
            ended = next((each for each in past if each.id == id), None)
        if ended is not None:
            present, now = self._present, clock.now()
            await self._put(attrs.evolve(rollout.settled(member, ended, present.state, now=now), round=present.round))
        elif not await self.exists(device):
            await self.skip(device, "the device was removed")
        elif update is not None and _is_later(update, member) and clock.monotonic() >= since + START_GRACE:
            await self.skip(device, "another update took its place")
        else:
            self.unbegun[device] = since
        return None

    async def exists(self, device: str) -> bool:
        """Return whether the device is still registered."""
        try:
            await self._rollouts.registry.get(self._device(device))
        except NotFound:
            return False
        except Damaged:
            return True
        return True

    def _device(self, id: str) -> DeviceKey:
        return DeviceKey(self._account, id)

    def _key(self, device: str) -> str:
        return f"{scoped(self._account, self._present.id)}/{device}"

    def _count(self) -> None:
        self._counts = count(self._present, self._devices, self.get)

    def _set(self, device: str, record: Record[Member]) -> None:
        before = self.outcome(device)
        self._known[device] = record
        after = self.outcome(device)
        if before is not after and self._counts:
            phase = self._phases[device]
            self._counts[phase] = self._counts[phase].plus(before, -1).plus(after)

    async def _end(self, device: str, outcome: Outcome, reason: str) -> None:
        member = self.get(device) or Member(device=device)
        present, now = self._present, self._rollouts.clock.now()
        await self._put(attrs.evolve(member, outcome=outcome, reason=reason, round=present.round, changed=now))
        self.unbegun.pop(device, None)

    async def _put(self, member: Member) -> bool:
        known = self._known.get(member.device)
        expected = 0 if known is None else known.version
        try:
            version = await self._rollouts.members.put(self._key(member.device), member, expected=expected)
        except VersionConflict:
            await self.read(member.device)
            return False
        self._set(member.device, Record(member, version))
        return True


def _is_later(update: Update, member: Member) -> bool:
    """Return whether an update was made after a member's turn had come."""
    if member.before is None:
        return update.created >= member.changed
    return update.id != member.before
