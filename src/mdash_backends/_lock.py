"""The folder of a backend: its URL, and the lock that makes one process its owner.

The lock is the operating system's (flock(2) on the file ``lock`` in the folder), which ends with the process in any
case. The text in the file describes its holder for people, and for the error that the next process gets.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import sys
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from mdash_backends._modes import create_file, make_folder
from mdashcore._errors import InvalidInput, StorageError

__all__ = ["exists", "folder_of", "hold_folder", "refuse_folder", "refuse_other_files", "sync_folder"]

LOCK_FILE: Final = "lock"
MAX_SHOWN_FILES: Final = 3  # names of files in an error: enough to recognise the folder
MAX_HOLDER: Final = 512  # bytes: the line about the holder; a longer one was not written by this module


def folder_of(url: str) -> Path:
    """Return the folder of ``scheme:///absolute/path``, or of ``scheme://./relative/path``. Percent escapes are
    decoded.

    Raises:
        InvalidInput: the URL names no folder, or contains more than a folder.
    """
    scheme, separator, path = url.partition("://")
    usage = f"write {scheme}:///absolute/path or {scheme}://./relative/path"
    if not separator:
        raise InvalidInput(f"a storage URL starts with SCHEME://: {usage}")
    if "?" in path or "#" in path:
        raise InvalidInput(f"{scheme}:// takes no options; a ? or # in the path is written %3F or %23")
    if not path.startswith(("/", "./", "../")):
        raise InvalidInput(f"{scheme}:// names a folder, not a host: {usage}")
    try:
        folder = Path(unquote(path, errors="strict"))
    except UnicodeDecodeError:
        raise InvalidInput(f"the path of {scheme}:// is not UTF-8") from None
    if "\0" in str(folder):
        raise InvalidInput(f"the path of {scheme}:// has a NUL in it")
    if not folder.name or folder.name == "..":
        raise InvalidInput(f"{scheme}:// names no folder of its own: {usage}")
    return folder.absolute()


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Own a folder while the context lasts. A missing folder is created with permissions for its owner only.

    Raises:
        StorageError: another process or this one owns the folder, or it cannot be created or locked.
    """
    with naming(folder):
        _make(folder)
        lock = create_file(folder / LOCK_FILE, os.O_RDWR)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise StorageError(f"{folder} is in use by {_holder(lock)}") from exc
        except OSError as exc:
            raise StorageError(f"{folder} cannot be locked: {exc.strerror or exc}") from exc
        _write(lock, _this_process())
        try:
            yield
        finally:
            _write(lock, "")
    finally:
        os.close(lock)


@contextmanager
def naming(folder: Path) -> Iterator[None]:
    """Turn an `OSError` into a `StorageError` that names the folder and, if permission is missing, its owner."""
    try:
        yield
    except OSError as exc:
        words = f"{folder} cannot be used: {exc.strerror or exc}"
        raise StorageError(words + (_owner(folder, exc) if isinstance(exc, PermissionError) else "")) from exc


def exists(folder: Path, name: str) -> bool:
    """Return whether a folder has a file or folder of that name. Raises `StorageError` if that cannot be seen."""
    with naming(folder):
        try:
            os.stat(folder / name)
        except (FileNotFoundError, NotADirectoryError):
            return False
    return True


def _owner(folder: Path, error: OSError) -> str:
    """Return the owners of the file of the error, or of the nearest visible folder above it, and of this process."""
    path = folder if error.filename is None else Path(os.fsdecode(error.filename))
    for place in (path, *path.parents):
        with suppress(OSError):
            owner = os.stat(place).st_uid
            return f"; {place} belongs to {_user(owner)}, and this process is {_user(os.geteuid())}'s"
    return ""


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def sync_folder(folder: Path) -> None:
    """Return when the names in a folder are on disk: files and folders that were created, renamed or removed in it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make(folder: Path) -> None:
    if not folder.is_dir():
        _make(folder.parent)
        with suppress(FileExistsError):
            make_folder(folder)
        sync_folder(folder.parent)


def _write(lock: int, holder: str) -> None:
    with suppress(OSError):  # a full disk is no reason to refuse opening the store
        os.ftruncate(lock, 0)
        os.pwrite(lock, holder.encode(errors="replace"), 0)


def _this_process() -> str:
    return f"process {os.getpid()} ({_command(sys.argv)}), since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC\n"


def _command(arguments: Sequence[str]) -> str:
    """Return the program, and a subcommand such as ``serve``. Other arguments are left out, because one may be a
    secret.
    """
    program = Path(arguments[0]) if arguments else Path()
    name = program.parent.name if program.name == "__main__.py" else program.name
    subcommand = [word for word in arguments[1:2] if word.isalpha()]
    return " ".join(["python" if name in ("", "-c") else name, *subcommand])


def _holder(lock: int) -> str:
    """Return the holder's description of itself; a general one if the holder has not written it yet."""
    said = os.pread(lock, MAX_HOLDER, 0).decode(errors="replace").strip()
    return said if said.startswith("process ") and said.isprintable() else "another process"


def refuse_folder(folder: Path, name: str, what: str) -> None:
    """Raise `StorageError` if a folder holds the store of another backend, which has a file or folder `name`."""
    if exists(folder, name):
        raise StorageError(f"{folder} holds {what}")


def refuse_other_files(folder: Path, own: Container[str]) -> None:
    """Raise `StorageError` if a folder that is to become a store has files in it that belong to no store."""
    try:
        with naming(folder):
            others = sorted(name for name in os.listdir(folder) if name not in own)
    except StorageError as exc:
        if isinstance(exc.__cause__, FileNotFoundError):
            return
        raise
    if others:
        shown = ", ".join(map(repr, others[:MAX_SHOWN_FILES]))
        shown += " and others" if len(others) > MAX_SHOWN_FILES else ""
        raise StorageError(
            f"{folder} is no store, and not empty: there is {shown}; a new store needs a folder of its own"
        )
