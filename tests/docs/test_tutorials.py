"""The tutorials, from the first command to the last, as a reader goes through them."""

from __future__ import annotations

import json
import re

import pytest
from websockets.sync.client import connect


@pytest.fixture(scope="module")
def tutorial(page):
    return page("docs/tutorials/first_device.md")


def test_your_first_device(tutorial, start, welcome, run, mdash, tmp_path, monkeypatch):
    """Every step succeeds, or fails as the page says, and the device ends with the new firmware, committed."""
    monkeypatch.chdir(tmp_path)
    blocks = iter(tutorial.blocks())
    assert next(blocks).mark == "install"  # this environment has been installed
    started = next(blocks)
    assert started.mark == "demo"
    with start(f"exec {started.code.strip()} --bind 127.0.0.1:0", cwd=tmp_path) as server:
        demo = welcome(server)
        environment = dict(demo.variables)
        setup = next(blocks)
        assert set(re.findall(r"export (\w+)=", setup.code)) - {"PATH"} <= environment.keys()
        said = _go_through(blocks, start, run, mdash, environment, tmp_path)
    assert "ota.UNCOMMITTED" in said["mdash logs --device thermostat --name 'ota.*'"]
    assert "ota.COMMITTED" in said["mdash logs --device thermostat --name 'ota.*'"]
    shadow = [json.loads(text) for text in said["mdash shadow get thermostat"].splitlines()]
    assert ["delta" in document["state"] for document in shadow] == [False, True, False]
    assert [document["state"]["reported"]["target"] for document in shadow] == [21.5, 21.5, 18]
    info = [json.loads(text) for text in said["mdash call thermostat Sys.GetInfo"].splitlines() if text]
    assert [answer["fw_version"] for answer in info] == ["1.0", "1.1"]


def _go_through(blocks, start, run, mdash, environment, folder) -> dict[str, str]:
    """Do what each block says; what every `mdash` command said, by its text."""
    said: dict[str, str] = {}
    device = None
    for block in blocks:
        kind, _, rest = block.mark.partition(" ")
        if kind == "firmware":
            (folder / re.match(r"# (\S+)", block.code)[1]).write_text(block.code)
        elif kind == "token":
            assert "export MDASH_TOKEN=mdd_..." in block.code
        elif kind in ("device", "start"):
            device = start(f"exec {block.code.strip()}", env=environment)
            device.__enter__().expect("connected")
            if kind == "start":
                _wait_for_report(environment, {"target": 18})
        else:
            if kind == "stop":
                device.__exit__(None, None, None)
            for line in block.code.splitlines():
                status = int(rest.removeprefix("exit ")) if rest.startswith("exit") else 0
                if line.startswith("mdash "):
                    answer = mdash(line, env=environment, status=status)
                else:
                    answer = run(line, env=environment, cwd=folder, status=status).stdout
                said[line] = said.get(line, "") + answer
                if line.startswith("curl"):
                    assert answer.split()[-1].startswith("2"), line
            if rest == "token":
                environment["MDASH_TOKEN"] = answer.split()[1]
    device.__exit__(None, None, None)
    return said


def _wait_for_report(environment, reported) -> None:
    """Until a device has reported exactly that: a reader takes longer to look."""
    url = environment["MDASH_SERVER"].replace("http", "ws", 1) + "/api/v2/notify?start=0"
    headers = {"Authorization": f"Bearer {environment['MDASH_KEY']}"}
    with connect(url, additional_headers=headers) as stream:
        while True:
            data = json.loads(stream.recv(timeout=10)).get("data", {})
            if data.get("shadow", {}).get("state", {}).get("reported") == reported:
                return
