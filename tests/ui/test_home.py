"""The home: the fleet as a whole, each figure a way to the devices that it counts."""

from __future__ import annotations

import json
import re

from playwright.sync_api import expect


def figure(page, words):
    return page.get_by_role("list", name="Devices").get_by_role("listitem").filter(has_text=words)


def test_a_person_sees_the_fleet_in_the_morning(open_page, person, fleet, axe, tweak, keep, make_firmware):
    """An empty fleet says what to do; then figures, builds and events follow what happens, and lead to the devices."""
    page = open_page(person, "#/", fresh=True)
    expect(page.get_by_role("heading", name="No devices yet")).to_be_visible()
    axe(page)
    tweak(page, "views/home.js", REFRESH_INTERVAL=50)
    lamp = fleet.connect("lamp")
    expect(figure(page, "online")).to_contain_text("1")
    check_figure = keep(figure(page, "never connected").get_by_role("link"))
    person.register("silent")
    expect(figure(page, "never connected")).to_contain_text("1")
    check_figure()
    firmware = page.get_by_role("region", name="Firmware")
    expect(firmware.get_by_role("link", name="1.0")).to_be_visible()
    expect(page.get_by_role("region", name="Last events")).to_contain_text("online")
    wanted = {"name": "Spring", "all": True, "approval": True, "phases": [100], "rate": None}
    files = {"rollout": (None, json.dumps(wanted)), "file": ("fw.zip", make_firmware())}
    assert person.http.post("/rollouts", files=files).status_code == 201
    expect(page.get_by_role("region", name="Updates and rollouts")).to_contain_text(re.compile(r"Spring .*: 0 of \d"))
    axe(page)
    lamp.stop()
    expect(page.get_by_role("region", name="To look after").get_by_role("link", name="lamp")).to_be_visible()
    figure(page, "never connected").get_by_role("link").press("Enter")
    rows = page.get_by_role("grid", name="Devices").get_by_role("row")
    expect(rows.filter(has_text="silent")).to_be_visible()
    expect(rows.filter(has_text="lamp")).to_have_count(0)
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Home").click()
    expect(page.get_by_role("heading", name="Home", level=1)).to_be_visible()
