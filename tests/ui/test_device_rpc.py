"""Calling a device's methods from its page."""

from __future__ import annotations

import re

import pytest
import trio
from playwright.sync_api import expect

HOSTILE = ["<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>", "\u202egnp.exe\u202c", "M" * 10_000]


def call(page, method, params=None):
    """Fill in the form, and call."""
    page.get_by_label("Method", exact=True).fill(method)
    if params is not None:
        page.get_by_label("Parameters as JSON").fill(params)
    page.get_by_role("button", name="Call").click()


def result(page):
    """What the call brought."""
    return page.get_by_role("form", name="Call").locator(".result")


def history(page):
    """The calls of before."""
    return page.get_by_role("region", name="History").get_by_role("listitem")


def test_a_method_is_chosen_and_called(open_page, person, fleet, axe):
    """The methods come from the device, with hints for their arguments; the answer and its time are shown."""
    fleet.connect("lamp")
    page = open_page(person, "#/device/lamp/rpc")
    expect(page.get_by_text("Calls that you make are listed here")).to_be_visible()
    page.get_by_label("Method", exact=True).fill("toggle")
    page.get_by_role("button", name="GPIO.Toggle").click()
    page.get_by_role("button", name="pin integer").click()
    expect(page.get_by_label("Parameters as JSON")).to_have_value('{\n  "pin": 0\n}')
    page.keyboard.type("5")  # in place of the 0, which is selected
    axe(page)
    page.keyboard.press("Control+Enter")
    expect(result(page)).to_contain_text(re.compile(r"Answered in \d+ ms"))
    expect(page.get_by_role("group", name="Result")).to_have_text('{\n  "value": 1\n}')
    expect(history(page)).to_contain_text(["GPIO.Toggle"])
    axe(page)


def test_calls_are_run_again_from_the_history(open_page, person, fleet):
    """The newest first; it stays while one looks at another tab; another call comes with the same parameters."""
    fleet.connect("lamp")
    page = open_page(person, "#/device/lamp/rpc")
    call(page, "GPIO.Toggle", '{"pin": 3}')
    expect(result(page)).to_contain_text('"value": 1')
    call(page, "No.Such", "")
    expect(history(page)).to_have_count(2)
    page.get_by_role("link", name="Shadow").click()
    page.get_by_role("link", name="RPC").click()
    expect(history(page)).to_contain_text(["No.Such", "GPIO.Toggle"])
    page.get_by_role("button", name="Run again: GPIO.Toggle").click()
    expect(result(page)).to_contain_text('"value": 0')
    expect(page.get_by_label("Parameters as JSON")).to_have_value('{\n  "pin": 3\n}')
    expect(history(page)).to_have_count(3)


def test_long_answers_are_not_piled_up(open_page, person, fleet):
    """The newest is shown as a whole; of older ones that are long the history keeps the call, and says so."""
    fleet.pretend("lamp", {"RPC.List": ["Long"], "Long": "x" * 20_000, "Short": "y"})
    page = open_page(person, "#/device/lamp/rpc")
    call(page, "Long")
    expect(page.get_by_role("group", name="Result")).to_have_text(f'"{"x" * 20_000}"')
    call(page, "Short")
    expect(page.get_by_role("group", name="Result")).to_have_text('"y"')
    history(page).nth(1).get_by_role("button", name="Long", exact=True).click()
    expect(result(page)).to_contain_text("is not kept: run it again to see it")


def test_calling_by_keyboard(open_page, person, fleet):
    """From the name of the method to the answer, and again from the history."""
    fleet.connect("lamp")
    page = open_page(person, "#/device/lamp/rpc")
    page.get_by_role("button", name="GPIO.Write").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="value integer")).to_be_visible()
    page.get_by_label("Method", exact=True).focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.type("4")
    page.get_by_role("button", name="value integer").focus()
    page.keyboard.press("Enter")
    page.keyboard.type("1")
    page.keyboard.press("Control+Enter")
    expect(result(page)).to_contain_text("Without a value (null): it is done.")
    page.get_by_role("button", name="Run again: GPIO.Write").focus()
    page.keyboard.press("Enter")
    expect(history(page)).to_have_count(2)
    assert person.http.post("/devices/lamp/rpc/GPIO.Read", json={"pin": 4}).json() == {"value": 1}


ERRORS = [
    ("No.Such", "", "The device answered with error 404.*No handler for No.Such.*seems not to have No.Such"),
    ("GPIO.Toggle", "{}", "error 400.*Pin is required"),
    ("GPIO.Toggle", '{"pin": 99}', "error 400.*Error setting pin mode"),
]


def test_errors_are_readable(open_page, person, fleet):
    """The device's own code and words."""
    fleet.connect("lamp")
    page = open_page(person, "#/device/lamp/rpc")
    for method, params, said in ERRORS:
        call(page, method, params)
        expect(result(page)).to_contain_text(re.compile(said))


def test_wrong_json_is_not_sent(open_page, person, fleet):
    """The form says what is wrong, and nothing goes to the device."""
    fleet.connect("lamp")
    page = open_page(person, "#/device/lamp/rpc")
    page.get_by_role("button", name="Call").click()
    expect(page.get_by_role("alert")).to_have_text("Write or choose a method first.")
    call(page, "GPIO.Toggle", '{"pin": }')
    expect(page.get_by_role("alert")).to_have_text("The parameters are no JSON yet.")
    expect(page.get_by_label("Parameters as JSON")).to_be_focused()
    expect(history(page)).to_have_count(0)


def test_a_slow_call_can_be_left(open_page, person, fleet):
    """It shows how long it takes; one can stop waiting; one that takes too long says so."""

    async def never(params):
        await trio.sleep_forever()

    fleet.pretend("slow", {"RPC.List": ["Sleep"], "Sleep": never})
    page = open_page(person, "#/device/slow/rpc")
    call(page, "Sleep")
    expect(result(page)).to_contain_text(re.compile(r"Waiting for Sleep… \d"))
    page.get_by_role("button", name="Stop waiting").click()
    expect(result(page)).to_contain_text("You stopped waiting")
    page.get_by_label("Wait at most, in seconds").fill("0.2")
    page.get_by_role("button", name="Call").click()
    expect(result(page)).to_contain_text("did not answer in time")


def test_an_offline_device_cannot_be_called(open_page, person, fleet, axe):
    """The page says so, and that changes by itself when the device comes."""
    token = person.register("lamp")
    page = open_page(person, "#/device/lamp/rpc")
    expect(page.get_by_text("The device is offline.")).to_be_visible()
    expect(page.get_by_role("button", name="Call")).to_be_disabled()
    expect(page.get_by_text("asked for its methods once it is back")).to_be_visible()
    axe(page)
    fleet.connect("lamp", token=token)
    expect(page.get_by_role("button", name="GPIO.Toggle")).to_be_visible()
    expect(page.get_by_role("button", name="Call")).to_be_enabled()
    expect(page.get_by_text("The device is offline.")).to_be_hidden()


@pytest.mark.proof  # drawn by the same parts as a shadow, which is looked at in the gate
def test_answers_from_outside_stay_text(open_page, person, fleet, axe):
    """Whatever methods are called and answer: no script runs, and nothing breaks out of its place."""
    fleet.pretend(
        "evil",
        {
            "RPC.List": [*HOSTILE, 7, None, {}],
            "RPC.Describe": {"args_fmt": "{" + ", ".join(f"{name}: %Q" for name in HOSTILE) + "}"},
            HOSTILE[0]: HOSTILE,
        },
    )
    page = open_page(person, "#/device/evil/rpc")
    page.get_by_role("button", name=HOSTILE[0]).click()
    page.get_by_role("button", name="Call").click()
    expect(page.get_by_role("group", name="Result")).to_contain_text("\\u202egnp.exe\\u202c")
    axe(page)
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.querySelector('main').scrollWidth <= innerWidth"), width
    assert page.locator("main img").count() == 0
