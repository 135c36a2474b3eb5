"""Logs as folders of JSON lines. `_log_segments` defines the files; this module orders the callers.

While an append is being written, later appends wait. All of them are then written together, with one fsync.
A read never waits for an append: it sees the log as it was when the last append was on disk.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import anyio
import attrs

from mdash_backends import _log_segments
from mdash_backends._files import Files, failed
from mdash_backends._key_files import KeyFiles
from mdash_backends._log_segments import SegmentState
from mdashcore._errors import InvalidInput, StorageError
from mdashcore.storage import LogEntry, check_begin

__all__ = ["FileLogs"]

LOG_SUFFIX: Final = ".log"

KEPT_STATES: Final = 1024  # logs whose first and next offset are kept in memory; those of others are read again

GROUP_BYTES: Final = 2**20  # bytes that are written together: by then an fsync is a small part of the work


@attrs.define(eq=False)
class _Append:
    """The entries of one caller, and the result of writing them."""

    time: float
    members: Sequence[bytes]
    size: int
    first: int | None = None
    error: StorageError | None = None

    @property
    def is_pending(self) -> bool:
        return self.first is None and self.error is None


@attrs.define(eq=False)
class _Log:
    name: str
    folder: str
    state: SegmentState | None = None
    """The state on disk. Only the holder of the lock replaces it, in one assignment."""
    lock: anyio.Lock = attrs.field(factory=anyio.Lock)
    waiting: deque[_Append] = attrs.field(factory=deque)
    users: int = 0


class FileLogs:
    """A log store for one process at a time: `LogStore` in `mdashcore.storage`.

    Args:
        files: the backend's files.
        folder: a folder below that of `files`.
    """

    def __init__(self, files: Files, folder: str) -> None:
        self._files = files
        self._folders = KeyFiles(files, folder, LOG_SUFFIX)
        self._logs: OrderedDict[str, _Log] = OrderedDict()
        self._repair = True

    async def only_look(self) -> Sequence[str]:
        """Report torn ends from now on without repairing them. Examines nothing yet."""
        self._repair = False
        return ()

    async def append(self, log: str, time: float, bodies: Sequence[bytes]) -> int:
        if not math.isfinite(time):
            raise InvalidInput("a log entry's time is a finite number")
        if not bodies:
            raise InvalidInput("an append has at least one entry")
        members = [_log_segments.member(bytes(body)) for body in bodies]
        request = _Append(float(time), members, sum(map(len, members)))
        async with self._use(log) as used:
            used.waiting.append(request)
            try:
                async with used.lock:
                    if request.is_pending:
                        await self._write_waiting(used)
            finally:
                if request in used.waiting:
                    used.waiting.remove(request)
        if request.first is None:
            cause = request.error or StorageError(f"{used.folder}: the append was not written")
            raise StorageError(str(cause)) from cause.__cause__
        return request.first

    async def begin(self, log: str, offset: int) -> None:
        async with self._use(log) as used, used.lock:
            await self._files.run(used.folder, self._begin, used, offset)

    async def read(self, log: str, start: int, limit: int) -> Sequence[LogEntry]:
        async with self._use(log) as used:
            while True:
                state = _state(used)
                try:
                    return await self._files.run(used.folder, _log_segments.read, state, start, limit)
                except StorageError as exc:
                    gone = isinstance(exc.__cause__, FileNotFoundError)
                    if not gone or _state(used).starts[:1] == state.starts[:1]:
                        raise
                    # trimmed meanwhile: read the rest again

    async def end(self, log: str) -> int:
        async with self._use(log) as used:
            return _state(used).end

    async def trim(self, log: str, keep: int, *, before: int | None = None) -> None:
        async with self._use(log) as used, used.lock:
            await self._files.run(used.folder, self._trim, used, keep, before)

    @asynccontextmanager
    async def _use(self, name: str) -> AsyncIterator[_Log]:
        """Return a log with a known state, and keep it in memory while it is used."""
        log = self._logs.get(name)
        if log is None:
            log = self._logs[name] = _Log(name, self._folders.path(name))
        self._logs.move_to_end(name)
        log.users += 1
        try:
            if log.state is None:
                async with log.lock:
                    if log.state is None:  # else another caller has loaded it while this one waited
                        load = partial(_log_segments.load, log.folder, name, repair=self._repair)
                        log.state = await self._files.run(log.folder, load)
            yield log
        finally:
            log.users -= 1
            if len(self._logs) > KEPT_STATES:
                oldest = next((log for log in self._logs.values() if not log.users), None)
                if oldest is not None:
                    del self._logs[oldest.name]

    async def _write_waiting(self, log: _Log) -> None:
        group: list[_Append] = []
        size = 0
        while log.waiting and size < GROUP_BYTES:
            group.append(log.waiting.popleft())
            size += group[-1].size
        try:
            await self._files.run(log.folder, self._write, log, group)
        finally:
            log.waiting.extendleft(request for request in reversed(group) if request.is_pending)  # never begun

    def _write(self, log: _Log, group: Sequence[_Append]) -> None:
        """Write a group, and set the result of each append: a caller that began the group may have been cancelled."""
        before = _state(log)
        try:
            log.state = _log_segments.append(self._files, before, [(each.time, each.members) for each in group])
        except (OSError, StorageError) as exc:
            error = failed(log.folder, exc) if isinstance(exc, OSError) else exc
            for request in group:
                request.error = error
            return
        offset = before.end
        for request in group:
            request.first = offset
            offset += len(request.members)

    def _begin(self, log: _Log, offset: int) -> None:
        old = _state(log)
        check_begin(offset, old.end)
        log.state = _log_segments.begin(self._files, old, offset)
        _log_segments.remove_trimmed(old, log.state)

    def _trim(self, log: _Log, keep: int, before: int | None) -> None:
        old = _state(log)
        first = old.end - max(0, keep)
        log.state = _log_segments.trim(self._files, old, first if before is None else min(first, before))
        _log_segments.remove_trimmed(old, log.state)


def _state(log: _Log) -> SegmentState:
    if log.state is None:
        raise StorageError(f"the state of {log.folder} is not known")
    return log.state
