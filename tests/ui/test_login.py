"""Logging in and out, as a person does it."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from mdashcore.server.auth.login_failures import MAX_FAILURES


def fill_in(page, name, password):
    """Fill the form in, and send it by Enter."""
    page.get_by_label("User", exact=True).fill(name)
    page.get_by_label("Password").fill(password)
    page.keyboard.press("Enter")


def test_logging_in_leads_to_where_one_wanted_to_be(open_page, person, axe):
    """The form has the focus, its errors stand in it, and after it comes the view that was asked for."""
    page = open_page(None, "#/keys")
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    expect(page.get_by_label("User", exact=True)).to_be_focused()
    axe(page)
    fill_in(page, person.name, "wrong")
    expect(page.get_by_role("alert")).to_have_text("The user name or the password is wrong.")
    axe(page)
    fill_in(page, person.name, person.password)
    expect(page.get_by_role("heading", name="Keys", level=1)).to_be_visible()
    expect(page.get_by_role("navigation", name="Main").get_by_role("link", name="Keys")).to_have_attribute(
        "aria-current", "page"
    )
    page.reload()
    expect(page.get_by_role("heading", name="Keys", level=1)).to_be_visible()


def test_the_address_leads_to_no_other_site(open_page, person):
    """What stands behind ``to`` is a view, or is not heeded."""
    page = open_page(None, "#/login?to=https://evil.example/")
    fill_in(page, person.name, person.password)
    expect(page.get_by_role("heading", name="Home", level=1)).to_be_visible()
    assert page.url.startswith(person.server.url)


def test_logging_out_ends_it_in_every_window(open_page, person):
    """The session's other windows come to the login too; another browser stays logged in; the cookie is gone."""
    page, elsewhere = open_page(person), open_page(person)
    window = page.context.new_page()
    window.goto("/#/rollouts")
    expect(window.get_by_role("heading", name="Rollouts", level=1)).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    for each in (page, window):
        expect(each.get_by_role("heading", name="Log in")).to_be_visible()
    assert not page.context.cookies()
    elsewhere.reload()
    expect(elsewhere.get_by_role("heading", name="Devices", level=1)).to_be_visible()


def test_a_new_password_ends_every_session(open_page, person, server):
    """Immediately, and saying so."""
    page = open_page(person)
    with server.client("root") as root:
        assert root.put(f"/users/{person.name}", json={"password": "another"}).status_code == 200
    expect(page.get_by_text("The session has ended")).to_be_visible()  # for some seconds
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()


def test_the_cookie_is_out_of_reach(open_page, person):
    """Of scripts and of other sites."""
    page = open_page(None, "#/login")
    fill_in(page, person.name, person.password)
    expect(page.get_by_role("heading", name="Home", level=1)).to_be_visible()
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/")
    session = page.context.new_cdp_session(page)
    assert session.send("Runtime.evaluate", {"expression": "document.cookie"})["result"]["value"] == ""


def test_a_user_who_guesses_is_locked_out(open_page, person):
    """After some failures; the button says for how long, and the right password does not help meanwhile."""
    for _ in range(MAX_FAILURES):
        assert person.http.post("/login", json={"user": person.name, "password": "guess"}, auth=None).status_code == 401
    page = open_page(None, "#/login")
    fill_in(page, person.name, person.password)
    expect(page.get_by_role("alert")).to_have_text(
        re.compile(r"^Too many wrong passwords for this user\. Try again in \d+ s\.$")
    )
    expect(page.get_by_role("button", name="Locked for")).to_be_disabled()


def test_a_lock_is_of_one_user(open_page, person, make_person):
    """A user who typed another's name by mistake need not wait until that name's lock ends."""
    for _ in range(MAX_FAILURES):
        assert person.http.post("/login", json={"user": person.name, "password": "guess"}, auth=None).status_code == 401
    other = make_person()
    page = open_page(None, "#/login")
    fill_in(page, person.name, person.password)
    expect(page.get_by_role("button", name="Locked for")).to_be_disabled()
    fill_in(page, other.name, other.password)
    expect(page.get_by_role("heading", name="Home", level=1)).to_be_visible()


def test_skipping_to_the_content(page):
    """The first stop of Tab leads past the navigation, by mouse or keyboard, and does not change the address."""
    skip = page.get_by_role("link", name="Skip to content")
    for act in (lambda: page.keyboard.press("Enter"), skip.click):
        page.locator("body").press("Tab")
        expect(skip).to_be_focused()
        act()
        expect(page.get_by_role("main")).to_be_focused()
        assert page.url.endswith("#/devices")
        page.reload()
