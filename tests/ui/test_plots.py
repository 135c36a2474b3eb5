"""The plots of a device: a time that a person chooses, zooms into and leaves, by mouse, by keys and as a table."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

PHONE = {"width": 390, "height": 844}

HOSTILE = "<img src=x onerror=alert(1)>\u202e"


@pytest.fixture
def reports(person, fleet):
    """Three values of two places, one of which has the name of a stranger."""
    fleet.connect("meter", name="Water meter", stats_interval=3600)
    for number in (1, 7, 4):
        state = {"reported": {"flow": {"temp_c": number}, HOSTILE: {"=sum": -number}}}
        assert person.http.post("/devices/meter/shadow", json={"state": state}).is_success


def chart(page):
    return page.get_by_role("img", name="flow.temp_c: now 4 °C, between 1 °C and 7 °C")


def drag(page, box, begin, end):
    """Drag over a part of a plot, from one share of its width to another."""
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + begin * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + end * box["width"], y, steps=3)
    page.mouse.up()


def test_a_time_is_chosen_zoomed_and_left(open_page, person, reports, axe):
    """The address has it, so that a link shows the same; Zoom out and Escape lead back; the CSV has what is shown."""
    page = open_page(person, "#/device/meter/overview?range=15m")
    values = page.get_by_role("region", name="Values")
    expect(values.get_by_label("Time", exact=True)).to_have_value("15m")
    expect(chart(page)).to_be_visible()
    drag(page, chart(page).bounding_box(), 0.3, 0.6)
    expect(page).to_have_url(re.compile(r"#/device/meter/overview\?from=\d+&to=\d+$"))
    expect(values.get_by_label("Time", exact=True)).to_have_value("fixed")
    expect(page.get_by_role("img", name="flow.temp_c: now 4 °C, no values in this time")).to_be_visible()
    page.reload()
    expect(page.get_by_role("img", name="flow.temp_c: now 4 °C, no values in this time")).to_be_visible()
    values.get_by_role("button", name="Zoom out").click()
    expect(page).to_have_url(re.compile("#/device/meter/overview$"))
    expect(chart(page)).to_be_visible()
    chart(page).press("ArrowLeft")
    expect(values.locator("output").first).to_contain_text(re.compile(r" at \d\d:\d\d:\d\d$"))
    chart(page).press("Enter")
    expect(page).to_have_url(re.compile("from="))
    chart(page).press("Escape")
    expect(page).to_have_url(re.compile("#/device/meter/overview$"))
    with page.expect_download() as saved:
        values.get_by_role("link", name="CSV").click()
    lines = saved.value.path().read_text().splitlines()
    assert lines[0] == "path,time,min,avg,max,count"
    assert any(line.startswith("reported.flow.temp_c,") for line in lines[1:])
    axe(page)


def test_plots_are_read_as_text_and_kept(open_page, person, reports, axe):
    """On a phone: each plot as a table; those that are closed stay closed for this device until they are reset; a
    place with a hostile name is text."""
    page = open_page(person, "#/device/meter", viewport=PHONE, has_touch=True)
    close = page.get_by_role("button", name=re.compile("^Close the plot of .*img"))
    expect(close).to_have_count(1)
    table = page.get_by_role("table", name="flow.temp_c")
    page.locator("figure", has_text="flow.temp_c").get_by_text("As a table").click()
    expect(table).to_contain_text("7 °C")
    expect(table.get_by_role("columnheader")).to_have_text(["Time", "Min", "Mean", "Max"])
    axe(page)
    close.click()
    expect(page.get_by_role("button", name="Default plots")).to_be_visible()
    page.reload()
    expect(chart(page)).to_be_visible()
    expect(close).to_have_count(0)
    page.get_by_role("button", name="Default plots").click()
    expect(close).to_have_count(1)
    expect(page.get_by_role("button", name="Default plots")).to_be_hidden()


def test_times_are_local_or_utc(open_page, person, reports):
    """One switch changes all times that are shown, those of plots and of the log too; this browser remembers it."""
    page = open_page(person, "#/device/meter/log", timezone_id="Asia/Tokyo")
    page.get_by_label("Show", exact=True).select_option("all")
    expect(page.get_by_role("log")).to_contain_text("registered as Water meter")
    line = page.get_by_role("log").locator("time").first
    utc = line.get_attribute("datetime")[11:19]
    hour = f"{(int(utc[:2]) + 9) % 24:02}"
    expect(line).to_have_text(re.compile(f"{hour}{utc[2:]}$"))
    page.get_by_role("button", name="Local time, not UTC").click()
    expect(line).to_have_text(re.compile(f"{utc}$"))
    expect(line).to_have_attribute("title", re.compile(f"{utc} UTC$"))
    page.goto("/#/profile")
    expect(page.get_by_label("Show all times in UTC")).to_be_checked()
    page.get_by_label("Show all times in UTC").uncheck()
    expect(page.get_by_role("button", name="Local time, not UTC")).to_be_visible()
