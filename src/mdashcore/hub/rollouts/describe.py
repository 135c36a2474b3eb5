"""Rollouts as users see them."""

from __future__ import annotations

from typing import Any

import attrs

from mdashcore import rollout
from mdashcore.hub.rollouts.preview import RolloutPreview
from mdashcore.ota import Fit
from mdashcore.rollout import Plan, Rollout

__all__ = ["describe", "describe_preview"]


def describe(present: Rollout) -> dict[str, Any]:
    """Return a rollout as plain values. Times are Unix seconds."""
    return {
        "id": present.id,
        "kind": present.kind,
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
        "cause": present.cause,
        "to_forgive": rollout.to_forgive(present, present.counts),
        "failures": [attrs.asdict(each) for each in present.failures],
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


def describe_preview(preview: RolloutPreview, plan: Plan, *, bare: bool) -> dict[str, Any]:
    """Return a preview as plain values.

    Args:
        bare: whether the request says that the image is a bare one.
    """
    groups = preview.groups
    return {
        "devices": preview.devices,
        "online": preview.online,
        "offline": preview.devices - preview.online,
        "fits": preview.fits[Fit.FITS],
        "installed": preview.fits[Fit.INSTALLED],
        "other_platform": preview.fits[Fit.OTHER_PLATFORM],
        "other_app": preview.fits[Fit.OTHER_APP],
        "unknown": preview.unknown,
        "groups": [attrs.asdict(each) for each in groups],
        "other_groups": preview.devices - sum(each.devices for each in groups),
        "phases": [
            {"percent": percent, "devices": devices}
            for percent, devices in zip(plan.phases, preview.phases, strict=True)
        ],
        "missing": preview.missing(bare=bare),
    }
