"""`deploy/compose.yaml` and what it mounts: checked by a real Compose, which needs no engine for that."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from ipaddress import ip_network
from pathlib import Path

import click
import pytest

from mdashcore import _json
from mdashcore.cli import cli
from mdashcore.server.config import load_config

DEPLOY = Path(__file__).parents[2] / "deploy"

PROGRAM = """
import json, sys, yaml
print(json.dumps(yaml.safe_load(sys.stdin)))
"""


@pytest.fixture(scope="module")
def compose():
    """The file as Compose has read it: with its schema checked, and the variables of the guide put in."""
    program = shutil.which("docker-compose")
    if program is None:
        words = "docker-compose is not installed: see tests/run"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(words)
    guide = (DEPLOY.parent / "docs/how_to_guides/deploy_with_containers.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"^<!-- test: compose environment -->\n```sh\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    environment = os.environ | dict(line.split("=", 1) for line in lines.splitlines())
    command = [program, "--file", str(DEPLOY / "compose.yaml"), "config"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    # the Python that Compose itself runs on has its YAML
    python = Path(program).read_text(encoding="utf-8").partition("\n")[0].removeprefix("#!").split()
    read = subprocess.run([*python, "-c", PROGRAM], input=done.stdout, capture_output=True, text=True, check=True)
    return _json.decode(read.stdout.encode())


def test_the_servers_trust_the_network_that_only_they_and_caddy_are_in(compose):
    """Its addresses are those that the configuration names."""
    config = load_config(DEPLOY / "compose.toml")
    (network,) = compose["networks"]["inside"]["ipam"]["config"]
    assert [ip_network(each) for each in config.trusted_proxies] == [ip_network(network["subnet"])]
    assert all(set(service["networks"]) == {"inside"} for service in compose["services"].values())


def test_two_servers_are_behind_caddy(compose):
    """Caddy is told their addresses by the names that its file reads, and only Caddy can be reached from outside."""
    services = compose["services"]
    servers = [name for name, service in services.items() if service["image"] == "mdash"]
    assert len(servers) == 2
    environment = services["caddy"]["environment"]
    assert environment["MDASH_SERVERS"].split() == [f"{server}:8080" for server in servers]
    assert set(environment) == set(re.findall(r"\{\$(\w+):", (DEPLOY / "Caddyfile").read_text(encoding="utf-8")))
    assert [name for name, service in services.items() if "ports" in service] == ["caddy"]


def test_the_servers_are_what_mdash_takes(compose):
    """Command and variables, and files that are there; nothing but the volume can be written."""
    for name in ("server1", "server2"):
        service = compose["services"][name]
        command = cli.get_command(click.Context(cli), service["command"][0])
        assert set(service["environment"]) <= {option.envvar for option in command.params}
        assert service["environment"]["MDASH_REGISTER_ADMIN"] == "admin:a-long-password"
        for volume in service["volumes"]:
            path, _, place = volume.partition(":")
            assert Path(path).is_file()
            assert place == f"{service['command'][2]}:ro"
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert (DEPLOY.parent / service["build"]["dockerfile"]).samefile(DEPLOY / "Dockerfile")


def test_every_service_can_be_left_alone(compose):
    """It starts again by itself, its log is rotated, it has time to end, and no program in it gains rights."""
    for name, service in compose["services"].items():
        assert service["restart"] == "unless-stopped", name
        assert service["logging"]["driver"] == "local", name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        if service["image"] == "mdash":
            assert int(service["stop_grace_period"].removesuffix("s")) > 5, (
                name
            )  # the guide says when a server has ended


def test_a_redis_that_is_still_loading_is_not_healthy(compose):
    """The check of its health fails on an error in place of an answer."""
    program, *arguments = compose["services"]["redis"]["healthcheck"]["test"][1:]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        command = [program, "-p", port, *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as check:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"-LOADING Redis is loading the dataset in memory\r\n")
                said = check.communicate(timeout=60)[0]
            assert check.returncode == 1, said
