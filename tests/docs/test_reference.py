"""The reference: nothing in it that is not there, and nothing there that is not in it. Its examples are executed."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import json
import os
import re
import shlex
import shutil
import time
import urllib.request
from pathlib import Path
from typing import Any, get_args

import attrs
import click
import pytest

import mdashcore
from mdashcore import _errors, notifications, ota, rollout
from mdashcore._errors import STATUS
from mdashcore.cli import cli
from mdashcore.cli.exits import EXIT_MEANINGS
from mdashcore.hub import Hub
from mdashcore.hub.deltas import DELTA_METHOD
from mdashcore.hub.device_session import DEVICE_METHODS
from mdashcore.hub.limits import PER_PROCESS
from mdashcore.hub.rollouts.performer import PHASE_BEGUN
from mdashcore.server.api.compatibility import MOVED_PATHS, instead_of
from mdashcore.server.config import ServerConfig, ServerLimits, User
from mdashcore.server.gateway import DEVICE_PATH, NOTIFY_PATH
from mdashcore.server.metrics.app import METRICS_PATH
from mdashcore.server.openapi import ALL_ENDPOINTS
from mdashcore.storage import open_backend

MOS = Path(__file__).parents[1] / "clients" / "mos.py"

SOURCE = Path(__file__).parents[2] / "src" / "mdashcore"


@pytest.fixture(scope="module")
def rest(page):
    return page("docs/reference/rest_api.md")


@pytest.fixture(scope="module")
def device_rpc(page):
    return page("docs/reference/device_rpc.md")


@pytest.fixture(scope="module")
def told(page):
    return page("docs/reference/notifications.md")


@pytest.fixture(scope="module")
def configuration(page):
    return page("docs/reference/configuration.md")


def rows(text: str) -> list[list[str]]:
    """The cells of a text's tables, without headings."""
    lines = re.findall(r"^\| (.*) \|$", text, re.MULTILINE)
    found = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)] for line in lines]
    return [row for row in found if not set("".join(row)) <= set("-|")]


def first_column(text: str) -> set[str]:
    """What stands in backticks in the first column of the tables."""
    return {name for row in rows(text) for name in re.findall(r"`([^`]+)`", row[0])}


# Endpoints


def test_every_endpoint_is_documented_and_no_other(rest):
    """The endpoints are those of the one table, and the metrics of the server, which are off until configured."""
    there = {f"{each.method} {each.path.replace('<', ':').replace('>', '')}" for each in ALL_ENDPOINTS}
    there.add(f"GET {METRICS_PATH}")
    documented = re.findall(r"^### `(\w+ /\S*)`$", rest.text, re.MULTILINE)
    assert len(documented) == len(set(documented))
    assert set(documented) == there


def test_the_tables_of_the_rest_api_are_the_code_s(run):
    """Endpoints, parameters, bodies and documents are what `docs/rest_api.py` writes."""
    run("python3 docs/rest_api.py --check", cwd=SOURCE.parents[1])


def test_every_endpoint_has_an_example(rest):
    """Of its own method and path; only the sockets have theirs compatibility."""
    for heading in re.findall(r"^### `(\w+ /\S*)`$", rest.text, re.MULTILINE):
        method, path = heading.split()
        if path in (DEVICE_PATH, NOTIFY_PATH):
            continue
        example = re.search(r"```sh\ncurl (.*?)\n```", rest.section(f"### `{heading}`"), re.DOTALL)
        assert example, heading
        called = example[1].replace("$URL", "/api/v2").replace("${URL%/api/v2}", "").split()[-1].split("?")[0]
        assert re.fullmatch(re.sub(r":\w+", "[^/]+", path), called), heading
        sent = re.search(r"-X (\w+)", example[1])
        assert (sent[1] if sent else "POST" if re.search(r" -[dF] ", example[1]) else "GET") == method, heading


def test_examples_of_the_rest_api(rest, demo, run, tmp_path):
    """Each is executed on a demo, and answered with the status and the members that the page shows."""
    shutil.copy(demo.firmware, tmp_path)
    blocks = rest.blocks("curl")
    assert len(blocks) > 20
    for block in blocks:
        wanted = block.mark.partition(" ")[2] or "2"
        *body, status = run(block.code, env=demo.variables, cwd=tmp_path).stdout.strip().splitlines()
        assert status.startswith(wanted), (block.code, status, body)
        shown = re.match(r"\s*```(jsonl?)\n(.*?)```", block.after, re.DOTALL)
        assert shown, block.code
        answered = body[0] if shown[1] == "jsonl" else "\n".join(body)
        _check_shape(json.loads(shown[2]), json.loads(answered), block.code)


def test_the_metrics_of_devices_are_as_the_page_says(rest, demo, run):
    """The same metrics in the same order, with the same words."""
    (block,) = rest.blocks("metrics")
    answered = run(block.code, env=demo.variables).stdout.splitlines()
    shown = re.match(r"\s*```text\n(.*?)```", block.after, re.DOTALL)[1].splitlines()
    assert [line for line in answered if line.startswith("#")] == [line for line in shown if line.startswith("#")]
    assert {line.partition("{")[0] for line in answered if "{" in line} <= {line.partition("{")[0] for line in shown}
    assert sum(line.startswith("mdash_device_online{") for line in answered) >= 3


def test_mos_calls_as_the_pages_say(page, demo, run):
    """Each line of `mos` is executed, by a program that sends exactly what `mos` sends."""
    blocks = [
        block for name in ("rest_api", "compatibility") for block in page(f"docs/reference/{name}.md").blocks("mos")
    ]
    assert len(blocks) == 2
    lamp = urllib.request.Request(f"http://{demo.address}/api/v2/devices/lamp", headers=demo.header)
    while not json.load(urllib.request.urlopen(lamp, timeout=10))["online"]:
        pass  # an example of another page has just rebooted it
    for block in blocks:
        shown = re.match(r"\s*```json\n(.*?)```", block.after, re.DOTALL)
        code = f'mos() {{ python3 {shlex.quote(str(MOS))} "$@"; }}\n{block.code}'
        _check_shape(json.loads(shown[1]), json.loads(run(code, env=demo.variables).stdout), block.code)


def test_what_is_not_served_is_on_the_page(page):
    """The paths of the page are those that the server knows words for, and more of the same."""
    asked = [row[0].strip("`") for row in rows(page("docs/reference/compatibility.md").section("## Not served"))]
    assert all(instead_of(path) for path in asked if path.startswith("/"))
    assert all(any(path.startswith(known) for path in asked) for known in MOVED_PATHS)


def _check_shape(shown: Any, answered: Any, where: str) -> None:
    """Every member that is shown is in the answer, with a value of that type."""
    if isinstance(shown, dict):
        for name, value in shown.items():
            assert name in answered, (name, where, answered)
            _check_shape(value, answered[name], f"{where}: {name}")
    elif isinstance(shown, list):
        if shown:
            assert answered, where
            _check_shape(shown[0], answered[0], where)
    else:
        assert isinstance(answered, type(shown)) or {type(shown), type(answered)} <= {int, float}, (where, answered)


def test_the_status_table_is_the_code_s(rest):
    """Each class of the one table, with its number; and every error has a number through one of them."""
    shown = {row[0].strip("`"): int(row[1]) for row in rows(rest.section("## Errors")) if row[0].startswith("`")}
    assert shown == {cls.__name__: status for cls, status in STATUS.items()}
    errors = [getattr(_errors, name) for name in _errors.__all__ if name != "STATUS"]
    assert all(any(base.__name__ in shown for base in error.__mro__) for error in errors)


# Notifications


def test_every_notification_is_documented_and_no_other(told):
    """The names are the constants of `mdashcore.notifications`, and those of updates."""
    constants = {getattr(notifications, name) for name in notifications.__all__ if name.isupper()}
    names = {f"{name}METHOD" if name.endswith(".") else name for name in constants}
    assert first_column(told.section("## Names")) == names | _emitted_names()


def _emitted_names() -> set[str]:
    """What else is given to `feed.emit`: text in the source."""
    found = set()
    for call in _calls("emit"):
        for argument in call.args:
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                found.add(argument.value)
            elif isinstance(argument, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "STATE" for part in argument.values)
                found.add("".join(parts))
    assert {"ota.STATE", "ota.progress", "rollout.STATE"} <= found
    return found | {f"rollout.{PHASE_BEGUN}"}  # given by its constant, where a state is given too


def test_every_state_of_an_update_is_documented(told):
    """With a mark for those that are ends."""
    shown = {row[0].strip("`"): row[2] == "✓" for row in rows(told.section("## Firmware updates")) if "`" in row[0]}
    assert shown == {state.value: state in ota.UPDATE_ENDS for state in ota.UpdateState}


def test_every_state_of_a_rollout_is_documented(told):
    """With a mark for those that are ends."""
    shown = {row[0].strip("`"): row[2] == "✓" for row in rows(told.section("## Rollouts")) if "`" in row[0]}
    assert shown == {state.value: state in rollout.ROLLOUT_ENDS for state in rollout.RolloutState}


def test_every_member_of_a_rollout_s_request_is_documented(rest):
    """With its default, and no other."""
    section = rest.section("### `POST /api/v2/rollouts`").split("<!-- endpoint: end")[0].split("| Parameter |")[0]
    shown = {name for row in rows(section) for name in re.findall(r"`(\w+)`", row[0])}
    asked = rollout.describe_plan(rollout.parse_request({"all": True}).plan)
    assert shown == {*asked, "kind", "name", "filter", "devices", "all", "expect"}
    for row in rows(section):
        if (name := row[0].strip("`")) in asked:
            assert json.loads(row[1].strip("`")) == (list(asked[name]) if name == "phases" else asked[name]), name


def test_the_program_that_reads_notifications_works(told, demo, start):
    """It prints what has happened since the beginning."""
    with start(demo.here(told.code("notify")), python=True, env=demo.variables) as process:
        process.expect("^created lamp$")
        process.expect("^online lamp$")


# Devices


def test_every_method_of_devices_is_documented_and_no_other(device_rpc):
    """The methods are those of the one table."""
    assert first_column(device_rpc.section("## What a device may call")) == set(DEVICE_METHODS)


def test_every_call_to_devices_is_documented_and_no_other(device_rpc):
    """The methods are those of the updates' steps, and those that stand in a call in the source."""
    there = set()
    for step in get_args(ota.Step):
        there |= set(getattr(step, "methods", ())) or ({step.method} if step.method else set())
    for call in [*_calls("call"), *_calls("notify"), *_calls("notify_latest")]:
        there |= {
            argument.value
            for argument in call.args
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str) and "." in argument.value
        }
    there.add(DELTA_METHOD)
    assert {"Sys.GetInfo", "OTA.Begin"} <= there
    assert first_column(device_rpc.section("## What the server calls")) == there


def _calls(method: str) -> list[ast.Call]:
    """Every call of a method of that name, in the parts that a server is made of."""
    return [
        node
        for folder in ("hub", "trio", "server")
        for path in sorted((SOURCE / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == method
    ]


# Configuration and command line


@pytest.mark.parametrize("cls", [ServerConfig, User, ServerLimits])
def test_every_key_of_the_configuration_is_documented(configuration, cls):
    """Of each table; nothing else is in them."""
    section = configuration.section("## The configuration file")
    server, rest = section.split("`[[users]]`:")
    user, limits = rest.split("### Limits")
    text = {ServerConfig: server, User: user, ServerLimits: limits}[cls]
    assert first_column(text) - _values_shown(section) == {field.name for field in attrs.fields(cls)}


def test_the_settings_without_an_option_are_named(configuration):
    """Those of the file that no option sets, and the options that the file has no key for."""
    section = configuration.section("## Where a setting comes from")
    keys = {field.name for field in attrs.fields(ServerConfig)} - {"users"}
    options = {option.name for option in cli.get_command(click.Context(cli), "serve").params}
    users = {"users", "admins", "user_file", "config_file"}
    without_option, without_key = re.search(
        r"file only: ([^.]+)\..*?key in the file: ([^.]+)\.", section, re.S
    ).groups()
    assert set(re.findall(r"`(\w+)`", without_option)) == keys - options
    assert re.findall(r"`([\w-]+)`", without_key) == ["--reset-password"]
    assert options - keys - users == {"resets"}


def test_the_defaults_of_the_limits_are_the_code_s(configuration):
    """The page has each default, and whether it holds for admins."""
    table = {row[0].strip("`"): row for row in rows(configuration.section("### Limits"))[1:]}
    for field in attrs.fields(ServerLimits):
        _, default, per, _ = table[field.name]
        assert default == f"`{field.default}`"
        counted_by = "each process" if field.metadata.get(PER_PROCESS) else "all servers together"
        assert per == {"free_disk": "the disk"}.get(field.name, counted_by)


def _values_shown(section: str) -> set[str]:
    """What stands in backticks beside the names: in other columns only."""
    return {name for row in rows(section) for cell in row[1:] for name in re.findall(r"`([^`]+)`", cell)} - {
        row[0].strip("`") for row in rows(section)
    }


def _commands(command: click.Command, path: tuple[str, ...]) -> dict[str, click.Command]:
    """The commands that do something, by what is typed."""
    if not isinstance(command, click.Group):
        return {" ".join(path): command}
    found: dict[str, click.Command] = {}
    context = click.Context(command)
    for name in command.list_commands(context):
        found |= _commands(command.get_command(context, name), (*path, name))
    return found


def test_every_command_and_option_is_documented_and_no_other(configuration):
    """With their environment variables; the options that commands have in common once."""
    talking = configuration.section("## Commands that talk to a server")
    common = _options_of(talking)
    shown = {
        name: _options_of(configuration.section(f"### `{name}`"))
        for name in ("mdash serve", "mdash demo", "mdash device")
    }
    for section, shared in ((talking, common), (configuration.section("## Commands that work on a store"), {})):
        for command, options, *_ in rows(section):
            if command.startswith("`mdash "):
                name = " ".join(word for word in command.strip("`").split() if word.islower())
                shown[name] = shared | dict.fromkeys(re.findall(r"--[a-z-]+", options))
                if name.startswith("mdash user ") or name == "mdash store backup":
                    del shown[name]["--key"]
    there = {name: _options_there(command) for name, command in _commands(cli, ("mdash",)).items()}
    assert shown.keys() == there.keys()
    for name, options in shown.items():
        assert options == there[name], name


def _options_of(text: str) -> dict[str, str | None]:
    """The options of a table, each with its environment variable."""
    found = {}
    for row in rows(text):
        if option := re.match(r"`(--[a-z-]+)", row[0]):
            found[option[1]] = row[1].strip("`") or None
    return found


def _options_there(command: click.Command) -> dict[str, str | None]:
    return {
        max(option.opts, key=len): option.envvar if isinstance(option.envvar, str) else None
        for option in command.params
        if isinstance(option, click.Option)
    }


def test_every_exit_code_is_documented(configuration):
    """And no other."""
    shown = {int(code) for code, _ in rows(configuration.section("## Exit codes")) if code.isdigit()}
    assert shown == {int(code) for code in EXIT_MEANINGS}


# Python


def test_every_public_name_is_documented_and_no_other(page):
    """Each module that the index names is on the page that it names, with exactly the names that it exports."""
    assert {name for name in _errors.__all__ if name != "STATUS"} <= set(mdashcore.__all__)
    seen = set()
    for link, modules, _ in rows(page("docs/reference/python_api.md").text)[1:]:
        api = page(f"docs/reference/{re.search(r'[(](.*)[)]', link)[1]}")
        named = re.findall(r"`(mdash\S+)`", modules)
        assert re.findall(r"^## `(mdash\S+)`$", api.text, re.MULTILINE) == named
        for name in named:
            section = rows(api.section(f"## `{name}`"))
            exported = set(importlib.import_module(name).__all__)
            assert {row[0].strip("`") for row in section if row[0].startswith("`")} == exported, name
        seen |= set(named)
    assert {"mdashcore", "mdashcore.hub", "mdashcore.storage"} <= seen


def test_the_states_of_a_connection_are_the_code_s(run):
    """The drawings and tables of its page are what `docs/connection_machine.py` writes."""
    run("python3 docs/connection_machine.py --check", cwd=SOURCE.parents[1])


def test_the_page_is_what_the_docstrings_say(monkeypatch):
    """Names, signatures, arguments, errors: as `docs/python_api.py` writes them. No public name is without words."""
    folder = SOURCE.parents[1] / "docs"
    monkeypatch.syspath_prepend(folder)  # of the module that the scripts share
    spec = importlib.util.spec_from_file_location("python_api", folder / "python_api.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    pages = script.pages()
    assert set(script.FOLDER.iterdir()) == {*pages} - {script.INDEX}
    assert {path.name for path, text in pages.items() if path.read_text() != text} == set(), "run make docs"
    assert script.MISSING == []


async def test_help_shows_what_a_hub_has(page):
    """Each attribute, in the class's docstring, which `help(Hub)` shows; and those that are parts, with their verbs, on
    the page."""
    async with open_backend("memory://") as backend:
        hub = Hub(backend, now=time.time, monotonic=time.monotonic, entropy=os.urandom)
    shown = re.findall(
        r"^    (\w+): ", inspect.getdoc(Hub).partition("Attributes:")[2].partition("Args:")[0], re.MULTILINE
    )
    assert set(shown) == {name for name in vars(hub) if not name.startswith("_")}
    text = page("docs/reference/python_api/hub.md").text
    parts = {name: type(getattr(hub, name)).__name__ for name in shown}
    for name, cls in parts.items():
        if cls in mdashcore.hub.__all__ and cls != "AccountLimits":
            assert f"A `Hub` has one: `hub.{name}`." in text
    for verb in ("Registry.authenticate", "Shadows.update", "Presence.claim", "Feed.emit", "Updates.create"):
        assert f"#### `{verb}`" in text


def test_the_limits_are_the_code_s(run):
    """The tables of the security page are what `docs/limits.py` writes."""
    run("python3 docs/limits.py --check", cwd=SOURCE.parents[1])


def test_the_fields_of_filters_are_the_grammar_s(run):
    """The table of the page is what `docs/filter_fields.py` writes."""
    run("python3 docs/filter_fields.py --check", cwd=SOURCE.parents[1])


def test_the_tests_that_the_security_page_names_exist():
    """Each row of its tables names a file of tests, from the folder that the table names."""
    page = (SOURCE.parents[1] / "docs/discussion/security.md").read_text()
    bounds, connections = re.search(
        r"\n## Under attack\n(.*?)\n## Connections\n(.*?)\n## Limits\n", page, re.DOTALL
    ).groups()
    tests = SOURCE.parents[1] / "tests"
    for table, folder in ((bounds, tests / "attacks"), (connections, tests)):
        rows = [row for row in table.splitlines() if row.startswith("| ") and "Proved by" not in row]
        assert len(rows) > 8
        for row in rows:
            names = re.findall(r"`([\w/]*test_\w+\.py)`", row.split(" | ")[-1])
            assert names, f"no test is named: {row}"
            for name in names:
                path = tests.parent / name if name.startswith("tests/") else folder / name
                assert "def test_" in path.read_text(), name
