"""The mapping between keys and file names.

A slash in a key is a folder: ``alice/d1`` is ``alice/d1.json``. Small letters, digits and ``_ - . @`` stand for
themselves. A capital letter is ``+`` and the small letter, because some file systems do not distinguish the two. Any
other character is ``%`` and two small hexadecimal digits for each byte of its UTF-8. A dot at the start or end, a dash
at the start, and the dot of a folder's name that ends like a file's name, are written ``%2e`` and ``%2d``; an empty
part is ``%``. So no name is hidden, leads upwards, or is taken for another, and each leads back to its key.

A key for which this becomes too long or too deep has a file in the folder ``%long``, named by the SHA-256 of the key.
Other files, with names that no key has, are ignored.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Final

from mdash_backends._files import FileLocks, Files
from mdashcore._errors import InvalidInput

__all__ = ["KeyFiles", "file_name"]

LONG_PREFIX: Final = "%long"
MAX_FILE_NAME: Final = 140  # bytes: file systems allow 255 or, encrypted, 143; an id of 128 characters fits
MAX_PARTS: Final = 8  # folders and a name: keeps a path far below the 4096 bytes that Linux allows

_SPECIAL = re.compile(r"\A[.-]|\.\Z|[^a-z0-9_.@-]")
_ESCAPES = re.compile(r"\+([a-z])|((?:%[0-9a-f]{2})+)")
_HASHED = re.compile(r"[0-9a-f]{64}")


class KeyFiles:
    """The files of one folder, each with a key.

    Args:
        files: the backend's files.
        folder: a folder below that of `files`.
        suffix: the end of every file's name, from its dot. No folder's name ends with it.
    """

    def __init__(self, files: Files, folder: str, suffix: str) -> None:
        self._files = files
        self.folder = folder
        self._suffix = suffix
        self._long = os.path.join(folder, LONG_PREFIX)
        self._turns = FileLocks()
        self._listings: list[set[str]] = []

    def path(self, key: str) -> str:
        """Return the path for a key, whether the file exists or not.

        Raises:
            InvalidInput: the key is not Unicode text.
        """
        encoded = _utf8(key)
        *folders, name = key.split("/")
        place = self._place([*(self._folder_name(part) for part in folders), file_name(name) + self._suffix])
        return place or os.path.join(self._long, sha256(encoded).hexdigest() + self._suffix)

    def is_hashed(self, path: str) -> bool:
        """Return whether a path is a hash that does not contain its key."""
        return os.path.dirname(path) == self._long

    @asynccontextmanager
    async def hold(self, key: str) -> AsyncIterator[str]:
        """Hold the right to write or remove a key's file, alone. Gives its path."""
        path = self.path(key)
        for listing in self._listings:
            listing.add(key)
        async with self._turns.acquire(key):
            yield path

    async def wait_written(self, key: str) -> None:
        """Wait for the present writers of a key's file."""
        if key in self._turns:
            async with self._turns.acquire(key):
                pass

    async def by_folder(self, prefix: str = "") -> AsyncGenerator[dict[str, str | None], None]:
        """Yield the files whose key starts with `prefix`, as path and key, a folder at a time.

        The key is `None` if only the file contains it. A file that exists all the time is given once. One that is
        written or removed meanwhile may be given although it does not exist.
        """
        above, slash, _ = prefix.rpartition("/")
        folders: list[tuple[str, str | None]] = [(self._long, None)]
        self.path(prefix)  # raises for a text that cannot be the beginning of a key
        if place := self._place([self._folder_name(part) for part in above.split("/")] if slash else []):
            folders.append((place, above + slash))
        while folders:
            folder, start = folders.pop()
            # A listing that runs while a name is given to a new file may miss the name, or have it twice: this happens
            # on tmpfs and btrfs. So the keys that are written meanwhile are added to its result.
            written = set(self._turns)
            self._listings.append(written)
            try:
                found, below = await self._files.run(folder, self._list, folder, start, prefix)
            finally:
                self._listings = [listing for listing in self._listings if listing is not written]
            for key in written:
                path = self.path(key)
                if key.startswith(prefix) and os.path.dirname(path) == folder:
                    found[path] = key
            folders += below
            yield found

    def _place(self, names: Sequence[str]) -> str | None:
        if len(names) > MAX_PARTS or any(len(name) > MAX_FILE_NAME for name in names):
            return None
        return os.path.join(self.folder, *names)

    def _folder_name(self, part: str) -> str:
        name = file_name(part)
        return f"{name.removesuffix(self._suffix)}%2e{self._suffix[1:]}" if name.endswith(self._suffix) else name

    def _list(
        self, folder: str, start: str | None, prefix: str
    ) -> tuple[dict[str, str | None], list[tuple[str, str | None]]]:
        """Return the files of a folder, and the folders below it that may hold more. `start` is the beginning of
        their keys.
        """
        files: dict[str, str | None] = {}
        folders: list[tuple[str, str | None]] = []
        try:
            entries = os.scandir(folder)
        except FileNotFoundError:
            return files, folders
        with entries:
            for entry in entries:
                if len(entry.name) > MAX_FILE_NAME or not entry.name.isascii():
                    continue
                name = entry.name.removesuffix(self._suffix)
                part = _part(name)
                if entry.is_dir():
                    if start is not None and part is not None and entry.name == self._folder_name(part):
                        below = f"{start}{part}/"
                        if below.startswith(prefix) and below.count("/") < MAX_PARTS:
                            folders.append((entry.path, below))
                elif name == entry.name:
                    continue
                elif start is None:
                    if _HASHED.fullmatch(name):
                        files[entry.path] = None
                elif part is not None and name == file_name(part) and (start + part).startswith(prefix):
                    files[entry.path] = start + part
        return files, folders


def file_name(part: str) -> str:
    """Return the file name for a text without a slash, or with slashes that are escaped."""
    return _SPECIAL.sub(_escaped, part) if part else "%"


def _escaped(match: re.Match[str]) -> str:
    char = match.group()
    if "A" <= char <= "Z":
        return "+" + char.lower()
    return "".join(f"%{byte:02x}" for byte in _utf8(char))


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidInput("a key is Unicode text, and this one has half of a surrogate pair in it") from None


def _part(name: str) -> str | None:
    """Return the text for which `file_name` gave this name. For another name the result is `None`, or any text."""
    if name == "%":
        return ""
    try:
        return _ESCAPES.sub(_unescaped, name)
    except UnicodeDecodeError:
        return None


def _unescaped(match: re.Match[str]) -> str:
    return match.group(1).upper() if match.group(1) else bytes.fromhex(match.group(2).replace("%", "")).decode()
