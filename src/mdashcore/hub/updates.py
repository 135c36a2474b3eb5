"""Firmware updates: kept, moved on, performed and told.

The machine is `mdashcore.ota`; here it meets the store, the device and the people. One `UpdateRun` has the word
over one update at a time: everybody else hands it events. A node drives the runs of the devices that it holds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Protocol, TypeAlias

import attrs

from mdashcore import _json, identity, ota
from mdashcore._errors import (
    CallTimeout,
    Conflict,
    DeviceOffline,
    InvalidInput,
    MdashError,
    NotFound,
    RpcError,
    VersionConflict,
)
from mdashcore.firmware import Image
from mdashcore.hub._records import Record, Records, scoped
from mdashcore.hub.feed import Feed
from mdashcore.hub.shadows import Shadows
from mdashcore.ota import State, Update
from mdashcore.storage import BlobStore, DocumentStore

__all__ = ["DeviceCaller", "UpdateRun", "Updates", "describe"]

READ_SIZE: Final = 2**16  # bytes of the image in memory: 64 chunks for one read of the blob

TELL_INTERVAL: Final = 1.0  # seconds between two reports of progress


_Call: TypeAlias = ota.Begin | ota.Write | ota.End | ota.Commit | ota.Ask
"""The steps that call the device."""


class DeviceCaller(Protocol):
    """Who can call devices: `mdashcore.trio.Node`, or an embedder's own."""

    async def call(
        self, account: str, id: str, method: str, params: bytes | None = None, *, timeout: float | None = None
    ) -> bytes:
        """Call a device; raises `RpcError`, `CallTimeout`, `DeviceOffline`, `NotFound`."""


class Updates:
    """The newest update of every device.

    Args:
        now: Unix seconds.
        entropy: that many random bytes.
    """

    def __init__(
        self,
        documents: DocumentStore,
        blobs: BlobStore,
        feed: Feed,
        shadows: Shadows,
        *,
        now: Callable[[], float],
        entropy: Callable[[int], bytes],
    ) -> None:
        self.records = Records(documents, "updates", Update, load=Update.from_stored, dump=Update.to_stored)
        self.blobs = blobs
        self.feed = feed
        self.shadows = shadows
        self.now = now
        self._entropy = entropy

    def new_id(self) -> str:
        """An id for an update, and for its image's blob."""
        return identity.make_id("ota", self._entropy(8))

    async def create(
        self, account: str, device: str, id: str, image: Image, options: ota.Options = ota.Options()
    ) -> UpdateRun:
        """Queue an update whose image is in the blob `blob_key(account, id)`.

        Raises:
            Conflict: the device's present update has not ended.
        """
        update = Update.queued(id, ota.Image.of(image), now=self.now(), options=options)
        key = scoped(account, device)
        found = await self.records.get(key)
        if found is not None and not found.value.ended:
            raise Conflict(f"an update of {device!r} is going on already, it is {found.value.state}")
        try:
            version = await self.records.put(key, update, expected=0 if found is None else found.version)
        except VersionConflict:
            raise Conflict(f"another update of {device!r} was quicker") from None
        return UpdateRun(self, account, device, Record(update, version))

    async def take_up(self, account: str, device: str) -> UpdateRun:
        """The device's update, to be driven. Raises `NotFound`."""
        record = await self.records.get(scoped(account, device))
        if record is None:
            raise NotFound(f"no update of {device!r}")
        return UpdateRun(self, account, device, record)

    async def get(self, account: str, device: str) -> Update | None:
        """The device's newest update as it is stored, or None."""
        record = await self.records.get(scoped(account, device))
        return None if record is None else record.value

    async def unfinished(self) -> AsyncIterator[tuple[str, str]]:
        """(account, device id) of every update that has not ended: what a node takes up when it starts."""
        async for key, update in self.records.scan():
            if not update.ended:
                account, _, device = key.partition("/")
                yield account, device

    async def known_build(self, account: str, device: str) -> ota.Build | None:
        """What the device last said it runs."""
        reported = (await self.shadows.get(account, device)).reported or {}
        said = reported.get("ota")
        return ota.Build.from_wire(said) if isinstance(said, dict) else None

    async def forget(self, account: str, device: str) -> None:
        """The device was removed: its update and the image go too."""
        update = await self.get(account, device)
        if update is not None:
            await self.records.delete(scoped(account, device))
            await self.blobs.delete(blob_key(account, update.id))


def blob_key(account: str, id: str) -> str:
    """Where the image of an update is."""
    return scoped(account, id)


def describe(update: Update) -> dict[str, Any]:
    """An update as people see it."""
    return {
        "id": update.id,
        "state": update.state,
        "reason": update.reason,
        "progress_percent": update.progress_percent,
        "offset": update.offset,
        "attempt": update.attempt,
        "created": update.created,
        "started": update.started,
        "changed": update.changed,
        "deadline": ota.next_deadline(update),
        "image": attrs.asdict(update.image),
    }


class UpdateRun:
    """One update being driven. For one task at a time."""

    def __init__(self, updates: Updates, account: str, device: str, record: Record[Update]) -> None:
        self._updates = updates
        self.account = account
        self.device = device
        self._update = record.value
        self._version = record.version
        self._told_at = 0.0
        self._untold = False
        self._block = b""
        self._block_start = 0

    @property
    def update(self) -> Update:
        """How it stands."""
        return self._update

    async def apply(self, event: ota.Event) -> None:
        """Take an event: what it changes is stored when this returns, and told.

        Raises:
            StorageError: it is not all done; the same event again does the rest.
        """
        now = self._updates.now()
        if self._untold:
            await self._tell()
        update = ota.advance(self._update, event, now=now)
        if update is self._update:
            return
        key = scoped(self.account, self.device)
        self._version = await self._updates.records.put(key, update, expected=self._version)
        before, self._update = self._update, update
        if update.state is not before.state:
            self._told_at = now
            self._untold = True
            await self._tell()
        elif update.offset != before.offset and now - self._told_at >= TELL_INTERVAL:
            await self._tell_progress(update, now)

    async def _tell(self) -> None:
        """Tell the state that was stored, and let go of an image that is not needed any more."""
        update = self._update
        await self._tell_state(update)
        if update.ended:
            await self._updates.blobs.delete(blob_key(self.account, update.id))
        self._untold = False

    async def perform(self, step: _Call, caller: DeviceCaller) -> ota.Event:
        """Make the call of a step; what came of it."""
        try:
            if isinstance(step, ota.Ask):
                return await self._ask(step, caller)
            params = await self._params(step)
            await caller.call(self.account, self.device, str(step.method), params, timeout=step.call_timeout)
        except RpcError as exc:
            return ota.CallFailed(str(step.method), exc.code, exc.message)
        except CallTimeout:
            return ota.CallTimedOut(str(step.method))
        except (DeviceOffline, NotFound):
            return ota.DeviceDisconnected()
        if isinstance(step, ota.Begin):
            return ota.BeginAccepted()
        if isinstance(step, ota.Write):
            return ota.ChunkAccepted(step.offset, step.size)
        return ota.EndAccepted() if isinstance(step, ota.End) else ota.CommitAccepted()

    async def _params(self, step: ota.Step) -> bytes | None:
        if isinstance(step, ota.Begin):
            return _json.encode(step.params())
        if isinstance(step, ota.Write):
            return _json.encode(step.params(await self._read(step.offset, step.size)))
        return None

    async def _ask(self, step: ota.Ask, caller: DeviceCaller) -> ota.Event:
        answers: list[dict[str, object]] = []
        failure: ota.Event = ota.CallTimedOut(step.method)
        for method in step.methods:
            try:
                answer = _json.decode(await caller.call(self.account, self.device, method, timeout=step.call_timeout))
                if isinstance(answer, dict):
                    answers.append(answer)
            except RpcError as exc:
                failure = ota.CallFailed(step.method, exc.code, exc.message)
            except (CallTimeout, InvalidInput):
                pass
        return ota.BuildReported(ota.Build.from_wire(*answers)) if answers else failure

    async def _read(self, offset: int, size: int) -> bytes:
        """Bytes of the image, through a block in memory."""
        start = offset - self._block_start
        if not 0 <= start <= len(self._block) - size:
            key = blob_key(self.account, self._update.id)
            self._block = await self._updates.blobs.read(key, offset, max(size, READ_SIZE))
            self._block_start, start = offset, 0
        return self._block[start : start + size]

    async def _tell_state(self, update: Update) -> None:
        data = _json.encode(describe(update))
        await self._updates.feed.emit(self.account, f"ota.{update.state}", self.device, data)
        report = _REPORTS.get(update.state)
        if report is not None:
            report = {"message": update.reason or _MESSAGES.get(update.state, str(update.state)), **report}
            await self._report(report)

    async def _tell_progress(self, update: Update, now: float) -> None:
        self._told_at = now
        progress = {"id": update.id, "progress_percent": update.progress_percent, "offset": update.offset}
        data = _json.encode({**progress, "size": update.image.size})
        await self._updates.feed.emit(self.account, "ota.progress", self.device, data)
        await self._report({"status": 1, "progress_percent": update.progress_percent})

    async def _report(self, fields: dict[str, Any]) -> None:
        """Keep `reported.ota` true for devices that do not report while they are being updated."""
        try:
            await self._updates.shadows.update(self.account, self.device, {"state": {"reported": {"ota": fields}}})
        except MdashError:  # a full shadow is no reason to stop an update
            return


_REPORTS: Final[dict[State, dict[str, Any]]] = {
    State.TRANSFERRING: {"status": 1, "progress_percent": 0},
    State.REBOOTING: {"status": 3, "progress_percent": 100},
    State.UNCOMMITTED: {"is_committed": False},
    State.COMMITTED: {"is_committed": True},
    State.FAILED: {"status": 2},
    State.REJECTED: {"status": 2},
    State.TIMED_OUT: {"status": 2},
}
"""What a state means in the fields of `reported.ota`; the other states say nothing about the device."""

_MESSAGES: Final[dict[State, str]] = {
    State.TRANSFERRING: "receiving the image",
    State.REBOOTING: "image taken, rebooting",
    State.UNCOMMITTED: "waiting for the commit",
    State.COMMITTED: "committed",
}
