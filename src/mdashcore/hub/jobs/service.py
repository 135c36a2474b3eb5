"""Jobs: previewed, created, stored, and canceled on request.

`mdashcore.job` is the state machine. A job is stored as two things: the job itself, and its devices with their results,
in pieces. A `JobPerformer` performs it. Requests of users only change the stored job; the node that
drives it learns of that with its next compare-and-set.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Final

from mdashcore import _json, job
from mdashcore._errors import Conflict, Damaged, InvalidInput, LimitReached, NotFound
from mdashcore.hub.accounts import Accounts
from mdashcore.hub.clock import Clock
from mdashcore.hub.device_list import DeviceList
from mdashcore.hub.feed import Feed
from mdashcore.hub.jobs.describe import describe_progress
from mdashcore.hub.jobs.pieces import JobPieces, piece_key
from mdashcore.hub.jobs.preview import JobPreview
from mdashcore.hub.leases import Leases, unfinished
from mdashcore.hub.limits import AccountLimits
from mdashcore.hub.pausing import Pause, Together, never_pause, one_by_one
from mdashcore.hub.records import schema
from mdashcore.hub.records.contention import Contention
from mdashcore.hub.records.store import Record, Records, is_generated_id, scoped
from mdashcore.hub.registry import Registry
from mdashcore.hub.shadows import Shadows
from mdashcore.identity import make_id
from mdashcore.job import MAX_JOB_DEVICES, Job, JobOutcome, JobPiece, JobRequest, JobResult
from mdashcore.storage import DocumentStore

__all__ = ["Jobs"]

_log = logging.getLogger(__name__)

JOB_PREFIX: Final = "job"  # of a job's id


class Jobs:
    """The jobs of every account.

    Args:
        clock: the clocks of this process.
        entropy: returns that many random bytes.
        contention: how writers of the same record wait for each other.
        limits: the limits of each account, with its number of jobs.
        together: as for `JobPieces`.
    """

    def __init__(
        self,
        documents: DocumentStore,
        feed: Feed,
        shadows: Shadows,
        registry: Registry,
        device_list: DeviceList,
        accounts: Accounts,
        *,
        clock: Clock,
        entropy: Callable[[int], bytes],
        contention: Contention = Contention(),
        limits: AccountLimits = AccountLimits(),
        together: Together = one_by_one,
    ) -> None:
        self.records: Records[Job] = Records(documents, schema.JOBS, contention=contention)
        self._stored_pieces = JobPieces(documents, together)
        self.pieces: Records[JobPiece] = self._stored_pieces.records
        self.shadows = shadows
        self.registry = registry
        self.clock = clock
        self._feed = feed
        self._device_list = device_list
        self._accounts = accounts
        self._limits = limits
        self._entropy = entropy

    # Creation

    def parse(self, value: object) -> JobRequest:
        """Return the request for a job, checked against the limits of shadows, as `job.parse_request` does."""
        return job.parse_request(value, self.shadows.limits)

    async def preview(self, account: str, request: JobRequest, pause: Pause = never_pause) -> JobPreview:
        """Return what a job would do now. Changes nothing.

        Args:
            pause: awaited after each device.

        Raises:
            NotFound: a named device does not exist.
        """
        preview = JobPreview(request.desired, self.shadows.limits, self.clock.now())
        async with aclosing(self._device_list.select(account, request.selection, pause)) as devices:
            async for each in devices:
                if "device" not in each.damaged:
                    preview.add(each)
        return preview

    async def create(self, account: str, request: JobRequest, *, by: str, pause: Pause = never_pause) -> Job:
        """Create a job. A node that drives jobs begins it.

        If the account has its maximum of jobs, the oldest one that has ended is removed.

        Args:
            by: the name of the user, or of the API key: its id, if it has no name.
            pause: awaited after each device.

        Raises:
            InvalidInput: the selection has no devices, or too many.
            NotFound: a named device does not exist, or the account was removed.
            LimitReached: the account has its maximum of jobs that have not ended.
        """
        owner = await self._accounts.owner(account)
        self._check_open(await self.of(account), 1)
        devices = await self._select(account, request, pause)
        terms = [str(term) for term in request.selection.terms]
        id = make_id(JOB_PREFIX, self._entropy(8))
        made = Job.begun(
            id, request.name, request.desired, terms, len(devices), by=by, now=self.clock.now(), owner=owner
        )
        await self._stored_pieces.write(account, made, devices, pause)
        await self.records.put(scoped(account, id), made, expected=0)
        try:
            await self._accounts.check_owner(account, owner)  # a removal may not have found this job
            await self._make_room(account)  # other jobs may have been created since the first check
        except (LimitReached, NotFound):
            await self._erase(account, id, made.pieces)
            raise
        await self._stored_pieces.unmark(account, id)
        await self.notify(account, made.state, made)
        return made

    async def _select(self, account: str, request: JobRequest, pause: Pause) -> list[str]:
        """Return the ids of the devices that a request selects now, sorted; no more than one too many."""
        chosen = request.selection
        found = self._device_list.select(account, chosen, pause, with_shadows=chosen.reads_shadows)
        ids: list[str] = []
        async with aclosing(found) as devices:
            async for each in devices:
                if "device" in each.damaged:
                    continue
                ids.append(each.device.id)
                if len(ids) > MAX_JOB_DEVICES:
                    raise InvalidInput(f"the selection has more than {MAX_JOB_DEVICES} devices: filter them")
        return ids

    async def use(self, account: str) -> tuple[int, int]:
        """Return the numbers of the account's jobs and of those that have not ended."""
        kept = await self.of(account)
        return len(kept), sum(not each.ended for each in kept)

    def _check_open(self, kept: list[Job], more: int) -> None:
        """Raise `LimitReached` if `more` jobs would be too many that have not ended."""
        is_open = sum(not each.ended for each in kept)
        if is_open + more > self._limits.open_jobs:
            raise LimitReached("open_jobs", f"{is_open} jobs of the account have not ended: wait for one, or cancel it")

    async def _make_room(self, account: str) -> None:
        """Remove the oldest ended jobs of an account that has too many. Raises `LimitReached`."""
        kept = await self.of(account)
        self._check_open(kept, 0)
        ended = [each for each in reversed(kept) if each.ended]
        for old in ended[: max(0, len(kept) - self._limits.jobs)]:
            _log.info("job %s of %s is removed: the account keeps %d jobs", old.id, account, self._limits.jobs)
            await self._erase(account, old.id, old.pieces)
            await self._feed.emit(account, "job.deleted", old.id)

    # Reading

    async def get(self, account: str, id: str) -> Job:
        """Return the account's job. Raises `NotFound`."""
        return (await self._record(account, id)).value

    async def of(self, account: str, damaged: list[str] | None = None) -> list[Job]:
        """Return the account's jobs, newest first. `damaged` receives the ids of those that cannot be read."""
        found = [each async for _, each in self.records.scan(scoped(account, ""), damaged)]
        strange = {owner for owner in {each.owner for each in found} if not await self._accounts.owns(account, owner)}
        found = [each for each in found if each.owner not in strange]
        return sorted(found, key=lambda each: (-each.created, each.id))

    async def results(
        self,
        account: str,
        present: Job,
        start: int,
        limit: int,
        outcome: JobOutcome | None = None,
        pause: Pause = never_pause,
        *,
        damaged: list[int] | None = None,
    ) -> tuple[list[JobResult], int | None]:
        """Return a page of a job's results in the order of device ids, and where the next page starts.

        Skips pieces that are damaged or missing.

        Args:
            start: the place of the first device.
            limit: the maximum number of results.
            outcome: only results with this one.
            pause: awaited after each piece.
            damaged: receives the places of the devices in pieces that are skipped.

        Raises:
            NotFound: the job was removed.
        """
        found, size = list[JobResult](), present.piece_size
        for piece in range(start // size, present.pieces):
            for place, result in enumerate(await self._piece(account, present, piece), piece * size):
                if result is None:
                    if place >= start and damaged is not None:
                        damaged.append(place)
                    continue
                if place < start or outcome not in (None, result.outcome):
                    continue
                if len(found) == limit:
                    return found, place
                found.append(result)
            await pause()
        return found, None

    async def _piece(self, account: str, present: Job, piece: int) -> Sequence[JobResult | None]:
        """Return the results in a piece, or as many `None` if it is damaged or missing. Raises `NotFound`."""
        try:
            record = await self.pieces.get(piece_key(account, present.id, piece))
        except Damaged:
            record = None
        if record is None:
            await self._record(account, present.id)  # a removed job has no pieces either
            return [None] * present.size_of(piece)
        return record.value.results

    async def unfinished(self, leases: Leases | None = None) -> list[tuple[str, str]]:
        """Return (account, id) of every job that is not finished, and that no other living node drives."""
        return await unfinished(self.records, leases)

    # Changes

    async def check_owner(self, account: str, present: Job) -> None:
        """Remove a job that was created for an earlier account of that name. Raises `NotFound`."""
        if not await self._accounts.owns(account, present.owner):
            _log.warning("job %s of an earlier account %s is removed", present.id, account)
            await self._erase(account, present.id, present.pieces)
            raise NotFound(f"no job {present.id!r}")

    async def cancel(self, account: str, id: str, *, by: str) -> Job:
        """Let no more devices be changed. Those that were changed stay so. Raises `NotFound`, `Conflict`.

        Args:
            by: the name of the user, or of the API key: its id, if it has no name.
        """
        await self._record(account, id)

        def change(found: Job | None) -> Job:
            if found is None:
                raise NotFound(f"no job {id!r}")
            changed = job.advance(found, job.JobCancelRequested(by), now=self.clock.now())
            if changed is found:
                raise Conflict(f"the job {id!r} is {found.state}, it cannot be canceled")
            return changed

        canceled = await self.records.change(scoped(account, id), change)
        assert canceled is not None  # noqa: S101 - for the type checker: `change` returns a job or raises
        await self.notify(account, canceled.state, canceled)
        return canceled

    async def remove(self, account: str, id: str) -> None:
        """Remove a job that has ended or is damaged. Raises `NotFound`, or `Conflict` if it has not ended."""
        pieces: int | None = None
        try:
            present = await self.get(account, id)
            if not present.ended:
                raise Conflict(f"the job {id!r} is {present.state}: cancel it first")
            pieces = present.pieces
        except Damaged:
            pass  # it cannot be driven
        await self._erase(account, id, pieces)
        await self._feed.emit(account, "job.deleted", id)

    async def forget(self, account: str) -> None:
        """Remove all jobs of a removed account, in any state."""
        prefix = scoped(account, "")
        for key in await self.records.keys(prefix):
            await self._erase(account, key.removeprefix(prefix), None)

    async def notify(self, account: str, name: str, changed: Job) -> None:
        """Notify subscribers of a state that was stored."""
        await self._feed.emit(account, f"job.{name}", changed.id, _json.encode(describe_progress(changed)))

    async def notify_progress(self, account: str, changed: Job) -> None:
        """Notify subscribers of the number of devices with each outcome."""
        data = _json.encode({"counts": describe_progress(changed)["counts"]})
        await self._feed.emit(account, "job.progress", changed.id, data)

    async def _erase(self, account: str, id: str, pieces: int | None) -> None:
        """Remove all parts of a job. The job first: a driver finds it gone, and what is left are orphans."""
        await self._stored_pieces.mark(account, id, pieces)
        await self.records.delete(scoped(account, id))
        await self._stored_pieces.remove(account, id, pieces)

    # Orphans

    async def orphans(self, pause: Pause = never_pause) -> set[tuple[str, str]]:
        """Return (account, id) of jobs whose creation or removal has begun and not ended.

        Some may be on their way into the store. The caller removes only those that are still among them an hour later.
        """
        return await self._stored_pieces.marked()

    async def remove_orphan(self, account: str, id: str, pause: Pause = never_pause) -> None:
        """Remove the rest of a job that does not exist. One that does exist stays."""
        try:
            is_stored = await self.records.document(scoped(account, id)) is not None
        except Damaged:
            is_stored = True
        if is_stored:
            await self._stored_pieces.unmark(account, id)
        else:
            await self._stored_pieces.remove_rest(account, id)

    async def _record(self, account: str, id: str) -> Record[Job]:
        record = await self.records.get(scoped(account, id)) if is_generated_id(id) else None
        if record is None or not await self._accounts.owns(account, record.value.owner):
            raise NotFound(f"no job {id!r}")
        return record
