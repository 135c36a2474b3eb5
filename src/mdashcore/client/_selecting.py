"""The members of a request that select devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["selecting"]


def selecting(terms: Sequence[str], devices: Sequence[str] | None, *, all_devices: bool) -> dict[str, Any]:
    """Return the members of a request that select the devices for which every term holds."""
    asked: dict[str, Any] = {"all": True} if all_devices else {}
    asked |= {"filter": list(terms)} if terms else {}
    return asked if devices is None else asked | {"devices": list(devices)}
