"""The times of an update: moved together after the wall clock was set, and after a time without a performer."""

from __future__ import annotations

from collections.abc import Iterable
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
    return attrs.evolve(update, revision=update.revision + 1, **_later(update, seconds, TIME_FIELDS))


def resumed(update: Update, now: float) -> Update:
    """Return an update that no performer has performed since its last change: that time counts for no limit.

    The device may have reported to none. And how long it was, only the wall clock says, which may have been set.
    """
    seconds = max(0.0, now - update.newest_time)
    return attrs.evolve(
        update,
        active=now,
        unattended=update.unattended + seconds,
        revision=update.revision + 1,
        **_later(update, seconds, ("held_until", "waits_until")),
    )


def _later(update: Update, seconds: float, names: Iterable[str]) -> dict[str, Any]:
    """Return the fields of these names with a later time, and the reason if it contains one of them."""
    times = {name: getattr(update, name) for name in names}
    changes: dict[str, Any] = {name: time + seconds for name, time in times.items() if time is not None}
    if update.waits_until is not None and update.reason == waiting_reason(update.waits_until):
        changes["reason"] = waiting_reason(update.waits_until + seconds)
    return changes
