"""The focus stays near where it was, whatever becomes of what had it."""

from __future__ import annotations

from playwright.sync_api import expect


def press(button):
    """Press a button by keyboard."""
    button.focus()
    button.press("Enter")


def test_a_button_that_was_busy_has_it_again(open_page, person, fleet, hold):
    """It is disabled while its call runs: the form has the focus meanwhile, and gives it back."""
    fleet.connect("lamp")
    page = open_page(person, "#/device/lamp/rpc")
    page.get_by_role("button", name="RPC.Ping").click()
    held = hold(page, "**/rpc/RPC.Ping*")
    press(page.get_by_role("button", name="Call", exact=True))
    expect(page.get_by_role("form", name="Call")).to_be_focused()
    held.take().continue_()
    expect(page.get_by_text("✓ Answered")).to_be_visible()
    expect(page.get_by_role("button", name="Call", exact=True)).to_be_focused()


def test_what_has_nothing_left_to_do_leaves_it_near(open_page, person, fleet):
    """With nothing more to save, the button stays disabled: Tab goes on in its form, which is no stop itself."""
    fleet.connect("lamp")
    page = open_page(person, "#/device/lamp/shadow")
    page.get_by_label("Path").fill("on")
    page.get_by_label("Value").fill("true")
    page.keyboard.press("Enter")
    press(page.get_by_role("button", name="Save"))
    form = page.get_by_role("form", name="Desired")
    expect(page.get_by_text("Saved, and sent to the device.")).to_be_visible()  # said once the form is drawn again
    expect(page.get_by_role("button", name="Save")).to_be_disabled()
    expect(form).to_be_focused()
    page.keyboard.press("Tab")
    assert form.evaluate("(form) => form !== document.activeElement && form.contains(document.activeElement)")
    expect(form).not_to_have_attribute("tabindex", "-1")


def test_what_goes_leaves_it_on_the_page(open_page, person, fleet, install):
    """The banner goes with the act; the content has the focus, not the very beginning of the page."""
    fleet.connect("lamp")
    install("lamp")
    page = open_page(person, "#/device/lamp/overview")
    banner = page.get_by_role("region", name="Uncommitted firmware")
    press(banner.get_by_role("button", name="Commit"))
    expect(banner).to_be_hidden()
    expect(page.get_by_role("main")).to_be_focused()


def test_the_user_does_not_get_it_back_unwanted(open_page, person, fleet):
    """What a person has turned away from gets no focus by what happens on the page."""
    page = open_page(person)
    search = page.get_by_role("combobox", name="Filter devices")
    search.focus()
    search.blur()
    fleet.connect("lamp")
    expect(page.get_by_role("grid").get_by_role("row").filter(has_text="lamp")).to_contain_text("Online")
    page.evaluate("new Promise(requestAnimationFrame)")
    assert page.evaluate("document.activeElement === document.body")
