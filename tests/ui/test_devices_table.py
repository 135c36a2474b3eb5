"""The list of devices as a table: its columns, its density, its width, and its download."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

EVIL = '<img src=x onerror=alert(1)> "quoted"'


def headings(page):
    """The columns that are shown, but for those of the boxes and the acts."""
    return page.get_by_role("columnheader").filter(has=page.locator("button:not([aria-haspopup])"))


def columns(page):
    """The dialog in which columns are chosen."""
    page.get_by_role("button", name="Columns and download").click()
    page.get_by_role("menuitem", name="Columns…").click()
    return page.get_by_role("dialog", name="Columns")


@pytest.fixture
def fleet_of_three(person):
    """Devices that report a temperature; one of them has hostile values."""
    for id, name, heat in (("a", "Attic", 21.5), ("b", '=HYPERLINK("http://x")', -3), ("c", EVIL, EVIL)):
        person.register(id, name)
        reported = {"state": {"reported": {"temperature": heat, "deep": {"a.b": [1, 2]}}}}
        assert person.http.post(f"/devices/{id}/shadow", json=reported).status_code == 200


def test_a_table_as_a_person_wants_it(open_page, person, fleet_of_three, is_live, axe, tmp_path):
    """Columns are left out and added, also of the shadow; rows are dense; the choice stays; what is shown is saved."""
    page = open_page(person, fresh=True, accept_downloads=True)
    rows = page.get_by_role("grid", name="Devices").get_by_role("row")
    expect(rows).to_have_count(4)
    dialog = columns(page)
    axe(page)
    for name in ("Arch", "Committed", "Free RAM"):
        dialog.get_by_label(name).uncheck()
    place = dialog.get_by_label("A place in the shadow")
    for wrong, said in (("a..b", "place is written as"), ("a,b", "no comma")):
        place.fill(wrong)
        page.keyboard.press("Enter")
        expect(dialog.get_by_role("alert")).to_contain_text(said)
    for path in ("temperature", r"shadow.reported.deep.a\.b"):
        place.fill(path)
        page.keyboard.press("Enter")
        expect(place).to_have_value("")
    dialog.get_by_label("Rows").select_option("dense")
    dialog.get_by_role("button", name="Done").click()
    shown = ["Status", "Name", "Id", "Application", "Firmware", "temperature", "a.b", "Last seen"]
    expect(headings(page)).to_have_text([re.compile(f"^{re.escape(title)}") for title in shown])
    expect(rows.nth(1)).to_have_css("height", "32px")
    expect(page.get_by_role("row", name="Attic")).to_contain_text("21.5")
    expect(page.get_by_role("row", name="Attic")).to_contain_text("[1,2]")
    person.http.post("/devices/a/shadow", json={"state": {"reported": {"temperature": 22}}})
    expect(page.get_by_role("row", name="Attic")).to_contain_text("22")
    page.get_by_role("button", name="temperature").click()
    expect(page.get_by_role("columnheader", name="temperature")).to_have_attribute("aria-sort", "ascending")
    axe(page)
    page.reload()
    is_live(page)
    expect(headings(page)).to_have_count(8)
    expect(page.locator("main img")).to_have_count(0)

    page.get_by_label("Filter devices").fill("shadow.reported.temperature<100")
    expect(rows).to_have_count(3)
    page.get_by_role("button", name="Columns and download").click()
    with page.expect_download() as saved:
        page.get_by_role("menuitem", name="Download as CSV").click()
    file = Path(tmp_path / saved.value.suggested_filename)
    assert re.fullmatch(r"devices-\d{4}-\d\d-\d\d\.csv", file.name)
    saved.value.save_as(file)
    text = file.read_text()
    assert '''"'=HYPERLINK(""http://x"")"''' in text
    assert '"-3"' in text
    lines = list(csv.DictReader(text.splitlines()))
    assert {line["id"]: line["shadow.reported.temperature"] for line in lines} == {"a": "22", "b": "-3"}
    assert lines[0][r"shadow.reported.deep.a\.b"] == "[1,2]"
    assert "is_committed" not in lines[0]

    columns(page).get_by_role("button", name="As usual").click()
    page.keyboard.press("Escape")
    expect(page.get_by_role("columnheader", name="Committed")).to_be_visible()
    expect(page.get_by_role("columnheader", name="temperature")).to_have_count(0)


def test_names_have_room_at_every_width(open_page, person, fleet_of_three, wait_until):
    """Columns for which there is none are left out; a very wide window is used; nothing is wider than the window."""
    page = open_page(person)
    rows = page.get_by_role("grid", name="Devices").get_by_role("row")
    expect(rows).to_have_count(4)
    name = page.get_by_role("columnheader", name="Name")
    shown = 0
    for width in (390, 820, 1024, 1280, 2560):
        room = 150 if width == 390 else 270
        page.set_viewport_size({"width": width, "height": 800})
        wait_until(page, lambda: page.evaluate("innerWidth") == width)  # noqa: B023
        for element in ("main", ".table"):
            fits = (
                f"(({{scrollWidth, clientWidth}}) => scrollWidth <= clientWidth)(document.querySelector('{element}'))"
            )
            wait_until(page, lambda: page.evaluate(fits))  # noqa: B023
        wait_until(page, lambda: width_of(name) >= room)  # noqa: B023
        wait_until(page, lambda: page.locator(".table-head > :visible").count() > shown)  # noqa: B023
        shown = page.locator(".table-head > :visible").count()
    wait_until(page, lambda: width_of(page.get_by_role("grid", name="Devices")) > 2480)


def width_of(element):
    """The width of an element in pixels; 0 while it is drawn anew."""
    return (element.bounding_box() or {"width": 0})["width"]


def test_columns_of_a_large_fleet_come_from_the_server(open_page, person, fleet_of_three, tweak, is_live):
    """The values come with the rows, and follow what devices report."""
    page = open_page(person, fresh=True)
    expect(page.get_by_text("3 devices")).to_be_visible()
    tweak(page, "live.js", WHOLE_FLEET=2)
    is_live(page)
    dialog = columns(page)
    dialog.get_by_label("A place in the shadow").fill("temperature")
    page.keyboard.press("Enter")
    dialog.get_by_role("button", name="Done").click()
    row = page.get_by_role("row", name="Attic")
    expect(row).to_contain_text("21.5")
    person.http.post("/devices/a/shadow", json={"state": {"reported": {"temperature": 30.25}}})
    expect(row).to_contain_text("30.25")
    person.http.post("/devices/a/shadow", json={"state": {"reported": {"temperature": None}}})
    expect(row).not_to_contain_text("30.25")
