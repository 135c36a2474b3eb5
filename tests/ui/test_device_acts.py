"""What one does with devices from their list: find them, rename, delete; one of them, or many."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from filter_cases import CASES, DEVICES, NOW
from playwright.sync_api import expect

from mdashcore.shadow import Shadow
from mdashcore.virtual_device import FirmwareBuild

HOSTILE = ["<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>", "\u202eevil\u202c", "W" * 256]


def grid(page):
    """The list."""
    return page.get_by_role("grid", name="Devices")


def row(page, name):
    """A device's row."""
    return grid(page).get_by_role("row").filter(has_text=name)


def rows(page):
    """The names that are shown, in their order."""
    return grid(page).get_by_role("row").get_by_role("link")


def in_menu(page, name, item):
    """Choose from a device's menu."""
    row(page, name).get_by_role("button", name="Actions for").click()
    page.get_by_role("menuitem", name=item).click()


def select(page, *ids):
    """Check the boxes of these devices."""
    for id in ids:
        page.get_by_label(f"Select {id}", exact=True).check()
    expect(page.get_by_role("toolbar")).to_contain_text(f"{len(ids)} selected")


def result(page, name):
    """A device's row in the dialog of a job."""
    return page.get_by_role("dialog").get_by_role("row").filter(has_text=name)


# Finding


@pytest.fixture
def zoo(person):
    """Devices that differ in what a filter may look at."""
    for id, name, reported in (
        ("lamp", "Lamp in the hall", {"on": True, "n": 5, "ota": {"arch": "esp32", "fw_version": "1.10"}}),
        ("fan", "Fan", {"on": False, "n": 5.5, "ota": {"arch": "esp8266", "fw_version": "1.2"}, "a.b": {"c": "x"}}),
        ("a=b~c", "name=Fan", {"n": "5", "on": None, "mode": "ECO", "list": [1]}),
        ("d1", "true", {"n": 1, "deep": {"__proto__": {"x": 1}, "constructor": "C"}}),
    ):
        person.register(id, name)
        person.http.post(f"/devices/{id}/shadow", json={"state": {"reported": reported, "desired": {"on": True}}})


TERMS = (
    """
online|id=lamp|id!=fan|id~A|name=Fan|name!=Fan|name=true|name~HALL|arch=esp32|fw_version=1.1|fw_version<1.10|app!=null
shadow.reported.on=true|shadow.reported.on=1|shadow.reported.n=5.0|shadow.reported.n="5"|shadow.reported.n=true
shadow.reported.mode~eco|shadow.reported.list="[1]"|shadow.reported.a\\.b.c=x|shadow.reported.a.b.c=x
shadow.delta.on=true|shadow.reported.deep.__proto__.x=1|shadow.reported.deep.constructor=C
shadow.reported.constructor!=null|shadow.reported.toString=null|tag.constructor=*|created_at<1h|last_seen=*
""".replace("\n", "|")
    .strip("|")
    .split("|")
)


def test_a_filter_finds_what_the_server_s_does(person, zoo, page):
    """Term by term, in the browser and by the REST API."""
    expect(page.get_by_text("4 devices, 0 online")).to_be_visible()
    found = page.evaluate(
        """async (terms) => {
          const {devices} = await import(ui("live.js")), {matcher, parseFilter} = await import(ui("filter.js"));
          const of = async (term) => {
            const matches = matcher((await parseFilter(term)).terms);
            return [...devices.values()].filter((device) => matches(device)).map(({id}) => id).sort();
          };
          return Promise.all(terms.map(async (term) => [term, await of(term)]));
        }""",
        TERMS,
    )
    expected = []
    for term in TERMS:
        answer = person.http.get("/devices", params={"filter": term})
        assert answer.status_code == 200, (term, answer.text)
        expected.append([term, sorted(device["id"] for device in answer.json())])
    assert found == expected


def test_a_filter_means_the_same_as_in_the_core(page):
    """The whole table of meanings, with its devices at its moment."""

    def time_text(seconds):
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()

    devices = []
    for each in DEVICES:
        shadow = Shadow(desired=each["desired"], reported=each["reported"]).document()
        times = {name: time_text(each[name]) for name in ("since", "last_seen", "created_at")}
        devices.append(each | times | {"shadow": shadow})
    lines = list(CASES)
    found = page.evaluate(
        """async ({devices, lines, now}) => {
          const {matcher, parseFilter} = await import(ui("filter.js"));
          const of = async (line) => {
            const matches = matcher((await parseFilter(line)).terms);
            return [line, devices.filter((device) => matches(device, now * 1000)).map(({id}) => id).join(" ")];
          };
          return Promise.all(lines.map(of));
        }""",
        {"devices": devices, "lines": lines, "now": NOW},
    )
    assert dict(found) == CASES


def test_any_key_of_a_device_is_a_place(page):
    """A column shows what lies under `__proto__`, too, which is in every object of the browser; and follows it."""
    assert page.evaluate(
        """async () => {
          const {followPlaces, lightDevice} = await import(ui("light.js"));
          const {keysOfPlace, valueAt} = await import(ui("places.js"));
          const found = [];
          for (const inner of ["__proto__.x", "a.__proto__", "__proto__", "constructor.x"]) {
            const place = `shadow.reported.${inner}`, keys = keysOfPlace(place);
            const row = {id: "d", app: null, arch: null, fw_id: null, fw_version: null, is_committed: null, [place]: 5};
            const device = lightDevice(row);
            const first = valueAt(device, keys);
            const change = keys.reduceRight((value, key) => `{${JSON.stringify(key)}:${value}}`, "6");
            followPlaces(device, JSON.parse(change));
            found.push([first, valueAt(device, keys), {}.x ?? null]);
          }
          return found;
        }"""
    ) == 4 * [[5, 6, None]]


def test_finding_devices(zoo, page, axe):
    """Words and terms, all of which have to hold; a term that is wrong says why; no match says what to do."""
    search = page.get_by_role("combobox", name="Filter devices")
    for text, names in (
        ("fan", ["Fan", "name=Fan"]),
        ("fan arch=esp8266", ["Fan"]),
        ('name="Lamp in the hall"', ["Lamp in the hall"]),
        ('"in the"', ["Lamp in the hall"]),
        ('"a=b"', ["name=Fan"]),
        ("fan|lamp !arch=esp8266", ["Lamp in the hall", "name=Fan"]),
        ("shadow.reported.n=5", ["Lamp in the hall", "name=Fan"]),
    ):
        search.fill(text)
        expect(rows(page)).to_have_text(names)
    for wrong, words in (
        ("shadow.nowhere=1", "desired, reported and delta"),
        ("arch=a*", "nly =* and !=*"),
        ("colour=red", "nknown field"),
    ):
        search.fill(wrong)
        expect(page.get_by_role("alert")).to_contain_text(words)
    axe(page)
    search.fill("zebra")
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(page.get_by_role("heading", name="No device matches")).to_be_visible()
    axe(page)
    page.get_by_role("button", name="Clear the filter").click()
    expect(page.get_by_text("4 devices, 0 online")).to_be_visible()
    page.get_by_role("button", name="How to filter").click()
    axe(page)
    page.get_by_role("button", name="fw_version<1.4").click()
    expect(rows(page)).to_have_text(["Fan"])


def test_a_filter_is_live_and_stays(page, person, fleet):
    """A device that comes online appears; coming back from a device, the list is filtered and sorted as before."""
    for id in ("a", "b", "c"):
        person.register(id)
    fleet.connect("b2")
    page.get_by_label("Status").select_option("Online")
    expect(rows(page)).to_have_text(["b2"])
    token = person.http.post("/devices/c/token").json()["token"]
    fleet.connect("c", token=token)
    expect(rows(page)).to_have_text(["b2", "c"])
    page.get_by_role("button", name="Name", exact=True).click()
    expect(rows(page)).to_have_text(["c", "b2"])
    row(page, "b2").click()
    expect(page.get_by_role("heading", name="b2", level=1)).to_be_visible()
    page.go_back()
    expect(page.get_by_label("Status")).to_have_value("online")
    expect(rows(page)).to_have_text(["c", "b2"])
    page.reload()
    expect(page.get_by_label("Status")).to_have_value("online")


# One device


def test_renaming(page, person, axe):
    """By its menu, with the name so far to begin with; what the server refuses is said there."""
    person.register("lamp", "Lamp")
    in_menu(page, "Lamp", "Rename…")
    field = page.get_by_label("Name", exact=True)
    expect(field).to_have_value("Lamp")
    axe(page)
    page.route("**/devices/lamp", lambda route: route.abort())
    field.fill(HOSTILE[0])
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").get_by_role("alert")).to_have_text("The server cannot be reached.")
    page.unroute("**/devices/lamp")
    page.keyboard.press("Enter")
    expect(row(page, HOSTILE[0])).to_be_visible()
    assert person.http.get("/devices/lamp").json()["name"] == HOSTILE[0]


def test_a_new_token(page, fleet, axe):
    """Says what it ends; the device goes offline, and comes back with the new one, which is shown once."""
    fleet.connect("lamp")
    expect(row(page, "lamp")).to_contain_text("Online")
    in_menu(page, "lamp", "New token…")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("its connection is closed")
    dialog.get_by_role("button", name="Make a new token").click()
    token = dialog.locator("code.token").inner_text()
    axe(page)
    expect(dialog).to_contain_text(f"mdash device --server ws://{page.url.split('/')[2]} --token {token}")
    expect(dialog).to_contain_text(
        f"mos config-set dash.enable=true dash.server=ws://{page.url.split('/')[2]}/api/v2/rpc"
    )
    dialog.get_by_role("button", name="Done").click()
    expect(row(page, "lamp")).to_contain_text("Offline")
    fleet.connect("lamp", token=token)
    expect(row(page, "lamp")).to_contain_text("Online")


def test_a_new_device_is_seen_to_connect(page, fleet, axe):
    """Beside the lines to be copied stands whether it worked; the list counts in words."""
    page.get_by_role("button", name="Register", exact=True).click()
    page.get_by_label("Id").fill("lamp")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Registered")
    expect(dialog.get_by_role("status")).to_contain_text("Not connected yet")
    lamp = fleet.connect("lamp", token=dialog.locator("code.token").inner_text())
    expect(dialog.get_by_role("status")).to_contain_text("Online It is connected.")
    axe(page)
    lamp.stop()
    expect(dialog.get_by_role("status")).to_contain_text("Not connected")
    dialog.get_by_role("button", name="Done").click()
    expect(page.get_by_text("1 device, 0 online")).to_be_visible()


def test_a_token_is_copied(open_page, person):
    """By its button, which says so."""
    page = open_page(person, permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Register", exact=True).click()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Registered")
    dialog.get_by_role("button", name="Copy").first.click()
    expect(dialog.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == dialog.locator("code.token").inner_text()


def test_deleting_asks_once(page, person, axe):
    """It says what is lost; Cancel changes nothing."""
    person.register("lamp", "Lamp")
    in_menu(page, "Lamp", "Delete…")
    dialog = page.get_by_role("dialog", name="Delete Lamp?")
    expect(dialog).to_contain_text("Its shadow and its firmware updates are lost")
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    axe(page)
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    in_menu(page, "Lamp", "Delete…")
    dialog.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("heading", name="No devices yet")).to_be_visible()
    assert person.http.get("/devices").json() == []


def test_a_dialog_ends_with_its_view(page, person):
    """After going back no dialog of another view is in the way."""
    person.register("lamp")
    row(page, "lamp").click()
    page.get_by_role("link", name="← Devices").click()
    in_menu(page, "lamp", "Rename…")
    page.go_back()
    expect(page.get_by_role("heading", name="lamp", level=1)).to_be_visible()
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_by_keyboard(page, person):
    """From the row to its menu, through it, and back; Space selects; the bar of the selected is reached by Tab."""
    person.register("fan")
    person.register("pump")
    expect(row(page, "pump")).to_be_visible()
    row(page, "fan").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(row(page, "fan").get_by_role("button")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("menuitem", name="Rename…")).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(page.get_by_role("menuitem", name="Delete…")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("menu")).to_have_count(0)
    expect(row(page, "fan").get_by_role("button")).to_be_focused()
    page.keyboard.press("Escape")
    expect(row(page, "fan")).to_be_focused()
    page.keyboard.press("Space")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    expect(page.get_by_role("toolbar")).to_contain_text("2 selected")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Clear")).to_be_focused()


# Many


def test_calling_many(page, person, fleet, axe):
    """Each device answers by itself, or has a reason; whole answers can be read; the failed ones can be tried again."""
    fleet.connect("lamp", name="Lamp")
    fleet.connect("meter", name="Meter")
    person.register("off", HOSTILE[0])
    select(page, "lamp", "meter", "off")
    axe(page)
    page.get_by_role("button", name="Call a method…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("datalist option").first).to_be_attached()
    axe(page)
    dialog.get_by_label("Parameters").fill('{"name": ')
    dialog.get_by_label("Method", exact=True).fill("RPC.Describe")
    dialog.get_by_role("button", name="Call", exact=True).click()
    expect(dialog).to_contain_text("the text ends too early")
    dialog.get_by_label("Parameters").fill('{"name": "Sys.GetInfo"}')
    dialog.get_by_role("button", name="Call", exact=True).click()
    expect(dialog).to_contain_text("2 of 3 done, 1 failed")
    axe(page)
    expect(result(page, "Lamp")).to_contain_text("Done")
    expect(result(page, HOSTILE[0])).to_contain_text("Device 'off' is not connected.")
    result(page, "Meter").click()
    whole = page.get_by_role("dialog", name="Meter").locator("pre")
    assert json.loads(whole.inner_text())["name"] == "Sys.GetInfo"
    page.keyboard.press("Escape")
    fleet.connect("off", token=person.http.post("/devices/off/token").json()["token"])
    page.get_by_role("button", name="Try the others again").click()
    expect(page.get_by_role("dialog").last).to_contain_text("1 of 1 done")


def test_deleting_many(page, person, axe):
    """After one question, which names some of them; one that another user deleted meanwhile is no error."""
    for n in range(8):
        person.register(f"d{n}", f"Device {n}")
    person.register("stays", "Stays")
    expect(page.get_by_text("9 devices")).to_be_visible()
    select(page, *[f"d{n}" for n in range(8)])
    page.get_by_role("button", name="Delete…").click()
    dialog = page.get_by_role("dialog", name="Delete 8 devices?")
    expect(dialog).to_contain_text("Device 4 and 3 more")
    axe(page)
    page.route("**/devices/d3", lambda route: route.fulfill(status=404, json={"error": {"code": 404, "message": "no"}}))
    page.route(
        "**/devices/d4", lambda route: route.fulfill(status=503, json={"error": {"code": 503, "message": "full"}})
    )
    dialog.get_by_role("button", name="Delete 8 devices").click()
    expect(page.get_by_role("dialog")).to_contain_text("7 of 8 done, 1 failed")
    expect(result(page, "Device 4")).to_contain_text("Full.")
    page.get_by_role("button", name="Close").click()
    expect(rows(page)).to_have_text(["Device 3", "Device 4", "Stays"])
    expect(page.get_by_role("toolbar")).to_contain_text("2 selected")


def test_updating_many(page, person, fleet, make_firmware, axe):
    """One image goes to the server, which updates all devices to their end, also behind another view."""
    for id in ("lamp", "meter"):
        fleet.connect(id, name=id.capitalize(), build=FirmwareBuild(app="lamp"))
    person.register("off", "Off")
    select(page, "lamp", "meter", "off")
    page.get_by_role("button", name="Update firmware…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("1 of them is offline now")
    axe(page)
    image = {"name": "fw.zip", "mimeType": "application/zip", "buffer": make_firmware(version="2.0")}
    dialog.get_by_label("Image").set_input_files(image)
    dialog.get_by_role("button", name="Review…").click()
    review = page.get_by_role("dialog", name="Update 3 devices?")
    expect(review).to_contain_text("Fits 3 of 3 devices")
    axe(page)
    review.get_by_role("button", name="Start for 3 devices").click()
    expect(page.get_by_text("Bulk update")).to_be_visible()
    (made,) = person.http.get("/rollouts").json()
    assert (made["kind"], made["plan"]["phases"]) == ("bulk", [100])
    members = page.get_by_role("grid", name="Devices of the rollout")
    expect(members.get_by_role("row").filter(has_text="Off")).to_contain_text("offline")
    axe(page)
    page.get_by_role("link", name="Devices", exact=True).click()
    for id in ("lamp", "meter"):  # the application of both is "lamp", which stands in their rows
        updated = page.get_by_role("grid", name="Devices").get_by_role("row", name=f"Select {id}")
        expect(updated).to_contain_text("2.0")
        expect(updated).to_contain_text("uncommitted")
    assert person.http.get(f"/rollouts/{made['id']}").json()["state"] == "RUNNING"


def test_a_busy_server_is_waited_for(page, person):
    """As long as it says, and then all goes on."""
    for n in range(40):
        person.register(f"d{n}")
    expect(page.get_by_text("40 devices")).to_be_visible()
    asked = []

    def busy(route):
        asked.append(route.request.url)
        if len(asked) < 3:
            body = {"error": {"code": 429, "message": "too many"}}
            route.fulfill(status=429, json=body, headers={"Retry-After": "0"})
        else:
            route.fulfill(json=True)

    page.route("**/rpc/RPC.Ping", busy)
    page.get_by_label("Select all").check()
    page.get_by_role("button", name="Call a method…").click()
    page.get_by_label("Method", exact=True).fill("RPC.Ping")
    page.get_by_role("button", name="Call", exact=True).click()
    expect(page.get_by_role("dialog")).to_contain_text("40 of 40 done")
    assert len(asked) == 42


def test_stopping(page, person, keep, wait_until):
    """What has not begun does not; what has is left alone; both can be tried again. Hidden, it goes on."""
    for n in range(40):
        person.register(f"d{n}")
    expect(page.get_by_text("40 devices")).to_be_visible()
    asked = []
    page.route("**/rpc/RPC.Ping", lambda route: asked.append(route))
    page.get_by_label("Select all").check()
    page.get_by_role("button", name="Call a method…").click()
    page.get_by_label("Method", exact=True).fill("RPC.Ping")
    page.get_by_role("button", name="Call", exact=True).click()
    expect(result(page, "Running")).not_to_have_count(0)
    page.get_by_role("button", name="Hide").click()
    check_show = keep(page.get_by_role("button", name="Show"))
    wait_until(page, lambda: asked)
    asked[0].fulfill(json=True)
    expect(page.get_by_text("Calling RPC.Ping of 40 devices: 1 of 40…")).to_be_visible()
    check_show()
    page.get_by_role("button", name="Show").click()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("dialog")).to_contain_text("1 of 40 done, 39 stopped")
    assert len(asked) <= 17
    expect(page.get_by_role("button", name="Try the others again")).to_be_visible()


def test_selecting_a_range(page, person):
    """With Shift, from the last one to this one, both in and out."""
    for n in range(8):
        person.register(f"d{n}")
    expect(page.get_by_text("8 devices")).to_be_visible()
    page.get_by_label("Select d1", exact=True).click()
    page.get_by_label("Select d6", exact=True).click(modifiers=["Shift"])
    expect(page.get_by_role("toolbar")).to_contain_text("6 selected")
    page.get_by_label("Select d3", exact=True).click()
    page.get_by_label("Select d5", exact=True).click(modifiers=["Shift"])
    expect(page.get_by_role("toolbar")).to_contain_text("3 selected")


def test_what_devices_report_breaks_no_list(page, person, axe):
    """Whatever JSON stands where firmware and RAM are looked for: it is shown or left out, sorted and filtered."""
    odd = [{"toString": 1}, ["x"], "W" * 10_000, HOSTILE[0], 7, True, "", {"__proto__": {"x": 1}}]
    for n, value in enumerate(odd):
        person.register(f"d{n}")
        firmware = {"arch": value, "fw_version": value, "fw_id": value, "is_committed": value}
        reported = {"ota": firmware if n % 2 else value, "stats": {"ram_free": value} if n % 3 else value}
        answer = person.http.post(f"/devices/d{n}/shadow", json={"state": {"reported": reported}})
        assert answer.status_code in (200, 413), answer.text
    expect(page.get_by_text("8 devices")).to_be_visible()
    for title in ("Status", "Id", "Arch", "Firmware", "Committed", "Free RAM", "Last seen", "Name"):
        page.get_by_role("button", name=title, exact=True).click()
        expect(rows(page)).to_have_count(8)
    page.get_by_role("combobox", name="Filter devices").fill("arch~img fw_version!=1 shadow.reported.stats.ram_free!=x")
    expect(rows(page)).to_have_text(["d3"])
    axe(page)


@pytest.mark.proof  # that lists follow notifications is seen by many others
def test_two_browsers_see_each_other_s_changes(open_page, person):
    """Immediately: what one registers, renames, selects away and deletes, the other shows."""
    one, two = open_page(person), open_page(person)
    one.get_by_role("button", name="Register", exact=True).click()
    one.get_by_label("Id", exact=True).fill("lamp")
    one.keyboard.press("Enter")
    one.get_by_role("button", name="Done").click()
    select(two, "lamp")
    in_menu(two, "lamp", "Rename…")
    two.get_by_label("Name", exact=True).fill("Lamp by the door")
    two.keyboard.press("Enter")
    in_menu(one, "Lamp by the door", "Delete…")
    one.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(two.get_by_role("heading", name="No devices yet")).to_be_visible()
    expect(two.get_by_role("toolbar")).to_be_hidden()


@pytest.mark.proof  # their text is drawn by the dialog that each of the gate's tests opens
def test_hostile_names_in_every_dialog(open_page, person, in_every_look):
    """They stay text, and nothing becomes wider than the screen."""
    for n, name in enumerate(HOSTILE):
        person.register(f"d{n}", name)
    page = open_page(person)
    select(page, "d0", "d1", "d2", "d3")
    for button in ("Call a method…", "Update firmware…", "Delete…"):
        page.get_by_role("toolbar").get_by_role("button", name=button).click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text(HOSTILE[0])
        expect(dialog).to_contain_text(HOSTILE[1])
        in_every_look(page)
        page.keyboard.press("Escape")
    page.get_by_role("button", name="Clear", exact=True).click()
    page.set_viewport_size({"width": 390, "height": 844})
    for name in HOSTILE:
        in_menu(page, name, "Delete…")
        assert page.get_by_role("dialog").evaluate("(dialog) => dialog.scrollWidth <= dialog.clientWidth")
        page.keyboard.press("Escape")
