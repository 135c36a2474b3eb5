"""A fleet that is too large for one answer: the page reads it in pages, and keeps it live."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

DEVICES = 5

WHOLE = re.compile(r"/api/v2/devices$")
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
