"""Firmware updates: created, performed, canceled and remembered.

`mdashcore.ota` is the state machine; this module connects it to the store, the devices and the users. A device has one
update at a time: its newest. Every change is a compare-and-set. So each writer (an `UpdatePerformer` that a node
drives, a user who cancels the update on another node) notices whether another writer was quicker.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final, TypeAlias

from mdashcore import identity, ota
from mdashcore._errors import Conflict, Damaged, MdashError, NotFound, VersionConflict
from mdashcore.firmware import Image
from mdashcore.hub.clock import Clock
from mdashcore.hub.feed import Feed
from mdashcore.hub.leases import Leases
from mdashcore.hub.pausing import Pause, never_pause
from mdashcore.hub.records.contention import Contention
from mdashcore.hub.records.schema import History
from mdashcore.hub.records.store import Record, split
from mdashcore.hub.shadows import Shadows
from mdashcore.hub.updates.describe import describe
from mdashcore.hub.updates.performer import UpdatePerformer
from mdashcore.hub.updates.store import UpdateStore, blob_key
from mdashcore.identity import DeviceKey
from mdashcore.ota import Update, UpdateState
from mdashcore.shadow import Shadow
from mdashcore.storage import BlobStore, DocumentStore

__all__ = ["UPDATE_PREFIX", "CheckImage", "Updates"]

_log = logging.getLogger(__name__)

UPDATE_PREFIX: Final = "ota"  # of an update's id

CheckImage: TypeAlias = Callable[[], Awaitable[None]]
"""Checks that a kept image was not removed. Raises `Conflict`."""


class Updates:
    """The newest update of every device, and the history of earlier ones.

    Args:
        clock: the clocks of this process.
        entropy: returns that many random bytes.
        check_device: raises `NotFound` for a device that does not exist any more.
        contention: how writers of the same record wait for each other.
    """

    def __init__(
        self,
        documents: DocumentStore,
        blobs: BlobStore,
        feed: Feed,
        shadows: Shadows,
        *,
        clock: Clock,
        entropy: Callable[[int], bytes],
        check_device: Callable[[DeviceKey], Awaitable[None]] | None = None,
        contention: Contention = Contention(),
    ) -> None:
        self.store: UpdateStore = UpdateStore(documents, blobs, feed, shadows, clock=clock, contention=contention)
        self.blobs = blobs
        self._clock = clock
        self._entropy = entropy
        self._check_device = check_device
        self.on_change: list[Callable[[DeviceKey, ota.Update], None]] = self.store.on_change
        """Called with (device, update) after this process has stored a change of state; must not raise."""

    def new_id(self) -> str:
        """Return a new id for an update and for its image's blob; see `orphans`."""
        return identity.make_id(UPDATE_PREFIX, self._entropy(8))

    async def create(
        self,
        key: DeviceKey,
        id: str,
        image: Image | ota.UpdateImage,
        options: ota.Options = ota.Options(),
        *,
        blob: str | None = None,
        check_image: CheckImage | None = None,
        driver: str | None = None,
    ) -> UpdatePerformer:
        """Queue an update whose image is in the blob `blob_key(account, blob or id)`.

        Its performer, which is returned, notifies subscribers of it. An update that waits in the queue is superseded.

        Args:
            blob: a shared image, which stays when the update ends; without it, the update owns its image.
            check_image: awaited before the update takes the place of one that waits, which stays if it raises; and
                again after the update was stored, which is canceled then if it raises.
            driver: the id of the node that drives it.

        Raises:
            Conflict: the device's present update is being performed.
            NotFound: the device was removed.
            MdashError: as `check_image` raises.
        """
        facts = image if isinstance(image, ota.UpdateImage) else ota.UpdateImage.of(image)
        if check_image is not None:
            await check_image()
        race = self.store.records.race(str(key))
        while True:
            try:
                before, held = await self._supersede(key)
                update = Update.queued(
                    id, facts, now=self._clock.now(), options=options, blob=blob, held_until=held, driver=driver
                )
                version = await self.store.records.put(str(key), update, expected=before)
            except VersionConflict:
                await race.lost()
                continue
            if self._check_device is not None:
                try:  # last: the device may have been removed in the meantime, and its updates forgotten
                    await self._check_device(key)
                except MdashError:
                    await self.forget(key)
                    raise
            if check_image is not None:
                try:
                    await check_image()
                except MdashError:
                    await self.apply(key, ota.CancelRequested(), id=id)
                    raise
            self.store.changed(key, update)
            return UpdatePerformer(self.store, key, Record(update, version), unnotified=True)

    async def check_fit(self, key: DeviceKey, image: Image | ota.UpdateImage, *, bare: bool) -> None:
        """Check that an image is meant for the device.

        Args:
            bare: whether the user has said that the image is a bare one.

        Raises:
            Conflict: the image is of another application than the device has reported, or bare for a device that got
                firmware zips so far. The user can force the update.
        """
        try:
            shadow = await self.store.shadows.get(key)
        except Damaged:
            shadow = Shadow()  # what it reports is not known: nothing speaks against the image
        reported = (shadow.reported or {}).get("ota")
        app = reported.get("app") if isinstance(reported, dict) else None
        if image.app is not None and isinstance(app, str) and app != image.app:
            raise Conflict(
                f"the image is of the application {image.app}, {key.id!r} runs {app}; force sends it all the same"
            )
        if image.bare and not bare and await self._took_zips(key):
            raise Conflict(
                f"the image is no zip, and {key.id!r} took firmware zips so far; bare=1 sends it all the same"
            )

    async def _took_zips(self, key: DeviceKey) -> bool:
        try:
            return (await self.history(key)).took_zips
        except Damaged:
            return False

    async def _supersede(self, key: DeviceKey) -> tuple[int, float | None]:
        """End an update that waits. Returns the version of the device's ended update, and its `ota.held_until`.

        That time is of the present wall clock, even if the clock was set since the earlier update ended.
        """
        try:
            found = await self.store.records.get(str(key))
        except Damaged:
            await self.store.records.delete(str(key))
            return 0, None
        if found is None:
            return 0, None
        performer = UpdatePerformer(self.store, key, found)
        await performer.apply(ota.NewerUpdateQueued())
        if not performer.update.ended:
            raise Conflict(f"an update of {key.id!r} is going on already, it is {performer.update.state}")
        await performer.archive()  # the writer that ended it may have been stopped before that
        held = ota.held_until(performer.update)
        return performer.version, None if held is None else held - performer.now() + self._clock.now()

    async def load(self, key: DeviceKey) -> UpdatePerformer:
        """Return a performer of the device's update. Raises `NotFound`, also for one that cannot be read."""
        try:
            record = await self.store.records.get(str(key))
        except Damaged:
            raise NotFound(f"what is stored of the update of {key.id!r} is damaged") from None
        if record is None:
            raise NotFound(f"device {key.id!r} was never updated")
        return UpdatePerformer(self.store, key, record)

    async def apply(self, key: DeviceKey, event: ota.UpdateEvent, *, id: str | None = None) -> Update:
        """Apply an event to the device's update, even if a node drives it. Returns the update afterwards.

        Args:
            id: the only update that the event is for: a newer one stays as it is.

        Raises:
            NotFound: the device was never updated.
        """
        race = self.store.records.race(str(key))
        while True:
            performer = await self.load(key)
            if id not in (None, performer.update.id):
                return performer.update
            try:
                await performer.apply(event)
            except VersionConflict:
                await race.lost()
                continue
            return performer.update

    async def cancel(self, key: DeviceKey) -> Update:
        """Cancel the device's update. Returns the ended update.

        Raises:
            NotFound: the device was never updated.
            Conflict: it is too late; the text says what the user can do instead.
        """
        before = await self.get(key)
        if before is None:
            raise NotFound(f"device {key.id!r} was never updated")
        if before.ended:
            await UpdatePerformer(self.store, key, Record(before, 0)).archive()  # its performer may have been stopped
            raise Conflict(f"the update of {key.id!r} has ended already: {before.state}")
        update = await self.apply(key, ota.CancelRequested())
        if update.state is not UpdateState.CANCELED:
            raise Conflict(_TOO_LATE.get(update.state, f"the update of {key.id!r} has ended: {update.state}"))
        return update

    def describe(self, key: DeviceKey, update: Update) -> dict[str, Any]:
        """Return a device's update as plain values; see `describe`."""
        return describe(update, now=self.store.age(key, update).now(update.created))

    async def get(self, key: DeviceKey) -> Update | None:
        """Return the device's newest update as it is stored, or `None` if the device was never updated."""
        return await self.store.get(key)

    async def history(self, key: DeviceKey) -> History:
        """Return the device's updates that have ended."""
        return await self.store.history(key)

    async def unfinished(self, leases: Leases | None = None) -> list[DeviceKey]:
        """Return every device with an update that has not ended.

        Archives updates that have ended and still have their image, and cancels those that wait for a kept image which
        is gone: a process was stopped after it had stored the update, and before it looked whether the image is kept.

        Args:
            leases: leave out the updates that another living node drives.
        """
        images = {key async for key in self.blobs.scan()}
        found: list[tuple[DeviceKey, Update]] = []
        async for key, update in self.store.records.scan():
            device = DeviceKey.parse(key)
            if not update.ended:
                found.append((device, update))
            elif update.owns_blob and blob_key(device.account, update.blob_id) in images:
                await UpdatePerformer(self.store, device, Record(update, 0)).archive()
        others = set[str]() if leases is None else {*await leases.alive()} - {leases.node}
        wanted: list[DeviceKey] = []
        for device, update in found:
            if update.driver in others:
                continue
            if blob_key(device.account, update.blob_id) not in images and await self._has_lost_image(device, update):
                _log.warning("the update %s of %s is canceled: its image was removed", update.id, device)
                await self.apply(device, ota.CancelRequested(), id=update.id)
            else:
                wanted.append(device)
        return wanted

    async def _has_lost_image(self, key: DeviceKey, update: Update) -> bool:
        """Return whether an update waits for a kept image that is not in the store any more."""
        if update.owns_blob or update.state is not UpdateState.QUEUED:
            return False
        return await self.blobs.size(blob_key(key.account, update.blob_id)) is None

    async def orphans(self, pause: Pause = never_pause) -> set[tuple[str, str]]:
        """Return (account, id) of every image that was stored for an update, and that no update needs.

        Some may be on their way into a device. The caller removes only those that are still among them an hour later.

        Args:
            pause: awaited after each update.
        """
        images = {key async for key in self.blobs.scan() if f"/{UPDATE_PREFIX}_" in key}
        damaged: list[str] = []
        async with aclosing(self.store.records.scan_all(pause, damaged)) as updates:
            async for key, update in updates:
                if not (update.ended and update.owns_blob):
                    images.discard(blob_key(split(key)[0], update.blob_id))
        unsure = {split(key)[0] for key in damaged}  # a damaged update may need any image of its account
        return {(account, id) for account, id in map(split, images) if account not in unsure}

    async def remove_orphan(self, account: str, id: str, pause: Pause = never_pause) -> None:
        """Remove an image that is one of the `orphans`."""
        await self.blobs.delete(blob_key(account, id))

    async def forget(self, key: DeviceKey) -> None:
        """Remove the updates and the image of a removed device."""
        try:
            update = await self.get(key)
        except Damaged:
            update = None  # its image becomes an orphan
            await self.store.records.delete(str(key))
        if update is not None:
            await self.store.records.delete(str(key))
            await self.store.delete_image(key.account, update)
        await self.store.histories.delete(str(key))


_TOO_LATE = {
    UpdateState.VERIFYING: "the device has the whole image and was told to use it (OTA.End): that cannot be taken back",
    UpdateState.REBOOTING: "the device has the whole image and reboots into it: that cannot be taken back",
    UpdateState.UNCOMMITTED: "the device runs the new image; to go back to the old one, call OTA.Revert",
}
"""The reason why an update cannot be canceled, and what the user can do instead."""
