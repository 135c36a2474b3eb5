"""What the page shows stays what the server has: dead sockets, slow and failing reads, another user's login."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

SAYS_LOST = "Reconnecting… what you see may be old."


def row(page, name):
    """The row of a device in the list."""
    return page.get_by_role("row").filter(has_text=name)


def listed(page, count):
    """Wait until the page follows its devices."""
    expect(page.get_by_text(re.compile(rf"^{count} devices?\b"))).to_be_visible()


def lost(page):
    """Where the page says that it has no connection."""
    return page.get_by_role("status").filter(has_text="Reconnecting")


def come_back(page):
    """Turn to the page again, from another tab or window."""
    page.evaluate("dispatchEvent(new Event('focus'))")


def is_question(request):
    """Whether it asks where the log of notifications ends."""
    return request.url.endswith("/api/v2/session")


# Sockets


@pytest.mark.parametrize("how", ["by itself", pytest.param("when somebody turns to it", marks=pytest.mark.proof)])
def test_a_socket_that_died_without_a_word_is_found_out(open_page, person, cable, tweak, how):
    """The server has what does not come: the page connects anew, goes on where it was, and shows it."""
    person.register("lamp", "Lamp")
    page = open_page(person, cable=cable)
    tweak(page, "live.js", SOCKET_GRACE=300, **({"CHECK_INTERVAL": 1000} if how == "by itself" else {}))
    listed(page, 1)
    cable.hang()
    person.http.put("/devices/lamp", json={"name": "Lamp by the door"})
    person.register("fan", "Fan")
    if how != "by itself":
        come_back(page)
    expect(row(page, "Lamp by the door")).to_be_visible()
    expect(row(page, "Fan")).to_be_visible()
    expect(lost(page)).to_be_hidden()


def test_silence_is_no_fault(open_page, person, tweak):
    """Where the server has nothing new, the page asks now and then, and keeps its socket."""
    person.register("lamp", "Lamp")
    page = open_page(person)
    sockets = []
    page.on("websocket", lambda socket: sockets.append(socket))
    tweak(page, "live.js", CHECK_INTERVAL=400)
    listed(page, 1)
    for _ in range(3):
        with page.expect_request(is_question):
            pass
    with sockets[0].expect_event("framereceived"):
        person.http.put("/devices/lamp", json={"name": "Lamp by the door"})
    expect(row(page, "Lamp by the door")).to_be_visible()
    assert len(sockets) == 1


def answered(page):
    """Wait until the page has dealt with the answers that have come."""
    page.evaluate("async () => void (await (await fetch('/api/v2/filters')).text())")


COUNT_QUESTIONS = """() => {
  const send = window.fetch;
  window.asked = window.underWay = 0;
  window.fetch = async (url, options) => {
    window.asked += String(url).includes("/session");
    window.underWay += 1;
    const answer = await send(url, options);
    await answer.clone().text();
    window.underWay -= 1;
    return answer;
  };
}"""


def test_an_idle_page_costs_little(open_page, person, is_live, wait_until):
    """A question a minute while it is looked at, none while it is hidden."""
    page = open_page(person, fresh=True)
    page.clock.install()
    page.reload()
    listed(page, 0)
    is_live(page)
    page.evaluate(COUNT_QUESTIONS)

    def asked():
        return page.evaluate("window.asked")

    for count in (1, 2, 3):
        for _ in range(38):  # in small steps: for the page, the answer must not take ten seconds
            if asked() < count:
                page.clock.run_for(2000)
        assert asked() == count
        wait_until(page, lambda: page.evaluate("window.underWay === 0"))
        answered(page)
    page.evaluate("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
    page.clock.run_for(600_000)
    page.evaluate("delete document.hidden")
    assert asked() == 3
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    assert asked() == 4


def test_a_question_without_an_answer_is_said(open_page, person, tweak, hold):
    """The page then says that it is not connected, and comes back by itself."""
    person.register("lamp", "Lamp")
    page = open_page(person)
    tweak(page, "live.js", SHORT_TIMEOUT=1500)
    listed(page, 1)
    hold(page, "**/api/v2/session")
    come_back(page)
    expect(lost(page)).to_have_text(f"{SAYS_LOST} The last try failed: the server did not answer in time.")
    page.unroute("**/api/v2/session")
    expect(lost(page)).to_be_hidden()
    person.http.put("/devices/lamp", json={"name": "Lamp by the door"})
    expect(row(page, "Lamp by the door")).to_be_visible()


def test_the_page_says_why_it_does_not_connect(open_page, person, cable):
    """Before it has connected for the first time, too: a proxy does not pass on WebSockets, then the server does not
    answer the page. What it says goes once it is connected."""
    person.register("lamp", "Lamp")
    cable.drops_upgrade = True
    page = open_page(person, cable=cable)
    says = page.get_by_role("status").filter(has_text="No connection yet")
    expect(says).to_contain_text("a proxy on the way has to pass on the headers Upgrade, Connection and Host")
    page.route("**/api/v2/session", lambda route: route.abort())
    expect(says).to_have_text("No connection yet: the server cannot be reached. Trying again…")
    page.unroute("**/api/v2/session")
    cable.drops_upgrade = False
    listed(page, 1)
    expect(says).to_be_hidden()


def test_a_quiet_page_misses_nothing(open_page, person, cable):
    """Nothing was told before the connection broke; what happened meanwhile is told all the same."""
    person.register("lamp", "Lamp")
    page = open_page(person, cable=cable)
    listed(page, 1)
    page.get_by_role("link", name="Notifications").click()
    expect(page.locator(".line")).to_have_count(1)
    cable.cut()
    expect(lost(page)).to_be_visible()
    for n in range(5):
        person.http.put("/devices/lamp", json={"name": f"Lamp {n}"})
    page.route("**/logs", lambda route: route.abort() if "start" in route.request.post_data_json else route.continue_())
    cable.mend()
    expect(lost(page)).to_be_hidden()
    person.http.put("/devices/lamp", json={"name": "Lamp 5"})
    expect(page.locator(".line .data")).to_have_text(
        ["registered as Lamp", *[f"renamed to Lamp {n}" for n in range(6)]]
    )


# Reading


@pytest.mark.parametrize("what", ["one", pytest.param("a new one", marks=pytest.mark.proof), "all"])
def test_what_is_told_during_a_slow_read_is_newer(open_page, person, fleet, is_live, wait_until, what):
    """The answer was made before, and comes after: it does not undo what was told."""
    lamp = fleet.connect("lamp", name="Lamp", stats_interval=3600, log_interval=3600)
    page = open_page(person)
    sockets, held = [], []
    page.on("websocket", lambda socket: sockets.append(socket))
    page.reload()
    listed(page, 1)
    is_live(page)
    path = {"one": "/devices/lamp", "a new one": "/devices/fan", "all": "/devices?limit=100&count=1"}[what]
    address = re.compile(re.escape(f"/api/v2{path}") + "$")
    page.route(address, lambda route: held.append(route))
    with page.expect_request(address):
        if what == "one":
            page.evaluate("async () => void (await import(ui('live.js'))).refresh('lamp')")
        elif what == "a new one":
            person.register("fan", "Lamp")
        else:
            sockets.clear()
            page.reload()
    wait_until(page, lambda: sockets)
    old = page.context.request.get(f"/api/v2{path}")
    id = "fan" if what == "a new one" else "lamp"
    with sockets[-1].expect_event("framereceived", lambda text: "Lamp by the door" in text):
        person.http.post(f"/devices/{id}/shadow", json={"state": {"desired": {"on": True}}})
        person.http.put(f"/devices/{id}", json={"name": "Lamp by the door"})
    if what != "a new one":
        with sockets[-1].expect_event("framereceived", lambda text: '"offline"' in text):
            lamp.stop()
    with page.expect_response(address):
        held[0].fulfill(response=old)
    expect(row(page, "Lamp by the door")).to_contain_text("Offline")
    page.wait_for_load_state("networkidle")
    expect(row(page, "Lamp by the door")).to_contain_text("Offline")
    known = page.evaluate("async (id) => (await import(ui('live.js'))).devices.get(id).shadow.version", id)
    assert known == person.http.get(f"/devices/{id}/shadow").json()["version"]


def test_a_device_that_could_not_be_read_is_read_later(open_page, person):
    """The first try fails, and the page says so; then the device is there."""
    person.register("lamp", "Lamp")
    page = open_page(person)
    listed(page, 1)
    page.route("**/api/v2/devices/fan", lambda route: route.abort())
    person.register("fan", "Fan")
    expect(row(page, "Fan")).to_be_visible()
    expect(lost(page)).to_be_hidden()


def test_what_was_missed_is_read_until_that_succeeds(open_page, person, is_live):
    """Something was not told and is no longer kept: the devices are read anew; twice, where that fails at first."""
    person.register("lamp", "Lamp")
    page = open_page(person, fresh=True)
    dropped, failed = [], []

    def pass_on(socket):
        server = socket.connect_to_server()
        server.on_message(lambda text: dropped.append(text) if "by the door" in text else socket.send(text))

    def fail(route):
        failed.append(route)
        if len(failed) == 1:
            route.abort()
        else:
            route.continue_()

    page.route_web_socket("**/notify*", pass_on)
    page.reload()
    is_live(page)
    page.route(re.compile(r"/api/v2/devices\?"), fail)
    person.http.put("/devices/lamp", json={"name": "Lamp by the door"})
    person.register("fan", "Fan")
    expect(row(page, "Fan")).to_be_visible()
    expect(row(page, "Lamp by the door")).to_be_visible()
    assert len(dropped) == 1
    assert len(failed) == 2


# Whose page it is


@pytest.mark.parametrize("how", [pytest.param("after a logout", marks=pytest.mark.proof), "without one"])
def test_a_page_never_goes_on_as_that_of_another_user(open_page, person, make_person, server, cable, how):
    """In another tab of the browser another user has logged in: this one becomes theirs as a whole."""
    other = make_person()
    person.register("lamp", "Lamp")
    other.register("fan", "Fan")
    page = open_page(person, cable=cable)
    expect(row(page, "Lamp")).to_be_visible()
    requests, headers = page.context.request, {"Sec-Fetch-Site": "same-origin"}
    cable.cut()
    if how == "after a logout":
        assert requests.post(f"{server.url}/api/v2/logout", data={}, headers=headers).ok
    else:
        cable.mend()
        expect(lost(page)).to_be_hidden()
    login = {"user": other.name, "password": other.password}
    assert requests.post(f"{server.url}/api/v2/login", data=login, headers=headers).ok
    cable.mend()
    if how == "without one":
        come_back(page)
    expect(page.get_by_role("link", name=f"Profile of {other.name}")).to_be_visible()
    expect(row(page, "Fan")).to_be_visible()
    expect(row(page, "Lamp")).to_have_count(0)
    other.http.put("/devices/fan", json={"name": "Fan in the cellar"})
    expect(row(page, "Fan in the cellar")).to_be_visible()
