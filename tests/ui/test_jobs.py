"""Jobs in the page: devices are selected, a preview shows what changes, and the job has the result of each."""

from __future__ import annotations

import os

from playwright.sync_api import expect


def results(page):
    """The rows of a job's devices."""
    return page.get_by_role("grid", name="Devices of the job").get_by_role("row")


def test_values_are_previewed_and_set(page, person, axe):
    """From the selection to the results of the job, which is listed; and removed again."""
    for id in ("a", "b", "c"):
        person.register(id)
    person.http.post("/devices/a/shadow", json={"state": {"desired": {"interval": 30, "old": 1}}})
    person.http.post("/devices/b/shadow", json={"state": {"desired": {"interval": 10}}})
    for id in ("a", "b", "c"):
        page.get_by_role("checkbox", name=f"Select {id}", exact=True).check()
    page.get_by_role("button", name="Set desired…").click()
    values = page.get_by_label("Desired values (JSON)")
    values.fill("{}")
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_role("alert")).to_contain_text("Desired is an object with values")
    values.fill('{"interval": 30, "mode": {"night": true}}')
    page.get_by_label("Name").fill("report less")
    axe(page)
    page.get_by_role("button", name="Preview").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("3 of 3 devices would change")
    changes = dialog.get_by_role("table", name="Changes").get_by_role("row")
    expect(changes.nth(1)).to_have_text('modenone{"night":true}3')
    expect(changes.filter(has_text="10")).to_have_text("interval10301")
    dialog.get_by_text("Which devices").click()
    expect(dialog.get_by_text("a, b, c")).to_be_visible()
    axe(page)
    _picture(page, "preview")
    page.get_by_role("button", name="Set for 3 devices").click()
    expect(page.get_by_role("heading", name="report less")).to_be_visible()
    expect(page.get_by_role("status").filter(has_text="3 changed")).to_have_text(
        "3 changed, 0 had the values already, 0 failed"
    )
    expect(results(page).filter(has_text="changed")).to_have_count(3)
    axe(page)
    _picture(page, "job")
    assert [each["shadow"]["state"]["desired"]["mode"] for each in person.http.get("/devices").json()] == [
        {"night": True}
    ] * 3
    page.get_by_label("Outcome").select_option("Failed")
    expect(page.get_by_text("No device has this outcome.")).to_be_visible()
    page.get_by_role("link", name="← Jobs").click()
    card = page.get_by_role("article")
    expect(card).to_contain_text("Completed")
    expect(card).to_contain_text("interval = 30, mode.night = true")
    axe(page)
    _picture(page, "jobs")
    card.get_by_role("link", name="report less").click()
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("No jobs yet")).to_be_visible()


def test_what_cannot_change(page, person):
    """A device that cannot take the values is named with the reason; if nothing would change, nothing is begun."""
    for id in ("a", "b"):
        person.register(id)
    person.http.post("/devices/a/shadow", json={"state": {"desired": {"text": "x" * 32_000}}})
    person.http.post("/devices/b/shadow", json={"state": {"desired": {"more": "y" * 2000}}})
    for id in ("a", "b"):
        page.get_by_role("checkbox", name=f"Select {id}", exact=True).check()
    page.get_by_role("button", name="Set desired…").click()
    page.get_by_label("Desired values (JSON)").fill('{"more": "%s"}' % ("y" * 2000))
    page.get_by_role("button", name="Preview").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Nothing would change")
    expect(dialog).to_contain_text("a: The payload exceeds the maximum size allowed: 32768 bytes")
    dialog.get_by_role("button", name="Close", exact=True).click()
    expect(page.get_by_role("grid", name="Devices", exact=True)).to_be_visible()
    assert person.http.get("/jobs").json() == []


def test_a_job_that_another_makes_is_followed(open_page, person):
    """In the list and on its own page; and when it is removed elsewhere, the page says so."""
    person.register("a")
    page = open_page(person, "#/jobs")
    expect(page.get_by_text("No jobs yet")).to_be_visible()
    made = person.http.post("/jobs", json={"desired": {"n": 1}, "all": True, "name": "theirs"}).json()
    page.get_by_role("link", name="theirs").click()
    expect(results(page).filter(has_text="changed")).to_have_count(1)
    assert person.http.delete(f"/jobs/{made['id']}").json() is True
    expect(page.get_by_role("heading", name="This job was removed")).to_be_visible()


def _picture(page, name):
    """Keep a picture, to be looked at, if a folder for them is named."""
    if folder := os.environ.get("MDASH_PICTURES"):
        page.screenshot(path=f"{folder}/{name}.png")
