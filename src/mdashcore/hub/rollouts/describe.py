"""Rollouts as users see them."""

from __future__ import annotations

from typing import Any

import attrs

from mdashcore import rollout
from mdashcore.rollout import Rollout

__all__ = ["describe"]


def describe(present: Rollout) -> dict[str, Any]:
    """Return a rollout as plain values. Times are Unix seconds."""
    return {
        "id": present.id,
        "name": present.name,
        "state": present.state,
        "reason": present.reason,
        "round": present.round,
        "created": present.created,
        "changed": present.changed,
        "deadline": None if present.ended else rollout.deadline(present),
        "phase": present.phase,
        "phases": [_describe_phase(present, index) for index in range(len(present.ends))],
        "counts": attrs.asdict(rollout.added(present.counts)),
        "filter": list(present.filter),
        "plan": rollout.describe_plan(present.plan),
        "image": attrs.asdict(present.image),
    }


def _describe_phase(present: Rollout, index: int) -> dict[str, Any]:
    started = present.phase_started[index] if index < len(present.phase_started) else None
    counts = present.counts[index]
    return {
        "percent": present.plan.phases[index],
        "devices": counts.total,
        "started": started,
        "counts": attrs.asdict(counts),
    }
