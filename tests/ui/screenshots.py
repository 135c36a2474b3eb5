"""Writes every view, light and dark and on a phone: ``make screenshots``.

    python -m pytest tests/ui/screenshots.py

into the folder ``screenshots``, to be looked at.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import expect

FOLDER = Path(__file__).parents[2] / "screenshots"

LOOKS = {
    "light": {},
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True},
}

VIEWS = {
    "devices": "#/devices",
    **{
        f"device-{tab}": f"#/device/lamp/{tab}"
        for tab in ("overview", "shadow", "rpc", "files", "config", "ota", "log")
    },
    "rollouts": "#/rollouts",
    "notifications": "#/notifications",
    "keys": "#/keys",
    "users": "#/users",
    "profile": "#/profile",
}

REACTIONS = {
    "register": ("#/devices", "Register"),
}
"""Pictures of what a button brings up: its view and its name."""


@pytest.fixture
def person(make_person):
    """An admin, who sees everything."""
    return make_person(admin=True)


@pytest.fixture
def home(person, fleet):
    """A few devices, of which some are online."""
    fleet.connect("lamp", name="Lamp in the hall", stats_interval=0.05)
    fleet.connect("meter", name="Water meter", stats_interval=0.05)
    for n in range(40):
        person.register(f"sensor-{n:02}", f"Sensor {n} in the cellar")
    person.http.post("/devices/lamp/shadow", json={"state": {"desired": {"on": True, "brightness": 60}}})


def save(page, name):
    """Wait for the fonts and what is being fetched, then write the picture."""
    page.wait_for_load_state("networkidle")
    FOLDER.mkdir(exist_ok=True)
    page.screenshot(path=FOLDER / f"{name}.png")


@pytest.mark.parametrize("look", LOOKS)
def test_views(open_page, person, home, look):
    """Each view, with devices."""
    page = open_page(person, **LOOKS[look])
    for name, route in VIEWS.items():
        page.goto(f"/{route}")
        expect(page.get_by_role("main").locator("h1")).to_be_visible()
        save(page, f"{name}-{look}")
    for name, (route, button) in REACTIONS.items():
        page.goto(f"/{route}")
        page.get_by_role("button", name=button).click()
        save(page, f"{name}-{look}")


@pytest.mark.parametrize("look", LOOKS)
def test_without_anything(open_page, make_person, look):
    """The login, and what somebody sees who has just begun."""
    save(open_page(None, "#/login", **LOOKS[look]), f"login-{look}")
    save(open_page(make_person(), **LOOKS[look]), f"empty-{look}")
