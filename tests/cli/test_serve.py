"""``mdash serve``: where its settings come from, what it says, and how it ends."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import httpx
import pytest
import trustme

ANY_PORT = ("--bind", "127.0.0.1:0")


def serve(spawn, *args, **options):
    """A server on a free port, and its URL."""
    process = spawn("serve", *args, **options)
    return process, process.wait_for("Listening on (.+)")[1]


@pytest.fixture(scope="module")
def login():
    """What a login is answered with: the status, and whether it is an admin's."""
    with httpx.Client(verify=False) as client:

        def ask(url, name, password):
            response = client.get(f"{url}/api/v2/me", auth=(name, password))
            return response.status_code, response.json().get("admin")

        yield ask


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_is_and_ends_when_told(spawn, wait_told, number):
    """One line on stdout, once it accepts connections; a signal ends it in under 5 s with code 0, though a device is
    connected."""
    process, url = serve(spawn, *ANY_PORT, "--register-admin", "root:pw")
    created = httpx.post(f"{url}/api/v2/devices", auth=("root", "pw"), json={"id": "d1"}, verify=False)
    device = spawn("device", "--server", url, env={"MDASH_TOKEN": created.json()["token"]})
    wait_told({"MDASH_SERVER": url, "MDASH_USER": "root:pw"}, "online", "d1")
    assert process.end(number) == 0
    assert process.out == f"Listening on {url}\n"
    assert f"{number.name}: going down" in process.err
    device.wait_for("the server is going down", "err")


def test_what_was_started_with_sigint_ignored_goes_on(spawn, mdash, wait_told):
    """As a shell without job control starts what it puts into the background: Ctrl-C is not meant for it. SIGTERM ends
    it all the same."""
    ignored = (signal.SIGINT,)
    server, url = serve(spawn, *ANY_PORT, "--register-admin", "root:pw", ignored=ignored)
    env = {"MDASH_SERVER": url, "MDASH_USER": "root:pw"}
    token = mdash("devices", "add", "d1", env=env).out.split()[1]
    device = spawn("device", env={**env, "MDASH_TOKEN": token}, ignored=ignored)
    listener = spawn("notify", "--start", "0", env=env, ignored=ignored)
    listener.wait_for("Listening", "err")
    wait_told(env, "online", "d1")
    for process in (server, device, listener):
        process.process.send_signal(signal.SIGINT)
    assert mdash("call", "d1", "RPC.List", env=env).code == 0
    listener.wait_for("rpc.in.RPC.List")
    assert device.end(signal.SIGTERM) == 0
    assert listener.end(signal.SIGTERM) == -signal.SIGTERM
    assert server.end(signal.SIGTERM) == 0
    assert "SIGINT" not in server.err


def test_where_users_come_from(spawn, login, tmp_path):
    """Users of the TOML file, of a file of users, of the environment and of the command line are all there; of one
    name, the password of the last in this order counts."""
    config, users = tmp_path / "mdash.toml", tmp_path / "users"
    config.write_text('bind = "127.0.0.1:0"\n[[users]]\nname = "toml"\npassword = "t"\nadmin = true\n')
    users.write_text("# who may log in\nfile:a:b c#\n\ntwice:file\n")
    arguments = ("--register-user", "line:l", "--register-user", "twice:line", "--register-admin", "root:r")
    env = {"MDASH_REGISTER_USER": "set:s\ntwice:env", "MDASH_REGISTER_ADMIN": "boss:b"}
    _, url = serve(spawn, "--config", str(config), "--register-user-file", str(users), *arguments, env=env)
    admins = {"toml": ("t", True), "file": ("a:b c#", False), "line": ("l", False), "root": ("r", True)}
    admins |= {"set": ("s", False), "boss": ("b", True)}
    for name, (password, admin) in admins.items():
        assert login(url, name, password) == (200, admin), name
    assert login(url, "twice", "line") == (200, False)
    assert login(url, "twice", "file") == login(url, "twice", "env") == (401, None)


def test_a_restart_keeps_what_people_have_set(spawn, login, tmp_path):
    """The users that a server is started with are made once: at the next start a changed password is still changed, a
    demoted admin is none, and browsers are still logged in."""
    users = tmp_path / "users"
    users.write_text("alice:first\n")
    arguments = ("--store", f"sqlite://{tmp_path}/store", "--register-admin", "root:pw", "--register-admin", "bob:pw")
    arguments += ("--register-user-file", str(users))
    first, url = serve(spawn, *ANY_PORT, *arguments)
    with httpx.Client(auth=("root", "pw"), verify=False) as root:
        for name, body in {"alice": {"password": "second"}, "bob": {"password": "pw", "admin": False}}.items():
            assert root.put(f"{url}/api/v2/users/{name}", json=body).status_code == 200
    with httpx.Client(verify=False) as browser:
        body = {"user": "alice", "password": "second"}
        assert browser.post(f"{url}/api/v2/login", json=body).status_code == 200
        assert first.end() == 0
        second, url = serve(spawn, *ANY_PORT, *arguments)
        assert browser.get(f"{url}/api/v2/session").json()["user"] == "alice"
    assert [login(url, "alice", password)[0] for password in ("first", "second")] == [401, 200]
    assert login(url, "bob", "pw") == (200, False)
    second.wait_for("the user 'bob' is there already, and is no admin: it stays as it is", "err")
    assert "was missing" not in first.err + second.err
    assert httpx.delete(f"{url}/api/v2/users/alice", auth=("root", "pw"), verify=False).status_code == 200
    assert second.end() == 0
    third, url = serve(spawn, *ANY_PORT, *arguments)
    third.wait_for("the user 'alice' of the configuration was missing, and is made; if that user was removed", "err")
    assert "'bob' of the configuration" not in third.err


def test_a_password_that_is_reset(spawn, login, tmp_path):
    """A password by an option or in the environment replaces the stored one, and ends all sessions of that user."""
    store = ("--store", f"sqlite://{tmp_path}/store")
    first, url = serve(spawn, *ANY_PORT, *store, "--register-admin", "root:pw", "--register-user", "alice:pw")
    with httpx.Client(verify=False) as alice, httpx.Client(verify=False) as root:
        for name, browser in (("alice", alice), ("root", root)):
            assert browser.post(f"{url}/api/v2/login", json={"user": name, "password": "pw"}).status_code == 200
        assert first.end() == 0
        reset = ("--register-user", "alice:pw", "--reset-password", "alice:new one")
        second, url = serve(spawn, *ANY_PORT, *store, *reset)
        assert [browser.get(f"{url}/api/v2/session").json()["user"] for browser in (alice, root)] == [None, "root"]
    assert [login(url, "alice", password)[0] for password in ("pw", "new one")] == [401, 200]
    assert second.end() == 0
    third, url = serve(spawn, *ANY_PORT, *store, env={"MDASH_RESET_PASSWORD": "root:x\nalice:y"})
    assert (login(url, "root", "x"), login(url, "alice", "y")) == ((200, True), (200, False))
    assert third.end() == 0
    nobody = spawn("serve", *ANY_PORT, *store, "--reset-password", "nobody:SECRET")
    assert nobody.wait() == 1
    assert nobody.err.splitlines()[-1] == "Error: no user 'nobody', whose password could be reset"


@pytest.mark.parametrize(("scheme", "number"), [("sqlite", signal.SIGKILL), ("file", signal.SIGTERM)])
def test_a_server_starts_on_a_full_disk(small_disk, spawn, login, scheme, number):
    """It starts again and again, however it ended. Existing users are not written again, and a user that cannot be
    created does not keep the devices out."""
    store = ("--store", f"{scheme}://{small_disk}/store", "--register-admin", "root:pw")
    first, _ = serve(spawn, *ANY_PORT, *store)
    first.end(number)
    (small_disk / "ballast").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    assert shutil.disk_usage(small_disk).free == 0
    for _ in range(2):
        server, url = serve(spawn, *ANY_PORT, *store, "--register-user", "alice:pw")
        assert login(url, "root", "pw") == (200, True)
        if login(url, "alice", "pw")[0] != 200:  # else there was room for just that
            server.wait_for("the user 'alice' could not be made: ", "err")
        server.end(number)


@pytest.mark.parametrize(("option", "env"), [((), {"MDASH_MAX_IMAGE": "999"}), (("--max-image", "999"), {})])
def test_how_large_an_image_may_be(spawn, tmp_path, option, env):
    """It is said on the command line or in the environment; either wins over the file."""
    config = tmp_path / "mdash.toml"
    config.write_text("max_image = 5000\n")
    _, url = serve(spawn, *ANY_PORT, "--config", str(config), "--register-admin", "root:pw", *option, env=env)
    with httpx.Client(base_url=f"{url}/api/v2", auth=("root", "pw"), verify=False) as client:
        assert client.post("/devices", json={"id": "d1"}).status_code == 201
        answers = [client.post("/devices/d1/ota?queue=1", content=bytes(size)).status_code for size in (1000, 999)]
    assert answers == [413, 202]


def test_the_environment(spawn, login, tmp_path):
    """Every option is in the environment too, several users one a line; it wins over the file, and loses to the
    command line."""
    config = tmp_path / "mdash.toml"
    config.write_text('bind = "127.0.0.1:1"\nstore = "nowhere://"\n')
    env = {
        "MDASH_CONFIG": str(config),
        "MDASH_BIND": "127.0.0.2:1",
        "MDASH_STORE": "memory://",
        "MDASH_REGISTER_USER": "a:pass word\nb:x\n",
        "MDASH_REGISTER_ADMIN": "c:y",
    }
    _, url = serve(spawn, *ANY_PORT, env=env)
    assert url.startswith("http://127.0.0.1:")
    assert login(url, "a", "pass word") == login(url, "b", "x") == (200, False)
    assert login(url, "c", "y") == (200, True)


def test_tls(spawn, mdash, tmp_path):
    """With a certificate the port speaks TLS, and the commands trust it by --cafile, and only then."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    certificate, key, trusted = (tmp_path / name for name in ("cert.pem", "key.pem", "ca.pem"))
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(trusted)
    files = ("--certfile", str(certificate), "--keyfile", str(key))
    _, url = serve(spawn, *ANY_PORT, *files, "--register-admin", "root:pw")
    assert url.startswith("https://127.0.0.1:")
    env = {"MDASH_SERVER": url, "MDASH_USER": "root:pw"}
    trusting = env | {"MDASH_CAFILE": str(trusted)}
    token = mdash("devices", "add", "d1", env=trusting).out.split()[1]
    for command in (("devices", "list"), ("notify",)):
        refused = mdash(*command, env=env)
        assert refused.code == 3
        assert "CERTIFICATE_VERIFY_FAILED" in refused.err
        assert "--cafile" in refused.err
    device = spawn("device", env={"MDASH_TOKEN": token, **trusting})
    device.wait_for("connected to wss://", "err")
    listener = spawn("notify", "--start", "0", env=trusting)
    listener.wait_for('"online","id":"d1"')
    assert mdash("call", "d1", "RPC.Ping", env=trusting).out == '{"channel_info":"websocket"}\n'
    doubtful = spawn("device", env={"MDASH_TOKEN": token, "MDASH_SERVER": url})
    doubtful.wait_for("no connection to wss://.*CERTIFICATE_VERIFY_FAILED", "err")
    plain = env | {"MDASH_SERVER": url.replace("https", "http")}
    for command in (("devices", "list"), ("notify",)):
        refused = mdash(*command, env=plain)
        assert (refused.code, refused.err.endswith(f"; if it speaks TLS, its address is {url}\n")) == (3, True), refused


def test_the_log_is_set_in_the_file(spawn, tmp_path):
    """Its level and its form; the environment wins over them."""
    config = tmp_path / "mdash.toml"
    config.write_text('log_level = "error"\nlog_format = "json"\n')
    quiet, _ = serve(spawn, *ANY_PORT, "--config", str(config))
    assert (quiet.end(), quiet.err) == (0, "")
    loud, _ = serve(spawn, *ANY_PORT, "--config", str(config), env={"MDASH_LOG_LEVEL": "info"})
    assert loud.end() == 0
    assert json.loads(loud.err.splitlines()[-1])["message"] == "SIGTERM: going down"


def test_without_users(spawn):
    """A server without any user says so."""
    process, _ = serve(spawn, *ANY_PORT)
    process.wait_for(r"no login is possible.*\[\[users\]\].*--register-admin", "err")


def wrong(tmp_path: Path) -> dict[str, tuple[list[str], int, str]]:
    """Wrong starts: arguments, exit code, and what the line has to say."""
    toml, users, pem = tmp_path / "c.toml", tmp_path / "users", tmp_path / "x.pem"
    toml.write_text('bnd = "x"\n')
    days, word = tmp_path / "days.toml", tmp_path / "word.toml"
    days.write_text("notification_retention_days = 0\n")
    word.write_text('notification_retention_days = "30"\n')
    size, keys, name, loud = (tmp_path / f"{word}.toml" for word in ("size", "keys", "name", "loud"))
    size.write_text("max_image = 0\n")
    keys.write_text("[limits]\nkeys = -1\n")
    name.write_text('[[users]]\npassword = "SECRET"\n')
    loud.write_text('log_level = "loud"\n')
    users.write_text("a:x\nSECRET\n")
    pem.write_text("nothing")
    return {
        "no port": (["--bind", "localhost"], 2, "'localhost' is no HOST:PORT"),
        "unknown host": (["--bind", "nosuch.invalid:0"], 3, "cannot listen on nosuch.invalid:0"),
        "not ours": (["--bind", "203.0.113.1:0"], 3, "Cannot assign requested address"),
        "unknown store": (["--store", "nosuch://x"], 2, "no storage backend for nosuch://; installed: "),
        "no store": (["--store", "nosuch"], 2, "a storage URL starts with SCHEME://"),
        "no password": (["--register-user", "SECRET"], 2, "NAME:PASSWORD"),
        "bad name": (["--register-user", "a b:SECRET"], 2, "a user name has"),
        "bad file": (["--register-user-file", str(users)], 2, f"{users}, line 2: a user is given as NAME:PASSWORD"),
        "bad TOML key": (["--config", str(toml)], 2, f"{toml}: unknown key `bnd`; did you mean `bind`?"),
        "no size": (["--config", str(size)], 2, f"{size}: max_image: expected a whole number above 0"),
        "no limit": (["--config", str(keys)], 2, f"{keys}: limits.keys: expected a whole number above 0"),
        "no name": (["--config", str(name)], 2, f"{name}: users[0].name: the key is missing"),
        "no log level": (["--config", str(loud)], 2, "'log_level' has to be one of debug, info, warning, error"),
        "no days": (["--config", str(days)], 2, "notification_retention_days: expected a number above 0"),
        "no number": (["--config", str(word)], 2, "notification_retention_days: expected a number above 0"),
        "no TOML": (["--config", str(tmp_path / "nosuch")], 2, "does not exist"),
        "no PEM": (["--certfile", str(pem)], 2, f"certificate {pem}"),
        "only a key": (["--keyfile", str(pem)], 2, "of no use without a certfile"),
        "unknown option": (["--bnd", "x"], 2, "Did you mean '--bind'?"),
        "unknown level": (["--log-level", "loud"], 2, "'loud' is not one of"),
    }


@pytest.mark.parametrize("case", wrong(Path("/tmp")))  # noqa: S108 - for the names only
def test_wrong_starts(mdash, tmp_path, case):
    """A wrong start is told in one line, with the exit code for it, without a traceback and without a password."""
    args, code, words = wrong(tmp_path)[case]
    done = mdash("serve", *(() if "--bind" in args else ANY_PORT), *args)
    assert (done.code, done.out, done.err.count("\n")) == (code, "", 1), done.err
    assert done.err.startswith("Error: ")
    assert words in done.err
    assert "SECRET" not in done.err


def test_no_secret_is_logged(spawn, mdash):
    """At the highest level, through logins good and bad, calls and streams, no password, key or token is written."""
    options = ("--log-level", "debug", "--log-format", "json", "--register-admin", "root:hunter2-secret")
    process, url = serve(spawn, *ANY_PORT, *options)
    by_user = {"MDASH_SERVER": url, "MDASH_USER": "root:hunter2-secret"}
    token = mdash("devices", "add", "d1", env=by_user).out.split()[1]
    key = mdash("key", "add", env=by_user).out.strip()
    by_key = {"MDASH_SERVER": url, "MDASH_KEY": key}
    assert mdash("devices", "list", env=by_key | {"MDASH_KEY": "mdk_wrong-secret"}).code == 4
    assert mdash("devices", "list", env=by_user | {"MDASH_USER": "root:wrong-secret"}).code == 4
    assert httpx.get(f"{url}/api/v2/devices?access_token={key}", verify=False).status_code == 200
    device = spawn("device", env={"MDASH_SERVER": url, "MDASH_TOKEN": token})
    device.wait_for("connected", "err")
    assert spawn("device", env={"MDASH_SERVER": url, "MDASH_TOKEN": "mdd_wrong-secret"}).wait() == 4
    listener = spawn("notify", env=by_key)
    listener.wait_for("Listening", "err")
    assert process.end() == 0
    entries = [json.loads(line) for line in process.err.splitlines()]
    assert all({"time", "level", "logger", "message"} <= set(entry) for entry in entries)
    assert any("request_id" in entry for entry in entries if entry["logger"] == "mdashcore.login")
    for written in (process.out, process.err, device.err, listener.err):
        assert "secret" not in written
        assert key not in written
        assert token not in written


def test_open_files(spawn):
    """The soft limit of open files, which is low by default, is raised to the hard one."""
    lowered = ("sh", "-c", 'ulimit -S -n 100; exec "$@"', "sh")
    process, _ = serve(spawn, *ANY_PORT, wrapper=lowered)
    line = next(line for line in Path(f"/proc/{process.pid}/limits").read_text().splitlines() if "open files" in line)
    soft, hard = line.split()[3:5]
    assert soft == hard != "100"


def test_a_log_record_is_one_line():
    """Neither what came from outside nor a traceback makes a second line, or steers the terminal."""
    program = """
        import logging
        from mdashcore.cli.process import set_up_process
        set_up_process("info")
        try:
            raise ValueError("a\\nb")
        except ValueError:
            logging.getLogger("mdashcore.test").exception("device %s", "x\\x1b[2J\\r\\ny")
        logging.getLogger("mdashcore.test").debug("too low")
        logging.getLogger("httpx").info("Authorization: Bearer")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=30)
    assert done.stderr.count("\n") == 1
    assert r"ERROR mdashcore.test: device x\x1b[2J\r\ny\nTraceback" in done.stderr
    assert "\x1b" not in done.stderr
