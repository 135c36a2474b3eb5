"""The figures of a fleet, as its home shows them: made in one pass over the rows of an account."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final

import attrs

from mdashcore.filters import Field, Term, Value, format_term
from mdashcore.filters._parser import MAX_TERM
from mdashcore.hub.event_log import EventLog
from mdashcore.hub.fleet.presence_history import HISTORY_TIME
from mdashcore.hub.fleet.rows import DeviceRow
from mdashcore.hub.fleet.summaries import Summaries
from mdashcore.hub.pausing import Pause, never_pause
from mdashcore.ota import UPDATE_ENDS, UpdateState

__all__ = [
    "FAILED_STATES",
    "FIGURE_FILTERS",
    "MAX_SHOWN",
    "ROWS_PER_PAUSE",
    "BuildCount",
    "FleetFigures",
    "FleetOverview",
    "build_term",
    "state_term",
]

MAX_SHOWN: Final = 10  # devices, updates and rollouts of each kind: what a person reads at a glance

MAX_BUILDS: Final = 20  # builds that are told apart: the rest of a fleet of prototypes is counted together

LEAST_FLAPS: Final = 6  # changes of a day from which on a device flaps: three breaks are a bad day, not a bad link

LAST_EVENTS: Final = 20  # events that are shown

ROWS_PER_PAUSE: Final = 200  # rows counted between two pauses: 0.3 ms

FAILED_STATES: Final = frozenset(
    {UpdateState.FAILED, UpdateState.ROLLED_BACK, UpdateState.TIMED_OUT, UpdateState.REJECTED}
)


def state_term(states: Iterable[UpdateState]) -> str:
    """Return the term that devices match whose newest update is in one of these states."""
    return format_term(Term(Field("update"), "=", tuple(Value(state) for state in UpdateState if state in set(states))))


FIGURE_FILTERS: Final[Mapping[str, list[str]]] = MappingProxyType(
    {
        "all": [],
        "online": ["online"],
        "offline": ["offline"],
        "never_seen": ["last_seen!=*"],
        "uncommitted": ["shadow.reported.ota.is_committed=false"],
        "damaged": ["damaged=*"],
        "flapping": [f"presence_changes>={LEAST_FLAPS}"],
        "silent": ["offline", "last_seen=*"],
        "under_way": [state_term(set(UpdateState) - UPDATE_ENDS)],
        "failed": [state_term(FAILED_STATES), "update<1d"],
    }
)
"""The terms that the devices of a figure match, and no others."""


_BUILD_NAMES: Final = frozenset(("app", "fw_version"))
"""The members by which builds are told apart."""


@attrs.frozen
class BuildCount:
    """A build, and the number of devices that report it."""

    app: str | None
    fw_version: str | None
    devices: int
    online: int
    filter: list[str]
    """The terms that these devices match, and no others."""


@attrs.define
class FleetFigures:
    """The figures of a fleet."""

    devices: int = 0
    online: int = 0
    never_seen: int = 0
    uncommitted: int = 0
    damaged: int = 0
    builds: list[BuildCount] = attrs.Factory(list)
    other_builds: int = 0
    """Devices whose build is none of `builds`, or one that no filter finds, as a device may report any value."""
    updates: dict[str, int] = attrs.Factory(dict)
    """The number of updates under way, by state."""
    failed: list[DeviceRow] = attrs.Factory(list)
    """Devices whose newest update has failed in the last day, the last ones first."""
    failed_updates: int = 0
    silent: list[DeviceRow] = attrs.Factory(list)
    """Devices that are offline and were seen, those that are silent for longest first."""
    history: list[int] = attrs.Factory(list)
    """Devices online over the last day."""
    flapping_devices: int = 0
    """Devices that have changed at least `LEAST_FLAPS` times in the last day."""
    flapping: list[tuple[DeviceRow, int]] = attrs.Factory(list)
    """Those of them that have changed most often, with the number of changes, the worst ones first."""
    events: list[bytes] = attrs.Factory(list)
    """The frames of the newest events, the last ones first."""


class FleetOverview:
    """The figures of every account.

    Args:
        now: returns the Unix time in seconds.
    """

    def __init__(self, summaries: Summaries, events: EventLog, *, now: Callable[[], float]) -> None:
        self._summaries = summaries
        self._events = events
        self._now = now

    async def of(self, account: str, pause: Pause = never_pause) -> FleetFigures:
        """Return the figures of an account.

        Raises:
            TooLarge: the account has more devices than a summary may have.
            StorageError: the store fails.
        """
        summary, history = await self._summaries.counted(account, pause)
        now = self._now()
        figures = FleetFigures()
        builds: Counter[tuple[str | None, str | None]] = Counter()
        online_builds: Counter[tuple[str | None, str | None]] = Counter()
        updates: Counter[str] = Counter()
        online: dict[str, bool] = {}
        silent: list[DeviceRow] = []
        flapping: list[DeviceRow] = []
        rows = list(summary.rows.values())
        for start in range(0, len(rows), ROWS_PER_PAUSE):
            for row in rows[start : start + ROWS_PER_PAUSE]:
                build = (row.build.app, row.build.fw_version)
                if not _BUILD_NAMES.intersection(row.build.odd):
                    builds[build] += 1
                    online_builds[build] += row.online
                online[row.id] = row.online
                figures.uncommitted += row.build.is_committed is False
                figures.damaged += bool(row.damaged)
                if row.presence_changes >= LEAST_FLAPS:
                    flapping.append(row)
                if row.update is not None:
                    _count_update(figures, updates, row, now)
                if row.online:
                    continue
                if row.last_seen is None:
                    figures.never_seen += 1
                else:
                    silent.append(row)
            silent = heapq.nsmallest(MAX_SHOWN, silent, key=_by_silence)
            await pause()
        figures.devices, figures.online = len(rows), sum(online.values())
        figures.builds = [
            BuildCount(app, version, number, online_builds[app, version], terms)
            for (app, version), number in builds.most_common(MAX_BUILDS)
            if max(map(len, terms := _build_terms(app, version))) <= MAX_TERM
        ]
        figures.other_builds = len(rows) - sum(build.devices for build in figures.builds)
        figures.updates = dict(updates)
        figures.failed = heapq.nlargest(MAX_SHOWN, figures.failed, key=_by_update)
        figures.silent = silent
        figures.history = history.online(now, online)
        figures.flapping_devices = len(flapping)
        worst = heapq.nlargest(MAX_SHOWN, flapping, key=_by_changes)
        figures.flapping = [(row, row.presence_changes) for row in worst]
        figures.events = [frame async for frame in self._events.recent(account, LAST_EVENTS)][::-1]
        return figures


def _build_terms(app: str | None, version: str | None) -> list[str]:
    return [build_term("app", app), build_term("fw_version", version)]


def build_term(name: str, value: str | None) -> str:
    """Return the term that devices match which report a value in `reported.ota`; for `None`, those that report none."""
    field = Field("shadow", ("reported", "ota", name))
    if value is None:
        return format_term(Term(field, "*", negated=True))
    return format_term(Term(field, "=", (Value(value, quoted=True),)))


def _count_update(figures: FleetFigures, updates: Counter[str], row: DeviceRow, now: float) -> None:
    update = row.update
    assert update is not None  # noqa: S101 - for the type checker
    if update.state not in UPDATE_ENDS:
        updates[update.state.value] += 1
    elif update.state in FAILED_STATES and now - update.changed < HISTORY_TIME:
        figures.failed_updates += 1
        figures.failed.append(row)


def _by_changes(row: DeviceRow) -> tuple[int, str]:
    return row.presence_changes, row.id


def _by_silence(row: DeviceRow) -> tuple[float, str]:
    return row.last_seen or 0.0, row.id


def _by_update(row: DeviceRow) -> tuple[float, str]:
    return (row.update.changed if row.update is not None else 0.0), row.id
