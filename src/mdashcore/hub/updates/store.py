"""The stored data of updates: the newest of each device, the history of earlier ones, and the images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mdashcore.hub.clock import Age, Ages, Clock
from mdashcore.hub.feed import Feed
from mdashcore.hub.records.contention import Contention
from mdashcore.hub.records.schema import UPDATE_HISTORIES, UPDATES, History
from mdashcore.hub.records.store import Records, scoped
from mdashcore.hub.shadows import Shadows
from mdashcore.identity import DeviceKey
from mdashcore.ota import Update
from mdashcore.storage import BlobStore, DocumentStore

__all__ = ["UpdateStore", "blob_key"]

MAX_UPDATE_AGES: Final = 1_000  # ages of updates that no node drives: an ended one may still have a held transfer


def blob_key(account: str, id: str) -> str:
    """Return the key of the image with the id `Update.blob_id`."""
    return scoped(account, id)


class UpdateStore:
    """The records of updates, and the stores that a performer writes to.

    Args:
        clock: the clocks of this process.
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
        contention: Contention,
    ) -> None:
        self.records: Records[Update] = Records(documents, UPDATES, contention=contention)
        self.histories: Records[History] = Records(documents, UPDATE_HISTORIES, contention=contention)
        self.blobs = blobs
        self.feed = feed
        self.shadows = shadows
        self.clock = clock
        self._ages = Ages(clock, MAX_UPDATE_AGES)
        self.on_change: list[Callable[[DeviceKey, Update], None]] = []
        """See `Updates.on_change`."""

    def age(self, key: DeviceKey, update: Update) -> Age:
        """Return the age of an update."""
        return self._ages.of(f"{key!s}/{update.id}", update.created, update.newest_time)

    async def get(self, key: DeviceKey) -> Update | None:
        """Return the device's newest update as it is stored, or `None` if the device was never updated."""
        record = await self.records.get(str(key))
        return None if record is None else record.value

    async def history(self, key: DeviceKey) -> History:
        """Return the device's updates that have ended."""
        record = await self.histories.get(str(key))
        return History() if record is None else record.value

    async def add_to_history(self, key: DeviceKey, update: Update) -> None:
        """Add an update that has ended to the history, unless the history has it."""

        def change(found: History | None) -> History | None:
            before = found or History()
            after = before.with_(update)
            return None if after is before else after

        await self.histories.change(str(key), change, replace_damaged=True)

    async def delete_image(self, account: str, update: Update) -> None:
        """Delete the image of an update that owns it."""
        if update.owns_blob:
            await self.blobs.delete(blob_key(account, update.blob_id))

    def changed(self, key: DeviceKey, update: Update) -> None:
        """Call the callbacks of `on_change` after a change of state was stored."""
        for callback in tuple(self.on_change):
            callback(key, update)
