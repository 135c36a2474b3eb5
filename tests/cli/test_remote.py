"""The commands that talk to a running server."""

from __future__ import annotations

import json
import re
import signal

import pytest
from terminal import CLEAN_ENV, on_terminal

from mdashcore.cli.client import parse_server


@pytest.fixture
def alice(demo, mdash, request):
    """The environment of a new user without devices."""
    name = f"alice.{abs(hash(request.node.nodeid))}"
    assert mdash("user", "add", name, "--password", "pw", env=demo.by_admin).code == 0
    return {"MDASH_SERVER": demo.url, "MDASH_USER": f"{name}:pw"}


def test_devices(alice, mdash):
    """Added, listed, renamed, given a new token and removed; rows are tab-separated where there is no terminal."""
    id, token = mdash("devices", "add", "d1", "--name", "One", env=alice).out.split()
    assert (id, token[:4]) == ("d1", "mdd_")
    assert mdash("devices", "list", env=alice).out == "d1\tOne\tno\t-\t-\t-\n"
    assert mdash("devices", "rename", "d1", "Uno", env=alice).code == 0
    for limit, shown in (("4096", 4096), ("none", 0), ("platform", None)):
        assert mdash("devices", "delta-limit", "d1", limit, env=alice).code == 0
        [listed] = json.loads(mdash("devices", "list", "--json", env=alice).out)
        assert listed["delta_limit"] == shown
    assert mdash("devices", "delta-limit", "d1", "many", env=alice).code == 2
    (listed,) = json.loads(mdash("devices", "list", "--json", env=alice).out)
    assert (listed["id"], listed["name"], listed["online"]) == ("d1", "Uno", False)
    assert json.loads(mdash("devices", "show", "d1", "--json", env=alice).out) == listed
    out = mdash("devices", "list", "--sort", "-name", "--limit", "1", "--fields", "id,tags", "--json", env=alice).out
    assert json.loads(out) == [{"id": "d1", "tags": {}}]
    assert mdash("devices", "list", "--sort", "colour", env=alice).code == 1
    assert mdash("devices", "list", "--count", env=alice).out.strip() == "1"
    assert mdash("devices", "list", "--count", "--filter", "id=none", env=alice).out.strip() == "0"
    assert mdash("devices", "list", "--count", "--limit", "1", env=alice).code == 2
    assert mdash("devices", "list", "--fields", "id", env=alice).code == 2
    assert mdash("fleet", env=alice).out.startswith("all\t1\t-\nonline\t0\tonline\n")
    assert json.loads(mdash("fleet", "--json", env=alice).out)["devices"]["all"] == 1
    assert "name\tUno\nonline\tno\n" in mdash("devices", "show", "d1", env=alice).out
    renewed = json.loads(mdash("devices", "token", "d1", "--json", env=alice).out)
    assert renewed["id"] == "d1"
    assert renewed["token"] != token
    assert mdash("devices", "remove", "d1", env=alice).code == 0
    assert mdash("devices", "list", env=alice).out == ""


def test_tags_and_saved_filters(alice, mdash):
    """Tags are set on devices one by one and in bulk; filters that read them are saved, used and removed."""
    assert mdash("devices", "add", "d1", "--tag", "site=x", "--tag", "old", env=alice).code == 0
    assert mdash("devices", "add", "d2", env=alice).code == 0
    assert mdash("tags", "set", "site=y y", "--device", "d2", env=alice).out == "1 of 1 devices changed\n"
    assert mdash("tags", "set", "new", "--all", "--preview", env=alice).out == "2 of 2 devices would change\n"
    assert mdash("tags", "remove", "old", "--filter", "tag=old", env=alice).out == "1 of 1 devices changed\n"
    listed = [line.split("\t")[-1] for line in mdash("devices", "list", env=alice).out.splitlines()]
    assert listed == ["site=x", "site=y y"]
    assert mdash("filters", "save", "ys", "tag.site=y y|z", "offline", env=alice).code == 0
    assert mdash("filters", "list", env=alice).out == 'ys\ttag.site="y y"|z offline\n'
    assert [
        each["id"] for each in json.loads(mdash("devices", "list", "--filter", "@ys", "--json", env=alice).out)
    ] == ["d2"]
    assert mdash("filters", "remove", "ys", env=alice).code == 0
    for wrong in (
        ("tags", "set", "a", "--device", "d1", "--all"),
        ("tags", "set", "a"),
        ("tags", "set", "=b", "--all"),
        ("tags", "remove", "a=b", "--all"),
        ("filters", "save", ".a", "online"),
        ("filters", "save", "a", "onlin"),
        ("devices", "list", "--filter", "shadow.reported.t>"),
    ):
        assert mdash(*wrong, env=alice).code == 2
    assert mdash("devices", "list", "--filter", "@ys", env=alice).code != 0


def test_a_device_without_an_id_gets_one(alice, mdash):
    """It is told together with the token."""
    created = json.loads(mdash("devices", "add", "--json", env=alice).out)
    assert created["id"].startswith("dev_")
    assert created["name"] == created["id"]


def test_what_devices_say_cannot_steer_the_terminal(alice, mdash):
    """Control characters in names are written as escapes, in tables and in JSON."""
    assert mdash("devices", "add", "d1", "--name", "a\x1b[2J\x9b1m\nb", env=alice).code == 0
    assert mdash("devices", "list", env=alice).out.split("\t")[1] == r"a\x1b[2J\x9b1m\nb"
    out = mdash("devices", "list", "--json", env=alice).out
    assert not set("\x1b\x9b") & set(out)
    assert json.loads(out)[0]["name"] == "a\x1b[2J\x9b1m\nb"


def test_keys(alice, mdash):
    """A key opens what its user has, is listed without its secret, and opens nothing once it is removed."""
    secret = mdash("key", "add", "ci", env=alice).out.strip()
    assert secret.startswith("mdk_")
    by_key = {"MDASH_SERVER": alice["MDASH_SERVER"], "MDASH_KEY": secret}
    assert mdash("devices", "list", env=by_key).code == 0
    id, name, _, used = mdash("key", "list", env=alice).out.split("\t")
    assert (name, used[-2:]) == ("ci", "Z\n")
    assert secret not in mdash("key", "list", "--json", env=alice).out
    assert mdash("key", "remove", id, env=alice).code == 0
    assert mdash("devices", "list", env=by_key).code == 4


def test_users(demo, mdash):
    """Added with a password from stdin, listed, given another password, and removed."""
    admin = demo.by_admin
    assert mdash("user", "add", "bob", "--admin", env=admin, input=b"first\n").code == 0
    bob = {"MDASH_SERVER": demo.url, "MDASH_USER": "bob:first"}
    rows = [line.split("\t")[:2] for line in mdash("user", "list", env=bob).out.splitlines()]
    assert ["bob", "admin"] in rows
    assert mdash("user", "password", "bob", env=admin, input=b"second").code == 0
    assert mdash("user", "list", env=bob).code == 4
    assert mdash("user", "list", "--json", env=bob | {"MDASH_USER": "bob:second"}).code == 0
    second = bob | {"MDASH_USER": "bob:second"}
    assert mdash("user", "password", "--password", "own", env=second).code == 0
    assert mdash("user", "list", env=second).code == 4
    own = bob | {"MDASH_USER": "bob:own"}
    assert mdash("user", "list", env=own).code == 0
    for option, code in (("--no-admin", 4), ("--admin", 0)):
        assert mdash("user", "password", "bob", option, "--password", "own", env=admin).code == 0
        assert mdash("user", "list", env=own).code == code, option
    assert mdash("user", "password", "--admin", env=own).code == 2
    assert mdash("user", "remove", "bob", env=admin).code == 0
    assert mdash("user", "list", env=own).code == 4


def test_calls(demo, mdash):
    """A result is written as the device wrote it; params come from the command line or from stdin."""
    assert mdash("call", "meter", "GPIO.Read", '{"pin":7}', env=demo.by_key).out == '{"value":0}\n'
    assert mdash("call", "meter", "GPIO.Read", "-", env=demo.by_key, input=b' {"pin": 7}\n').out == '{"value":0}\n'
    assert (
        mdash("call", "meter", "GPIO.Write", '{"pin":7,"value":0}', "--timeout", "5", env=demo.by_key).out == "null\n"
    )


def test_shadows(alice, mdash):
    """A change of the desired state shows in the shadow; null removes; an outdated version changes nothing."""
    mdash("devices", "add", "d1", env=alice)
    assert json.loads(mdash("shadow", "set", "d1", '{"on":true,"x":{"y":1}}', env=alice).out)["version"] == 1
    mdash("shadow", "set", "d1", '{"x":null}', "--version", "1", env=alice)
    stale = mdash("shadow", "set", "d1", '{"on":false}', "--version", "1", env=alice)
    assert (stale.code, stale.out) == (1, "")
    shadow = json.loads(mdash("shadow", "get", "d1", env=alice).out)
    assert (shadow["state"]["desired"], shadow["version"]) == ({"on": True}, 2)


def test_logs(alice, mdash):
    """Stored notifications by offset, number, device and name."""
    for id in ("d1", "d2"):
        mdash("devices", "add", id, env=alice)
    mdash("devices", "rename", "d1", "One", env=alice)
    rows = [line.split("\t") for line in mdash("logs", env=alice).out.splitlines()]
    assert [(row[0], row[2], row[3]) for row in rows] == [
        ("0", "created", "d1"),
        ("1", "created", "d2"),
        ("2", "updated", "d1"),
    ]
    assert rows[2][1].endswith("Z")
    assert rows[2][4] == '{"name":"One"}'
    ask = {"--start": "1", "--limit": "1", "--device": "d1", "--name": "upd*"}
    ask |= {"--last": "2"}
    expected = {"--start": [1, 2], "--limit": [0], "--device": [0, 2], "--name": [2], "--last": [1, 2]}
    for option, value in ask.items():
        found = json.loads(mdash("logs", option, value, "--json", env=alice).out)
        assert [each["offset"] for each in found] == expected[option], option


def test_logs_are_searched(alice, mdash):
    """By text and time, over all that is kept; what is not there is said, a device that does not exist too."""
    mdash("devices", "add", "d1", env=alice)
    mdash("devices", "rename", "d1", "Pump in the CELLAR", env=alice)
    found = mdash("logs", "--text", "cellar", "--from", "1h", env=alice)
    assert [line.split("\t")[0] for line in found.out.splitlines()] == ["1"]
    assert found.err.startswith("Searched 2 notifications, back to 20")
    nothing = mdash("logs", "--text", "attic", env=alice)
    assert (nothing.code, nothing.out, "No notification fits" in nothing.err) == (0, "", True)
    unknown = mdash("logs", "--device", "nosuch", env=alice)
    assert (unknown.code, unknown.out, "no device 'nosuch'" in unknown.err) == (0, "", True)


def test_notify(alice, mdash, spawn):
    """Notifications come as lines of JSON, from now on or from an offset; Ctrl-C ends it with code 130, silently."""
    listener = spawn("notify", env=alice)
    listener.wait_for("Listening", "err")
    mdash("devices", "add", "d1", env=alice)
    line = listener.wait_for(".+")
    assert json.loads(line.string) | {"time": 0} == {
        "name": "created",
        "id": "d1",
        "data": {"name": "d1"},
        "offset": 0,
        "time": 0,
    }
    again = spawn("notify", "--start", "0", env=alice)
    assert again.wait_for(".+").string == line.string
    for process in (listener, again):
        assert process.end(signal.SIGINT) == 130
        assert process.err.strip() == f"Listening to {alice['MDASH_SERVER']}"


def test_notify_ends_with_its_key(alice, mdash, spawn):
    """When the key is removed the stream ends, with code 4."""
    created = json.loads(mdash("key", "add", "--json", env=alice).out)
    listener = spawn("notify", env={"MDASH_SERVER": alice["MDASH_SERVER"], "MDASH_KEY": created["key"]})
    listener.wait_for("Listening", "err")
    mdash("key", "remove", created["id"], env=alice)
    assert listener.wait() == 4
    assert listener.err.endswith("revoked\n")


def test_notify_goes_on_after_a_restart(mdash, spawn, tmp_path):
    """What comes while the server is away, and later, is written once, also if the stream has written nothing yet."""
    store = ("--store", f"sqlite://{tmp_path}/store", "--register-admin", "root:pw")
    server = spawn("serve", "--bind", "127.0.0.1:0", *store)
    url = server.wait_for("Listening on (.+)")[1]
    env = {"MDASH_SERVER": url, "MDASH_USER": "root:pw"}
    mdash("devices", "add", "d0", env=env)
    listener = spawn("notify", env=env)
    listener.wait_for("Listening", "err")
    assert server.end() == 0
    listener.wait_for("Looking again", "err")
    elsewhere = spawn("serve", "--bind", "127.0.0.1:0", *store)
    mdash("devices", "add", "d1", env=env | {"MDASH_SERVER": elsewhere.wait_for("Listening on (.+)")[1]})
    assert elsewhere.end() == 0
    spawn("serve", "--bind", url.removeprefix("http://"), *store).wait_for("Listening")
    listener.wait_for('"created","id":"d1"')
    mdash("devices", "add", "d2", env=env)
    listener.wait_for('"created","id":"d2"')
    assert [json.loads(line)["id"] for line in listener.out.splitlines()] == ["d1", "d2"]
    assert listener.err.count("The server is back") == 1


def test_a_reader_that_goes_away(demo, shell):
    """`mdash logs | head` ends without a complaint."""
    assert shell("mdash logs --json | head -c 1", CLEAN_ENV | demo.by_key) == "["


FAILURES = {
    "unknown device": (("call", "nosuch", "RPC.List"), 1, "no device 'nosuch'"),
    "unknown method": (("call", "meter", "No.Such"), 1, "the device answers: No handler for No.Such (code 404)"),
    "a path for a method": (("call", "meter", "../.."), 1, "the device answers: No handler for ../.. (code 404)"),
    "a refused argument": (("call", "meter", "GPIO.Read", '{"pin":99}'), 1, "the device answers: "),
    "too long a time-out": (("call", "meter", "RPC.List", "--timeout", "121"), 2, "is not in the range"),
    "no JSON": (("call", "meter", "RPC.List", "{pin:1}"), 2, "not valid JSON"),
    "no such state": (("shadow", "set", "meter", "[1]"), 2, "The desired state is a JSON object."),
    "a whole document": (("shadow", "set", "meter", '{"state":{"desired":{}}}'), 2, "Give the desired state alone"),
    "a taken id": (("devices", "add", "meter"), 1, "there is a device 'meter' already"),
    "no device id": (("devices", "remove", ".."), 2, "a device id has"),
    "no user name": (("user", "remove", "a/b"), 2, "a user name has"),
    "no such key": (("key", "remove", "key_aaaaaaaaaaaa"), 1, "no key 'key_aaaaaaaaaaaa'"),
    "a key for its id": (("key", "remove", "mdk_secret"), 2, "a key is removed by its id"),
    "a key for users": (("user", "list"), 2, "a key cannot manage users"),
    "no admin": (("user", "list", "--user", "nosuch:pw"), 4, "the user name or the password is wrong"),
    "a wrong key": (("devices", "list", "--key", "mdk_wrong"), 4, "the key is not valid"),
    "a wrong key for a stream": (("notify", "--key", "mdk_wrong"), 4, "the key is not valid"),
    "an impossible key": (("devices", "list", "--key", "a\nb"), 2, "no key or token has"),
    "two credentials": (("devices", "list", "--key", "x", "--user", "a:b"), 2, "not both"),
    "nobody to ask": (("devices", "list", "--user", "demo"), 2, "there is no terminal to ask on"),
    "no server": (("devices", "list", "--server", "http://127.0.0.1:1"), 3, "Connection refused"),
    "no server for a stream": (("notify", "--server", "http://127.0.0.1:1"), 3, "Connection refused"),
    "no host": (("devices", "list", "--server", "http://nosuch.invalid"), 3, "cannot connect to http://nosuch.invalid"),
    "no URL": (("devices", "list", "--server", "localhost:8080"), 2, "a server is given as http://HOST:PORT"),
    "a user in the URL": (("devices", "list", "--server", "http://a:b@h"), 2, "a server's URL holds no user"),
    "another path": (("devices", "list", "--server", "{url}/nosuch"), 1, "nothing is served"),
    "no argument": (("call", "meter"), 2, "Missing argument 'METHOD'"),
    "one device": (("device", "list"), 2, "Did you mean mdash devices list?"),
    "newest and oldest": (("logs", "--last", "2", "--start", "1"), 2, "Give --last, or --start and --limit"),
    "TLS where there is none": (
        ("devices", "list", "--server", "https{port}"),
        3,
        "if it speaks no TLS, its address is http:",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failures(demo, mdash, case):
    """What fails is told in one line on stderr, and by the exit code; stdout stays empty."""
    args, code, words = FAILURES[case]
    places = {"{url}": demo.url, "https{port}": demo.url.replace("http", "https")}
    for place, url in places.items():
        args = tuple(arg.replace(place, url) for arg in args)
    done = mdash(*args, env=demo.by_key)
    assert (done.code, done.out, done.err.count("\n")) == (code, "", 1), done.err
    assert done.err.startswith("Error: ")
    assert words.lower() in done.err.lower()


def test_an_offline_device(alice, mdash):
    """Calling a device that is not there is worth another try: code 5."""
    mdash("devices", "add", "d1", env=alice)
    done = mdash("call", "d1", "RPC.List", env=alice)
    assert (done.code, done.err) == (5, "Error: device 'd1' is not connected\n")


def test_no_credentials(demo, mdash):
    """Without credentials it is said how to give some."""
    done = mdash("devices", "list", env={"MDASH_SERVER": demo.url})
    assert done.code == 2
    assert "give --key or --user, or set MDASH_KEY or MDASH_USER" in done.err


def test_the_command_line_wins(demo, alice, mdash):
    """Credentials that are typed win over those of the environment."""
    assert mdash("devices", "list", "--user", alice["MDASH_USER"], env=demo.by_key).out == ""
    assert "lamp" in mdash("devices", "list", "--key", demo.key, env=alice).out


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("http://h", "http://h"),
        ("https://h:1/", "https://h:1"),
        ("ws://[::1]:80/api/v2/rpc", "http://[::1]:80"),
        ("wss://h/mdash/api/v2", "https://h/mdash"),
        (" http://h/x/ ", "http://h/x"),
    ],
)
def test_what_names_a_server(text, server):
    """Any of a server's URLs names it, also behind a proxy's path."""
    assert parse_server(text) == server


def test_a_table_on_a_terminal(demo):
    """On a terminal there is a heading, and columns are aligned."""
    written, code = on_terminal(demo, "devices", "list", columns=140)
    assert code == 0
    heading, *rows = written.splitlines()
    assert "last seen" in heading
    assert len({row.index("yes") for row in rows if "yes" in row}) == 1


def test_nothing_is_cut_on_a_narrow_terminal(demo, alice, mdash):
    """Ids and tokens are on one line, and other cells fold: what is read can be copied."""
    id, name = "d" * 60, "A long name without end " * 4
    written, _ = on_terminal(demo, "devices", "add", id, "--name", name, columns=40)
    assert re.search(rf"^{id}\s+mdd_[\w-]{{40,}}\r?$", written, re.MULTILINE)
    written, _ = on_terminal(demo, "devices", "list", "--filter", f"id={id}", columns=80)
    assert id in written
    folded = re.sub(r"\s", "", written.replace(id, ""))
    for word in name.split():
        assert folded.count(word) == 4 or word in ("A", "name")
    assert mdash("devices", "remove", id, env=demo.by_key).code == 0


def test_logs_begin_with_the_newest_on_a_terminal(demo, mdash):
    """There are more of them than the terminal is shown."""
    for number in range(101):
        demo_shadow = mdash("shadow", "set", "meter", f'{{"n":{number}}}', env=demo.by_key)
        assert demo_shadow.code == 0
    written, code = on_terminal(demo, "logs", "--name", "updated")
    assert (code, '"n":100' in written, '"n":0}' in written) == (0, True, False)


REMOVALS = {
    "device": (("devices", "remove", "d1"), b"Remove the device d1"),
    "token": (("devices", "token", "d1"), b"Give d1 a new token?"),
}


@pytest.mark.parametrize("case", REMOVALS)
def test_what_cannot_be_undone_is_asked_for(demo, mdash, case):
    """On a terminal; "no" changes nothing, and is code 1. With --yes nothing is asked."""
    args, question = REMOVALS[case]
    id = f"asked-{case}"
    args = tuple(id if arg == "d1" else arg for arg in args)
    mdash("devices", "add", id, env=demo.by_key)
    question = question.replace(b"d1", id.encode())
    written, code = on_terminal(demo, *args, answer=b"n\n", question=question)
    assert (code, "nothing was changed" in written) == (1, True)
    assert mdash("devices", "show", id, env=demo.by_key).code == 0
    written, code = on_terminal(demo, *args, answer=b"y\n", question=question)
    assert code == 0
    written, code = on_terminal(demo, *args, "--yes")
    assert (code, question.decode() in written) == (1 if case == "device" else 0, False)


def test_a_password_is_asked_for(demo):
    """A user without a password is asked for it on the terminal, which does not show it."""
    written, code = on_terminal(demo, "user", "list", "--user", "demo", answer=demo.password.encode() + b"\n")
    assert code == 0
    assert "Password of demo: " in written
    assert demo.password not in written


def test_ctrl_c_at_a_question(demo):
    """Ctrl-C where a password is asked for ends the command, with code 130."""
    written, code = on_terminal(demo, "user", "list", "--user", "demo", answer=b"\x03")
    assert code == 130
    assert "Traceback" not in written


def test_limits(demo, mdash):
    """Of all users, and of one: each limit with its use; for admins."""
    admin = {"MDASH_SERVER": demo.url, "MDASH_USER": f"demo:{demo.password}"}
    rows = [line.split("\t") for line in mdash("user", "limits", env=admin).out.splitlines()]
    counted = {name: (int(used), int(most)) for name, limit, used, most in rows if limit == "devices"}
    assert counted["demo"] >= (3, 100_000)
    assert all(int(used) for _, _, used, _ in rows)
    one = [line.split("\t") for line in mdash("user", "limits", "demo", env=admin).out.splitlines()]
    assert one[0] == ["devices", str(counted["demo"][0]), "100000"]
    assert mdash("limits", env=demo.by_key).out.splitlines()[0].split("\t") == one[0]
    found = json.loads(mdash("user", "limits", "--json", env=admin).out)
    assert found["disk"]["floor"] == 512 * 2**20
    assert mdash("user", "limits", "nosuch", env=admin).code == 1
