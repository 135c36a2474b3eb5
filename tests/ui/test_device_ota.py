"""Firmware updates of one device."""

from __future__ import annotations

import io
import json
import re
import zipfile

import pytest
import trio
from playwright.sync_api import expect

from mdashcore._errors import RpcError
from mdashcore.ota import UPDATE_TRANSITIONS, UpdateState
from mdashcore.virtual_device import FirmwareBuild, join


def choose(page, data, name="fw.zip"):
    """Choose an image."""
    page.get_by_label("Firmware to send").set_input_files({"name": name, "mimeType": "application/zip", "buffer": data})


def form(page):
    """What is shown of the image before it is sent."""
    return page.get_by_role("form", name="Update")


def steps(page):
    """The way of the update, in five steps."""
    return page.get_by_role("list", name=re.compile("^Steps of the update"))


def repack(data, compression):
    """The same files, packed otherwise."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(packed, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return packed.getvalue()


def test_an_update_from_the_file_to_the_commit(open_page, person, fleet, make_firmware, axe):
    """What is in it is shown first; then its way through the states; it is committed, and stands in the history."""
    fleet.connect("lamp")
    page = open_page(person, "#/device/lamp/ota")
    expect(page.get_by_text("The device was never updated from here")).to_be_visible()
    axe(page)
    choose(page, make_firmware(version="2.0"))
    for words in ("fw.zip", "1.0 → 2.0", "20260301-100000/new", "esp32", "app.bin", "19.5 KiB", "It fits this device"):
        expect(form(page)).to_contain_text(words)
    axe(page)
    form(page).get_by_role("button", name="Update the device").click()
    expect(steps(page)).to_have_accessible_name(re.compile("Now: Uncommitted, runs on trial"))
    expect(steps(page).locator("[aria-current=step]")).to_have_text(re.compile("Commit"))
    banner = page.get_by_role("region", name="Update", exact=True).get_by_role("region", name="Uncommitted firmware")
    for name in ("Commit", "Roll back"):  # the page is 800 px high
        expect(banner.get_by_role("button", name=name)).to_be_in_viewport(ratio=1)
    expect(banner.get_by_text("Rolls back by itself in")).to_be_in_viewport(ratio=1)
    page.get_by_text("All states").click()
    expect(page.get_by_role("img", name=re.compile("Now: Uncommitted.*Next can be: Committed"))).to_be_visible()
    axe(page)
    banner.get_by_role("button", name="Commit").click()
    expect(steps(page)).to_have_accessible_name(re.compile("Now: Committed"))
    expect(page.get_by_role("region", name="Firmware", exact=True)).to_contain_text("2.0")
    history = page.get_by_role("region", name="History").get_by_role("row").nth(1)
    expect(history).to_contain_text("Committed")
    expect(history).to_contain_text("2.0")
    expect(page.get_by_text("Drop a firmware .zip here")).to_be_visible()
    axe(page)


@pytest.mark.proof  # the same picture and history as of a commit
def test_rolling_back_is_shown(open_page, person, fleet, install):
    """The old firmware runs again, the picture says so, and the history why."""
    fleet.connect("lamp")
    install("lamp", version="2.0")
    page = open_page(person, "#/device/lamp/ota")
    page.get_by_role("button", name="Roll back").click()
    page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
    expect(steps(page)).to_have_accessible_name(re.compile("Now: Rolled back"))
    expect(page.get_by_role("region", name="History")).to_contain_text("Rolled back")
    expect(page.get_by_role("region", name="Uncommitted firmware")).to_be_hidden()


def test_an_update_waits_for_a_device_and_is_canceled(open_page, person, fleet, make_firmware, axe):
    """Offline, it says that it waits; it can be taken back, and the question says what is lost."""
    fleet.connect("lamp").stop()
    page = open_page(person, "#/device/lamp/ota")
    choose(page, make_firmware())
    expect(form(page)).to_contain_text("The device is offline: the update waits on the server until it connects.")
    form(page).get_by_role("button", name="Update the device").click()
    update = page.get_by_role("region", name="Update", exact=True)
    expect(update).to_contain_text("Queued: waits until the device is online")
    expect(page.get_by_text("Drop a firmware .zip here")).to_be_hidden()
    axe(page)
    page.reload()
    update.get_by_role("button", name="Cancel the update").click()
    dialog = page.get_by_role("dialog", name="Cancel the update?")
    expect(dialog).to_contain_text("The image is deleted from the server; the device keeps its firmware.")
    axe(page)
    dialog.get_by_role("button", name="Cancel the update").click()
    expect(steps(page)).to_have_accessible_name(re.compile("Now: Canceled"))
    expect(page.get_by_role("region", name="History")).to_contain_text("Canceled")


def test_progress_is_shown_while_it_is_sent(open_page, person, fleet, make_firmware, wait_until):
    """Live, by the server's notifications; a transfer can be canceled in the middle."""
    writes = []

    async def write(params):
        writes.append(params)
        if len(writes) > 10:
            await trio.sleep_forever()

    reported = {"ota": {"app": "lamp", "fw_version": "1.0", "fw_id": "old", "arch": "esp32", "is_committed": True}}
    status = {"state": 0, "message": "idle", "is_committed": True, "progress_percent": 0}
    answers = {"OTA.Begin": None, "OTA.Write": write, "OTA.Status": status}
    fleet.pretend("slow", answers, reported=reported)
    page = open_page(person, "#/device/slow/ota")
    choose(page, make_firmware())
    form(page).get_by_role("button", name="Update the device").click()
    update = page.get_by_role("region", name="Update", exact=True)
    expect(update).to_contain_text("Transferring: is being sent")
    expect(update.get_by_role("progressbar")).to_be_visible()
    wait_until(page, lambda: len(writes) > 10)  # no progress is notified behind the last answer
    page.get_by_role("link", name="Overview").click()
    page.get_by_role("link", name="OTA").click()
    expect(update).to_contain_text("49 %, 10.0 KiB of 20.0 KiB")
    update.get_by_role("button", name="Cancel the update").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the update").click()
    expect(steps(page)).to_have_accessible_name(re.compile("Now: Canceled"))
    for _ in range(2):  # as the page has seen it, and as the stored notifications tell it
        expect(steps(page).get_by_role("listitem")).to_have_text(
            [re.compile(f": {words}$") for words in ("done", "ended here", "not yet", "not yet", "not yet")]
        )
        page.reload()


@pytest.mark.proof  # what a cut hides is read anew in one place, see test_live.py
def test_what_happened_behind_a_cut_is_shown(open_page, person, fleet, install, cable):
    """The connection of the page breaks; an update comes and runs; mended, the page has it."""
    fleet.connect("lamp")
    page = open_page(person, "#/device/lamp/ota", cable=cable)
    expect(page.get_by_text("The device was never updated from here")).to_be_visible()
    cable.cut()
    install("lamp", version="2.0")
    cable.mend()
    expect(steps(page)).to_have_accessible_name(re.compile("Now: Uncommitted"))
    expect(page.get_by_role("region", name="Uncommitted firmware")).to_contain_text("Rolls back by itself")


OBJECTIONS = {
    "another platform": ({"platform": "esp8266"}, "It is for esp8266, and the device is esp32.", "force"),
    "the same build": ({"version": "1.0", "build_id": "old"}, "The device runs this very build already.", "force"),
    "another app": ({"name": "fan"}, "It is another application: fan, and the device runs lamp.", "force"),
}


def test_what_speaks_against_an_image_is_said_before(open_page, person, fleet, make_firmware):
    """A wrong one cannot be sent by mistake; a person who insists can, where the server allows it."""
    fleet.connect("lamp", build=FirmwareBuild("lamp", "1.0", "old"))
    page = open_page(person, "#/device/lamp/ota")
    go = form(page).get_by_role("button", name="Update the device")
    for fields, said, kind in OBJECTIONS.values():
        choose(page, make_firmware(**fields))
        expect(form(page)).to_contain_text(said)
        if kind == "force":
            expect(go).to_be_disabled()
            form(page).get_by_text("How it is sent", exact=True).click()
            form(page).get_by_label("Send it even if").check()
        expect(go).to_be_enabled()
        form(page).get_by_role("button", name="Cancel").click()


BAD = {
    "cut off": "its list of files is missing",
    "damaged": "does not have the content that it should have",
    "no manifest": "no manifest.json",
    "empty": "the file is empty",
    "compressed": "it is compressed, which devices cannot read",
}


def spoil(good, case):
    """A file that is no good firmware."""
    stored = repack(good, zipfile.ZIP_STORED)
    return {
        "cut off": good[: len(good) // 2],
        "damaged": good.replace(b'"version"', b'"versiom"'),
        "no manifest": stored.replace(b"manifest.json", b"manifesto.jso"),
        "empty": b"",
        "compressed": repack(good, zipfile.ZIP_DEFLATED),
    }[case]


def test_bad_images_are_told_before_they_are_sent(open_page, person, fleet, make_firmware):
    """Read in the browser; of a compressed one, which the server refuses, the manifest shows all the same."""
    fleet.connect("lamp")
    page = open_page(person, "#/device/lamp/ota")
    go = page.get_by_role("button", name="Update the device")
    for case, said in BAD.items():
        choose(page, spoil(make_firmware(version="7.7"), case))
        expect(page.get_by_role("region", name="New firmware")).to_contain_text(re.compile(said, re.IGNORECASE))
        if case == "compressed":
            expect(form(page)).to_contain_text("7.7")
            expect(go).to_be_disabled()
        else:
            expect(go).to_have_count(0)


def test_a_refusal_of_the_server_is_shown(open_page, person, fleet, make_firmware, hold):
    """What only the server finds stands at the form, and the image can be changed. There is no form before the server
    has said whether an update is under way: one that is sent beside it would take its place.
    """
    fleet.connect("lamp")
    data = make_firmware()
    damaged = data.replace(b"\0" * 64, b"\1" * 64, 1)  # in the part, whose digest the browser does not check
    page = open_page(person)
    held = hold(page, "**/devices/lamp/ota", "GET")
    page.goto("/#/device/lamp/ota")
    asked = held.take()
    expect(page.get_by_role("region", name="Firmware", exact=True)).to_be_visible()
    expect(page.get_by_role("region", name="New firmware")).to_be_hidden()
    asked.continue_()
    page.unroute("**/devices/lamp/ota")
    expect(page.get_by_role("region", name="New firmware")).to_be_visible()
    choose(page, damaged)
    form(page).get_by_role("button", name="Update the device").click()
    expect(form(page).get_by_role("alert")).to_contain_text(re.compile("crc|digest|sha1", re.IGNORECASE))
    form(page).get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("Drop a firmware .zip here")).to_be_visible()


def test_an_image_is_dropped(open_page, person, fleet):
    """From the desktop onto the page; one that is no zip is sent as it is, and that is said."""
    fleet.connect("lamp")
    page = open_page(person, "#/device/lamp/ota")
    page.evaluate(
        """() => {
          const transfer = new DataTransfer();
          transfer.items.add(new File(["bare"], "<img src=x onerror=alert(1)>.bin"));
          const zone = document.querySelector(".dropzone");
          zone.dispatchEvent(new DragEvent("drop", {bubbles: true, cancelable: true, dataTransfer: transfer}));
        }"""
    )
    expect(form(page)).to_contain_text("This is no zip")
    expect(form(page)).to_contain_text("<img src=x onerror=alert(1)>.bin")


@pytest.mark.proof  # drawn by the same parts as the overview, which is looked at in the gate
def test_manifests_from_outside_stay_text(open_page, person, fleet, make_firmware, axe):
    """Whatever is in a manifest or a report: no script runs, and nothing breaks out of its place."""
    evil = "<img src=x onerror=alert(1)>"
    ota = {"app": evil, "fw_version": "\u202e" + evil, "fw_id": "b" * 10_000, "arch": evil}
    fleet.pretend("evil", {}, reported={"ota": ota})
    page = open_page(person, "#/device/evil/ota", viewport={"width": 390, "height": 844})
    choose(page, make_firmware(name="\u202e</script>", version=evil, build_id="b" * 300))
    expect(form(page)).to_contain_text(evil)
    axe(page)
    assert page.evaluate("document.querySelector('main').scrollWidth <= innerWidth")
    assert page.locator("main img").count() == 0


def test_the_picture_is_the_machine(page):
    """Every state and every arrow of the server's machine, and no others."""
    drawn = json.loads(
        page.evaluate(
            """async () => {
              const {UPDATE_STATES} = await import(ui("views/device/state_picture.js"));
              return JSON.stringify(UPDATE_STATES);
            }"""
        )
    )
    arrows = {(state, target) for state, said in drawn.items() for target in said["to"]}
    machine = {
        (state.value, transition.to.value)
        for (state, _), transitions in UPDATE_TRANSITIONS.items()
        for transition in transitions
        if transition.to is not state
    }
    assert set(drawn) == {state.value for state in UpdateState}
    assert arrows == machine


def test_a_transfer_that_the_device_still_holds(open_page, person, fleet, make_firmware, axe):
    """The page says until when it waits; the act that helps is offered, with what it does; then the update goes on."""
    calls = []

    async def begin(params):
        calls.append(params)
        if len(calls) == 1:
            raise RpcError(-1, "OTA already in progress")

    reported = {"ota": {"app": "lamp", "fw_version": "1.0", "fw_id": "old", "arch": "esp32", "is_committed": True}}
    answers = {"OTA.Begin": begin, "OTA.Write": None, "OTA.End": None}
    fleet.pretend("holds", answers, reported=reported)
    page = open_page(person, "#/device/holds/ota")
    choose(page, make_firmware())
    form(page).get_by_role("button", name="Update the device").click()
    update = page.get_by_role("region", name="Update", exact=True)
    expect(update).to_contain_text(
        re.compile(r"waits until the device has forgotten the transfer before, at the latest \d+:\d\d")
    )
    axe(page)
    update.get_by_role("button", name="End the old transfer").click()
    dialog = page.get_by_role("dialog", name="End the old transfer?")
    expect(dialog).to_contain_text("some restart")
    axe(page)
    dialog.get_by_role("button", name="End the transfer").click()
    expect(steps(page)).to_have_accessible_name(re.compile("Now: Rebooting"))
    expect(update.get_by_role("button", name="End the old transfer")).to_be_hidden()


def test_a_device_that_does_not_say_whether_it_is_committed(open_page, person, fleet, install, axe):
    """It says so, and how long; it can be committed."""
    fleet.connect("lamp", character=join("no-status"))
    install("lamp", version="2.0")
    page = open_page(person, "#/device/lamp/ota")
    update = page.get_by_role("region", name="Update", exact=True)
    expect(update).to_contain_text("Whether it is committed is not known: the device does not say")
    banner = page.get_by_role("region", name="Uncommitted firmware")
    expect(banner).to_contain_text("the device does not say whether 2.0 is committed")
    expect(banner).to_contain_text(re.compile("If it still runs in .*, it counts as committed"))
    axe(page)
    banner.get_by_role("button", name="Commit").click()
    expect(steps(page)).to_have_accessible_name(re.compile("Now: Committed"))
    expect(banner).to_be_hidden()
