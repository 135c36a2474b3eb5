"""Rollouts: made, kept, and changed on request.

The machine is `mdashcore.rollout`. Four things are stored of a rollout: the rollout itself, the ids of its devices
(in order, in pieces, written once), a member for each device whose turn has come, and the image's blob, which all
updates of the rollout share. A `RolloutPerformer` drives it; requests of people only change what is stored, and whoever
drives it hears of that from the feed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any, Final

import attrs

from mdashcore import _json, ota, rollout
from mdashcore._errors import Conflict, Damaged, LimitReached, NotFound, VersionConflict
from mdashcore.hub.clock import Age, Ages, Clock
from mdashcore.hub.device_list import DeviceList
from mdashcore.hub.feed import Feed
from mdashcore.hub.limits import AccountLimits
from mdashcore.hub.pausing import Pause, never_pause
from mdashcore.hub.presence import Presence
from mdashcore.hub.records import schema
from mdashcore.hub.records.contention import Contention
from mdashcore.hub.records.schema import Roster
from mdashcore.hub.records.store import Record, Records, scoped, split
from mdashcore.hub.registry import Registry
from mdashcore.hub.updates.service import Updates
from mdashcore.hub.updates.store import blob_key
from mdashcore.identity import make_id
from mdashcore.rollout import Counts, Event, Member, Outcome, Rollout
from mdashcore.selection import Selection
from mdashcore.storage import BlobStore, DocumentStore

__all__ = ["PREFIX", "Rollouts", "describe"]

PREFIX: Final = "rol"  # of ids

PIECE: Final = 1000  # ids in one document: 128 KB at most
MAX_AGES: Final = 1_000  # of rollouts that are looked at and not driven here: 200 KB
MAX_ID: Final = 64  # characters: ours have 16; what is longer must not reach a store as a key


class Rollouts:
    """The rollouts of every account.

    Args:
        clock: the clocks of this process.
        entropy: that many random bytes.
        contention: what writers of one record need.
        limits: how many rollouts an account may have.
    """

    def __init__(
        self,
        documents: DocumentStore,
        blobs: BlobStore,
        feed: Feed,
        updates: Updates,
        registry: Registry,
        presence: Presence,
        device_list: DeviceList,
        *,
        clock: Clock,
        entropy: Callable[[int], bytes],
        contention: Contention = Contention(),
        limits: AccountLimits = AccountLimits(),
    ) -> None:
        self.records: Records[Rollout] = Records(documents, schema.ROLLOUTS, contention=contention)
        self.rosters: Records[Roster] = Records(documents, schema.ROLLOUT_ROSTERS)
        self.members: Records[Member] = Records(documents, schema.ROLLOUT_MEMBERS)
        self.blobs = blobs
        self.feed = feed
        self.updates = updates
        self.registry = registry
        self.presence = presence
        self.clock = clock
        self._ages = Ages(clock, MAX_AGES)
        self._device_list = device_list
        self._limits = limits
        self._entropy = entropy

    # Making one

    def new_id(self) -> str:
        """An id for a rollout, and for its image's blob."""
        return make_id(PREFIX, self._entropy(8))

    async def check_room(self, account: str, more: int = 1) -> None:
        """Raises `LimitReached` where the account may not have so many `more` rollouts."""
        kept, is_open = await self.use(account)
        if kept + more > self._limits.rollouts:
            raise LimitReached("rollouts", f"the account has {kept} rollouts: remove some that have ended")
        if is_open + more > self._limits.open_rollouts:
            raise LimitReached(
                "open_rollouts", f"{is_open} rollouts of the account have not ended: wait for one, or abort it"
            )

    async def use(self, account: str) -> tuple[int, int]:
        """How many rollouts the account has, and how many of them are open; those that only wait are not."""
        kept = await self.of(account)
        return len(kept), sum(_is_open(each, self.age(account, each).now(each.created)) for each in kept)

    async def select(self, account: str, selection: Selection, pause: Pause = never_pause) -> list[str]:
        """The ids of the devices that a selection means now. Raises `NotFound` for a device that is not there."""
        found = self._device_list.select(account, selection, pause, with_shadows=selection.reads_shadows)
        async with aclosing(found) as devices:
            return [each.device.id async for each in devices if "device" not in each.damaged]

    async def check_fit(
        self,
        account: str,
        selection: Selection,
        image: ota.ImageFacts,
        pause: Pause = never_pause,
        *,
        bare: bool,
    ) -> None:
        """Ask back where an image is likely meant for other devices. Raises `Conflict` as `Updates.check_fit`.

        Every device counts: with the application that it runs, or, for a bare image, with the updates that it had.
        """
        facts = ota.Image.of(image)
        if facts.bare and bare:
            return
        async with aclosing(self._device_list.select(account, selection, pause)) as devices:
            async for each in devices:
                if not each.damaged:
                    await self.updates.check_fit(each.device.key, facts, bare=bare, shadow=each.shadow)

    async def create(
        self,
        account: str,
        id: str,
        request: rollout.Request,
        image: ota.ImageFacts,
        pause: Pause = never_pause,
    ) -> Rollout:
        """Make a rollout whose image is in the blob `blob_key(account, id)`; whoever drives rollouts begins it.

        Args:
            pause: awaited after each device that was looked at.

        Raises:
            InvalidInput: the selection has no devices, or too many.
            NotFound: a device that was named is not there.
            LimitReached: as `check_room`.
        """
        await self.check_room(account)
        devices = rollout.ordered(account, await self.select(account, request.selection, pause))
        terms = [term.text for term in request.selection.terms]
        made = Rollout.begun(
            id,
            request.name or image.name,
            ota.Image.of(image),
            request.plan,
            terms,
            len(devices),
            now=self.clock.now(),
        )
        for piece in range(0, len(devices), PIECE):
            roster = Roster(tuple(devices[piece : piece + PIECE]))
            await self.rosters.put(f"{scoped(account, id)}/{piece // PIECE:04}", roster)
        await self.records.put(scoped(account, id), made, expected=0)
        try:
            await self.check_room(account, 0)  # others may have been made since it was looked at first
        except LimitReached:
            await self._erase(account, id)
            raise
        await self.tell(account, made)
        return made

    # Looking at them

    def age(self, account: str, present: Rollout) -> Age:
        """Return how old a rollout is."""
        return self._ages.of(scoped(account, present.id), present.created, present.newest_time)

    async def get(self, account: str, id: str) -> Rollout:
        """The account's rollout. Raises `NotFound`."""
        return (await self._record(account, id)).value

    async def of(self, account: str, damaged: list[str] | None = None) -> list[Rollout]:
        """The account's rollouts, the newest first; `damaged` gets the ids of those that cannot be read."""
        found = [each async for _, each in self.records.scan(scoped(account, ""), damaged)]
        return sorted(found, key=lambda each: (-each.created, each.id))

    async def devices(self, account: str, id: str) -> list[str]:
        """The ids of a rollout's devices, in order. Raises `Damaged` where a piece of them cannot be read."""
        prefix, damaged = f"{scoped(account, id)}/", list[str]()
        pieces = [(key, roster) async for key, roster in self.rosters.scan(prefix, damaged)]
        if damaged:
            raise Damaged(f"the devices of the rollout {id!r} are not known: rollout_rosters/{prefix}{damaged[0]}")
        return [device for _, roster in sorted(pieces) for device in roster.devices]

    async def touched(self, account: str, id: str, damaged: list[str] | None = None) -> AsyncIterator[Member]:
        """The members that are stored, in no particular order: all but those whose turn has not come.

        Args:
            damaged: gets the ids of devices whose member cannot be read.
        """
        async for _, member in self.members.scan(f"{scoped(account, id)}/", damaged):
            yield member

    async def counts(self, account: str, present: Rollout) -> tuple[Counts, ...]:
        """How many devices of each phase have which outcome now."""
        members = {member.device: member async for member in self.touched(account, present.id)}
        devices = await self.devices(account, present.id)
        return tuple(count(present, devices, members.get))

    async def unfinished(self) -> AsyncIterator[tuple[str, str]]:
        """(account, id) of every rollout that has not ended: what a node takes up when it starts."""
        for key in [key async for key, each in self.records.scan() if not each.ended]:
            yield split(key)

    # Changing them

    async def approve(self, account: str, id: str) -> Rollout:
        """Let the first phase begin. Raises `NotFound`; `Conflict` where that was not waited for."""
        return await self._request(account, id, "approved", rollout.Approved())

    async def pause(self, account: str, id: str) -> Rollout:
        """Let no more devices begin; those that have go on. Raises `NotFound`, `Conflict`."""
        return await self._request(account, id, "paused", rollout.PauseRequested())

    async def resume(self, account: str, id: str) -> Rollout:
        """Go on, and forgive what has failed so far. Raises `NotFound`, `Conflict`."""
        return await self._request(account, id, "resumed", None)

    async def retry(self, account: str, id: str) -> Rollout:
        """Give the devices that failed another try; a paused rollout goes on. Raises `NotFound`, `Conflict`."""
        return await self._request(account, id, "retried", rollout.RetryRequested())

    async def abort(self, account: str, id: str) -> Rollout:
        """End it: what can still be taken back is. Raises `NotFound`, `Conflict`."""
        return await self._request(account, id, "aborted", rollout.AbortRequested())

    async def _request(self, account: str, id: str, wanted: str, event: Event | None) -> Rollout:
        race = self.records.race(scoped(account, id))
        while True:
            record = await self._record(account, id)
            told = event or rollout.ResumeRequested(await self.counts(account, record.value))
            now = self.age(account, record.value).now(record.value.created)
            changed = rollout.advance(record.value, told, now=now)
            if changed is record.value:
                raise Conflict(f"the rollout {id!r} is {changed.state}, it cannot be {wanted}")
            try:
                await self.records.put(scoped(account, id), changed, expected=record.version)
            except VersionConflict:
                await race.lost()
                continue
            await self.tell(account, changed)
            return changed

    async def tell(self, account: str, changed: Rollout) -> None:
        """Tell the state that was stored."""
        await self.feed.emit(account, f"rollout.{changed.state}", changed.id, _json.encode(describe(changed)))

    async def tell_phase(self, account: str, changed: Rollout) -> None:
        """Tell that the next phase has begun."""
        await self.feed.emit(account, "rollout.phase", changed.id, _json.encode(describe(changed)))

    async def tell_progress(self, account: str, changed: Rollout) -> None:
        """Tell how many devices have come how far."""
        data = {"phase": changed.phase, "counts": attrs.asdict(rollout.added(changed.counts))}
        await self.feed.emit(account, "rollout.progress", changed.id, _json.encode(data))

    async def remove(self, account: str, id: str) -> None:
        """Remove a rollout that has ended, or that is damaged. Raises `NotFound`; `Conflict` for one that has not."""
        try:
            present = await self.get(account, id)
            if not present.ended:
                await self.devices(account, id)
                raise Conflict(f"the rollout {id!r} is {present.state}: abort it first")
        except Damaged:
            pass  # nothing can drive it: updates that it has begun end by themselves
        await self._erase(account, id)
        await self.feed.emit(account, "rollout.deleted", id)

    async def forget(self, account: str) -> None:
        """The account was removed: its rollouts go too, wherever they stand."""
        prefix = scoped(account, "")
        for key in await self.records.keys(prefix):
            await self._erase(account, key.removeprefix(prefix))

    async def _erase(self, account: str, id: str) -> None:
        """The rollout itself goes last: what was stopped in between can be done again."""
        key = scoped(account, id)
        await self.blobs.delete(blob_key(account, id))
        await self._erase_parts(f"{key}/")
        await self.records.delete(key)

    async def _erase_parts(self, prefix: str) -> None:
        for parts in (self.members, self.rosters):
            for key in await parts.keys(prefix):
                await parts.delete(key)

    # Tidying

    async def orphans(self) -> set[tuple[str, str]]:
        """(account, id) of rollouts that are not there, or have ended, and of which there is an image or a part.

        Some may just be on their way into the store: only who is still among them an hour later is one.
        """
        found = {split(key) async for key in self.blobs.scan() if f"/{PREFIX}_" in key}
        for parts in (self.members, self.rosters):
            found |= {split(key.rpartition("/")[0]) for key in await parts.keys()}
        kept = set(map(split, await self.records.keys()))
        ended = {split(key) async for key, each in self.records.scan() if each.ended}
        images = {split(key) async for key in self.blobs.scan()}
        return (found - kept) | (ended & images)

    async def tidy(self, account: str, id: str) -> None:
        """Remove what is left of a rollout that is not there, or the image of one that has ended."""
        record = await self.records.get(scoped(account, id))
        if record is None or record.value.ended:
            await self.blobs.delete(blob_key(account, id))
        if record is None:
            await self._erase_parts(f"{scoped(account, id)}/")

    async def _record(self, account: str, id: str) -> Record[Rollout]:
        record = await self.records.get(scoped(account, id)) if _possible(id) else None
        if record is None:
            raise NotFound(f"no rollout {id!r}")
        return record


def count(present: Rollout, devices: Sequence[str], member: Callable[[str], Member | None]) -> list[Counts]:
    """How many devices of each phase have which outcome."""
    found = []
    start = 0
    for end in present.ends:
        numbers = dict.fromkeys(Outcome, 0)
        for device in devices[start:end]:
            numbers[present.outcome(member(device))] += 1
        found.append(Counts(**{outcome.value.lower(): number for outcome, number in numbers.items()}))
        start = end
    return found


def describe(present: Rollout) -> dict[str, Any]:
    """A rollout as plain values. Times are Unix seconds."""
    return {
        "id": present.id,
        "name": present.name,
        "state": present.state,
        "reason": present.reason,
        "round": present.round,
        "created": present.created,
        "changed": present.changed,
        "deadline": None if present.ended else rollout.deadline(present),
        "phase": present.phase,
        "phases": [_describe_phase(present, index) for index in range(len(present.ends))],
        "counts": attrs.asdict(rollout.added(present.counts)),
        "filter": list(present.filter),
        "plan": rollout.describe_plan(present.plan),
        "image": attrs.asdict(present.image),
    }


def _describe_phase(present: Rollout, index: int) -> dict[str, Any]:
    started = present.phase_started[index] if index < len(present.phase_started) else None
    counts = present.counts[index]
    return {
        "percent": present.plan.phases[index],
        "devices": counts.total,
        "started": started,
        "counts": attrs.asdict(counts),
    }


def _is_open(present: Rollout, now: float) -> bool:
    return not present.ended and not rollout.only_waits(present, now)


def _possible(id: str) -> bool:
    """Whether a rollout can have that id: what can't must not reach a store as a key."""
    return 0 < len(id) <= MAX_ID and id.isascii() and id.replace("_", "").isalnum()
