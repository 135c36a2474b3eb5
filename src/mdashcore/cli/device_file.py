"""Files of devices: the CSV that is imported, and the CSV into which their tokens go."""

from __future__ import annotations

import csv
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from mdashcore import identity
from mdashcore._errors import InvalidInput
from mdashcore.cli.exits import CliError, Exit
from mdashcore.server.csv_text import unguarded
from mdashcore.tags import check_patch

__all__ = ["ImportedDevice", "TokenFile", "read_devices"]

MAX_IMPORTED: Final = 100_000  # rows: as many devices as an account may have

_COLUMNS: Final = ("id", "name", "tags")
_TOKEN_COLUMNS: Final = ("token", "token_sha256")
_TOKEN_HEAD: Final = ["id", "token"]  # the first line of a file of tokens


@attrs.frozen
class ImportedDevice:
    """A device of the file."""

    line: int
    id: str
    document: dict[str, Any]
    """The body of the request that registers it."""
    token_hash: str | None = attrs.field(default=None, repr=False)
    """As `identity.hash_foreign_token` returns it; `None` if it has no token."""


def read_devices(path: Path, *, with_tokens: bool) -> list[ImportedDevice]:
    """Return the devices of a CSV file, all of them checked.

    Args:
        with_tokens: whether each has a token or the hash of one; otherwise none has.

    Raises:
        CliError: a line is wrong. The text has the first ten of them.
    """
    rows: list[ImportedDevice] = []
    wrong: list[str] = []
    lines: dict[str, int] = {}
    tokens: dict[str, int] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            _check_columns(path, reader.fieldnames or (), with_tokens=with_tokens)
            for record in reader:
                line = reader.line_num
                if len(rows) >= MAX_IMPORTED:
                    raise CliError(f"{path}: more than {MAX_IMPORTED} devices", Exit.USAGE)
                try:
                    row = _row(record, line, with_tokens=with_tokens)
                    if row.id in lines:
                        raise InvalidInput(f"{row.id} stands in line {lines[row.id]}, too")
                    lines[row.id] = line
                    if row.token_hash is not None and tokens.setdefault(row.token_hash, line) != line:
                        raise InvalidInput(f"its token is that of line {tokens[row.token_hash]}")
                    rows.append(row)
                except InvalidInput as exc:
                    wrong.append(f"line {line}: {exc}")
    except (OSError, UnicodeError, csv.Error) as exc:
        raise CliError(f"{path}: {_reason(exc)}", Exit.USAGE) from None
    if wrong:
        more = f"; and {len(wrong) - 10} more lines" if len(wrong) > 10 else ""
        raise CliError(f"{path}: {'; '.join(wrong[:10])}{more}. Nothing was imported", Exit.USAGE)
    if not rows:
        raise CliError(f"{path}: no devices behind the first line", Exit.USAGE)
    return rows


def _reason(error: Exception) -> str:
    """Return why a file cannot be read, for people."""
    if isinstance(error, UnicodeError):
        return "it is not encoded in UTF-8"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _check_columns(path: Path, found: Sequence[str], *, with_tokens: bool) -> None:
    known = (*_COLUMNS, *_TOKEN_COLUMNS) if with_tokens else _COLUMNS
    unknown = [name for name in found if name not in known]
    if unknown and unknown[0] in _TOKEN_COLUMNS:
        raise CliError('tokens of another service are imported by an admin: "mdash user import"', Exit.USAGE)
    if "id" not in found or unknown or len(set(found)) < len(found):
        wanted = "id, token or token_sha256, and also name and tags" if with_tokens else "id, and also name and tags"
        got = f"; that of this file is {','.join(found)[:60]!r}" if found else ""
        words = f"the first line has the names of the columns, separated by commas: {wanted} if you like{got}"
        raise CliError(f"{path}: {words}", Exit.USAGE)


def _row(record: dict[str, Any], line: int, *, with_tokens: bool) -> ImportedDevice:
    if None in record or None in record.values():
        raise InvalidInput("it has another number of values than the first line")
    record = {column: unguarded(cell) for column, cell in record.items()}
    id = identity.check_device_id(record["id"].strip())
    document: dict[str, Any] = {"id": id}
    if name := record.get("name", "").strip():
        document["name"] = identity.check_label(name)
    if tags := dict(_tags(record.get("tags", ""))):
        document["tags"] = check_patch(tags)
    if with_tokens:
        given = {column: record.get(column, "").strip() for column in _TOKEN_COLUMNS}
        tokens = {column: value for column, value in given.items() if value}
        token_hash = identity.hash_foreign_token(tokens.get("token"), tokens.get("token_sha256"))
        return ImportedDevice(line, id, document | tokens, token_hash)
    return ImportedDevice(line, id, document)


def _tags(text: str) -> Iterator[tuple[str, str | bool]]:
    """Yield the tags of a cell: ``site=berlin; indoor``."""
    for part in filter(None, map(str.strip, text.split(";"))):
        name, equals, value = part.partition("=")
        yield name.strip(), value.strip() if equals else True


class TokenFile:
    """The CSV file with the tokens of registered devices. Each line is on the disk before the next device.

    Before a device is registered, its id is written without a token. So after an interruption it is known which devices
    may have been registered without their token having been written.

    The file is locked until `close`, so that two imports do not write over each other's tokens.
    """

    def __init__(self, path: Path) -> None:
        self.tokens: dict[str, str] = {}
        """The token of each device by id; empty for one that was begun only."""
        self._path = path
        try:
            self._descriptor = _locked(path)
            try:
                self._read()
            except BaseException:
                os.close(self._descriptor)
                raise
        except (OSError, UnicodeError, csv.Error) as exc:
            raise CliError(f"{path}: {_reason(exc)}", Exit.USAGE) from None

    def _read(self) -> None:
        with open(self._descriptor, encoding="utf-8", newline="", closefd=False) as file:
            records = csv.reader(file)
            if next(records, _TOKEN_HEAD) != _TOKEN_HEAD:
                words = "the file is there already, and has no tokens: name another"
                raise CliError(f"{self._path}: {words}", Exit.USAGE)
            self.tokens |= {record[0]: record[1] for record in records if len(record) == 2}
        if os.fstat(self._descriptor).st_size == 0:
            self._append("id,token\n")

    def begin(self, id: str) -> None:
        """Note that a device is about to be registered."""
        self.tokens[id] = ""
        self._append(f"{id},\n")

    def write(self, id: str, token: str) -> None:
        """Write the token of a device."""
        self.tokens[id] = token
        self._append(f"{id},{token}\n")

    def leave(self, id: str) -> None:
        """Note that a device was there before."""
        self.tokens.pop(id, None)

    def close(self) -> None:
        """Write one line for each device, and close the file."""
        new = self._path.with_name(f"{self._path.name}.new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write("id,token\n")
            file.writelines(f"{id},{token}\n" for id, token in self.tokens.items())
            file.flush()
            os.fsync(descriptor)
        new.replace(self._path)
        os.close(self._descriptor)  # the lock ends when the new file is in its place

    def _append(self, line: str) -> None:  # neither an id nor a token has a comma, a quote or a line break
        os.write(self._descriptor, line.encode())
        os.fsync(self._descriptor)


def _locked(path: Path) -> int:
    """Open a file and lock it. Raises `CliError` if another process has locked it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise CliError(f"{path}: another import writes to this file", Exit.FAILED) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # another import has put a new file into its place since it was opened
