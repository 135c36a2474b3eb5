"""Which devices run an image of the library, or failed to: by the builds that they report, and their newest updates.

It costs one pass over the rows of the account's summary, which are in memory.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from enum import StrEnum
from itertools import islice
from typing import Final

import attrs

from mdashcore.filters._parser import MAX_TERM
from mdashcore.firmware_entry import FirmwareEntry
from mdashcore.hub.fleet.overview import FAILED_STATES, ROWS_PER_PAUSE, build_term
from mdashcore.hub.fleet.rows import DeviceRow, ReportedBuild
from mdashcore.hub.fleet.summaries import Summaries
from mdashcore.hub.pausing import Pause, never_pause
from mdashcore.ota import UPDATE_ENDS, UpdateImage, UpdateState

__all__ = ["FirmwareDevices", "FirmwareUse", "ImageUse", "use_of"]

_INSTALLED: Final = frozenset({UpdateState.COMMITTED, UpdateState.ALREADY_INSTALLED})


class ImageUse(StrEnum):
    """What a device does with an image."""

    RUNNING = "running"
    UPDATING = "updating"
    FAILED = "failed"


@attrs.define
class FirmwareUse:
    """The devices of an image: how many, and some of them."""

    counts: dict[ImageUse, int] = attrs.field(factory=lambda: dict.fromkeys(ImageUse, 0))
    devices: dict[ImageUse, list[DeviceRow]] = attrs.field(factory=lambda: {use: [] for use in ImageUse})
    """By id; of those that failed the last ones first."""
    filter: list[str] = attrs.field(factory=list)
    """The terms for devices that report the image's build; empty if it is not known, or no term can hold it."""


def use_of(row: DeviceRow, image: UpdateImage) -> ImageUse | None:
    """Return what a device does with an image; `None` if it has nothing to do with it.

    A device runs an image if it reports that build, and no other version or application. The build of a bare image is
    not known: the device runs that if its newest update has committed it.
    """
    update = row.update if row.update is not None and row.update.image.sha256 == image.sha256 else None
    if update is not None and update.state not in UPDATE_ENDS:
        return ImageUse.UPDATING
    if image.build_id is not None:
        if row.build.fw_id == image.build_id and _may_be(row.build, image):
            return ImageUse.RUNNING
    elif update is not None and update.state in _INSTALLED:
        return ImageUse.RUNNING
    return ImageUse.FAILED if update is not None and update.state in FAILED_STATES else None


def _may_be(build: ReportedBuild, image: UpdateImage) -> bool:
    """Return whether nothing that a device reports beside its build id speaks against an image."""
    pairs = ((build.fw_version, image.version), (build.app, image.app))
    return all(None in pair or pair[0] == pair[1] for pair in pairs)


class FirmwareDevices:
    """The devices of each account's images."""

    def __init__(self, summaries: Summaries) -> None:
        self._summaries = summaries

    async def counts(
        self, account: str, entries: Iterable[FirmwareEntry], pause: Pause = never_pause
    ) -> dict[str, dict[ImageUse, int]]:
        """Return the number of devices of each image, by its id.

        It costs one pass over the devices, and one step for each pair of a build that they report and an image of it.

        Raises:
            TooLarge: the account has more devices than a summary may have.
        """
        by_build: dict[str, list[FirmwareEntry]] = {}
        by_digest: dict[str, FirmwareEntry] = {}
        found = {}
        for entry in entries:
            if entry.image.build_id is not None:
                by_build.setdefault(entry.image.build_id, []).append(entry)
            by_digest[entry.image.sha256] = entry
            found[entry.id] = dict.fromkeys(ImageUse, 0)
        builds: Counter[ReportedBuild] = Counter()  # many devices report the same
        apart: Counter[tuple[ReportedBuild, str]] = Counter()  # those whose update is with the image of that id
        for rows in _slices((await self._summaries.of(account, pause)).rows.values()):
            for row in rows:
                if row.build.fw_id in by_build:
                    builds[row.build] += 1
                if row.update is not None and (one := by_digest.get(row.update.image.sha256)) is not None:
                    apart[row.build, one.id] += 1
                    if (use := use_of(row, one.image)) is not None:
                        found[one.id][use] += 1
            await pause()
        pairs = ((build, entry) for build in builds for entry in by_build[build.fw_id or ""])
        for batch in _batches(pairs):
            for build, entry in batch:
                if _may_be(build, entry.image):
                    found[entry.id][ImageUse.RUNNING] += builds[build] - apart[build, entry.id]
            await pause()
        return found

    async def of(self, account: str, entry: FirmwareEntry, limit: int, pause: Pause = never_pause) -> FirmwareUse:
        """Return the devices of an image, at most `limit` of each kind. Raises as `counts`."""
        result = FirmwareUse()
        for rows in _slices((await self._summaries.of(account, pause)).rows.values()):
            for row in rows:
                if (use := use_of(row, entry.image)) is not None:
                    result.counts[use] += 1
                    result.devices[use].append(row)
            for use, devices in result.devices.items():
                order = _by_failure if use is ImageUse.FAILED else _by_id
                result.devices[use] = heapq.nsmallest(limit, devices, key=order)
            await pause()
        if entry.image.build_id is not None and len(term := build_term("fw_id", entry.image.build_id)) <= MAX_TERM:
            result.filter = [term]
        return result


def _slices(rows: Iterable[DeviceRow]) -> Iterator[list[DeviceRow]]:
    """Return the rows in pieces, between which other tasks may run: also those that change the summary."""
    whole = list(rows)
    return (whole[start : start + ROWS_PER_PAUSE] for start in range(0, len(whole), ROWS_PER_PAUSE))


def _batches(
    pairs: Iterator[tuple[ReportedBuild, FirmwareEntry]],
) -> Iterator[list[tuple[ReportedBuild, FirmwareEntry]]]:
    """Yield the pairs in pieces: an account may have a thousand images of one build id."""
    while batch := list(islice(pairs, ROWS_PER_PAUSE)):
        yield batch


def _by_id(row: DeviceRow) -> tuple[float, str]:
    return 0.0, row.id


def _by_failure(row: DeviceRow) -> tuple[float, str]:
    return -(row.update.changed if row.update is not None else 0.0), row.id
