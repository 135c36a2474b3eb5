"""A log on disk: a folder of segments. Each is a file of JSON lines that is named by the offset of its first line.

::

    log.json                  {"log": "notifications/alice", "first": 3, "newest": 3}
    0000000000000000.jsonl    {"offset":0,"time":1700000000.25,"body":{…}}
                              {"offset":1,"last":2,"time":1700000001.5,"body":{…}}
                              {"offset":2,"last":2,"time":1700000001.5,"body":{…}}
    0000000000000003.jsonl    …

Line n of a file is the entry with the file's offset + n. A body that does not fit on a line, or has space around it, is
written as a string, in ``text``: it comes back byte for byte. ``last`` is the offset of the last entry of an append
with several entries: it shows whether only a part of the append came to the disk. ``first`` is the offset of the
first entry that was not trimmed; entries before it are removed a file at a time. ``newest`` names the last file with an
acknowledged entry, so that its loss is noticed; it is null without a file.

A line that cannot be read does not affect others: its entry is given as damaged, and the lines behind it by the offsets
that they hold. If the end of the last file cannot be read, the next append begins another file, at an offset that no
line before it can have had.

All functions block.
"""

from __future__ import annotations

import logging
import os
import re
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final

import attrs
import msgspec

from mdash_backends._files import Files, damaged, json_text, read_file, write_all
from mdash_backends._lock import sync_folder
from mdash_backends._log_lines import line_at, salvage_lines, split_lines, too_short
from mdash_backends._modes import create_file
from mdashcore import _json
from mdashcore._errors import StorageError
from mdashcore.storage import LogEntry

__all__ = ["SegmentState", "append", "begin", "load", "member", "read", "remove_trimmed", "trim"]

HEADER_FILE: Final = "log.json"
SEGMENT_BYTES: Final = (
    2**20
)  # of a file; the next append begins another. A read goes through a whole one, in about 1 ms

_SEGMENT = re.compile(r"([0-9]{16,})\.jsonl")

_logger = logging.getLogger("mdash_backends.filesystem")


@attrs.frozen
class SegmentState:
    """The content of a log's folder. All of it is on disk."""

    folder: str
    name: str
    exists: bool = False
    first: int = 0
    """The offset of the first entry that was not trimmed."""
    end: int = 0
    starts: tuple[int, ...] = ()
    """The offsets of the first lines of the segments, in their order."""
    size: int = 0
    """Bytes of the last segment."""
    newest: int | None = None
    """The last segment that the header names. A later one exists only if its first append was not acknowledged."""
    sealed: bool = False
    """Whether the last segment is damaged. Then the next append begins another one."""


class _Header(msgspec.Struct):
    log: str
    first: Annotated[int, msgspec.Meta(ge=0)]
    newest: int | None = None


_decode_header = msgspec.json.Decoder(_Header).decode


def load(folder: str, name: str, *, repair: bool) -> SegmentState:
    """Return the state of a log's folder, and cut off an append at its end that was never acknowledged.

    Afterwards all that an earlier, killed process has written is on disk, so that later writes can build on it.

    Args:
        repair: cut off and remove. Otherwise defects are only logged.

    Raises:
        StorageError: the log is damaged. The text names the file and the line.
    """
    path = os.path.join(folder, HEADER_FILE)
    data = read_file(path)
    if data is None:
        if os.path.isdir(folder) and _segments(folder):
            raise StorageError(f"{path} is missing")
        return SegmentState(folder, name)
    try:
        header = _decode_header(data)
    except _json.DECODE_ERRORS as exc:
        raise damaged(path, data, exc) from exc
    if header.log != name:
        raise StorageError(f"{path} is not where it belongs: it is of the log {header.log!r}")
    starts = _segments(folder)
    if header.newest is not None and header.newest not in starts:
        raise StorageError(f"{_path(folder, header.newest)} is missing")
    size, end, sealed = 0, header.first, False
    if starts:
        last = starts[-1]
        size, end, sealed = _recover(_path(folder, last), last, least=last == header.newest, repair=repair)
    found = SegmentState(folder, name, True, header.first, end, tuple(starts), size, header.newest, sealed)
    state = _without(found, header.first)
    if repair:
        remove_trimmed(found, state)
        sync_folder(Path(folder))
    return state


def member(body: bytes) -> bytes:
    """Return a body as a member of its line. Raises `InvalidInput` if it is not JSON."""
    json_text(body, indent=-1)
    if b"\n" in body or body.strip(b" \t\r") != body:
        return b'"text":%b' % _json.encode(body.decode())
    return b'"body":%b' % body


def append(files: Files, state: SegmentState, group: Sequence[tuple[float, Sequence[bytes]]]) -> SegmentState:
    """Write appends, and return when they are on disk.

    Args:
        group: for each append its time, and its bodies as `member` returned them.

    Raises:
        OSError: nothing was added.
        StorageError: another program has changed the log.
    """
    lines, end = _lines(state.end, group)
    if not state.exists:
        files.make(state.folder)
        _write_header(files, state)
    fresh = not state.starts or state.size >= SEGMENT_BYTES or state.sealed
    starts = (*state.starts, state.end) if fresh else state.starts
    size = 0 if fresh else state.size
    path = _path(state.folder, starts[-1])
    descriptor = create_file(path, os.O_WRONLY) if fresh else os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        present = os.fstat(descriptor).st_size
        if present < size:
            raise StorageError(f"{path} has {present} bytes, and had {size}: it was changed by somebody else")
        os.ftruncate(descriptor, size)  # removes the bytes of an append that failed
        os.lseek(descriptor, size, os.SEEK_SET)
        named = False
        try:
            write_all(descriptor, lines)
            os.fsync(descriptor)
            if starts[-1] != state.newest:
                sync_folder(Path(state.folder))  # before the header, because the file that it names has to exist
                _replace_header(files, attrs.evolve(state, newest=starts[-1]))
                named = True
                sync_folder(Path(state.folder))
        except BaseException:
            with suppress(OSError):  # otherwise the next append does it
                if named:
                    _write_header(files, state)  # an empty file that the header names would count as damage
                os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)
    size += len(lines)
    return attrs.evolve(state, exists=True, end=end, starts=starts, size=size, newest=starts[-1], sealed=False)


def read(state: SegmentState, start: int, limit: int) -> list[LogEntry]:
    """Return at most `limit` entries from an offset on. An unreadable one has file, line and reason in its `damage`.

    Raises:
        StorageError: a file is missing, as the cause says.
    """
    entries: list[LogEntry] = []
    offset = max(start, state.first)
    stop = min(state.end, offset + limit)
    while offset < stop:
        number = bisect_right(state.starts, offset)
        if not number:
            raise StorageError(f"{state.folder}: the file with offset {offset} is missing")
        begin = state.starts[number - 1]
        path = _path(state.folder, begin)
        try:
            with open(path, "rb", buffering=0) as file:
                lines = split_lines(file.read())
        except FileNotFoundError as exc:
            raise StorageError(f"{path} is missing") from exc
        until = min([stop, *state.starts[number : number + 1]])
        try:
            entries += [line_at(path, lines, n, begin).entry for n in range(offset - begin, until - begin)]
        except StorageError:
            entries += salvage_lines(path, lines, begin).entries(offset, until)
        offset = until
    return entries


def trim(files: Files, state: SegmentState, first: int) -> SegmentState:
    """Store that there are no entries before `first` any more. Removes no file yet."""
    after = _without(state, first)
    if after.first != state.first:
        _write_header(files, after)
    return after


def begin(files: Files, state: SegmentState, offset: int) -> SegmentState:
    """Store that there are no entries before `offset`, and that it is the next one. Removes no file yet."""
    if not state.exists:
        files.make(state.folder)
    after = attrs.evolve(_without(state, offset), exists=True)
    _write_header(files, after)
    return after


def remove_trimmed(before: SegmentState, after: SegmentState) -> None:
    """Remove the files that the earlier state has and the later one has not."""
    for start in before.starts[: len(before.starts) - len(after.starts)]:
        os.unlink(_path(before.folder, start))


def _without(state: SegmentState, first: int) -> SegmentState:
    """Return the log without entries before `first`, and without the files that hold no others."""
    first = max(first, state.first)
    ends = (*state.starts[1:], state.end)
    left = tuple(start for start, end in zip(state.starts, ends, strict=False) if end > first)
    size, newest = (state.size, state.newest) if left else (0, None)
    return attrs.evolve(state, first=first, end=max(first, state.end), starts=left, size=size, newest=newest)


def _write_header(files: Files, state: SegmentState) -> None:
    _replace_header(files, state)
    sync_folder(Path(state.folder))


def _replace_header(files: Files, state: SegmentState) -> None:
    newest = b"null" if state.newest is None else b"%d" % state.newest
    header = b'{\n  "log": %b,\n  "first": %d,\n  "newest": %b\n}\n' % (_json.encode(state.name), state.first, newest)
    files.replace(os.path.join(state.folder, HEADER_FILE), header)


def _lines(offset: int, group: Sequence[tuple[float, Sequence[bytes]]]) -> tuple[bytes, int]:
    """Return the lines of several appends from an offset on, and the next offset."""
    lines: list[bytes] = []
    for time, members in group:
        stamp = _json.encode(time)
        several = b'"last":%d,' % (offset + len(members) - 1) if len(members) > 1 else b""
        for body in members:
            lines.append(b'{"offset":%d,%b"time":%b,%b}\n' % (offset, several, stamp, body))
            offset += 1
    return b"".join(lines), offset


def _recover(path: str, begin: int, *, least: int, repair: bool) -> tuple[int, int, bool]:
    """Cut off the torn end of a log's last file. Returns its size, the offset after its last line, and whether it is
    sealed.

    A line without a line break is torn, also if it consists of NULs (a file can grow on disk before its bytes get
    there). So are the lines of an append whose last line is missing. A file left with fewer than `least` lines is
    damaged. A sealed file has an end that cannot be read.
    """
    data = read_file(path) or b""
    lines = split_lines(data)
    whole, end, sealed = len(lines), begin + len(lines), False
    while whole:
        try:
            line = line_at(path, lines, whole - 1, begin)
        except StorageError as exc:
            salvaged = salvage_lines(path, lines, begin)
            whole, end, sealed = len(lines), salvaged.end, True
            _logger.error("%s; the log goes on in another file", next(iter(salvaged.damage.values()), exc))
            break
        end = line.offset + 1
        if line.last is None or line.last == line.offset:
            break
        whole -= 1
    if whole < least:
        raise StorageError(too_short(path, whole))
    size = sum(len(line) + 1 for line in lines[:whole])
    if size < len(data):
        cut = "cut off" if repair else "the next start will cut off"
        _logger.warning(
            "%s: %s %d bytes from byte %d on, an append that was never acknowledged", path, cut, len(data) - size, size
        )
    if repair:
        with open(path, "rb+", buffering=0) as file:
            file.truncate(size)
            os.fsync(file.fileno())
    return size, end if whole else begin, sealed


def _segments(folder: str) -> list[int]:
    """Return the offsets by which the files of a folder are named."""
    return sorted(int(match[1]) for name in os.listdir(folder) if (match := _SEGMENT.fullmatch(name)))


def _path(folder: str, start: int) -> str:
    return os.path.join(folder, f"{start:016d}.jsonl")
