"""``mdash ota``: its exit code tells how the update went."""

from __future__ import annotations

import io
import json
import signal

import pytest
from websockets.sync.client import connect

from mdashcore.cli.ota import OUTCOMES
from mdashcore.firmware import write_image
from mdashcore.ota import ENDS, State


@pytest.fixture
def image(tmp_path):
    """Writes a firmware zip."""

    def make(version, platform="esp32", size=3000):
        manifest = {"name": "lamp", "platform": platform, "version": version, "build_id": f"2026/{version}"}
        file = io.BytesIO()
        write_image(file, manifest, {"app": version.encode() * size})
        path = tmp_path / f"{version}.zip"
        path.write_bytes(file.getvalue())
        return str(path)

    return make


@pytest.fixture
def device(demo, mdash, spawn, request, wait_told):
    """The id of a connected device of the test's own."""
    id = request.node.name
    token = mdash("devices", "add", id, env=demo.by_key).out.split()[1]
    spawn("device", env={"MDASH_SERVER": demo.url, "MDASH_TOKEN": token})
    wait_told(demo.by_key, "online", id)
    return id


def test_an_update(demo, mdash, device, image):
    """It ends when the device runs the image, and says how to commit; sent again after that, the same image is on
    the device already; with --commit, the next is committed as well."""
    done = mdash("ota", device, image("2.0"), env=demo.by_key)
    assert (done.code, done.out) == (
        0,
        f"UNCOMMITTED: {device} runs it, and rolls back unless it is committed: mdash call {device} OTA.Commit\n",
    )
    shown = done.err.split()
    assert shown == [state for state in State if state in shown], "each once, in their order"
    assert shown[-1] == "UNCOMMITTED"
    assert mdash("call", device, "OTA.Commit", env=demo.by_key).code == 0
    same = mdash("ota", device, image("2.0"), env=demo.by_key)
    assert (same.code, same.out) == (0, f"ALREADY_INSTALLED: {device} ran it already\n")
    next_ = mdash("ota", device, image("3.0"), "--commit", "--json", env=demo.by_key)
    assert next_.code == 0
    update = json.loads(next_.out)
    assert (update["state"], update["image"]["version"]) == ("COMMITTED", "3.0")
    assert json.loads(mdash("call", device, "Sys.GetInfo", env=demo.by_key).out)["fw_version"] == "3.0"


def test_a_refused_image(demo, mdash, device, image, tmp_path):
    """What the server or the device does not take is an error in their words, with code 1."""
    other = mdash("ota", device, image("2.0", platform="esp8266"), env=demo.by_key)
    assert other.code == 1
    assert "esp8266" in other.err
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"PK\x03\x04 and nothing more")
    done = mdash("ota", device, str(broken), env=demo.by_key)
    assert (done.code, done.out) == (1, "")


def test_an_offline_device(demo, mdash, image):
    """It cannot be updated now: code 5."""
    mdash("devices", "add", "away", env=demo.by_key)
    done = mdash("ota", "away", image("2.0"), env=demo.by_key)
    assert (done.code, done.err) == (5, "Error: device 'away' is not connected\n")


def test_an_update_for_later(demo, mdash, image, spawn, wait_told):
    """With --queue an offline device is no error: it gets the image when it comes, and is committed by the server."""
    token = mdash("devices", "add", "later", env=demo.by_key).out.split()[1]
    done = mdash("ota", "later", image("2.0"), "--queue", "--commit", "auto", env=demo.by_key)
    assert (done.code, done.out) == (0, "QUEUED: later is offline, and gets it when it comes\n")
    newer = mdash("ota", "later", image("3.0"), "--queue", "--json", env=demo.by_key)
    assert json.loads(newer.out)["state"] == "QUEUED"
    spawn("device", env={"MDASH_SERVER": demo.url, "MDASH_TOKEN": token})
    wait_told(demo.by_key, "ota.UNCOMMITTED", "later")
    shown = mdash("ota", "later", "--status", env=demo.by_key)
    lines = [line.split("\t") for line in shown.out.splitlines()]
    assert shown.code == 0
    assert lines[0] == ["state", "UNCOMMITTED"]
    assert {name for name, _ in lines} >= {"image", "progress", "started", "deadline", "commit_by"}
    assert "SUPERSEDED 2.0.zip 2.0 a newer update was queued" in dict(lines)["ended"]


def test_an_image_that_is_forced(demo, mdash, device, image):
    """The platform is not compared here; the device still has its own word."""
    done = mdash("ota", device, image("2.0", platform="esp8266"), "--force", env=demo.by_key)
    assert (done.code, "Wrong platform" in done.err) == (1, True)


def test_ctrl_c_leaves_the_update_going(demo, mdash, image, spawn, request):
    """The command ends with 130 and says so; the update can be looked at, and taken back."""
    id = request.node.name
    token = mdash("devices", "add", id, env=demo.by_key).out.split()[1]
    url = f"ws{demo.url.removeprefix('http')}/api/v2/rpc"
    with connect(url, additional_headers={"Authorization": f"Bearer {token}"}):  # a device that answers nothing
        watching = spawn("ota", id, image("2.0"), env=demo.by_key)
        watching.wait_for("TRANSFERRING", "err")
        assert watching.end(signal.SIGINT) == 130
        assert watching.err.endswith(f"The update goes on: mdash ota {id} --status shows it, --cancel takes it back.\n")
        assert json.loads(mdash("ota", id, "--status", "--json", env=demo.by_key).out)["state"] == "TRANSFERRING"
        canceled = mdash("ota", id, "--cancel", env=demo.by_key)
        assert (canceled.code, canceled.out.startswith("CANCELED: canceled at 0 %")) == (0, True)
        again = mdash("ota", id, "--cancel", env=demo.by_key)
        assert (again.code, "has ended already: CANCELED" in again.err) == (1, True)


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("ota", "lamp", "/nosuch"), 2, "does not exist"),
        (("ota", "lamp"), 2, "Missing argument 'FILE'"),
        (("ota", "lamp", "--status", "--cancel"), 2, "go with a DEVICE alone"),
        (("ota", "lamp", __file__, "--status"), 2, "go with a DEVICE alone"),
        (("ota", "lamp", __file__, "--queue", "--commit"), 2, "give --commit auto"),
        (("ota", "lamp", __file__, "--commit", "later"), 2, "'later' is not one of"),
        (("ota", "nosuch", "--status"), 1, "no device 'nosuch'"),
        (("ota", "nosuch", "--cancel"), 1, "no device 'nosuch'"),
        (("ota", "nosuch", __file__), 1, "no device 'nosuch'"),
        (("ota", "lamp", __file__, "--key", "mdk_x"), 4, "the key is not valid"),
        (("ota", "lamp", __file__, "--server", "http://127.0.0.1:1"), 3, "Connection refused"),
    ],
)
def test_failures(demo, mdash, args, code, words):
    """What is wrong before the update begins is told as by any other command."""
    done = mdash(*args, env=demo.by_key)
    assert (done.code, done.out, done.err.count("\n")) == (code, "", 1)
    assert words in done.err


def test_every_end_has_an_exit_code():
    """No state in which an update can stay leaves the command without an answer."""
    assert set(OUTCOMES) == ENDS | {State.UNCOMMITTED, State.QUEUED}
