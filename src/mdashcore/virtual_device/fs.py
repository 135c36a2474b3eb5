"""The `FS.*` service: one flat file system of fixed size, in a folder.

As on SPIFFS there are no directories: a name is a label of at most 31 bytes. A name that means more than that to
the host (`..`, a path, a NUL) is refused, and so is everything in the folder that is
not a plain file, so that no call can reach outside the folder.
"""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path
from typing import Any, Final

from mdashcore._errors import RpcError
from mdashcore.virtual_device.rpc import BAD_REQUEST, SERVER_ERROR, Args, Method

__all__ = ["FS_SIZE", "FileSystem"]

FS_SIZE: Final = 256 * 1024
"""Bytes: the file system that Mongoose OS gives an ESP32 with 4 MiB of flash."""

LIST_PAGE: Final = 256  # bytes, SPIFFS's logical page; one more for each file's header, which bounds their number
MAX_FS_NAME: Final = 31  # bytes: SPIFFS_OBJ_NAME_LEN is 32, with the terminating NUL
MAX_FS_READ: Final = 32_768  # bytes of one FS.Get, which a device has to have in RAM as a whole


class FileSystem:
    """Files in `folder`, which holds nothing else. Together they use at most `size` bytes of flash."""

    def __init__(self, folder: Path, size: int = FS_SIZE) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.size = size

    def methods(self) -> dict[str, Method]:
        return {
            "FS.List": Method(self._list, "{path: %Q}"),
            "FS.ListExt": Method(self._list_ext, "{path: %Q}"),
            "FS.Get": Method(self._get, "{filename: %Q, offset: %ld, len: %ld}"),
            "FS.Put": Method(self._put, "{filename: %Q, offset: %ld, data: %V, append: %B}"),
            "FS.Remove": Method(self._remove, "{filename: %Q}"),
            "FS.Rename": Method(self._rename, "{src: %Q, dst: %Q}"),
        }

    def files(self) -> dict[str, int]:
        """Return names and sizes in bytes, sorted by name."""
        with os.scandir(self._folder) as entries:
            found = {
                entry.name: entry.stat(follow_symlinks=False).st_size
                for entry in entries
                if entry.is_file(follow_symlinks=False) and _is_name(entry.name)
            }
        return dict(sorted(found.items()))

    def free(self) -> int:
        """Return the bytes of flash not in use."""
        return max(0, self.size - sum(map(_flash_used, self.files().values())))

    def _list(self, args: Args) -> list[str]:
        return list(self._listed(args))

    def _list_ext(self, args: Args) -> list[dict[str, Any]]:
        return [{"name": name, "size": size} for name, size in self._listed(args).items()]

    def _listed(self, args: Args) -> dict[str, int]:
        # A directory that cannot be opened lists as empty on Mongoose OS.
        return self.files() if args.text("path", "/") in ("", ".", "/") else {}

    def _get(self, args: Args) -> dict[str, Any]:
        path = self._path(args.text("filename"))
        offset, length = args.integer("offset", 0), args.integer("len", -1)
        if offset < 0:
            raise RpcError(BAD_REQUEST, "illegal offset")
        size = self._size(path)
        if size is None:
            raise _cannot_open(path)
        offset = min(offset, size)
        if length < 0 or offset + length > size:
            length = size - offset
        if length > MAX_FS_READ:
            raise RpcError(SERVER_ERROR, "out of memory")
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(length)
        return {"data": base64.b64encode(data).decode("ascii"), "left": size - offset - len(data)}

    def _put(self, args: Args) -> None:
        """Write a file: without an offset replace it, or append; at offset 0 replace it; above write into an
        existing file.
        """
        path = self._path(args.text("filename"))
        data, append, offset = args.data("data", ""), args.flag("append"), args.integer("offset", -1)
        old = self._size(path)
        if offset > 0:
            if old is None:
                raise _cannot_open(path)
            if offset > old:
                raise RpcError(BAD_REQUEST, f"failed to seek to {offset}")
            mode, start = "r+b", offset
        elif offset < 0 and append:
            mode, start = "ab", old or 0
        else:
            mode, start = "wb", 0
        size = start + len(data) if mode != "r+b" else max(old or 0, start + len(data))
        freed = 0 if old is None else _flash_used(old)
        if _flash_used(size) > self.free() + freed:
            raise RpcError(SERVER_ERROR, "failed to write data")  # the flash is full; nothing was written
        with path.open(mode) as file:
            if mode == "r+b":
                file.seek(start)
            file.write(data)

    def _remove(self, args: Args) -> None:
        path = self._path(args.text("filename"))
        if self._size(path) is None:
            raise RpcError(SERVER_ERROR, "remove failed")
        path.unlink()

    def _rename(self, args: Args) -> None:
        """Rename a file. An existing file with the new name is replaced."""
        src, dst = self._path(args.text("src")), self._path(args.text("dst"))
        if self._size(src) is None:
            raise RpcError(SERVER_ERROR, "rename failed")
        self._size(dst)
        src.replace(dst)

    def _path(self, name: str) -> Path:
        if not _is_name(name):
            raise RpcError(BAD_REQUEST, "invalid filename")
        return self._folder / name

    def _size(self, path: Path) -> int | None:
        """Return the bytes of a file; `None` if there is none. Raises unless it is a plain file."""
        try:
            found = path.lstat()
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(found.st_mode):
            raise _cannot_open(path)
        return found.st_size


_NOT_IN_NAMES: Final = frozenset("/\\\x7f") | {chr(code) for code in range(32)}


def _is_name(name: str) -> bool:
    try:
        size = len(name.encode())
    except UnicodeEncodeError:  # half of a surrogate pair: impossible in JSON
        return False
    return 0 < size <= MAX_FS_NAME and name not in (".", "..") and _NOT_IN_NAMES.isdisjoint(name)


def _cannot_open(path: Path) -> RpcError:
    return RpcError(BAD_REQUEST, f'failed to open file "{path.name}"')


def _flash_used(size: int) -> int:
    return LIST_PAGE * (1 + -(-size // LIST_PAGE))
