"""Which file belongs to a key, and which keys have one.

A slash in a key is a folder: ``alice/d1`` is ``alice/d1.json``. Of the rest, small letters, digits and ``_ - . @``
stand for themselves, a capital letter is ``+`` and the small one (file systems may take the two for the same), and any
other character is ``%`` and two small hexadecimal digits for each byte of its UTF-8. A dot at the start or end, a dash
at the start, and the dot of a folder's name that ends as a file's does, are written ``%2e`` and ``%2d``; a part with
nothing in it is ``%``. So no name is hidden, leads upwards, or is taken for another, and each leads back to its key.

A key for which that becomes too long or too deep has a file in the folder ``%long``, named by the SHA-256 of the key.
What is there besides, under names that no key has, is not looked at.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Final

from mdash_backends._files import Files, Turns
from mdashcore._errors import InvalidInput

__all__ = ["KeyFiles", "file_name"]

LONG: Final = "%long"
MAX_NAME: Final = 140  # bytes of a file's name: file systems take 255 or, encrypted, 143; an id of 128 characters fits
MAX_PARTS: Final = 8  # folders and a name: so a path stays far below the 4096 bytes that Linux takes

_SPECIAL = re.compile(r"\A[.-]|\.\Z|[^a-z0-9_.@-]")
_ESCAPES = re.compile(r"\+([a-z])|((?:%[0-9a-f]{2})+)")
_HASHED = re.compile(r"[0-9a-f]{64}")


class KeyFiles:
    """The files of one folder, each with a key.

    Args:
        folder: below that of `files`.
        suffix: of every file's name, from its dot; no folder's name ends with it.
    """

    def __init__(self, files: Files, folder: str, suffix: str) -> None:
        self._files = files
        self.folder = folder
        self._suffix = suffix
        self._long = os.path.join(folder, LONG)
        self._turns = Turns()
        self._listings: list[set[str]] = []

    def path(self, key: str) -> str:
        """Where a key's file is, if there is one.

        Raises:
            InvalidInput: the key is not Unicode text.
        """
        encoded = _utf8(key)
        *folders, name = key.split("/")
        place = self._place([*(self._folder_name(part) for part in folders), file_name(name) + self._suffix])
        return place or os.path.join(self._long, sha256(encoded).hexdigest() + self._suffix)

    def is_hashed(self, path: str) -> bool:
        """Whether a path of ours does not tell its key."""
        return os.path.dirname(path) == self._long

    @asynccontextmanager
    async def hold(self, key: str) -> AsyncIterator[str]:
        """Be the only one to write or remove a key's file: its path."""
        path = self.path(key)
        for listing in self._listings:
            listing.add(key)
        async with self._turns.take(key):
            yield path

    async def settled(self, key: str) -> None:
        """Wait for those who are writing a key's file now."""
        if key in self._turns:
            async with self._turns.take(key):
                pass

    async def by_folder(self, prefix: str = "") -> AsyncGenerator[dict[str, str | None], None]:
        """The files whose key starts with `prefix`, folder by folder: path and key; None where only the file knows it.

        A file that is there all the time is given once. One that is written meanwhile may be gone, or never have been.
        """
        above, slash, _ = prefix.rpartition("/")
        folders: list[tuple[str, str | None]] = [(self._long, None)]
        self.path(prefix)  # refuses what cannot be a key's beginning
        if place := self._place([self._folder_name(part) for part in above.split("/")] if slash else []):
            folders.append((place, above + slash))
        while folders:
            folder, start = folders.pop()
            # A listing that runs while a name is given to a new file may miss the name, or have it twice: on tmpfs
            # and btrfs it really happens. So those that are written meanwhile are added to what it found.
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
        if len(names) > MAX_PARTS or any(len(name) > MAX_NAME for name in names):
            return None
        return os.path.join(self.folder, *names)

    def _folder_name(self, part: str) -> str:
        name = file_name(part)
        return f"{name.removesuffix(self._suffix)}%2e{self._suffix[1:]}" if name.endswith(self._suffix) else name

    def _list(
        self, folder: str, start: str | None, prefix: str
    ) -> tuple[dict[str, str | None], list[tuple[str, str | None]]]:
        """One folder's files, and the folders in which there may be more. `start` begins all their keys."""
        files: dict[str, str | None] = {}
        folders: list[tuple[str, str | None]] = []
        try:
            entries = os.scandir(folder)
        except FileNotFoundError:
            return files, folders
        with entries:
            for entry in entries:
                if len(entry.name) > MAX_NAME or not entry.name.isascii():
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
    """The name for a text that has no slash, or whose slashes are to be escaped."""
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
    """What `file_name` was given, if it was; otherwise None, or anything."""
    if name == "%":
        return ""
    try:
        return _ESCAPES.sub(_unescaped, name)
    except UnicodeDecodeError:
        return None


def _unescaped(match: re.Match[str]) -> str:
    return match.group(1).upper() if match.group(1) else bytes.fromhex(match.group(2).replace("%", "")).decode()
