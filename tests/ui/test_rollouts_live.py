"""Rollouts that change while a user looks at them, works on them, or has no connection."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import expect
from selecting import of_all

from mdashcore.virtual_device import FirmwareBuild


@pytest.fixture
def begin(person, make_firmware):
    """Begins a rollout by REST; its id."""

    def begin(**wanted):
        files = {"rollout": (None, json.dumps(of_all(wanted))), "file": ("fw.zip", make_firmware())}
        answer = person.http.post("/rollouts", files=files)
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    return begin


def change(person, id, action):
    """What another person does."""
    answer = person.http.post(f"/rollouts/{id}/{action}")
    assert answer.status_code == 200, answer.text


def state(page, words):
    """Wait until the rollout is in a state."""
    expect(page.get_by_role("main").locator(".tag").first).to_have_text(words)


def named(name):
    """Whether a frame of the socket is that notification."""
    return lambda frame: f'"name":"{name}"' in (frame if isinstance(frame, str) else frame.decode())


def test_what_one_is_about_to_press_stays(open_page, person, fleet, begin, keep):
    """While devices come further, buttons and links stay the same elements, and keep the focus."""
    for n in range(3):
        fleet.connect(f"d{n}", build=FirmwareBuild(app="lamp"))
    person.register("off")  # so that it does not end
    id = begin(approval=True, phases=[100], rate=None, commit_after=1)
    page, other = open_page(person, f"#/rollouts/{id}"), open_page(person, "#/rollouts")
    abort = page.get_by_role("button", name="Abort…")
    abort.focus()
    check_abort = keep(abort)
    anchor = other.get_by_role("article").get_by_role("link")
    anchor.focus()
    check_anchor = keep(anchor)
    change(person, id, "approve")
    expect(page.get_by_role("img", name="Phase 1: 3 succeeded")).to_be_visible()
    check_abort()
    expect(abort).to_be_focused()
    expect(other.get_by_role("img", name="Devices: 3 succeeded")).to_be_visible()
    check_anchor()
    expect(anchor).to_be_focused()


def test_the_focus_goes_to_what_can_be_done_next(open_page, person, begin):
    """By the keyboard alone: a button that was pressed gives way to another one."""
    person.register("d0")
    id = begin()
    page = open_page(person, f"#/rollouts/{id}")
    for name, after, words in (("Pause", "Resume", "Paused"), ("Resume", "Pause", "Running")):
        page.get_by_role("button", name=name).focus()
        page.keyboard.press("Enter")
        state(page, words)
        expect(page.get_by_role("button", name=after)).to_be_focused()
    change(person, id, "pause")
    state(page, "Paused")
    expect(page.get_by_role("button", name="Resume")).to_be_focused()


@pytest.mark.parametrize("route", ["", "/one"])
def test_what_happens_during_the_first_read_is_not_missed(page, person, begin, wait_until, route):
    """The answer is from before another user has paused it, and comes after the notification of that."""
    person.register("d0")
    id = begin()
    sockets = []
    path = f"/rollouts/{id}" if route else "/rollouts"

    def hold(route):
        answer = route.fetch()
        wait_until(page, lambda: sockets)
        with sockets[-1].expect_event("framereceived", named("rollout.PAUSED")):
            change(person, id, "pause")
        route.fulfill(response=answer)

    page.goto("about:blank")
    page.on("websocket", lambda socket: sockets.append(socket))
    page.route(re.compile(rf"/api/v2{path}$"), hold, times=1)
    page.goto(f"/#{path}")
    state(page, "Paused")


@pytest.mark.parametrize("route", ["", "/one"])
def test_what_cannot_be_read_is_said_and_tried_again(open_page, person, begin, route):
    """In words, for as long as it lasts; it ends by itself."""
    person.register("d0")
    id = begin()
    path = f"/rollouts/{id}" if route else "/rollouts"
    page = open_page(person, f"#{path}")
    state(page, "Running")
    fails = {"status": 503, "json": {"error": {"code": 503, "message": "the store is away"}}}
    pattern = re.compile(rf"/api/v2{path}$")
    page.route(pattern, lambda route: route.fulfill(**fails))
    change(person, id, "pause")
    said = page.get_by_role("alert").filter(has_text="The store is away. It is tried again.")
    expect(said).to_be_visible()
    page.unroute(pattern)
    state(page, "Paused")
    expect(said).to_have_count(0)


def test_devices_that_cannot_be_read_are_tried_again(page, person, begin):
    """Beside the list of them; the rest of the page does not wait for it."""
    person.register("d0")
    id = begin()
    fails = {"status": 503, "json": {"error": {"code": 503, "message": "the store is away"}}}
    page.route("**/members?*", lambda route: route.fulfill(**fails))
    page.goto(f"/#/rollouts/{id}")
    state(page, "Running")
    expect(page.get_by_role("alert").filter(has_text="The store is away.")).to_be_visible()
    page.unroute("**/members?*")
    expect(page.get_by_role("grid").get_by_role("row").filter(has_text="d0")).to_be_visible()
    expect(page.get_by_role("alert").filter(has_text="The store is away.")).to_have_count(0)


def test_a_rollout_that_another_user_removes(open_page, person, begin, axe):
    """It goes from the list; its own page says that it is gone, and where to go on."""
    person.register("d0")
    kept, removed = begin(name="Kept"), begin(name="Removed")
    change(person, removed, "abort")
    page, other = open_page(person, f"#/rollouts/{removed}"), open_page(person, "#/rollouts")
    state(page, "Aborted")
    page.get_by_role("button", name="Delete…").focus()
    expect(other.get_by_role("article")).to_have_count(2)
    person.http.delete(f"/rollouts/{removed}").raise_for_status()
    expect(other.get_by_role("article")).to_have_count(1)
    expect(other.get_by_role("link", name="Kept")).to_have_attribute("href", f"#/rollouts/{kept}")
    expect(page.get_by_role("heading", name="This rollout was removed")).to_be_visible()
    expect(page.get_by_role("button", name="Delete…")).to_have_count(0)
    expect(page.get_by_role("link", name="To the rollouts")).to_be_focused()
    axe(page)


def test_a_rollout_that_is_removed_while_the_connection_is_lost(open_page, person, begin, cable, problems):
    """Nothing told of it: it is seen when the connection is back."""
    person.register("d0")
    id = begin()
    change(person, id, "abort")
    page = open_page(person, f"#/rollouts/{id}", cable=cable)
    state(page, "Aborted")
    cable.cut()
    expect(page.get_by_text("Reconnecting…")).to_be_visible()
    person.http.delete(f"/rollouts/{id}").raise_for_status()
    cable.mend()
    expect(page.get_by_role("heading", name="This rollout was removed")).to_be_visible()


def test_the_choice_of_devices_ends_with_the_session(page, person, make_person):
    """The next user of the same page learns nothing of it, and updates nothing by it."""
    person.register("mine")
    expect(page.get_by_label("Select mine")).to_be_visible()
    page.get_by_label("Select mine").check()
    page.get_by_role("button", name="Update firmware…").click()
    page.get_by_role("link", name="Make it a rollout").click()
    expect(page.get_by_text("Of the 1 device that you have selected.")).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    next = make_person()
    page.get_by_label("User", exact=True).fill(next.name)
    page.get_by_label("Password").fill(next.password)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Home", level=1)).to_be_visible()
    page.evaluate("location.hash = '#/rollouts/new?devices=selected'")
    expect(page.get_by_text("Of the 0 devices that you have selected.")).to_be_visible()


def test_a_selected_device_that_was_removed_meanwhile(page, person, make_firmware):
    """It is left out, as the preview says."""
    for n in range(2):
        person.register(f"d{n}")
        page.get_by_label(f"Select d{n}").check()
    page.get_by_role("button", name="Update firmware…").click()
    page.get_by_role("link", name="Make it a rollout").click()
    expect(page.get_by_text("2 devices: d0, d1")).to_be_visible()
    person.http.delete("/devices/d0").raise_for_status()
    expect(page.get_by_text("1 device: d1")).to_be_visible()
    page.get_by_label("Firmware (.zip").set_input_files(
        {"name": "fw.zip", "mimeType": "application/zip", "buffer": make_firmware()}
    )
    page.get_by_role("button", name="Review…").click()
    page.get_by_role("button", name="Start for 1 device").click()
    state(page, "Running")
    (made,) = person.http.get("/rollouts").json()
    assert made["counts"]["pending"] == 1


def test_days_of_the_window(page, person, make_firmware, axe):
    """Which days of the week, with or without times; what cannot be is said in words."""
    person.register("d0")
    page.goto("/#/rollouts/new")
    page.get_by_label("All devices").check()
    page.get_by_label("Firmware (.zip").set_input_files(
        {"name": "fw.zip", "mimeType": "application/zip", "buffer": make_firmware()}
    )
    page.get_by_text("Pace and limits").click()
    start, end = page.get_by_label("Not before (UTC)"), page.get_by_label("Not after (UTC)")
    days = page.get_by_role("group", name="Days of the week").get_by_role("checkbox")
    expect(days).to_have_count(7)
    for day in days.all():
        expect(day).to_be_checked()
        day.uncheck()
    begin, said = page.get_by_role("button", name="Review…"), page.get_by_role("alert")
    begin.click()
    expect(said).to_have_text("Choose at least one day on which devices may begin.")
    for day in ("Saturday", "Sunday"):
        page.get_by_label(day).check()
    start.fill("22:00")
    begin.click()
    expect(said).to_have_text("A window needs both a beginning and an end.")
    end.fill("22:00")
    begin.click()
    expect(said).to_have_text("A window cannot end when it begins: leave both times empty for the whole day.")
    end.fill("04:00")
    axe(page)
    begin.click()
    page.get_by_role("button", name="Start for 1 device").click()
    expect(page.get_by_text("from 22:00 to 04:00 UTC on sat, sun")).to_be_visible()
    (made,) = person.http.get("/rollouts").json()
    assert made["plan"]["window"] == {"start": "22:00", "end": "04:00", "days": ["sat", "sun"]}


@pytest.mark.proof  # the next form of test_days_of_the_window
def test_days_without_times(page, person, make_firmware):
    """Are whole days."""
    person.register("d0")
    page.goto("/#/rollouts/new")
    page.get_by_label("All devices").check()
    page.get_by_label("Firmware (.zip").set_input_files(
        {"name": "fw.zip", "mimeType": "application/zip", "buffer": make_firmware()}
    )
    page.get_by_text("Pace and limits").click()
    page.get_by_label("Monday").uncheck()
    page.get_by_role("button", name="Review…").click()
    page.get_by_role("button", name="Start for 1 device").click()
    expect(page.get_by_text("from 00:00 to 24:00 UTC on tue, wed, thu, fri, sat, sun")).to_be_visible()


def test_presses_leave_no_listeners(page, person):
    """However often a row is pressed: the page waits for nothing afterwards."""
    person.register("d0")
    row = page.get_by_role("row").filter(has_text="d0")
    expect(row).to_be_visible()
    session = page.context.new_cdp_session(page)

    def listeners():
        window = session.send("Runtime.evaluate", {"expression": "window"})["result"]["objectId"]
        found = session.send("DOMDebugger.getEventListeners", {"objectId": window})["listeners"]
        return sum(each["type"].startswith("pointer") for each in found)

    def press(end):
        row.dispatch_event("pointerdown")
        row.dispatch_event(end)

    press("pointerup")  # the driver of the browser has listeners of its own, from the first act on
    before = listeners()
    for end in ("pointercancel", "pointerup", "pointerup"):
        press(end)
    assert listeners() == before
