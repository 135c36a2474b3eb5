"""The firmware library: images that are kept for updates and rollouts until a user removes them.

An entry is addressed by its content, so the same image is in the library of an account once. Its bytes are in a blob of
their own, which is stored before the entry and removed after it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import attrs

from mdashcore import _json, identity, notifications, ota
from mdashcore._errors import AlreadyExists, Conflict, Damaged, LimitReached, NotFound, VersionConflict
from mdashcore.firmware_entry import BLOB_PREFIX, EntryState, FirmwareEntry, check_notes, entry_id
from mdashcore.hub.feed import Feed
from mdashcore.hub.firmware.describe import describe
from mdashcore.hub.firmware.needs import ImageNeeds
from mdashcore.hub.firmware.removal import ImageRemoval, image_record
from mdashcore.hub.pausing import Pause, never_pause
from mdashcore.hub.records.contention import Contention
from mdashcore.hub.records.schema import FIRMWARE
from mdashcore.hub.records.store import Record, Records, scoped
from mdashcore.hub.usage import Usage
from mdashcore.storage import BlobStore, DocumentStore

__all__ = ["FirmwareLibrary"]

_log = logging.getLogger(__name__)


class FirmwareLibrary:
    """The kept images of every account.

    Args:
        now: the wall clock, in Unix seconds.
        entropy: returns that many random bytes.
        contention: how writers of the same record wait for each other.
        usage: counts the images of each account.
    """

    def __init__(
        self,
        documents: DocumentStore,
        blobs: BlobStore,
        feed: Feed,
        usage: Usage,
        *,
        now: Callable[[], float],
        entropy: Callable[[int], bytes],
        contention: Contention = Contention(),
    ) -> None:
        self.records: Records[FirmwareEntry] = Records(documents, FIRMWARE, contention=contention)
        self.blobs = blobs
        self._feed = feed
        self._now = now
        self._entropy = entropy
        self._usage = usage
        self.removal: ImageRemoval = ImageRemoval(self.records, blobs, ImageNeeds(documents), feed, usage)
        """Removes images."""

    # Adding

    def new_blob(self) -> str:
        """Return a new id for the blob of an image that is about to be added."""
        return identity.make_id(BLOB_PREFIX, self._entropy(8))

    async def finish_removal(self, account: str, sha256: str, pause: Pause = never_pause) -> None:
        """Finish a removal of an image that was interrupted. `add` would do that, but it may take a while.

        Args:
            pause: awaited after each update that was looked at.
        """
        try:
            await self.removal.remove_orphan(account, entry_id(sha256), pause)
        except Damaged:
            pass  # `add` replaces it

    async def add(
        self,
        account: str,
        blob: str,
        image: ota.ImageFacts,
        *,
        uploaded_by: str,
        key: str | None = None,
        name: str = "",
        notes: str = "",
        check_account: Callable[[], Awaitable[None]] | None = None,
        pause: Pause = never_pause,
    ) -> tuple[FirmwareEntry, bool]:
        """Add an image whose bytes are in the blob `scoped(account, blob)`, and notify subscribers.

        The blob is the library's from now on. It is deleted if the library has the same image, or refuses this one. It
        takes the place of bytes that the store has lost, and the entry that of one that cannot be read.

        Args:
            blob: from `new_blob`.
            uploaded_by: the name of the user, or of the key: its id, if it has no name.
            key: the id of the key.
            check_account: awaited after the entry was stored. Raises `NotFound` if the account was removed meanwhile:
                then nothing is left for a later account of its name.
            pause: awaited after each update that is looked at because the same image is just being removed.

        Returns:
            the entry, and whether it is new.

        Raises:
            LimitReached: the account keeps as many images as it may.
            AlreadyExists: the library has the same bytes as another kind of image.
            NotFound: as `check_account` raises.
            StorageError: the store fails. What it has of the image is removed later, if it is not in the library.
        """
        facts = ota.UpdateImage.of(image)
        made = FirmwareEntry(
            id=entry_id(facts.sha256),
            blob=blob,
            image=facts,
            name=identity.check_label(name) or facts.app or facts.name,
            notes=check_notes(notes),
            created=self._now(),
            uploaded_by=uploaded_by,
            key=key,
        )
        try:
            entry = await self._put(account, made, check_account, pause)
        except (LimitReached, AlreadyExists, NotFound):
            await self.blobs.delete(scoped(account, blob))
            raise
        if entry.blob != blob:
            await self.blobs.delete(scoped(account, blob))
        return entry, entry is made

    async def _put(
        self, account: str, made: FirmwareEntry, check_account: Callable[[], Awaitable[None]] | None, pause: Pause
    ) -> FirmwareEntry:
        """Store a new entry. Returns it, or that of the same image. Raises as `add`."""
        place = scoped(account, made.id)
        race = self.records.race(place)
        while True:
            try:
                found = await self.records.get(place)
            except Damaged:  # as if a user had removed it
                await self.removal.delete_damaged(account, made.id)
                continue
            if found is None:
                try:
                    version = await self._create(account, made)
                except VersionConflict:
                    await race.lost()
                    continue
                if check_account is not None:
                    await self._check_account(account, Record(made, version), check_account)
                await self._notify(account, notifications.FIRMWARE_ADDED, made)
                return made
            if found.value.state is EntryState.KEPT:
                _check_same(found.value, made)
                try:
                    return await self._with_bytes(account, found, made.blob)
                except VersionConflict:
                    await race.lost()
            else:  # a removal that was interrupted, or one that is going on
                try:
                    await self.removal.finish(account, found, pause)
                except Conflict:
                    continue  # it is kept
                await race.lost()

    async def _create(self, account: str, made: FirmwareEntry) -> int:
        """Store a new entry. Returns its version. Raises `VersionConflict` if another task has stored one."""
        await self._usage.reserve(account, "firmware")
        try:
            return await self.records.put(scoped(account, made.id), made, expected=0)
        except VersionConflict:
            await self._usage.release(account, "firmware")
            raise

    async def _check_account(
        self, account: str, stored: Record[FirmwareEntry], check: Callable[[], Awaitable[None]]
    ) -> None:
        """Remove the entry that was just stored if its account is gone. Raises `NotFound`."""
        try:
            await check()
        except NotFound:
            try:
                if await self.records.delete(scoped(account, stored.value.id), expected=stored.version):
                    await self._usage.release(account, "firmware")
            except VersionConflict:
                pass  # the removal of the account has found it too
            raise

    async def _with_bytes(self, account: str, found: Record[FirmwareEntry], blob: str) -> FirmwareEntry:
        """Return a kept entry, with another blob if the store has lost its bytes. Raises `VersionConflict`."""
        entry = found.value
        if await self.blobs.size(scoped(account, entry.blob)) == entry.image.size:
            return entry
        mended = attrs.evolve(entry, blob=blob)
        await self.records.put(scoped(account, entry.id), mended, expected=found.version)
        _log.warning("the store had lost the image %s of %s: it has arrived again", entry.id, account)
        await self.blobs.delete(scoped(account, entry.blob))
        return mended

    # Reading

    async def get(self, account: str, id: str) -> FirmwareEntry:
        """Return an image of the account. Raises `NotFound`."""
        return (await image_record(self.records, account, id)).value

    async def of(self, account: str, damaged: list[str] | None = None) -> list[FirmwareEntry]:
        """Return the account's images, newest first. `damaged` receives the ids of those that cannot be read."""
        found = [each async for _, each in self.records.scan(scoped(account, ""), damaged)]
        return sorted(found, key=lambda each: (-each.created, each.id))

    async def usable(self, account: str, id: str) -> FirmwareEntry:
        """Return an image with which an update may begin. Raises `NotFound`, or `Conflict` while it is removed."""
        found = await self.get(account, id)
        if found.state is not EntryState.KEPT:
            raise Conflict(f"the image {id!r} is just being removed")
        return found

    async def check_kept(self, account: str, entry: FirmwareEntry) -> None:
        """Check that an image is still there, after an update or a rollout with it was stored.

        Raises:
            Conflict: it is being removed, or was. The update must not begin.
        """
        try:
            present = await self.usable(account, entry.id)
        except NotFound:
            present = None
        if present is None or present.blob != entry.blob:
            raise Conflict(f"the image {entry.id!r} was just removed")

    async def edit(self, account: str, id: str, *, name: str | None = None, notes: str | None = None) -> FirmwareEntry:
        """Change the texts of an image, and notify subscribers. `None` leaves a text as it is.

        Raises:
            NotFound: there is no such image.
            InvalidInput: a text is not allowed.
        """
        before = await self.get(account, id)
        if before.edited(name, notes) == before:
            return before

        def change(found: FirmwareEntry | None) -> FirmwareEntry:
            if found is None:
                raise NotFound(f"no image {id!r}")
            return found.edited(name, notes)

        changed = await self.records.change(scoped(account, id), change)
        assert changed is not None  # noqa: S101 - for the type checker: `change` returns an entry, or raises
        await self._notify(account, notifications.FIRMWARE_UPDATED, changed)
        return changed

    async def _notify(self, account: str, name: str, entry: FirmwareEntry) -> None:
        await self._feed.emit(account, name, entry.id, _json.encode(describe(entry)))


def _check_same(present: FirmwareEntry, added: FirmwareEntry) -> None:
    """Check that an entry is the image that is to be added. Raises `AlreadyExists`."""
    if present.image.sha256 != added.image.sha256:
        raise AlreadyExists(f"another image has the id {present.id!r}: its digest begins in the same way")
    if present.image.bare != added.image.bare:
        kind = "a bare image" if present.image.bare else "a firmware zip"
        raise AlreadyExists(f"the library has the same bytes as {kind}, as {present.id!r}: remove it first")
