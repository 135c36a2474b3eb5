"""The overview of one device, and the frame that its tabs are in."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from mdashcore.virtual_device import FirmwareBuild


def test_a_device_that_never_came_is_told_how_to(open_page, person, axe):
    """Before its first connect there is nothing to see, and the page says what to do next."""
    person.register("lamp", "Lamp in the hall")
    page = open_page(person, "#/device/lamp")
    expect(page.get_by_role("heading", name="It has never been connected")).to_be_visible()
    expect(page.get_by_role("figure")).to_have_count(0)
    axe(page)


def test_what_a_device_is(open_page, person, fleet, axe):
    """Its firmware, its hardware and its memory, as it reports them; it comes and goes on the page by itself."""
    fleet.connect(
        "lamp", name="Lamp in the hall", build=FirmwareBuild(app="lamp-app", version="3.1"), stats_interval=0.1
    )
    page = open_page(person, "#/device/lamp")
    about = page.locator(".device-facts")
    for words in ("lamp-app", "3.1", "committed", "esp32", "KiB free"):
        expect(about).to_contain_text(words)
    expect(page.get_by_role("navigation", name="Device").get_by_role("link", name="Overview")).to_have_attribute(
        "aria-current", "page"
    )
    expect(page).to_have_title(re.compile("Lamp in the hall"))
    axe(page)
    fleet.stop()
    expect(page.locator(".device-head")).to_contain_text("Offline")


def test_presence_is_a_strip(open_page, person, fleet):
    """From the stored log and then live: online, offline, online; each part tells its times by mouse and by keys."""
    lamp = fleet.connect("lamp")
    lamp.stop()
    page = open_page(person, "#/device/lamp")
    strip = page.get_by_role("img", name=re.compile("^Presence"))
    expect(strip.locator("rect.online")).to_have_count(1)
    expect(strip.locator("rect.offline")).to_have_count(1)
    fleet.connect("lamp", token=lamp.token)
    expect(strip.locator("rect.online")).to_have_count(2)
    expect(page.locator(".presence output")).to_contain_text("1 interruption")
    strip.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".presence output")).to_contain_text(re.compile("^Online for .* from .* to "))
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".presence output")).to_contain_text(re.compile("^Offline for "))
    page.get_by_label("Period").select_option("Last 7 days")
    expect(page.get_by_role("img", name=re.compile("last 7 days"))).to_be_visible()


def test_numbers_are_plotted_as_they_come(open_page, person, fleet):
    """RAM and whatever number the device reports; others can be added, and any closed."""
    fleet.connect("lamp", stats_interval=0.05)
    report = {"state": {"reported": {"heat": {"outside": 20.5}, "name": "text", "ok": True}}}
    person.http.post("/devices/lamp/shadow", json=report)
    page = open_page(person, "#/device/lamp")
    expect(page.get_by_role("img", name=re.compile("^Free RAM: now .* KiB"))).to_be_visible()
    heat = page.get_by_role("img", name=re.compile(r"^heat\.outside"))
    expect(heat).to_have_accessible_name(re.compile("now 20.5,"))
    report["state"]["reported"]["heat"]["outside"] = 21.5
    person.http.post("/devices/lamp/shadow", json=report)
    expect(heat).to_have_accessible_name("heat.outside: now 21.5, between 20.5 and 21.5")
    assert page.get_by_role("img").filter(has_text="ok").count() == 0
    page.get_by_role("button", name="Close the plot of heat.outside").click()
    expect(heat).to_have_count(0)
    person.http.post("/devices/lamp/shadow", json=report)
    page.get_by_label("Plot another value").select_option("heat.outside")
    expect(heat).to_be_visible()


def test_values_from_before_the_page_are_plotted_too(open_page, person, fleet):
    """As far as the stored log tells them."""
    fleet.connect("lamp", stats_interval=0.05)
    for heat in (10, 30, 20):
        person.http.post("/devices/lamp/shadow", json={"state": {"reported": {"heat": heat}}})
    page = open_page(person, "#/device/lamp")
    expect(page.get_by_role("img", name="heat: now 20, between 10 and 30")).to_be_visible()


@pytest.mark.parametrize("answer", ["Commit", pytest.param("Roll back", marks=pytest.mark.proof)])
def test_firmware_on_trial_is_kept_or_given_back(open_page, person, fleet, install, axe, answer):
    """A banner says what runs, and how long it may; what one can do is one click, or one question."""
    fleet.connect("lamp")
    install("lamp", version="2.0")
    page = open_page(person, "#/device/lamp")
    banner = page.get_by_role("region", name="Uncommitted firmware")
    expect(banner).to_contain_text("2.0 is not committed")
    expect(banner).to_contain_text(re.compile("Rolls back by itself in [45] min"))
    axe(page)
    banner.get_by_role("button", name=answer).click()
    if answer == "Roll back":
        dialog = page.get_by_role("dialog", name="Roll back")
        expect(dialog).to_contain_text("Version 2.0 is gone")
        dialog.get_by_role("button", name="Roll back").click()
    expect(banner).to_be_hidden()
    expect(page.locator(".device-facts")).to_contain_text("2.0" if answer == "Commit" else "1.0")
    expect(page.locator(".device-facts .tag")).to_have_text("committed")


@pytest.mark.proof  # another sentence of the banner
def test_firmware_that_the_server_commits(open_page, person, fleet, install):
    """The banner says that no person has to; and it goes when the firmware is committed."""
    fleet.connect("lamp")
    install("lamp", version="2.0", query={"commit": "auto", "commit_after": 250})
    page = open_page(person, "#/device/lamp")
    banner = page.get_by_role("region", name="Uncommitted firmware")
    expect(banner).to_contain_text("The server commits it by itself")
    assert person.http.post("/devices/lamp/rpc/OTA.Commit").status_code == 200
    expect(banner).to_be_hidden()
    expect(page.locator(".device-facts .tag")).to_have_text("committed")


def test_a_device_that_is_removed_leaves_no_ruin(open_page, person, fleet):
    """A page that shows it says so, and has a link back."""
    fleet.connect("lamp")
    page = open_page(person, "#/device/lamp/shadow")
    expect(page.get_by_role("heading", name="Reported")).to_be_visible()
    person.http.delete("/devices/lamp")
    expect(page.get_by_role("heading", name="No such device")).to_be_visible()
    page.get_by_role("link", name="To the devices").click()
    expect(page.get_by_role("heading", name="Devices", level=1)).to_be_visible()


def test_the_present_tab_is_in_sight(open_page, person, hold):
    """On a phone there is not room for all: the present one is moved into sight, also if it was slow to load."""
    person.register("lamp")
    page = open_page(person, "#/devices", viewport={"width": 390, "height": 844})
    held = hold(page, "**/views/device/log.js")
    page.goto("/#/device/lamp/log")
    late = held.take()
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    late.continue_()
    expect(page.get_by_role("heading", name="lamp", level=1)).to_be_visible()
    tabs = page.get_by_role("navigation", name="Device")
    expect(tabs.get_by_role("link", name="Log")).to_be_in_viewport(ratio=0.99)
    for name in ("Overview", "OTA"):
        tabs.get_by_role("link", name=name).click()
        expect(tabs.get_by_role("link", name=name)).to_be_in_viewport(ratio=0.99)


def test_names_and_reports_from_outside_stay_text(open_page, person, fleet, axe):
    """Whatever a device is called and reports: no script runs, and nothing breaks out of its place."""
    evil = "<img src=x onerror=alert(1)>"
    numbers = {evil: 1, "\u202egnp": 2, "n" * 10_000: 3, "__proto__": {"x": 4}}
    ota = {"app": evil, "fw_version": {"a": evil}, "fw_id": "W" * 5000, "is_committed": False, "arch": ["</script>"]}
    fleet.pretend("evil", {}, name="\u202e" + evil, reported={**numbers, "ota": ota})
    person.register("wide", "W" * 256)
    page = open_page(person, "#/device/evil")
    expect(page.get_by_role("heading", level=1)).to_have_text("\u202e" + evil)
    expect(page.get_by_role("figure").filter(has_text=evil)).to_be_visible()
    expect(page.get_by_role("region", name="Uncommitted firmware")).to_be_visible()
    axe(page)
    for id in ("evil", "wide"):
        page.goto(f"/#/device/{id}")
        expect(page.get_by_role("heading", level=1)).to_contain_text(evil if id == "evil" else "WWW")
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.querySelector('main').scrollWidth <= innerWidth"), (id, width)
    assert page.locator("main img").count() == 0


def test_every_tab_is_accessible_in_every_look(open_page, person, fleet, install, in_every_look):
    """Dark and on a phone, with an update on trial and a delta; on a phone, nothing is wider than the screen."""
    fleet.connect("lamp", name="Lamp in the hall")
    person.http.post("/devices/lamp/rpc/FS.Put", json={"filename": "init.js", "data": "cHJpbnQoMSk="})
    install("lamp", version="2.0")
    page = open_page(person, "#/device/lamp")
    ready = {
        "Overview": page.get_by_role("img", name=re.compile("^Free RAM")).or_(page.locator(".device-facts")).first,
        "Shadow": page.get_by_role("heading", name="Reported"),
        "RPC": page.get_by_role("button", name="GPIO.Toggle"),
        "Files": page.get_by_role("button", name="init.js", exact=True),
        "Config": page.get_by_label("ssid of wifi.sta.ssid"),
        "OTA": page.get_by_role("list", name=re.compile("Now: Uncommitted")),
    }
    for tab, there in ready.items():
        page.get_by_role("navigation", name="Device").get_by_role("link", name=tab).click()
        expect(there).to_be_visible()
        expect(page).to_have_title(re.compile(f"^{tab} of Lamp"))
        in_every_look(page)
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.querySelector('main').scrollWidth <= innerWidth"), tab
