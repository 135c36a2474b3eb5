"""The README: every command in it, executed as it stands there; only the port is another."""

from __future__ import annotations

import json
import re
import shutil
import sys
import tomllib
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def readme(page):
    return page("README.md")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, environment):
    """The project's folder as its reader has it: with an environment in which everything is installed already."""
    folder = tmp_path_factory.mktemp("mdashcore")
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "mdash").symlink_to(Path(environment["PATH"].split(":")[0]) / "mdash")
    (folder / ".venv" / ".installed").touch()  # newer than pyproject.toml: make has nothing to do
    return folder


@pytest.fixture(scope="module")
def made(readme, start, welcome, folder):
    """The quickstart: `make demo`."""
    command = readme.code("demo").strip()
    with start(f"{command} VENV={folder / '.venv'} DEMO_ARGS='--bind 127.0.0.1:0'", cwd=ROOT) as process:
        yield welcome(process)


@pytest.fixture
def terminal(readme, made, folder, run, tmp_path):
    """Another terminal in that folder, after the lines that set it up. Here `curl` also writes the status to stderr."""
    (tmp_path / "python3").symlink_to(sys.executable)
    (tmp_path / "curl").write_text(f'#!/bin/sh\nexec {shutil.which("curl")} -w "%{{stderr}}%{{http_code}}\\n" "$@"\n')
    (tmp_path / "curl").chmod(0o755)
    setup = readme.code("setup")
    assert setup.count("mdk_...") == 1
    setup = setup.replace("mdk_...", made.key)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "MDASH_SERVER": f"http://{made.address}"}
    return lambda code: run(f"{setup}\n{made.here(code)}", env=env, cwd=folder)


def objects(text: str) -> list[object]:
    """The JSON values in a text, one after the other."""
    found, rest = [], text.strip()
    while rest:
        value, end = json.JSONDecoder().raw_decode(rest)
        found.append(value)
        rest = rest[end:].strip()
    return found


def test_make_demo_starts_what_the_readme_says(readme, made):
    """The devices that it names are those that the demo has, and they are online."""
    named = re.search(r"three virtual devices \((.*?)\)", readme.text)[1]
    assert re.findall(r"`(\w+)`", named) == ["lamp", "meter", "pump"]
    assert made.key.startswith("mdk_")


def test_the_page_is_there(readme, made):
    """At the address that the README names."""
    address = made.here(re.search(r"<(http://\S+)> in a browser", readme.text)[1])
    assert "<title>" in httpx.get(address, headers={"Accept": "text/html"}).text


def test_commands_and_then_curl(readme, terminal):
    """The command shows the devices, calls one, and sees the lamp report to be on; each line with curl is answered with
    200 and JSON."""
    said = terminal(readme.code("mdash")).stdout
    table, _, rest = said.partition("{")
    assert [line.split()[0] for line in table.splitlines()[-3:]] == ["lamp", "meter", "pump"]
    info, _accepted, shadow = objects("{" + rest)
    assert info["app"] == "demo"
    assert shadow["state"]["reported"]["on"] is True
    assert "delta" not in shadow["state"]

    code = readme.code("curl")
    done = terminal(code)
    assert done.stderr.split() == ["200"] * code.count("curl ")
    devices, toggled, shadow, logs = objects(done.stdout)
    assert [(device["id"], device["online"]) for device in devices] == [(n, True) for n in ("lamp", "meter", "pump")]
    assert toggled == {"value": 1}
    assert shadow["state"]["reported"]["on"] is True
    assert {"online", "rpc.in.GPIO.Toggle"} <= {entry["name"] for entry in logs}
    assert done.stdout.count("\n    ") > 100  # readable: a line for each member


def test_notify_shows_what_happens(readme, made, start, terminal):
    """The stream shows a call that is made meanwhile."""
    with start(f"exec {readme.code('notify')}", env=made.variables) as stream:
        stream.expect("Listening")
        terminal("mdash call lamp GPIO.Read '{\"pin\":2}'")
        stream.expect('"name":"rpc.in.GPIO.Read"')


def test_the_picture_is_small(readme):
    """There is one, below 150 KB, with a text that says what it shows."""
    ((shows, path),) = re.findall(r"!\[(.*?)\]\((.*?)\)", readme.text)
    assert len(shows) > 20
    picture = (ROOT / path).read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 150_000


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
