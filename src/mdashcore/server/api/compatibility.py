"""Paths of other mDash services that are not served here, with the replacement of each.

The page ``docs/reference/compatibility.md`` explains them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

__all__ = ["MOVED_PATHS", "instead_of"]

_PREFIX: Final = "/api/v2"

MOVED_PATHS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "/user": "an admin makes users with POST /api/v2/users",
        "/data": "POST /api/v2/logs has the stored notifications",
        "/m/device": "keys are for an account: use /api/v2/devices/:id with an API key",
    }
)
"""Replacements by path. The path matches with or without the API's prefix, and with more after it."""


def instead_of(path: str) -> str | None:
    """Return the replacement of a path that is not served; `None` if the path is unknown."""
    asked = path.removeprefix(_PREFIX).rstrip("/") + "/"
    return next((words for known, words in MOVED_PATHS.items() if asked.startswith(f"{known}/")), None)
