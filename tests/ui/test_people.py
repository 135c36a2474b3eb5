"""Keys for programs, accounts for people, and one's own profile."""

from __future__ import annotations

import httpx
from playwright.sync_api import expect

HOSTILE = ["<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>", "\u202eevil\u202c", "W" * 256]

PASSWORD = "correct horse"  # of every account here, until it is changed


def row(page, name):
    """A row of the table that is shown."""
    return page.get_by_role("table").get_by_role("row").filter(has_text=name)


def works(server, key):
    """Whether a key opens anything."""
    url, headers = f"{server.url}/api/v2/me", {"Authorization": f"Bearer {key}"}
    return httpx.get(url, headers=headers, verify=False).status_code == 200


# Keys


def test_a_key(open_page, person, server, axe):
    """It is shown once, and works; the list has when it was used last; deleted, it opens nothing."""
    page = open_page(person, "#/keys")
    expect(page.get_by_role("heading", name="No keys yet")).to_be_visible()
    axe(page)
    page.get_by_role("button", name="Create the first key").click()
    page.get_by_label("Name", exact=True).fill("nightly job")
    axe(page)
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="The new key")
    key = dialog.locator("code.token").inner_text()
    expect(dialog).to_contain_text(f'curl -H "Authorization: Bearer {key}" {server.url}/api/v2/devices')
    axe(page)
    dialog.get_by_role("button", name="Done").click()
    expect(row(page, "nightly job")).to_contain_text("never")
    expect(page.get_by_text(key)).to_have_count(0)
    assert works(server, key)
    page.reload()
    expect(row(page, "nightly job").get_by_role("cell").nth(2)).to_have_text("within the last hour")
    axe(page)
    page.get_by_role("button", name="Delete nightly job").click()
    dialog = page.get_by_role("dialog", name="Delete nightly job?")
    expect(dialog).to_contain_text("their connections are closed")
    axe(page)
    dialog.get_by_role("button", name="Cancel").click()
    assert works(server, key)
    page.get_by_role("button", name="Delete nightly job").click()
    dialog.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("heading", name="No keys yet")).to_be_visible()
    assert not works(server, key)


def test_an_error_stays_in_the_dialog(open_page, person):
    """What was typed too."""
    page = open_page(person, "#/keys")
    page.route("**/keys", lambda route: route.abort())
    page.get_by_role("button", name="Create", exact=True).click()
    page.get_by_label("Name", exact=True).fill("job")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").get_by_role("alert")).to_have_text("The server cannot be reached.")
    page.unroute("**/keys")
    page.get_by_role("dialog").get_by_role("button", name="Create").click()
    expect(page.get_by_role("dialog", name="The new key")).to_be_visible()


def test_every_look(open_page, make_person, in_every_look):
    """Hostile names of keys stay text; no view is wider than the screen, and all are accessible."""
    admin = make_person(admin=True)
    for name in HOSTILE:
        admin.http.post("/keys", json={"name": name})
    page = open_page(admin, "#/keys")
    for name in HOSTILE:
        expect(page.get_by_role("table").get_by_text(name, exact=True)).to_be_visible()
    for view in ("keys", "users", "profile"):
        page.goto(f"/#/{view}")
        expect(page.get_by_role("heading", name=view, level=1)).to_be_visible()
        in_every_look(page)


# Users


def test_users(open_page, make_person, server, axe):
    """An admin adds one, gives them another password and another standing, and removes them; each asks or tells."""
    admin = make_person(admin=True)
    name = f"new{admin.name}"
    page = open_page(admin, "#/users")
    expect(row(page, admin.name)).to_contain_text("you")
    axe(page)
    page.get_by_role("button", name="Add", exact=True).click()
    dialog = page.get_by_role("dialog", name="Add a user")
    dialog.get_by_label("Name").fill("no spaces")
    dialog.get_by_role("button", name="Generate").click()
    password = dialog.get_by_label("Password").input_value()
    assert len(password) == 20
    axe(page)
    dialog.get_by_role("button", name="Add").click()
    expect(dialog.get_by_role("alert")).to_contain_text("A user name has 1 to 64 characters")
    dialog.get_by_label("Name").fill(name)
    dialog.get_by_role("button", name="Add").click()
    expect(page.get_by_text(f"{name} can log in now.")).to_be_visible()
    expect(row(page, name)).to_contain_text("User")
    with server.client(name, password) as http:
        assert http.get("/me").json() == {"name": name, "admin": False}
    page.get_by_role("button", name=f"Reset the password of {name}").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Their sessions end immediately")
    axe(page)
    dialog.get_by_label("Password").fill("another")
    dialog.get_by_label("Admin").check()
    dialog.get_by_role("button", name="Reset").click()
    expect(row(page, name)).to_contain_text("Admin")
    with server.client(name, "another") as http:
        assert http.get("/me").json() == {"name": name, "admin": True}
    page.get_by_role("button", name=f"Remove {name}").click()
    expect(page.get_by_role("dialog")).to_contain_text("All devices of this user are removed")
    axe(page)
    page.get_by_role("dialog").get_by_role("button", name=f"Remove {name}").click()
    expect(row(page, name)).to_have_count(0)
    with server.client(name, "another") as http:
        assert http.get("/me").status_code == 401


def test_the_present_view_is_in_sight(open_page, make_person):
    """A phone has not room for the names of all views: that of the present one is moved into sight."""
    page = open_page(make_person(admin=True), "#/devices", viewport={"width": 390, "height": 844})
    for name in ("Users", "Devices"):
        page.goto(f"/#/{name.lower()}")
        link = page.get_by_role("navigation", name="Main").get_by_role("link", name=name)
        expect(link).to_have_attribute("aria-current", "page")
        expect(link).to_be_in_viewport(ratio=0.99)


def test_users_are_for_admins(open_page, person, axe):
    """Other users have no such place in the navigation; its address shows a message, and leads to their own profile."""
    page = open_page(person, "#/users")
    expect(page.get_by_role("heading", name="Only for admins")).to_be_visible()
    expect(page.get_by_role("navigation", name="Main").get_by_role("link", name="Users")).to_have_count(0)
    axe(page)
    page.get_by_role("link", name="To your profile").click()
    expect(page.get_by_role("heading", name="Profile", level=1)).to_be_visible()


# The profile


def change(page, old, new, again=None):
    """Fill the form in, and send it."""
    page.get_by_label("Old password").fill(old)
    page.get_by_label("New password", exact=True).fill(new)
    page.get_by_label("New password again").fill(again or new)
    page.get_by_role("button", name="Change the password").click()


def test_changing_one_s_password(open_page, person, axe):
    """What is wrong is said beside the form; here one stays logged in, everywhere else one is logged out."""
    page, elsewhere = open_page(person, "#/profile"), open_page(person)
    expect(page.get_by_role("main")).to_contain_text(person.name)
    change(page, PASSWORD, "new one", "new once")
    expect(page.get_by_role("alert")).to_have_text("The two new passwords are not the same.")
    change(page, "wrong", "new one")
    expect(page.get_by_role("alert")).to_have_text("The old password is wrong.")
    axe(page)
    change(page, PASSWORD, "new one")
    expect(page.get_by_text("The password is changed.")).to_be_visible()
    expect(page.get_by_label("Old password")).to_have_value("")
    expect(elsewhere.get_by_role("heading", name="Log in")).to_be_visible()
    page.get_by_role("link", name="Devices").click()
    with person.server.client(person.name, "new one") as http:
        assert http.post("/devices", json={"id": "lamp"}).status_code == 201
    expect(page.get_by_text("1 device, 0 online")).to_be_visible()
    expect(page.get_by_role("status").filter(has_text="Reconnecting")).to_be_hidden()


def test_logging_out_everywhere(open_page, person, axe):
    """After one question; every browser comes to the login, this one too."""
    page, elsewhere = open_page(person, "#/profile"), open_page(person, "#/keys")
    page.get_by_role("button", name="Log out everywhere…").click()
    dialog = page.get_by_role("dialog", name="Log out everywhere?")
    expect(dialog).to_contain_text("this one too")
    axe(page)
    dialog.get_by_role("button", name="Log out everywhere").click()
    for each in (page, elsewhere):
        expect(each.get_by_role("heading", name="Log in")).to_be_visible()
        each.reload()
        expect(each.get_by_role("heading", name="Log in")).to_be_visible()
