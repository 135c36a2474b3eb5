"""``/fleet``: the figures of an account's devices, in one answer."""

from __future__ import annotations

from typing import Any, cast

import attrs
import msgspec
from quart import Response

from mdashcore import rollout
from mdashcore.documents import FleetBuild, FleetDocument, FleetRollout, NotificationDocument
from mdashcore.hub.fleet.overview import FIGURE_FILTERS, MAX_SHOWN, FleetFigures
from mdashcore.hub.fleet.presence_history import HISTORY_TIME, STEPS
from mdashcore.hub.fleet.rows import DeviceRow
from mdashcore.rollout import Rollout
from mdashcore.server.api._request import answer, principal, service, time_text
from mdashcore.server.endpoints import API, Routes
from mdashcore.trio.turns import Pace

routes: Routes = Routes(f"{API}/fleet")


@routes.get(answers={200: FleetDocument}, errors=(413,))
async def get_fleet() -> Response:
    """Answer with the figures of the account's devices: presence now and over a day, builds, updates, rollouts,
    devices to look after, and the last events.
    """
    account = principal().account
    hub = service().hub
    with service().lists.one(account):
        figures = await hub.fleet.of(account, Pace(account))
        damaged: list[str] = []
        rollouts = [each for each in await hub.rollouts.of(account, damaged) if not each.ended]
    return answer(_document(figures, rollouts))


def _document(figures: FleetFigures, rollouts: list[Rollout]) -> FleetDocument:
    rollouts.sort(key=lambda each: each.created, reverse=True)
    events = [cast(NotificationDocument, msgspec.Raw(frame)) for frame in figures.events]
    return {
        "devices": {
            "all": figures.devices,
            "online": figures.online,
            "offline": figures.devices - figures.online,
            "never_seen": figures.never_seen,
            "uncommitted": figures.uncommitted,
            "damaged": figures.damaged,
            "flapping": figures.flapping_devices,
        },
        "day": {"step": HISTORY_TIME / STEPS, "online": figures.history},
        "builds": [cast(FleetBuild, attrs.asdict(build)) for build in figures.builds],
        "other_builds": figures.other_builds,
        "updates": {
            "under_way": figures.updates,
            "failed": figures.failed_updates,
            "last_failed": [_failed(row) for row in figures.failed],
        },
        "rollouts": [_rollout(each) for each in rollouts[:MAX_SHOWN]],
        "flapping": [{"id": row.id, "name": row.name, "changes": number} for row, number in figures.flapping],
        "silent": [{"id": row.id, "name": row.name, "last_seen": time_text(row.last_seen)} for row in figures.silent],
        "events": events,
        "filters": dict(FIGURE_FILTERS),
    }


def _failed(row: DeviceRow) -> Any:
    update = row.update
    assert update is not None  # noqa: S101 - for the type checker: its update has failed
    return {
        "id": row.id,
        "name": row.name,
        "state": update.state,
        "reason": update.reason,
        "changed": update.changed,
    }


def _rollout(each: Rollout) -> FleetRollout:
    counts = attrs.asdict(rollout.added(each.counts))
    return {"id": each.id, "name": each.name, "state": each.state, "reason": each.reason, "counts": counts}  # type: ignore[typeddict-item]
