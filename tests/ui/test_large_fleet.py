"""A fleet that the page does not have as a whole: the server sorts, filters and counts it, and gives it in pages."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import expect

DEVICES = 40

ROWS = re.compile(r"/api/v2/devices\?(?!.*limit=100&)(?!.*fields=id(&|%2Cname%2Conline&|%2Cname%2Conline$)).*fields=")
"""What the list asks for, once its pages are short."""


@pytest.fixture
def large(open_page, person, tweak):
    """Opens the list of a fleet of more devices than the page keeps. Returns the page, and what it asks for."""

    def open_large(number=DEVICES, **names):
        for n in range(number):
            person.register(f"d{n:02}", names.get(f"d{n:02}", f"Lamp {number - n}"))
        page = open_page(person, fresh=True)
        tweak(page, "live.js", load=False, WHOLE_FLEET=3)
        asked = []
        page.on("request", lambda request: ROWS.search(request.url) and asked.append(request.url))
        tweak(page, "views/devices/served_rows.js", FIRST_ROWS=20, MORE_ROWS=10, OLD_AGE=100, NEW_AGE=100)
        expect(page.locator(".count")).to_contain_text("devices")
        filled(page, number)
        return page, asked

    return open_large


def rows(page, **options):
    return page.locator(".table-space .table-row").filter(**options)


def filled(page, number):
    """Wait until the screen has its rows: 20 do not fill it and what is drawn below it, so that 10 more are read."""
    grid = page.get_by_role("grid", name="Devices")
    expect(grid).to_have_attribute("aria-rowcount", f"{min(number, 30) + 1}")


def report(person, id, version, **more):
    reported = {"ota": {"fw_version": version, "arch": "esp32"}, **more}
    answer = person.http.post(f"/devices/{id}/shadow", json={"state": {"reported": reported}})
    assert answer.status_code == 200


def counted(page, words):
    expect(page.locator(".count")).to_have_text(words)


def test_a_large_fleet_is_sorted_by_the_server_and_read_while_scrolling(large):
    """The first rows first; more as the end comes near; another order from its beginning. Other columns do not sort."""
    page, asked = large()
    counted(page, f"{DEVICES} devices, 0 online")
    expect(rows(page).first).to_contain_text("Lamp 1")
    expect(rows(page).nth(9)).to_contain_text("Lamp 10")
    assert "sort=name" in asked[0]
    assert "limit=20" in asked[0]
    grid = page.get_by_role("grid", name="Devices")
    rows(page).first.focus()
    page.keyboard.press("End")
    expect(grid).to_have_attribute("aria-rowcount", f"{DEVICES + 1}")
    page.keyboard.press("End")
    expect(rows(page).last).to_contain_text(f"Lamp {DEVICES}")
    assert all("after=" in url for url in asked[1:])
    assert len(asked) == 3
    page.get_by_role("button", name="Name").click()
    expect(rows(page, has_text="Lamp 40")).to_be_visible()
    assert "sort=-name" in asked[3]
    page.get_by_role("button", name="Id").click()
    expect(rows(page).filter(has_text="d00")).to_be_visible()
    expect(page.get_by_role("button", name="Arch")).to_be_disabled()


def test_a_large_fleet_stays_live(person, large):
    """Rows show what is notified, in their places; then they are sorted again. A device that is opened is whole."""
    page, _ = large()
    lamp = rows(page, has_text="d37")
    expect(lamp).to_contain_text("Lamp 3")
    report(person, "d37", "2.0", stats={"ram_free": 20480}, room="hall")
    expect(lamp).to_contain_text("2.0")
    expect(lamp).to_contain_text("20 KiB")
    person.http.put("/devices/d39", json={"name": "Lamp 9999"})
    expect(rows(page).first).to_contain_text("d38")  # it has gone to the end of the list
    person.http.delete("/devices/d38")
    counted(page, f"{DEVICES - 1} devices, 0 online")
    person.register("new", "A new one")
    expect(rows(page).first).to_contain_text("A new one")
    counted(page, f"{DEVICES} devices, 0 online")
    lamp.get_by_role("link").click()
    page.get_by_role("link", name="Shadow").click()
    expect(page.get_by_role("main")).to_contain_text("hall")
    page.get_by_role("link", name="← Devices").click()
    expect(rows(page).first).to_contain_text("A new one")
    filled(page, DEVICES)
    grid = page.get_by_role("grid", name="Devices")
    expect(grid).to_have_attribute("aria-rowcount", "31")
    rows(page).first.focus()
    page.keyboard.press("End")
    expect(grid).to_have_attribute("aria-rowcount", f"{DEVICES + 1}")
    page.keyboard.press("End")
    rows(page).last.get_by_role("link").click()
    expect(page.get_by_role("heading", name="Lamp 9999")).to_be_visible()
    page.get_by_role("link", name="← Devices").click()
    expect(rows(page, has_text="Lamp 9999")).to_be_in_viewport()


FILTERS = {
    "shadow.reported.room=hall": ["d01", "d04"],
    "!shadow.reported.room=hall arch=esp32": ["d00", "d02", "d03"],
    "shadow.reported.room!=* arch=esp32": ["d02"],
    "name=\"Lamp 7\"": ["d33"],
}  # fmt: skip


def test_a_filter_of_a_large_fleet_is_the_server_s(person, large):
    """Also one that reads shadows. If the server cannot answer, the page says why, and lists nothing."""
    page, _ = large()
    for n, room in enumerate(["attic", "hall", None, "attic", "hall"]):
        report(person, f"d{n:02}", f"1.{n}", **({"room": room} if room else {}))
    field = page.get_by_label("Filter devices")
    for text, found in FILTERS.items():
        field.fill(text)
        counted(page, f"{len(found)} of {DEVICES} devices")
        expect(rows(page)).to_have_count(len(found))
        for id in found:
            expect(rows(page, has_text=id)).to_have_count(1)
    field.fill("")
    page.get_by_label("Status").select_option("offline")
    counted(page, f"{DEVICES} of {DEVICES} devices")
    page.route(ROWS, lambda route: route.fulfill(status=429, json={"error": {"message": "too many"}}))
    field.fill("shadow.reported.room!=hall")
    counted(page, "Too many.")
    expect(rows(page)).to_have_count(0)
    page.unroute(ROWS)
    page.get_by_role("button", name="Try again").click()
    counted(page, f"{DEVICES - 2} of {DEVICES} devices")


def test_all_that_match_are_selected_by_the_filter(person, large):
    """Also those that the page has not read: what is done with them is done by the server's filter. Before there are
    rows none can be selected, and the offer to select all stays while more rows come: no choice is lost.
    """
    page, _ = large()
    toolbar = page.get_by_role("toolbar", name="Selected devices")
    grid = page.get_by_role("grid", name="Devices")
    page.get_by_label("Filter devices").fill("Lamp")
    counted(page, f"{DEVICES} of {DEVICES} devices")
    expect(grid).to_have_attribute("aria-rowcount", "31")
    page.get_by_label("Select all").check()
    expect(toolbar).to_contain_text("30 selected")
    toolbar.get_by_role("button", name=f"Select all {DEVICES} that match").click()
    expect(toolbar).to_contain_text(f"All {DEVICES} that match are selected")
    toolbar.get_by_role("button", name="Tags…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(f"Tags of {DEVICES} devices")
    dialog.get_by_label("Set").fill("site=berlin")
    with page.expect_request("**/api/v2/tags") as sent:
        dialog.get_by_role("button", name="Change tags").click()
    assert json.loads(sent.value.post_data) == {"filter": ["text~Lamp"], "tags": {"site": "berlin"}}
    expect(page.get_by_text(f"The tags of {DEVICES} devices have changed.")).to_be_visible()
    assert len(person.http.get("/devices?filter=tag.site=berlin").json()) == DEVICES
    page.get_by_label("Select d39").click()  # one is left out: then those that the page knows are selected
    expect(toolbar).to_contain_text("29 selected")
    page.get_by_label("Filter devices").fill("tag.site=berlin")
    counted(page, f"{DEVICES} of {DEVICES} devices")
    expect(toolbar).to_be_hidden()
    expect(grid).to_have_attribute("aria-rowcount", "31")
    page.get_by_label("Select all").check()
    toolbar.get_by_role("button", name="that match").click()
    toolbar.get_by_role("button", name="Set desired…").click()
    page.get_by_label("Desired values (JSON)").fill('{"interval": 30}')
    with page.expect_request("**/api/v2/jobs") as sent:
        page.get_by_role("button", name="Preview").click()
    asked = {"filter": ["tag.site=berlin"], "desired": {"interval": 30}, "name": ""}
    assert json.loads(sent.value.post_data) == {**asked, "preview": True}
    expect(page.get_by_role("dialog")).to_contain_text(f"{DEVICES} of {DEVICES} devices would change")
    with page.expect_request("**/api/v2/jobs") as sent:
        page.get_by_role("button", name=f"Set for {DEVICES} devices").click()
    assert json.loads(sent.value.post_data) == asked
    expect(page.get_by_role("status").filter(has_text=f"{DEVICES} changed")).to_be_visible()
    page.go_back()
    expect(grid).to_have_attribute("aria-rowcount", "31")
    page.get_by_label("Select all").check()
    toolbar.get_by_role("button", name="that match").click()
    toolbar.get_by_role("button", name="Update firmware…").click()
    expect(page.get_by_role("heading", name="New rollout")).to_be_visible()
    expect(page.get_by_role("main")).to_contain_text(
        f"{DEVICES} devices: Lamp 1, Lamp 2, Lamp 3, Lamp 4 and 36 more; 0 online"
    )
    let_rows_go, let_more_go = hold(page, ROWS), hold(page, re.compile(r"/api/v2/devices\?.*after="))
    page.go_back()
    expect(page.get_by_label("Select all")).to_be_disabled()
    let_rows_go()
    page.get_by_label("Select all").check()
    expect(toolbar).to_contain_text("20 selected")
    let_more_go()
    expect(grid).to_have_attribute("aria-rowcount", "31")
    toolbar.get_by_role("button", name=f"Select all {DEVICES} that match").click()
    expect(toolbar).to_contain_text(f"All {DEVICES} that match are selected")
    toolbar.get_by_role("button", name="Delete…").click()
    sure, typed = dialog.get_by_role("button", name=f"Delete {DEVICES} devices"), dialog.get_by_label("to confirm")
    for wrong in ("", "4"):
        typed.fill(wrong)
        sure.click()
        expect(typed).to_be_focused()
    assert len(person.http.get("/devices").json()) == DEVICES
    typed.fill(str(DEVICES))
    sure.click()
    expect(page.get_by_role("dialog")).to_contain_text(f"{DEVICES} of {DEVICES} done")
    assert person.http.get("/devices").json() == []


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


def test_until_a_fleet_was_read_its_rows_are_the_server_s(open_page, person):
    """The list can be read, filtered and selected; afterwards the same devices stay selected."""
    for n in range(5):
        person.register(f"d{n}", f"Lamp {n}")
    page = open_page(person, fresh=True)
    let_go = hold(page, re.compile(r"/api/v2/devices\?limit=100&count=1$"))
    page.reload()
    expect(rows(page)).to_have_count(5)
    page.get_by_label("Filter devices").fill("!id=d3")
    expect(rows(page)).to_have_count(4)
    page.get_by_label("Select all").check()
    expect(page.get_by_role("button", name="Arch")).to_be_disabled()
    let_go()
    expect(page.get_by_role("button", name="Arch")).to_be_enabled()
    expect(page.get_by_role("toolbar", name="Selected devices")).to_contain_text("4 selected")
    counted(page, "4 of 5 devices")
