"""The home: the fleet as a whole, each figure a way to the devices that it counts."""

from __future__ import annotations

import json
import re

from playwright.sync_api import expect

from mdashcore._errors import RpcError


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


LINKS = """() => [...document.querySelectorAll(".home a[href^='#/devices']")].filter((a) => a.checkVisibility())
  .map((a) => [a.getAttribute("href"), a.textContent, a.parentElement.textContent])"""
"""The address of each link to a list, its words, and the words beside it."""


def refuse(params):
    raise RpcError(500, "Wrong platform")


def test_every_figure_of_the_home_leads_to_its_devices(open_page, person, fleet, make_firmware, wait_until):
    """The list behind a link has as many devices as the figure says: of presence, builds, updates under way and failed,
    and of devices that come and go. That of the silent ones begins with the one that is silent for longest.
    """
    page = open_page(person, "#/", fresh=True)
    lamp = fleet.connect("lamp")
    fleet.pretend("wrong", {"OTA.Begin": refuse}, reported={"ota": {"app": "lamp", "fw_version": "1.0"}})
    token = person.register("flaps")
    for _ in range(3):
        fleet.connect("flaps", token=token).stop()
        wait_until(page, lambda: not person.http.get("/devices/flaps").json()["online"])
    person.register("new")
    lamp.stop()
    wait_until(page, lambda: not person.http.get("/devices/lamp").json()["online"])
    for id, status in {"wrong": 422, "lamp": 202}.items():
        query = {"force": 1, "queue": int(status == 202)}
        image = {"file": ("fw.zip", make_firmware())}
        assert person.http.post(f"/devices/{id}/ota", params=query, files=image).status_code == status
    page.reload()
    expect(page.get_by_role("heading", name="1 come and go")).to_be_visible()
    expect(page.get_by_role("link", name="1 queued")).to_be_visible()
    links = page.evaluate(LINKS)
    for address, words, beside in links:
        page.goto(f"/{address}")
        rows = page.locator(".table-space .table-row")
        if words == "Silent for longest":
            silent = [each["id"] for each in person.http.get("/fleet").json()["silent"]]
            assert sorted(silent) == ["flaps", "lamp"]
            expect(rows).to_contain_text(silent)
            continue
        is_build = words.endswith(" 1.0") or words == "no firmware reported"  # its number stands beside it
        number = int(re.search(r"(\d+), \d+ online", beside)[1] if is_build else re.search(r"\d+", words)[0])
        counted = "4 devices, 1 online" if address == "#/devices" else f"{number} of 4 devices"
        expect(page.locator(".count")).to_have_text(counted)
        expect(rows).to_have_count(number)
    assert len(links) == 16, links
