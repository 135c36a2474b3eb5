"""What is written of firmware updates: the machine as it is, and commands that do what the guide says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mdashcore import firmware
from mdashcore.cli.ota import UPDATE_EXITS
from mdashcore.ota import STATE_LIMITS, UPDATE_ENDS, UPDATE_TRANSITIONS, UpdateState
from mdashcore.ota._reports import ErrorMeaning, judge

ROOT = Path(__file__).parents[2]


def test_the_machine_on_the_page_is_the_code_s(run):
    """Its drawing, its arrows and its limits are what `docs/ota_machine.py` writes."""
    run("python3 docs/ota_machine.py --check", cwd=ROOT)


def marked(text: str, name: str) -> str:
    """What stands between two marks of a page."""
    return text.partition(f"<!-- {name}: begin")[2].partition(f"<!-- {name}: end")[0]


def test_the_drawing_leaves_nothing_out(page):
    """The drawing or the table of early ends has every pair of states with an arrow between them, and every end.

    The long table has every row.
    """
    text = page("docs/discussion/ota.md").text
    shown = set(re.findall(r"^    (\w+) --> (\w+): ", text, re.MULTILINE))
    ends, *cells = re.findall(r"^\| (.*) \|$", marked(text, "ends"), re.MULTILINE)
    early = [name.strip("` ") for name in ends.split("|")[1:]]
    for row in cells:
        state, *events = (cell.strip("` ") for cell in row.split("|"))
        shown |= {(state, end) for end, event in zip(early, events, strict=True) if event}
    there = {(state.value, arrow.to.value) for (state, _), cell in UPDATE_TRANSITIONS.items() for arrow in cell}
    assert shown == {(one, other) for one, other in there if one != other}
    drawn = set(re.findall(r"^    (\w+) --> \[\*\]$", text, re.MULTILINE))
    assert drawn | set(early) == {state.value for state in UPDATE_ENDS}
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (.*) \| (?:stays|`\w+`) \|$", marked(text, "table"), re.MULTILINE)
    assert len(rows) == sum(map(len, UPDATE_TRANSITIONS.values()))
    assert all(
        re.search(rf"^\| `{state}` \| \d+ (d|min) \| \d+ (d|min) \|$", text, re.MULTILINE) for state in STATE_LIMITS
    )


def test_what_happens_at_a_power_cut_is_said_for_each_state(page):
    """Of the device and of the server, for each state in which there is something to lose."""
    section = page("docs/discussion/ota.md").section("## What happens at a power cut")
    device, server = section.split("Of the **server**")
    for state in set(UpdateState) - UPDATE_ENDS:
        assert f"`{state}`" in device
        assert f"`{state}`" in server


def test_how_the_command_ends(page):
    """The table of the configuration page is the command's."""
    section = page("docs/reference/configuration.md").section("### How `mdash ota` ends")
    shown = {}
    for names, code in re.findall(r"^\| (`.*?) \| (\d+) \|$", section, re.MULTILINE):
        shown |= dict.fromkeys(re.findall(r"`([A-Z_]+)`", names), int(code))
    assert shown == {state.value: int(code) for state, code in UPDATE_EXITS.items()}


def test_the_errors_of_the_guide_are_those_of_devices(page):
    """What the guide says of an error is decided by the same words."""
    text = page("docs/how_to_guides/update_the_firmware.md").text
    assert "already in progress" in text
    assert judge("Update already in progress") is ErrorMeaning.BUSY
    assert {state for state in UPDATE_ENDS if f"`{state}`" in text.split("## When it does not work")[1]} >= {
        "REJECTED",
        "ALREADY_INSTALLED",
        "FAILED",
        "ROLLED_BACK",
        "TIMED_OUT",
    }


@pytest.fixture
def lamp(demo, start, mdash, tmp_path, monkeypatch):
    """A device of the test's own, called as the guide calls it there; the environment, and a writer of images."""
    monkeypatch.chdir(tmp_path)
    name = f"guide-{tmp_path.name[-12:]}".replace("_", "-")
    token = mdash(f"mdash devices add {name}", env=demo.variables).split()[1]

    def write(version):
        manifest = {"name": "lamp", "platform": "esp32", "version": version, "build_id": version}
        with (tmp_path / "fw.zip").open("w+b") as file:
            firmware.write_image(file, manifest, {"app": bytes(5000)})

    with start(f"exec mdash device --id lamp --token {token}", env=demo.variables, cwd=tmp_path) as device:
        device.expect("connected")
        yield name, write
    mdash(f"mdash devices remove {name}", env=demo.variables)  # the tests share the demo


def _stands(mdash, demo, name):
    return json.loads(mdash(f"mdash ota {name} --status --json", env=demo.variables))


def test_the_commands_of_the_guide(lamp, page, demo, run, start, mdash, tmp_path):
    """On trial and committed; committed by the server; from the library; in other chunks; queued, and taken back."""
    guide, (name, write) = page("docs/how_to_guides/update_the_firmware.md"), lamp

    def here(mark):
        return re.sub(r"\blamp\b", name, guide.code(mark)).replace("commit_after=60", "commit_after=1")

    write("2.0")
    with start(f"exec {here('try').strip()}", env=demo.variables, cwd=tmp_path) as watching:
        watching.expect("runs it on trial")
        mdash(here("commit").strip(), env=demo.variables)
        watching.expect("^COMMITTED: ")
    assert _stands(mdash, demo, name)["state"] == "COMMITTED"
    write("3.0")
    assert run(here("auto"), env=demo.variables).stdout.split()[-1] == "202"
    with start("exec mdash notify --start 0", env=demo.variables) as stream:
        stream.expect(rf'"name":"ota.COMMITTED","id":"{name}".*"commit":"auto".*"version":"3.0"')
    write("4.0")
    said = run(here("library"), env=demo.variables).stdout
    assert "\nnotes\tfixes the leak\n" in said
    assert f"{name}\t{name}\trunning\tCOMMITTED" in said
    added = re.search(r"\bfw_[0-9a-f]{16}\b", said)[0]
    assert added not in mdash("mdash firmware list", env=demo.variables)  # other pages may have added theirs
    write("5.0")
    assert run(here("tune"), env=demo.variables).stdout.split() == ["true", "200"]
    mdash("mdash devices add away", env=demo.variables)
    said = [mdash(line, env=demo.variables) for line in guide.code("queue").splitlines()]
    assert [text.split()[0].rstrip(":") for text in said] == ["QUEUED", "state", "CANCELED"]
    mdash("mdash devices remove away", env=demo.variables)
