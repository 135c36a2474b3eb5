"""The firmware that a device runs, by its own report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

MAX_TEXT = 500  # characters kept of a text that a device says of itself: real names and messages have under 100


@attrs.frozen
class Build:
    """The firmware that a device runs, by its own report. A field is `None` if the device did not say it."""

    id: str | None = None
    version: str | None = None
    platform: str | None = None
    partition: int | None = None
    is_committed: bool | None = None
    status: int | None = None
    """0 idle, 1 a transfer is open, 2 the last one failed, 3 taken, about to reboot."""
    progress_percent: int | None = None
    message: str | None = None
    app: str | None = None
    """The application's name."""

    def followed_by(self, later: Build) -> Build:
        """Return this report merged with a later one, whose values take precedence."""
        return attrs.evolve(self, **{name: value for name, value in attrs.asdict(later).items() if value is not None})

    @classmethod
    def from_wire(cls, *answers: Mapping[str, object]) -> Build:
        """Return the build in `reported.ota`, or in the results of `Sys.GetInfo` and `OTA.Status`. Later answers win.

        A member of a wrong type counts as not said, because devices send any type.
        """
        found: dict[str, Any] = {}
        for answer in answers:
            for key, (field, kind) in _WIRE.items():
                value = answer.get(key)
                if type(value) is kind:  # not isinstance: a bool is not a partition
                    found[field] = value[:MAX_TEXT] if isinstance(value, str) else value
        return cls(**found)


_WIRE: Mapping[str, tuple[str, type]] = {
    "fw_id": ("id", str),
    "fw_version": ("version", str),
    "arch": ("platform", str),
    "app": ("app", str),
    "partition": ("partition", int),
    "is_committed": ("is_committed", bool),
    "status": ("status", int),  # in reported.ota
    "state": ("status", int),  # in the answer to OTA.Status
    "progress_percent": ("progress_percent", int),
    "message": ("message", str),
}
