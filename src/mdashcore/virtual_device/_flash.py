"""The flash of the device, which survives a power cut: small JSON files, each replaced as a whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from mdashcore import _json
from mdashcore._errors import InvalidInput

__all__ = ["read_json", "write_json"]

MAX_FILE: Final = 2**20  # bytes: far above the files of a device; this module wrote no larger one


def read_json(path: Path) -> Any:
    """Return the value that `write_json` wrote; `None` if there is no such file.

    Raises:
        InvalidInput: the file is not JSON, or over 1 MiB. It is left unchanged.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except FileNotFoundError:
        return None
    if len(data) > MAX_FILE:
        raise InvalidInput(f"{path}: longer than {MAX_FILE} bytes")
    try:
        return _json.decode(data)
    except InvalidInput as exc:
        raise InvalidInput(f"{path}: {exc}") from None


def write_json(path: Path, value: object) -> None:
    """Replace a file. A process killed at any moment leaves the old file or the new one.

    There is no fsync: the power cut that this device imitates is the end of its process, not of the machine.
    """
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_bytes(_json.encode(value))
    os.replace(temporary, path)
