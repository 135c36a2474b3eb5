"""Updates as people see them: how one stands, and those that a device has had."""

from __future__ import annotations

from typing import Any, Final

import attrs

from mdashcore import ota
from mdashcore.ota import State, Update

__all__ = ["MAX_PAST", "History", "PastUpdate", "describe"]

MAX_PAST: Final = 20  # ended updates kept of a device, newest first: a year of them, in 8 KB


@attrs.frozen
class PastUpdate:
    """An update that has ended, in short."""

    id: str
    state: State
    reason: str
    created: float
    started: float | None
    ended: float
    name: str
    """Of the image."""
    version: str | None
    build_id: str | None
    size: int

    @classmethod
    def of(cls, update: Update) -> PastUpdate:
        image = update.image
        return cls(
            update.id,
            update.state,
            update.reason,
            update.created,
            update.started,
            update.changed,
            image.name,
            image.version,
            image.build_id,
            image.size,
        )


@attrs.frozen
class History:
    """The updates of a device that have ended, the newest first."""

    past: tuple[PastUpdate, ...] = ()

    def with_(self, update: Update) -> History:
        """The same with an update that has ended; the very same object if that is in it already."""
        if any(past.id == update.id for past in self.past):
            return self
        return History((PastUpdate.of(update), *self.past)[:MAX_PAST])

    @property
    def took_zips(self) -> bool:
        """Whether the device runs what came in a firmware zip, as far as is known."""
        newest = next((past for past in self.past if past.state is State.COMMITTED), None)
        return newest is not None and newest.build_id is not None

    def describe(self) -> list[dict[str, Any]]:
        """As plain values."""
        return [attrs.asdict(past) for past in self.past]


def describe(update: Update, *, now: float) -> dict[str, Any]:
    """An update as plain values. Times are Unix seconds, `rate` is bytes per second."""
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
