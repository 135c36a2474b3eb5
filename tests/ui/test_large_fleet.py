"""A fleet that is too large for one answer: the page reads it in pages, and keeps it live."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

DEVICES = 5

WHOLE = re.compile(r"/api/v2/devices$")
FILTERED = re.compile(r"/api/v2/devices\?filter=")
PAGE_OF_LIST = re.compile(r"/api/v2/devices\?")


@pytest.fixture
def limited(open_page, person):
    """A page, and what it asks for. The server takes no list without `limit`, and its pages have two devices."""
    asked = []
    page = open_page(person, fresh=True)

    def refuse(route):
        if route.request.method != "GET":
            route.fallback()
            return
        error = {"code": 413, "message": "ask for a page of it with limit"}
        route.fulfill(status=413, json={"error": error})

    def shorten(route):
        asked.append(route.request.url)
        route.continue_(url=re.sub(r"limit=\d+", "limit=2", route.request.url))

    page.route(WHOLE, refuse)
    page.route(PAGE_OF_LIST, shorten)
    return page, asked


def report(person, id, version, **more):
    reported = {"ota": {"fw_version": version, "arch": "esp32"}, **more}
    answer = person.http.post(f"/devices/{id}/shadow", json={"state": {"reported": reported}})
    assert answer.status_code == 200


def test_a_large_fleet_is_read_in_pages_and_stays_live(person, limited):
    """All devices are listed, with their firmware; changes come by notifications; a device that is opened is whole."""
    page, asked = limited
    for n in range(DEVICES):
        person.register(f"d{n}", f"Device {n}")
        report(person, f"d{n}", f"1.{n}", room="hall")
    page.reload()
    rows = page.locator(".table-space .table-row")
    expect(rows).to_have_count(DEVICES)
    assert len(asked) == 3
    assert "fields" not in asked[0]
    assert all("fields=id" in url for url in asked[1:])
    last = rows.filter(has_text="Device 4")
    expect(last).to_contain_text("1.4")
    report(person, "d4", "2.0", stats={"ram_free": 20480})
    expect(last).to_contain_text("2.0")
    expect(last).to_contain_text("20 KiB")
    person.http.put("/devices/d3", json={"name": "Renamed"})
    expect(rows.filter(has_text="Renamed")).to_contain_text("1.3")
    person.http.delete("/devices/d2")
    expect(rows).to_have_count(DEVICES - 1)
    person.register("d9", "Device 9")
    expect(rows).to_have_count(DEVICES)
    last.get_by_role("link").click()
    page.get_by_role("link", name="Shadow").click()
    expect(page.get_by_role("main")).to_contain_text("room")


def hold(page, pattern):
    """Hold the answers to requests. Returns the function that lets these and all later ones go."""
    held = []

    def keep(route):
        held.append(route)

    def let_go():
        page.unroute(pattern, keep)
        for route in held:
            route.fallback()

    page.route(pattern, keep)
    return let_go


FILTERS = {
    "shadow.reported.room=hall": ["Device 1", "Device 4"],
    "!shadow.reported.room=hall": ["Device 0", "Device 2", "Device 3"],
    "shadow.reported.room!=* arch=esp32": ["Device 2"],
}


def test_a_filter_on_the_shadows_of_a_large_fleet_is_answered_by_the_server(person, limited):
    """Until the server has answered, no device is listed or can be selected. If it cannot, the page says why."""
    page, _ = limited
    for n, room in enumerate(["attic", "hall", None, "attic", "hall"]):
        person.register(f"d{n}", f"Device {n}")
        report(person, f"d{n}", f"1.{n}", **({"room": room} if room else {}))
    page.reload()
    rows, count = page.locator(".table-space .table-row"), page.locator(".count")
    selected = page.get_by_role("toolbar", name="Selected devices")
    field, everything = page.get_by_label("Filter devices"), page.get_by_label("Select all")
    expect(rows).to_have_count(DEVICES)
    everything.check()
    expect(selected).to_contain_text("5 selected")
    for text, found in FILTERS.items():
        let_go = hold(page, FILTERED)
        with page.expect_request(FILTERED):
            field.fill(text)
        expect(count).to_have_text("The server searches all shadows…")
        expect(rows).to_have_count(0)
        expect(selected).to_be_hidden()
        let_go()
        expect(count).to_contain_text(f"{len(found)} of 5 devices, as found at")
        expect(rows).to_have_count(len(found))
        for name in found:
            expect(rows.filter(has_text=name)).to_have_count(1)
        everything.check()
        expect(selected).to_contain_text(f"{len(found)} selected")
    page.route(FILTERED, lambda route: route.fulfill(status=429, json={"error": {"message": "too many"}}))
    field.fill("shadow.reported.room!=hall")
    expect(page.get_by_role("alert").filter(has_text="too many")).to_be_visible()
    expect(count).to_have_text("The server could not search the shadows")
    expect(rows).to_have_count(0)
    expect(selected).to_be_hidden()


def test_a_fleet_that_is_still_being_read_does_not_look_whole(person, limited):
    """The count says that more devices come, and not all can be selected until they have."""
    page, _ = limited
    for n in range(DEVICES):
        person.register(f"d{n}", f"Device {n}")
    let_go = hold(page, re.compile(r"fields=id.*after="))
    page.reload()
    count, everything = page.locator(".count"), page.get_by_label("Select all")
    expect(count).to_have_text("2 devices, 0 online, loading more…")
    expect(everything).to_be_disabled()
    page.get_by_label("Filter devices").fill("Device")
    expect(count).to_have_text("2 of 2 devices, loading more…")
    let_go()
    expect(count).to_have_text("5 of 5 devices")
    everything.check()
    expect(page.get_by_role("toolbar", name="Selected devices")).to_contain_text("5 selected")
