"""``mdash ota``: its exit code tells how the update went."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import threading
import time

import httpx
import pytest
import trio
import trio.testing
from websockets.sync.client import connect

from mdashcore._errors import RpcError
from mdashcore.cli.client import Credentials, Remote
from mdashcore.cli.ota import UPDATE_EXITS
from mdashcore.cli.ota_display import UpdateDisplay
from mdashcore.cli.ota_watch import UpdateWatch
from mdashcore.client._update_follower import UpdateFollower
from mdashcore.firmware import write_image
from mdashcore.ota import UPDATE_ENDS, UpdateState


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
    id = request.node.name.replace("[", "-").rstrip("]")
    token = mdash("devices", "add", id, env=demo.by_key).out.split()[1]
    spawn("device", "--id", "lamp", env={"MDASH_SERVER": demo.url, "MDASH_TOKEN": token})
    wait_told(demo.by_key, "online", id)
    return id


def test_an_update(demo, mdash, device, image):
    """With --no-wait it ends when the device runs the image, with a code of its own, and says how to commit; sent again
    after that, the same image is on the device already; with --commit, the next is committed as well."""
    done = mdash("ota", device, image("2.0"), "--no-wait", env=demo.by_key)
    assert (done.code, done.out) == (
        6,
        f"UNCOMMITTED: {device} runs it, and goes back unless it is committed: mdash call {device} OTA.Commit\n",
    )
    shown = done.err.split()
    assert shown == [state for state in UpdateState if state in shown], "each once, in their order"
    assert shown[-1] == "UNCOMMITTED"
    assert mdash("call", device, "OTA.Commit", env=demo.by_key).code == 0
    same = mdash("ota", device, image("2.0"), env=demo.by_key)
    assert (same.code, same.out) == (0, f"ALREADY_INSTALLED: {device} ran it already\n")
    next_ = mdash("ota", device, image("3.0"), "--commit", "--json", env=demo.by_key)
    assert next_.code == 0
    assert "OTA.Commit" not in next_.err, "nobody has to do it"
    update = json.loads(next_.out)
    assert (update["state"], update["image"]["version"]) == ("COMMITTED", "3.0")
    assert json.loads(mdash("call", device, "Sys.GetInfo", env=demo.by_key).out)["fw_version"] == "3.0"


@pytest.mark.parametrize(
    ("method", "code", "last"),
    [
        ("OTA.Commit", 0, "COMMITTED: {} runs it, committed"),
        ("OTA.Revert", 1, "Error: the update of {} is ROLLED_BACK"),
    ],
    ids=["commit", "revert"],
)
def test_an_update_on_trial_is_over_with_a_decision(demo, mdash, device, image, spawn, method, code, last):
    """Until then the command waits, and says how long it can be committed, and how."""
    watching = spawn("ota", device, image("2.0"), env=demo.by_key)
    words = (
        rf"^{device} runs it on trial, and goes back in (\d+) s unless you commit it: mdash call {device} OTA.Commit$"
    )
    assert 290 <= int(watching.wait_for(words, "err")[1]) <= 300
    assert watching.process.poll() is None
    assert mdash("call", device, method, env=demo.by_key).code == 0
    assert watching.wait() == code
    assert last.format(device) in (watching.out + watching.err)


DIALS_SOON = """
import sys
from mdashcore.cli import main
from mdashcore.trio.agent import Backoff
from mdashcore.virtual_device.connect import run_virtual_device

run_virtual_device.__kwdefaults__["backoff"] = Backoff(first=0.05, most=0.2)
sys.exit(main(sys.argv[1:]))
"""
"""Runs ``mdash`` as its arguments say; a device that has lost its server looks for it again right away."""


@pytest.fixture
def fleet(spawn, mdash, wait_told, tmp_path):
    """A server on a folder, which can be killed and started again, with a connected device d1."""

    class Fleet:
        def __init__(self):
            self.bind = "127.0.0.1:0"
            self.start()
            token = mdash("devices", "add", "d1", env=self.env).out.split()[1]
            env = {"MDASH_SERVER": self.env["MDASH_SERVER"], "MDASH_TOKEN": token}
            self.device = spawn("device", "--id", "lamp", env=env, program=("-c", DIALS_SOON))
            wait_told(self.env, "online", "d1")

        def start(self):
            options = ("--store", f"sqlite://{tmp_path / 'store'}", "--register-admin", "root:pw", "--bind", self.bind)
            self.server = spawn("serve", *options)
            url = self.server.wait_for("Listening on (.+)")[1]
            self.bind = url.removeprefix("http://")
            self.env = {"MDASH_SERVER": url, "MDASH_USER": "root:pw"}

        def ends(self, watching):
            """The exit code of a command that watches an update; where it does not end, what all of them are doing."""
            try:
                return watching.wait(60)
            except subprocess.TimeoutExpired:
                update = mdash("ota", "d1", "--status", "--json", env=self.env)
                said = {"command": watching.err, "device": self.device.err, "server": self.server.err}
                pytest.fail("\n".join([f"update: {update}", *(f"--- {name}\n{err}" for name, err in said.items())]))

    return Fleet()


def restart_during_the_transfer(fleet, spawn, firmware, number=signal.SIGKILL, *, after=0.0):
    """End the server so many seconds after the command has said that the transfer begins, and start it again."""
    watching = spawn("ota", "d1", firmware, "--commit", env=fleet.env)
    watching.wait_for("TRANSFERRING", "err")
    time.sleep(after)
    fleet.server.end(number)
    watching.wait_for("Looking again", "err")
    fleet.start()
    assert fleet.ends(watching) == 0, watching.err
    assert watching.out == "COMMITTED: d1 runs it, committed\n"
    assert watching.err.count("Looking again") == watching.err.count("The server is back") == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.proof)])
def test_a_server_that_is_restarted_during_the_transfer(fleet, image, spawn, number):
    """The command looks for it again, says so once, and goes on to the end, with the commit that it was told to do."""
    restart_during_the_transfer(fleet, spawn, image("2.0", size=200_000), number)


@pytest.mark.proof
def test_a_server_that_is_killed_at_any_moment_of_the_transfer(fleet, image, spawn):
    """The same, twenty times, each a few milliseconds later; the first of them are those of OTA.Begin."""
    for moment in range(20):
        restart_during_the_transfer(fleet, spawn, image(f"{moment + 2}.0", size=200_000), after=moment / 400)


def test_a_server_that_is_restarted_while_the_device_is_on_trial(fleet, mdash, image, spawn):
    """The command still waits, and a later commit ends it."""
    watching = spawn("ota", "d1", image("2.0"), env=fleet.env)
    watching.wait_for("d1 runs it on trial", "err")
    fleet.server.end(signal.SIGKILL)
    watching.wait_for("Looking again", "err")
    fleet.start()
    fleet.device.wait_for(": connected to", "err", count=3)  # it has also rebooted
    while mdash("call", "d1", "OTA.Commit", env=fleet.env).code == 5:
        pass  # it knows that it is back a moment before the server does
    assert watching.wait() == 0, watching.err
    assert watching.out == "COMMITTED: d1 runs it, committed\n"


def test_a_server_that_does_not_come_back(fleet, mdash, image, monkeypatch, wait_told):
    """In the end the command gives up, and says that the update goes on."""
    monkeypatch.setattr("mdashcore.client._notifications.MAX_OUTAGE", 1.0)

    def kill():
        wait_told(fleet.env, "ota.UNCOMMITTED", "d1")
        fleet.server.end(signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    done = mdash("ota", "d1", image("2.0"), env=fleet.env)
    killer.join()
    assert (done.code, done.out) == (3, "")
    assert done.err.splitlines()[-1].endswith(
        "The update goes on: mdash ota d1 --status shows it, --cancel takes it back"
    )


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
    spawn("device", "--id", "lamp", env={"MDASH_SERVER": demo.url, "MDASH_TOKEN": token})
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
    with connect(url, additional_headers={"Authorization": f"Bearer {token}"}) as silent:  # it answers nothing
        ota = {"fw_id": "old", "arch": "esp32", "app": "lamp"}
        silent.send(json.dumps({"method": "Dash.Shadow.Update", "params": {"state": {"reported": {"ota": ota}}}}))
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
        (("ota", "lamp", __file__, "--no-wait", "--commit"), 2, "give --commit auto"),
        (("ota", "lamp", "--status", "--no-wait"), 2, "go with a DEVICE alone"),
        (("ota", "lamp", "--status", "--attempts", "2"), 2, "go with a DEVICE alone"),
        (("ota", "lamp", __file__, "--commit-after", "1m"), 2, "--commit-after goes with --commit auto"),
        (
            ("ota", "lamp", __file__, "--commit", "auto", "--commit-after", "10m"),
            1,
            "commit_after is 600 s, and has to be below commit_timeout, which is 300 s",
        ),
        (("ota", "lamp", __file__, "--chunk-size", "9999"), 1, "chunk_size has to be a whole number from 1 to 2944"),
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
    assert set(UPDATE_EXITS) == UPDATE_ENDS | {UpdateState.UNCOMMITTED, UpdateState.QUEUED}


@pytest.mark.parametrize(("answers", "ends"), [([422], "refused"), ([503, 422], "waits"), ([503, 200], "waits")])
def test_a_commit_that_may_have_been_made_before(answers, ends, tmp_path):
    """Its answer was lost with the server; that the device refuses another one then is no failure."""
    remote = Remote("http://test", Credentials.of_key("mdk_x"))
    display = UpdateDisplay("d1", hint=False)
    watch = UpdateWatch(remote, "d1", tmp_path, {}, display, commit=True, wait=True, queue=False)
    left = list(answers)
    trial = {"id": "ota_1", "revision": 5, "state": "UNCOMMITTED", "history": []}

    def answer(request):
        if request.url.path == "/api/v2/devices/d1/ota":
            return httpx.Response(200, json=trial)
        assert request.url.path == "/api/v2/devices/d1/rpc/OTA.Commit"
        return httpx.Response(left.pop(0), json={"error": {"code": -1, "message": "no"}})

    async def commit():
        async with remote.client() as client:
            client._http._client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
            news = remote.notifications(client, say=display.print)
            follower = UpdateFollower(client._http, news, "d1", None)
            follower.update = trial
            try:
                await watch._call_commit(client, follower)
            except RpcError:
                return "refused"
            return "waits"

    assert trio.run(commit, clock=trio.testing.MockClock(autojump_threshold=0)) == ends
    assert not left
