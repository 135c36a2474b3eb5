"""Rollouts: created, stored, and changed on request.

`mdashcore.rollout` is the state machine. A rollout is stored as four things: the rollout itself, the ids of its devices
(in order, in pieces, written once), a member for each device whose turn has come, and the image's blob, which all
updates of the rollout share. A `RolloutPerformer` performs it. Requests of users only change the stored rollout, and
the node that drives it learns of that from the feed.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final, TypeAlias

import attrs

from mdashcore import _json, ota, rollout
from mdashcore._errors import Conflict, Damaged, LimitReached, MdashError, NotFound, VersionConflict
from mdashcore.hub.accounts import Accounts
from mdashcore.hub.clock import Age, Ages, Clock
from mdashcore.hub.device_list import DeviceList
from mdashcore.hub.feed import Feed
from mdashcore.hub.leases import Leases, unfinished
from mdashcore.hub.limits import AccountLimits
from mdashcore.hub.pausing import Pause, never_pause
from mdashcore.hub.presence import Presence
from mdashcore.hub.records import schema
from mdashcore.hub.records.contention import Contention
from mdashcore.hub.records.schema import Roster
from mdashcore.hub.records.store import Record, Records, is_generated_id, scoped, split
from mdashcore.hub.registry import Registry
from mdashcore.hub.rollouts.describe import describe
from mdashcore.hub.rollouts.preview import RolloutPreview, build_of
from mdashcore.hub.updates.service import CheckImage, Updates
from mdashcore.hub.updates.store import blob_key
from mdashcore.identity import make_id
from mdashcore.rollout import Cause, Counts, Member, Outcome, Rollout, RolloutEvent, RolloutState
from mdashcore.selection import Selection
from mdashcore.storage import BlobStore, DocumentStore

__all__ = ["ROLLOUT_PREFIX", "Rollouts"]

_log = logging.getLogger(__name__)

ROLLOUT_PREFIX: Final = "rol"  # of a rollout's id

_MakeEvent: TypeAlias = Callable[[Rollout], Awaitable[RolloutEvent]]
"""Returns the event of a request, for the rollout as it is stored."""

ROSTER_PIECE: Final = 1000  # ids in one document: 128 KB at most
MAX_ROLLOUT_AGES: Final = 1_000  # ages of rollouts that this process reads and does not drive: 200 KB


class Rollouts:
    """The rollouts of every account.

    Args:
        clock: the clocks of this process.
        entropy: returns that many random bytes.
        contention: how writers of the same record wait for each other.
        limits: the limits of each account, with its number of rollouts.
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
        accounts: Accounts,
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
        self._ages = Ages(clock, MAX_ROLLOUT_AGES)
        self._device_list = device_list
        self._accounts = accounts
        self._limits = limits
        self._entropy = entropy

    # Creation

    def new_id(self) -> str:
        """Return a new id for a rollout and for its image's blob."""
        return make_id(ROLLOUT_PREFIX, self._entropy(8))

    async def check_room(self, account: str, more: int = 1) -> None:
        """Raise `LimitReached` if the account may not have that many `more` rollouts."""
        kept, is_open = await self.use(account)
        if kept + more > self._limits.rollouts:
            raise LimitReached("rollouts", f"the account has {kept} rollouts: remove some that have ended")
        if is_open + more > self._limits.open_rollouts:
            raise LimitReached(
                "open_rollouts", f"{is_open} rollouts of the account have not ended: wait for one, or abort it"
            )

    async def use(self, account: str) -> tuple[int, int]:
        """Return the numbers of the account's rollouts and of its open ones; those that only wait are not open."""
        kept = await self.of(account)
        return len(kept), sum(_is_open(each, self.age(account, each).now(each.created)) for each in kept)

    async def select(self, account: str, selection: Selection, pause: Pause = never_pause) -> list[str]:
        """Return the ids of the devices that a selection matches now. Raises `NotFound` for a missing device."""
        found = self._device_list.select(account, selection, pause, with_shadows=selection.reads_shadows)
        async with aclosing(found) as devices:
            return [each.device.id async for each in devices if "device" not in each.damaged]

    async def preview(
        self,
        account: str,
        request: rollout.RolloutRequest,
        image: ota.UpdateImage | None,
        pause: Pause = never_pause,
    ) -> RolloutPreview:
        """Return what a rollout would be now. Changes nothing.

        Args:
            image: the description of the image, if it is known.
            pause: awaited after each document that was read.

        Raises:
            InvalidInput: the selection has too many devices.
            NotFound: a named device does not exist.
        """
        preview = RolloutPreview(request.plan, image)
        async with aclosing(self._device_list.select(account, request.selection, pause)) as devices:
            async for each in devices:
                if "device" not in each.damaged:
                    preview.add(each)
        return preview

    async def check_fit(
        self,
        account: str,
        request: rollout.RolloutRequest,
        image: ota.UpdateImage,
        pause: Pause = never_pause,
        *,
        bare: bool,
    ) -> None:
        """Check that an image is meant for the selected devices.

        Args:
            bare: whether the user has said that the image is a bare one.

        Raises:
            InvalidInput: the selection has more devices than a rollout may have.
            Conflict: the image is bare, or of another application than a device reports, and the request does not say
                that this is wanted.
        """
        if image.bare and not bare:
            raise Conflict(
                "the image is no firmware zip, so nothing says which devices it is for; bare=1 sends it all the same"
            )
        options = request.plan.options
        if image.app is None or options.force or options.other_app:
            return
        checked = RolloutPreview(request.plan, image)
        async with aclosing(self._device_list.select(account, request.selection, pause)) as devices:
            async for each in devices:
                checked.add(each)
                if checked.fits[ota.Fit.OTHER_APP]:
                    raise Conflict(
                        f"the image is of the application {image.app}, {each.device.id!r} runs {build_of(each).app}; "
                        "other_app sends it all the same"
                    )

    async def create(
        self,
        account: str,
        id: str,
        request: rollout.RolloutRequest,
        image: ota.ImageFacts,
        pause: Pause = never_pause,
        *,
        blob: str | None = None,
        check_image: CheckImage | None = None,
    ) -> Rollout:
        """Create a rollout whose image is in the blob `blob_key(account, blob or id)`. A node begins it.

        Args:
            pause: awaited after each device that was checked.
            blob: a kept image, which stays when the rollout ends; without it, the rollout owns its image.
            check_image: as for `Updates.create`.

        Raises:
            InvalidInput: the selection has no devices, or too many.
            Conflict: the selection has another number of devices than a review has counted.
            NotFound: a named device does not exist, or the account was removed.
            LimitReached: the account has its maximum of rollouts, as in `check_room`.
            MdashError: as `check_image` raises.
        """
        owner = await self._accounts.owner(account)
        await self.check_room(account)
        devices = rollout.ordered(account, await self.select(account, request.selection, pause))
        if request.expect not in (None, len(devices)):
            raise Conflict(
                f"the selection has {len(devices)} devices now, and had {request.expect} when it was reviewed: "
                "review it again"
            )
        terms = [str(term) for term in request.selection.terms]
        made = Rollout.begun(
            id,
            request.name or image.name,
            ota.UpdateImage.of(image),
            request.plan,
            terms,
            len(devices),
            now=self.clock.now(),
            blob=blob,
            owner=owner,
            kind=request.kind,
        )
        for piece in range(0, len(devices), ROSTER_PIECE):
            roster = Roster(tuple(devices[piece : piece + ROSTER_PIECE]))
            await self.rosters.put(f"{scoped(account, id)}/{piece // ROSTER_PIECE:04}", roster)
        await self.records.put(scoped(account, id), made, expected=0)
        try:
            await self._accounts.check_owner(account, owner)  # a removal may not have found this rollout
            await self.check_room(account, 0)  # other rollouts may have been created since the first check
            if check_image is not None:
                await check_image()
        except MdashError:
            await self._erase(account, id)
            raise
        await self.notify(account, made.state, made)
        return made

    # Reading

    def age(self, account: str, present: Rollout) -> Age:
        """Return the age of a rollout."""
        return self._ages.of(scoped(account, present.id), present.created, present.newest_time)

    async def get(self, account: str, id: str) -> Rollout:
        """Return the account's rollout. Raises `NotFound`."""
        return (await self._record(account, id)).value

    async def of(self, account: str, damaged: list[str] | None = None) -> list[Rollout]:
        """Return the account's rollouts, newest first. `damaged` receives the ids of those that cannot be read."""
        found = [each async for _, each in self.records.scan(scoped(account, ""), damaged)]
        strange = {owner for owner in {each.owner for each in found} if not await self._accounts.owns(account, owner)}
        found = [each for each in found if each.owner not in strange]
        return sorted(found, key=lambda each: (-each.created, each.id))

    async def devices(self, account: str, id: str) -> list[str]:
        """Return the ids of a rollout's devices, in order. Raises `Damaged` if a piece of them cannot be read."""
        prefix, damaged = f"{scoped(account, id)}/", list[str]()
        pieces = [(key, roster) async for key, roster in self.rosters.scan(prefix, damaged)]
        if damaged:
            raise Damaged(f"the devices of the rollout {id!r} are not known: rollout_rosters/{prefix}{damaged[0]}")
        return [device for _, roster in sorted(pieces) for device in roster.devices]

    async def begun_members(self, account: str, id: str, damaged: list[str] | None = None) -> AsyncIterator[Member]:
        """Yield the stored members, in no particular order: those of all devices whose turn has come.

        Args:
            damaged: receives the ids of devices whose member cannot be read.
        """
        async for _, member in self.members.scan(f"{scoped(account, id)}/", damaged):
            yield member

    async def counts(self, account: str, present: Rollout) -> tuple[Counts, ...]:
        """Return the present number of devices with each outcome, for each phase."""
        members = {member.device: member async for member in self.begun_members(account, present.id)}
        devices = await self.devices(account, present.id)
        return tuple(count(present, devices, members.get))

    async def unfinished(self, leases: Leases | None = None) -> list[tuple[str, str]]:
        """Return (account, id) of every rollout that is not finished, and that no other living node drives.

        Aborts those whose kept image is gone: a process was stopped after it had stored the rollout, and before it
        looked whether the image is kept.
        """
        found = await unfinished(self.records, leases)
        for account, id in found:
            try:
                await self._abort_if_lost(account, id)
            except (NotFound, Conflict):
                pass  # it was removed, or is ending
        return found

    async def _abort_if_lost(self, account: str, id: str) -> None:
        present = await self.get(account, id)
        if present.ended or present.blob is None or await self.blobs.size(blob_key(account, present.blob)) is not None:
            return
        await self.abort(account, id)
        _log.warning("the rollout %s of %s is aborted: its image was removed", id, account)

    # Changes

    async def check_owner(self, account: str, present: Rollout) -> None:
        """Remove a rollout that was created for an earlier account of that name. Raises `NotFound`."""
        if not await self._accounts.owns(account, present.owner):
            _log.warning("the rollout %s of an earlier account %s is removed", present.id, account)
            await self._erase(account, present.id)
            raise NotFound(f"no rollout {present.id!r}")

    async def approve(self, account: str, id: str) -> Rollout:
        """Let the first phase begin. Raises `NotFound`, or `Conflict` if the rollout does not wait for approval."""
        return await self._request(account, id, "approved", _always(rollout.Approved()))

    async def pause(self, account: str, id: str) -> Rollout:
        """Let no more devices begin. Updates that have begun continue. Raises `NotFound`, `Conflict`."""
        return await self._request(account, id, "paused", _always(rollout.PauseRequested()))

    async def resume(self, account: str, id: str, *, forgive: int | None = None) -> Rollout:
        """Continue a paused rollout. The failures so far count on, unless they are forgiven.

        Args:
            forgive: the number of failures that are forgiven, which has to be the present one.

        Raises:
            NotFound: it does not exist.
            Conflict: it is not paused; another number of devices has failed; or failures have paused it, and are not
                forgiven.
        """

        async def event(present: Rollout) -> RolloutEvent:
            if present.state is not RolloutState.PAUSED:  # it is refused, and its members need not be read
                return rollout.ResumeRequested((), forgive=forgive is not None)
            counts = await self.counts(account, present)
            _check_forgiven(present, rollout.to_forgive(present, counts), forgive)
            return rollout.ResumeRequested(counts, forgive=forgive is not None)

        return await self._request(account, id, "resumed", event)

    async def retry(self, account: str, id: str) -> Rollout:
        """Give the devices that failed another try, and continue a paused rollout. Raises `NotFound`, `Conflict`."""
        return await self._request(account, id, "retried", _always(rollout.RetryRequested()))

    async def abort(self, account: str, id: str) -> Rollout:
        """End a rollout, and cancel the updates that can be canceled. Raises `NotFound`, `Conflict`."""
        return await self._request(account, id, "aborted", _always(rollout.AbortRequested()))

    async def _request(self, account: str, id: str, wanted: str, event: _MakeEvent) -> Rollout:
        race = self.records.race(scoped(account, id))
        while True:
            record = await self._record(account, id)
            request = await event(record.value)
            now = self.age(account, record.value).now(record.value.created)
            changed = rollout.advance(record.value, request, now=now)
            if changed is record.value:
                raise Conflict(f"the rollout {id!r} is {changed.state}, it cannot be {wanted}")
            changed = attrs.evolve(changed, unannounced=())  # what came before this state need not be sent any more
            try:
                await self.records.put(scoped(account, id), changed, expected=record.version)
            except VersionConflict:
                await race.lost()
                continue
            await self.notify(account, changed.state, changed)
            return changed

    async def notify(self, account: str, name: str, changed: Rollout) -> None:
        """Notify subscribers of what was stored: a state, or that the next ``phase`` has begun."""
        await self.feed.emit(account, f"rollout.{name}", changed.id, _json.encode(describe(changed)))

    async def notify_progress(self, account: str, changed: Rollout) -> None:
        """Notify subscribers of the number of devices with each outcome."""
        data = {"phase": changed.phase, "counts": attrs.asdict(rollout.added(changed.counts))}
        await self.feed.emit(account, "rollout.progress", changed.id, _json.encode(data))

    async def remove(self, account: str, id: str) -> None:
        """Remove a rollout that has ended or is damaged. Raises `NotFound`, or `Conflict` if it has not ended."""
        try:
            present = await self.get(account, id)
            if not present.ended:
                await self.devices(account, id)
                raise Conflict(f"the rollout {id!r} is {present.state}: abort it first")
        except Damaged:
            pass  # a damaged rollout cannot be driven, and updates that it has begun end by themselves
        await self._erase(account, id)
        await self.feed.emit(account, "rollout.deleted", id)

    async def forget(self, account: str) -> None:
        """Remove all rollouts of a removed account, in any state."""
        prefix = scoped(account, "")
        for key in await self.records.keys(prefix):
            await self._erase(account, key.removeprefix(prefix))

    async def _erase(self, account: str, id: str) -> None:
        """Remove all parts of a rollout, the rollout itself last: an interrupted removal can be repeated."""
        key = scoped(account, id)
        await self.blobs.delete(blob_key(account, id))
        await self._erase_parts(f"{key}/")
        await self.records.delete(key)

    async def _erase_parts(self, prefix: str) -> None:
        for parts in (self.members, self.rosters):
            for key in await parts.keys(prefix):
                await parts.delete(key)

    # Orphans

    async def orphans(self, pause: Pause = never_pause) -> set[tuple[str, str]]:
        """Return (account, id) of rollouts that are missing or have ended, and of which an image or a part is left.

        Some may be on their way into the store. The caller removes only those that are still among them an hour later.

        Args:
            pause: awaited after each rollout.
        """
        found = {split(key) async for key in self.blobs.scan() if f"/{ROLLOUT_PREFIX}_" in key}
        for parts in (self.members, self.rosters):
            found |= {split(key.rpartition("/")[0]) for key in await parts.keys()}
        kept = set(map(split, await self.records.keys()))
        ended: set[tuple[str, str]] = set()
        async with aclosing(self.records.scan_all(pause)) as records:
            async for key, each in records:
                if each.ended:
                    ended.add(split(key))
        images = {split(key) async for key in self.blobs.scan()}
        return (found - kept) | (ended & images)

    async def remove_orphan(self, account: str, id: str, pause: Pause = never_pause) -> None:
        """Remove the rest of a rollout that does not exist, or the image of one that has ended."""
        record = await self.records.get(scoped(account, id))
        if record is None or record.value.ended:
            await self.blobs.delete(blob_key(account, id))
        if record is None:
            await self._erase_parts(f"{scoped(account, id)}/")

    async def _record(self, account: str, id: str) -> Record[Rollout]:
        record = await self.records.get(scoped(account, id)) if is_generated_id(id) else None
        if record is None or not await self._accounts.owns(account, record.value.owner):
            raise NotFound(f"no rollout {id!r}")
        return record


def count(present: Rollout, devices: Sequence[str], member: Callable[[str], Member | None]) -> list[Counts]:
    """Return the number of devices with each outcome, for each phase."""
    found = []
    start = 0
    for end in present.ends:
        numbers = dict.fromkeys(Outcome, 0)
        for device in devices[start:end]:
            numbers[present.outcome(member(device))] += 1
        found.append(Counts(**{outcome.value.lower(): number for outcome, number in numbers.items()}))
        start = end
    return found


def _check_forgiven(present: Rollout, failed: int, forgive: int | None) -> None:
    """Raise `Conflict` unless a resume forgives the failures that have paused a rollout, by their number."""
    if forgive is not None and forgive != failed:
        raise Conflict(f"{failed} failures are to be forgiven now, not {forgive}")
    if forgive is None and failed and present.cause in (Cause.ERRORS, Cause.SUCCESS):
        words = "; ".join(f"{each.devices} times {each.reason!r}" for each in present.failures)
        raise Conflict(
            f"{present.reason}{f' ({words})' if words else ''}. It would pause again: forgive the {failed} failures, "
            "or retry these devices"
        )


def _always(event: RolloutEvent) -> _MakeEvent:
    async def make(present: Rollout) -> RolloutEvent:
        return event

    return make


def _is_open(present: Rollout, now: float) -> bool:
    return not present.ended and not rollout.only_waits(present, now)
