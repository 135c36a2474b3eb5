"""The list of devices, live."""

from __future__ import annotations

import http.client
import json
from functools import partial

import pytest
from playwright.sync_api import expect

FRAME = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))"

SEARCH = """([text, said]) => new Promise((done) => {
  const search = document.querySelector("input[type=search]"), status = document.querySelector(".count");
  const check = () => status.textContent === said && done();
  new MutationObserver(check).observe(status, {childList: true, characterData: true, subtree: true});
  search.value = text;
  search.dispatchEvent(new Event("input"));
  check();
})"""
"""Ends once the list says how many devices a filter has found."""

SMOOTH = 0.15  # seconds of the page's own work for one act: five times what it is

REPORTS = 60  # of devices that can be seen

REPORT = 0.02  # seconds of it for each


def row(page, name):
    """A device's row."""
    return page.get_by_role("grid", name="Devices").get_by_role("row").filter(has_text=name)


def test_a_device_turns_green(page, fleet, axe):
    """Registered in the browser, it shows as offline; when it connects with its token, as online, by itself."""
    expect(page.get_by_role("heading", name="No devices yet")).to_be_visible()
    axe(page)
    page.get_by_role("button", name="Register the first device").click()
    page.get_by_label("Id").fill("lamp")
    page.get_by_label("Name").fill("Lamp in the hall")
    axe(page)
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Registered")
    token = dialog.locator("code.token").inner_text()
    axe(page)
    dialog.get_by_role("button", name="Done").click()
    expect(row(page, "Lamp in the hall")).to_contain_text("Offline")
    lamp = fleet.connect("lamp", token=token)
    expect(row(page, "Lamp in the hall")).to_contain_text("Online")
    expect(row(page, "Lamp in the hall")).to_contain_text("1.0")
    axe(page)
    lamp.stop()
    expect(row(page, "Lamp in the hall")).to_contain_text("Offline")


def test_a_lost_connection_is_said_and_made_good(open_page, person, fleet, cable):
    """What happened meanwhile shows once the connection is there again, and the page says how things are."""
    lamp = fleet.connect("lamp")
    page = open_page(person, cable=cable)
    expect(row(page, "lamp")).to_contain_text("Online")
    cable.cut()
    expect(page.get_by_role("status").filter(has_text="Reconnecting")).to_be_visible()
    lamp.stop()
    person.register("fan", "Fan in the cellar")
    person.http.put("/devices/lamp", json={"name": "Lamp by the door"})
    cable.mend()
    expect(row(page, "Lamp by the door")).to_contain_text("Offline")
    expect(row(page, "Fan in the cellar")).to_be_visible()
    expect(page.get_by_role("status").filter(has_text="Reconnecting")).to_be_hidden()


def test_names_from_outside_stay_text(page, person, axe):
    """Whatever a device is called: no script runs, no markup shows, and the row keeps its place."""
    names = ["<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>", "\u202eevil\u202c", "W" * 256]
    for n, name in enumerate(names):
        person.register(f"d{n}", name)
    for name in names:
        expect(row(page, name).get_by_role("link")).to_have_text(name)
    boxes = [row(page, name).bounding_box() for name in names]
    assert {(box["x"], box["width"], box["height"]) for box in boxes} == {
        (boxes[0]["x"], boxes[0]["width"], boxes[0]["height"])
    }
    axe(page)


def test_working_by_keyboard(page, person):
    """One stop of Tab for the rows; the arrows move, Enter opens, and the way back leads to the list."""
    for n in range(60):
        person.register(f"d{n}", f"Device {n}")
    expect(page.get_by_text("60 devices")).to_be_visible()
    page.get_by_role("button", name="Last seen").focus()
    page.keyboard.press("Tab")
    expect(row(page, "Device 0")).to_be_focused()
    page.keyboard.press("End")
    expect(row(page, "Device 59")).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(row(page, "Device 58")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Device 58")).to_be_visible()
    expect(page.get_by_role("main")).to_be_focused()


def register(person, count):
    """Register many devices: on one plain connection that is much quicker than by a client of the comfortable kind."""
    key = person.http.post("/keys", json={"name": "many"}).json()["key"]
    connection = http.client.HTTPConnection(person.server.url.removeprefix("http://"))
    for n in range(count):
        body = json.dumps({"id": f"d{n}", "name": f"Device {n}"})
        connection.request("POST", "/api/v2/devices", body, {"Authorization": f"Bearer {key}"})
        answer = connection.getresponse()
        assert answer.status == 201, answer.read()
        answer.read()
    connection.close()


@pytest.fixture
def work(page):
    """Measures what the page's thread does: ``work(act)`` is the seconds of processor time until two frames later.

    Processor time is the same on a busy machine, where frames come late whatever the page does.
    """
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def done():
        metrics = session.send("Performance.getMetrics")["metrics"]
        return next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")

    def measure(act):
        page.evaluate(FRAME)
        before = done()
        act()
        page.evaluate(FRAME)
        return done() - before

    return measure


@pytest.mark.parametrize("count", [120, pytest.param(2000, marks=pytest.mark.proof)])
def test_many_devices_stay_smooth(page, person, work, count):
    """Only rows that can be seen are in the document; to filter, sort and scroll is little work; so are reports."""
    register(person, count)
    page.reload()
    expect(page.get_by_text(f"{count:,} devices")).to_be_visible()
    assert page.locator(".table-row").count() < 60
    acts = [f"document.querySelector('.table').scrollTo(0, 1e6 / {part})" for part in (9, 99, 999, 1)]
    acts += [f"document.querySelector('[data-key={key}] button').click()" for key in ("seen", "name")]
    took = {act: work(partial(page.evaluate, act)) for act in acts}

    def search(text):
        fitting = sum(text in str(n) for n in range(count))
        said = f"{fitting:,} of {count:,} devices" if text else f"{count:,} devices, 0 online"
        page.evaluate(SEARCH, [text, said])

    took |= {text: work(partial(search, text)) for text in ("4", "49", "499", "")}
    assert max(took.values()) < SMOOTH, took
    expect(row(page, "Device 0")).to_be_visible()

    def report():
        for n in range(REPORTS):
            state = {"reported": {"ota": {"fw_version": f"1.{n}"}}}
            person.http.post(f"/devices/d{n % 20}/shadow", json={"state": state})
        expect(row(page, "d19")).to_contain_text(f"1.{REPORTS - 1}")

    assert work(report) / REPORTS < REPORT


def test_the_first_paint_waits_for_no_script(page, hold, wait_until):
    """The page is painted while its scripts are on their way."""
    held = hold(page, "**/ui/*/app.js")
    page.reload(wait_until="commit")
    script = held.take()
    wait_until(page, lambda: page.evaluate("performance.getEntriesByName('first-paint').length"))
    script.continue_()
    expect(page.get_by_role("heading", name="Devices", level=1)).to_be_visible()


def test_every_look_is_accessible(open_page, person, fleet, in_every_look):
    """Dark, on a phone and with the system's own colours; on a phone, nothing is wider than the screen."""
    fleet.connect("lamp", name="Lamp in the hall")
    page = open_page(person)
    expect(row(page, "Lamp in the hall")).to_contain_text("Online")
    in_every_look(page)
    row(page, "Lamp in the hall").click()
    expect(page.get_by_role("heading", name="Lamp in the hall")).to_be_visible()
    in_every_look(page)
