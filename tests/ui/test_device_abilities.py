"""What the page offers of a device: what its list of methods says that it can do."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from mdashcore._errors import RpcError


def tabs(page):
    """The tabs of the device."""
    return page.get_by_role("navigation", name="Device").get_by_role("link")


def test_tabs_are_what_the_device_lists(open_page, person, fleet, axe):
    """A device without files and configuration has no tabs for them, and is not called for them, by a link either."""
    called = []

    def refuse(params):
        called.append(params)
        raise RpcError(404, "No handler")

    answers = {"RPC.List": ["RPC.List", "Relay.Set"], "Relay.Set": None}
    answers |= dict.fromkeys(("Config.Get", "FS.List", "FS.ListExt", "RPC.Describe"), refuse)
    fleet.pretend("relay", answers)
    page = open_page(person, "#/device/relay")
    expect(tabs(page)).to_have_text(["Overview", "Shadow", "RPC", "Log"])
    for tab, words in (("config", "This device has no Config.Get"), ("files", "This device has no FS.List")):
        page.goto(f"/#/device/relay/{tab}")
        expect(page.get_by_role("status").filter(has_text=words)).to_be_visible()
        expect(page.get_by_role("alert")).to_have_count(0)
    axe(page)
    page.goto("/#/device/relay/ota")
    expect(page.get_by_text("This device lists no OTA.Begin")).to_be_visible()
    page.get_by_role("navigation", name="Device").get_by_role("link", name="RPC").click()
    page.get_by_role("button", name="Relay.Set").click()
    page.get_by_role("button", name="Call", exact=True).click()
    expect(page.get_by_role("form", name="Call")).to_contain_text("Answered in")
    expect(tabs(page)).to_have_text(["Overview", "Shadow", "RPC", "Log"])
    assert called == []


@pytest.mark.parametrize("listed", ["nothing", pytest.param("no list", marks=pytest.mark.proof)])
def test_a_device_that_lists_nothing_is_tried(open_page, person, fleet, listed):
    """Its tabs stay; what it then refuses is said calmly; any method can be called by its name."""
    answers = {"Hidden": {"x": 1}}
    if listed == "no list":
        answers["RPC.List"] = {"not": "a list"}
    fleet.pretend("mute", answers)
    page = open_page(person, "#/device/mute/config")
    expect(page.get_by_role("status").filter(has_text="This device has no Config.Get")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(tabs(page)).to_have_text(["Overview", "Shadow", "RPC", "Files", "Config", "OTA", "Log"])
    page.get_by_role("link", name="Call its methods").click()
    expect(page.get_by_text("The device does not list its methods")).to_be_visible()
    page.get_by_label("Method", exact=True).fill("Hidden")
    page.get_by_role("button", name="Call", exact=True).click()
    expect(page.get_by_role("group", name="Result")).to_contain_text('"x": 1')
