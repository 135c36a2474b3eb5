"""The README: every command in it, executed as it stands there; only the port is another."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def readme(page):
    return page("README.md")


@pytest.fixture(scope="module")
def made(readme, start, welcome, environment, tmp_path_factory):
    """The quickstart: `make demo`, in an environment in which everything is installed already."""
    venv = tmp_path_factory.mktemp("venv")
    (venv / "bin").mkdir()
    (venv / "bin" / "mdash").symlink_to(Path(environment["PATH"].split(":")[0]) / "mdash")
    (venv / ".installed").touch()  # newer than pyproject.toml: make has nothing to do
    command = readme.code("demo").strip()
    with start(f"{command} VENV={venv} DEMO_ARGS='--bind 127.0.0.1:0'", cwd=ROOT) as process:
        yield welcome(process)


def test_make_demo_starts_what_the_readme_says(readme, made):
    """The devices that it names are those that the demo has, and they are online."""
    named = re.search(r"three virtual devices \((.*?)\)", readme.text)[1]
    assert re.findall(r"`(\w+)`", named) == ["lamp", "meter", "pump"]
    assert made.key.startswith("mdk_")


def test_curl_lines_succeed(readme, made, run):
    """Each line is answered with 200 and JSON, and the lamp reports to be on."""
    answers = []
    for block in readme.blocks("curl"):
        said = run(made.here(block.code), env=made.variables).stdout
        answers += re.findall(r"^(.+)\n(\d+)$", said, re.MULTILINE)
    assert len(answers) == sum(block.code.count("curl ") for block in readme.blocks("curl"))
    assert {status for _, status in answers} == {"200"}
    devices, _info, toggled, _set, shadow, logs = (json.loads(body) for body, _ in answers)
    assert [(device["id"], device["online"]) for device in devices] == [(n, True) for n in ("lamp", "meter", "pump")]
    assert toggled == {"value": 1}
    assert shadow["state"]["reported"]["on"] is True
    assert "delta" not in shadow["state"]
    assert {"online", "rpc.in.GPIO.Toggle"} <= {entry["name"] for entry in logs}


def test_notify_shows_what_happens(readme, made, start, run):
    """The stream shows a call that is made meanwhile."""
    command = readme.code("notify").replace(".venv/bin/", "")
    with start(f"exec {command}", env=made.variables) as stream:
        stream.expect("Listening")
        call = next(block for block in readme.blocks("curl") if "GPIO.Toggle" in block.code)
        run(made.here(call.code), env=made.variables)
        stream.expect('"name":"rpc.in.GPIO.Toggle"')


def test_pip_lines_name_what_there_is(readme):
    """The extra and the command of the lines for people without make are those of the project."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    create, install, start = readme.code("pip").splitlines()
    assert create == "python3 -m venv .venv"
    (extra,) = re.findall(r"\.venv/bin/pip install '\.\[(\w+)\]'", install)
    assert extra in project["optional-dependencies"]
    command, argument = re.fullmatch(r"\.venv/bin/(\w+) (\w+)", start).groups()
    assert command in project["scripts"]
    assert argument == "demo"


def test_the_test_command_exists(readme, run):
    """`make test` is a target."""
    (command,) = [block.code.strip() for block in readme.blocks("none")]
    assert command == "make test"
    assert "tests/run" in run("make --dry-run test", cwd=ROOT).stdout


def test_the_layout_is_the_layout(readme):
    """Every folder of the table exists, and every package of the source is in it."""
    rows = re.findall(r"^\| (`.*?) \|", readme.section("## Develop"), re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`(.*?)`", row)]
    for name in named:
        assert list(ROOT.glob(name.removesuffix("/"))) or (ROOT / "src" / "mdashcore" / name).is_dir(), name
    packages = {path.parent.name for path in (ROOT / "src").glob("*/*/__init__.py")}
    assert packages <= {name.rstrip("/").rpartition("/")[2] for name in named}
