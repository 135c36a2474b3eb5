"""The permissions of a store: only its owner may read it, whatever the umask of the process. All functions block."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path
from typing import Final

__all__ = ["close_file", "close_folder", "create_file", "make_folder"]

FILE_MODE: Final = 0o600  # the files hold hashes of passwords and tokens, and reports of devices
FOLDER_MODE: Final = 0o700

_log = logging.getLogger(__name__)


def create_file(path: str | Path, flags: int) -> int:
    """Open a file for writing, and create it if it is missing, for its owner only. Returns its descriptor."""
    descriptor = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        if stat.S_IMODE(os.fstat(descriptor).st_mode) != FILE_MODE:  # a strange umask, or a file of an older version
            os.fchmod(descriptor, FILE_MODE)
    except PermissionError:
        _warn(path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def make_folder(path: str | Path) -> None:
    """Create a folder, for its owner only. Raises `FileExistsError`."""
    os.mkdir(path, FOLDER_MODE)
    close_folder(path)


def close_folder(path: str | Path) -> None:
    """Take the permissions of other users from an existing folder."""
    _close(path, FOLDER_MODE)


def close_file(path: str | Path) -> None:
    """Take the permissions of other users from a file, if it exists."""
    _close(path, FILE_MODE)


def _close(path: str | Path, mode: int) -> None:
    try:
        if stat.S_IMODE(os.stat(path).st_mode) != mode:
            os.chmod(path, mode)
    except FileNotFoundError:
        return
    except PermissionError:
        _warn(path)


def _warn(path: str | Path) -> None:
    """Warn that a file belongs to another user: only its owner can change the permissions."""
    _log.warning("%s may be read by others: its permissions cannot be changed", path)
