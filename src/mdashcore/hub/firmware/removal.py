"""The removal of images from the firmware library, by users and after processes that were killed.

`mdashcore.firmware_entry` explains why an image is never removed under an update.
"""

from __future__ import annotations

from contextlib import aclosing

from mdashcore import notifications
from mdashcore._errors import Conflict, Damaged, NotFound, VersionConflict
from mdashcore.firmware_entry import BLOB_PREFIX, EntryState, FirmwareEntry, RemovalStep
from mdashcore.hub.feed import Feed
from mdashcore.hub.firmware.needs import ImageNeeds
from mdashcore.hub.pausing import Pause, never_pause
from mdashcore.hub.records.store import Record, Records, is_generated_id, scoped, split
from mdashcore.hub.usage import Usage
from mdashcore.storage import BlobStore

__all__ = ["ImageRemoval", "image_record"]


class ImageRemoval:
    """Removes images of the library, step by step. An image that is needed is kept.

    Args:
        records: the entries of the library.
        blobs: the bytes of the images.
        needs: the updates and rollouts that need an image.
        usage: counts the images of each account.
    """

    def __init__(
        self, records: Records[FirmwareEntry], blobs: BlobStore, needs: ImageNeeds, feed: Feed, usage: Usage
    ) -> None:
        self._records = records
        self._blobs = blobs
        self._needs = needs
        self._feed = feed
        self._usage = usage

    async def remove(self, account: str, id: str, pause: Pause = never_pause) -> None:
        """Remove an image that nothing needs, and notify subscribers.

        Args:
            pause: awaited after each update that was looked at.

        Raises:
            NotFound: there is no such image.
            Conflict: an update or a rollout that has not ended needs it.
        """
        race = self._records.race(scoped(account, id))
        blob: str | None = None
        while True:
            try:
                found = await image_record(self._records, account, id)
            except Damaged:
                if await self.delete_damaged(account, id):
                    return
                continue
            except NotFound:
                if blob is None:
                    raise
                return  # another task has finished the removal
            if blob not in (None, found.value.blob):
                return  # the same, and the image was added again
            blob = found.value.blob
            try:
                marked = await self._step(account, found, RemovalStep.BEGIN)
            except VersionConflict:
                await race.lost()
                continue
            if await self.finish(account, marked, pause):
                return
            await race.lost()

    async def finish(self, account: str, marked: Record[FirmwareEntry], pause: Pause = never_pause) -> bool:
        """Finish the removal of an image that was found `REMOVING`. Returns `False` if another task changed it.

        Raises:
            Conflict: the image is needed, and is kept.
        """
        entry = marked.value
        need = await self._needs.of(account, entry.blob, pause)
        try:
            if need is not None:
                await self._step(account, marked, RemovalStep.KEEP)
            else:
                await self._delete(account, entry.id, expected=marked.version)
        except VersionConflict:
            return False
        if need is not None:
            raise Conflict(f"{need} needs the image {entry.id!r}: cancel or end it first")
        await self._blobs.delete(scoped(account, entry.blob))  # a process that dies before leaves an orphan
        return True

    async def delete_damaged(self, account: str, id: str) -> bool:
        """Delete a record that cannot be read. Returns `False` if another task has replaced it meanwhile.

        Its blob is not known. It becomes an orphan, which is kept as long as an update needs it.
        """
        expected: int | None = None
        try:
            document = await self._records.document(scoped(account, id))
            if document is None:
                return True
            if document.damage is None:  # else the store does not know its version
                expected = document.version
                self._records.read(document)
                return False
        except Damaged:
            pass
        try:
            await self._delete(account, id, expected)
        except VersionConflict:
            return False
        return True

    async def forget(self, account: str) -> None:
        """Remove all images of a removed account. Its rollouts are gone, and its updates end without their image."""
        prefix = scoped(account, "")
        for key in await self._records.keys(prefix):
            await self._records.delete(key)
        async for key in self._blobs.scan(scoped(account, f"{BLOB_PREFIX}_")):
            await self._blobs.delete(key)

    async def orphans(self, pause: Pause = never_pause) -> set[tuple[str, str]]:
        """Return (account, id) of every blob without an entry, and of every entry whose removal is not finished.

        Some may be on their way into the library, or out of it. The caller removes only those that are still among
        them an hour later.

        Args:
            pause: awaited after each record.
        """
        blobs = {split(key) async for key in self._blobs.scan() if f"/{BLOB_PREFIX}_" in key}
        removing: set[tuple[str, str]] = set()
        damaged: list[str] = []
        async with aclosing(self._records.scan_all(pause, damaged)) as entries:
            async for key, entry in entries:
                account, id = split(key)
                blobs.discard((account, entry.blob))
                if entry.state is EntryState.REMOVING:
                    removing.add((account, id))
        if blobs:  # an entry that was damaged, and then removed, may have left them to an update
            blobs -= await self._needs.all(damaged, pause)
        unsure = {split(key)[0] for key in damaged}  # a damaged record may need any blob of its account
        return {(account, blob) for account, blob in blobs if account not in unsure} | removing

    async def remove_orphan(self, account: str, id: str, pause: Pause = never_pause) -> None:
        """Remove a blob that is one of the `orphans`, or finish a removal. An image that is needed is kept.

        Args:
            pause: awaited after each update that was looked at.
        """
        if id.startswith(f"{BLOB_PREFIX}_"):
            await self._blobs.delete(scoped(account, id))
            return
        found = await self._records.get(scoped(account, id))
        if found is not None and found.value.state is EntryState.REMOVING:
            try:
                await self.finish(account, found, pause)
            except Conflict:
                pass  # it is kept

    async def _step(self, account: str, found: Record[FirmwareEntry], step: RemovalStep) -> Record[FirmwareEntry]:
        """Store the entry after a step. Raises `VersionConflict` if another task has changed it."""
        after = found.value.after(step)
        assert after is not None  # noqa: S101 - for the type checker: the last step deletes the record
        return Record(after, await self._records.put(scoped(account, after.id), after, expected=found.version))

    async def _delete(self, account: str, id: str, expected: int | None = None) -> None:
        """Delete the record of an image, and notify subscribers. Raises `VersionConflict`."""
        if await self._records.delete(scoped(account, id), expected=expected):
            await self._usage.release(account, "firmware")
            await self._feed.emit(account, notifications.FIRMWARE_DELETED, id)


async def image_record(records: Records[FirmwareEntry], account: str, id: str) -> Record[FirmwareEntry]:
    """Return the record of an image by its id. Raises `NotFound`."""
    record = await records.get(scoped(account, id)) if is_generated_id(id) else None
    if record is None:
        raise NotFound(f"no image {id!r} in the library")
    return record
