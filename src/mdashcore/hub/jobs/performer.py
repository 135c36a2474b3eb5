"""The performer of one job: it takes one piece after the other, and changes the shadows of its devices.

One node drives a job; the job's record names it. When that node is gone, another one takes over. For a moment both may
be at work. Three rules make that safe. A piece is stored, by compare-and-set, before its shadows are changed, with a
fingerprint of what each device has; so the next process knows which changes have happened. The job is read after that:
it may have been canceled, or be driven by another node. The results of a piece, and then the job, are stored by
compare-and-set too. The loser reads again, and stops if the job names another driver.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import attrs

from mdashcore import job
from mdashcore._errors import (
    Busy,
    Damaged,
    InvalidInput,
    NotFound,
    PreconditionFailed,
    StorageError,
    TooLarge,
    VersionConflict,
)
from mdashcore.hub.driven_record import DrivenRecord
from mdashcore.hub.jobs.pieces import piece_key
from mdashcore.hub.jobs.preview import SHADOW_DAMAGED
from mdashcore.hub.jobs.service import Jobs
from mdashcore.hub.leases import Leases, take
from mdashcore.hub.pausing import Pause, Together, never_pause, one_by_one
from mdashcore.hub.records.store import Record, scoped
from mdashcore.hub.shadows import Protect
from mdashcore.identity import DeviceKey
from mdashcore.job import Job, JobCounts, JobEvent, JobOutcome, JobPiece, JobResult, JobState
from mdashcore.shadow import Change, Shadow

__all__ = ["JobPerformer", "JobRunner"]

_log = logging.getLogger(__name__)

STEP_TIME: Final = 0.1  # seconds of pieces in one step: then other jobs have their turn

SHADOW_PATIENCE: Final = 10.0  # seconds to wait for the other writers of a shadow

WRITE_TRIES: Final = 5  # tries of a device that the storage refuses while it takes others: 11 s with the pauses between

JOB_RECHECK: Final = 2.0  # seconds of changes before the job is read again: a process that was stopped may have lost it

REMOVED_DEVICE: Final = "the device was removed"
DAMAGED_DEVICE: Final = "what was stored of it is damaged"
CHANGED_BY_OTHERS: Final = (
    "another writer has changed its desired state just when the job was to do so, and the job does not overwrite that"
)
REFUSED: Final = "the storage has refused the change each time"


@attrs.frozen
class JobRunner:
    """The way in which the process runs the work of a job. By default it does one thing after the other."""

    pause: Pause = never_pause
    """Awaited after each device."""
    together: Together = one_by_one
    """Runs several writes of shadows at the same time."""
    protect: Protect | None = None
    """As for `Shadows.update`."""


class _Stopped(Exception):
    """The job was canceled or lost before a shadow was changed."""


class JobPerformer:
    """Performs one job, in one task. Made by `load`."""

    def __init__(
        self, jobs: Jobs, runner: JobRunner, account: str, record: Record[Job], leases: Leases | None = None
    ) -> None:
        self._jobs = jobs
        self._runner = runner
        self._account = account
        self._driven = DrivenRecord(jobs, account, record, leases)
        self._refused: Counter[str] = Counter()
        """How often the storage has refused to change a device of the present piece."""
        self._read_at = jobs.clock.monotonic()
        """When the job was read last, by the monotonic clock."""
        self._is_settled = False
        """Whether nothing is left to do for the devices of a canceled job."""

    @classmethod
    async def load(
        cls, jobs: Jobs, runner: JobRunner, account: str, id: str, leases: Leases | None = None
    ) -> JobPerformer:
        """Load a job as it is stored.

        Args:
            leases: the node that is to drive it, which becomes its driver; without it, the caller makes sure that no
                other process drives it.

        Raises:
            NotFound: it does not exist, is finished, or was created for an earlier account of that name.
            Conflict: another living node drives it.
        """
        record, _ = await take(jobs.records, scoped(account, id), leases, f"the job {id!r}")
        await jobs.check_owner(account, record.value)
        return cls(jobs, runner, account, record, leases)

    @property
    def gone(self) -> bool:
        """Whether nothing is left to drive: the job is finished, was removed, or another node drives it."""
        return self._driven.gone or self._job.finished

    @property
    def _job(self) -> Job:
        return self._driven.value

    @property
    def _is_over(self) -> bool:
        return self._driven.gone or self._job.ended

    async def reload(self) -> None:
        """Read the job again, after another writer has changed or removed it."""
        self._read_at = self._jobs.clock.monotonic()
        await self._driven.reload()

    async def step(self) -> None:
        """Do pieces for `STEP_TIME`, at least one. Call it again until `gone`.

        Raises:
            StorageError: a part is not done; calling it again does the rest.
        """
        clock = self._jobs.clock
        until = clock.monotonic() + STEP_TIME
        while not self._is_over:
            event = job.next_event(self._job)
            if event is not None and not (isinstance(event, job.JobStopped) and self._has_unsettled()):
                await self._store(event)
                continue
            await self._do_piece()
            if clock.monotonic() >= until:
                break
        await self._driven.announce()  # also of an end that was stored although the storage has failed
        if not self.gone and not self._driven.progress_due_in():
            await self._driven.notify_progress()

    def _has_unsettled(self) -> bool:
        """Return whether changes of a canceled job may have begun of which the result is not stored."""
        return self._job.piece < self._job.pieces and not self._is_settled

    # One piece

    async def _do_piece(self) -> None:
        """Do the present piece; or, of a canceled job, only find out what has become of what was begun of it."""
        number = self._job.piece
        key = piece_key(self._account, self._job.id, number)
        try:
            record = await self._jobs.pieces.get(key)
        except Damaged:
            record = None
        if record is None:  # logged by the records; its devices are not known
            await self._end_piece(number, JobCounts(failed=self._job.size_of(number)))
            return
        results = [await self._plan(each) for each in record.value.results]
        version = record.version
        try:
            if any(each.before is not None for each in results):
                version = await self._jobs.pieces.put(key, JobPiece(tuple(results)), expected=version)
                await self.reload()
                if self._is_over:
                    return
                results = await self._change(results)
                if not results:
                    return
            if tuple(results) != record.value.results:
                await self._jobs.pieces.put(key, JobPiece(tuple(results)), expected=version)
        except VersionConflict:  # another node has taken over
            await self.reload()
            return
        self._refused.clear()
        await self._end_piece(number, JobPiece(tuple(results)).counts)

    async def _end_piece(self, number: int, counts: JobCounts) -> None:
        self._is_settled = self._job.state is JobState.CANCELING
        await self._store(job.PieceDone(counts), piece=number)

    async def _plan(self, result: JobResult) -> JobResult:
        """Return a result with its end, or with the fingerprint of what is to be changed."""
        is_canceled = self._job.state is JobState.CANCELING
        if result.outcome is not JobOutcome.PENDING or (is_canceled and result.before is None):
            return result
        key, now = self._device(result), self._jobs.clock.now()
        await self._runner.pause()
        try:
            await self._check_stays(key)
            shadow = await self._jobs.shadows.get(key)
        except NotFound:
            return result.ended(JobOutcome.FAILED, now, REMOVED_DEVICE)
        except Damaged:
            return result.ended(JobOutcome.FAILED, now, DAMAGED_DEVICE)
        patch = self._job.desired
        if result.before is not None:
            outcome = job.after_interruption(shadow, patch, result.before)
            if outcome is JobOutcome.CHANGED:
                self._jobs.shadows.announce(key, shadow)  # the writer may not have come to it
            if outcome is not JobOutcome.PENDING:
                return result.ended(outcome, now, CHANGED_BY_OTHERS if outcome is JobOutcome.FAILED else "")
            if self._refused[result.device] >= WRITE_TRIES:
                return result.ended(JobOutcome.FAILED, now, REFUSED)
            return JobResult(result.device) if is_canceled else result
        if not any(job.differences(shadow.desired or {}, patch)):
            return result.ended(JobOutcome.UNCHANGED, now)
        return JobResult(result.device, before=job.fingerprint(shadow, patch))

    async def _change(self, planned: list[JobResult]) -> list[JobResult]:
        """Change the shadows that a stored piece names. Returns the results, or none if the job was lost.

        After a cancellation those are pending again that this process has not changed.
        """
        results = {each.device: each for each in planned}
        begun = [each.device for each in planned if each.before is not None]
        await self._runner.together(partial(self._change_one, device, results) for device in begun)
        if self._is_over:
            return []
        if self._job.state is JobState.CANCELING:
            pending = (device for device in begun if results[device].outcome is JobOutcome.PENDING)
            results |= {device: JobResult(device) for device in pending}
        return list(results.values())

    async def _change_one(self, device: str, results: dict[str, JobResult]) -> None:
        """Change a shadow once, by its fingerprint. The device stays pending if the job was canceled or lost."""
        while not self._is_stopped and results[device].outcome is JobOutcome.PENDING:
            await self._runner.pause()
            results[device] = await self._try_change(results[device])

    async def _try_change(self, result: JobResult) -> JobResult:
        key, patch, now = self._device(result), self._job.desired, self._jobs.clock.now()

        def is_as_planned(shadow: Shadow) -> bool:
            return job.fingerprint(shadow, patch) == result.before

        try:
            await self._jobs.shadows.update(
                key,
                {"state": {"desired": patch}},
                condition=is_as_planned,
                patience=SHADOW_PATIENCE,
                protect=partial(self._in_turn, key),
            )
        except _Stopped:
            return result
        except PreconditionFailed:  # the change has happened, or another writer has set the same values
            return await self._plan(result)
        except NotFound:
            return result.ended(JobOutcome.FAILED, now, REMOVED_DEVICE)
        except Damaged:
            return result.ended(JobOutcome.FAILED, now, SHADOW_DAMAGED)
        except (InvalidInput, TooLarge, Busy) as exc:
            return result.ended(JobOutcome.FAILED, now, str(exc))
        except StorageError as exc:
            self._refused[result.device] += 1
            if self._refused[result.device] == WRITE_TRIES:
                _log.error("job %s: the storage has refused %s %d times: %s", self._job.id, key, WRITE_TRIES, exc)
            raise  # the piece is done again, when the storage is back: the change may have happened
        return result.ended(JobOutcome.CHANGED, now)

    async def _in_turn(self, key: DeviceKey, write: Callable[[], Awaitable[Change]]) -> Change:
        """Write a shadow whose turn has come, unless the job or the device has gone since that was planned."""
        if self._jobs.clock.monotonic() >= self._read_at + JOB_RECHECK:
            await self.reload()
        if self._is_stopped:
            raise _Stopped
        await self._check_stays(key)
        return await (write() if self._runner.protect is None else self._runner.protect(write))

    @property
    def _is_stopped(self) -> bool:
        return self._is_over or self._job.state is JobState.CANCELING

    async def _check_stays(self, key: DeviceKey) -> None:
        await self._jobs.registry.check_stays(key)

    def _device(self, result: JobResult) -> DeviceKey:
        return DeviceKey(self._account, result.device)

    # The whole

    async def _store(self, event: JobEvent, *, piece: int | None = None) -> None:
        """Apply an event to the job, store it, and notify subscribers.

        Args:
            piece: the index of the piece that the event is about. Nothing is stored if the job is past it.
        """
        while not self._is_over and piece in (None, self._job.piece):
            changed = job.advance(self._job, event, now=self._jobs.clock.now())
            news = () if changed.state is self._job.state else (changed.state,)
            if await self._driven.store(changed, *news):
                return
