"""What needs the blobs of kept images: updates and rollouts that have not ended."""

from __future__ import annotations

from contextlib import aclosing

from mdashcore._errors import Damaged
from mdashcore.hub.pausing import Pause
from mdashcore.hub.records.schema import ROLLOUTS, UPDATES
from mdashcore.hub.records.store import Records, scoped, split
from mdashcore.storage import DocumentStore

__all__ = ["ImageNeeds"]


class ImageNeeds:
    """The updates and rollouts that need a blob, found by reading them: a removal is rare, and a beginning frequent."""

    def __init__(self, documents: DocumentStore) -> None:
        self._updates = Records(documents, UPDATES)
        self._rollouts = Records(documents, ROLLOUTS)

    async def of(self, account: str, blob: str, pause: Pause) -> str | None:
        """Return what needs a blob, for people: an update or a rollout; `None` if nothing does.

        Reads every update of the account, and decodes those that name the blob.

        Args:
            pause: awaited after each update.
        """
        prefix = scoped(account, "")
        rollouts = [each async for _, each in self._rollouts.scan(prefix) if each.blob_id == blob and not each.ended]
        if rollouts:
            return f"the rollout {rollouts[0].id!r}, which is {rollouts[0].state},"
        name = blob.encode()
        async with aclosing(self._updates.documents(prefix)) as documents:
            async for document in documents:
                await pause()
                if document.damage is not None or name not in document.body:
                    continue
                try:
                    update = self._updates.read(document)
                except Damaged:
                    continue  # a damaged update cannot be performed
                if update.blob_id == blob and not update.ended:
                    return f"the update of {split(document.key)[1]!r}, which is {update.state},"
        return None

    async def all(self, damaged: list[str], pause: Pause) -> set[tuple[str, str]]:
        """Return (account, id) of every blob that is needed.

        Args:
            damaged: receives the keys of the records that cannot be read.
            pause: awaited after each update.
        """
        found = set[tuple[str, str]]()
        async with aclosing(self._updates.scan_all(pause, damaged)) as updates:
            async for key, update in updates:
                if not update.ended:
                    found.add((split(key)[0], update.blob_id))
        async for key, rollout in self._rollouts.scan(damaged=damaged):
            if not rollout.ended:
                found.add((split(key)[0], rollout.blob_id))
        return found
