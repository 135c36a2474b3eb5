"""The performer of one update: it stores each change, notifies subscribers, and makes the calls of the steps."""

from __future__ import annotations

from math import inf
from typing import Any, Final, Protocol, TypeAlias

import attrs

from mdashcore import _json, ota
from mdashcore._errors import (
    CallTimeout,
    DeviceOffline,
    InvalidAnswer,
    InvalidInput,
    MdashError,
    NotFound,
    RpcError,
    VersionConflict,
    status_of,
)
from mdashcore.hub.records.store import Record
from mdashcore.hub.updates.describe import describe
from mdashcore.hub.updates.store import UpdateStore, blob_key
from mdashcore.identity import DeviceKey
from mdashcore.ota import Update, UpdateState

__all__ = ["CallStep", "DeviceCaller", "UpdatePerformer"]

IMAGE_READ_SIZE: Final = 2**16  # bytes of the image in memory: 64 chunks for one read of the blob

UPDATE_PROGRESS_INTERVAL: Final = 1.0  # seconds between two notifications of progress: a reader cannot follow more

CallStep: TypeAlias = ota.Begin | ota.Write | ota.End | ota.Commit | ota.Ask
"""The steps that call the device."""


class DeviceCaller(Protocol):
    """The interface through which devices are called: `mdashcore.trio.Node`, or an embedder's own object."""

    async def call(
        self, key: DeviceKey, method: str, params: bytes | None = None, *, timeout: float | None = None
    ) -> bytes:
        """Call a device. Raises `RpcError`, `InvalidAnswer`, `CallTimeout`, `DeviceOffline`, `NotFound`."""


@attrs.frozen
class _Tried:
    """A write that was tried: the store may have it even if it has raised an error."""

    event: ota.UpdateEvent | None
    update: Update
    clock: float | None
    """The `Clock.offset` to which the update's times were moved, or `None` if they were not."""


class UpdatePerformer:
    """Performs one update. One task at a time may apply events; calls may run at the same time.

    Args:
        unnotified: whether the state was just stored, and subscribers have not been notified.
    """

    def __init__(self, store: UpdateStore, key: DeviceKey, record: Record[Update], *, unnotified: bool = False) -> None:
        self._store = store
        self.key = key
        self._update = record.value
        self._version = record.version
        self._age = store.age(key, record.value)
        self._notified_at = -inf
        self._unnotified = unnotified
        self._tried: _Tried | None = None
        self._block = 0, b""

    @property
    def update(self) -> Update:
        """The update as it is now."""
        return self._update

    @property
    def version(self) -> int:
        """The version of the update's document."""
        return self._version

    def now(self) -> float:
        """Return the present time in Unix seconds, comparable with the times of the update.

        It runs evenly, and equals the wall clock's as soon as the update has followed that clock's last step.
        """
        return self._age.now(self._update.created)

    async def apply(self, event: ota.UpdateEvent) -> None:
        """Apply an event. When this returns, the change is stored and subscribers are notified.

        Raises:
            VersionConflict: another writer has changed the update; see `reload`.
            StorageError: a part is not done; applying the same event again does the rest.
        """
        await self._change(event)

    async def follow_clock(self) -> None:
        """Give the update times of the wall clock again if that was set. Raises the same errors as `apply`."""
        await self._change(None)

    async def _change(self, event: ota.UpdateEvent | None) -> None:
        await self.notify()
        tried = self._tried
        if tried is None or tried.event is not event:
            tried = self._try(event)
        if tried.update is self._update:
            return
        self._tried = tried
        self._version = await self._put(tried.update)
        self._tried = None
        if tried.clock is not None:
            self._age.followed = tried.clock
        before, self._update = self._update, tried.update
        await self._notify_change(before, tried.update)

    def _try(self, event: ota.UpdateEvent | None) -> _Tried:
        update, offset = self._update, self._store.clock.offset
        by = 0.0 if update.ended else self._age.correction(update.created, offset)
        if by:
            update = ota.moved(update, by)
        if event is not None:
            update = ota.advance(update, event, now=self._age.now(update.created))
        return _Tried(event, update, offset if by else None)

    async def _notify_change(self, before: Update, update: Update) -> None:
        time = self._store.clock.monotonic()
        if update.state is not before.state or (update.waits_until is not None and before.waits_until is None):
            self._notified_at = time
            self._unnotified = True
            if update.state is not before.state:
                self._store.changed(self.key, update)
            await self.notify()
        elif update.offset != before.offset and time - self._notified_at >= UPDATE_PROGRESS_INTERVAL:
            self._notified_at = time
            await self._notify_progress(update)

    async def _put(self, update: Update) -> int:
        try:
            return await self._store.records.put(str(self.key), update, expected=self._version)
        except VersionConflict:
            found = await self._store.records.get(str(self.key))
            if found is not None and found.value == update:  # the update was written, and the store's answer was lost
                return found.version
            raise

    async def claim(self, node: str) -> str | None:
        """Store that a node drives the update from now on. Returns the id of the node that drove it before.

        Raises:
            VersionConflict: another writer has changed the update.
        """
        before = self._update.driver
        if before != node and not self._update.ended:
            claimed = attrs.evolve(self._update, driver=node)
            self._version = await self._put(claimed)
            self._update = claimed
        return before

    async def reload(self) -> bool:
        """Read the update again. Returns whether another writer has changed it.

        Raises:
            NotFound: it does not exist any more; the device may have another one.
        """
        record = await self._store.records.get(str(self.key))
        if record is None or record.value.id != self._update.id:
            raise NotFound(f"no update {self._update.id} of {self.key.id!r} any more")
        if record.version == self._version:
            return False
        self._tried = None
        self._update, self._version, self._unnotified = record.value, record.version, False
        return True

    async def notify(self) -> None:
        """Notify subscribers of a stored state, if not done yet, and archive an ended update. Raises `StorageError`."""
        if not self._unnotified:
            return
        update = self._update
        if update.ended:
            await self.archive()
        await self._notify_state(update)
        self._unnotified = False

    async def archive(self) -> None:
        """Add an ended update to the history, and delete its image. May be repeated."""
        await self._store.add_to_history(self.key, self._update)
        await self._store.delete_image(self.key.account, self._update)

    async def params(self, step: CallStep) -> bytes | None:
        """Return the parameters of a step's call. Raises `NotFound` if the image is missing or incomplete."""
        if isinstance(step, ota.Begin):
            await self._check_size()
            return _json.encode(step.params())
        if isinstance(step, ota.Write):
            return _json.encode(step.params(await self._read(step.offset, step.size)))
        return None

    async def perform(
        self, step: CallStep, params: bytes | None, caller: DeviceCaller, reported: ota.Build | None = None
    ) -> ota.UpdateEvent:
        """Make the call of a step with its `params`. Returns the event that results.

        Args:
            reported: the build that the device has reported by itself on this link, or `None`.
        """
        try:
            if isinstance(step, ota.Ask):
                return await self._ask(step, caller, reported)
            await caller.call(self.key, step.method, params, timeout=step.call_timeout)
        except RpcError as exc:
            return ota.StepFailed(step.method, exc.code, exc.message)
        except InvalidAnswer as exc:
            if isinstance(step, ota.End):
                return ota.StepTimedOut(step.method)  # the device may have the image: the build that it runs decides
            return ota.StepFailed(step.method, status_of(exc), str(exc), readable=False)
        except CallTimeout:
            return ota.StepTimedOut(step.method)
        except (DeviceOffline, NotFound):
            return ota.DeviceDisconnected()
        if isinstance(step, ota.Begin):
            return ota.BeginAccepted()
        if isinstance(step, ota.Write):
            return ota.ChunkAccepted(step.offset, step.size)
        return ota.EndAccepted() if isinstance(step, ota.End) else ota.CommitAccepted()

    async def _ask(self, step: ota.Ask, caller: DeviceCaller, reported: ota.Build | None) -> ota.UpdateEvent:
        answers: list[dict[str, object]] = []
        answered, status = False, ota.Status.FAILED
        failure: ota.UpdateEvent = ota.StepTimedOut(step.method)
        for method in step.methods:
            try:
                answer = _json.decode(await caller.call(self.key, method, timeout=step.call_timeout))
                if isinstance(answer, dict):
                    answers.append(answer)
                    answered = answered or method == ota.Ask.methods[0]
                if method == step.method:
                    status = ota.Status.ANSWERED
            except RpcError as exc:
                failure = ota.StepFailed(step.method, exc.code, exc.message)
                if ota.lacks_method(exc.code, exc.message):
                    answered = True  # the device works: it knows which methods it has
                    if method == step.method:
                        status = ota.Status.NO_METHOD
            except (CallTimeout, InvalidAnswer, InvalidInput):
                pass
        if not answers and reported is None:
            return failure
        build = ota.Build.from_wire(*answers)
        return ota.BuildReported(build if reported is None else reported.followed_by(build), answered, status)

    async def _check_size(self) -> None:
        """Check the size of the image before the device makes room for it."""
        stored = await self._store.blobs.size(blob_key(self.key.account, self._update.blob_id))
        if stored is None:
            raise NotFound(_GONE)
        if stored != self._update.image.size:
            raise _damaged(stored, self._update)

    async def _read(self, offset: int, size: int) -> bytes:
        """Return that many bytes of the image, read through a block in memory."""
        start, block = self._block
        if not 0 <= offset - start <= len(block) - size:
            key = blob_key(self.key.account, self._update.blob_id)
            try:
                start, block = offset, await self._store.blobs.read(key, offset, max(size, IMAGE_READ_SIZE))
            except NotFound:
                raise NotFound(_GONE) from None
            if len(block) < size:
                raise _damaged(offset + len(block), self._update)
            self._block = start, block
        return block[offset - start : offset - start + size]

    async def _notify_state(self, update: Update) -> None:
        data = _json.encode(describe(update, now=self.now()))
        if update.state is UpdateState.TRANSFERRING and update.waits_until is not None:
            await self._store.feed.emit(self.key.account, "ota.waiting", self.key.id, data)
            return
        await self._store.feed.emit(self.key.account, f"ota.{update.state}", self.key.id, data)
        report = _report(update)
        if report is not None:
            report = {"message": update.reason or _MESSAGES.get(update.state, str(update.state)), **report}
            await self._report(report)

    async def _notify_progress(self, update: Update) -> None:
        progress = {"id": update.id, "progress_percent": update.progress_percent, "offset": update.offset}
        data = _json.encode({**progress, "size": update.image.size})
        await self._store.feed.emit(self.key.account, "ota.progress", self.key.id, data)
        await self._report({"status": 1, "progress_percent": update.progress_percent})

    async def _report(self, fields: dict[str, Any]) -> None:
        """Keep `reported.ota` current for devices that do not report during an update."""
        try:
            await self._store.shadows.update(self.key, {"state": {"reported": {"ota": fields}}})
        except MdashError:  # a full shadow is no reason to stop an update
            return


_GONE: Final = "the image is not in the store any more"


def _damaged(stored: int, update: Update) -> NotFound:
    return NotFound(f"the image in the store is damaged: {stored} bytes instead of {update.image.size}")


def _report(update: Update) -> dict[str, Any] | None:
    """Return the fields of `reported.ota` for the present state, or `None` if it says nothing about the device."""
    if update.state is UpdateState.UNCOMMITTED and update.commit_unknown:
        return None
    if update.state is UpdateState.TIMED_OUT and update.offset >= update.image.size:
        return None  # the device has the whole image, and its build is not known
    return _REPORTS.get(update.state)


_REPORTS: Final[dict[UpdateState, dict[str, Any]]] = {
    UpdateState.TRANSFERRING: {"status": 1, "progress_percent": 0},
    UpdateState.REBOOTING: {"status": 3, "progress_percent": 100},
    UpdateState.UNCOMMITTED: {"is_committed": False},
    UpdateState.COMMITTED: {"is_committed": True},
    UpdateState.FAILED: {"status": 2},
    UpdateState.REJECTED: {"status": 2},
    UpdateState.TIMED_OUT: {"status": 2},
}
"""The fields of `reported.ota` for each state that says something about the device."""

_MESSAGES: Final[dict[UpdateState, str]] = {
    UpdateState.TRANSFERRING: "receiving the image",
    UpdateState.REBOOTING: "image taken, rebooting",
    UpdateState.UNCOMMITTED: "waiting for the commit",
    UpdateState.COMMITTED: "committed",
}
