"""The lists of keys and of users: kept as they are on the server, and left in peace."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect


def row(page, name):
    """A row of the table that is shown."""
    return page.get_by_role("table").get_by_role("row").filter(has_text=name)


def make_keys(person, *names):
    """Make keys over REST."""
    for name in names:
        assert person.http.post("/keys", json={"name": name}).status_code in (200, 201)


def come_back(page):
    """The events of a page that is shown again."""
    page.evaluate("window.dispatchEvent(new Event('focus'))")


@pytest.fixture
def admin(make_person):
    """An account that manages others."""
    return make_person(admin=True)


def answered(page):
    """Wait until the page has dealt with the answers that are on their way."""
    page.evaluate("async () => void (await (await fetch('/api/v2/session')).text())")


def break_reading(page, pattern):
    """From now on the list cannot be read."""
    page.route(pattern, lambda route: route.abort() if route.request.method == "GET" else route.fallback())


def test_keys_that_cannot_be_read_again(open_page, person, axe):
    """The secret is shown, the act is done, and the page says that its list may be old, and how to go on."""
    make_keys(person, "old")
    page = open_page(person, "#/keys")
    expect(row(page, "old")).to_be_visible()
    break_reading(page, "**/api/v2/keys")
    page.get_by_role("button", name="Create", exact=True).click()
    page.get_by_label("Name", exact=True).fill("new")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="The new key")
    expect(dialog.locator("code.token")).not_to_be_empty()
    dialog.get_by_role("button", name="Done").click()
    alert = page.get_by_role("alert").filter(has_text="This list may be old")
    expect(alert).to_contain_text("The server cannot be reached")
    axe(page)
    page.get_by_role("button", name="Delete old").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(row(page, "old")).to_have_count(0)
    expect(alert).to_be_visible()
    page.unroute("**/api/v2/keys")
    page.get_by_role("button", name="Try again").click()
    expect(row(page, "new")).to_be_visible()
    expect(alert).to_be_hidden()


@pytest.mark.proof  # as keys
def test_users_that_cannot_be_read_again(open_page, admin, make_person):
    """The same for accounts."""
    other = make_person()
    page = open_page(admin, "#/users")
    expect(row(page, other.name)).to_be_visible()
    break_reading(page, "**/api/v2/users")
    page.get_by_role("button", name=f"Remove {other.name}").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(page.get_by_text(f"{other.name} is removed.")).to_be_visible()
    expect(row(page, other.name)).to_have_count(0)
    expect(page.get_by_role("alert")).to_contain_text("This list may be old")


def test_a_view_that_is_left_asks_for_nothing(open_page, person, hold):
    """Its list may be read in vain, without a message."""
    page = open_page(person, "#/keys")
    expect(page.get_by_role("heading", name="No keys yet")).to_be_visible()
    held = hold(page, "**/api/v2/keys")
    come_back(page)
    asked = held.take()
    page.get_by_role("link", name="Devices").click()
    expect(page.get_by_role("heading", name="Devices", level=1)).to_be_visible()
    asked.abort()
    come_back(page)
    answered(page)
    assert held.routes == []
    expect(page.get_by_role("alert")).to_have_count(0)


def test_the_focus_after_deleting(open_page, person):
    """It goes to the same button of the next row, of the one before where there is none, and to what is left; also if
    the list was read meanwhile, and has the row no more."""
    make_keys(person, "a", "b", "c")
    page = open_page(person, "#/keys")
    buttons = page.get_by_role("button", name="Delete ")
    expect(buttons).to_have_count(3)
    names = [button.get_attribute("aria-label") for button in buttons.all()]

    def read_meanwhile(route):
        answer = route.fetch()
        with page.expect_response("**/api/v2/keys"):
            come_back(page)
        answered(page)
        route.fulfill(response=answer)

    page.route("**/api/v2/keys/*", read_meanwhile, times=1)
    order = [(names[1], names[2]), (names[2], names[0])]
    for gone, next_ in order:
        page.get_by_role("button", name=gone).focus()
        page.keyboard.press("Enter")
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        expect(page.get_by_role("button", name=gone)).to_have_count(0)
        expect(page.get_by_role("button", name=next_)).to_be_focused()
    page.keyboard.press("Enter")
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("button", name="Create the first key")).to_be_focused()


@pytest.mark.proof  # as keys
def test_the_focus_after_removing_a_user(open_page, admin, make_person):
    """As with keys."""
    other = make_person(f"zz{admin.name}")
    page = open_page(admin, "#/users")
    page.get_by_role("button", name=f"Remove {other.name}").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(row(page, other.name)).to_have_count(0)
    expect(page.locator("tr :focus")).to_have_count(1)


def test_what_another_browser_does_shows(open_page, person):
    """When one comes back to the page; the focus and an open dialog stay, and so does the row that they belong to."""
    make_keys(person, "mine", "theirs")
    page, other = open_page(person, "#/keys"), open_page(person, "#/keys")
    mine = page.get_by_role("button", name="Delete mine")
    mine.focus()
    other.get_by_role("button", name="Delete theirs").click()
    other.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(row(other, "theirs")).to_have_count(0)
    make_keys(person, "newer")
    come_back(page)
    expect(row(page, "newer")).to_be_visible()
    expect(row(page, "theirs")).to_have_count(0)
    expect(mine).to_be_focused()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Delete mine?")
    make_keys(person, "newest")
    with page.expect_response("**/api/v2/keys"):
        come_back(page)
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(row(page, "newest")).to_be_visible()
    expect(mine).to_be_focused()


def test_a_list_that_is_looked_at_is_read_again(open_page, person, is_live):
    """Every so often, by itself; and not while the page is hidden."""
    page = open_page(person, "#/profile", fresh=True)
    page.clock.install()
    page.goto("/#/keys")
    expect(page.get_by_role("heading", name="No keys yet")).to_be_visible()
    is_live(page)
    make_keys(person, "nightly")
    page.clock.fast_forward("00:35")
    expect(row(page, "nightly")).to_be_visible()
    asked = []
    page.on("request", lambda request: asked.append(request.url) if request.url.endswith("/keys") else None)
    page.evaluate("Object.defineProperty(document, 'visibilityState', {value: 'hidden', configurable: true})")
    page.clock.fast_forward("02:00")
    page.evaluate("async () => void (await (await fetch('/api/v2/session')).text())")
    assert asked == []


def test_a_dialog_works_on_the_account_as_it_is(open_page, admin, make_person):
    """Made an admin elsewhere meanwhile, they are not made a plain user again by a reset of their password."""
    other = make_person()
    page = open_page(admin, "#/users")
    expect(row(page, other.name)).to_contain_text("User")
    admin.http.put(f"/users/{other.name}", json={"password": "x", "admin": True})
    come_back(page)
    expect(row(page, other.name)).to_contain_text("Admin")
    page.get_by_role("button", name=f"Reset the password of {other.name}").click()
    expect(page.get_by_role("dialog").get_by_label("Admin")).to_be_checked()
