"""The lines of a log's file, and the recovery of entries from a damaged file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs
import msgspec

from mdashcore import _json
from mdashcore._errors import StorageError
from mdashcore.storage import LogEntry

__all__ = ["Line", "SalvagedLines", "line_at", "salvage_lines", "split_lines", "too_short"]

MIN_LINE: Final = len(b'{"offset":0,"time":0.0,"body":0}\n')  # bytes of the shortest line: bounds the lost entries

MAX_LOST: Final = 4096  # entries that may be lost before a line; if there would be more, the line's offset is damaged


class Line(msgspec.Struct, frozen=True):
    """An entry in its written form."""

    offset: int
    time: float
    body: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    text: str | msgspec.UnsetType = msgspec.UNSET
    last: int | None = None

    def __post_init__(self) -> None:
        if (self.body is msgspec.UNSET) == (self.text is msgspec.UNSET):
            raise ValueError("a line has either a body or a text")

    @property
    def entry(self) -> LogEntry:
        """The entry of this line."""
        body = self.text.encode() if isinstance(self.text, str) else bytes(self.body or b"")
        return LogEntry(self.offset, self.time, body)


_decode_line = msgspec.json.Decoder(Line).decode


def line_at(path: str, lines: Sequence[bytes], number: int, begin: int) -> Line:
    """Return a line of a file, counted from 0. Raises `StorageError` if it is damaged or missing."""
    if number >= len(lines):
        raise StorageError(too_short(path, len(lines)))
    found = _parse(lines[number], range(begin + number, begin + number + 1), begin + number)
    if isinstance(found, str):
        raise StorageError(f"{_where(path, number, sum(len(line) + 1 for line in lines[:number]))}: {found}")
    return found


def _parse(text: bytes, offsets: range, expected: int) -> Line | str:
    """Return the line if it has one of `offsets`; otherwise the defect, in words."""
    try:
        text.decode()
        line = _decode_line(text)
    except _json.DECODE_ERRORS as exc:
        return _json.reason(exc)
    return line if line.offset in offsets else _misplaced(line.offset, expected)


def _misplaced(offset: int, expected: int) -> str:
    return f"offset {offset} instead of {expected}"


def too_short(path: str, number: int) -> str:
    """Return the words for a file that has only `number` lines."""
    return f"{path} is damaged: it ends after line {number}, and there were more"


def _where(path: str, number: int, byte: int) -> str:
    return f"{path} is damaged in line {number + 1}, from byte {byte}"


def split_lines(data: bytes) -> list[bytes]:
    """Return the lines that end with a line break."""
    lines = data.split(b"\n")
    lines.pop()
    return lines


@attrs.define
class SalvagedLines:
    """The readable entries of a file with damaged lines."""

    rest: str
    """The reason why there are no entries after the last one."""
    lines: dict[int, Line] = attrs.field(factory=dict)
    """The readable lines, by offset."""
    damage: dict[int, str] = attrs.field(factory=dict)
    """The reason why an entry cannot be read, by offset."""
    end: int = 0
    """An offset that no line of this file can have had, nor any offset after it."""

    def entries(self, first: int, end: int) -> list[LogEntry]:
        """Return the entries from `first` to before `end`. A damaged one has the time of the entry before it."""
        entries: list[LogEntry] = []
        time = 0.0
        for offset in range(first, end):
            if (line := self.lines.get(offset)) is not None:
                entries.append(line.entry)
                time = line.time
            else:
                entries.append(LogEntry(offset, time, b"", self.damage.get(offset, self.rest)))
        return entries


def salvage_lines(path: str, lines: Sequence[bytes], begin: int) -> SalvagedLines:
    """Read all readable lines, by the offsets that they hold."""
    found = SalvagedLines(too_short(path, len(lines)), end=begin)
    byte = good = 0  # offsets in the file: of the present line, and after the last good one
    for number, text in enumerate(lines):
        where = _where(path, number, byte)
        byte += len(text) + 1
        line = _parse(text, range(begin, found.end + MAX_LOST), found.end)
        if isinstance(line, str):
            found.damage[found.end] = f"{where}: {line}"
            found.end += 1
        elif line.offset not in found.lines:
            words = _misplaced(line.offset, found.end)
            found.damage.update(dict.fromkeys(range(found.end, line.offset), f"{where}: {words}"))
            found.damage.pop(line.offset, None)
            found.lines[line.offset] = line
            found.end = max(found.end, line.offset + 1)
            good = byte
    found.end += (byte - good) // MIN_LINE
    return found
