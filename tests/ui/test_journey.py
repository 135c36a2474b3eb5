"""A new user's way, from the login to an updated device."""

from __future__ import annotations

import re

from playwright.sync_api import expect


def test_the_first_hour(open_page, person, fleet, make_firmware, tmp_path):
    """All that the dashboard is for, in one go, by what is written on the page and nothing else."""
    page = open_page(None, "#/login")
    page.get_by_label("User", exact=True).fill(person.name)
    page.get_by_label("Password").fill(person.password)
    page.get_by_role("button", name="Log in").click()

    page.get_by_role("main").get_by_role("link", name="To the devices").click()

    # Registers a device, and sees it turn green.
    page.get_by_role("button", name="Register the first device").click()
    page.get_by_label("Id").fill("lamp")
    page.get_by_label("Name").fill("Lamp in the hall")
    page.get_by_role("dialog").get_by_role("button", name="Register").click()
    registered = page.get_by_role("dialog", name="Registered")
    token = registered.locator("code.token").inner_text()
    registered.get_by_role("button", name="Done").click()
    row = page.get_by_role("grid", name="Devices").get_by_role("row").filter(has_text="Lamp in the hall")
    expect(row).to_contain_text("Offline")
    fleet.connect("lamp", token=token)  # what the copied line does in a terminal
    expect(row).to_contain_text("Online")
    row.get_by_role("link", name="Lamp in the hall").click()
    expect(page.get_by_role("heading", name="Lamp in the hall", level=1)).to_be_visible()
    tabs = page.get_by_role("navigation", name="Device")

    # Changes its desired state, and watches the delta vanish.
    tabs.get_by_role("link", name="Shadow").click()
    page.get_by_label("Path").fill("on")
    page.get_by_label("Value").fill("true")
    page.get_by_role("button", name="Add", exact=True).click()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("group", name="Reported state")).to_contain_text("on: true")
    expect(page.get_by_role("region", name="Delta")).to_contain_text("the device reports the desired state")

    # Writes a file on it, and edits it.
    tabs.get_by_role("link", name="Files").click()
    page.get_by_role("button", name="New file").click()
    page.get_by_role("dialog").get_by_label("Name").fill("init.js")
    page.get_by_role("button", name="Write it").click()
    for text in ("print('one');\n", "print('another');\n"):
        page.get_by_label("Content of init.js").fill(text)
        page.get_by_role("region", name="Content").get_by_role("button", name="Save").click()
        expect(page.get_by_role("row", name="init.js")).to_contain_text(f"{len(text)} B")
    assert (tmp_path / "devices" / "lamp" / "fs" / "init.js").read_text() == "print('another');\n"

    # Calls a method.
    tabs.get_by_role("link", name="RPC").click()
    page.get_by_role("button", name="Sys.GetInfo").click()
    page.get_by_role("button", name="Call").click()
    expect(page.get_by_role("group", name="Result")).to_contain_text('"fw_version": "1.0"')

    # Updates the firmware, and commits it.
    tabs.get_by_role("link", name="OTA").click()
    image = {"name": "fw.zip", "mimeType": "application/zip", "buffer": make_firmware(version="2.0")}
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose a file").click()
    chooser.value.set_files(image)
    page.get_by_role("button", name="Update the device").click()
    banner = page.get_by_role("region", name="Uncommitted firmware")
    expect(banner).to_contain_text("2.0 is not committed")
    banner.get_by_role("button", name="Commit").click()
    expect(banner).to_be_hidden()
    expect(page.get_by_role("list", name=re.compile("Now: Committed"))).to_be_visible()

    # And it stands in the list.
    page.get_by_role("link", name="← Devices").click()
    expect(row).to_contain_text("2.0")
    expect(row).not_to_contain_text("uncommitted")
