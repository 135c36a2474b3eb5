"""All data of a service as JSON lines: for backups, and for moving to another backend.

Each line is one object::

    {"format": "mdashcore", "version": 1}
    {"collection": "devices", "key": "alice/d1", "body": {…}}
    {"log": "notifications/alice", "offset": 7, "time": 1700000000.0, "body": {…}}
    {"log": "notifications/alice", "offset": 8, "time": 1700000001.0, "text": "{\\n…}"}
    {"log": "notifications/bob", "begin": 5000}
    {"log": "events/alice", "offset": 0, "time": 1700000000.0, "body": {…}}
    {"blob": "alice/ota_…", "offset": 0, "data": "base64…"}
    {"end": true, "documents": 12, "entries": 40, "blobs": 1}

A body is written as it is stored, byte for byte. One that has a line break is written as a string, in ``text``. Offsets
have no gaps, in a log and in a blob, so a missing or moved line is found. A log begins at its first entry's offset. If
entries were trimmed during the export, or all of them before it, ``begin`` has the offset at which the log continues.

An export of a running service is consistent document by document. A document that another one refers to (a device, for
the index of its token) is written before the other and removed after it, so an import can repair a change in between.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final

import attrs
import msgspec

from mdashcore import _json, notifications
from mdashcore._errors import AlreadyExists, InvalidInput, NotFound
from mdashcore.hub.feed import log_names
from mdashcore.hub.records.schema import COLLECTIONS
from mdashcore.storage import Backend

__all__ = ["UNFINISHED_IMPORT", "StoreCounts", "export_store", "import_store", "is_unfinished", "read_piece"]

_log = logging.getLogger(__name__)

ARCHIVE_FORMAT: Final = "mdashcore"
ARCHIVE_VERSION: Final = 1  # of the format

UNFINISHED_IMPORT: Final = "an import into this store was not finished: remove the store, and import again"

_MARK: Final = ("imports", "unfinished")  # collection and key of a document that exists during an import

EXPORT_PAGE: Final = 500  # log entries read in one step
EXPORT_PIECE: Final = 3 * 2**14  # bytes of a blob on one line: a multiple of 3, 64 KB in base64
_EXPORTED: Final = [name for name, collection in COLLECTIONS.items() if collection.exported]

MAX_EXPORT_LINE: Final = 2**24  # characters: a shadow may be configured large, any other line is far smaller


class _Line(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Any line of an export."""

    format: str | None = None
    version: int | None = None
    collection: str | None = None
    key: str | None = None
    log: str | None = None
    blob: str | None = None
    offset: int = 0
    begin: int | None = None
    time: float = 0.0
    body: msgspec.Raw = msgspec.Raw(b"")
    text: str | None = None
    data: str = ""
    end: bool = False
    documents: int = 0
    entries: int = 0
    blobs: int = 0

    @property
    def content(self) -> bytes:
        """The body, from either member."""
        if (self.text is None) == (not self.body):
            raise InvalidInput("it has neither a body nor a text, or both")
        return bytes(self.body) if self.text is None else self.text.encode()


_decode_line = msgspec.json.Decoder(_Line).decode


@attrs.define
class StoreCounts:
    """The numbers of documents, log entries and blobs."""

    documents: int = 0
    entries: int = 0
    blobs: int = 0


async def export_store(backend: Backend) -> AsyncGenerator[bytes, None]:
    """Yield all data of the store, line by line, without line ends. Memory does not grow with the store.

    Raises:
        StorageError: the store cannot be read. The lines so far have no end, so they cannot be imported.
    """
    counts = StoreCounts()
    yield _json.encode({"format": ARCHIVE_FORMAT, "version": ARCHIVE_VERSION})
    accounts: list[str] = []
    for collection in _EXPORTED:
        async for document in backend.documents.scan(collection):
            if (damage := document.damage or _damage(document.body)) is not None:
                _log.error("%s/%s is damaged, and left out of the export: %s", collection, document.key, damage)
                continue
            if collection == "accounts":
                accounts.append(document.key)
            yield _json.encode({"collection": collection, "key": document.key, **_content(document.body)})
            counts.documents += 1
    for log in (name for account in accounts for name in log_names(account)):
        start = 0
        while entries := await backend.logs.read(log, start, EXPORT_PAGE):
            if 0 < start < entries[0].offset:
                yield _json.encode({"log": log, "begin": entries[0].offset})
            for entry in entries:
                body = entry.body
                if (damage := entry.damage or _damage(body)) is not None:
                    _log.error("%s: offset %d is damaged, and left empty in the export: %s", log, entry.offset, damage)
                    body = notifications.Notification("damaged", "").encode()
                yield _json.encode({"log": log, "offset": entry.offset, "time": entry.time, **_content(body)})
                counts.entries += 1
            start = entries[-1].offset + 1
        if start < (end := await backend.logs.end(log)) and not await backend.logs.read(log, start, 1):
            yield _json.encode({"log": log, "begin": end})
    async for key in backend.blobs.scan():
        offset = 0
        while piece := await read_piece(backend, key, offset):
            yield _json.encode({"blob": key, "offset": offset, "data": base64.b64encode(piece).decode()})
            offset += len(piece)
        counts.blobs += offset > 0
    yield _json.encode({"end": True, **attrs.asdict(counts)})


def _damage(body: bytes) -> str | None:
    """Return the reason why a body is not JSON, or `None` if it is."""
    try:
        body.decode()
        msgspec.json.format(body, indent=-1)
    except _json.DECODE_ERRORS as exc:
        return _json.reason(exc)
    return None


def _content(body: bytes) -> dict[str, object]:
    """Return a stored body as a member of its line."""
    if b"\n" in body or body.strip(b" \t\r") != body:
        return {"text": body.decode()}
    return {"body": msgspec.Raw(body)}


async def read_piece(backend: Backend, key: str, offset: int) -> bytes:
    try:
        return await backend.blobs.read(key, offset, EXPORT_PIECE)
    except NotFound:  # its update has ended in the meantime
        return b""


async def import_store(backend: Backend, lines: AsyncGenerator[bytes, None]) -> StoreCounts:
    """Import an export into an empty store.

    Raises:
        InvalidInput: a line is not valid in an export, or the export has no end. The text names the line.
        AlreadyExists: the store is not empty.
    """
    if [document async for document in backend.documents.scan("accounts")] or await is_unfinished(backend):
        raise AlreadyExists("the store is not empty: an import needs a new one")
    importer = _Importer(backend)
    number = 0
    async with aclosing(lines):
        async for line in lines:
            number += 1
            try:
                if len(line) > MAX_EXPORT_LINE:
                    raise InvalidInput(f"longer than {MAX_EXPORT_LINE} bytes")
                await importer.restore(_decode_line(line), first=number == 1)
                if number == 1:  # what is no export, or one of a newer version, leaves the store as it is
                    await backend.documents.put(*_MARK, b"true")
            except _json.DECODE_ERRORS as exc:
                raise InvalidInput(f"line {number}: not valid JSON, or not a line of an export: {exc}") from None
            except (InvalidInput, ValueError) as exc:
                raise InvalidInput(f"line {number}: {exc}") from None
    if not importer.ended:
        raise InvalidInput("the export is cut off: it has no last line")
    await backend.documents.delete(*_MARK)
    return importer.counts


async def is_unfinished(backend: Backend) -> bool:
    """Return whether an import into the store has failed or was interrupted: then it must not be served."""
    return await backend.documents.get(*_MARK) is not None


class _Importer:
    """Imports one line after the other."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._log: list[tuple[float, bytes]] = []
        self._log_name: str | None = None
        self._log_end = 0
        self._blob: str | None = None
        self._pieces: list[bytes] = []
        self._blob_size = 0
        self.counts = StoreCounts()
        self.ended = False

    async def restore(self, line: _Line, *, first: bool) -> None:
        if self.ended:
            raise InvalidInput("something follows the last line")
        if first:
            if (line.format, line.version) != (ARCHIVE_FORMAT, ARCHIVE_VERSION):
                raise InvalidInput(f"not an export of {ARCHIVE_FORMAT} in version {ARCHIVE_VERSION}")
            return
        if line.log != self._log_name or line.begin is not None or len(self._log) >= EXPORT_PAGE:
            await self._write_log()
        if line.blob != self._blob:
            await self._write_blob()
        if line.collection is not None and line.key is not None:
            if line.collection not in _EXPORTED:
                raise InvalidInput(f"unknown collection {line.collection!r}")
            await self._backend.documents.put(line.collection, line.key, line.content, expected=0)
            self.counts.documents += 1
        elif line.log is not None:
            await self._find_end(line)
            if line.begin is None:
                self._log.append((line.time, line.content))
                self._log_end += 1
                self.counts.entries += 1
        elif line.blob is not None:
            if line.offset != self._blob_size:
                raise InvalidInput(
                    f"blob {line.blob!r} goes on at byte {line.offset}, and {self._blob_size} came so far"
                )
            self._blob = line.blob
            self._pieces.append(base64.b64decode(line.data, validate=True))
            self._blob_size += len(self._pieces[-1])
        elif line.end:
            promised = StoreCounts(line.documents, line.entries, line.blobs)
            if self.counts != promised:
                raise InvalidInput(f"the export had {promised}, and these came: {self.counts}")
            self.ended = True
        else:
            raise InvalidInput("no document, log entry, blob or end")

    async def _find_end(self, line: _Line) -> None:
        """Check that a line is the next of its log. The first line of a log can have any offset."""
        logs, name = self._backend.logs, line.log
        assert name is not None  # noqa: S101 - for the type checker
        if name != self._log_name:
            self._log_name, self._log_end = name, await logs.end(name)
        begin = line.offset if line.begin is None and self._log_end == 0 else line.begin
        if begin:
            await logs.begin(name, begin)
            self._log_end = begin
        if line.begin is None and line.offset != self._log_end:
            raise InvalidInput(f"log {name!r} goes on at offset {line.offset}, and its next is {self._log_end}")

    async def _write_log(self) -> None:
        """Append entries with their original offsets: the cursors of subscribers stay valid."""
        entries, self._log = self._log, []
        logs, name = self._backend.logs, self._log_name
        if name is None:
            return
        for time, body in entries:
            await logs.append(name, time, (body,))

    async def _write_blob(self) -> None:
        if not self._pieces:
            return
        pieces, self._pieces = self._pieces, []
        key = self._blob
        assert key is not None  # noqa: S101 - for the type checker: pieces have a blob

        async def chunks() -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece

        await self._backend.blobs.put(key, chunks())
        self.counts.blobs += 1
        self._blob, self._blob_size = None, 0
