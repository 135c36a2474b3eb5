"""Tags and saved filters in the page."""

from __future__ import annotations

from playwright.sync_api import expect


def rows(page):
    """The names of the devices that are shown, as links."""
    return page.get_by_role("grid", name="Devices").get_by_role("link")


def test_tags_of_one_device(open_page, person, axe):
    """Changed in a dialog, shown as chips, each of which leads to the devices that have it; other pages follow."""
    person.register("lamp", "Lamp")
    person.register("fan", "Fan")
    other = open_page(person)
    page = open_page(person, "#/device/lamp")
    page.get_by_role("button", name="Actions for this device").click()
    page.get_by_role("menuitem", name="Tags…").click()
    page.get_by_role("dialog").get_by_label("Tags").fill("site=berlin north\nindoor\n")
    axe(page)
    page.get_by_role("button", name="Save").click()
    tags = page.get_by_role("group", name="Tags")
    expect(tags.get_by_role("link")).to_have_text(["site=berlin north", "indoor"])
    expect(other.get_by_role("row").filter(has_text="Lamp")).to_contain_text("indoor")
    axe(page)
    page.get_by_role("button", name="Actions for this device").click()
    page.get_by_role("menuitem", name="Tags…").click()
    text = page.get_by_role("dialog").get_by_label("Tags")
    expect(text).to_have_value("site=berlin north\nindoor")
    text.fill("site=berlin north\n=x")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert")).to_contain_text("1 to 64 characters")
    text.fill("site=berlin north")
    page.get_by_role("button", name="Save").click()
    expect(tags.get_by_role("link")).to_have_text(["site=berlin north"])
    tags.get_by_role("link").click()
    expect(page.get_by_role("combobox", name="Filter devices")).to_have_value('tag.site="berlin north"')
    expect(rows(page)).to_have_text(["Lamp"])


def test_tags_of_many_devices(page, person, axe):
    """Those that are selected, in one act."""
    for id in ("a", "b", "c"):
        person.register(id)
    person.http.put("/devices/a", json={"tags": {"old": True}})
    for id in ("a", "b"):
        page.get_by_role("checkbox", name=f"Select {id}", exact=True).check()
    page.get_by_role("button", name="Tags…").click()
    page.get_by_role("dialog").get_by_label("Set").fill("site=x")
    page.get_by_role("dialog").get_by_label("Remove").fill("old")
    axe(page)
    page.get_by_role("button", name="Change tags").click()
    expect(page.get_by_text("The tags of 2 devices have changed.")).to_be_visible()
    for id, text in (("a", "site=x"), ("b", "site=x"), ("c", "c")):
        expect(page.get_by_role("row").filter(has=page.get_by_role("link", name=id, exact=True))).to_contain_text(text)
    found = person.http.get("/devices").json()
    assert [each["tags"] for each in found] == [{"site": "x"}, {"site": "x"}, {}]


def test_saved_filters(page, person, axe):
    """A chip for each above the list; it is pressed while its filter is the current one."""
    for id, tags in {"a": {"site": "x"}, "b": {"site": "y"}}.items():
        person.http.post("/devices", json={"id": id, "tags": tags})
    search = page.get_by_role("combobox", name="Filter devices")
    search.fill("tag.site=x")
    expect(rows(page)).to_have_text(["a"])
    page.get_by_role("button", name="Save this filter…").click()
    name = page.get_by_label("Name of the filter")
    name.fill("two words")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("1 to 64 letters")
    name.fill("xs")
    axe(page)
    page.get_by_role("button", name="Save", exact=True).click()
    chip = page.get_by_role("group", name="Saved filters").get_by_role("button", name="xs")
    expect(chip).to_have_attribute("aria-pressed", "true")
    axe(page)
    chip.click()
    expect(rows(page)).to_have_text(["a", "b"])
    expect(chip).to_have_attribute("aria-pressed", "false")
    search.fill("@xs")
    expect(rows(page)).to_have_text(["a"])
    search.fill("")
    chip.click()
    expect(search).to_have_value("tag.site=x")
    expect(rows(page)).to_have_text(["a"])
    page.get_by_role("button", name="Remove saved filter…").click()
    page.get_by_role("button", name="Remove", exact=True).click()
    expect(chip).to_have_count(0)
    assert person.http.get("/filters").json() == []


def test_suggestions(page, person, axe):
    """Fields, keys and values of the devices while typing, by keyboard; what is taken is quoted where it has to be."""
    person.http.post("/devices", json={"id": "a", "tags": {"site": "berlin north"}})
    person.http.post("/devices/a/shadow", json={"state": {"reported": {"temp": {"in.door": 5}}}})
    person.http.post("/devices", json={"id": "b"})
    expect(rows(page)).to_have_count(2)
    search = page.get_by_role("combobox", name="Filter devices")
    options = page.get_by_role("listbox", name="Suggestions").get_by_role("option")
    search.press_sequentially("tag.")
    expect(options).to_have_text(["site"])
    axe(page)
    search.press("ArrowDown")
    search.press("Enter")
    expect(search).to_have_value("tag.site")
    search.press_sequentially("=b")
    expect(options).to_have_text(["berlin north"])
    search.press("ArrowDown")
    search.press("Enter")
    expect(search).to_have_value('tag.site="berlin north" ')
    expect(rows(page)).to_have_text(["a"])
    search.press_sequentially("shadow.reported.temp.")
    expect(options).to_have_text(["in.door"])
    options.click()
    expect(search).to_have_value('tag.site="berlin north" shadow.reported.temp.in\\.door')
    search.press_sequentially(">4")
    expect(rows(page)).to_have_text(["a"])
    search.fill("on")
    expect(options).to_have_text(["online"])
    search.press("Escape")
    expect(options).to_have_count(0)
