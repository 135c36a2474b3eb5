"""Jobs as users see them."""

from __future__ import annotations

from typing import Any

import attrs

from mdashcore.job import Job

__all__ = ["describe", "describe_progress"]


def describe(present: Job) -> dict[str, Any]:
    """Return a job as plain values. Times are Unix seconds."""
    return {
        "id": present.id,
        "name": present.name,
        "state": present.state,
        "reason": present.reason,
        "desired": present.desired,
        "filter": list(present.filter),
        "devices": present.devices,
        "counts": attrs.asdict(present.counts),
        "created": present.created,
        "created_by": present.created_by,
        "changed": present.changed,
        "canceled_by": present.canceled_by,
    }


def describe_progress(present: Job) -> dict[str, Any]:
    """Return what notifications say of a job: all but its values and its filter, which may be long."""
    return {key: value for key, value in describe(present).items() if key not in ("id", "desired", "filter")}
