"""The use of each account, counted for its limits: one document for each account, changed by compare-and-set.

A number is raised before something is stored, and lowered after it was removed. So two requests at the same time, even
to two processes, never exceed a limit together. A process that dies in between leaves a number that is too high, never
one that is too low. `Usage.check` corrects it. A missing document, as in a store of an earlier version, is created by
counting.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from typing import Final

import attrs

from mdashcore._errors import Damaged, LimitReached, MdashError, VersionConflict
from mdashcore.hub.limits import AccountLimits
from mdashcore.hub.records.contention import Contention, KeyedLocks
from mdashcore.hub.records.schema import USAGE, UsageRecord
from mdashcore.hub.records.store import Records
from mdashcore.storage import BlobStore, DocumentStore

__all__ = ["USE_INTERVAL", "Usage"]

_log = logging.getLogger(__name__)

TURN_PATIENCE: Final = 1.0  # seconds to wait for other writers of this process; then compare-and-set alone decides

USE_INTERVAL: Final = 3600.0  # seconds between two checks: longer than any operation that has raised a number takes


_COUNTED: Final = ("devices", "keys", "firmware", "image_bytes")

_WORDS: Final = {"firmware": "images in its library"}
"""What is counted, for people, if the name of the limit is no plural."""


@attrs.frozen
class _Difference:
    """The difference between the counted and the actual use of an account."""

    surplus: dict[str, int]
    arriving: dict[str, int]


def _without(use: UsageRecord, key: str) -> dict[str, int]:
    return {each: size for each, size in use.arriving.items() if each != key}


class Usage:
    """The use of every account.

    Args:
        blobs: the store of images, under keys that begin with the account and a slash.
        contention: how writers of the same record wait for each other.
    """

    def __init__(
        self,
        documents: DocumentStore,
        blobs: BlobStore,
        limits: AccountLimits,
        *,
        contention: Contention = Contention(),
    ) -> None:
        self._records = Records(documents, USAGE, contention=contention)
        self._turns = KeyedLocks(contention)
        self._documents = documents
        self._blobs = blobs
        self.limits = limits
        self._found: dict[str, _Difference] = {}
        """The differences that the last check has found, by account."""

    async def of(self, account: str) -> UsageRecord:
        """Return the use of an account."""
        try:
            record = await self._records.get(account)
        except Damaged:
            await self._records.delete(account)
            record = None
        return record.value if record is not None else await self._count(account)

    async def reserve(self, account: str, what: str) -> None:
        """Count one more of `what` (``devices``, ``keys``, ``firmware``) before it is stored. Raises `LimitReached`."""
        most: int = getattr(self.limits, what)

        def change(use: UsageRecord) -> UsageRecord:
            present: int = getattr(use, what)
            if present >= most:
                raise LimitReached(what, f"the account has {present} {_WORDS.get(what, what)}, and may have {most}")
            return use.with_(what, present + 1)

        await self._change(account, change)

    async def release(self, account: str, what: str) -> None:
        """Count one less of `what`, which was removed or never stored. Raises `StorageError`."""
        await self._change(account, lambda use: use.with_(what, max(0, getattr(use, what) - 1)))

    async def reserve_bytes(self, account: str, key: str, least: int, wanted: int) -> int:
        """Reserve bytes for an image that arrives: `wanted`, or as many as are left. Returns the reserved number.

        Raises:
            LimitReached: fewer than `least` are left.
        """
        most = self.limits.image_bytes
        got = 0

        def change(use: UsageRecord) -> UsageRecord:
            nonlocal got
            others = use.all_image_bytes - use.arriving.get(key, 0)
            got = min(wanted, most - others)
            if got < least:
                raise LimitReached(
                    "image_bytes",
                    f"the images of the account have {others} bytes, and may have {most}",
                )
            return attrs.evolve(use, arriving={**use.arriving, key: got})

        await self._change(account, change)
        return got

    async def arrived(self, account: str, key: str, size: int) -> None:
        """Count an image that is now in the store, instead of its reserved bytes."""

        def change(use: UsageRecord) -> UsageRecord:
            return attrs.evolve(use, image_bytes=use.image_bytes + size, arriving=_without(use, key))

        await self._change(account, change)

    async def gone(self, account: str, key: str, size: int) -> None:
        """Stop counting an image that was removed from the store, or that never got there: then `size` is 0."""

        def change(use: UsageRecord) -> UsageRecord | None:
            if not size and key not in use.arriving:
                return None
            return attrs.evolve(use, image_bytes=max(0, use.image_bytes - size), arriving=_without(use, key))

        await self._change(account, change)

    async def forget(self, account: str) -> None:
        """Remove the use of an account that was removed."""
        await self._records.delete(account)

    async def check(self) -> AsyncGenerator[None, None]:
        """Correct the numbers that two checks in a row have found to differ from the stored documents and blobs.

        The caller waits `USE_INTERVAL` between two checks, on a monotonic clock. A check takes long in a large service,
        so the caller may let other tasks run at each step.
        """
        before, self._found = self._found, {}
        for account in await self._records.keys():
            yield
            try:
                await self._check(account, before.get(account))
            except VersionConflict:
                continue
            except MdashError as exc:
                _log.warning("what %s has is counted later: %s", account, exc)

    async def _check(self, account: str, before: _Difference | None) -> None:
        record = await self._records.get(account)
        if record is None:
            return
        use, actual = record.value, await self._counted(account)
        difference = _Difference({name: getattr(use, name) - getattr(actual, name) for name in _COUNTED}, use.arriving)
        if before is not None:
            wrong = {name: by for name, by in difference.surplus.items() if by and by == before.surplus[name]}
            left = {key: size for key, size in use.arriving.items() if key not in before.arriving}
            if wrong or left != use.arriving:
                right = attrs.evolve(use, arriving=left)
                for name, by in wrong.items():
                    right = right.with_(name, getattr(use, name) - by)
                # If anything was counted since the record was read, this conflicts, and the next check decides.
                await self._records.put(account, right, expected=record.version)
                _log.info("what %s has is put right: a process was stopped while it counted", account)
                return
        self._found[account] = difference

    async def _change(self, account: str, function: Callable[[UsageRecord], UsageRecord | None]) -> None:
        """Change the use of an account, one writer of this process at a time: else most would lose their races."""
        has_turn = self._turns.acquire_nowait(account) or await self._turns.acquire(account, TURN_PATIENCE)
        try:
            await self._change_now(account, function)
        finally:
            if has_turn:
                self._turns.release(account)

    async def _change_now(self, account: str, function: Callable[[UsageRecord], UsageRecord | None]) -> None:
        def change(found: UsageRecord | None) -> UsageRecord | None:
            if found is None:
                raise _Uncounted
            return function(found)

        while True:
            try:
                await self._records.change(account, change)
                return
            except (_Uncounted, Damaged):
                await self.of(account)  # counts it

    async def _count(self, account: str) -> UsageRecord:
        """Count an account for the first time, and store the result."""
        use = await self._counted(account)
        try:
            await self._records.put(account, use, expected=0)
        except VersionConflict:
            pass  # another process has counted it in the meantime
        return use

    async def _counted(self, account: str) -> UsageRecord:
        prefix = f"{account}/"
        numbers = {"devices": 0, "keys": 0, "firmware": 0}
        for collection in numbers:
            async for _ in self._documents.scan(collection, prefix):
                numbers[collection] += 1
        size = 0
        async for key in self._blobs.scan(prefix):
            size += await self._blobs.size(key) or 0
        return UsageRecord(numbers["devices"], numbers["keys"], size, firmware=numbers["firmware"])


class _Uncounted(Exception):
    """The account has no document yet."""
