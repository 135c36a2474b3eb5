"""The times of an update, moved together after the wall clock was set."""

from __future__ import annotations

from typing import Any, Final

import attrs

from mdashcore._checked import check_time
from mdashcore.ota._reasons import waiting_reason
from mdashcore.ota._values import Update

TIME_FIELDS: Final = (
    "created",
    "changed",
    "active",
    "online_since",
    "held_until",
    "waits_until",
    "not_before",
    "started",
    "begun",
    "taken",
)
"""The fields of `Update` that are Unix seconds; each may be `None`."""


def moved(update: Update, seconds: float) -> Update:
    """Return the update with all its times later by so many seconds: it has the same age on another clock."""
    check_time("seconds", seconds)
    times = {name: getattr(update, name) for name in TIME_FIELDS}
    changes: dict[str, Any] = {name: time + seconds for name, time in times.items() if time is not None}
    if update.waits_until is not None and update.reason == waiting_reason(update.waits_until):
        changes["reason"] = waiting_reason(update.waits_until + seconds)
    return attrs.evolve(update, revision=update.revision + 1, **changes)
