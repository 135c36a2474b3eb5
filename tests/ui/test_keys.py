"""The keys of the whole page, what Escape must not lose, and the page on paper."""

from __future__ import annotations

from playwright.sync_api import expect

EVIL = "<img src=x onerror=alert(1)>"


def test_the_page_by_its_keys(open_page, person, axe):
    """To the search, to a view, to a device by name and id, and to the list of keys; in fields they are text."""
    for id, name in (("esp32_A4CF12", "Lamp in the hall"), ("meter", "Water meter"), ("evil", EVIL)):
        person.register(id, name)
    page = open_page(person)
    expect(page.get_by_text("3 devices")).to_be_visible()
    page.keyboard.press("/")
    search = page.get_by_label("Filter devices")
    expect(search).to_be_focused()
    page.keyboard.type("a/b?")
    expect(search).to_have_value("a/b?")
    expect(page.get_by_role("dialog")).to_have_count(0)
    search.fill("")
    page.keyboard.press("Control+k")  # also in a search
    dialog = page.get_by_role("dialog", name="Go to")
    to = dialog.get_by_role("combobox", name="Go to")
    expect(to).to_be_focused()
    expect(dialog.get_by_role("option", name="Rollouts")).to_be_visible()
    axe(page)
    to.fill("a4cf12")
    expect(dialog.get_by_role("status")).to_have_text("1 place")
    expect(dialog.get_by_role("option", selected=True)).to_contain_text("Lamp in the hall")
    to.fill("img src")
    expect(dialog.get_by_role("option", selected=True)).to_contain_text(EVIL)
    to.fill("nosuch")
    expect(dialog.get_by_role("status")).to_have_text("Nothing has this in its name.")
    to.fill("e")
    expect(dialog.get_by_role("option").nth(2)).to_be_visible()
    page.keyboard.press("ArrowUp")
    expect(dialog.get_by_role("option").last).to_have_attribute("aria-selected", "true")
    to.fill("water")
    expect(dialog.get_by_role("status")).to_have_text("1 place")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Water meter", level=1)).to_be_visible()
    page.keyboard.press("/")
    expect(page.locator("#announce")).to_have_text("This view has no search.")
    page.keyboard.press("?")
    keys = page.get_by_role("dialog", name="Keys")
    expect(keys).to_contain_text("Search or filter what is shown")
    axe(page)
    page.keyboard.press("Control+k")
    expect(page.get_by_role("dialog")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(keys).to_have_count(0)
    page.get_by_role("button", name="Go to…").click()
    to.fill("jobs")
    expect(dialog.get_by_role("status")).to_have_text("1 place")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Jobs", level=1)).to_be_visible()
    expect(page).to_have_title("Jobs · mdash")
    assert page.locator("main img").count() == 0


def test_a_device_of_a_large_fleet_is_found_by_the_server(open_page, person, tweak, is_live):
    """By words of its name, also with signs that mean something in a filter."""
    for n in range(3):
        person.register(f"d{n}", f"Lamp {n} (north|south)")
    page = open_page(person, fresh=True)
    tweak(page, "live.js", WHOLE_FLEET=2)
    is_live(page)
    page.keyboard.press("Control+k")
    page.get_by_role("combobox", name="Go to").fill("lamp 2 (north|")
    expect(page.get_by_role("dialog").get_by_role("status")).to_have_text("1 place")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Lamp 2 (north|south)", level=1)).to_be_visible()


def test_escape_loses_no_secret_and_no_result(open_page, person, axe, wait_until):
    """A token and a key stay until they are dismissed by name; the results of a bulk act are found again."""
    page = open_page(person)
    page.get_by_role("button", name="Register the first device").click()
    page.get_by_label("Id", exact=True).fill("lamp")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Registered")
    token = dialog.locator("code.token")
    expect(token).to_be_visible()
    for _ in range(3):  # browsers let a page refuse only once
        page.keyboard.press("Escape")
        expect(dialog.get_by_text("Copy it, then close this with Done")).to_be_visible()
    page.evaluate("location.hash = '#/keys'")
    expect(page).to_have_title("Keys · mdash")
    expect(token).to_be_visible()
    axe(page)
    dialog.get_by_role("button", name="Done").click()
    expect(dialog).to_have_count(0)
    page.get_by_role("button", name="Create", exact=True).click()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="The new key")
    expect(dialog.locator("code.token")).to_be_visible()
    key = dialog.locator("code.token").inner_text()
    page.keyboard.press("Escape")
    expect(dialog.locator("code.token")).to_be_visible()
    dialog.get_by_role("button", name="Done").click()
    expect(page.get_by_role("row").nth(1)).to_contain_text("never")
    used = person.http.get("/devices", auth=None, headers={"Authorization": f"Bearer {key}"})
    assert used.status_code == 200
    wait_until(page, lambda: person.http.get("/keys").json()[0]["last_used"])
    page.reload()
    expect(page.get_by_role("row").nth(1)).to_contain_text("within the last hour")

    page.goto("/#/devices")
    page.get_by_label("Select lamp").check()
    page.get_by_role("button", name="Call a method…").click()
    page.get_by_label("Method", exact=True).fill("Sys.GetInfo")
    page.get_by_role("button", name="Call", exact=True).click()
    dialog = page.get_by_role("dialog", name="Calling Sys.GetInfo")
    expect(dialog).to_contain_text("1 failed")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    page.get_by_role("button", name="Show", exact=True).click()
    expect(dialog).to_contain_text("1 failed")
    dialog.get_by_role("button", name="Close").click()
    expect(page.get_by_role("button", name="Show", exact=True)).to_have_count(0)


def test_a_list_on_paper_is_whole(open_page, person):
    """All rows are printed, not those alone that are in sight; what is for the screen is not."""
    for n in range(60):
        person.register(f"d{n:02}", f"Lamp {n}")
    page = open_page(person, fresh=True)
    expect(page.get_by_text("60 devices")).to_be_visible()
    expect(page.get_by_text("Lamp 59")).to_have_count(0)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    expect(page.get_by_text("Lamp 59")).to_be_visible()
    expect(page.get_by_role("navigation", name="Main")).to_be_hidden()
    boxes = [page.get_by_text(f"Lamp {n}", exact=True).bounding_box() for n in (58, 59)]
    assert boxes[0]["y"] < boxes[1]["y"]
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    expect(page.get_by_text("Lamp 59")).to_have_count(0)
