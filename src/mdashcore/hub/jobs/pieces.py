"""The pieces of jobs in the store: written, removed, and found again when a process was killed in between.

Before the first piece of a job is written or removed, a mark is stored, which is removed after the last one. So what a
killed process has left is found by reading a few marks, and not all pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from mdashcore.hub.pausing import Pause, Together
from mdashcore.hub.records import schema
from mdashcore.hub.records.schema import JobMark
from mdashcore.hub.records.store import Records, scoped, split
from mdashcore.job import Job, JobPiece, JobResult
from mdashcore.storage import DocumentStore

__all__ = ["JobPieces", "piece_key"]


class JobPieces:
    """The pieces of the jobs of every account.

    Args:
        together: runs several reads or writes of the store at the same time.
    """

    def __init__(self, documents: DocumentStore, together: Together) -> None:
        self.records: Records[JobPiece] = Records(documents, schema.JOB_PIECES)
        self._marks: Records[JobMark] = Records(documents, schema.JOB_MARKS)
        self._together = together

    async def write(self, account: str, made: Job, devices: Sequence[str], pause: Pause) -> None:
        """Write the pieces of a job that is about to be stored. Call `unmark` after that.

        Args:
            devices: the ids of its devices, in order.
            pause: awaited before each piece.
        """
        await self.mark(account, made.id, made.pieces)

        async def write(piece: int) -> None:
            await pause()
            some = devices[piece * made.piece_size : (piece + 1) * made.piece_size]
            await self.records.put(piece_key(account, made.id, piece), JobPiece(tuple(map(JobResult, some))))

        await self._together(partial(write, piece) for piece in range(made.pieces))

    async def remove(self, account: str, id: str, pieces: int | None) -> None:
        """Remove the pieces of a job whose removal was marked, or that was never stored.

        Args:
            pieces: their number; `None` if it is not known.
        """
        if pieces is None:
            keys = await self.records.keys(f"{scoped(account, id)}/")
        else:
            keys = [piece_key(account, id, piece) for piece in range(pieces)]
        await self._together(partial(self._remove, key) for key in keys)
        await self.unmark(account, id)

    async def mark(self, account: str, id: str, pieces: int | None) -> None:
        """Store that the pieces of a job are being written or removed."""
        await self._marks.put(scoped(account, id), JobMark(pieces))

    async def unmark(self, account: str, id: str) -> None:
        """Remove the mark of a job whose pieces are all there, or all gone."""
        await self._marks.delete(scoped(account, id))

    async def marked(self) -> set[tuple[str, str]]:
        """Return (account, id) of every job whose pieces are being written or removed."""
        return set(map(split, await self._marks.keys()))

    async def remove_rest(self, account: str, id: str) -> None:
        """Remove what is left of the pieces of a job that does not exist."""
        mark = await self._marks.get(scoped(account, id))
        if mark is not None:
            await self.remove(account, id, mark.value.pieces)

    async def _remove(self, key: str) -> None:
        await self.records.delete(key)


def piece_key(account: str, id: str, piece: int) -> str:
    """Return the key of a job's piece."""
    return f"{scoped(account, id)}/{piece:04}"
