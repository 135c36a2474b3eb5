"""The lines of a log's file, and what can be read of a file that is damaged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs
import msgspec

from mdashcore import _json
from mdashcore._errors import StorageError
from mdashcore.storage import LogEntry

__all__ = ["Line", "Salvaged", "line_at", "salvage", "split_lines", "too_short"]

MIN_LINE: Final = len(b'{"offset":0,"time":0.0,"body":0}\n')  # bytes: more entries than that were not lost

MAX_LOST: Final = 4096  # entries before a line that may be lost; its offset is damaged where there would be more


class Line(msgspec.Struct, frozen=True):
    """An entry as it is written."""

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
        """The entry."""
        body = self.text.encode() if isinstance(self.text, str) else bytes(self.body or b"")
        return LogEntry(self.offset, self.time, body)


_decode_line = msgspec.json.Decoder(Line).decode


def line_at(path: str, lines: Sequence[bytes], number: int, begin: int) -> Line:
    """A line of a file, counted from 0."""
    if number >= len(lines):
        raise StorageError(too_short(path, len(lines)))
    found = _parse(lines[number], range(begin + number, begin + number + 1), begin + number)
    if isinstance(found, str):
        raise StorageError(f"{_where(path, number, sum(len(line) + 1 for line in lines[:number]))}: {found}")
    return found


def _parse(text: bytes, offsets: range, expected: int) -> Line | str:
    """A line that has one of some offsets; or what is wrong with it."""
    try:
        text.decode()
        line = _decode_line(text)
    except _json.DECODE_ERRORS as exc:
        return _json.reason(exc)
    return line if line.offset in offsets else _misplaced(line.offset, expected)


def _misplaced(offset: int, expected: int) -> str:
    return f"offset {offset} instead of {expected}"


def too_short(path: str, number: int) -> str:
    """What is wrong with a file that has only so many lines."""
    return f"{path} is damaged: it ends after line {number}, and there were more"


def _where(path: str, number: int, byte: int) -> str:
    return f"{path} is damaged in line {number + 1}, from byte {byte}"


def split_lines(data: bytes) -> list[bytes]:
    """The lines that have an end."""
    lines = data.split(b"\n")
    lines.pop()
    return lines


@attrs.define
class Salvaged:
    """What can be read of a file with damaged lines."""

    rest: str
    """Why there are no entries after those."""
    lines: dict[int, Line] = attrs.field(factory=dict)
    """By offset."""
    damage: dict[int, str] = attrs.field(factory=dict)
    """Why an entry cannot be read, by its offset."""
    end: int = 0
    """An offset that no line can have had, nor one after it."""

    def entries(self, first: int, end: int) -> list[LogEntry]:
        """The entries from one offset until before another, damaged ones with the time of the one before."""
        entries: list[LogEntry] = []
        time = 0.0
        for offset in range(first, end):
            if (line := self.lines.get(offset)) is not None:
                entries.append(line.entry)
                time = line.time
            else:
                entries.append(LogEntry(offset, time, b"", self.damage.get(offset, self.rest)))
        return entries


def salvage(path: str, lines: Sequence[bytes], begin: int) -> Salvaged:
    """Read the lines that can be read, by the offsets that they hold."""
    found = Salvaged(too_short(path, len(lines)), end=begin)
    byte = good = 0  # where the line begins, and where the last good one ended
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
