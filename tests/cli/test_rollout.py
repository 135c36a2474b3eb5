"""``mdash rollout``, and the filter of ``mdash devices list``."""

from __future__ import annotations

import io
import json
import re
import signal
from itertools import count

import httpx
import pytest
from rich.console import Console
from terminal import on_terminal

from mdashcore.cli.rollout_end import ROLLOUT_EXITS
from mdashcore.cli.rollout_watch import RolloutDisplay, _table
from mdashcore.firmware import write_image
from mdashcore.rollout import ROLLOUT_ENDS, RolloutState

NUMBERS = count()


@pytest.fixture
def image(tmp_path):
    """A firmware zip; its path."""
    file = io.BytesIO()
    manifest = {"name": "lamp", "platform": "esp32", "version": "7.0", "build_id": "2026/7.0"}
    write_image(file, manifest, {"app": bytes(3000)})
    path = tmp_path / "fw.zip"
    path.write_bytes(file.getvalue())
    return str(path)


@pytest.fixture
def device(demo, mdash):
    """Registers a device of the test's own that is offline; its id."""
    id = f"rollout-{next(NUMBERS)}"
    assert mdash("devices", "add", id, env=demo.by_key).code == 0
    return id


@pytest.fixture
def made(demo, mdash, image, device):
    """A rollout to that device; its id."""
    done = mdash("rollout", "create", image, "--device", device, "--yes", env=demo.by_key)
    assert done.code == 0, done.err
    id, state, devices = done.out.split()
    assert (state, devices) == ("RUNNING", "1")
    return id


def test_a_rollout_is_watched_to_its_end(demo, mdash, spawn, image, device, wait_told):
    """Each state and phase once on stderr, the outcome on stdout; and the device runs the image."""
    token = mdash("devices", "token", device, env=demo.by_key).out.split()[1]
    spawn("device", "--id", "lamp", env={"MDASH_SERVER": demo.url, "MDASH_TOKEN": token})
    wait_told(demo.by_key, "online", device)
    options = ("--device", device, "--commit-after", "1s", "--phases", "100", "--watch", "--yes")
    done = mdash("rollout", "create", image, *options, env=demo.by_key)
    assert (done.code, done.out) == (0, "COMPLETED: 1 of 1 devices succeeded, 0 failed\n")
    id = re.search(r"(rol_\w+): 1 device\n", done.err)[1]
    assert "RUNNING phase 1 of 1" in done.err
    assert json.loads(mdash("call", device, "Sys.GetInfo", env=demo.by_key).out)["fw_version"] == "7.0"
    again = mdash("rollout", "watch", id, "--json", env=demo.by_key)
    assert (again.code, json.loads(again.out)["state"]) == (0, "COMPLETED")


def test_a_rollout_that_waits_for_approval(demo, mdash, image, device):
    """Watching ends with code 5 and says what to do; after approval no device comes, and the rollout pauses."""
    options = ("--device", device, "--approval", "--offline-wait", "0", "--phases", "50,100", "--yes")
    made = json.loads(mdash("rollout", "create", image, *options, "--json", env=demo.by_key).out)
    id = made["id"]
    waiting = mdash("rollout", "watch", id, env=demo.by_key)
    assert (waiting.code, waiting.out) == (5, "")
    assert f"mdash rollout approve {id}" in waiting.err
    assert mdash("rollout", "approve", id, env=demo.by_key).out.split() == [id, "RUNNING"]
    paused = mdash("rollout", "watch", id, env=demo.by_key)
    assert paused.code == 5
    assert "no device of phase 1 had the chance" in paused.err
    assert mdash("rollout", "abort", id, env=demo.by_key).out.split() == [id, "ABORTING"]
    aborted = mdash("rollout", "watch", id, env=demo.by_key)
    assert (aborted.code, aborted.err.splitlines()[-1]) == (1, "Error: ABORTED: aborted on request")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_that_is_restarted_meanwhile(mdash, spawn, image, tmp_path, number):
    """The watching says so once, and goes on to the end: a rollout takes days."""
    store = f"sqlite://{tmp_path / 'store'}"

    def serve(bind):
        server = spawn("serve", "--store", store, "--register-admin", "root:pw", "--bind", bind)
        return server, server.wait_for("Listening on (.+)")[1]

    server, url = serve("127.0.0.1:0")
    env = {"MDASH_SERVER": url, "MDASH_USER": "root:pw"}
    mdash("devices", "add", "d1", env=env)
    made = json.loads(mdash("rollout", "create", image, "--all", "--yes", "--json", env=env).out)
    watching = spawn("rollout", "watch", made["id"], env=env)
    watching.wait_for("RUNNING", "err")
    server.end(number)
    watching.wait_for("Looking again", "err")
    serve(url.removeprefix("http://"))
    assert mdash("rollout", "pause", made["id"], env=env).code == 0
    assert watching.wait(60) == 5, watching.err
    assert watching.err.count("Looking again") == watching.err.count("The server is back") == 1
    assert "PAUSED: paused on request" in watching.err


def test_a_server_that_does_not_come_back(mdash, spawn, image, tmp_path, monkeypatch):
    """In the end the watching gives up, as for any server that cannot be reached."""
    monkeypatch.setattr("mdashcore.client._notifications.MAX_OUTAGE", 1.0)
    server = spawn(
        "serve", "--store", f"sqlite://{tmp_path / 'store'}", "--register-admin", "root:pw", "--bind", "127.0.0.1:0"
    )
    env = {"MDASH_SERVER": server.wait_for("Listening on (.+)")[1], "MDASH_USER": "root:pw"}
    mdash("devices", "add", "d1", env=env)
    made = json.loads(mdash("rollout", "create", image, "--all", "--yes", "--json", env=env).out)
    monkeypatch.setattr(RolloutDisplay, "show", lambda self, present: server.end(signal.SIGKILL))
    done = mdash("rollout", "watch", made["id"], env=env)
    assert (done.code, done.out) == (3, "")
    assert "Looking again" in done.err


def test_all_that_can_be_done(demo, mdash, made, device):
    """Shown, listed, paused, resumed, retried, aborted, removed."""
    shown = mdash("rollout", "show", made, env=demo.by_key).out
    assert "state\tRUNNING" in shown
    assert "3 (100 %) not begun\t0\t" in shown
    members = mdash("rollout", "show", made, "--members", "all", env=demo.by_key).out
    assert members.startswith(f"{device}\t1\tPENDING\t0\toffline, is skipped at 2")
    assert mdash("rollout", "show", made, "--members", "FAILED", env=demo.by_key).out == ""
    assert (
        json.loads(mdash("rollout", "show", made, "--members", "all", "--json", env=demo.by_key).out)[0]["phase"] == 0
    )
    for action, state in (("pause", "PAUSED"), ("resume", "RUNNING"), ("pause", "PAUSED"), ("retry", "RUNNING")):
        assert mdash("rollout", action, made, env=demo.by_key).out.split() == [made, state]
    (line,) = [line for line in mdash("rollout", "list", env=demo.by_key).out.splitlines() if line.startswith(made)]
    assert line.split("\t")[1:4] == ["fw.zip", "RUNNING", "0 of 1 succeeded"]
    refused = mdash("rollout", "remove", made, env=demo.by_key)
    assert (refused.code, "abort it first" in refused.err) == (1, True)
    assert json.loads(mdash("rollout", "abort", made, "--json", env=demo.by_key).out)["id"] == made
    mdash("rollout", "watch", made, env=demo.by_key)
    assert mdash("rollout", "remove", made, env=demo.by_key).code == 0
    assert made not in mdash("rollout", "list", "--json", env=demo.by_key).out


def test_every_option_reaches_the_server(demo, mdash, image, device):
    """As it is asked for by REST."""
    mdash("devices", "rename", device, "Lamp of the test", env=demo.by_key)
    options = {
        "--name": "to the lamp",
        "--filter": "name~lamp of the",
        "--device": device,
        "--phases": "10,100",
        "--success": "90",
        "--errors": "5",
        "--sample": "2",
        "--rate": "0",
        "--max-active": "3",
        "--window": "22:00-04:00@sat,sun",
        "--offline-wait": "12h",
        "--timeout": "2d",
        "--commit-after": "10m",
        "--commit-timeout": "20m",
    }
    flags = ("--approval", "--manual-commit", "--force", "--other-app", "--yes", "--json")
    words = [word for pair in options.items() for word in pair]
    done = mdash("rollout", "create", image, *words, *flags, env=demo.by_key)
    assert done.code == 0, done.err
    made = json.loads(done.out)
    assert (made["name"], made["filter"], made["state"]) == ("to the lamp", ['name~"lamp of the"'], "AWAITING_APPROVAL")
    assert made["plan"] == {
        "phases": [10, 100],
        "success_percent": 90,
        "error_percent": 5,
        "min_sample": 2,
        "rate": None,
        "max_active": 3,
        "window": {"start": "22:00", "end": "04:00", "days": ["sat", "sun"]},
        "offline_wait": 43_200,
        "timeout": 172_800,
        "approval": True,
        "auto_commit": False,
        "commit_after": 600,
        "commit_timeout": 1200,
        "force": True,
        "other_app": True,
    }


def test_the_devices_that_it_reaches_are_shown_and_asked_about(demo, mdash, image, device):
    """On a terminal a person reads the review, and answers; without one, only --yes begins it."""
    said = {"state": {"reported": {"ota": {"app": "pump\x1b[2J", "arch": "esp32"}}}}
    headers = {"Authorization": f"Bearer {demo.by_key['MDASH_KEY']}"}
    httpx.post(f"{demo.url}/api/v2/devices/{device}/shadow", json=said, headers=headers).raise_for_status()
    args = ("rollout", "create", image, "--device", device)
    before = mdash("rollout", "list", "--json", env=demo.by_key).out
    refused = mdash(*args, "--yes", env=demo.by_key)
    assert (refused.code, refused.out) == (2, "")
    assert "fits 0 of 1 device; another application: 1; offline: 1" in refused.err
    assert r"1  esp32 pump\x1b[2J ?: another application" in refused.err
    assert "--other-app sends it all the same" in refused.err
    silent = mdash(*args, "--other-app", env=demo.by_key)
    assert (silent.code, silent.out) == (2, "")
    assert "no terminal to ask on: give --yes" in silent.err
    question = b"Begin the rollout for 1 device? [y/N]: "
    written, code = on_terminal(demo, *args, "--other-app", answer=b"n\n", question=question)
    assert (code, "nothing was begun" in written) == (1, True)
    assert mdash("rollout", "list", "--json", env=demo.by_key).out == before
    written, code = on_terminal(demo, *args, "--other-app", answer=b"y\n", question=question)
    assert (code, "phases: 1, then 0, then 0" in written) == (0, True)
    assert "RUNNING" in written


def test_a_bare_image(demo, mdash, tmp_path, device):
    """One that looks like something else is taken where it is said to be one."""
    path = tmp_path / "fw.zip"
    path.write_bytes(b"\xe9no zip" * 100)
    path.write_bytes(b"PK no zip" * 100)
    done = mdash("rollout", "create", str(path), "--device", device, "--yes", env=demo.by_key)
    assert (done.code, done.out) == (1, ""), done.err
    path.write_bytes(b"\xe9no zip" * 100)
    done = mdash("rollout", "create", str(path), "--device", device, "--yes", env=demo.by_key)
    assert (done.code, "--bare sends it all the same" in done.err) == (2, True)
    done = mdash("rollout", "create", str(path), "--device", device, "--bare", "--yes", "--json", env=demo.by_key)
    assert (done.code, json.loads(done.out)["image"]["bare"]) == (0, True), done.err


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("create", __file__), 2, "Give --all, or --device or --filter"),
        (("create", __file__, "--all", "--device", "lamp"), 2, "Give --all"),
        (("create", __file__, "--all", "--commit-after", "10m"), 1, "below commit_timeout, which is 300 s"),
        (("create", "/nosuch", "--all"), 2, "does not exist"),
        (("create", __file__, "--filter", "colour=red"), 2, "unknown field 'colour'"),
        (("create", __file__, "--all", "--phases", "1;2"), 2, "phases are percents"),
        (("create", __file__, "--all", "--phases", "2,1"), 1, "phases are 1 to 16 percents"),
        (("create", __file__, "--all", "--timeout", "soon"), 2, "90s, 12h, 7d"),
        (("create", __file__, "--all", "--window", "always"), 2, "HH:MM-HH:MM"),
        (("create", __file__, "--bare", "--device", "nosuch"), 1, "no device 'nosuch'"),
        (("create", __file__, "--all", "--key", "mdk_x"), 4, "the key is not valid"),
        (("show", "rol_nosuch"), 1, "no rollout 'rol_nosuch'"),
        (("watch", "rol_nosuch"), 1, "no rollout 'rol_nosuch'"),
        (("pause", "../keys"), 2, "a rollout's id"),
        (("list", "--server", "http://127.0.0.1:1"), 3, "Connection refused"),
    ],
)
def test_failures(demo, mdash, args, code, words):
    """Told as by any other command, in one line."""
    done = mdash("rollout", *args, env=demo.by_key)
    assert (done.code, done.out, done.err.count("\n")) == (code, "", 1)
    assert words in done.err


def test_the_live_table(demo, mdash, made):
    """A line for each phase with its numbers; what a name holds steers no terminal."""
    present = json.loads(mdash("rollout", "show", made, "--json", env=demo.by_key).out)
    present["name"] = "\x1b[2Jevil [bold]"
    present["phases"][0]["counts"] |= {"failed": 7}
    out = io.StringIO()
    Console(file=out, width=110).print(_table(present))
    assert "\x1b" not in out.getvalue()
    assert r"\x1b[2Jevil [bold]: RUNNING" in out.getvalue()
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert [line[:3] for line in lines[-3:]] == [["1", "(1", "%)"], ["2", "(10", "%)"], ["3", "(100", "%)"]]
    assert lines[-3][-5:] == ["1", "0", "0", "7", "0"]


def test_every_state_is_on_the_way_or_has_an_exit_code():
    """The watching ends wherever nothing happens by itself any more."""
    assert set(ROLLOUT_EXITS) == set(RolloutState) - {RolloutState.RUNNING, RolloutState.ABORTING}
    assert set(ROLLOUT_EXITS) >= ROLLOUT_ENDS


def test_devices_are_filtered(demo, mdash, device):
    """By every filter that is given; what is none is told before anything is asked."""
    listed = mdash("devices", "list", "--filter", "offline", "--filter", f"id={device}", env=demo.by_key)
    assert listed.out.split("\t")[0] == device
    assert mdash("devices", "list", "--filter", "online", "--filter", f"id={device}", env=demo.by_key).out == ""
    assert mdash("devices", "list", "--filter", "what", env=demo.by_key).code == 2
