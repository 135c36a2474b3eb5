"""A device's configuration, edited in place."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect


def value(page, path):
    """The field of a key, by its whole path."""
    return page.get_by_label(f"{path.rpartition('.')[2]} of {path}", exact=True)


def changes(page):
    """The bar that lists what was changed."""
    return page.get_by_role("region", name="Changes")


@pytest.fixture
def sent(person):
    """What was sent to a device by Config.Set, as the log has it."""

    def read(id):
        notes = person.http.post("/logs", json={"id": id, "name": "rpc.in.Config.*"}).json()
        return [(note["name"], note.get("data")) for note in notes if note["name"] != "rpc.in.Config.Get"]

    return read


def test_only_changes_are_sent(open_page, person, fleet, sent, axe):
    """Each value by its type; what was changed is listed, can be taken back one by one, and is all that is sent."""
    fleet.connect("lamp")
    page = open_page(person, "#/device/lamp/config")
    expect(page.get_by_role("status").filter(has_text="34 values")).to_be_visible()
    expect(changes(page)).to_be_hidden()
    axe(page)
    value(page, "wifi.sta.ssid").fill("home")
    value(page, "debug.level").fill("3")
    value(page, "wifi.ap.enable").check()
    value(page, "http.listen_addr").fill("8080")
    page.get_by_role("button", name="Undo http.listen_addr").click()
    expect(value(page, "http.listen_addr")).to_have_value("80")
    expect(changes(page).get_by_role("listitem")).to_have_text(
        ["debug.level: 2 → 3", 'wifi.sta.ssid: "mos" → "home"', "wifi.ap.enable: false → true"]
    )
    axe(page)
    changes(page).get_by_role("button", name="Save", exact=True).click()
    expect(changes(page)).to_be_hidden()
    assert sent("lamp") == [
        (
            "rpc.in.Config.Set",
            {"config": {"debug": {"level": 3}, "wifi": {"sta": {"ssid": "home"}, "ap": {"enable": True}}}},
        ),
        ("rpc.in.Config.Save", {}),
    ]
    page.reload()
    expect(value(page, "wifi.sta.ssid")).to_have_value("home")


HEAR_PRESENCE = """async () => {
  const {onNotification} = await import(ui("live.js"));
  window.heard = [];
  onNotification(({name}) => ["offline", "online"].includes(name) && window.heard.push(name), {id: "lamp"});
}"""


def test_saving_and_restarting_is_asked_once(open_page, person, fleet, sent, axe, wait_until):
    """It says what a mistake could cost; the device restarts, comes back, and has the new configuration."""
    fleet.connect("lamp")
    page = open_page(person, "#/device/lamp/config")
    value(page, "dash.send_logs").uncheck()
    changes(page).get_by_role("button", name="Save and restart").click()
    dialog = page.get_by_role("dialog", name="Save and restart the device?")
    expect(dialog).to_contain_text("With a mistake in dash, it may not come back")
    axe(page)
    page.evaluate(HEAR_PRESENCE)  # it is offline for a moment only
    dialog.get_by_role("button", name="Save and restart").click()
    wait_until(page, lambda: page.evaluate("window.heard.join()") == "offline,online")
    expect(page.locator(".device-head")).to_contain_text("Online")
    expect(value(page, "dash.send_logs")).not_to_be_checked()
    assert [name for name, _ in sent("lamp")] == ["rpc.in.Config.Set", "rpc.in.Config.Save"]


def test_what_is_tried_is_gone_after_a_restart(open_page, person, fleet, sent):
    """Set without saving: the device runs with it, until it restarts."""
    fleet.connect("lamp")
    page = open_page(person, "#/device/lamp/config")
    value(page, "debug.level").fill("4")
    changes(page).get_by_role("button", name="Try until restart").click()
    expect(changes(page)).to_be_hidden()
    assert sent("lamp") == [("rpc.in.Config.Set", {"config": {"debug": {"level": 4}}})]
    person.http.post("/devices/lamp/rpc/Sys.Reboot")
    expect(value(page, "debug.level")).to_have_value("2")


def test_what_cannot_be_is_said_at_the_place(open_page, person, fleet):
    """A number that is none is marked; what the device refuses it says in its own words, and nothing is lost."""
    fleet.connect("lamp")
    page = open_page(person, "#/device/lamp/config")
    level = value(page, "debug.level")
    level.fill("x")
    expect(level).to_have_attribute("aria-invalid", "true")
    expect(changes(page)).to_contain_text("One value cannot be read")
    expect(changes(page).get_by_role("button", name="Save", exact=True)).to_be_disabled()
    level.fill("2.5")
    changes(page).get_by_role("button", name="Save", exact=True).click()
    expect(changes(page).get_by_role("alert")).to_contain_text("debug.level must be an integer")
    expect(level).to_have_value("2.5")
    changes(page).get_by_role("button", name="Discard").click()
    expect(value(page, "debug.level")).to_have_value("2")
    expect(changes(page)).to_be_hidden()


def test_keys_are_found_and_secrets_covered(open_page, person, fleet):
    """The filter leaves what has it in its path; passwords show only when asked to."""
    fleet.connect("lamp", config={"wifi": {"sta": {"pass": "topsecret"}}})
    page = open_page(person, "#/device/lamp/config")
    page.get_by_label("Filter keys").fill("sta.pa")
    expect(page.get_by_role("status").filter(has_text="1 of 34 values")).to_be_visible()
    expect(page.locator(".config-row:visible")).to_have_count(1)
    secret = value(page, "wifi.sta.pass")
    expect(secret).to_have_attribute("type", "password")
    page.get_by_role("button", name="Show wifi.sta.pass").click()
    expect(secret).to_have_attribute("type", "text")
    secret.fill("other")
    expect(changes(page)).to_contain_text("wifi.sta.pass: another value")
    expect(changes(page)).not_to_contain_text("other →")


@pytest.mark.proof  # a half typed field of it is looked at in test_device_edits.py
def test_what_was_typed_is_there_again(open_page, person, fleet):
    """Looking at another tab loses nothing."""
    fleet.connect("lamp")
    page = open_page(person, "#/device/lamp/config")
    value(page, "sys.tz_spec").fill("UTC")
    page.get_by_role("link", name="Overview").click()
    expect(page.get_by_role("heading", name="About")).to_be_visible()
    page.get_by_role("link", name="Config").click()
    expect(value(page, "sys.tz_spec")).to_have_value("UTC")
    page.get_by_role("button", name="Undo sys.tz_spec").click()
    expect(value(page, "sys.tz_spec")).to_have_value("")
    expect(changes(page)).to_be_hidden()


@pytest.mark.proof  # as during a save, see test_device_edits.py
def test_what_is_typed_while_it_is_read_stays(open_page, person, fleet, hold):
    """The device is asked again; what was typed before it answers is there after, beside what has changed on it."""
    fleet.connect("lamp")
    page = open_page(person, "#/device/lamp/config")
    expect(value(page, "sys.tz_spec")).to_be_visible()
    held = hold(page, "**/rpc/Config.Get*")
    for n, changed in enumerate(({}, {"device": {"sn": "7"}})):
        page.get_by_role("button", name="Read again").click()
        if n:
            page.get_by_role("dialog").get_by_role("button", name="Read again").click()
        expect(page.get_by_text("Reading the configuration again…")).to_be_visible()
        value(page, "sys.tz_spec").fill("UTC")
        value(page, "debug.level").fill("x")
        if changed:
            answer = person.http.post("/devices/lamp/rpc/Config.Set", json={"config": changed})
            assert answer.status_code == 200, answer.text
        held.take().continue_()
        expect(page.get_by_text("Reading the configuration again…")).to_be_hidden()
        expect(value(page, "sys.tz_spec")).to_have_value("UTC")
        expect(value(page, "debug.level")).to_have_value("x")
        if not changed:
            expect(value(page, "debug.level")).to_be_focused()  # nothing was moved
    expect(value(page, "device.sn")).to_have_value("7")
    expect(changes(page).get_by_role("listitem")).to_have_text(
        ['sys.tz_spec: "" → "UTC"', "One value cannot be read: it is marked."]
    )


def test_edits_survive_a_lost_device(open_page, person, fleet, axe):
    """What was typed stays, cannot be sent meanwhile, and is sent when the device is back."""
    lamp = fleet.connect("lamp")
    page = open_page(person, "#/device/lamp/config")
    value(page, "sys.tz_spec").fill("UTC")
    lamp.stop()
    expect(page.get_by_text("The device is offline.")).to_be_visible()
    expect(changes(page).get_by_role("button", name="Save", exact=True)).to_be_disabled()
    axe(page)
    fleet.connect("lamp", token=lamp.token)
    expect(changes(page)).to_contain_text("Your changes are still here")
    changes(page).get_by_role("button", name="Save", exact=True).click()
    expect(changes(page)).to_be_hidden()
    assert person.http.post("/devices/lamp/rpc/Config.Get", json={"key": "sys.tz_spec"}).json() == "UTC"


@pytest.mark.proof  # drawn by the same parts as a shadow, which is looked at in the gate
def test_keys_from_outside_stay_text(open_page, person, fleet, axe):
    """Whatever a configuration holds: no script runs, and nothing breaks out of its place."""
    evil = "<img src=x onerror=alert(1)>"
    tree = {evil: {evil: "</script><script>alert(1)</script>", "\u202egnp": "\u202egnp"}, "k" * 10_000: "v" * 10_000}
    fleet.pretend("evil", {"Config.Get": {**tree, "list": [1, {"a": evil}], "nothing": None, "empty": {}}})
    page = open_page(person, "#/device/evil/config")
    expect(page.get_by_role("textbox", name="\\u202egnp")).to_have_value("\u202egnp")
    expect(page.get_by_role("main")).to_contain_text(evil)
    axe(page)
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.querySelector('main').scrollWidth <= innerWidth"), width
    assert page.locator("main img").count() == 0
