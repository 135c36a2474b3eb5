"""Documents as files: one file for each, which a person can read, and edit while the service is stopped.

::

    {
      "key": "alice/d1",
      "version": 17,
      "body": {
        "name": "kitchen"
      }
    }
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing
from functools import partial
from typing import Annotated, Final

import msgspec

from mdash_backends._files import Files, damaged, json_text, read_file
from mdash_backends._key_files import KeyFiles, file_name
from mdashcore import _json
from mdashcore._errors import Damaged, VersionConflict
from mdashcore.storage import Document

__all__ = ["FileDocuments"]

DOCUMENT_SUFFIX: Final = ".json"

SCAN_PAGE: Final = 64  # documents read in one call of a thread: the call costs as much as reading a few
SCAN_PAGE_BYTES: Final = 2**20  # after which such a page ends: the memory of a scan


class FileDocuments:
    """A document store for one process at a time: `DocumentStore` in `mdashcore.storage`.

    Args:
        files: the backend's files.
        folder: a folder below that of `files`. Each collection is a folder in it.
        next_version: returns a version greater than its argument and than any that it returned before. Called in
            threads.
    """

    def __init__(self, files: Files, folder: str, next_version: Callable[[int], int]) -> None:
        self._files = files
        self._folder = folder
        self._next_version = next_version
        self._collections: dict[str, KeyFiles] = {}  # their names are in the code: a dozen

    async def get(self, collection: str, key: str) -> Document | None:
        keys = self._keys(collection)
        found = await self._files.run(keys.folder, _read, keys, keys.path(key))
        await keys.wait_written(key)  # a version that was read may not be on disk yet: it is returned only when it is
        return found

    async def put(self, collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
        text = json_text(bytes(body), indent=2)
        keys = self._keys(collection)
        async with keys.hold(key) as path:
            check = None if expected is None else partial(_check, collection, key, expected)
            version = await self._files.run(path, self._write, keys, path, key, text, check)
            await self._files.sync(os.path.dirname(path))
        return version

    async def delete(self, collection: str, key: str, *, expected: int | None = None) -> bool:
        keys = self._keys(collection)
        async with keys.hold(key) as path:
            check = None if expected is None else partial(_check, collection, key, expected)
            found = await self._files.run(path, _remove, keys, path, check)
            if found:
                await self._files.sync(os.path.dirname(path))
        return found

    async def scan(self, collection: str, prefix: str = "", *, after: str = "") -> AsyncIterator[Document]:
        keys = self._keys(collection)
        found: dict[str, str | None] = {}
        async with aclosing(keys.by_folder(prefix)) as folders:
            async for files in folders:
                found |= files
        paths = iter(await self._files.run(keys.folder, _in_order, keys, found, prefix, after))
        while page := await self._files.run(keys.folder, _read_page, keys, paths):
            for document in page:
                yield document

    def _keys(self, collection: str) -> KeyFiles:
        keys = self._collections.get(collection)
        if keys is None:
            keys = KeyFiles(self._files, os.path.join(self._folder, file_name(collection)), DOCUMENT_SUFFIX)
            self._collections[collection] = keys
        return keys

    def _write(self, keys: KeyFiles, path: str, key: str, text: bytes, check: Callable[[int], None] | None) -> int:
        """Write a document. Without `check` it also replaces a damaged one."""
        try:
            found = _read(keys, path)
        except Damaged:
            if check is not None:
                raise
            found = None
        present = 0 if found is None else found.version
        if check is not None:
            check(present)
        version = self._next_version(present)
        self._files.replace(path, _render(key, version, text))
        return version


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: str
    version: Annotated[int, msgspec.Meta(ge=1)]
    body: msgspec.Raw


_decode = msgspec.json.Decoder(_File).decode


def _render(key: str, version: int, text: bytes) -> bytes:
    # a JSON string contains no raw line break
    body = text.replace(b"\n", b"\n  ")
    return b'{\n  "key": %b,\n  "version": %d,\n  "body": %b\n}\n' % (_json.encode(key), version, body)


def _check(collection: str, key: str, expected: int, present: int) -> None:
    if expected != present:
        raise VersionConflict(collection, key, expected=expected, actual=present)


def _read(keys: KeyFiles, path: str) -> Document | None:
    data = read_file(path)
    if data is None:
        return None
    try:
        data.decode()
        file = _decode(data)
        body = json_text(bytes(file.body), indent=-1)
    except _json.DECODE_ERRORS as exc:
        raise damaged(path, data, exc) from exc
    if keys.path(file.key) != path:
        raise Damaged(f"{path} is not where it belongs: it is the document {file.key!r}")
    return Document(file.key, file.version, body)


def _in_order(keys: KeyFiles, files: Mapping[str, str | None], prefix: str, after: str) -> list[tuple[str, str]]:
    """Return the keys that are wanted, in their order, each with the path of its file.

    All are in memory, without their documents: the names in a folder have no order. If the name of a file is a hash,
    only the file contains the key.
    """
    found = []
    for path, named in files.items():
        key = _key_in(keys, path) if named is None else named
        if key is not None and key.startswith(prefix) and key > after:
            found.append((key, path))
    return sorted(found)


def _key_in(keys: KeyFiles, path: str) -> str | None:
    """Return the key that a file contains, its name if the file is damaged, or `None` if there is no file."""
    try:
        document = _read(keys, path)
    except Damaged:
        return os.path.basename(path)
    return None if document is None else document.key


def _read_page(keys: KeyFiles, files: Iterator[tuple[str, str]]) -> list[Document]:
    """Return the next documents that still exist; an empty list at the end."""
    page: list[Document] = []
    size = 0
    for key, path in files:
        try:
            document = _read(keys, path)
        except Damaged as exc:
            document = Document(key, 0, b"", damage=str(exc))
        if document is not None:
            page.append(document)
            size += len(document.body)
            if len(page) >= SCAN_PAGE or size >= SCAN_PAGE_BYTES:
                break
    return page


def _remove(keys: KeyFiles, path: str, check: Callable[[int], None] | None) -> bool:
    """Remove a document. Without `check` it also removes a damaged one."""
    if check is not None:
        found = _read(keys, path)
        check(0 if found is None else found.version)
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True
