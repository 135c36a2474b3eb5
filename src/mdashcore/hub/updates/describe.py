"""Updates as users see them."""

from __future__ import annotations

from typing import Any

import attrs

from mdashcore import ota
from mdashcore.ota import Update

__all__ = ["describe"]


def describe(update: Update, *, now: float) -> dict[str, Any]:
    """Return an update as plain values. Times are Unix seconds, `rate` is bytes per second."""
    commit_by = ota.commit_deadline(update)
    return {
        "id": update.id,
        "revision": update.revision,
        "state": update.state,
        "reason": update.reason,
        "progress_percent": update.progress_percent,
        "offset": update.offset,
        "size": update.image.size,
        "rate": None if update.rate is None else round(update.rate, 1),
        "attempt": update.attempt,
        "created": update.created,
        "started": update.started,
        "changed": update.changed,
        "deadline": ota.time_limit(update),
        "waits_until": None if update.ended else update.waits_until,
        "commit": "auto" if update.options.auto_commit else "manual",
        "commit_known": not update.commit_unknown,
        "commit_by": commit_by,
        "commit_seconds_left": None if commit_by is None else round(max(0.0, commit_by - now), 1),
        "image": attrs.asdict(update.image),
    }
