"""The shadow of a device: desired, reported, and what differs."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import expect


@pytest.fixture
def desire(person):
    """Sets a desired or reported state over REST: ``desire("lamp", on=True)``."""

    def post(id, section="desired", **values):
        answer = person.http.post(f"/devices/{id}/shadow", json={"state": {section: values}})
        assert answer.status_code == 200, answer.text

    return post


def shadow(person, id):
    """The state that the server has."""
    return person.http.get(f"/devices/{id}/shadow").json()["state"]


def delta(page):
    """The card of the differences."""
    return page.get_by_role("region", name="Delta")


def desired(page):
    """The form of what is desired."""
    return page.get_by_role("form", name="Desired")


def add(page, path, value):
    """Add a leaf in the form."""
    desired(page).get_by_label("Path").fill(path)
    desired(page).get_by_label("Value").fill(value)
    desired(page).get_by_role("button", name="Add", exact=True).click()


def test_a_value_is_added_and_its_delta_vanishes(open_page, person, fleet, axe):
    """Offline, the delta stays and says why; when the device connects, it applies it and the delta is gone."""
    lamp = fleet.connect("lamp")
    lamp.stop()
    page = open_page(person, "#/device/lamp/shadow")
    expect(page.get_by_text("No desired state yet.", exact=False).last).to_be_visible()
    axe(page)
    for path, value in {"on": "true", "light.level": "60", "mode": "night", 'odd["a.b"]': "[1, 2]"}.items():
        add(page, path, value)
    expect(desired(page).get_by_role("list")).to_contain_text("light.level: nothing → 60")
    axe(page)
    desired(page).get_by_role("button", name="Save").click()
    expect(delta(page)).to_contain_text("4 values differ: the device gets the delta when it connects")
    expect(delta(page).get_by_role("row", name='odd["a.b"]')).to_contain_text("[1,2]")
    axe(page)
    assert shadow(person, "lamp")["desired"] == {
        "on": True,
        "light": {"level": 60},
        "mode": "night",
        "odd": {"a.b": [1, 2]},
    }
    fleet.connect("lamp", token=lamp.token)
    expect(delta(page)).to_contain_text("No delta: the device reports the desired state")
    expect(page.get_by_role("group", name="Reported state")).to_contain_text("level: 60")


def test_leaves_are_edited_by_their_type(open_page, person, desire):
    """A switch, a number that must be one, a text, JSON; only what was changed is sent; deleting sends a null."""
    person.register("lamp")
    desire("lamp", on=True, level=5, mode="day", steps=[1], gone=1, kept={"deep": True})
    page = open_page(person, "#/device/lamp/shadow")
    form = desired(page)
    level = form.get_by_label("level", exact=True)
    level.fill("5.")
    expect(level).to_have_attribute("aria-invalid", "true")
    expect(form.get_by_role("button", name="Save")).to_be_disabled()
    level.fill("7.5")
    form.get_by_label("on", exact=True).uncheck()
    form.get_by_label("mode", exact=True).fill('night "1"')
    form.get_by_label("steps", exact=True).fill('[1, {"a": 2}]')
    form.get_by_role("button", name="Delete gone").click()
    expect(form).to_contain_text("gone: deleted (was 1)")
    sent = []
    page.on("request", lambda request: request.method == "POST" and sent.append(request.post_data_json))
    form.get_by_role("button", name="Save").click()
    expect(form.get_by_role("button", name="Save")).to_be_disabled()
    expect(form.get_by_text("What will be sent")).to_be_hidden()
    changed = {"on": False, "level": 7.5, "mode": 'night "1"', "steps": [1, {"a": 2}]}
    assert sent[0]["state"]["desired"] == {**changed, "gone": None}
    assert shadow(person, "lamp")["desired"] == {**changed, "kept": {"deep": True}}


def test_json_is_checked_and_nulls_delete(open_page, person, desire, axe):
    """Wrong JSON says where it is wrong and is not sent; a key that is null or taken out is deleted."""
    person.register("lamp")
    desire("lamp", a=1, b=2, c={"d": 3, "e": 4})
    page = open_page(person, "#/device/lamp/shadow")
    form = desired(page)
    form.get_by_role("button", name="JSON").click()
    area = form.get_by_label("Desired state as JSON")
    assert json.loads(area.input_value()) == {"a": 1, "b": 2, "c": {"d": 3, "e": 4}}
    area.fill('{"a": 1,}')
    expect(form.locator(".json-status").first).to_have_text('Line 1, column 9: "}" is not expected here')
    expect(form.get_by_role("button", name="Save")).to_be_disabled()
    form.get_by_role("button", name="Form").click()
    expect(form.get_by_role("alert").filter(has_text="Correct the marked parts first")).to_be_visible()
    area.fill("[]")
    expect(form.get_by_role("alert").filter(has_text="is an object")).to_be_visible()
    axe(page)
    area.fill('{"a": null, "c": {"d": 5}, "__proto__": {"x": 1}}')
    expect(form.get_by_role("list")).to_contain_text("b: deleted (was 2)")
    area.press("Control+Enter")
    expect(delta(page)).to_contain_text("2 values differ")
    assert shadow(person, "lamp")["desired"] == {"c": {"d": 5}, "__proto__": {"x": 1}}


def test_reports_are_no_conflict(open_page, person, fleet):
    """A device that reports all the time raises the version; saving what is desired goes through all the same."""
    fleet.connect("lamp", stats_interval=0.02)
    page = open_page(person, "#/device/lamp/shadow")
    for value in ("1", "2", "3"):
        add(page, f"key{value}", value)
        desired(page).get_by_role("button", name="Save").click()
        expect(desired(page).get_by_role("button", name="Save")).to_be_disabled()
        expect(page.get_by_role("group", name="Reported state")).to_contain_text(f"key{value}: {value}")
    assert "delta" not in shadow(person, "lamp")


def test_reports_do_not_take_the_focus(open_page, person, fleet, desire):
    """What is being read, and what is being typed, stay where they are while the device reports."""
    fleet.connect("lamp", stats_interval=0.05)
    desire("lamp", name="x")
    page = open_page(person, "#/device/lamp/shadow")
    reported = page.get_by_role("group", name="Reported state")
    expect(reported).to_contain_text("ram_free")
    for place in (reported, desired(page).get_by_label("name", exact=True)):
        place.focus()
        version = page.get_by_text(re.compile(r"^Version \d+")).inner_text()
        expect(page.get_by_role("region", name="Delta")).not_to_contain_text(version)
        expect(place).to_be_focused()


@pytest.mark.parametrize(
    "choice", ["Put my changes on top", pytest.param("Discard my changes", marks=pytest.mark.proof)]
)
def test_a_conflict_is_shown_and_solved(open_page, person, desire, axe, keep, choice):
    """Another user saves during an edit: both documents are shown, nothing is lost, and the user decides."""
    person.register("lamp")
    desire("lamp", level=1, mode="day")
    page = open_page(person, "#/device/lamp/shadow")
    form = desired(page)
    form.get_by_label("level", exact=True).fill("5")
    desire("lamp", level=9, mode="night")
    conflict = form.get_by_role("alert").filter(has_text="changed elsewhere")
    expect(conflict).to_contain_text("level: 1 → 9you changed it too")
    expect(conflict).to_contain_text('mode: "day" → "night"')
    expect(form.get_by_role("button", name="Save")).to_be_disabled()
    expect(form.get_by_label("level", exact=True)).to_have_value("5")
    axe(page)
    check_button = keep(form.get_by_role("button", name=choice))
    desire("lamp", "reported", heat=20)  # as devices do all the time
    expect(conflict).to_contain_text("Version 3")
    check_button()
    form.get_by_role("button", name=choice).click()
    expect(conflict).to_be_hidden()
    expect(form.get_by_label("mode", exact=True)).to_have_value("night")
    if choice.startswith("Put"):
        form.get_by_role("button", name="Save").click()
        expect(form.get_by_text("What will be sent")).to_be_hidden()  # the button is disabled before it is saved
        assert shadow(person, "lamp")["desired"] == {"level": 5, "mode": "night"}
    else:
        expect(form.get_by_label("level", exact=True)).to_have_value("9")


@pytest.mark.proof  # a conflict and what another saves, which are looked at one by one in the gate
def test_two_browsers_at_the_same_time(open_page, person):
    """What one saves the other sees; what both edit is a conflict for the second, which keeps its draft."""
    person.register("lamp")
    one, two = (open_page(person, "#/device/lamp/shadow") for _ in range(2))
    add(one, "level", "1")
    desired(one).get_by_role("button", name="Save").click()
    expect(desired(two).get_by_label("level", exact=True)).to_have_value("1")
    desired(two).get_by_label("level", exact=True).fill("2")
    desired(one).get_by_label("level", exact=True).fill("3")
    desired(one).get_by_role("button", name="Save").click()
    expect(desired(two).get_by_role("alert").filter(has_text="changed elsewhere")).to_contain_text("level: 1 → 3")
    expect(desired(two).get_by_label("level", exact=True)).to_have_value("2")


def test_what_was_typed_is_there_again(open_page, person, desire):
    """Another tab loses nothing; a conflict that came meanwhile is shown; the browser asks before the page is left."""
    person.register("lamp")
    desire("lamp", level=1)
    page = open_page(person, "#/device/lamp/shadow")
    desired(page).get_by_label("level", exact=True).fill("5")
    page.get_by_role("link", name="Overview").click()
    expect(page.get_by_role("heading", name="About")).to_be_visible()
    desire("lamp", level=7)
    page.get_by_role("link", name="Shadow").click()
    expect(desired(page).get_by_label("level", exact=True)).to_have_value("5")
    expect(desired(page).get_by_role("alert").filter(has_text="changed elsewhere")).to_contain_text("level: 1 → 7")
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
    page.reload()
    assert asked == ["beforeunload"]
    expect(desired(page).get_by_label("level", exact=True)).to_have_value("7")


def test_a_save_that_comes_too_late_is_a_conflict(open_page, person, desire, is_live):
    """The server's 409, for a change that the page had not heard of yet: nothing is overwritten."""
    person.register("lamp")
    desire("lamp", level=1)
    page = open_page(person, "#/devices", fresh=True)
    deaf = []  # the page's notification socket, which goes through here and is held back from now on

    def hold(socket):
        server = socket.connect_to_server()
        server.on_message(lambda message: deaf or socket.send(message))

    page.route_web_socket(re.compile("/api/v2/notify"), hold)
    page.goto("/#/device/lamp/shadow")
    page.reload()
    form = desired(page)
    is_live(page)
    form.get_by_label("level", exact=True).fill("5")
    deaf.append(True)
    desire("lamp", level=9)
    form.get_by_role("button", name="Save").click()
    expect(form.get_by_role("alert").filter(has_text="changed elsewhere")).to_contain_text("level: 1 → 9")
    assert shadow(person, "lamp")["desired"] == {"level": 9}


def test_a_refused_save_says_so_and_keeps_the_draft(open_page, person):
    """What the server does not take appears in words at the form."""
    person.register("lamp")
    page = open_page(person, "#/device/lamp/shadow")
    add(page, "big", "x" * 40_000)
    desired(page).get_by_role("button", name="Save").click()
    expect(desired(page).get_by_role("alert").filter(has_text="bytes")).to_be_visible()
    expect(desired(page).get_by_label("big", exact=True)).to_have_value("x" * 40_000)


HOSTILE = {
    "<img src=x onerror=alert(1)>": "</script><script>alert(1)</script>",
    "\u202eevil": "\u202egnp.exe",
    "k" * 10_000: "long",
    "__proto__": {"polluted": True},
}


def test_keys_from_outside_stay_text(open_page, person, desire, axe):
    """Whatever is in a shadow: no script runs, no markup shows, marks that turn the writing are visible."""
    person.register("lamp")
    desire("lamp", **HOSTILE)
    desire(
        "lamp",
        "reported",
        **{**HOSTILE, "\u202eevil": "other", "__proto__": 7, "k" * 10_000: None, "long": "v" * 10_000},
    )
    page = open_page(person, "#/device/lamp/shadow")
    expect(delta(page)).to_contain_text("__proto__.polluted")
    expect(delta(page)).to_contain_text('["\\u202eevil"]')
    expect(page.get_by_role("group", name="Reported state")).to_contain_text("<img src=x onerror=alert(1)>")
    axe(page)
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.querySelector('main').scrollWidth <= innerWidth"), width
    assert page.evaluate("({}).polluted") is None
    assert page.locator("main img").count() == 0


def test_a_delta_that_the_device_does_not_take(open_page, person, desire, axe):
    """Its limit is set by the page; beyond it the page says that the delta is not sent, and how large it is."""
    person.register("lamp")
    desire("lamp", config="x" * 5000)
    page = open_page(person, "#/device/lamp/shadow")
    expect(delta(page)).to_contain_text("the device gets the delta when it connects")
    page.get_by_role("button", name="Actions for this device").click()
    page.get_by_role("menuitem", name="Limit of deltas…").click()
    axe(page)
    page.get_by_label("Bytes").fill("4096")
    page.keyboard.press("Enter")
    expect(delta(page)).to_contain_text(re.compile(r"the delta has 5\d\d\d bytes and the device takes 4096"))
    assert person.http.get("/devices/lamp").json()["delta_limit"] == 4096
    axe(page)
    desire("lamp", config="x" * 3000)
    expect(delta(page)).to_contain_text("the device gets the delta when it connects")
    page.get_by_role("button", name="Actions for this device").click()
    page.get_by_role("menuitem", name="Limit of deltas…").click()
    expect(page.get_by_label("Bytes")).to_have_value("4096")
    page.get_by_label("Bytes").fill("")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert person.http.get("/devices/lamp").json()["delta_limit"] is None


def test_two_hundred_reported_values(open_page, person, desire, axe):
    """They fold by section; a search finds keys and values; what is shown is copied; a report moves nothing."""
    person.register("lamp")
    sections = {f"room{n}": {f"sensor{m}": n * 10 + m for m in range(10)} for n in range(20)}
    desire("lamp", "reported", **sections)
    desire("lamp", room7={"sensor3": 1})
    page = open_page(person, "#/device/lamp/shadow", fresh=True, permissions=["clipboard-read", "clipboard-write"])
    card = page.get_by_role("region", name="Reported")
    tree = page.get_by_role("group", name="Reported state")
    expect(card.get_by_role("status")).to_have_text("200 values")
    expect(tree.get_by_text("sensor3")).to_have_count(20)
    expect(tree.locator("summary").filter(has_text="1 differs")).to_have_text("room71 differs")
    expect(tree.locator("details[open]")).to_have_count(0)
    axe(page)
    room = tree.locator("summary").nth(7)
    room.focus()
    page.keyboard.press("Enter")
    expect(tree.locator("details[open]")).to_have_count(1)
    desire("lamp", "reported", room7={"sensor3": 99, "new": True})
    expect(tree).to_contain_text("sensor3: 99differs")
    expect(card.get_by_role("status")).to_have_text("201 values")
    expect(room).to_be_focused()
    expect(tree.locator("details[open]")).to_have_count(1)
    search = card.get_by_label("Search the reported state")
    search.fill("room19.sensor1")
    expect(card.get_by_role("status")).to_have_text("1 of 201 values")
    expect(tree.get_by_text("sensor1: 191")).to_be_visible()
    card.get_by_role("button", name="Copy").click()
    expect(card.get_by_role("button", name="Copied")).to_be_visible()
    assert json.loads(page.evaluate("navigator.clipboard.readText()")) == {"room19": {"sensor1": 191}}
    search.fill("nothing has this")
    expect(tree.get_by_text("No key and no value has this in it.")).to_be_visible()
    search.fill("")
    card.get_by_role("button", name="Fold all").click()
    expect(tree.locator("details[open]")).to_have_count(0)
    card.get_by_role("button", name="Unfold all").click()
    expect(tree.locator("details[open]")).to_have_count(20)
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.querySelector('main').scrollWidth <= innerWidth")
