"""Lists of devices in pages, and the summaries that they are made of: hypothesis laws in memory."""

from __future__ import annotations

import gc
import re
import tracemalloc
from contextlib import suppress
from itertools import pairwise

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from listed_fleet import CHANGES, FILTERS, IDS, ORDERS, Fleet, check_filter, check_given_once, check_parts

from mdashcore import _json, notifications
from mdashcore._errors import InvalidInput, StorageError, TooLarge
from mdashcore._natural_order import compact_key, natural_key
from mdashcore.hub import Hub
from mdashcore.hub.fleet import account_summary, kept_orders, pages, summaries
from mdashcore.hub.fleet.order import MAX_CURSOR, Order, _remembered_version_place, natural_place
from mdashcore.hub.fleet.rows import DeviceRow, ReportedBuild
from mdashcore.identity import DeviceKey
from mdashcore.selection import ANY_DEVICE, parse
from mdashcore.storage import ORDERED


@pytest.fixture
def fleet():
    return Fleet.made()


def test_a_summary_stays_as_the_store_is(tools):
    """Whatever changes, in whatever order, and however often the account is looked at in between: the rows in memory
    are those that are read anew.
    """

    @given(st.lists(st.one_of(CHANGES, st.just("look")), max_size=40))
    def law(steps):
        fleet = Fleet.made()

        async def run():
            for step in steps:
                if step == "look":
                    await fleet.hub.summaries.of("alice")
                else:
                    await fleet.change(step)
            kept = (await fleet.hub.summaries.of("alice")).rows
            fleet.hub.summaries.forget("alice")
            read = (await fleet.hub.summaries.of("alice")).rows
            assert {id: told(row) for id, row in kept.items()} == {id: told(row) for id, row in read.items()}

        tools.run(run())

    law()


def told(row: DeviceRow) -> tuple:
    """All that a row says."""
    return (
        row.id, row.name, row.created_at, dict(row.tags), row.online, row.since, row.last_seen, row.build, row.damaged,
    )  # fmt: skip


def test_a_summary_that_is_read_while_devices_change_is_right(tools):
    """Reading takes many steps, and changes are stored and notified between any two of them."""

    @given(st.lists(CHANGES, max_size=8), st.lists(CHANGES, max_size=8), st.lists(st.integers(0, 7), max_size=60))
    @settings(max_examples=60)
    def law(before, during, choices):
        numbers, time = iter(range(10**9)), [1000.0]
        backend = attrs.evolve(tools.backend(), capabilities=frozenset({ORDERED}))
        hub = Hub(
            backend,
            now=lambda: time[0],
            monotonic=lambda: time[0],
            entropy=lambda size: next(numbers).to_bytes(size, "big"),
            signal=tools.signal,
        )
        fleet = Fleet(hub, time)

        async def changes():
            for change in during:
                await fleet.change(change)

        for change in before:
            tools.run(fleet.change(change))
        outcomes = tools.interleave([hub.summaries.of("alice", tools.pause), changes()], choices)
        assert [each.error for each in outcomes] == [None, None]
        kept = tools.run(hub.summaries.of("alice")).rows
        hub.summaries.forget("alice")
        read = tools.run(hub.summaries.of("alice")).rows
        assert {id: told(row) for id, row in kept.items()} == {id: told(row) for id, row in read.items()}

    law()


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])
def test_pages_are_the_list_in_parts(tools, ordered):
    """In every order and of every size."""

    @given(st.lists(CHANGES, max_size=40), st.sampled_from(ORDERS), st.integers(1, 5))
    def law(changes, order, limit):
        async def run():
            fleet = await Fleet.made(ordered=ordered).changed(changes)
            await check_parts(fleet, order, limit)

        tools.run(run())

    law()


def test_a_device_that_keeps_its_place_is_given_once(tools):
    """Whatever comes, goes and moves between the pages."""

    @given(
        st.lists(CHANGES, max_size=40),
        st.sampled_from(ORDERS),
        st.integers(1, 4),
        st.lists(st.lists(CHANGES, max_size=3), max_size=15),
    )
    def law(before, order, limit, between):
        async def run():
            await check_given_once(await Fleet.made().changed(before), order, limit, between)

        tools.run(run())

    law()


def test_a_filter_means_the_same_in_every_order(tools):
    """In memory and in the store."""

    @given(st.lists(CHANGES, max_size=40), st.sampled_from(ORDERS), st.sampled_from(FILTERS))
    def law(changes, order, terms):
        async def run():
            await check_filter(await Fleet.made().changed(changes), order, terms)

        tools.run(run())

    law()


@pytest.mark.parametrize("most", [0, 500])
def test_an_order_is_kept_right_while_rows_move(tools, monkeypatch, most):
    """Two lists that are asked for together, in any interleaving with changes: each is sorted when it is given, and so
    is the next one. `most`: of rows that are put into their places one by one; of more, all are sorted anew.
    """
    monkeypatch.setattr(kept_orders, "MAX_MOVED", most)
    monkeypatch.setattr(kept_orders, "SORTED_TOGETHER", 2)

    @given(
        st.lists(CHANGES, max_size=15),
        st.lists(CHANGES, max_size=8),
        st.sampled_from(ORDERS),
        st.lists(st.integers(0, 7), max_size=60),
    )
    @settings(max_examples=60)
    def law(before, during, order, choices):
        fleet, parsed = Fleet.made(), Order.parse(order)
        tools.run(fleet.changed([("create", id, 1) for id in IDS]))
        tools.run(fleet.changed(before))
        summary = tools.run(fleet.hub.summaries.of("alice"))

        def sorted_now(rows):
            return sorted(rows, key=parsed.place_of) == rows and {row.id for row in rows} == set(summary.rows)

        async def look():
            return sorted_now(await summary.orders.of(parsed, summary.rows, tools.pause))

        async def changes():
            for change in during:
                await fleet.change(change)
                await fleet.hub.summaries.of("alice", tools.pause)

        looks = tools.interleave([look(), look(), changes()], choices)
        assert [each.error for each in looks] == [None] * 3
        assert looks[0].value
        assert looks[1].value
        assert tools.run(look())

    law()


async def read_shadows(fleet, page):
    """The devices of a page with their shadows, by id."""
    return {each.row.id: each async for each in fleet.hub.device_pages.with_shadows("alice", page)}


@pytest.mark.parametrize("order", ["id", "name", "-last_seen"])
def test_devices_have_what_was_asked_for(tools, fleet, order):
    """Builds come with any order; shadows are read for a page that has been found."""

    async def run():
        for change in [("create", "d1", 1), ("report", "d1", 0), ("create", "d2", 2)]:
            await fleet.change(change)
        page = await fleet.page(10, order)
        assert {row.id: row.build.fw_version for row in page.rows} == {"d1": "1.9", "d2": None}
        found = await read_shadows(fleet, page)
        assert list(found) == [row.id for row in page.rows]
        assert found["d1"].row.build.fw_version == "1.9"
        assert found["d1"].shadow.reported["t"] == 0
        assert found["d2"].shadow.version == 0

    tools.run(run())


@pytest.mark.parametrize("terms", [[], ["id=d2|d3|d5"]])
def test_the_shadows_of_a_page_are_those_of_its_devices(tools, fleet, terms):
    """Whatever devices come and go between the two readings: one that came is not in the page."""

    async def run():
        for n in (2, 3, 5, 7):
            await fleet.change(("create", f"d{n}", n))
            await fleet.change(("report", f"d{n}", n))
        page = await fleet.page(2, after=(await fleet.page(1, terms=terms)).next, terms=terms)
        for n in (1, 4, 6):
            await fleet.change(("create", f"d{n}", n))
        await fleet.change(("remove", "d7", 0))
        found = await read_shadows(fleet, page)
        assert {id: each.shadow.reported["t"] for id, each in found.items()} == {"d3": 3, "d5": 5}
        assert await read_shadows(fleet, await fleet.page(2, after=Order("id").cursor(DeviceRow("x", "x")))) == {}

    tools.run(run())


@pytest.mark.parametrize(
    ("order", "terms"), [("id", []), ("id", ["shadow.reported.x=*"]), ("name", []), ("name", ["shadow.reported.x=*"])]
)
def test_a_page_does_not_hold_its_shadows(tools, fleet, order, terms):
    """Neither while devices are compared nor while they are given: a page of large shadows takes what one takes."""
    size = 20_000

    async def run():
        for n in range(60):
            await fleet.hub.create_device("alice", f"d{n:02}")
            await fleet.hub.shadows.update(
                DeviceKey("alice", f"d{n:02}"), {"state": {"reported": {"x": chr(97 + n % 26) * size}}}
            )
        tracemalloc.start()
        try:
            page = await fleet.page(50, order, terms=terms)
            number = 0
            async for each in fleet.hub.device_pages.with_shadows("alice", page):
                assert len(each.shadow.reported["x"]) == size
                number += 1
            assert number == 50
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert tools.run(run()) < 15 * size


@pytest.mark.parametrize("order", ["id", "name", "online"])
def test_a_damaged_device_stays_in_its_list(tools, fleet, order, caplog):
    """With the names of the parts that cannot be read."""

    async def run():
        for id in ("d1", "d2", "d3"):
            await fleet.change(("create", id, 1))
            await fleet.change(("report", id, 1))
            await fleet.change(("online", id, 1))
        for collection, id in (("devices", "d1"), ("presence", "d2"), ("shadows", "d2"), ("shadows", "d3")):
            await fleet.hub.backend.documents.put(collection, f"alice/{id}", b"[]")
        return await read_shadows(fleet, await fleet.page(10, order))

    found = {id: each.row.damaged for id, each in tools.run(run()).items()}
    assert found == {"d1": ("device",), "d2": ("presence", "shadow"), "d3": ("shadow",)}
    caplog.clear()


# Cursors


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "é",
        "=",
        "AAAA",
        "bnVsbA",
        "W10",
        "WyJpZCJd",
        "WyJpZCIsW10sIngiXQ",
        "W1siaWQiXSwxLDJd",
        "A" * MAX_CURSOR,
        "A" * 9999,
    ],
)
def test_other_text_is_no_cursor(order, cursor):
    """It is an error that names the order."""
    with pytest.raises(InvalidInput, match=f"sorted by {order}"):
        Order.parse(order).after(cursor)


def test_a_cursor_belongs_to_its_order():
    """One of another order is an error, because it would start anywhere."""
    row = DeviceRow("d1", "Lamp")
    for order in ORDERS:
        for other in ORDERS:
            cursor = Order.parse(order).cursor(row)
            if order == other:
                assert Order.parse(other).after(cursor) == Order.parse(order).place_of(row)
            else:
                with pytest.raises(InvalidInput):
                    Order.parse(other).after(cursor)


@given(st.text(max_size=256), st.from_regex(r"[a-z0-9]{1,128}", fullmatch=True), st.sampled_from(ORDERS))
def test_every_device_has_a_cursor(name, id, order):
    """Whatever its name is."""
    row, parsed = DeviceRow(id, name), Order.parse(order)
    assert parsed.after(parsed.cursor(row)) == parsed.place_of(row)
    assert len(parsed.cursor(row)) <= MAX_CURSOR


@pytest.mark.parametrize("text", ["\x01", "\U0001f600", "\u0390", '"', "\x7f", "1a"])
@pytest.mark.parametrize("order", ORDERS)
def test_the_longest_values_have_a_cursor(order, text):
    """That the server accepts again, whatever JSON makes of the characters."""
    long = (text * 256)[:256]
    row, parsed = DeviceRow("x" * 128, long, build=ReportedBuild(fw_version=long)), Order.parse(order)
    assert parsed.after(parsed.cursor(row)) == parsed.place_of(row)
    assert len(parsed.cursor(row)) <= MAX_CURSOR


@pytest.mark.parametrize("order", ["name", "-fw_version"])
def test_a_cursor_has_no_longer_value_than_a_device(order):
    """And leaves nothing in memory."""
    row, parsed = DeviceRow("d1", "1a" * 130, build=ReportedBuild(fw_version="1a" * 130)), Order.parse(order)
    remembered = _remembered_version_place.cache_info().currsize
    with pytest.raises(InvalidInput, match="cursor"):
        parsed.after(parsed.cursor(row))
    for n in range(20):
        parsed.after(parsed.cursor(DeviceRow("d1", "x", build=ReportedBuild(fw_version=f"cursor {n}"))))
    assert _remembered_version_place.cache_info().currsize == remembered


NATURAL = st.text("019ab.\x00\x01\x02\U0010ffff", max_size=12)


@given(NATURAL, NATURAL)
def test_natural_order_compares_runs(one, other):
    """Numbers by value and before other characters, which are compared by code point: any two texts."""

    def runs(text):
        found = re.findall("[0-9]+|[^0-9]+", text)
        return [(0, int(run), "") if run[0] in "0123456789" else (1, 0, run) for run in found]

    for key in (natural_key, compact_key):
        assert (key(one) < key(other)) == (runs(one) < runs(other))
        assert (key(one) == key(other)) == (runs(one) == runs(other))


@given(st.lists(st.text(max_size=20)))
def test_natural_order_is_an_order(texts):
    """Any texts can be compared."""
    places = sorted(map(natural_place, texts))
    assert all(one <= other for one, other in pairwise(places))


def test_versions_are_sorted_as_people_count():
    """1.10 comes after 1.9, and upper case does not matter."""
    texts = ["10", "9", "b", "B2", "a10", "A9", "1.10.0", "1.9.12", "", "v1"]
    assert sorted(texts, key=natural_place) == ["", "1.9.12", "1.10.0", "9", "10", "A9", "a10", "b", "B2", "v1"]


@pytest.mark.parametrize("sort", ["", "-", "--id", "ID", "shadow", "id,name", "+id"])
def test_an_unknown_order_is_an_error(sort):
    """The error names those that there are."""
    with pytest.raises(InvalidInput, match="id, name, online, last_seen, fw_version"):
        Order.parse(sort)


# Bounds


def test_a_list_without_pages_is_bounded(tools, fleet, monkeypatch):
    """What has more than so many devices is refused with words that name `limit`; a filter that leaves few is not."""
    monkeypatch.setattr(pages, "MAX_WHOLE", 3)

    async def run():
        check = fleet.hub.device_pages.check_whole
        for id in IDS[:3]:
            await fleet.change(("create", id, 1))
        await check("alice", ANY_DEVICE)
        await fleet.change(("create", IDS[3], 1))
        for terms in ([], ["name~lamp"], ["shadow.reported.t!=*"]):
            with pytest.raises(TooLarge, match="limit"):
                await check("alice", parse(terms))
        await check("alice", parse(["id=d1|d2|d3"]))
        await check("alice", parse(["shadow.reported.t=*"]))

    tools.run(run())


def test_the_rows_in_memory_are_bounded(tools, fleet, monkeypatch):
    """The accounts that were not looked at the longest are dropped. An account that is too large has its list by id."""
    monkeypatch.setattr(account_summary, "MAX_ROWS", 5)

    async def run():
        for account in ("a", "b", "c"):
            for n in range(2):
                await fleet.hub.create_device(account, f"d{n}")
        for account in ("a", "b", "a", "c"):
            fleet.time[0] += 1
            await fleet.hub.summaries.of(account)
        assert [fleet.hub.summaries.get(account) is not None for account in ("a", "b", "c")] == [True, False, True]
        for id in IDS[:6]:
            await fleet.change(("create", id, 1))
        with pytest.raises(TooLarge, match="by id alone"):
            await fleet.rows("name")
        assert fleet.hub.summaries.get("alice") is None
        assert len(await fleet.rows("id")) == 6

    tools.run(run())


@pytest.mark.parametrize("reread", [500, 1], ids=["each-record", "one-scan"])
def test_a_summary_at_its_bound_stays_when_devices_are_replaced(tools, fleet, monkeypatch, reread):
    """Whatever is read first, the new devices or that others are gone: only what is left at the end counts."""
    monkeypatch.setattr(account_summary, "MAX_ROWS", 6)
    monkeypatch.setattr(account_summary, "MAX_REREAD", reread)

    async def run():
        for id in IDS[3:9]:
            await fleet.change(("create", id, 1))
        kept = await fleet.hub.summaries.of("alice")
        for old, new in zip(IDS[3:6], [*IDS[:2], IDS[10]], strict=True):
            await fleet.change(("remove", old, 1))
            await fleet.change(("create", new, 2))
        assert await fleet.hub.summaries.of("alice") is kept
        assert sorted(kept.rows) == sorted(await fleet.ids())
        await fleet.change(("create", IDS[11], 1))
        with pytest.raises(TooLarge):
            await fleet.hub.summaries.of("alice")
        await fleet.change(("remove", IDS[11], 1))
        assert sorted((await fleet.hub.summaries.of("alice")).rows) == sorted(await fleet.ids())

    tools.run(run())


def test_a_device_that_was_never_announced_is_found(tools, fleet):
    """A process that has stored it was killed before it had stored the notification."""

    async def run():
        await fleet.change(("create", "d1", 1))
        await fleet.rows("name")
        await fleet.hub.registry.create("alice", "d2", "Lamp 2")
        await fleet.change(("report", "d2", 2))
        assert [row.id for row in await fleet.rows("-fw_version")] == ["d2", "d1"]

    tools.run(run())


def test_the_bytes_in_memory_are_bounded(tools, fleet, monkeypatch):
    """Few devices with long names and many tags count as the many that take as much. What is removed counts no more."""
    monkeypatch.setattr(account_summary, "MAX_SUMMARY_BYTES", 30_000)

    async def run():
        for account, number in (("a", 2), ("b", 2), ("alice", 4)):
            for n in range(number):
                await fleet.hub.create_device(account, f"d{n}", "1a" * 128, {f"t{k}": "\u4e2d" * 60 for k in range(25)})
        for account in ("a", "b"):
            await fleet.hub.summaries.of(account)
        assert [fleet.hub.summaries.get(account) is not None for account in ("a", "b")] == [False, True]
        with pytest.raises(TooLarge, match="by id alone"):
            await fleet.rows("name")
        assert fleet.hub.summaries.get("alice") is None
        assert len(await fleet.rows("id")) == 4
        for n in range(2):
            await fleet.change(("remove", f"d{n}", 0))
        assert len(await fleet.rows("name")) == 2
        for n in range(40):  # builds that no device has any more take nothing
            ota = {"fw_version": f"{n}" * 100, "app": "x" * 250}
            await fleet.hub.shadows.update(DeviceKey("alice", "d2"), {"state": {"reported": {"ota": ota}}})
            await fleet.rows("name")
        await fleet.hub.change_tags(DeviceKey("alice", "d3"), {f"t{k}": None for k in range(25)})
        await fleet.rows("name")
        kept = fleet.hub.summaries.get("alice").size
        fleet.hub.summaries.forget("alice")
        await fleet.rows("name")
        assert fleet.hub.summaries.get("alice").size <= kept < fleet.hub.summaries.get("alice").size + 5_000

    tools.run(run())


def test_the_estimated_size_is_about_right(tools, fleet):
    """Of long names with many numbers, of tags in any script, and of plain ones, after the list was sorted."""
    texts = ["Lamp", "1a" * 128, "\u4e2d" * 256, "\u0390" * 256]

    async def run():
        for n, name in enumerate(texts * 20):
            await fleet.hub.create_device("alice", f"d{n:03}", name, {f"t{k}": name[:60] for k in range(n % 32)})
        tracemalloc.start()
        try:
            await fleet.rows("name")
            gc.collect()
            return tracemalloc.get_traced_memory()[0], fleet.hub.summaries.get("alice").size
        finally:
            tracemalloc.stop()

    measured, estimated = tools.run(run())
    assert measured / 2 < estimated < 4 * measured


def test_an_unused_summary_is_dropped(tools, fleet):
    """After ten minutes without a look."""

    async def run():
        await fleet.change(("create", "d1", 1))
        await fleet.hub.summaries.of("alice")
        fleet.time[0] += summaries.UNUSED_TIME
        fleet.hub.summaries.drop_unused()
        assert len(fleet.hub.summaries) == 1
        fleet.time[0] += 1
        fleet.hub.summaries.drop_unused()
        assert len(fleet.hub.summaries) == 0

    tools.run(run())


def test_after_a_gap_everything_is_read_again(tools, fleet):
    """A notification that was lost with the bus, and one that cannot be read, change nothing for good."""

    async def run():
        await fleet.change(("create", "d1", 1))
        await fleet.hub.summaries.of("alice")
        await fleet.hub.registry.rename(DeviceKey("alice", "d1"), "Quietly")
        assert [row.name for row in await fleet.rows("name")] == ["Lamp 1"]
        fleet.hub.summaries.on_gap("alice")
        assert [row.name for row in await fleet.rows("name")] == ["Quietly"]
        await fleet.hub.registry.rename(DeviceKey("alice", "d1"), "Again")
        fleet.hub.summaries.on_notification("alice", fleet_item(b'{"name":'))
        assert [row.name for row in await fleet.rows("name")] == ["Again"]

    tools.run(run())


@pytest.mark.parametrize("every", [1, 3, 20])
def test_gaps_without_end_leave_no_device_out(tools, fleet, every):
    """An account whose notifications are missed again and again has its whole list, which is read anew at each look."""

    async def run():
        for id in IDS:
            await fleet.change(("create", id, 1))
            await fleet.change(("report", id, 0))
            await fleet.change(("online", id, 0))
        number = 0

        async def pause():
            nonlocal number
            number += 1
            if number % every == 0:
                fleet.hub.summaries.on_gap("alice")

        for _ in range(2):
            rows = (await fleet.hub.summaries.of("alice", pause)).rows
            assert {(id, row.online, row.build.fw_version) for id, row in rows.items()} == {
                (id, True, "1.9") for id in IDS
            }
        await fleet.hub.registry.rename(DeviceKey("alice", "d1"), "Quietly")
        assert "Quietly" in [row.name for row in await fleet.rows("name")]

    tools.run(run())


@pytest.mark.parametrize("steps", range(1, 6))
def test_a_device_that_comes_while_changes_are_read_is_whole(tools, fleet, steps):
    """Whenever it comes, its presence and its build are in its row at the next look; so are they after a failure."""

    async def run():
        for n in (1, 2):
            await fleet.change(("create", f"d{n}", n))
        await fleet.hub.summaries.of("alice")
        for n in (1, 2):
            await fleet.change(("rename", f"d{n}", 5))
            await fleet.change(("report", f"d{n}", 0))
        left = [steps]

        async def pause():
            left[0] -= 1
            if left[0] == 0:
                for kind in ("create", "online", "report"):
                    await fleet.change((kind, "d3", 0))
                if steps % 2:
                    raise StorageError("the store fails")

        with suppress(StorageError):
            await fleet.hub.summaries.of("alice", pause)
        for kind in ("create", "online", "report") if left[0] > 0 else ():
            await fleet.change((kind, "d3", 0))
        kept = (await fleet.hub.summaries.of("alice")).rows
        assert (kept["d3"].online, kept["d3"].build.fw_version) == (True, "1.9")
        assert [(kept[id].name, kept[id].build.fw_version) for id in ("d1", "d2")] == [("Lamp 5", "1.9")] * 2

    tools.run(run())


def fleet_item(frame):
    from mdashcore.hub.feed import FeedItem

    return FeedItem(10**6, frame)


def test_a_flapping_device_is_read_at_each_look(tools, fleet):
    """Not each of its changes is notified: the notification of several says so."""

    async def run():
        await fleet.change(("create", "d1", 1))
        await fleet.hub.summaries.of("alice")
        await fleet.hub.feed.emit("alice", notifications.OFFLINE, "d1", _json.encode({"changes": 17}))
        await fleet.hub.presence.claim(DeviceKey("alice", "d1"), "node_1")
        assert [row.online for row in await fleet.rows("name")] == [True]

    tools.run(run())


def test_a_report_reads_nothing(tools, fleet):
    """Only one that is about firmware marks its device, once however many come."""

    async def run():
        await fleet.change(("create", "d1", 1))
        summary = await fleet.hub.summaries.of("alice")
        for n in range(5):
            await fleet.hub.shadows.update(DeviceKey("alice", "d1"), {"state": {"reported": {"t": n}}})
        assert summary.waiting == 0
        for n in range(5):
            await fleet.change(("report", "d1", n))
        assert summary.waiting == 1

    tools.run(run())


def test_a_filter_pauses_between_devices(tools, fleet, monkeypatch):
    """After a few rows, and after each device whose shadow it reads, as one of these may take milliseconds."""
    monkeypatch.setattr(pages, "TESTED_TOGETHER", 3)
    for id in IDS:
        tools.run(fleet.change(("create", id, 1)))
    tools.run(fleet.page(1, "name"))  # the summary is read
    pauses = []

    async def pause():
        pauses.append(1)

    tools.run(fleet.page(100, "name", terms=["online"], pause=pause))
    assert len(pauses) >= len(IDS) / 3
    for id in IDS:
        tools.run(fleet.change(("report", id, 4)))  # a version that is no text
    tools.run(fleet.page(100, "name"))
    pauses.clear()
    tools.run(fleet.page(100, "name", terms=["fw_version=5"], pause=pause))
    assert len(pauses) >= len(IDS)
