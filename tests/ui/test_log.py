"""The stored log where it is long, cut short or not to be had: in the stream, as a download, and as presence."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

QUIET = {"stats_interval": 3600, "log_interval": 3600}


@pytest.fixture
def calls(person):
    """Makes notifications: calls of a device, without an answer; at most 25 at a time."""

    def make(name, *numbers):
        frames = [{"method": f"{name}{n}"} for n in numbers]
        for start in range(0, len(frames), 25):
            assert person.http.post("/devices/lamp/rpc", json=frames[start : start + 25]).status_code == 204

    return make


def lines(page):
    """What the stream shows."""
    return page.locator(".stream .line .what")


def stored(person):
    """The names of the test's calls, in the order in which the server has stored them."""
    return [note["name"] for note in person.http.post("/logs", json={"name": "rpc.in.Test.*", "limit": 1000}).json()]


def asks(route):
    """What a request for the log asks for."""
    return route.request.post_data_json


# The stream


def test_what_could_not_be_loaded_is_said_and_can_be_had(open_page, person, fleet, calls, hold):
    """The page is live later than it has read, and what lies between fails: there is no hole, but a way to it."""
    fleet.connect("lamp", **QUIET)
    calls("Test.Call", *range(5))
    page = open_page(person, "#/notifications?kind=in")
    expect(lines(page)).to_have_count(5)
    page.route("**/logs", lambda route: route.abort() if "start" in asks(route) else route.continue_())
    held = hold(page, re.compile(r"/api/v2/devices\?"))  # before that, nothing is live
    page.reload()
    expect(lines(page)).to_have_count(5)
    calls("Test.Call", *range(5, 10))
    devices = held.take()
    with page.expect_event("requestfailed"):
        devices.continue_()
    stream = page.get_by_role("log")
    expect(stream).to_contain_text("Some entries could not be loaded: the server cannot be reached.")
    calls("Test.Call", 10)
    expect(lines(page).last).to_have_text("rpc.in.Test.Call10")
    page.unroute("**/logs")
    stream.get_by_role("button", name="Try again").click()
    expect(lines(page)).to_have_text(stored(person))
    expect(stream).to_contain_text("This is the beginning of the log.")


def test_a_reader_of_old_entries_is_not_disturbed_and_finds_back(open_page, person, fleet, calls, tweak, scroll):
    """What comes meanwhile is not kept without end, also where the filter hides it; one click brings the newest."""
    fleet.connect("lamp", **QUIET)
    calls("Test.Call", *range(60))
    page = open_page(person, "#/notifications?q=Test.Call")
    tweak(page, "stream.js", MAX_FILTERED=500, LOOK_BACK=1)
    expect(lines(page)).to_have_count(60)
    scroll(page, 0)
    newest = page.get_by_role("button", name="To the newest")
    expect(newest).to_be_hidden()
    calls("Test.Other", *range(500))
    expect(newest).to_be_visible()
    calls("Test.Call", *range(60, 100))
    expect(page.get_by_role("button", name="40 new")).to_be_visible()
    expect(lines(page)).to_have_count(60)
    expect(lines(page).first).to_be_in_viewport()
    page.get_by_role("button", name="40 new").click()
    expect(lines(page)).to_have_count(100)
    expect(newest).to_be_hidden()
    calls("Test.Call", 100)
    expect(lines(page).last).to_have_text("rpc.in.Test.Call100")
    expect(lines(page).last).to_be_in_viewport()


def test_a_filter_that_is_taken_away_shows_no_more_than_a_page_holds(open_page, person, fleet, calls, scroll):
    """However far one looked back with it; the rest is there when one scrolls."""
    fleet.connect("lamp", **QUIET)
    calls("Test.Call", *range(500))
    names = stored(person)
    page = open_page(person, "#/notifications?kind=in&q=Call123")
    search = page.get_by_role("searchbox", name="Filter notifications")
    expect(page.get_by_text("This is the beginning of the log.")).to_be_attached()
    search.fill("")
    expect(lines(page)).to_have_text(names[-200:])
    scroll(page, 0)
    expect(lines(page)).to_have_text(names[-400:])


def test_a_page_that_goes_live_while_it_searches_goes_on_searching(open_page, person, fleet, calls):
    """What came between is read after that: the filter's one find, far back, is there."""
    fleet.connect("lamp", **QUIET)
    calls("Test.Call", *range(30))
    page = open_page(person, "#/notifications?kind=in&q=Call0")
    expect(lines(page)).to_have_count(1)
    held = []

    def is_search(request):
        return "/logs?" in request.url

    page.route("**/logs?*", lambda route: route.continue_() if held else held.append(route))
    with page.expect_request(is_search):
        page.reload()
    expect(page.get_by_role("status").filter(has_text="Live")).to_be_visible()
    calls("Test.Call", 30)
    held[0].continue_()
    expect(lines(page)).to_have_text(["rpc.in.Test.Call0"])
    expect(page.get_by_text("This is the beginning of the log.")).to_be_attached()


# Downloads


def test_a_long_download_is_cut_and_says_so(open_page, person, fleet, calls, tweak):
    """The newest are in it; how many, and that there are more, is on the page and in the file."""
    fleet.connect("lamp", **QUIET)
    calls("Test.Call", *range(20))
    page = open_page(person, "#/device/lamp/log")
    tweak(page, "views/device/log.js", READ_PAGE=3, MAX_LINES=8)
    page.get_by_label("Show").select_option("All that happens")
    page.get_by_role("searchbox", name="Filter the log").fill("Test.Call")
    expect(lines(page)).to_have_count(20)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    words = "Only the newest 8 entries: there are older ones."
    expect(page.get_by_role("status").filter(has_text="entries")).to_have_text(words)
    first, *rest = download.value.path().read_text().splitlines()
    assert first == words
    assert [line.split()[1] for line in rest] == stored(person)[-8:]
    page.get_by_role("searchbox", name="Filter the log").fill("Test.Call1")
    expect(lines(page)).to_have_count(11)
    tweak(page, "views/device/log.js", READ_PAGE=3, MAX_LINES=11)
    page.get_by_label("Show").select_option("All that happens")
    page.get_by_role("searchbox", name="Filter the log").fill("Test.Call1")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    expect(page.get_by_role("status").filter(has_text="entries")).to_have_text("11 entries saved.")
    assert len(download.value.path().read_text().splitlines()) == 11


def test_a_download_shows_its_progress_and_can_be_stopped(open_page, person, fleet, calls, tweak, axe):
    """What was read by then is let go; the next one begins from the start."""
    fleet.connect("lamp", **QUIET)
    calls("Test.Call", *range(20))
    page = open_page(person, "#/device/lamp/log")
    tweak(page, "views/device/log.js", READ_PAGE=5)
    page.get_by_label("Show").select_option("All that happens")
    expect(lines(page).filter(has_text="Test.Call")).to_have_count(20)
    downloads, held = [], []
    page.on("download", lambda download: downloads.append(download))
    page.route(
        "**/logs",
        lambda route: held.append(route) if asks(route).get("before", 1000) < 1000 else route.continue_(),
    )
    page.get_by_role("button", name="Download").click()
    expect(page.get_by_text("5 entries")).to_be_visible()
    bar = page.get_by_role("progressbar", name="Download")
    assert 0 < float(bar.get_attribute("value")) < 1
    axe(page)
    with page.expect_event("requestfailed"):
        page.get_by_role("button", name="Stop").click()
    expect(bar).to_be_hidden()
    expect(page.get_by_role("alert")).to_have_count(0)
    page.unroute("**/logs")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    assert len(downloads) == 1
    assert download.value.path().read_text().count("Test.Call") == 20


# Presence


@pytest.mark.parametrize("left", ["an end", pytest.param("nothing", marks=pytest.mark.proof)])
def test_presence_says_no_more_than_the_log_does(open_page, person, fleet, calls, left):
    """Where the beginning is no longer kept: since when it is known, and the state that nothing has changed."""
    lamp = fleet.connect("lamp", **QUIET)
    calls("Test.Call", 0)
    first = person.http.post("/logs", json={"name": "rpc.in.*"}).json()[-1]["offset"]
    if left == "an end":
        lamp.stop()
    page = open_page(person)
    page.route(
        "**/logs",
        lambda route: route.continue_(post_data={**asks(route), "start": max(first, asks(route).get("start", 0))}),
    )
    page.goto("/#/device/lamp")
    strip = page.get_by_role("img", name=re.compile("^Presence"))
    words = (
        "Online 100 % of the time since "
        if left == "nothing"
        else r"Online [\d.]+ % of the time since .*, 1 interruption$"
    )
    expect(page.locator(".presence output")).to_have_text(re.compile(f"^{words}"))
    expect(strip.locator("rect.unknown")).to_have_count(1)
    expect(strip.locator("rect.online")).to_have_count(1)
    expect(strip.locator("rect.offline")).to_have_count(0 if left == "nothing" else 1)


def test_presence_that_could_not_be_read_is_read_later(open_page, person, fleet, cable):
    """It says so, and tries again once there is a connection."""
    fleet.connect("lamp", **QUIET)
    page = open_page(person, cable=cable)
    page.route("**/logs", lambda route: route.abort())
    page.goto("/#/device/lamp")
    expect(page.get_by_role("alert")).to_have_text("The server cannot be reached.")
    expect(page.locator(".presence output")).to_have_text("")
    cable.cut()
    expect(page.get_by_role("status").filter(has_text="Reconnecting")).to_be_visible()
    page.unroute("**/logs")
    cable.mend()
    expect(page.locator(".presence output")).to_contain_text("Online 100 %")
    expect(page.get_by_role("alert")).to_be_hidden()
