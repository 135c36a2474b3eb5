"""The firmware library: an image from its upload to its end, by way of a device and a rollout."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from mdashcore.virtual_device import FirmwareBuild


@pytest.fixture
def image(make_firmware):
    """A firmware of version 2.0, as a browser sends it."""
    buffer = make_firmware(name="ccm", version="2.0")
    return {"name": "fw.zip", "mimeType": "application/zip", "buffer": buffer}


def test_an_image_from_its_upload_to_its_end(open_page, person, fleet, image, axe, wait_until, hold):
    """Added with notes, sent to a device from its own tab, chosen for a rollout, seen to run, edited and deleted; while
    it is needed it stays.
    """
    fleet.connect("d1", name="Lamp", build=FirmwareBuild(app="ccm"))
    page = open_page(person, "#/firmware")
    expect(page.get_by_role("heading", name="No firmware yet")).to_be_visible()
    axe(page)
    page.get_by_role("button", name="Add the first image").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Firmware (.zip").set_input_files(image)
    expect(dialog.get_by_text("ccm version 2.0 for esp32")).to_be_visible()
    dialog.get_by_label("Notes").fill("<b>fixes</b> the leak")
    axe(page)
    dialog.get_by_role("button", name="Add").click()
    row = page.get_by_role("row").filter(has_text="ccm")
    expect(row).to_contain_text("<b>fixes</b> the leak")
    axe(page)

    id = person.http.get("/firmware").json()[0]["id"]
    page.get_by_role("link", name="Devices", exact=True).click()
    page.get_by_role("checkbox", name="Select d1", exact=True).check()
    page.get_by_role("button", name="Update firmware…").click()
    expect(dialog.get_by_label("Image")).to_be_visible()
    dialog.get_by_label("Source").select_option(id)
    expect(dialog.get_by_label("Image")).to_be_hidden()
    dialog.get_by_role("button", name="Review…").click()
    expect(page.get_by_role("dialog", name="Update 1 device?")).to_contain_text("Fits 1 of 1 device")
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()

    page.evaluate("location.hash = '#/device/d1/ota'")
    page.get_by_label("Source").select_option(id)
    expect(page.get_by_text("It fits this device.")).to_be_visible()
    page.get_by_text("How it is sent").click()
    page.get_by_label("Rolls back unless committed").fill("0")
    page.get_by_role("button", name="Update the device").click()
    expect(page.get_by_role("region", name="Update").get_by_role("status")).to_contain_text("Committed", timeout=30_000)

    page.get_by_role("link", name="Firmware", exact=True).click()
    expect(row).to_contain_text("1 running")
    row.get_by_role("link", name="ccm").click()
    runs = page.get_by_role("region", name="Running")
    expect(runs.get_by_role("link", name="Lamp")).to_be_visible()
    axe(page)
    runs.get_by_role("link", name="1", exact=True).click()
    expect(page.get_by_text("1 of 1")).to_be_visible()
    page.go_back()

    held = hold(page, "**/api/v2/firmware", "GET")
    page.get_by_role("link", name="Roll it out").click()
    asked = held.take()
    expect(page.get_by_role("button", name="Review…")).to_be_disabled()
    expect(page.get_by_label("Firmware (.zip")).to_be_hidden()
    asked.continue_()
    page.unroute("**/api/v2/firmware")
    expect(page.get_by_label("Source")).to_have_value(id)
    expect(page.get_by_label("Firmware (.zip")).to_be_hidden()
    page.get_by_label("All devices").check()
    page.get_by_label("Wait for my approval").check()
    page.get_by_role("button", name="Review…").click()
    page.get_by_role("button", name="Start for 1 device").click()
    expect(page.get_by_role("main")).to_contain_text("fw.zip")

    page.get_by_role("link", name="Firmware", exact=True).click()
    row.get_by_role("button", name="Delete").click()
    dialog.get_by_role("button", name="Delete").click()
    expect(dialog.get_by_role("alert")).to_contain_text("needs the image")
    dialog.get_by_role("button", name="Cancel").click()
    rollout = person.http.get("/rollouts").json()[0]["id"]
    person.http.post(f"/rollouts/{rollout}/abort").raise_for_status()
    wait_until(page, lambda: person.http.get(f"/rollouts/{rollout}").json()["state"] == "ABORTED")
    row.get_by_role("link", name="ccm").click()
    page.get_by_role("button", name="Edit").click()
    dialog.get_by_label("Name").fill("Hall lamps")
    dialog.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", name="Hall lamps")).to_be_visible()
    page.get_by_role("button", name="Delete").click()
    dialog.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("heading", name="No firmware yet")).to_be_visible()
