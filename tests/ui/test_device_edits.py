"""What is typed, asked and done on a device's page is not lost, nor done by mistake."""

from __future__ import annotations

import base64
import re

import pytest
from playwright.sync_api import expect

from mdashcore._errors import RpcError


def post(person, path, body=None):
    """Ask the server, as another program would."""
    answer = person.http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def desired(page):
    """The form of what is desired."""
    return page.get_by_role("form", name="Desired")


def save(page):
    """Save what is desired, and see it saved: the button alone is disabled already while it is on its way."""
    desired(page).get_by_role("button", name="Save").click()
    expect(desired(page).get_by_text("What will be sent")).to_be_hidden()
    expect(desired(page).get_by_role("button", name="Save")).to_be_disabled()


def to_overview(page):
    """Look at another tab."""
    page.get_by_role("link", name="Overview").click()
    expect(page.get_by_role("heading", name="About")).to_be_visible()


# Shadow


@pytest.fixture
def slow_save(page, hold):
    """Holds back what saves a shadow: ``slow_save()`` lets it go."""
    held = hold(page, "**/shadow", "POST")

    def go():
        held.take().continue_()
        page.unroute("**/shadow")

    return go


def test_what_is_typed_during_a_save_stays(page, person, slow_save):
    """Saved is what was there when it began; the rest can be saved next."""
    person.register("lamp")
    post(person, "/devices/lamp/shadow", {"state": {"desired": {"level": 1, "mode": "day"}}})
    page.goto("/#/device/lamp/shadow")
    form = desired(page)
    form.get_by_label("level", exact=True).fill("5")
    form.get_by_role("button", name="Save").click()
    expect(form.get_by_role("button", name="Save")).to_have_attribute("aria-busy", "true")
    mode = form.get_by_label("mode", exact=True)
    mode.fill("night")
    mode.focus()
    slow_save()
    expect(page.get_by_text("Saved. The device gets it when it connects.")).to_be_visible()
    expect(mode).to_have_value("night")
    expect(mode).to_be_focused()
    expect(form.get_by_role("alert").filter(has_text="changed elsewhere")).to_be_hidden()
    expect(form.get_by_role("list")).to_have_text('mode: "day" → "night"')
    save(page)
    assert person.http.get("/devices/lamp/shadow").json()["state"]["desired"] == {"level": 5, "mode": "night"}


def test_json_that_is_half_typed_during_a_save_stays(page, person, slow_save):
    """Though it is no JSON yet."""
    person.register("lamp")
    page.goto("/#/device/lamp/shadow")
    desired(page).get_by_role("button", name="JSON").click()
    area = desired(page).get_by_label("Desired state as JSON")
    area.fill('{"a": 1}')
    desired(page).get_by_role("button", name="Save").click()
    expect(desired(page).get_by_role("button", name="Save")).to_have_attribute("aria-busy", "true")
    area.fill('{"a": 1, "b": ')
    slow_save()
    expect(page.get_by_text("Saved. The device gets it when it connects.")).to_be_visible()
    expect(area).to_have_value('{"a": 1, "b": ')
    area.fill('{"a": 1, "b": 2}')
    expect(desired(page).get_by_role("list")).to_have_text("b: nothing → 2")


@pytest.mark.proof  # as fields, in the next test
def test_json_that_is_half_typed_is_there_again(page, person):
    """As it was typed, and marked as wrong; with what went before it."""
    person.register("lamp")
    post(person, "/devices/lamp/shadow", {"state": {"desired": {"a": 1}}})
    page.goto("/#/device/lamp/shadow")
    desired(page).get_by_role("button", name="JSON").click()
    area = desired(page).get_by_label("Desired state as JSON")
    area.fill('{"a": 1, "b": [1, ')
    to_overview(page)
    page.get_by_role("link", name="Shadow").click()
    expect(area).to_have_value('{"a": 1, "b": [1, ')
    expect(area).to_have_attribute("aria-invalid", "true")
    expect(desired(page).get_by_role("button", name="Save")).to_be_disabled()
    area.fill('{"a": 1, "b": [1, 2]}')
    save(page)
    assert person.http.get("/devices/lamp/shadow").json()["state"]["desired"] == {"a": 1, "b": [1, 2]}


def test_a_field_that_is_half_typed_is_there_again(page, person, fleet):
    """In the form of the shadow, and in the configuration."""
    fleet.connect("lamp")
    post(person, "/devices/lamp/shadow", {"state": {"desired": {"level": 1}}})
    page.goto("/#/device/lamp/shadow")
    level = desired(page).get_by_label("level", exact=True)
    level.fill("1e")
    to_overview(page)
    page.get_by_role("link", name="Shadow").click()
    expect(level).to_have_value("1e")
    expect(level).to_have_attribute("aria-invalid", "true")
    level.fill("1")
    page.get_by_role("link", name="Config").click()
    debug = page.get_by_label("level of debug.level", exact=True)
    debug.fill("-")
    to_overview(page)
    page.get_by_role("link", name="Config").click()
    expect(debug).to_have_value("-")
    expect(page.get_by_role("region", name="Changes")).to_contain_text("One value cannot be read")


# Files


class Flash:
    """A device whose file system renames over nothing."""

    def __init__(self, **files):
        self.files = files

    def put(self, params):
        before = self.files.get(params["filename"], b"") if params["append"] else b""
        self.files[params["filename"]] = before + base64.b64decode(params["data"])

    def get(self, params):
        return {"data": base64.b64encode(self.files[params["filename"]]).decode(), "left": 0}

    def rename(self, params):
        if params["dst"] in self.files:
            raise RpcError(500, "rename failed")
        self.files[params["dst"]] = self.files.pop(params["src"])

    def answers(self):
        return {
            "FS.List": lambda _: list(self.files),
            "FS.Get": self.get,
            "FS.Put": self.put,
            "FS.Rename": self.rename,
            "FS.Remove": lambda params: self.files.pop(params["filename"]) and None,
        }


def fails(code, message):
    """What answers every call with an error."""

    def answer(_):
        raise RpcError(code, message)

    return answer


def write(page, name, text):
    """Open a file, and save it with another content; where an error is said."""
    page.get_by_role("button", name=name, exact=True).click()
    content = page.get_by_role("region", name="Content")
    content.get_by_label(f"Content of {name}").fill(text)
    content.get_by_role("button", name="Save").click()
    return content.get_by_role("alert")


def test_a_rename_that_fails_says_where_the_content_is(page, fleet):
    """The old file had to go first: nothing says that it is still there, and the new content is kept."""
    flash = Flash(main=b"old")
    refuse = {"FS.Rename": fails(500, "rename failed")}
    fleet.pretend("odd", {**flash.answers(), **refuse})
    page.goto("/#/device/odd/files")
    alert = write(page, "main", "new")
    expect(alert).to_contain_text("rename failed")
    expect(alert).not_to_contain_text("as it was")
    (draft,) = flash.files
    expect(alert).to_contain_text(draft)
    assert flash.files[draft] == b"new"


def test_a_removal_without_an_answer_loses_nothing(page, fleet):
    """Whether the old file is gone is not known: so the new content is not thrown away."""
    flash = Flash(main=b"old")
    fleet.pretend("odd", flash.answers())

    def cut_off(route):
        route.fetch()
        route.fulfill(status=504, json={"error": {"code": 504, "message": "no answer in time"}})

    page.route("**/rpc/FS.Remove*", cut_off)
    page.goto("/#/device/odd/files")
    alert = write(page, "main", "new")
    expect(alert).to_contain_text("no answer in time")
    (draft,) = flash.files
    expect(alert).to_contain_text(draft)
    assert flash.files[draft] == b"new"


@pytest.mark.proof  # a full flash, in test_device_files.py, fails the same write
def test_a_write_that_fails_leaves_the_file_as_it_was(page, fleet):
    """And says so; the reason is the device's."""
    flash = Flash(main=b"old")
    refuse = {"FS.Put": fails(500, "worn out")}
    fleet.pretend("odd", {**flash.answers(), **refuse})
    page.goto("/#/device/odd/files")
    alert = write(page, "main", "new")
    expect(alert).to_contain_text("worn out")
    expect(alert).to_contain_text("on the device it is as it was")
    assert flash.files == {"main": b"old"}


# Config


def test_a_restart_too_short_to_be_seen_is_noticed(open_page, person, fleet, wait_until, is_live):
    """Offline and online come in one batch, and the configuration that the device came back with is shown."""
    lamp = fleet.connect("lamp")
    page = open_page(person, fresh=True)
    held, sockets = [], []
    holding = []

    def pass_on(socket):
        server = socket.connect_to_server()
        sockets.append(socket)
        server.on_message(lambda message: held.append(message) if holding else socket.send(message))

    page.route_web_socket(re.compile("/api/v2/notify"), pass_on)
    page.goto("/#/device/lamp/config")
    page.reload()
    level = page.get_by_label("level of debug.level", exact=True)
    expect(level).to_have_value("2")
    is_live(page)
    holding.append(True)
    post(person, "/devices/lamp/rpc/Config.Set", {"config": {"debug": {"level": 4}}})
    post(person, "/devices/lamp/rpc/Config.Save", {})
    lamp.stop()
    fleet.connect("lamp", token=lamp.token)
    wait_until(page, lambda: any('"online"' in message for message in held))
    with page.expect_request("**/rpc/Config.Get*"):
        for message in held:
            sockets[-1].send(message)
    expect(level).to_have_value("4")


# RPC


def call(page, method, params=""):
    """Fill in the form, and call."""
    page.get_by_label("Method", exact=True).fill(method)
    page.get_by_label("Parameters as JSON").fill(params)
    page.get_by_role("button", name="Call", exact=True).click()


def test_a_call_that_destroys_is_asked_once(open_page, person, fleet, axe):
    """It says what is lost; Cancel sends nothing; run again, it asks again; what destroys nothing is just called."""
    sent = []
    fleet.pretend("lamp", {"RPC.List": ["FS.Remove", "RPC.Ping"], "RPC.Ping": "pong", "FS.Remove": sent.append})
    page = open_page(person, "#/device/lamp/rpc")
    call(page, "RPC.Ping")
    history = page.get_by_role("region", name="History").get_by_role("listitem")
    expect(history).to_have_count(1)
    call(page, "FS.Remove", '{"filename": "a"}')
    dialog = page.get_by_role("dialog", name="Call FS.Remove?")
    expect(dialog).to_contain_text("The file is deleted on the device, and cannot be brought back.")
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    axe(page)
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_have_count(0)
    expect(history).to_have_count(1)
    page.get_by_role("button", name="Call", exact=True).click()
    dialog.get_by_role("button", name="Call").click()
    expect(history).to_have_count(2)
    page.get_by_role("button", name="Run again: FS.Remove").click()
    dialog.get_by_role("button", name="Call").click()
    expect(history).to_have_count(3)
    page.get_by_role("button", name="Run again: RPC.Ping").click()
    expect(history).to_have_count(4)
    assert sent == [{"filename": "a"}] * 2


def test_what_destroys_is_asked_of_many_once(page, fleet):
    """One question for all of them."""
    fleet.connect("lamp")
    page.get_by_label("Select lamp", exact=True).check()
    page.get_by_role("button", name="Call a method…").click()
    page.get_by_label("Method", exact=True).fill("Sys.Reboot")
    page.get_by_role("button", name="Call", exact=True).click()
    dialog = page.get_by_role("dialog", name="Call Sys.Reboot of 1 device?")
    expect(dialog).to_contain_text("restart")
    dialog.get_by_role("button", name="Call").click()
    expect(page.get_by_role("dialog")).to_contain_text("1 of 1 done")


METHODS = {
    "Sys.Reboot": (None, True),
    "sys.reboot": ({"delay_ms": 5}, True),
    "Config.Save": ({"reboot": True}, True),
    "config.save": ({"reboot": False}, False),
    "Config.Set": ({"config": {}, "save": True, "reboot": True}, True),
    "Config.Get": (None, False),
    "FS.Remove": ({"filename": "a"}, True),
    "FS.Mkfs": ({}, True),
    "FS.Format": (None, True),
    "FS.Get": ({"filename": "a"}, False),
    "OTA.Revert": (None, True),
    "OTA.Commit": (None, False),
    "constructor": (None, False),
}


def test_what_is_known_to_destroy(page):
    """By method, however it is written, and by what it is told to do."""
    found = page.evaluate(
        """async (methods) => {
          const {lossOf} = await import(ui("views/device/destroys.js"));
          const destroys = ([name, [params]]) => [name, lossOf(name, params ?? undefined) !== null];
          return Object.fromEntries(Object.entries(methods).map(destroys));
        }""",
        METHODS,
    )
    assert found == {name: destroys for name, (_, destroys) in METHODS.items()}


# The device itself


def test_a_device_is_renamed_and_deleted_on_its_page(open_page, person, axe):
    """By its menu; after its deletion one is in the list, and the way back leads not to what is gone."""
    person.register("lamp", "Lamp")
    person.register("fan", "Fan")
    page = open_page(person, "#/device/lamp/shadow")
    menu = page.get_by_role("button", name="Actions for this device")
    menu.click()
    axe(page)
    page.get_by_role("menuitem", name="Rename…").click()
    page.get_by_label("Name", exact=True).fill("Lamp by the door")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Lamp by the door", level=1)).to_be_visible()
    menu = page.get_by_role("button", name="Actions for this device")
    expect(menu).to_be_focused()
    menu.click()
    page.get_by_role("menuitem", name="Delete…").click()
    dialog = page.get_by_role("dialog", name="Delete Lamp by the door?")
    dialog.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("heading", name="Lamp by the door", level=1)).to_be_visible()
    menu.click()
    page.get_by_role("menuitem", name="Delete…").click()
    dialog.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("heading", name="Devices", level=1)).to_be_visible()
    expect(page.get_by_text("1 device, 0 online")).to_be_visible()
    assert [device["id"] for device in person.http.get("/devices").json()] == ["fan"]


def test_deleting_in_the_back_leaves_the_view_alone(open_page, person, hold):
    """A user who has gone to another view meanwhile stays there."""
    person.register("lamp")
    page = open_page(person, "#/device/lamp")
    held = hold(page, "**/devices/lamp", "DELETE")
    page.get_by_role("button", name="Actions for this device").click()
    page.get_by_role("menuitem", name="Delete…").click()
    with page.expect_request("**/devices/lamp"):
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    page.evaluate("location.hash = '#/profile'")
    expect(page.get_by_role("heading", name="Profile", level=1)).to_be_visible()
    held.take().continue_()
    expect(page.get_by_role("status").filter(has_text="Delete lamp: done.")).to_be_visible()
    expect(page.get_by_role("heading", name="Profile", level=1)).to_be_visible()
