"""Lists of devices in pages, in any order.

A list by id without a filter is read from the store, a page at a time. Others are made of the rows in memory, which are
kept sorted, or of the shadows of all devices if the filter reads those.

A page holds rows alone. The shadows of its devices are read while they are sent, one at a time: a page of large ones
would be 32 MB in the store, and several times as much decoded.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from math import inf
from operator import itemgetter
from typing import Final

import attrs
import msgspec

from mdashcore._errors import Damaged, TooLarge
from mdashcore.hub.device_list import DeviceList
from mdashcore.hub.fleet.account_summary import AccountSummary
from mdashcore.hub.fleet.kept_orders import behind
from mdashcore.hub.fleet.order import BY_ID, Order, Place
from mdashcore.hub.fleet.rows import NO_BUILD, PARTS, DeviceRow, ReportedBuild, reads_only_rows
from mdashcore.hub.fleet.summaries import Summaries
from mdashcore.hub.pausing import Pause, never_pause
from mdashcore.hub.records.store import Records, scoped
from mdashcore.hub.shadows import Shadows
from mdashcore.hub.usage import Usage
from mdashcore.identity import DeviceKey
from mdashcore.selection import ANY_DEVICE, Selection
from mdashcore.shadow import Shadow
from mdashcore.storage import DocumentStore

__all__ = ["MAX_WHOLE", "DevicePages", "Page", "PageDevice"]

MAX_WHOLE: Final = 10_000  # devices of a list that is asked for without pages: 20 MB with shadows of 2 KB

ROW_BATCH: Final = 200  # rows compared between two pauses: 0.4 ms

TESTED_TOGETHER: Final = 10  # rows tested with a filter between two pauses: 16 terms with 64 texts take 0.5 ms


@attrs.frozen
class PageDevice:
    """A device of a list, as it is sent."""

    row: DeviceRow
    shadow: Shadow | None = None
    """The shadow, if it was asked for."""


@attrs.frozen
class Page:
    """A part of a list, without shadows."""

    rows: list[DeviceRow]
    next: str | None
    """The cursor for the next part; `None` at the end of the list."""
    total: int | None = None
    """The number of devices in all parts, if it was asked for."""
    run_after: str | None = None
    """The id behind which its devices are all those of the account; `None` if others may be between them."""


class DevicePages:
    """The devices of every account, in pages."""

    def __init__(
        self,
        documents: DocumentStore,
        devices: DeviceList,
        shadows: Shadows,
        summaries: Summaries,
        usage: Usage,
        *,
        now: Callable[[], float],
    ) -> None:
        self._now = now
        self._devices = devices
        self._shadows = shadows
        self._summaries = summaries
        self._usage = usage
        self._builds: Records[ReportedBuild] = Records(documents, PARTS["shadow"].view)

    async def read(
        self,
        account: str,
        selection: Selection,
        limit: int,
        *,
        order: Order = BY_ID,
        after: str | None = None,
        with_builds: bool = True,
        with_total: bool = False,
        pause: Pause = never_pause,
    ) -> Page:
        """Return the first devices that a selection matches, or the first ones behind a cursor.

        Args:
            limit: the maximum number of devices, at least 1.
            after: a cursor of an earlier page in the same order.
            with_builds: whether the rows have the reported build. `with_shadows` finds it with the shadow.
            with_total: whether all devices that match are counted.
            pause: awaited between two small pieces of work.

        Raises:
            InvalidInput: `after` is no cursor of this order.
            TooLarge: the account has too many devices for this order.
            StorageError: the store fails.
        """
        place = None if after is None else order.after(after)
        total: int | None = None
        in_memory = reads_only_rows(selection) and (order != BY_ID or await self._filters(account, selection, pause))
        if in_memory:
            found, total = await self._rows(account, selection, limit + 1, order, place, pause, with_total=with_total)
        elif order == BY_ID:
            found = await self._first_by_id(account, selection, limit + 1, place, pause)
            if with_total:
                total = await self._count(account, selection, pause)
        else:
            async with aclosing(self._scanned(account, selection, pause)) as batches:
                found, total = await _first(batches, order, place, limit + 1)
        page = found[:limit]
        if with_builds and not in_memory and not selection.reads_shadows:
            for row in page:
                await self._add_build(account, row, pause)
        is_run = order == BY_ID and selection == ANY_DEVICE
        return Page(
            page,
            order.cursor(page[-1]) if len(found) > limit else None,
            total if with_total else None,
            ("" if place is None else place[1]) if is_run else None,
        )

    async def with_shadows(
        self, account: str, page: Page, pause: Pause = never_pause
    ) -> AsyncGenerator[PageDevice, None]:
        """Yield the devices of a page with their shadows and reported builds, each as it is read.

        Args:
            pause: awaited after each device.

        Raises:
            StorageError: the store fails in the middle.
        """
        if page.run_after is None or not page.rows:
            for row in page.rows:
                yield await self._with_shadow(account, row)
                await pause()
            return
        # one scan costs less than many reads
        wanted, last = {row.id for row in page.rows}, page.rows[-1].id
        async with aclosing(self._devices.select(account, ANY_DEVICE, pause, after=page.run_after)) as devices:
            async for each in devices:
                if each.device.id > last:
                    break
                if each.device.id in wanted:
                    yield PageDevice(DeviceRow.of(each), each.shadow)
                    if each.device.id == last:
                        break

    async def check_whole(self, account: str, selection: Selection, pause: Pause = never_pause) -> None:
        """Raise `TooLarge` if a selection matches more than `MAX_WHOLE` devices, which a list without pages may have.

        Only of an account that has more, the devices are counted.
        """
        present = (await self._usage.of(account)).devices
        if present <= MAX_WHOLE:
            return
        if selection.terms and await self._count(account, selection, pause, most=MAX_WHOLE) <= MAX_WHOLE:
            return
        raise TooLarge(
            f"the list has more than {MAX_WHOLE} devices: ask for a page of it with limit, such as ?limit=1000"
        )

    async def _count(self, account: str, selection: Selection, pause: Pause, *, most: float = inf) -> int:
        """Count the devices that a selection matches. More than `most` are not counted to the end."""
        number = 0
        async with aclosing(self._matching(account, selection, pause)) as batches:
            async for batch in batches:
                number += len(batch)
                if number > most:
                    break
        return number

    async def _filters(self, account: str, selection: Selection, pause: Pause) -> bool:
        """Return whether a filter is applied to rows in memory for a list by id, which the store has too."""
        if not selection.terms:
            return False
        try:
            await self._summaries.of(account, pause)
        except TooLarge:
            return False
        return True

    async def _rows(
        self,
        account: str,
        selection: Selection,
        number: int,
        order: Order,
        place: Place | None,
        pause: Pause,
        *,
        with_total: bool,
    ) -> tuple[list[DeviceRow], int]:
        """Return the first rows behind a place that a selection matches, and how many all of them are if that is
        wanted.
        """
        summary = await self._summary(account, selection, pause)
        before, rest = behind(await summary.orders.of(order, summary.rows, pause), order, place)
        if not selection.terms:
            return rest[:number], len(before) + len(rest)
        if not with_total:
            return await self._filtered(account, selection, rest, pause, most=number), 0
        found = await self._filtered(account, selection, rest, pause)
        return found[:number], len(found) + len(await self._filtered(account, selection, before, pause))

    async def _summary(self, account: str, selection: Selection, pause: Pause) -> AccountSummary:
        if selection.counts_changes:
            return (await self._summaries.counted(account, pause))[0]
        return await self._summaries.of(account, pause)

    def _matching(self, account: str, selection: Selection, pause: Pause) -> AsyncGenerator[Sequence[DeviceRow], None]:
        """Yield the rows that a selection matches, some at a time, in any order."""
        if reads_only_rows(selection):
            return self._matching_rows(account, selection, pause)
        return self._scanned(account, selection, pause)

    async def _first_by_id(
        self,
        account: str,
        selection: Selection,
        number: int,
        place: Place | None,
        pause: Pause,
    ) -> list[DeviceRow]:
        found: list[DeviceRow] = []
        after = "" if place is None else place[1]
        select = self._devices.select(account, selection, pause, after=after, with_shadows=selection.reads_shadows)
        async with aclosing(select) as devices:
            async for each in devices:
                found.append(DeviceRow.of(each))
                if len(found) == number:
                    break
        return found

    async def _matching_rows(
        self, account: str, selection: Selection, pause: Pause
    ) -> AsyncGenerator[Sequence[DeviceRow], None]:
        """Yield the rows in memory that a selection matches, some at a time."""
        rows = list((await self._summary(account, selection, pause)).rows.values())
        if not selection.terms:
            yield rows
            return
        for start in range(0, len(rows), ROW_BATCH):
            yield await self._filtered(account, selection, rows[start : start + ROW_BATCH], pause)

    async def _filtered(
        self, account: str, selection: Selection, rows: Sequence[DeviceRow], pause: Pause, *, most: float = inf
    ) -> list[DeviceRow]:
        """Return those of the rows that a selection matches, the first `most` of them."""
        now = self._now()
        matching: list[DeviceRow] = []
        for start in range(0, len(rows), TESTED_TOGETHER):
            for row in rows[start : start + TESTED_TOGETHER]:
                if row.build.odd and selection.reads_shadows:
                    is_matching = await self._matches_shadow(account, selection, row, now)
                    await pause()
                else:
                    is_matching = selection.matches(row, now)
                if is_matching:
                    matching.append(row)
            if len(matching) >= most:
                break
            await pause()
        return matching

    async def _matches_shadow(self, account: str, selection: Selection, row: DeviceRow, now: float) -> bool:
        """Return whether a selection matches a device whose build is not all in its row."""
        try:
            shadow = await self._shadows.get(DeviceKey(account, row.id))
        except Damaged:
            shadow = Shadow()
        return selection.matches(row.facts(lambda: {"reported": shadow.reported}), now)

    async def _scanned(
        self, account: str, selection: Selection, pause: Pause
    ) -> AsyncGenerator[Sequence[DeviceRow], None]:
        """Yield the rows that a selection matches, one by one, as the store has them."""
        async with aclosing(self._devices.select(account, selection, pause)) as devices:
            async for each in devices:
                yield (DeviceRow.of(each),)

    async def _with_shadow(self, account: str, row: DeviceRow) -> PageDevice:
        row = msgspec.structs.replace(row)  # that of a summary stays as it is
        shadow = Shadow()
        try:
            shadow = await self._shadows.get(DeviceKey(account, row.id))
        except Damaged:
            row.mark("shadow", damaged=True)
        row.build = ReportedBuild.of(shadow.reported)
        return PageDevice(row, shadow)

    async def _add_build(self, account: str, row: DeviceRow, pause: Pause) -> None:
        await pause()
        try:
            record = await self._builds.get(scoped(account, row.id))
        except Damaged:
            row.mark("shadow", damaged=True)
        else:
            row.build = NO_BUILD if record is None else record.value


async def _first(
    batches: AsyncGenerator[Sequence[DeviceRow], None], order: Order, after: Place | None, number: int
) -> tuple[list[DeviceRow], int]:
    """Return the rows that stand first behind a place, sorted, and the number of all rows."""
    total = 0
    take = heapq.nlargest if order.is_descending else heapq.nsmallest
    best: list[tuple[Place, DeviceRow]] = []
    last: Place | None = None  # of the best: no device behind it is wanted
    async for batch in batches:
        total += len(batch)
        for row in batch:
            place = order.place_of(row)
            if after is not None and not order.is_before(after, place):
                continue
            if last is None or order.is_before(place, last):
                best.append((place, row))
        if len(best) > number + ROW_BATCH:
            best = take(number, best, key=itemgetter(0))
            last = best[-1][0]
    return [row for _, row in take(number, best, key=itemgetter(0))], total
