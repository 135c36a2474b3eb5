"""Reading logs of a store in steps."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

from mdashcore.storage import LogStore

__all__ = ["PAGE", "PAGE_BYTES", "PAGE_STEP", "READ_STEP", "too_old"]

PAGE: Final = 500  # entries read at once: bounds the memory of a reader, whatever it asks for

PAGE_BYTES: Final = 2**18  # of a listener's page, which is held for as long as the client does not read
PAGE_STEP: Final = 16  # entries read at once for it: of the largest, 2 MB too many at most

READ_STEP: Final = 64  # entries read at once where most of them are only looked at: of the largest, 8 MB


async def too_old(logs: LogStore, log: str, oldest: float) -> AsyncGenerator[int, None]:
    """The offset before which every entry has a time before `oldest`; greater from step to step.

    It ends at the first that is not: where a clock was wrong, rather too much is kept than too little. A log is long,
    and between two steps others may have their turn.
    """
    start, step = 0, PAGE_STEP
    while entries := await logs.read(log, start, step):
        young = next((entry.offset for entry in entries if entry.time >= oldest), None)
        start = entries[-1].offset + 1
        yield start if young is None else young
        if young is not None:
            return
        if sum(len(entry.body) for entry in entries) < PAGE_BYTES:
            step = min(2 * step, READ_STEP)
