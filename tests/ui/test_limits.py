"""What accounts may have, and have; and what is damaged."""

from __future__ import annotations

import re

from playwright.sync_api import expect


def row(page, name):
    """A row of the table that is shown."""
    return page.get_by_role("table").get_by_role("row").filter(has_text=name)


def answer(page, pattern, change):
    """Have the server's JSON at an address changed on its way."""

    def handle(route):
        if route.request.method != "GET":
            route.fallback()
            return
        response = route.fetch()
        value = response.json()
        change(value)
        route.fulfill(response=response, json=value)

    page.route(pattern, handle)


def test_an_admin_sees_every_account(open_page, make_person, in_every_look):
    """By user, with the limits below; reached from the users; no wider than the screen."""
    admin, other = make_person(admin=True), make_person()
    for id in ("d1", "d2"):
        other.register(id)
    page = open_page(admin, "#/users")
    page.get_by_role("link", name="Limits").click()
    expect(page.get_by_role("heading", name="Limits", level=1)).to_be_visible()
    expect(row(page, other.name).get_by_role("cell").nth(0)).to_have_text("2")
    expect(page.get_by_role("definition").filter(has_text="100,000")).to_be_visible()
    expect(page.get_by_text("4.0 GiB")).to_be_visible()
    in_every_look(page)


def test_what_is_nearly_used_up_shows(open_page, make_person, axe):
    """An account at its limit, one near it, and a disk below the floor."""
    admin = make_person(admin=True)

    def nearly(value):
        account = next(each for each in value["accounts"] if each["name"] == admin.name)
        account["use"] |= {"devices": 100_000, "keys": 950}
        value["disk"] = {"free": 2**20, "floor": 512 * 2**20}

    page = open_page(admin, "#/profile")
    answer(page, "**/api/v2/users/limits", nearly)
    page.goto("/#/limits")
    expect(row(page, admin.name)).to_contain_text("100,000all")
    expect(row(page, admin.name)).to_contain_text("95095 %")
    expect(
        page.get_by_text(
            "The disk has 1.0 MiB left: below 512.0 MiB uploads of images are refused. All other functions work."
        )
    ).to_be_visible()
    axe(page)


def test_a_user_sees_their_own(open_page, person, axe):
    """In the profile; the other page says where."""
    person.register("d1")
    page = open_page(person, "#/limits")
    page.get_by_role("link", name="To your profile").click()
    section = page.locator(".card").filter(has=page.get_by_role("heading", name="What you have"))
    expect(section).to_contain_text("Devices1 of 100,000")
    expect(section).to_contain_text("Images0 B of 4.0 GiB")
    axe(page)


def test_what_is_damaged_is_shown(open_page, make_person, axe):
    """Devices, keys, users and rollouts that the server could not read have a tag, and can be removed."""
    admin = make_person(admin=True)
    admin.register("d1")
    admin.http.post("/keys", json={"name": "job"})
    page = open_page(admin, "#/profile")
    answer(page, re.compile(r"/api/v2/devices\?limit"), lambda value: value[0].update(damaged=["shadow"]))
    answer(page, "**/api/v2/devices/d1", lambda value: value.update(damaged=["shadow"]))
    answer(page, "**/api/v2/keys", lambda value: value[0].update(name="", damaged=["key"]))
    answer(page, "**/api/v2/users", lambda value: value[0].update(damaged=["account"], created_at=None))
    answer(page, "**/api/v2/rollouts", lambda value: value.append({"id": "rol_lost", "damaged": ["rollout"]}))
    page.reload()
    for view in ("devices", "keys", "users", "rollouts", "device/d1"):
        page.goto(f"/#/{view}")
        expect(page.get_by_role("heading", name=view.removeprefix("device/"), level=1)).to_be_visible()
        expect(page.get_by_text("damaged", exact=True)).to_be_visible()
        axe(page)
    page.goto("/#/rollouts")
    page.get_by_role("button", name="Remove rol_lost").click()
    expect(page.get_by_role("dialog")).to_contain_text("does not continue")
    with page.expect_request("**/api/v2/rollouts/rol_lost") as request:
        page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    assert request.value.method == "DELETE"
