"""Files that commands write: they appear when they are complete."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

__all__ = ["write_whole"]


def write_whole(file: Path, work: Callable[[BinaryIO], None]) -> None:
    """Let `work` write a file. It appears, readable by its owner only, when it is complete and on the disk."""
    if str(file) == "-":
        work(sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return
    part = file.with_name(f"{file.name}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            os.fchmod(out.fileno(), 0o600)  # whatever the umask, and the mode of an older file
            work(out)
            out.flush()
            os.fsync(out.fileno())
        part.replace(file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
