"""Requests that select devices."""

from __future__ import annotations

from typing import Any


def of_all(asked: dict[str, Any], **default: Any) -> dict[str, Any]:
    """Return a request with its defaults, for every device unless it says for which."""
    return default | ({} if asked.keys() & {"filter", "devices", "all"} else {"all": True}) | asked
