"""`deploy/mdash.service`: that systemd can read it, and that it starts what there is."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from mdashcore.cli import cli
from mdashcore.cli.exits import Exit

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy/mdash.service"
MDASH = Path(sys.executable).with_name("mdash")

MAX_EXPOSURE = 2.0  # of 10: what `systemd-analyze security` calls "OK"


@pytest.fixture
def analyze():
    """Runs ``systemd-analyze``: the output."""
    program = shutil.which("systemd-analyze")
    if program is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("systemd is not installed: see tests/run")

    def run(*arguments):
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture(scope="module")
def service():
    """The section ``[Service]``; of an option that stands there more than once, the last value."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str
    parser.read(UNIT)
    return parser["Service"]


def test_systemd_accepts_it(analyze, tmp_path):
    """Without a warning, with the addition for a port below 1024 too, and with few ways to do harm."""
    guide = (ROOT / "docs/how_to_guides/deploy_with_systemd.md").read_text(encoding="utf-8")
    (port,) = re.findall(r"^<!-- test: unit port -->\n```ini\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    text = UNIT.read_text(encoding="utf-8").replace("/opt/mdash/bin/mdash", str(MDASH))
    for name, addition in (("plain", ""), ("port", port)):
        unit = tmp_path / name / "mdash.service"
        unit.parent.mkdir()
        unit.write_text(text)
        if addition:
            (unit.parent / "mdash.service.d").mkdir()
            (unit.parent / "mdash.service.d/port.conf").write_text(addition)
        assert analyze("verify", str(unit)) == ""
    found = analyze(
        "security", "--offline=true", f"--threshold={MAX_EXPOSURE * 10:g}", str(tmp_path / "plain/mdash.service")
    )
    assert "Overall exposure level" in found


def test_systemd_accepts_the_backup(analyze, tmp_path):
    """The unit and the timer of the guide."""
    guide = (ROOT / "docs/how_to_guides/keep_it_running.md").read_text(encoding="utf-8")
    units = dict(re.findall(r"^<!-- test: unit (\S+) -->\n```ini\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL))
    assert set(units) == {"mdash-backup.service", "mdash-backup.timer"}
    for name, text in units.items():
        (tmp_path / name).write_text(text.replace("/usr/local/bin/mdash", str(MDASH)))
    assert analyze("verify", *(str(tmp_path / name) for name in units)) == ""


def test_it_starts_what_there_is(service, tmp_path):
    """What it runs is a command line that `mdash` takes."""
    program, command, *arguments = shlex.split(service["ExecStart"])
    assert program == "/opt/mdash/bin/mdash"
    (tmp_path / "mdash.toml").touch()
    cli.get_command(click.Context(cli), command).make_context(
        command, [word.replace("/etc/mdash", str(tmp_path)) for word in arguments]
    )


def test_its_times_suit_the_server(service):
    """systemd waits longer for the end than the server takes, and starts it again for as long as it takes."""
    assert int(service["TimeoutStopSec"]) > 5
    assert service["Restart"] == "always"
    assert service["Type"] == "notify"
    assert "StartLimitIntervalSec=0\n" in UNIT.read_text(encoding="utf-8")


def test_a_mistake_in_the_configuration_is_not_tried_again(service, tmp_path):
    """The server ends with the code after which systemd does not start it; a store that is away has another code."""
    (tmp_path / "mdash.toml").write_text('stoer = "memory://"\n')
    command = [str(MDASH), "serve", "--config", str(tmp_path / "mdash.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "stoer" in done.stderr
    assert str(done.returncode) == service["RestartPreventExitStatus"]
    assert service["RestartPreventExitStatus"] != str(int(Exit.UNREACHABLE))


def test_it_leaves_what_the_metrics_are_read_from(service):
    """/proc/stat has the time of the boot, without which there is no metric of the process."""
    assert service.get("ProcSubset", "all") == "all"


def test_the_configuration_has_its_data_in_the_folder_of_the_service(service):
    """The store that `deploy/mdash.toml` names is the folder that systemd makes."""
    config = (ROOT / "deploy/mdash.toml").read_text(encoding="utf-8")
    assert f'store = "sqlite:///var/lib/{service["StateDirectory"]}"' in config
