"""Rollouts: planned, watched, changed on the way."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import expect
from selecting import of_all

from mdashcore.virtual_device import FirmwareBuild

HOSTILE = ["<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>", "\u202eevil\u202c", "W" * 256]


@pytest.fixture
def image(make_firmware):
    """A firmware of version 2.0, as a browser sends it."""
    buffer = make_firmware(name="ccm", version="2.0")
    return {"name": "fw.zip", "mimeType": "application/zip", "buffer": buffer}


@pytest.fixture
def begin(person, image):
    """Begins a rollout by REST; its id."""

    def begin(**wanted):
        body = of_all(wanted)
        files = {"rollout": (None, json.dumps(body)), "file": (image["name"], image["buffer"])}
        answer = person.http.post("/rollouts", files=files)
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    return begin


def state(page, words):
    """Wait until the rollout is in a state."""
    expect(page.get_by_role("main").locator(".tag").first).to_have_text(words)


def test_a_rollout_from_the_plan_to_its_end(open_page, person, fleet, image, axe):
    """Planned with a preview of what it would do; then its phases fill by themselves, device by device."""
    for n in range(3):
        fleet.connect(f"d{n}", name=f"Lamp {n}", build=FirmwareBuild(app="ccm"))
    person.register("other", "Other")
    page = open_page(person, "#/rollouts")
    expect(page.get_by_role("heading", name="No rollouts yet")).to_be_visible()
    axe(page)
    page.get_by_role("link", name="Plan the first rollout").click()
    expect(page.get_by_text("Give a filter, or choose all devices.")).to_be_visible()
    page.get_by_label("All devices").check()
    expect(page.get_by_text("4 devices: Lamp 0")).to_be_visible()
    expect(page.get_by_label("Filter")).to_be_disabled()
    axe(page)
    page.get_by_label("All devices").uncheck()
    page.get_by_label("Firmware (.zip").set_input_files(image)
    expect(page.get_by_text("ccm version 2.0 for esp32")).to_be_visible()
    filter = page.get_by_label("Filter")
    filter.fill("colour=red")
    expect(page.get_by_role("alert")).to_contain_text("nknown field 'colour'")
    page.get_by_role("button", name="Review…").click()
    expect(page.get_by_role("alert")).to_have_count(2)
    filter.fill("name~lamp arch=esp32")
    expect(page.get_by_text("3 devices: Lamp 0, Lamp 1, Lamp 2; 3 online")).to_be_visible()
    phases = page.get_by_label("Percents of the devices")
    phases.fill("50, 20")
    expect(page.get_by_text("Phases are percents in ascending order")).to_be_visible()
    phases.fill("10, 30, 100")
    expect(page.get_by_text("That is 1, then 2 devices. A phase with no device in it is passed over.")).to_be_visible()
    phases.fill("30, 100")
    expect(page.get_by_text("That is 1, then 2 devices.", exact=True)).to_be_visible()
    page.get_by_text("Pace and limits").click()
    page.get_by_label("Devices a minute").fill("")
    page.get_by_label("Seconds of health").fill("1")
    axe(page)
    page.get_by_label("Name").fill(HOSTILE[0])
    page.get_by_role("button", name="Review…").click()
    review = page.get_by_role("dialog", name="Start this rollout?")
    expect(review).to_contain_text("Fits 3 of 3 devices.")
    expect(review).to_contain_text("Phases: 1, then 2 devices.")
    expect(review.get_by_role("row").filter(has_text="esp32")).to_contain_text("ccm")
    axe(page)
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Review…")).to_be_focused()
    page.keyboard.press("Enter")
    review.get_by_role("button", name="Start for 3 devices").click()
    expect(page.get_by_role("heading", name=HOSTILE[0], level=1)).to_be_visible()
    expect(page.get_by_role("img", name="Phase 1: 1 ")).to_be_visible()
    state(page, "Completed")
    expect(page.get_by_role("img", name="Phase 2: 2 succeeded")).to_be_visible()
    table = page.get_by_role("grid", name="Devices of the rollout")
    expect(table.get_by_role("row").filter(has_text="succeeded")).to_have_count(3)
    axe(page)
    page.get_by_role("link", name="← Rollouts").click()
    expect(page.get_by_role("img", name="Devices: 3 succeeded")).to_be_visible()
    axe(page)


def test_what_does_not_fit(open_page, person, image, axe):
    """A review of hostile devices, on a phone: how many of them an image fits; it begins with its switches set.

    What is no zip begins for no device by one press, and is sent where a person says that it is a bare image.
    """
    reports = [
        {"arch": "esp32", "app": "ccm", "fw_version": "1.0"},
        {"arch": "esp8266", "app": HOSTILE[0], "fw_version": HOSTILE[3]},
        {"arch": "esp32", "app": HOSTILE[1], "fw_version": HOSTILE[2]},
        {"arch": "esp32", "app": "ccm", "fw_id": "20260301-100000/new", "is_committed": True},
        {},
    ]
    for n, ota in enumerate(reports):
        person.register(f"d{n}")
        body = {"state": {"reported": {"ota": ota}}}
        person.http.post(f"/devices/d{n}/shadow", json=body).raise_for_status()
    page = open_page(person, "#/rollouts/new", viewport={"width": 390, "height": 844})
    page.get_by_label("All devices").check()
    expect(page.get_by_text("5 devices:")).to_be_visible()
    page.get_by_label("Firmware (.zip").set_input_files(image)
    page.get_by_role("button", name="Review…").click()
    review = page.get_by_role("dialog", name="Start this rollout?")
    expect(review).to_contain_text("Fits 2 of 5 devices")
    expect(review).to_contain_text("1 runs it already")
    expect(review).to_contain_text("1 is of another platform and will refuse it")
    expect(review.get_by_role("row").filter(has_text="esp8266")).to_contain_text(HOSTILE[0])
    axe(page)
    start = review.get_by_role("button", name="Start for 5 devices")
    start.click()
    switch = review.get_by_label("Send it also to the 1 device that runs another application")
    expect(switch).to_be_focused()
    assert person.http.get("/rollouts").json() == []
    switch.check()
    start.click()
    state(page, "Running")
    (made,) = person.http.get("/rollouts").json()
    assert made["plan"]["other_app"] is True
    person.http.post(f"/rollouts/{made['id']}/abort").raise_for_status()

    page.goto("/#/rollouts/new")
    page.get_by_label("All devices").check()
    page.get_by_label("Firmware (.zip").set_input_files(
        {"name": "six.bin", "mimeType": "text/plain", "buffer": b"\xe9byte!"}
    )
    expect(page.get_by_text("No firmware zip")).to_be_visible()
    page.get_by_role("button", name="Review…").click()
    start.click()
    switch = review.get_by_label("nothing says which devices it is for. Send it as it is to 5 devices")
    expect(switch).to_be_focused()
    switch.check()
    start.click()
    expect(page.get_by_role("heading", name="six.bin", level=1)).to_be_visible()


def test_approving_pausing_aborting(open_page, person, begin, axe):
    """Each is offered where it fits; an abort says what it means, and asks once; what is over can be deleted."""
    for n in range(4):
        person.register(f"d{n}")
    id = begin(approval=True, name="Halls")
    page, other = open_page(person, f"#/rollouts/{id}"), open_page(person, "#/rollouts")
    state(page, "Awaiting approval")
    buttons = page.get_by_role("main").get_by_role("button")
    page.get_by_role("button", name="Approve").click()
    state(page, "Running")
    state(other, "Running")
    page.get_by_role("button", name="Pause").click()
    state(page, "Paused")
    axe(page)
    state(other, "Paused")
    page.get_by_role("button", name="Resume").click()
    state(page, "Running")
    page.get_by_role("button", name="Abort…").click()
    dialog = page.get_by_role("dialog", name="Abort the rollout?")
    expect(dialog).to_contain_text("No more devices begin")
    axe(page)
    dialog.get_by_role("button", name="Cancel").click()
    state(page, "Running")
    page.get_by_role("button", name="Abort…").click()
    dialog.get_by_role("button", name="Abort the rollout").click()
    state(page, "Aborted")
    expect(buttons.filter(has_text="Pause")).to_have_count(0)
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("heading", name="No rollouts yet")).to_be_visible()
    assert person.http.get("/rollouts").json() == []


def test_what_does_not_fit_any_more_is_said(open_page, person, begin):
    """Where the act was; and a rollout that is gone says so."""
    person.register("d0")
    id = begin(approval=True)
    page = open_page(person, f"#/rollouts/{id}")
    page.route(
        "**/approve", lambda route: route.fulfill(status=409, json={"error": {"code": 409, "message": "too late"}})
    )
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_role("alert")).to_have_text("Too late.")
    page.goto("/#/rollouts/rol_none")
    expect(page.get_by_role("heading", name="No such rollout")).to_be_visible()


def test_failures_are_shown_and_tried_again(open_page, person, fleet, begin, axe):
    """Which device failed and why; the rollout says why it is paused, and the failed ones have another try."""
    fleet.connect("ok", name="Good lamp", build=FirmwareBuild(app="ccm"))
    fleet.connect("bad", name=HOSTILE[1], slot_size=4096, build=FirmwareBuild(app="ccm"))
    id = begin(phases=[100], rate=None, commit_after=1)
    page = open_page(person, f"#/rollouts/{id}")
    state(page, "Paused")
    expect(page.get_by_role("status").filter(has_text="failed")).to_be_visible()
    table = page.get_by_role("grid", name="Devices of the rollout")
    expect(table.get_by_role("row").filter(has_text=HOSTILE[1])).to_contain_text("failed")
    page.get_by_label("Outcome").select_option("Failed")
    expect(table.get_by_role("row")).to_have_count(2)
    axe(page)
    page.get_by_role("button", name="Resume…").click()
    dialog = page.get_by_role("dialog", name="Resume in spite of the failures?")
    expect(dialog).to_contain_text("1 of 2 devices failed")
    axe(page)
    dialog.get_by_role("button", name="Resume").click()
    expect(dialog.get_by_label("Forgive this failure")).to_be_focused()
    page.keyboard.press("Escape")
    assert person.http.get(f"/rollouts/{id}").json()["state"] == "PAUSED"
    page.get_by_role("button", name="Retry 1 device…").click()
    dialog = page.get_by_role("dialog", name="Retry 1 device?")
    expect(dialog).to_contain_text("Its failure counts no longer")
    dialog.get_by_role("button", name="Retry 1 device").click()
    page.get_by_label("Outcome").select_option("All devices")
    expect(table.get_by_role("row").filter(has_text="Good lamp")).to_contain_text("succeeded")


def test_from_the_list_of_devices(open_page, person, image):
    """What is selected there are the devices of the plan."""
    for n in range(5):
        person.register(f"d{n}")
    page = open_page(person)
    for n in range(3):
        page.get_by_label(f"Select d{n}", exact=True).check()
    page.get_by_role("button", name="Update firmware…").click()
    page.get_by_role("link", name="Make it a rollout").click()
    expect(page.get_by_text("3 devices: d0, d1, d2")).to_be_visible()
    page.get_by_label("Firmware (.zip").set_input_files(image)
    page.get_by_label("Wait for my approval").check()
    page.get_by_role("button", name="Review…").click()
    page.get_by_role("button", name="Start for 3 devices").click()
    state(page, "Awaiting approval")
    (made,) = person.http.get("/rollouts").json()
    assert (made["counts"]["pending"], made["state"]) == (3, "AWAITING_APPROVAL")
    page.goto("/#/rollouts/new?devices=selected")
    page.reload()
    expect(page.get_by_text("Of the 0 devices that you have selected.")).to_be_visible()


def test_every_look(open_page, person, begin, in_every_look):
    """Hostile names of rollouts and devices stay text; nothing is wider than the screen."""
    for n, name in enumerate(HOSTILE):
        person.register(f"d{n}", name)
    ids = [begin(name=name, approval=True) for name in HOSTILE]
    page = open_page(person, "#/rollouts")
    headings = {"": "Rollouts", "/new?all=1": "New rollout", f"/{ids[0]}": HOSTILE[0], f"/{ids[3]}": HOSTILE[3]}
    for route, heading in headings.items():
        page.goto(f"/#/rollouts{route}")
        expect(page.get_by_role("heading", name=heading, level=1)).to_be_visible()
        expect(page.get_by_text(HOSTILE[0]).first).to_be_visible()
        in_every_look(page)
