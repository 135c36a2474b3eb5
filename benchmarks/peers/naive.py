"""A shadow as written in an afternoon: merged in place, the whole delta computed again with every update."""

from __future__ import annotations

import time
from typing import Any


def merge(target: dict[str, Any], patch: dict[str, Any]) -> None:
    """Merge in place (RFC 7396)."""
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict) and isinstance(target.get(key), dict):
            merge(target[key], value)
        else:
            target[key] = value


def delta(desired: dict[str, Any], reported: dict[str, Any]) -> dict[str, Any]:
    """Return the desired values that are not reported."""
    found: dict[str, Any] = {}
    for key, value in desired.items():
        other = reported.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            if inner := delta(value, other):
                found[key] = inner
        elif value != other:
            found[key] = value
    return found


class Shadow:
    """The shadow of one device."""

    def __init__(self) -> None:
        self.state: dict[str, dict[str, Any]] = {"desired": {}, "reported": {}}
        self.version = 0

    def update(self, document: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Merge an update. Returns the accepted document, and the delta document if a delta is left."""
        for section in ("desired", "reported"):
            if section in document["state"]:
                merge(self.state[section], document["state"][section])
        self.version += 1
        accepted = {"state": document["state"], "version": self.version, "timestamp": int(time.time())}
        left = delta(self.state["desired"], self.state["reported"])
        return accepted, {"state": left, "version": self.version} if left else None
