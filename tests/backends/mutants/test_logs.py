"""Log stores that break one sentence of the contract each."""

from __future__ import annotations

import json
import unicodedata
from collections import deque
from collections.abc import Sequence

import anyio
import pytest

from mdash_backends.memory import MemoryLogs
from mdashcore._errors import StorageError
from mdashcore.storage import LogEntry


class SkipsOffsets(MemoryLogs):
    """Takes an offset from a counter, and loses one now and then."""

    async def append(self, log: str, time: float, bodies: Sequence[bytes]) -> int:
        first = await super().append(log, time, bodies)
        self._ends[log] += len(bodies) > 1
        return first


class RepeatsOffsets(MemoryLogs):
    """Computes the next offset before it waits."""

    async def append(self, log: str, time: float, bodies: Sequence[bytes]) -> int:
        end = self._ends.get(log, 0)
        await anyio.lowlevel.checkpoint()
        self._ends[log] = end
        return await super().append(log, time, bodies)


class ForgetsOffsets(MemoryLogs):
    """Derives the next offset from the last entry, which a trim may have taken."""

    async def trim(self, log: str, keep: int, *, before: int | None = None) -> None:
        await super().trim(log, keep, before=before)
        if keep == 0:
            self._ends.pop(log, None)


class BeginsInNameOnly(MemoryLogs):
    """Says where the log ends, and leaves what was there."""

    async def begin(self, log: str, offset: int) -> None:
        self._ends[log] = offset


class TrimsTheNewest(MemoryLogs):
    """Keeps the wrong end."""

    async def trim(self, log: str, keep: int, *, before: int | None = None) -> None:
        entries = self._logs.get(log)
        while entries and len(entries) > keep:
            entries.pop()


class TrimsWhatComesMeanwhile(MemoryLogs):
    """Counts from where the log ends now, whatever it was told."""

    async def trim(self, log: str, keep: int, *, before: int | None = None) -> None:
        await super().trim(log, keep)


class WritesTheRestAnew(MemoryLogs):
    """Trims by writing what stays into a new file, which replaces the old one with all that came meanwhile."""

    async def trim(self, log: str, keep: int, *, before: int | None = None) -> None:
        entries = self._logs.get(log)
        if entries is not None:
            left = deque(entries)
            while len(left) > keep and (before is None or left[0].offset < before):
                left.popleft()
            await anyio.lowlevel.checkpoint()
            self._logs[log] = left


class WritesBodiesAnew(MemoryLogs):
    """Parses what it is given, and encodes it."""

    async def append(self, log: str, time: float, bodies: Sequence[bytes]) -> int:
        return await super().append(
            log, time, [json.dumps(json.loads(body, parse_int=float)).encode() for body in bodies]
        )


class NormalisesText(MemoryLogs):
    """Composes letters and accents."""

    async def append(self, log: str, time: float, bodies: Sequence[bytes]) -> int:
        return await super().append(
            log, time, [unicodedata.normalize("NFC", bytes(body).decode()).encode() for body in bodies]
        )


class AliasesBodies(MemoryLogs):
    """Keeps the caller's buffers."""

    async def append(self, log: str, time: float, bodies: Sequence[bytes]) -> int:
        first = await super().append(log, time, bodies)
        entries = self._logs[log]
        for number, body in enumerate(bodies):
            entries[number - len(bodies)] = LogEntry(first + number, time, body)
        return first


class RoundsTimes(MemoryLogs):
    """Keeps milliseconds."""

    async def append(self, log: str, time: float, bodies: Sequence[bytes]) -> int:
        return await super().append(log, round(time, 3), bodies)


class HasNoPast(MemoryLogs):
    """Keeps times without a sign."""

    async def append(self, log: str, time: float, bodies: Sequence[bytes]) -> int:
        return await super().append(log, abs(time), bodies)


class ReadsOnePage(MemoryLogs):
    """Gives at most five hundred entries, however many are asked for."""

    async def read(self, log: str, start: int, limit: int) -> Sequence[LogEntry]:
        return await super().read(log, start, min(limit, 500))


class ShowsEntriesEarly(MemoryLogs):
    """Gives offsets out first, and makes entries visible in any order."""

    async def append(self, log: str, time: float, bodies: Sequence[bytes]) -> int:
        first = self._ends.get(log, 0)
        self._ends[log] = first + len(bodies)
        for _ in range((first % 3) + 1):
            await anyio.lowlevel.checkpoint()
        entries = [LogEntry(first + i, time, bytes(body)) for i, body in enumerate(bodies)]
        both = [*self._logs.get(log, ()), *entries]
        self._logs[log] = deque(sorted(both, key=lambda entry: entry.offset))
        return first


class SplitsAppends(MemoryLogs):
    """Appends entry by entry, so that others get in between, or a cancellation."""

    async def append(self, log: str, time: float, bodies: Sequence[bytes]) -> int:
        first = await super().append(log, time, bodies[:1])
        for body in bodies[1:]:
            await anyio.lowlevel.checkpoint()
            await super().append(log, time, (body,))
        return first


class Fails(MemoryLogs):
    """Fails as it should while it is told to."""

    fails = False

    async def end(self, log: str) -> int:
        if self.fails:
            raise StorageError("the server is gone") from OSError(111)
        return await super().end(log)


class LetsErrorsOut(Fails):
    """Raises what its library raises."""

    async def end(self, log: str) -> int:
        if self.fails:
            raise ConnectionRefusedError
        return await super().end(log)


class Shared(MemoryLogs):
    """A store of which every opener has a view of its own: here one that is right."""

    def opened(self) -> MemoryLogs:
        """The view of one more opener."""
        return self


class CountsByItself(Shared):
    """Every opener knows the log's end from when it was opened, and from its own appends."""

    def opened(self) -> MemoryLogs:
        whole = self
        ends: dict[str, int] = {}

        class View(MemoryLogs):
            read = whole.read
            trim = whole.trim
            end = whole.end

            async def append(self, log: str, time: float, bodies: Sequence[bytes]) -> int:
                whole._ends[log] = ends.get(log, await whole.end(log))
                first = await MemoryLogs.append(whole, log, time, bodies)
                ends[log] = first + len(bodies)
                return first

        return View()


class ReadsACopy(Shared):
    """Every opener reads what it has appended, and the rest a little later."""

    def opened(self) -> MemoryLogs:
        whole = self
        seen: dict[str, int] = {}

        class View(MemoryLogs):
            trim = whole.trim
            end = whole.end

            async def append(self, log: str, time: float, bodies: Sequence[bytes]) -> int:
                first = await MemoryLogs.append(whole, log, time, bodies)
                seen[log] = first + len(bodies)
                return first

            async def read(self, log: str, start: int, limit: int) -> Sequence[LogEntry]:
                known, seen[log] = seen.get(log, 0), await whole.end(log)
                return [entry for entry in await whole.read(log, start, limit) if entry.offset < known]

        return View()


class SavesAtClose(MemoryLogs):
    """Has on disk what was there when it was closed."""

    saves_at_close = True


class LocksLogs(MemoryLogs):
    """Lets one write at a time, with a lock that lets others have a turn."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = anyio.Lock()

    async def append(self, log: str, time: float, bodies: Sequence[bytes]) -> int:
        async with self._lock:
            return await super().append(log, time, bodies)


MUTANTS: list[tuple[type, str, str]] = [
    (SkipsOffsets, "test_log_offsets_count_from_zero", "memory"),
    (SkipsOffsets, "test_log_concurrent_appends", "memory"),
    (RepeatsOffsets, "test_log_concurrent_appends", "memory"),
    (ForgetsOffsets, "test_log_trim_keeps_the_newest", "memory"),
    (BeginsInNameOnly, "test_log_begins_at_an_offset", "memory"),
    (TrimsTheNewest, "test_log_trim_keeps_the_newest", "memory"),
    (TrimsWhatComesMeanwhile, "test_log_trim_spares_what_comes_meanwhile", "memory"),
    (WritesTheRestAnew, "test_log_a_trim_loses_no_append", "memory"),
    (WritesBodiesAnew, "test_log_bodies_come_back_byte_for_byte", "memory"),
    (NormalisesText, "test_log_bodies_come_back_byte_for_byte", "memory"),
    (AliasesBodies, "test_log_a_body_is_not_shared", "memory"),
    (RoundsTimes, "test_log_times_come_back", "memory"),
    (HasNoPast, "test_log_times_come_back", "memory"),
    (ReadsOnePage, "test_log_many_and_large_entries", "memory"),
    (ShowsEntriesEarly, "test_log_visible_in_order", "memory"),
    (SplitsAppends, "test_log_concurrent_appends", "memory"),
    (SplitsAppends, "test_log_a_cancelled_append_is_never_half_done", "memory"),
    (LetsErrorsOut, "test_log_failures_are_storage_errors", "memory"),
    (CountsByItself, "test_log_shared", "shared"),
    (CountsByItself, "test_log_shared_under_load", "shared"),
    (ReadsACopy, "test_log_shared_under_load", "shared"),
    (SavesAtClose, "test_log_survives_a_kill", "disk"),
    (LocksLogs, "test_log_instant", "instant"),
]


@pytest.mark.parametrize(("mutant", "caught_by", "kind"), MUTANTS, ids=lambda value: getattr(value, "__name__", value))
def test_a_mutant_is_caught(mutant, caught_by, kind, assert_caught):
    """The named test of the suite fails on this store."""
    assert_caught(caught_by, mutant, kind)


@pytest.mark.parametrize(("caught_by", "kind"), sorted({(test, kind) for _, test, kind in MUTANTS}))
def test_a_correct_store_passes(caught_by, kind, run_suite):
    """The same test passes on the store that the mutants are made of."""
    run_suite(caught_by, Fails if "failures" in caught_by else MemoryLogs, kind)
