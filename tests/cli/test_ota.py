"""``mdash ota``: its exit code tells how the update went."""

from __future__ import annotations

import io
import json

import pytest

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


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("ota", "lamp", "/nosuch"), 2, "does not exist"),
        (("ota", "lamp"), 2, "Missing argument 'FILE'"),
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
    assert set(OUTCOMES) == ENDS | {State.UNCOMMITTED}
