"""One rollout being driven: what its devices' updates have come to is judged, and acted upon.

Several processes may drive the same rollout, each for the devices that are connected to it. What keeps them from
harm: a decision is a compare-and-set of the rollout, a device's turn one of its member; who loses looks again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Collection
from math import inf
from typing import Final, Protocol, TypeAlias

import attrs

from mdashcore import ota, rollout
from mdashcore._errors import Busy, Conflict, Damaged, DeviceOffline, NotFound, VersionConflict
from mdashcore.hub.records.store import Record, scoped
from mdashcore.hub.rollouts.members import GRACE, Members
from mdashcore.hub.rollouts.service import Rollouts
from mdashcore.hub.updates.store import blob_key
from mdashcore.identity import DeviceKey
from mdashcore.rollout import Outcome, Rollout, State

__all__ = ["RolloutPerformer", "UpdateStarter"]

TELL_INTERVAL: Final = 1.0  # seconds between two reports of progress, each of which is stored

SKIP_BATCH: Final = 256  # devices that are skipped before others have their turn: 0.1 s of writing to disk


_Tell: TypeAlias = Callable[[str, Rollout], Awaitable[None]]


class UpdateStarter(Protocol):
    """Who has the devices: a node's updater, or an embedder's own."""

    def is_connected(self, key: DeviceKey) -> bool:
        """Whether this process can begin an update of the device."""

    async def start(self, key: DeviceKey, id: str, image: ota.Image, options: ota.Options, *, blob: str) -> object:
        """Begin an update; raises `Conflict`, `DeviceOffline`, `NotFound`, `Busy`."""

    async def cancel(self, key: DeviceKey) -> object:
        """Take an update back; raises `Conflict` where that is too late, `NotFound`."""


class RolloutPerformer:
    """One rollout being driven. For one task; made by `load`."""

    def __init__(self, rollouts: Rollouts, hands: UpdateStarter, account: str, record: Record[Rollout]) -> None:
        self._rollouts = rollouts
        self._hands = hands
        self._account = account
        self._rollout = record.value
        self._version = record.version
        self._clock = rollouts.clock
        self._age = rollouts.age(account, record.value)
        self._members = Members(rollouts, account, record.value)
        self._ready: dict[str, None] = {}
        """Devices whose turn it may be, in order."""
        self._late: dict[int, list[str]] = {}
        """Of phases whose devices are not waited for any more: those that have to be looked at."""
        self._to_hold: dict[str, None] = {}
        """Devices whose update may have to be taken back."""
        self._queued_for: tuple[object, ...] = ()
        self._held_for: tuple[object, ...] = ()
        self._told_at = -inf
        self._untold: deque[tuple[_Tell, Rollout]] = deque()
        """Decisions that were stored, and nobody told yet."""
        self.gone: bool = False
        """Whether there is nothing to drive any more: it has ended, or was removed."""

    @classmethod
    async def load(cls, rollouts: Rollouts, hands: UpdateStarter, account: str, id: str) -> RolloutPerformer:
        """Take up a rollout as it is stored. Raises `NotFound` for one that is not there, or has ended."""
        record = await rollouts.records.get(scoped(account, id))
        if record is None or record.value.ended:
            raise NotFound(f"no rollout {id!r} that goes on")
        run = cls(rollouts, hands, account, record)
        await run._members.load()
        await run.refresh()
        return run

    def __contains__(self, device: str) -> bool:
        return device in self._members

    def now(self) -> float:
        """Return the present time in Unix seconds, comparable with the times of the rollout.

        It goes on evenly, and is that of the wall clock as soon as a step of that one was followed.
        """
        return self._age.now(self._rollout.created)

    async def refresh(self) -> None:
        """Look at everything again: what was told meanwhile was not heard."""
        await self.reload()
        await self._look_at_all()
        self._queued_for = ()

    async def _look_at_all(self) -> None:
        for device in await self._members.refresh():
            await self._settle(device)

    async def reload(self) -> None:
        """Somebody has changed the rollout, or removed it."""
        record = await self._rollouts.records.get(self._key)
        if record is None:
            self.gone = True
        else:
            self._take_over(record.value, record.version)

    async def look(self, device: str) -> None:
        """Something has happened to a device, or to its update."""
        outcome = await self._members.read(device)
        if outcome is Outcome.UPDATING:
            await self._settle(device)
        elif self._members.waits(device) and not await self._members.exists(device):
            await self._members.skip(device, "the device was removed")
        self._queue(device)

    async def step(self) -> float | None:
        """Do all that is due: when, by `now`, there is more to do although nothing happens; None at the end.

        Raises:
            StorageError: it is not all done; calling it again does the rest.
        """
        await self._tell()
        await self._follow_clock()
        await self._judge()
        if not self.gone:
            await self._hold()
            await self._begin_due()
            await self._skip_late()
            await self._judge()
        if self._rollout.ended and not self.gone:
            await self._rollouts.blobs.delete(blob_key(self._account, self._rollout.id))
            self.gone = True
        return None if self.gone else await self._tell_progress(self._next_look())

    # Deciding

    @property
    def _key(self) -> str:
        return scoped(self._account, self._rollout.id)

    def _take_over(self, present: Rollout, version: int) -> None:
        self._rollout, self._version = present, version
        self._members.follow(present)

    async def _follow_clock(self) -> None:
        """Give the rollout times of the wall clock again, where that was set."""
        while not (self.gone or self._rollout.ended):
            offset = self._clock.offset
            by = self._age.correction(self._rollout.created, offset)
            if not by:
                return
            if await self._store(self._rollout.moved(by)):
                self._age.followed = offset

    async def _judge(self) -> None:
        looked = False
        while not self.gone:
            present, counts, now = self._rollout, self._members.counts, self.now()
            judged = rollout.judge(present, counts, now)
            if judged is present:
                return
            if judged.state is State.ABORTED and present.state is not State.ABORTING:
                judged = rollout.advance(present, rollout.DeadlinePassed(rollout.added(counts)), now=now)
            elif judged.state is State.ABORTED and not looked:
                # Another process may have let a device begin before it could know: see `_begin`.
                await self._look_at_all()
                looked = True
                continue
            await self._store(judged)

    async def _store(self, changed: Rollout) -> bool:
        """Store a decision and tell it; False, and what is there taken over, where somebody else was quicker."""
        before, rollouts = self._rollout, self._rollouts
        try:
            version = await rollouts.records.put(self._key, changed, expected=self._version)
        except VersionConflict:
            await self.reload()
            return False
        self._take_over(changed, version)
        if changed.phase != before.phase:
            self._untold.append((rollouts.tell_phase, changed))
        if changed.state is not before.state:
            self._untold.append((rollouts.tell, changed))
        await self._tell()
        return True

    async def _tell(self) -> None:
        while self._untold:
            tell, changed = self._untold[0]
            await tell(self._account, changed)
            self._untold.popleft()

    async def _tell_progress(self, next_look: float) -> float:
        counts = self._members.counts
        if self._rollout.counts == counts:
            return next_look
        time = self._clock.monotonic()
        if time - self._told_at < TELL_INTERVAL:
            return min(next_look, self.now() + self._told_at + TELL_INTERVAL - time)
        if not await self._store(attrs.evolve(self._rollout, counts=counts)):
            return self.now()
        self._told_at = time
        await self._rollouts.tell_progress(self._account, self._rollout)
        return next_look

    def _next_look(self) -> float:
        present, counts, now = self._rollout, self._members.counts, self.now()
        if any(self._late.values()):
            return now
        # If the window or the rate keeps a device from beginning, only time helps; of anything else is heard.
        active = sum(each.updating for each in counts)
        ready = bool(self._ready) and active < present.plan.max_active
        times = [rollout.next_look(present, counts, now, ready=ready, wall=self._clock.now())]
        if present.state is State.ABORTING:
            time = self._clock.monotonic()
            times += [now + since + GRACE - time for since in self._members.unbegun.values()]
        return min(times)

    # Beginning

    def _queue(self, device: str) -> None:
        members = self._members
        if members.phase(device) <= self._rollout.phase and members.waits(device) and self._is_here(device):
            self._ready[device] = None

    def _queue_all(self) -> None:
        """Queue the devices of the phases that have begun, after anything that concerns them all has changed."""
        present = self._rollout
        wanted = (present.phase, present.round, present.phase_started)
        if wanted == self._queued_for:
            return
        self._queued_for = wanted
        self._ready.clear()
        self._late.clear()
        for phase in range(present.phase + 1):
            for device in self._members.of_phase(phase):
                self._queue(device)

    async def _begin_due(self) -> None:
        """Let as many devices begin as may; the rollout is stored before the first of them."""
        while self._goes_on():
            self._queue_all()
            now, counts, wall = self.now(), self._members.counts, self._clock.now()
            free = rollout.budget(self._rollout, counts, now, wall=wall)
            left = min(len(self._members.unbegun), rollout.BATCH) if self._rollout.plan.is_open(wall) else 0
            again = await self._take(left, self._members.unbegun)
            first = await self._take(free, self._ready)
            if not again and not first:
                return
            self._ready = dict.fromkeys([*again, *first, *self._ready])  # until it is stored, none has had its turn
            if not await self._store(attrs.evolve(rollout.claim(self._rollout, len(first), now), counts=counts)):
                continue
            for device in (*again, *first):
                if not self._goes_on():
                    return
                await self._begin(device)
                self._ready.pop(device, None)

    async def _take(self, number: int, among: Collection[str]) -> list[str]:
        """Take devices out of the queue that may begin."""
        taken: list[str] = []
        if not number:
            return taken
        for device in [each for each in self._ready if each in among]:
            if len(taken) == number:
                break
            if await self._may_begin(device):
                taken.append(device)
            self._ready.pop(device, None)
        return taken

    async def _may_begin(self, device: str) -> bool:
        if device in self._members.unbegun:
            await self._settle(device)  # whoever has stored that it begins may have begun it now
        if not self._members.waits(device):
            return False
        if not self._is_here(device):
            await self._skip_if_late(device, "its turn came, and it was offline")
            return False
        present = await self._present(device)
        if present is not None and not present.ended:
            await self._skip_if_late(device, "its turn came, and another update of it was going on")
            return False
        return True

    async def _begin(self, device: str) -> None:
        """Begin the update of a device. Doing it twice does no harm.

        Whether it may is looked at once the device is stored as UPDATING, and who ends the rollout looks at the devices
        once that is stored: one of both sees the other.
        """
        members = self._members
        if device not in members.unbegun and not await members.begin(device):
            return
        await self.reload()
        if not self._goes_on():
            await members.postpone(device)
            return
        present = self._rollout
        id = members.update_id(device)
        try:
            await self._hands.start(
                DeviceKey(self._account, device), id, present.image, present.plan.options, blob=present.id
            )
        except (Conflict, DeviceOffline, NotFound, Busy):
            update = await self._present(device)
            if update is None or update.id != id:
                await members.postpone(device)
        members.unbegun.pop(device, None)

    async def _present(self, device: str) -> ota.Update | None:
        """The device's newest update. One that cannot be read counts as none: another one takes its place."""
        try:
            return await self._rollouts.updates.get(DeviceKey(self._account, device))
        except Damaged:
            return None

    def _goes_on(self) -> bool:
        return not self.gone and self._rollout.state is State.RUNNING

    def _is_here(self, device: str) -> bool:
        return self._hands.is_connected(DeviceKey(self._account, device))

    # Those that are not there

    def _is_away(self, device: str) -> bool:
        return self._members.waits(device) and not self._is_here(device)

    def _may_skip(self, device: str) -> bool:
        deadline = rollout.offline_deadline(self._rollout, self._members.phase(device))
        return self._rollout.state is State.RUNNING and self.now() >= deadline

    async def _is_online(self, device: str) -> bool:
        """Whether the device is connected, to this process or another."""
        if self._is_here(device):
            return True
        try:
            return (await self._rollouts.presence.get(DeviceKey(self._account, device))).online
        except Damaged:
            return False

    async def _skip_if_late(self, device: str, why: str) -> None:
        if self._may_skip(device):
            await self._members.skip(device, why)

    async def _skip_late(self) -> None:
        """Skip those that did not come online in time, some at once."""
        present, now, left = self._rollout, self.now(), SKIP_BATCH
        if not self._goes_on():
            return
        for phase in range(present.phase + 1):
            if phase not in self._late and now >= rollout.offline_deadline(present, phase):
                self._late[phase] = [device for device in self._members.of_phase(phase) if self._is_away(device)]
            late = self._late.get(phase, [])
            while late and left:
                left -= 1
                device = late.pop()
                if self._is_away(device) and not await self._is_online(device):
                    await self._members.skip(device, "it did not come online in time")

    # Taking back

    async def _settle(self, device: str) -> None:
        """See what has become of a device's update."""
        if await self._members.settle(device) is not None:
            self._to_hold[device] = None

    async def _hold(self) -> None:
        """Take back what must not begin any more."""
        present = self._rollout
        if present.state is not State.RUNNING:
            self._queued_for = ()  # who waits is looked for anew when it goes on
        if self._held_for != (present.state, present.changed):
            self._to_hold |= dict.fromkeys(self._members.updating())
            self._held_for = present.state, present.changed
        while self._to_hold:
            device = next(iter(self._to_hold))
            if await self._must_go(device):
                try:
                    await self._hands.cancel(DeviceKey(self._account, device))
                    await self._members.settle(device)  # now: what a pause takes back has its turn again
                except (Conflict, NotFound, Busy):
                    pass  # it got on meanwhile, and ends by itself
            self._to_hold.pop(device, None)
        time, members = self._clock.monotonic(), self._members
        for device in [each for each, since in members.unbegun.items() if time >= since + GRACE]:
            if present.state is State.ABORTING:
                await members.skip(device, "the rollout was aborted before it began")
            elif not await self._is_online(device):
                await members.postpone(device)  # or it would keep its place from others for as long as it is away

    async def _must_go(self, device: str) -> bool:
        """At an abort, all that can; before, what waits in a queue for a device that has gone."""
        update = await self._present(device)
        if update is None or update.id != self._members.update_id(device) or not ota.can_cancel(update):
            return False
        if self._rollout.state is State.ABORTING or update.state is not ota.State.QUEUED:
            return self._rollout.state is State.ABORTING
        return self._rollout.state is State.PAUSED or (self._may_skip(device) and not await self._is_online(device))
