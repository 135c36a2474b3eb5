"""``mdash demo``, as a new user meets it."""

from __future__ import annotations

import json
import re
import signal
import sys
import sysconfig
from pathlib import Path

import httpx
import pytest

from mdashcore import Unauthenticated
from mdashcore.cli.demo import DEMO_DEVICES, _folder_for_path, register, renew_key
from mdashcore.identity import DeviceKey

THREE = ["lamp", "meter", "pump"]


def named(devices):
    """The demo's own of a list of devices: other tests have theirs at the same demo."""
    return [device for device in devices if device["id"] in THREE]


def test_three_devices_are_connected_when_it_says_so(demo):
    """Its first line names URL and devices, which are online and have said what they run."""
    assert demo.process.out.startswith(
        f"mdash is running at {demo.url} with three virtual devices: lamp, meter, pump.\n"
    )
    devices = named(httpx.get(f"{demo.url}/api/v2/devices", headers={"Authorization": f"Bearer {demo.key}"}).json())
    assert [device["id"] for device in devices] == THREE
    assert all(device["online"] for device in devices)
    assert [device["shadow"]["state"]["reported"]["ota"]["app"] for device in devices] == ["demo"] * 3


def test_it_is_up_soon(start_demo):
    """Starting takes less than 3 s of the processor, which is what it takes on an idle machine."""
    assert start_demo(wrapper=("env",)).cpu < 3  # started anew, as people start it


def test_curl_lists_the_devices(demo, shell):
    """The first line lists them."""
    assert [device["id"] for device in named(json.loads(shell(demo.curls[0])))] == THREE


def test_curl_calls_a_device(demo, shell):
    """The second line toggles a pin: pasted twice, it is as it was."""
    values = [json.loads(shell(demo.curls[1]))["value"] for _ in range(2)]
    assert sorted(values) == [0, 1]


def test_curl_sets_a_shadow_and_sees_it_reported(demo, shell):
    """The third line switches the lamp on, and shows that the lamp reports to be on."""
    accepted, shadow = map(json.loads, shell(demo.curls[2]).split("\n", 1))
    assert accepted["state"] == {"desired": {"on": True}}
    assert shadow["state"]["reported"]["on"] is True
    assert "delta" not in shadow["state"]


def test_there_are_three_curl_lines(demo):
    """No more, no fewer, each on a line of its own."""
    assert len(demo.curls) == 3


def test_its_firmware_is_for_its_devices(start_demo, mdash, tmp_path):
    """A device that gets it runs it; the file is beside the devices, and its owner's only."""
    demo = start_demo("--folder", str(tmp_path))
    line = re.search(r"^  firmware +(\S+), for all three: mdash (.+)$", demo.process.out, re.MULTILINE)
    assert line[1] == str(tmp_path / "fw.zip")
    assert (tmp_path / "fw.zip").stat().st_mode & 0o077 == 0
    done = mdash(*line[2].split(), env=demo.by_key)
    assert (done.code, done.out) == (0, "COMMITTED: lamp runs it, committed\n")


def test_the_other_lines_work_as_well(demo, shell):
    """After the `export` lines, the `mdash` lines need nothing else. That of PATH is tried in tests/distribution."""
    path, *exports = re.findall("^  (export .+)$", demo.process.out, re.MULTILINE)
    assert path == f'export PATH={Path(sys.executable).parent}:"$PATH"'
    lines = [line for line in re.findall("^  (mdash .+)$", demo.process.out, re.MULTILINE) if "notify" not in line]
    assert len(lines) == 3
    said = shell("\n".join([*exports, *lines]))
    assert all(each in said for each in ("Lamp in the hall", '"value"', '"brightness":100'))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Puts a program called mdash somewhere, and runs as it, in a system's Python or in an environment."""

    def put(folder: str, *, prefix: str) -> Path:
        script = tmp_path / folder / "mdash"
        script.parent.mkdir(parents=True, exist_ok=True)
        script.touch(0o755)
        monkeypatch.setattr(sys, "argv", [str(script), "demo"])
        monkeypatch.setattr(sys, "prefix", str(tmp_path / prefix))
        monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / prefix / "bin"))
        return script.parent

    return put


def test_what_a_new_terminal_needs_on_its_path(place, monkeypatch, tmp_path):
    """The folder of an environment, whether it is activated or not; of other folders those that are not there yet."""
    monkeypatch.setenv("PATH", "/usr/bin")
    inside = place("my venv/bin", prefix="my venv")
    assert _folder_for_path() == inside
    monkeypatch.setenv("PATH", f"{inside}:/usr/bin")
    assert _folder_for_path() == inside
    linked = place("local/bin", prefix="an environment behind a link")
    assert _folder_for_path() == linked
    monkeypatch.setenv("PATH", f"{linked}:/usr/bin")
    assert _folder_for_path() is None
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path / "usr"))
    systems = place("usr/bin", prefix="usr")
    monkeypatch.setenv("PATH", f"{systems}:/bin")
    assert _folder_for_path() is None


def test_the_login_is_an_admins(demo, mdash):
    """With the printed password one may manage users."""
    done = mdash("user", "list", env=demo.by_admin)
    assert (done.code, done.err) == (0, "")
    assert ["demo", "admin"] in [line.split("\t")[:2] for line in done.out.splitlines()]


@pytest.mark.parametrize("command", ["demo", "serve"])
def test_a_taken_port(demo, spawn, command):
    """Says which address is taken, and what to do, in one line; the exit code is 3."""
    address = demo.url.removeprefix("http://")
    process = spawn(command, "--bind", address)
    assert (process.wait(), process.out) == (3, "")
    assert process.err == (
        f"Error: cannot listen on {address}: Address already in use; choose another address with --bind HOST:PORT\n"
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly(start_demo, spawn, tmp_path, number):
    """On SIGTERM or Ctrl-C it ends with code 0 and without a word, also while a subscriber is connected;
    the devices' folder is gone."""
    demo = start_demo(env={"TMPDIR": str(tmp_path)})
    assert [path.name for path in tmp_path.glob("mdash-demo-*/*/fs")] == ["fs"] * 3
    listener = spawn("notify", env=demo.by_key)
    listener.wait_for("Listening", "err")
    assert demo.process.end(number) == 0
    assert demo.process.err == ""
    assert list(tmp_path.iterdir()) == []
    listener.wait_for("Looking again.*the server is going down", "err")


def test_a_folder_keeps_the_devices(start_demo, mdash, tmp_path):
    """With --folder the devices are what they were when they start again; the login is another one."""
    first = start_demo("--folder", str(tmp_path))
    assert mdash("call", "lamp", "FS.Put", '{"filename":"note","data":"aGk="}', env=first.by_key).code == 0
    assert first.process.end() == 0
    second = start_demo("--folder", str(tmp_path))
    assert mdash("call", "lamp", "FS.List", env=second.by_key).out == '["note"]\n'
    assert (first.password, first.key) != (second.password, second.key)


async def test_a_store_that_remembers(server):
    """Started again over the same store, the demo gives its devices new tokens and has one key; what the devices
    are told to be stays as people left it."""
    hub, (lamp, *_) = server.service.hub, DEMO_DEVICES
    await server.service.ensure_user("demo", "x", admin=True)
    old_token, old_key = await register(hub, lamp), await renew_key(hub)
    await hub.shadows.update(DeviceKey("demo", "lamp"), {"state": {"desired": {"on": True}}})
    new_token, new_key = await register(hub, lamp), await renew_key(hub)
    assert (await hub.registry.authenticate(new_token)).id == "lamp"
    with pytest.raises(Unauthenticated):
        await hub.registry.authenticate(old_token)
    assert (await hub.accounts.authenticate_key(new_key)).account == "demo"
    with pytest.raises(Unauthenticated):
        await hub.accounts.authenticate_key(old_key)
    assert (await hub.shadows.get(DeviceKey("demo", "lamp"))).desired == {"on": True, "brightness": 60}


def test_it_goes_on_where_it_ended(tmp_path, start_demo, shell):
    """By itself it keeps its state in a folder: started again, the lamp is what it was told to be before."""
    kept = {"MDASH_DEMO_STORE": f"sqlite://{tmp_path}/store"}
    folder = ("--folder", str(tmp_path / "devices"))
    first = start_demo(*folder, env=kept)
    shell(first.curls[2])
    assert first.process.end() == 0
    second = start_demo(*folder, env=kept)
    response = httpx.get(f"{second.url}/api/v2/devices/lamp/shadow", headers={"Authorization": f"Bearer {second.key}"})
    assert response.json()["state"]["desired"]["on"] is True
