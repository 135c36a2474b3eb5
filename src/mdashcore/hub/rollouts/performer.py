"""The performer of one rollout: it judges the results of the devices' updates, and acts on them.

One node drives a rollout, for devices that are connected to any node; the rollout's record names it. So `max_active`
and the rate hold for the rollout as a whole. When that node is gone another one takes over, and for a moment both may
be at work. Two rules make that safe: a decision is a compare-and-set of the rollout, and a device's turn is one of its
member. The loser reads again, and stops if the rollout names another driver.
"""

from __future__ import annotations

from collections.abc import Collection
from math import inf
from typing import Final, Protocol

import attrs

from mdashcore import notifications, ota, rollout
from mdashcore._errors import Busy, Conflict, Damaged, DeviceOffline, NotFound
from mdashcore.hub.driven_record import DrivenRecord
from mdashcore.hub.leases import Leases, take
from mdashcore.hub.records.store import Record, scoped
from mdashcore.hub.rollouts.members import START_GRACE, Members
from mdashcore.hub.rollouts.service import Rollouts
from mdashcore.hub.updates.store import blob_key
from mdashcore.identity import DeviceKey
from mdashcore.rollout import Outcome, Rollout, RolloutState, added

__all__ = ["RolloutPerformer", "UpdateStarter"]

PHASE_BEGUN: Final = notifications.ROLLOUT_PHASE.removeprefix("rollout.")  # its name in `Rollout.unannounced`

SKIP_BATCH: Final = 256  # devices that are skipped before other tasks run: 0.1 s of writing to disk

LOOKUP_BATCH: Final = 256  # devices whose presence is read before other tasks run: 0.1 s of reading

RETURN_GRACE: Final = 60.0  # seconds for devices to come back after their node has died, as all do within a minute

OFFLINE_RECHECK: Final = 600.0  # seconds for which a device without a sign counts as offline: the bus may lose `online`


class UpdateStarter(Protocol):
    """The interface through which updates begin: a node's update supervisor, or an embedder's own object."""

    def is_connected(self, key: DeviceKey) -> bool:
        """Return whether the device is connected to this process. For any other device the presence record is read."""

    async def start(
        self, key: DeviceKey, id: str, image: ota.UpdateImage, options: ota.Options, *, blob: str
    ) -> object:
        """Begin an update. Raises `Conflict`, `DeviceOffline`, `NotFound`, `Busy`."""

    async def cancel(self, key: DeviceKey) -> object:
        """Cancel an update. Raises `NotFound`, or `Conflict` if it is too late."""


class RolloutPerformer:
    """Performs one rollout, in one task. Made by `load`."""

    def __init__(
        self,
        rollouts: Rollouts,
        starter: UpdateStarter,
        account: str,
        record: Record[Rollout],
        leases: Leases | None = None,
    ) -> None:
        self._rollouts = rollouts
        self._starter = starter
        self._account = account
        self._driven = DrivenRecord(rollouts, account, record, leases)
        self._clock = rollouts.clock
        self._age = rollouts.age(account, record.value)
        self._members = Members(rollouts, account, record.value)
        self._ready: dict[str, None] = {}
        """Devices that may begin, in order: they have not begun, and are not known to be offline."""
        self._offline: set[str] = set()
        """Devices that were offline when their turn came, and of which nothing was heard since."""
        self._looked_at = rollouts.clock.monotonic()
        """When that set was last emptied, by the monotonic clock."""
        self._skips_from = -inf
        """When offline devices may be skipped, by the monotonic clock: not just after the end of the node before."""
        self._late: dict[int, list[str]] = {}
        """For each phase whose time to come online has passed: the devices that are still to be checked."""
        self._to_cancel: dict[str, None] = {}
        """Devices whose update may have to be canceled."""
        self._queued_for: tuple[object, ...] = ()
        self._canceled_for: tuple[object, ...] = ()
        self._is_done = False
        """Whether the rollout is finished, and its own image is deleted."""

    @classmethod
    async def load(
        cls, rollouts: Rollouts, starter: UpdateStarter, account: str, id: str, leases: Leases | None = None
    ) -> RolloutPerformer:
        """Load a rollout as it is stored.

        Args:
            leases: the node that is to drive it, which becomes its driver; without it, the caller makes sure that no
                other process drives it.

        Raises:
            NotFound: it does not exist, is finished, or was created for an earlier account of that name.
            Conflict: another living node drives it.
        """
        record, before = await take(rollouts.records, scoped(account, id), leases, f"the rollout {id!r}")
        await rollouts.check_owner(account, record.value)
        performer = cls(rollouts, starter, account, record, leases)
        if before is not None:
            performer._skips_from = rollouts.clock.monotonic() + RETURN_GRACE
        if not record.value.ended:
            await performer._members.load()
            await performer.refresh()
        return performer

    @property
    def gone(self) -> bool:
        """Whether nothing is left to drive: the rollout is finished, was removed, or another node drives it."""
        return self._is_done or self._driven.gone

    @property
    def _rollout(self) -> Rollout:
        return self._driven.value

    def __contains__(self, device: str) -> bool:
        return device in self._members

    def now(self) -> float:
        """Return the present time in Unix seconds, comparable with the times of the rollout.

        It runs evenly, and equals the wall clock's as soon as the rollout has followed that clock's last step.
        """
        return self._age.now(self._rollout.created)

    async def refresh(self) -> None:
        """Read everything again, because the bus may have lost notifications."""
        await self.reload()
        if self._rollout.ended:
            return
        await self._resolve_all()
        if self._clock.monotonic() >= self._looked_at + OFFLINE_RECHECK:
            self.forget_offline()
        self._queued_for = ()

    def forget_offline(self) -> None:
        """Look for the presence of all devices again, because notifications were certainly missed."""
        self._offline.clear()
        self._looked_at = self._clock.monotonic()
        self._queued_for = ()

    async def _resolve_all(self) -> None:
        for device in await self._members.refresh():
            await self._resolve(device)

    async def reload(self) -> None:
        """Read the rollout again, after another writer has changed or removed it."""
        await self._driven.reload()
        self._members.follow(self._rollout)

    async def reload_device(self, device: str) -> None:
        """Read a device again, after it or its update has changed."""
        outcome = await self._members.read(device)
        if outcome is Outcome.UPDATING:
            await self._resolve(device)
        elif self._members.waits(device) and not await self._members.exists(device):
            await self._members.skip(device, "the device was removed")
        self._offline.discard(device)
        self._queue(device)

    async def step(self) -> float | None:
        """Do all that is due. Returns the time, by `now`, of the next step without any event, or `None` at the end.

        Raises:
            StorageError: a part is not done; calling it again does the rest.
        """
        await self._driven.announce()
        await self._follow_clock()
        await self._judge()
        if not self._is_over:
            await self._cancel_due()
            await self._begin_due()
            await self._skip_late()
            await self._judge()
        await self._driven.announce()  # of a decision that was stored although the storage has failed
        if self._rollout.ended and not self.gone:
            await self._rollouts.blobs.delete(blob_key(self._account, self._rollout.id))
            self._is_done = True
        return None if self.gone else await self._notify_progress(self._next_check())

    # Deciding

    @property
    def _is_over(self) -> bool:
        return self.gone or self._rollout.ended

    async def _follow_clock(self) -> None:
        """Give the rollout times of the wall clock again if that was set."""
        while not self._is_over:
            offset = self._clock.offset
            by = self._age.correction(self._rollout.created, offset)
            if not by:
                return
            if await self._store(self._rollout.moved(by)):
                self._age.followed = offset

    async def _judge(self) -> None:
        resolved = False
        while not self._is_over:
            present, counts, now = self._rollout, self._members.counts, self.now()
            judged = rollout.judge(present, counts, now)
            if judged is present:
                return
            if judged.state is RolloutState.ABORTED and present.state is not RolloutState.ABORTING:
                judged = rollout.advance(present, rollout.RolloutDeadlinePassed(rollout.added(counts)), now=now)
            elif judged.state is RolloutState.ABORTED and not resolved:
                # Another process may have let a device begin before it could read the abort: see `_begin`.
                await self._resolve_all()
                resolved = True
                continue
            await self._store(judged)

    async def _store(self, changed: Rollout) -> bool:
        """Store a decision, and notify subscribers. Returns `False` after loading another writer's decision instead."""
        before = self._rollout
        if added(changed.counts).failed != added(before.counts).failed:
            changed = attrs.evolve(changed, failures=self._members.failures())
        news = [PHASE_BEGUN] if changed.phase != before.phase else []
        if changed.state is not before.state:
            news.append(changed.state)
        try:
            return await self._driven.store(changed, *news)
        finally:
            self._members.follow(self._rollout)

    async def _notify_progress(self, next_check: float) -> float:
        counts = self._members.counts
        if self._rollout.counts == counts:
            return next_check
        if wait := self._driven.progress_due_in():
            return min(next_check, self.now() + wait)
        if not await self._store(attrs.evolve(self._rollout, counts=counts)):
            return self.now()
        await self._driven.notify_progress()
        return next_check

    def _next_check(self) -> float:
        present, counts, now = self._rollout, self._members.counts, self.now()
        if self._to_cancel or any(self._late.values()):
            return now
        # Only time ends a wait for the window or the rate; for anything else there is an event.
        active = sum(each.updating for each in counts)
        ready = bool(self._ready) and active < present.plan.max_active
        times = [rollout.next_look(present, counts, now, ready=ready, wall=self._clock.now())]
        if present.state is RolloutState.ABORTING:
            time = self._clock.monotonic()
            times += [now + since + START_GRACE - time for since in self._members.unbegun.values()]
        return min(times)

    # Beginning

    def _queue(self, device: str) -> None:
        members = self._members
        if members.phase(device) > self._rollout.phase or not members.waits(device):
            return
        if device not in self._offline or self._is_connected(device):
            self._ready[device] = None

    def _queue_all(self) -> None:
        """Queue the devices of the phases that have begun, if phase or round has changed, or it was resumed."""
        present = self._rollout
        wanted = (present.phase, present.round, present.phase_started, present.resumed)
        if wanted == self._queued_for:
            return
        self._queued_for = wanted
        self._ready.clear()
        self._late.clear()
        for phase in range(present.phase + 1):
            for device in self._members.of_phase(phase):
                self._queue(device)

    async def _begin_due(self) -> None:
        """Let as many devices begin as the plan allows. The rollout is stored before the first of them begins."""
        while self._is_running():
            self._queue_all()
            now, counts, wall = self.now(), self._members.counts, self._clock.now()
            free = rollout.budget(self._rollout, counts, now, wall=wall)
            left = min(len(self._members.unbegun), rollout.BATCH) if self._rollout.plan.is_open(wall) else 0
            again = await self._dequeue(left, self._members.unbegun)
            first = await self._dequeue(free, self._ready)
            if not again and not first:
                return
            self._ready = dict.fromkeys([*again, *first, *self._ready])  # all wait until the rollout is stored
            if not await self._store(attrs.evolve(rollout.claim(self._rollout, len(first), now), counts=counts)):
                continue
            for device in (*again, *first):
                if not self._is_running():
                    return
                await self._begin(device)
                self._ready.pop(device, None)

    async def _dequeue(self, number: int, among: Collection[str]) -> list[str]:
        """Remove devices that may begin from the queue, and return them. Looks at `LOOKUP_BATCH` of them at most."""
        taken: list[str] = []
        if not number:
            return taken
        for device in [each for each in self._ready if each in among][:LOOKUP_BATCH]:
            if len(taken) == number:
                break
            if await self._may_begin(device):
                taken.append(device)
            self._ready.pop(device, None)
        return taken

    async def _may_begin(self, device: str) -> bool:
        if device in self._members.unbegun:
            await self._resolve(device)  # another process that has stored its begin may have begun it now
        if not self._members.waits(device):
            return False
        if not await self._is_online(device):
            self._offline.add(device)
            await self._skip_if_late(device, "it did not come online in time")
            return False
        present = await self._newest_update(device)
        if present is not None and not present.ended:
            await self._skip_if_late(device, "its turn came, and another update of it was going on")
            return False
        return True

    async def _begin(self, device: str) -> None:
        """Begin the update of a device. May be repeated.

        The rollout is read after the device is stored as UPDATING. A process that ends the rollout reads the devices
        after it has stored the end. So at least one of the two sees the other.
        """
        members = self._members
        if device not in members.unbegun and not await members.begin(device):
            return
        await self.reload()
        if not self._is_running():
            await members.postpone(device)
            return
        present = self._rollout
        id = members.update_id(device)
        try:
            await self._starter.start(
                DeviceKey(self._account, device), id, present.image, present.plan.options, blob=present.blob_id
            )
        except (Conflict, DeviceOffline, NotFound, Busy):
            update = await self._newest_update(device)
            if update is None or update.id != id:
                await members.postpone(device)
        members.unbegun.pop(device, None)

    async def _newest_update(self, device: str) -> ota.Update | None:
        """Return the device's newest update, or `None` for a damaged one, which the next update replaces."""
        try:
            return await self._rollouts.updates.get(DeviceKey(self._account, device))
        except Damaged:
            return None

    def _is_running(self) -> bool:
        return not self.gone and self._rollout.state is RolloutState.RUNNING

    def _is_connected(self, device: str) -> bool:
        return self._starter.is_connected(DeviceKey(self._account, device))

    # Offline devices

    def _is_waiting_offline(self, device: str) -> bool:
        return self._members.waits(device) and not self._is_connected(device)

    def _may_skip(self, device: str) -> bool:
        deadline = rollout.offline_deadline(self._rollout, self._members.phase(device))
        is_late = self.now() >= deadline and self._clock.monotonic() >= self._skips_from
        return is_late and self._rollout.state is RolloutState.RUNNING

    async def _is_online(self, device: str) -> bool:
        """Return whether the device is connected, to this process or another."""
        if self._is_connected(device):
            return True
        try:
            return (await self._rollouts.presence.get(DeviceKey(self._account, device))).online
        except Damaged:
            return False

    async def _skip_if_late(self, device: str, why: str) -> None:
        if self._may_skip(device):
            await self._members.skip(device, why)

    async def _skip_late(self) -> None:
        """Skip devices that did not come online in time, a batch in each step."""
        present, now, left = self._rollout, self.now(), SKIP_BATCH
        if not self._is_running():
            return
        for phase in range(present.phase + 1):
            if phase not in self._late and self._clock.monotonic() < self._skips_from:
                continue  # the next refresh looks again
            if phase not in self._late and now >= rollout.offline_deadline(present, phase):
                self._late[phase] = [
                    device for device in self._members.of_phase(phase) if self._is_waiting_offline(device)
                ]
                # What waits in the queue for a device that has gone does not wait any longer, either.
                self._to_cancel |= dict.fromkeys(
                    each for each in self._members.updating() if self._members.phase(each) == phase
                )
            late = self._late.get(phase, [])
            while late and left:
                left -= 1
                device = late.pop()
                if self._is_waiting_offline(device) and not await self._is_online(device):
                    await self._members.skip(device, "it did not come online in time")

    # Canceling

    async def _resolve(self, device: str) -> None:
        """Store the end of a device's update, or note that it may have to be canceled."""
        if await self._members.resolve(device) is not None:
            self._to_cancel[device] = None

    async def _cancel_due(self) -> None:
        """Cancel the updates that must not begin any more."""
        present = self._rollout
        if present.state is not RolloutState.RUNNING:
            self._queued_for = ()  # a rollout that is resumed queues its waiting devices anew
        if self._canceled_for != (present.state, present.changed):
            self._to_cancel |= dict.fromkeys(self._members.updating())
            self._canceled_for = present.state, present.changed
        while self._to_cancel:
            device = next(iter(self._to_cancel))
            if await self._must_cancel(device):
                try:
                    await self._starter.cancel(DeviceKey(self._account, device))
                    # Now: a device whose update a pause cancels gets its turn again.
                    await self._members.resolve(device)
                except (Conflict, NotFound, Busy):
                    pass  # the update has progressed in the meantime, and ends by itself
            self._to_cancel.pop(device, None)
        time, members = self._clock.monotonic(), self._members
        for device in [each for each, since in members.unbegun.items() if time >= since + START_GRACE]:
            if present.state is RolloutState.ABORTING:
                await members.skip(device, "the rollout was aborted before it began")
            elif not await self._is_online(device):
                await members.postpone(device)  # else it would keep a place from others while it is offline

    async def _must_cancel(self, device: str) -> bool:
        """Return whether a device's update has to be canceled.

        An abort cancels every update that can be canceled. Otherwise only queued updates are canceled: all in a paused
        rollout, and in a running one those of devices that did not come online in time.
        """
        update = await self._newest_update(device)
        if update is None or update.id != self._members.update_id(device) or not ota.can_cancel(update):
            return False
        if self._rollout.state is RolloutState.ABORTING or update.state is not ota.UpdateState.QUEUED:
            return self._rollout.state is RolloutState.ABORTING
        return self._rollout.state is RolloutState.PAUSED or (
            self._may_skip(device) and not await self._is_online(device)
        )
