"""What happens, live and stored, in one scroll: of all devices, and of one with what it logs."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect
from websockets.sync.client import connect

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "\u202eevil\u202c",
    "W" * 10_000,
    "two\nlines\n",
    "\x1b[31mred\x1b[0m \x00",
]


@pytest.fixture
def say(portal):
    """Have a virtual device write into its log."""

    def say(connected, *lines):
        for line in lines:
            portal.call(connected.device._board.log, line)

    return say


@pytest.fixture
def calls(person):
    """Makes many notifications together: calls of a device, without an answer. The last of them comes last."""

    def make(id, count, first=0):
        frames = [{"method": f"Test.Call{n}"} for n in range(first, first + count)]
        batches = [frames[n : min(n + 25, count - 1)] for n in range(0, count - 1, 25)]
        for batch in (*batches, frames[-1:]):
            assert person.http.post(f"/devices/{id}/rpc", json=batch).status_code == 204

    return make


def log(page, name="Notifications"):
    """The stream."""
    return page.get_by_role("log", name=name)


def lines(page):
    """Its lines."""
    return page.locator(".stream .line")


FIRST = "document.querySelector('.stream .line').dataset.offset"


@pytest.fixture
def expect_at_end(wait_until):
    """The newest line is in sight, or comes into sight with the next frame."""
    at_end = (
        "(({scrollHeight, scrollTop, clientHeight}) => scrollHeight - scrollTop - clientHeight < 5)"
        "(document.querySelector('.stream'))"
    )
    return lambda page: wait_until(page, lambda: page.evaluate(at_end))


def test_what_happened_and_what_happens(open_page, person, fleet, axe):
    """Stored and live in one scroll, in words; the device is a link to its page."""
    person.register("fan", "Fan")
    page = open_page(person, "#/notifications")
    expect(lines(page)).to_have_count(1)
    expect(lines(page).first).to_contain_text("registered as Fan")
    fleet.connect("lamp", name="Lamp in the hall", stats_interval=3600, log_interval=3600)
    person.http.post("/devices/lamp/rpc/Sys.GetInfo")
    for text in ("registered as Lamp in the hall", "Lamp in the hallonlineconnected", "rpc.in.Sys.GetInfo"):
        expect(lines(page).filter(has_text=text).first).to_be_visible()
    axe(page)
    lines(page).filter(has_text="rpc.in.Sys.GetInfo").get_by_role("link", name="Lamp in the hall").click()
    expect(page.get_by_role("heading", name="Lamp in the hall", level=1)).to_be_visible()


def test_nothing_yet(open_page, make_person, axe):
    """It says what would be here."""
    page = open_page(make_person(), "#/notifications")
    expect(page.get_by_role("heading", name="Nothing to show")).to_be_visible()
    axe(page)


def test_scrolling_back(open_page, person, fleet, calls, scroll, wait_until, expect_at_end):
    """To the beginning, page by page, without a hole or a repetition, while what one reads stays where it is."""
    fleet.connect("lamp", stats_interval=3600, log_interval=3600)
    calls("lamp", 650)
    page = open_page(person, "#/notifications")
    expect(lines(page).last).to_contain_text("Test.Call649")
    expect_at_end(page)
    assert lines(page).count() < 400
    for _ in range(3):  # reads of 200 each
        first = page.evaluate(FIRST)
        scroll(page, 0)
        wait_until(page, lambda first=first: page.evaluate(FIRST) != first)
    expect(page.get_by_text("This is the beginning of the log.")).to_be_attached()
    offsets = page.evaluate("[...document.querySelectorAll('.line')].map((line) => Number(line.dataset.offset))")
    assert offsets == [*range(len(person.http.post("/logs", json={"limit": 1000}).json()))]
    scroll(page, 3000)
    middle = "(() => document.elementFromPoint(600, 400).closest('.line').dataset.offset)()"
    before = page.evaluate(middle)
    calls("lamp", 5, first=650)
    expect(page.get_by_role("button", name="5 new")).to_be_visible()
    assert page.evaluate(middle) == before
    page.get_by_role("button", name="5 new").click()
    expect(lines(page).last).to_contain_text("Test.Call654")
    expect_at_end(page)


def test_pausing(open_page, person, fleet, calls, axe):
    """Nothing moves; what comes meanwhile is counted, and shown after."""
    fleet.connect("lamp", stats_interval=3600, log_interval=3600)
    page = open_page(person, "#/notifications")
    expect(lines(page).filter(has_text="connected").first).to_be_visible()
    page.get_by_label("Kind").select_option("Calls to devices")
    expect(page.get_by_text("Nothing to show")).to_be_visible()
    calls("lamp", 2)
    expect(lines(page)).to_have_count(2)
    page.get_by_role("button", name="Pause").click()
    calls("lamp", 3, first=2)
    expect(page.get_by_text("Paused, 3 waiting")).to_be_visible()
    expect(lines(page)).to_have_count(2)
    axe(page)
    page.get_by_role("button", name="Go on").click()
    expect(lines(page)).to_have_count(5)
    expect(page.get_by_text("Live", exact=True)).to_be_visible()


def test_filtering(open_page, person, fleet, calls, say):
    """By kind and by words, in what is stored as in what comes; far back too, where the matches are few."""
    lamp = fleet.connect("lamp", name="Lamp", stats_interval=3600, log_interval=3600)
    person.register("fan", "Fan")
    calls("lamp", 500)
    page = open_page(person, "#/notifications")
    search = page.get_by_role("searchbox", name="Filter notifications")
    search.fill("registered fan")
    expect(page.get_by_text("Nothing here matches the filter.")).to_be_visible()
    search.fill("created fan")
    expect(lines(page)).to_have_count(1)
    search.fill("")
    page.get_by_label("Kind").select_option("Device logs")
    say(lamp, "button pressed")
    expect(lines(page).last).to_contain_text("button pressed")
    expect(lines(page).filter(has_text="rpc.in")).to_have_count(0)
    search.fill("pressed")
    say(lamp, "door opened", "button pressed again")
    expect(lines(page)).to_have_count(2)
    page.reload()
    expect(lines(page)).to_have_count(2)
    expect(search).to_have_value("pressed")


def test_nothing_is_lost_when_the_connection_is(open_page, person, fleet, calls, cable):
    """The page says that it is cut; once it is back, every notification is there, once, in order; paused or not."""
    fleet.connect("lamp", stats_interval=3600, log_interval=3600)
    pages = [open_page(person, "#/notifications", cable=cable) for _ in range(2)]
    for page in pages:
        page.get_by_label("Kind").select_option("Calls to devices")
    calls("lamp", 10)
    for page in pages:
        expect(lines(page)).to_have_count(10)
    pages[1].get_by_role("button", name="Pause").click()
    for first in (10, 60):
        cable.cut()
        for page in pages:
            expect(page.get_by_role("status").filter(has_text="Reconnecting")).to_be_visible()
        calls("lamp", 50, first=first)
        cable.mend()
        for page in pages:
            expect(page.get_by_role("status").filter(has_text="Reconnecting")).to_be_hidden()
    calls("lamp", 5, first=110)
    expect(pages[1].get_by_text("Paused, 105 waiting")).to_be_visible()
    expect(lines(pages[1])).to_have_count(10)
    pages[1].get_by_role("button", name="Go on").click()
    for page in pages:
        expect(lines(page)).to_have_count(115)
        names = page.evaluate("[...document.querySelectorAll('.line .what')].map((what) => what.textContent)")
        stored = person.http.post("/logs", json={"name": "rpc.in.*", "limit": 1000}).json()
        assert names == [note["name"] for note in stored]


def test_an_error_is_said_where_it_is(open_page, person, problems):
    """In the stream, with another try."""
    page = open_page(person)
    person.register("lamp")
    page.route("**/logs", lambda route: route.abort())
    page.get_by_role("link", name="Notifications").click()
    expect(log(page)).to_contain_text("The server cannot be reached.")
    page.unroute("**/logs")
    log(page).get_by_role("button", name="Try again").click()
    expect(lines(page)).to_have_count(1)


def test_a_flood(open_page, person, fleet, calls, scroll, tweak, expect_at_end):
    """The page keeps what it can show, and follows; what it has dropped is read again."""
    fleet.connect("lamp", stats_interval=3600, log_interval=3600)
    page = open_page(person, "#/notifications")
    tweak(page, "stream.js", KEPT_LINES=300, MAX_LINES=750, BATCH_LINES=150)
    expect(lines(page).filter(has_text="connected").first).to_be_visible()
    calls("lamp", 600)
    expect(lines(page).last).to_contain_text("Test.Call599")
    assert lines(page).count() <= 300
    expect_at_end(page)
    scroll(page, 0)
    expect(lines(page).filter(has_text="Test.Call200").first).to_be_attached()


def test_what_devices_say_stays_text(open_page, person, fleet, say, in_every_look):
    """Whatever they log and however they are called: no script runs, nothing is wider than the screen."""
    lamp = fleet.connect("lamp", name=HOSTILE[1] + "W" * 200, stats_interval=3600, log_interval=3600)
    person.http.post("/devices/lamp/rpc/" + "<img onerror=1>", json={HOSTILE[0]: HOSTILE[1]})
    say(lamp, *HOSTILE)
    page = open_page(person, "#/notifications")
    for route, name in (("#/notifications", "Notifications"), ("#/device/lamp/log", "Log")):
        page.goto(f"/{route}")
        for text in (*HOSTILE[:3], "two\nlines", "W" * 300):
            expect(log(page, name)).to_contain_text(text)
        more = log(page, name).get_by_role("button", name="more")
        expect(more.first).to_be_visible()
        while more.count():
            more.first.click()
        expect(log(page, name).locator("pre").filter(has_text="W" * 10_000)).to_be_visible()
        in_every_look(page)
        page.set_viewport_size({"width": 390, "height": 844})
        assert log(page, name).evaluate("(log) => log.scrollWidth <= log.clientWidth")


# One device


def test_a_device_s_log(open_page, person, fleet, say, axe):
    """What it has logged and what it logs, and nothing of another; all that happens to it, if one wants that."""
    lamp = fleet.connect("lamp", stats_interval=3600, log_interval=3600)
    fan = fleet.connect("fan", stats_interval=3600, log_interval=3600)
    say(lamp, "first")
    say(fan, "of the fan")
    page = open_page(person, "#/device/lamp/log")
    expect(lines(page).filter(has_text="first")).to_be_visible()
    say(lamp, "second")
    expect(lines(page).filter(has_text="second")).to_be_visible()
    expect(page.get_by_text("of the fan")).to_have_count(0)
    axe(page)
    page.get_by_role("searchbox", name="Filter the log").fill("SECO")
    expect(lines(page)).to_have_count(1)
    page.get_by_role("searchbox", name="Filter the log").fill("")
    page.get_by_label("Show").select_option("All that happens")
    expect(lines(page).filter(has_text="registered as lamp")).to_be_visible()
    expect(lines(page).filter(has_text="connected")).to_be_visible()
    axe(page)


def test_a_device_that_logs_nothing(open_page, person, axe):
    """It says how a device logs."""
    person.register("lamp")
    page = open_page(person, "#/device/lamp/log")
    expect(page.get_by_role("heading", name="No log lines")).to_be_visible()
    axe(page)


def test_downloading_the_log(open_page, person, fleet, say):
    """The whole of it as text, as it is filtered; an error is said beside the button."""
    lamp = fleet.connect("lamp", stats_interval=3600, log_interval=3600)
    page = open_page(person, "#/device/lamp/log")
    say(lamp, *[f"line {n}\n" for n in range(8)])
    page.get_by_role("searchbox", name="Filter the log").fill("line")
    expect(lines(page)).to_have_count(8)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == "lamp.log"
    text = download.value.path().read_text()
    assert [line.partition(" ")[2] for line in text.splitlines()] == [f"line {n}" for n in range(8)]
    page.route("**/logs", lambda route: route.abort())
    page.get_by_role("button", name="Download").click()
    expect(page.get_by_role("alert")).to_have_text("The server cannot be reached.")
    expect(page.get_by_role("button", name="Download")).to_be_enabled()


def test_what_a_device_sends_that_cannot_be_read(open_page, person, server):
    """It stands in the log, with what is wrong and how it begins; and can be looked for."""
    token = person.register("lamp")
    page = open_page(person, "#/notifications")
    url = server.url.replace("http", "ws", 1)
    with connect(f"{url}/api/v2/rpc", additional_headers={"Authorization": f"Bearer {token}"}) as device:
        device.send('{"method":"Dash.Shadow.Update","params":{"state":{"reported":{"t":nan}}}}')
        expect(log(page)).to_contain_text("rejected")
        expect(log(page)).to_contain_text('{"t":nan}')
        expect(lines(page).filter(has_text="rejected")).to_have_count(1)


def test_a_browser_offers_subprotocols(open_page, person, server):
    """It closes a socket for which the server chooses none of them."""
    page = open_page(person)
    key = person.http.post("/keys", json={"name": "browser"}).json()["key"]
    url = f"{server.url.replace('http', 'ws', 1)}/api/v2/notify?access_token={key}"
    chosen = page.evaluate(
        """(url) => new Promise((resolve) => {
          const socket = new WebSocket(url, ["json-rpc", "mqtt"]);
          socket.onopen = () => resolve(socket.protocol);
          socket.onclose = (event) => resolve(`closed: ${event.code}`);
        })""",
        url,
    )
    assert chosen == "json-rpc"
