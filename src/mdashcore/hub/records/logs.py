"""Reading logs of a store in steps."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

from mdashcore.storage import LogEntry, LogStore

__all__ = ["LOG_PAGE", "LOG_PAGE_BYTES", "PAGE_STEP", "READ_STEP", "newest_first", "too_old"]

LOG_PAGE: Final = 500  # entries read in one step: bounds the memory of a reader, however much it asks for

LOG_PAGE_BYTES: Final = 2**18  # bytes of a subscriber's page, which is held for as long as the client does not read
PAGE_STEP: Final = 16  # entries read in one step for such a page: of the largest entries, 2 MB too many at most

READ_STEP: Final = 64  # entries read in one step if most of them are only checked: of the largest entries, 8 MB


async def too_old(logs: LogStore, log: str, oldest: float) -> AsyncGenerator[int, None]:
    """Yield growing offsets before which every entry has a time before `oldest`.

    Ends at the first entry that is not older, so that a wrong clock keeps too much instead of too little. A log is
    long, so the caller may let other tasks run between two steps.
    """
    start, step = 0, PAGE_STEP
    while entries := await logs.read(log, start, step):
        young = next((entry.offset for entry in entries if entry.time >= oldest), None)
        start = entries[-1].offset + 1
        yield start if young is None else young
        if young is not None:
            return
        if sum(len(entry.body) for entry in entries) < LOG_PAGE_BYTES:
            step = min(2 * step, READ_STEP)


async def newest_first(logs: LogStore, log: str, start: int, end: int) -> AsyncGenerator[list[LogEntry], None]:
    """Yield the entries with `start` <= offset < `end` in pieces, the newest piece first; each in the order of offsets.

    Ends at the oldest entry that is kept. Entries that are trimmed meanwhile are left out.
    """
    while end > start:
        first = max(start, end - READ_STEP)
        entries = await _between(logs, log, first, end)
        if entries:
            yield entries
        if not entries or entries[0].offset > first:
            return  # older entries are not kept
        end = first


async def _between(logs: LogStore, log: str, first: int, end: int) -> list[LogEntry]:
    found: list[LogEntry] = []
    while first < end and (entries := await logs.read(log, first, end - first)):
        found += [entry for entry in entries if entry.offset < end]
        first = entries[-1].offset + 1
    return found
