"""What one leaves while it is under way: dialogs, views, jobs and messages."""

from __future__ import annotations

import re

from playwright.sync_api import expect
from rows import every_row


def answered(page):
    """Wait until the page has dealt with the answers that are on their way."""
    page.evaluate("async () => void (await (await fetch('/api/v2/session')).text())")


def toasts(page):
    """The messages."""
    return page.get_by_role("region", name="Messages")


# Dialogs

WAYS = {
    "Escape": lambda page: page.keyboard.press("Escape"),
    "Hide": lambda page: page.get_by_role("button", name="Hide").click(),
    "elsewhere": lambda page: page.evaluate("location.hash = '#/profile'"),
}


def begin_to_register(page, id):
    """Send the form; its dialog."""
    page.get_by_role("button", name="Register", exact=True).click()
    dialog = page.get_by_role("dialog", name="Register a device")
    dialog.get_by_label("Id").fill(id)
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("button", name="Register")).to_have_attribute("aria-busy", "true")
    return dialog


def test_a_token_is_shown_even_if_one_left(page, fleet, hold, axe):
    """Registering goes on behind a dialog that was closed, says so, and its token is shown this once."""
    held = hold(page, "**/api/v2/devices", "POST")
    for number, (way, leave) in enumerate(WAYS.items(), 1):
        dialog = begin_to_register(page, f"lamp{number}")
        if number == 1:
            axe(page)
        leave(page)
        expect(dialog).to_be_hidden()
        toast = toasts(page).get_by_role("status").filter(has_text="Register a device goes on")
        expect(toast, way).to_have_count(1)
        toast.get_by_role("button", name="Dismiss").click()
        held.take().continue_()
        shown = page.get_by_role("dialog", name="Registered")
        fleet.connect(f"lamp{number}", token=shown.locator("code.token").inner_text())
        shown.get_by_role("button", name="Done").click()
        page.goto("/#/devices")
        expect(page.get_by_text(re.compile(f"^{number} devices?, {number} online"))).to_be_visible()


def test_an_error_is_told_even_if_one_left(page, hold):
    """As a message, which says of what; it stays until it is dismissed."""
    held = hold(page, "**/api/v2/devices", "POST")
    begin_to_register(page, "lamp")
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)
    held.take().fulfill(status=503, json={"error": {"code": 503, "message": "the store is full"}})
    alert = page.get_by_role("alert").filter(has_text="Register a device: The store is full.")
    expect(alert).to_be_visible()
    alert.get_by_role("button", name="Dismiss").click()
    expect(alert).to_have_count(0)


def test_an_error_behind_a_view_is_told(page, person, fleet, hold):
    """The button that began it is gone with its tab: what it says comes as a message."""
    fleet.connect("lamp")
    page.goto("/#/device/lamp/config")
    held = hold(page, "**/rpc/Config.Set*", "POST")
    page.get_by_label("level of debug.level", exact=True).fill("3")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_role("button", name="Save", exact=True)).to_have_attribute("aria-busy", "true")
    page.get_by_role("link", name="Overview").click()
    expect(page.get_by_role("heading", name="About")).to_be_visible()
    held.take().fulfill(status=504, json={"error": {"code": 504, "message": "no answer"}})
    expect(page.get_by_role("alert").filter(has_text="Save: No answer.")).to_be_visible()


def test_messages_have_a_bound(page):
    """Errors stay until the user dismisses them, and only the newest few; messages make room for them first."""
    page.evaluate(
        """async () => {
          const {toast} = await import(ui("dialog.js"));
          toast("a message");
          for (let n = 0; n < 12; n += 1) toast(`error ${n}`, {error: true});
        }"""
    )
    expect(toasts(page).get_by_role("alert")).to_contain_text([f"error {n}" for n in range(7, 12)])
    expect(toasts(page).get_by_role("alert")).to_have_count(5)
    expect(toasts(page).get_by_role("status")).to_have_count(0)
    page.evaluate("async () => void (await import(ui('dialog.js'))).toast('another message')")
    expect(toasts(page).get_by_role("status")).to_have_text("another message×")
    expect(toasts(page).get_by_role("alert")).to_have_count(4)
    toasts(page).get_by_role("button", name="Dismiss").first.click()
    expect(toasts(page).get_by_role("alert")).to_have_count(3)


def test_logging_out_takes_the_messages_along(page):
    """What was told to one person is not for the next."""
    page.evaluate("async () => void (await import(ui('dialog.js'))).toast('Read secret.txt: failed', {error: true})")
    expect(toasts(page).get_by_role("alert")).to_have_count(1)
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    expect(toasts(page).get_by_role("alert")).to_have_count(0)


# Views


def test_a_slow_view_does_not_push_in(page, person, hold):
    """While it loads the page says so; a user who goes back to the former view stays there."""
    person.register("lamp")
    expect(page.get_by_text("1 device")).to_be_visible()
    held = hold(page, "**/api/v2/keys", "GET")
    page.get_by_role("link", name="Keys").click()
    expect(page.get_by_role("status").filter(has_text="Loading…")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("status").filter(has_text="Loading…")).to_have_count(0)
    held.take().continue_()
    answered(page)
    expect(page).to_have_title("Devices · mdash")
    expect(page.get_by_role("heading", name="Devices", level=1)).to_be_visible()
    page.get_by_role("link", name="Keys").click()
    expect(page.get_by_role("status").filter(has_text="Loading…")).to_be_visible()
    held.take().continue_()
    expect(page.get_by_role("heading", name="Keys", level=1)).to_be_visible()
    expect(page.get_by_role("status").filter(has_text="Loading…")).to_have_count(0)


@every_row(
    ("to", "heading"),
    [("%23%2Fkeys", "Keys"), ("https%3A%2F%2Fevil.example%2F", "Home"), ("%23%2Flogin", "Home"), ("", "Home")],
)
def test_the_login_of_a_user_who_is_logged_in(page, person, to, heading):
    """Leads on immediately, to views only."""
    page.goto(f"/#/login?to={to}")
    expect(page).to_have_url(f"{person.server.url}/#/{'' if heading == 'Home' else heading.lower()}")
    expect(page.get_by_role("heading", name=heading, level=1)).to_be_visible()


# Jobs


def begin_job(page, button, fill):
    """Begin an act for the device "lamp"."""
    page.get_by_label("Select lamp", exact=True).check()
    page.get_by_role("button", name=button).click()
    fill(page.get_by_role("dialog"))


def test_a_job_that_waits_stops_immediately(page, person):
    """The server has asked it to wait for half a minute; Stop does not wait for that."""
    person.register("lamp")
    asked = []

    def busy(route):
        asked.append(route)
        body = {"error": {"code": 429, "message": "too many"}}
        route.fulfill(status=429, json=body, headers={"Retry-After": "30"})

    page.route("**/rpc/RPC.Ping", busy)
    begin_job(page, "Call a method…", lambda dialog: dialog.get_by_label("Method", exact=True).fill("RPC.Ping"))
    with page.expect_response("**/rpc/RPC.Ping"):
        page.get_by_role("button", name="Call", exact=True).click()
    answered(page)
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("dialog")).to_contain_text("0 of 1 done, 1 stopped")
    assert len(asked) == 1


# Memory


def test_a_file_that_was_read_is_let_go(page):
    """Once it is handed over, nothing of the page holds what a transfer brought."""
    page.evaluate(
        """async () => {
          const {transfer} = await import(ui("views/device/transfers.js"));
          await transfer("somebody", "lamp", "Read a file", async () => {
            const data = new Uint8Array(1e6);
            window.data = new WeakRef(data);
            return data;
          }, {keep: false});
        }"""
    )
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    session.detach()
    assert page.evaluate("window.data.deref() === undefined")
