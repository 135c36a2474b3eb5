"""``mdash device``: a process that is a device."""

from __future__ import annotations

import json
import signal

import pytest


@pytest.fixture
def token(demo, mdash, request):
    """The token of a device of the test's own."""
    return mdash("devices", "add", name_of(request), env=demo.by_key).out.split()[1]


def name_of(request):
    return request.node.name.partition("[")[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_is_a_device(demo, spawn, mdash, wait_told, number):
    """It connects, answers, shows what it is asked, and ends when told, with code 0; its files are gone then."""
    token = mdash("devices", "add", f"one-{number.name}", env=demo.by_key).out.split()[1]
    device = spawn("device", "--server", demo.url.replace("http", "ws"), "--token", token, "--id", "one")
    device.wait_for("INFO .*: one: connected to ws://.*/api/v2/rpc", "err")
    wait_told(demo.by_key, "online", f"one-{number.name}")
    done = mdash("call", f"one-{number.name}", "Config.Get", '{"key":"device.id"}', env=demo.by_key)
    assert done.out == '"one"\n'
    device.wait_for("one: Config.Get", "err")
    assert device.end(number) == 0
    assert device.out == ""
    wait_told(demo.by_key, "offline", f"one-{number.name}")


@pytest.mark.parametrize("token", ["mdd_wrong", "mdk_wrong", "x"])
def test_a_wrong_token(demo, mdash, token):
    """A token that the server refuses ends it with one line and code 4; it does not try again for ever."""
    done = mdash("device", "--quiet", env={"MDASH_SERVER": demo.url, "MDASH_TOKEN": token})
    assert (done.code, done.out, done.err) == (4, "", "Error: the server refuses the token\n")


def test_a_revoked_token(demo, spawn, mdash, token, request, wait_told):
    """A device whose token is replaced loses its connection, and ends with code 4."""
    device = spawn("device", env={"MDASH_SERVER": demo.url, "MDASH_TOKEN": token})
    wait_told(demo.by_key, "online", name_of(request))
    assert mdash("devices", "token", name_of(request), env=demo.by_key).code == 0
    assert device.wait() == 4
    assert "the device token was revoked" in device.err
    assert device.err.endswith("Error: the server refuses the token\n")


def test_a_reboot(demo, spawn, mdash, token, request, wait_told):
    """Rebooting drops the connection, and another follows."""
    device = spawn("device", env={"MDASH_SERVER": demo.url, "MDASH_TOKEN": token})
    wait_told(demo.by_key, "online", name_of(request))
    assert mdash("call", name_of(request), "Sys.Reboot", env=demo.by_key).out == "null\n"
    device.wait_for("rebooting", "err")
    device.wait_for("connected", "err", count=2)


def test_a_server_that_comes_late(spawn):
    """Without a server it tries again until there is one."""
    server = spawn("serve", "--bind", "127.0.0.1:0", "--register-admin", "root:pw")
    url = server.wait_for("Listening on (.+)")[1]
    assert server.end() == 0
    device = spawn("device", env={"MDASH_SERVER": url, "MDASH_TOKEN": "mdd_of-another-life"})
    device.wait_for("no connection to ws://.*: Connection refused", "err")
    again = spawn("serve", "--bind", url.removeprefix("http://"), "--register-admin", "root:pw")
    again.wait_for("Listening")
    assert device.wait() == 4


def test_a_folder(demo, spawn, mdash, token, request, tmp_path):
    """With --folder it is the same device at its next start; with --quiet it writes nothing."""
    name = name_of(request)
    env = {"MDASH_SERVER": demo.url, "MDASH_TOKEN": token}
    listener = spawn("notify", env=demo.by_key)
    listener.wait_for("Listening", "err")
    first = spawn("device", "--folder", str(tmp_path), "--quiet", env=env)
    listener.wait_for(f'"online","id":"{name}"')
    assert mdash("shadow", "set", name, '{"on":true}', env=demo.by_key).code == 0
    listener.wait_for(f'"updated","id":"{name}".*"reported":{{"on":true}}')
    assert first.end() == 0
    assert (first.out, first.err) == ("", "")
    assert json.loads((tmp_path / "state.json").read_text()) == {"on": True}
    spawn("device", "--folder", str(tmp_path), "--quiet", env=env)
    listener.wait_for(f'"updated","id":"{name}".*"reported":{{"on":true}}', count=2)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "Missing option '--token'"),
        (("--token", "a b"), "no key or token has"),
        (("--token", "x", "--server", "localhost"), "a server is given as http://HOST:PORT"),
        (("--token", "x", "--id", "a/b"), "a device id has"),
        (("--token", "x", "--cafile", "/nosuch"), "does not exist"),
    ],
)
def test_wrong_usage(mdash, args, words):
    """What is wrong on the command line is told in one line, with code 2."""
    done = mdash("device", *args)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert words in done.err
