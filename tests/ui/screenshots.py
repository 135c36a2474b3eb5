"""Writes every view, light and dark and on a phone: ``make screenshots``.

    python -m pytest tests/ui/screenshots.py

into the folder ``screenshots``, to be looked at; and the README's picture, into ``docs/images``.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import expect
from selecting import of_all

from mdashcore.virtual_device import FirmwareBuild

FOLDER = Path(__file__).parents[2] / "screenshots"

README_PICTURE = Path(__file__).parents[2] / "docs" / "images" / "dashboard.png"

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
    "jobs": "#/jobs",
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
        page.goto("about:blank")  # else the view before might be in the picture
        page.goto(f"/{route}")
        expect(page.get_by_role("main").locator("h1")).to_be_visible()
        save(page, f"{name}-{look}")
    for name, (route, button) in REACTIONS.items():
        page.goto(f"/{route}")
        page.get_by_role("button", name=button).click()
        save(page, f"{name}-{look}")


class TestTheReadme:
    """The picture in it."""

    @pytest.fixture
    def person(self, make_person):
        """A user, whose name is in the picture."""
        return make_person("anna")

    def test_a_small_fleet(self, open_page, person, fleet):
        """The list of its devices, most of which are online."""
        for id, name, app, version in (
            ("boiler", "Boiler in the cellar", "heating", "3.2"),
            ("door", "Front door", "lock", "1.7"),
            ("greenhouse", "Greenhouse", "climate", "2.4"),
            ("lamp", "Lamp in the hall", "lamp", "2.0"),
            ("meter", "Water meter", "meter", "1.1"),
            ("pump", "Garden pump", "pump", "1.0"),
            ("weather", "Weather mast", "climate", "2.4"),
        ):
            build = FirmwareBuild(app=app, version=version, build_id=f"20261103-091500/{app}")
            fleet.connect(id, name=name, build=build, stats_interval=0.05)
        person.register("spare", "Spare lamp")
        page = open_page(person, viewport={"width": 1120, "height": 560})
        expect(page.get_by_text("8 devices, 7 online")).to_be_visible()
        expect(page.get_by_role("img", name=re.compile("^Free RAM"))).to_have_count(7)
        README_PICTURE.parent.mkdir(exist_ok=True)
        page.screenshot(path=README_PICTURE)


@pytest.mark.parametrize("look", LOOKS)
def test_without_anything(open_page, make_person, look):
    """The login, and the views of a new user."""
    save(open_page(None, "#/login", **LOOKS[look]), f"login-{look}")
    save(open_page(make_person(), **LOOKS[look]), f"empty-{look}")


def whole(page, name):
    """Write the picture with all of the view in it, also what would have to be scrolled to."""
    page.evaluate(
        """() => {
          document.body.style.height = "auto";
          document.querySelector("main").style.overflow = "visible";
        }"""
    )
    page.wait_for_load_state("networkidle")
    FOLDER.mkdir(exist_ok=True)
    page.screenshot(path=FOLDER / f"{name}.png", full_page=True)


@pytest.mark.parametrize("look", LOOKS)
def test_a_device_at_work(open_page, person, fleet, make_firmware, look):
    """The tabs of a device while one works with them."""
    image = {"name": "fw.zip", "mimeType": "application/zip", "buffer": make_firmware(name="lamp", version="2.0")}
    lamp = fleet.connect("lamp", name="Lamp in the hall", stats_interval=0.05)
    for n in range(40):
        reported = {"temperature": 21.5 + n * 7 % 5 / 2, "light": {"lux": 40 + n % 7}, "brightness": 40}
        person.http.post("/devices/lamp/shadow", json={"state": {"reported": reported}})
    for name, data in {"init.js": b"print('hello');\n" * 9, "logo.bin": bytes(range(256)), "conf9.json": b"{}"}.items():
        params = {"filename": name, "data": base64.b64encode(data).decode()}
        assert person.http.post("/devices/lamp/rpc/FS.Put", json=params).status_code == 200
    page = open_page(person, "#/device/lamp/ota", **LOOKS[look])

    page.get_by_label("Firmware to send").set_input_files(image)
    expect(page.get_by_text("It fits this device")).to_be_visible()
    whole(page, f"device-ota-image-{look}")
    page.get_by_role("button", name="Update the device").click()
    expect(page.get_by_role("button", name="Roll back")).to_be_visible()
    whole(page, f"device-ota-trial-{look}")
    page.get_by_role("link", name="Overview").click()
    expect(page.get_by_role("img", name=re.compile("^Free RAM"))).to_be_visible()
    whole(page, f"device-overview-trial-{look}")
    page.get_by_role("button", name="Commit").click()
    page.get_by_role("button", name="Dismiss").click()

    page.get_by_role("link", name="RPC").click()
    page.get_by_role("button", name="Sys.GetInfo").click()
    page.get_by_role("button", name="Call").click()
    expect(page.get_by_role("group", name="Result")).to_be_visible()
    whole(page, f"device-rpc-result-{look}")
    page.get_by_role("link", name="Files").click()
    page.get_by_role("button", name="init.js", exact=True).click()
    expect(page.get_by_label("Content of init.js")).to_be_visible()
    whole(page, f"device-files-text-{look}")
    page.get_by_role("button", name="logo.bin", exact=True).click()
    expect(page.get_by_role("group", name="Bytes of logo.bin")).to_be_visible()
    whole(page, f"device-files-hex-{look}")
    page.get_by_role("link", name="Config").click()
    page.get_by_label("ssid of wifi.sta.ssid").fill("home")
    page.get_by_label("level of debug.level").fill("x")
    whole(page, f"device-config-changes-{look}")

    lamp.stop()
    page.get_by_role("link", name="Shadow").click()
    person.http.post("/devices/lamp/shadow", json={"state": {"desired": {"brightness": 60, "mode": "night"}}})
    page.get_by_label("brightness", exact=True).fill("80")
    person.http.post("/devices/lamp/shadow", json={"state": {"desired": {"brightness": 70}}})
    expect(page.get_by_role("alert").filter(has_text="changed elsewhere")).to_be_visible()
    whole(page, f"device-shadow-conflict-{look}")


@pytest.mark.parametrize("look", LOOKS)
def test_lists_at_work(open_page, person, home, make_firmware, look):
    """Devices selected and called, keys and users made, rollouts planned and watched."""
    page = open_page(person, **LOOKS[look])
    page.get_by_label("Select lamp", exact=True).check()
    page.get_by_label("Select sensor-00", exact=True).check()
    save(page, f"devices-selected-{look}")
    for button, name in (("Delete…", "delete"), ("Update firmware…", "update")):
        page.get_by_role("button", name=button).click()
        save(page, f"devices-{name}-{look}")
        page.keyboard.press("Escape")
    page.get_by_role("button", name="Call a method…").click()
    page.get_by_label("Method", exact=True).fill("Sys.GetInfo")
    page.get_by_role("button", name="Call", exact=True).click()
    expect(page.get_by_role("dialog")).to_contain_text("1 failed")
    save(page, f"devices-called-{look}")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Actions for Lamp").click()
    save(page, f"devices-menu-{look}")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="How to filter").click()
    save(page, f"devices-help-{look}")

    for name in ("nightly job", "Grafana"):
        person.http.post("/keys", json={"name": name})
    page.goto("/#/keys")
    page.reload()
    save(page, f"keys-some-{look}")
    page.get_by_role("button", name="Create").click()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="The new key")).to_be_visible()
    save(page, f"keys-new-{look}")
    page.goto("/#/users")
    page.get_by_role("button", name="Add").click()
    page.get_by_role("button", name="Generate").click()
    save(page, f"users-add-{look}")

    image = make_firmware(name="lamp", version="2.0")
    for wanted in (
        {"name": "2.0 to all", "phases": [5, 50, 100], "rate": None},
        {"name": "2.0 later", "approval": True},
    ):
        files = {"rollout": (None, json.dumps(of_all(wanted))), "file": ("fw.zip", image)}
        assert person.http.post("/rollouts", files=files).status_code == 201
    page.goto("/#/rollouts")
    expect(page.get_by_role("link", name="2.0 later")).to_be_visible()
    save(page, f"rollouts-some-{look}")
    page.get_by_role("link", name="2.0 to all").click()
    expect(page.get_by_role("heading", name="2.0 to all")).to_be_visible()
    whole(page, f"rollouts-one-{look}")
    page.goto("/#/rollouts/new")
    page.get_by_label("Firmware (.zip").set_input_files(
        {"name": "fw.zip", "mimeType": "application/zip", "buffer": image}
    )
    page.get_by_label("All devices").check()
    page.get_by_text("Pace and limits").click()
    whole(page, f"rollouts-new-{look}")
    page.get_by_role("button", name="Review…").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    save(page, f"rollouts-review-{look}")
