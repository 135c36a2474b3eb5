"""``mdash jobs``."""

from __future__ import annotations

import io
import json
from itertools import count

import pytest
import trio
from rich.console import Console

from mdashcore.cli.job_watch import _table
from mdashcore.cli.jobs import JOB_EXITS
from mdashcore.cli.live_watch import READ_INTERVAL, READ_PAUSE, _receive_change
from mdashcore.job import JOB_ENDS

NUMBERS = count()


@pytest.fixture
def devices(demo, mdash):
    """Two devices of the test's own, the second of which has the value already; their ids."""
    ids = [f"job-{next(NUMBERS)}" for _ in range(2)]
    for id in ids:
        assert mdash("devices", "add", id, env=demo.by_key).code == 0
    assert mdash("shadow", "set", ids[1], '{"interval":30}', env=demo.by_key).code == 0
    return ids


@pytest.fixture
def which(devices):
    """The options that choose them."""
    return [word for id in devices for word in ("--device", id)]


def test_previewed_begun_and_watched(demo, mdash, devices, which):
    """A table of what would change; then the outcome, and the values of the devices."""
    preview = mdash("jobs", "create", '{"interval":30}', *which, "--preview", env=demo.by_key)
    assert (preview.code, preview.err) == (0, "")
    assert preview.out == (
        "1 of 2 devices would change, 1 have the values already, 0 cannot take them\n1\tinterval\t-\t30\n"
    )
    done = mdash("jobs", "create", '{"interval":30}', *which, "--name", "slower", "--watch", env=demo.by_key)
    assert (done.code, done.out) == (0, "COMPLETED: 1 changed, 1 had the values already, 0 failed\n")
    id = done.err.split(":")[0]
    assert done.err.splitlines()[0] == f"{id}: 2 devices"
    shadow = json.loads(mdash("shadow", "get", devices[0], env=demo.by_key).out)
    assert shadow["state"]["desired"] == {"interval": 30}
    again = mdash("jobs", "watch", id, "--json", env=demo.by_key)
    assert (again.code, json.loads(again.out)["state"]) == (0, "COMPLETED")


def test_all_that_can_be_done(demo, mdash, devices, which):
    """Listed, shown with its devices, canceled, removed."""
    made = json.loads(mdash("jobs", "create", '{"n":{"a":1}}', *which, "--json", env=demo.by_key).out)
    id = made["id"]
    assert mdash("jobs", "watch", id, env=demo.by_key).code == 0
    (line,) = [line for line in mdash("jobs", "list", env=demo.by_key).out.splitlines() if line.startswith(id)]
    assert line.split("\t")[1:4] == ["-", "COMPLETED", "2 of 2 done"]
    shown = mdash("jobs", "show", id, env=demo.by_key).out
    assert "desired\t" in shown
    assert "changed\t2" in shown
    assert f"by {made['created_by']}" in shown
    results = mdash("jobs", "show", id, "--devices", "all", env=demo.by_key).out
    assert results == "".join(f"{device}\tCHANGED\t-\n" for device in sorted(devices))
    assert mdash("jobs", "show", id, "--devices", "FAILED", env=demo.by_key).out == ""
    assert json.loads(mdash("jobs", "show", id, "--devices", "all", "--json", env=demo.by_key).out)[0]["reason"] == ""
    refused = mdash("jobs", "cancel", id, env=demo.by_key)
    assert (refused.code, "cannot be canceled" in refused.err) == (1, True)
    assert mdash("jobs", "remove", id, env=demo.by_key).code == 0
    assert id not in mdash("jobs", "list", "--json", env=demo.by_key).out


def test_a_device_that_fails_is_said(demo, mdash, devices, which):
    """The command fails, and says how the devices are found."""
    mdash("shadow", "set", devices[0], json.dumps({"text": "x" * 32_000}), env=demo.by_key)
    large = json.dumps({"more": "y" * 2000})
    preview = mdash("jobs", "create", large, *which, "--preview", env=demo.by_key)
    assert f"{devices[0]}: The payload exceeds the maximum size" in preview.err
    done = mdash("jobs", "create", large, *which, "--watch", env=demo.by_key)
    assert (done.code, done.out) == (1, "")
    assert "1 changed, 0 had the values already, 1 failed; mdash jobs show job_" in done.err


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("create", '{"a":1}'), 2, "Which devices?"),
        (("create", '{"a":1}', "--all", "--device", "lamp"), 2, "Which devices?"),
        (("create", "[1]", "--all"), 2, "JSON object"),
        (("create", "{", "--all"), 2, "JSON"),
        (("create", "{}", "--all"), 1, "desired is an object"),
        (("create", '{"a":1}', "--device", "nobody"), 1, "no device 'nobody'"),
        (("show", "a/b"), 2, "a job's id"),
        (("show", "job_nothing"), 1, "no job"),
        (("cancel", "job_nothing"), 1, "no job"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(demo, mdash, args, code, words):
    """And nothing is done."""
    done = mdash("jobs", *args, env=demo.by_key)
    assert (done.code, done.out) == (code, "")
    assert words in done.err


def test_the_live_table():
    """The counts in a line; what a name holds steers no terminal."""
    counts = {"pending": 5, "changed": 2, "unchanged": 1, "failed": 7}
    present = {"id": "job_a", "name": "\x1b[2Jevil [bold]", "state": "RUNNING", "reason": "", "devices": 15}
    out = io.StringIO()
    Console(file=out, width=110).print(_table({**present, "counts": counts}))
    assert "\x1b" not in out.getvalue()
    assert r"\x1b[2Jevil [bold]: RUNNING" in out.getvalue()
    assert out.getvalue().split()[-4:] == ["5", "2", "1", "7"]


async def test_a_watch_reads_again_without_a_notification(autojump_clock):
    """After a while, because that of a removal may be lost."""

    class SilentNotifications:
        async def receive(self):
            await trio.sleep_forever()

    await _receive_change(SilentNotifications(), "job_a", "job.")
    assert trio.current_time() <= READ_INTERVAL + READ_PAUSE


def test_every_end_has_an_exit_code():
    """The watching ends there."""
    assert set(JOB_EXITS) == JOB_ENDS
