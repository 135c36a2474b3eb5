"""The how-to guides: their commands, programs and files, used as they stand there."""

from __future__ import annotations

import configparser
import json
import logging
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import attrs
import click
import pytest
import trustme

from mdashcore import firmware
from mdashcore.cli import cli
from mdashcore.cli.log_format import JsonFormatter, TextFormatter
from mdashcore.cli.process import set_up_process
from mdashcore.server.auth.login_log import LoginLog
from mdashcore.server.config import load_config
from mdashcore.server.http.forwarded import ForwardedClient, Proxies
from mdashcore.server.http.request_id import as_current
from mdashcore.storage import backend_schemes

ROOT = Path(__file__).parents[2]
ADMIN = "admin:SECRET"  # as the pages say


@pytest.fixture(scope="module")
def served(start, page):
    """The first command of "Run the server", on a free port; its address."""
    (serve,) = page("docs/how_to_guides/run_the_server.md").code("start").splitlines()
    with start(f"exec {serve} --bind 127.0.0.1:0") as process:
        yield process.expect(r"^Listening on http://(\S+)$")[1]


@pytest.fixture
def as_admin(served):
    """The environment of a user of that server."""
    return {"MDASH_SERVER": f"http://{served}", "MDASH_USER": ADMIN}


# Run the server


def test_users_are_made_as_the_page_says(page, mdash, served):
    """A user, a key of theirs, and the list."""
    commands = page("docs/how_to_guides/run_the_server.md").code("users").splitlines()
    said = "".join(mdash(command, env={"MDASH_SERVER": f"http://{served}"}) for command in commands)
    assert re.search(r"^mdk_\S+$", said, re.MULTILINE)
    assert re.search(r"^alice\tuser\t", said, re.MULTILINE)


def test_a_lost_password_is_reset(page, start, run, mdash, tmp_path):
    """The command of the page, on a store whose admin has another one."""
    store = {"MDASH_STORE": f"sqlite://{tmp_path}/store"}
    serve = "exec mdash serve --bind 127.0.0.1:0"
    with start(f"{serve} --register-admin admin:forgotten", env=store) as first:
        first.expect(r"^Listening on ")
        assert first.interrupt() == 0
    run(page("docs/how_to_guides/run_the_server.md").code("reset").replace("/var/lib/mdash", f"{tmp_path}/store"))
    with start(serve, env=store) as second:
        url = second.expect(r"^Listening on (\S+)$")[1]
        assert "admin" in mdash("mdash user list", env={"MDASH_SERVER": url, "MDASH_USER": "admin:a longer one"})


def test_a_certificate_for_a_private_network(page, start, run, tmp_path):
    """Made by the command of the page, clients trust it by --cafile."""
    guide = page("docs/how_to_guides/run_the_server.md")
    run(guide.code("certificate").replace("/etc/mdash", str(tmp_path)))
    files = f"--certfile {tmp_path}/cert.pem --keyfile {tmp_path}/key.pem"
    with start(f"exec mdash serve --bind 127.0.0.1:0 {files} --register-admin {ADMIN}") as process:
        url = process.expect(r"^Listening on (https://\S+)$")[1]
        listing = run(
            "mdash user list", env={"MDASH_SERVER": url, "MDASH_USER": ADMIN, "MDASH_CAFILE": f"{tmp_path}/cert.pem"}
        )
        assert "admin" in listing.stdout


def as_in_production(tmp_path, environment):
    """Stand-ins for what only an operator's machine has: each writes what it was asked, or leaves out the user."""
    folder = tmp_path / "stand-ins"
    folder.mkdir()
    for name, line in {
        "systemctl": f'echo "$@" >>{tmp_path}/systemctl',
        "runuser": 'shift 3; exec "$@"',
        "install": 'for each; do shift; case "$each" in --owner=*|--group=*) ;; *) set -- "$@" "$each" ;; esac; done; '
        'exec /usr/bin/install "$@"',
    }.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:{environment['PATH']}"}


def test_a_renewed_certificate_is_installed(page, run, tmp_path, environment):
    """The hook copies both files where only the service can read them, and reloads."""
    for name in ("fullchain", "privkey"):
        (tmp_path / f"{name}.pem").write_text(name)
    hook = page("docs/how_to_guides/run_the_server.md").code("renewal").replace("/etc/mdash", str(tmp_path))
    env = as_in_production(tmp_path, environment) | {"RENEWED_LINEAGE": str(tmp_path)}
    run(hook, env=env)
    assert [(tmp_path / f"{name}.pem").read_text() for name in ("cert", "key")] == ["fullchain", "privkey"]
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "systemctl").read_text() == "reload mdash\n"


def test_a_store_is_exported_and_restored_as_the_page_says(page, run, mdash, start, tmp_path, environment):
    """The lines for systemd, with stand-ins for systemd and the user: the store before is kept, and users are there."""
    guide = page("docs/how_to_guides/keep_it_running.md")
    store = f"{tmp_path}/mdash"
    serve = f"exec mdash serve --bind 127.0.0.1:0 --store sqlite://{store}"
    with start(f"{serve} --register-admin {ADMIN}") as process:
        process.expect(r"^Listening on ")
        assert process.interrupt() == 0
    env = as_in_production(tmp_path, environment)
    for mark in ("export", "restore"):
        run(guide.code(mark).replace("/var/lib/mdash", store), env=env, cwd=tmp_path)
    assert Path(f"{store}.before/mdash.db").exists()
    with start(serve) as process:
        url = process.expect(r"^Listening on (\S+)$")[1]
        assert "admin" in mdash("mdash user list", env={"MDASH_SERVER": url, "MDASH_USER": ADMIN})


def test_the_nightly_backup(page, run, served, tmp_path):
    """The file with the password can be read by its owner only; what the unit runs leaves a backup with today's date,
    and removes old ones."""
    guide = page("docs/how_to_guides/keep_it_running.md")
    folder = tmp_path / "mdash-backups"
    folder.mkdir()
    old = folder / "2020-01-01.jsonl"
    old.touch()
    os.utime(old, (0, 0))
    env = {"MDASH_SERVER": f"http://{served}", "MDASH_USER": ADMIN}
    lines = (
        guide.code("nightly user").replace("/etc/mdash", str(tmp_path)).replace("--user admin", "--password PASSWORD")
    )
    run(lines, env=env)
    assert (tmp_path / "backup.env").stat().st_mode & 0o777 == 0o600
    env["MDASH_USER"] = (tmp_path / "backup.env").read_text().strip().removeprefix("MDASH_USER=")
    commands = re.findall("^ExecStart=(.+)$", guide.code("unit mdash-backup.service"), re.MULTILINE)
    for command in commands:
        command = command.replace("/usr/local/bin/", "").replace("/var/lib/mdash-backups", str(folder))
        run(command.replace("$$", "$").replace("%%", "%"), env=env)
    (backup,) = folder.iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d\.jsonl", backup.name)
    assert b'"end":true' in backup.read_bytes().splitlines()[-1]


def test_health_is_asked_for_as_the_page_says(page, run, served):
    """The command of the page is answered with 200."""
    command = page("docs/how_to_guides/run_the_server.md").code("health").replace("127.0.0.1:8080", served)
    assert run(command).stdout.split()[-1] == "200"


@pytest.mark.parametrize("path", ["docs/how_to_guides/run_the_server.md", "docs/reference/configuration.md"])
def test_configuration_files_can_be_loaded(page, tmp_path, path):
    """Each file that a page shows is one that `--config` takes."""
    file = tmp_path / "mdash.toml"
    file.write_text(page(path).code("config"))
    config = load_config(file)
    assert config.users[0].admin
    assert config.certfile


def test_the_configuration_for_a_proxy(tmp_path):
    """The file is one that `--config` takes, and it trusts a proxy on the same machine. Its example of a user can be
    used by removing the number signs."""
    text = (ROOT / "deploy/mdash.toml").read_text(encoding="utf-8")
    file = tmp_path / "mdash.toml"
    file.write_text(re.sub(r"^# (?=\[\[users|\w+ = )", "", text, flags=re.MULTILINE))
    config = load_config(file)
    assert (config.users[0].name, config.users[0].admin) == ("admin", True)
    assert attrs.evolve(config, users=()) == load_config(ROOT / "deploy/mdash.toml")
    found = Proxies(config.trusted_proxies, config.forwarded_header).client(
        "127.0.0.1", "http", {"x-forwarded-for": "192.0.2.7", "x-forwarded-proto": "https"}.get
    )
    assert found == ForwardedClient("192.0.2.7", "https")


def test_the_page_has_the_files_as_they_are(run):
    """Each file of the folder deploy, and no other."""
    run("python3 docs/deploy_files.py --check", cwd=ROOT)


REQUEST = "5f0c1d9a3b7e2468"  # as the page has it

HOSTILE = '1.1.1.1 name="x\nWARNING mdashcore.login: login failed: address=1.1.1.1 name="'


@pytest.fixture(params=[None, 3], ids=["one process", "a worker"])
def worker(request):
    """The number of the worker that logs."""
    return request.param


@pytest.fixture
def login_lines(capfd, worker):
    """The lines that logins leave in the log of a server: some of the page's, and some of clients that forge one."""
    handlers, level = logging.root.handlers[:], logging.root.level
    set_up_process("info", worker=worker)
    try:
        log = LoginLog()
        with as_current(REQUEST):
            log.failed("192.0.2.7", "alice")
            log.locked("192.0.2.7", "alice", 60)
            log.closed("192.0.2.7", "alice", 60)
        log.failed("2001:db8::7", HOSTILE)
        log.failed("", "alice")
        logging.getLogger("mdashcore.server.app").warning("GET /%s failed", HOSTILE)
    finally:
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
        logging.captureWarnings(False)
    return capfd.readouterr().err.splitlines()


def test_the_lines_of_a_log_are_as_the_page_says(page):
    """As text, and as JSON."""
    guide = page("docs/how_to_guides/run_the_server.md")
    words = ("mdashcore.server.app", logging.ERROR, "app.py", 1, "%s %s failed: %s", ("GET", "/api/v2/devices", "away"))
    for format_, formatter in (("text", TextFormatter), ("json", JsonFormatter)):
        record = logging.LogRecord(*words, None)
        record.created = 1_767_323_045.678
        assert formatter(lambda: REQUEST).format(record) == guide.code(f"log {format_}").strip()


@pytest.mark.parametrize("worker", [None])
def test_the_lines_of_failed_logins_are_as_the_page_says(page, login_lines):
    """But for the time."""
    shown = page("docs/how_to_guides/behind_a_proxy.md").code("login log").splitlines()
    assert [line.partition(" ")[2] for line in login_lines[:3]] == [line.partition(" ")[2] for line in shown]
    assert all(re.match(r"\d{4}-\d\d-\d\dT[0-9:.]+Z ", line) for line in [*login_lines, *shown])


@pytest.mark.parametrize("prefix", ["", "Jan 02 03:04:05 host mdash[42]: "])
def test_the_filter_for_fail2ban(page, login_lines, tmp_path, prefix):
    """It finds the address of each failed login, in a file and in the journal's form, and no forged one."""
    code = page("docs/how_to_guides/behind_a_proxy.md").code("fail2ban filter")
    lines = [prefix + line for line in login_lines]
    parser = configparser.RawConfigParser()
    parser.read_string(code)
    pattern = parser["Definition"]["failregex"].replace("<ADDR>", r"(?P<address>[0-9a-fA-F:.]+)")
    found = [re.search(pattern, line.removeprefix("Jan 02 03:04:05 ")) for line in lines]
    assert [match["address"] for match in found if match] == ["192.0.2.7", "2001:db8::7"]
    if (program := shutil.which("fail2ban-regex")) is None:
        return  # Python's own reading of the pattern has been tried
    (tmp_path / "mdash.conf").write_text(code)
    (tmp_path / "log").write_text("".join(f"{line}\n" for line in lines))
    command = [program, "--out", "ip", str(tmp_path / "log"), str(tmp_path / "mdash.conf")]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert said.split() == ["192.0.2.7", "2001:db8::7"]


def test_the_server_runs_with_the_file_and_tls(page, start, run, tmp_path):
    """The file, the command and the curl line of the page, with the paths of this test."""
    guide = page("docs/how_to_guides/run_the_server.md")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate = authority.issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")

    def here(code: str) -> str:
        return code.replace("/etc/mdash", str(tmp_path))

    (tmp_path / "mdash.toml").write_text(here(guide.code("config")))
    with start(f"exec {here(guide.code('serve')).strip()} --bind localhost:0") as process:
        port = process.expect(r"^Listening on https://localhost:(\d+)$")[1]
        said = run(here(guide.code("tls")).replace("8443", port)).stdout
        assert said.split() == ['{"status":"ok"}', "200"]
        assert process.interrupt() == 0


def test_every_variable_is_read(page):
    """By the server, or by the file for Caddy."""
    read = {option.envvar for option in cli.get_command(click.Context(cli), "serve").params}
    read |= set(re.findall(r"\{\$(MDASH_\w+)", (ROOT / "deploy/Caddyfile").read_text(encoding="utf-8")))
    read |= {"MDASH_SERVER", "MDASH_USER", "MDASH_CAFILE"}  # by commands that talk to a server
    for name in (
        "run_the_server",
        "deploy_with_systemd",
        "deploy_with_containers",
        "behind_a_proxy",
        "keep_it_running",
    ):
        assert set(re.findall(r"MDASH_\w+", page(f"docs/how_to_guides/{name}.md").text)) <= read, name


def test_every_kind_of_storage_is_named(page):
    """By the scheme of its URL."""
    section = page("docs/how_to_guides/run_the_server.md").section("## Storage")
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    assert {scheme for cell in cells for scheme in re.findall(r"`([\w+]+)://", cell)} == set(backend_schemes())


def test_a_backup_goes_into_another_storage(page, mdash, start, as_admin, tmp_path, monkeypatch):
    """As the page says; the server that runs on it knows the users."""
    monkeypatch.chdir(tmp_path)
    *commands, serve = page("docs/how_to_guides/keep_it_running.md").code("backup").splitlines()
    for command in commands:
        mdash(command.replace("/var/lib/mdash", str(tmp_path / "store")), env=as_admin)
    serve = serve.replace("/var/lib/mdash", str(tmp_path / "store"))
    with start(f"exec {serve} --bind 127.0.0.1:0") as process:
        url = process.expect(r"^Listening on (\S+)$")[1]
        assert "admin" in mdash("mdash user list", env={**as_admin, "MDASH_SERVER": url})


# Connect a device


def test_a_virtual_device_connects(page, mdash, start, as_admin, served):
    """Registered by the page's command, connected by the next one."""
    guide = page("docs/how_to_guides/connect_a_device.md")
    token = mdash(guide.code("add"), env=as_admin).split()[1]
    command = guide.code("virtual").replace("127.0.0.1:8080", served).replace("TOKEN", token)
    with start(f"exec {command}") as device:
        device.expect("connected")
        assert '"app":"lamp"' in mdash("mdash call lamp Sys.GetInfo", env=as_admin)


def test_a_python_gateway_is_a_device(page, mdash, start, as_admin, served, tmp_path):
    """It answers calls, refuses others, and does what its shadow says."""
    guide = page("docs/how_to_guides/connect_a_device.md")
    token = mdash("mdash devices add gateway", env=as_admin).split()[1]
    (tmp_path / "gateway.py").write_text(guide.code("agent"))
    command = guide.code("run-agent").replace("127.0.0.1:8080", served).replace("=TOKEN", f"={token}")
    with start(command, cwd=tmp_path) as gateway:
        gateway.expect("'reported': {'on': False}")
        assert json.loads(mdash("mdash call gateway Relay.Toggle", env=as_admin)) == {"on": True}
        mdash("mdash call gateway Make.Coffee", env=as_admin, status=1)
        mdash("""mdash shadow set gateway '{"on":false}'""", env=as_admin)
        with start("exec mdash notify --start 0", env=as_admin) as stream:
            stream.expect(r'"name":"updated","id":"gateway".*"reported":\{"on":false\}\},"version":4')


# Mount the app


@pytest.mark.parametrize(
    ("program", "ready", "answers"),
    [
        ("server", r"mdd_\S+$", {"/healthz": 200, "/api/v2/devices": 401}),
        ("beside", "^listening$", {"/hello": 200, "/healthz": 200, "/api/v2/devices": 401, "/other": 404}),
        ("without", "^listening$", {"/healthz": 200, "/api/v2/devices": 401}),
        ("sockets", "^listening$", {"/healthz": 404, "/api/v2/devices": 404}),
    ],
)
def test_each_way_to_mount_serves_what_it_says(page, start, run, free_address, program, ready, answers):
    """And nothing else."""
    code = page("docs/how_to_guides/mount_the_app.md").code(program)
    port = free_address.partition(":")[2]
    assert "8080" in code
    with start(code.replace("8080", port), python=True) as process:
        process.expect(ready)
        for path, status in answers.items():
            said = run(f"curl http://{free_address}{path}").stdout
            assert said.split()[-1] == str(status), path


def test_a_program_updates_the_firmware(page, start):
    """A virtual device takes the image, reboots, and is committed by its health."""
    with start(page("docs/how_to_guides/mount_the_app.md").code("update"), python=True) as process:
        process.expect("^connected$")
        process.expect(r"^COMMITTED 2\.0 ")
        assert process.wait() == 0
    assert "Traceback" not in process.said


def test_a_device_connects_to_the_sockets_alone(page, start, free_address):
    """With the token that the program prints."""
    code = page("docs/how_to_guides/mount_the_app.md").code("sockets")
    with start(code.replace("8080", free_address.partition(":")[2]), python=True) as process:
        process.expect("^listening$")
        token = process.expect(r"^mdd_\S+$")[0]
        with start(f"exec mdash device --server ws://{free_address} --token {token}") as device:
            device.expect("connected")


# Benchmark


def test_every_benchmark_is_listed(page):
    """Each file that runs alone, and no other."""
    listed = set(re.findall(r"^\| `(\w+\.py)`", page("docs/how_to_guides/benchmark.md").text, re.MULTILINE))
    assert listed == {path.name for path in (ROOT / "benchmarks").glob("[!_]*.py")}


# All pages


def test_every_command_is_executed_or_says_that_it_is_not(pages):
    """No block of shell without a mark."""
    for each in pages:
        shells = len(re.findall(r"^```(?:sh|bash|console)$", each.text, re.MULTILINE))
        assert shells == len([block for block in each.blocks() if block.language == "sh"]), each.path


def test_every_link_leads_somewhere(pages):
    """To a file that exists, and to a heading in it."""
    for each in pages:
        prose = re.sub(r"^```.*?^```$", "", each.text, flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)\s]+)\)", prose):
            if target.startswith(("https://", "http://")):
                continue
            path, _, anchor = target.partition("#")
            file = (each.path.parent / path).resolve() if path else each.path
            assert file.exists(), (each.path.name, target)
            if anchor:
                assert anchor in _anchors(file.read_text(encoding="utf-8")), (each.path.name, target)


def test_every_page_is_in_the_index(pages, page):
    """A page that nothing leads to is not read."""
    index = page("docs/index.md")
    linked = {(index.path.parent / target).resolve() for target in re.findall(r"\]\(([^)#]+)\)", index.text)}
    assert {each.path for each in pages if each.path.is_relative_to(ROOT / "docs")} - {index.path} <= linked


def _anchors(text: str) -> set[str]:
    """Of the headings, as the usual renderers make them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower().strip()).replace(" ", "-") for heading in headings}


def test_examples_in_toml_and_json_are_well_formed(pages):
    """Every block of these."""
    for each in pages:
        for text in re.findall(r"^```toml\n(.*?)^```$", each.text, re.DOTALL | re.MULTILINE):
            tomllib.loads(text)
        for text in re.findall(r"^```json\n(.*?)^```$", each.text, re.DOTALL | re.MULTILINE):
            decoder, rest = json.JSONDecoder(), text.strip()
            while rest:
                _, end = decoder.raw_decode(rest)
                rest = rest[end:].strip()


# Use the Python client


@pytest.fixture
def client_page(page):
    """The page."""
    return page("docs/how_to_guides/use_the_python_client.md")


def test_a_program_manages_devices_as_the_page_says(client_page, demo, start):
    """It lists, registers, calls and removes."""
    with start(client_page.code("devices"), python=True, env=demo.variables) as process:
        process.expect(r"^lamp 20")
        process.expect(r"^the token of the fan: mdd_")
        process.expect(r"^\{'desired': \{'speed': 3\}, 'delta': \{'speed': 3\}\}$")
        process.expect(r"^\{'value': [01]\}$")
        process.expect(r"^the fan is not connected")
        assert process.wait() == 0


def test_a_program_updates_a_device_as_the_page_says(client_page, demo, start, tmp_path):
    """It shows the states, commits, and says which firmware runs. Other tests have the lamp."""
    manifest = {"name": "demo", "platform": "esp32", "version": "1.9", "build_id": "by-the-client"}
    with (tmp_path / "fw.zip").open("w+b") as file:
        firmware.write_image(file, manifest, {"app": bytes(4_000)})
    code = client_page.code("update").replace("sys.argv[1]", repr(str(tmp_path / "fw.zip")))
    code = code.replace('"lamp", file', '"meter", file, force=True').replace('"lamp"', '"meter"')
    with start(code, python=True, env=demo.variables) as process:
        process.expect(r"^QUEUED 0 %$")
        process.expect(r"^UNCOMMITTED 100 %$")
        process.expect(r"^the lamp runs 1\.9$")
        assert process.wait() == 0


def test_a_program_follows_the_notifications_as_the_page_says(client_page, demo, start):
    """From the first that is kept."""
    with start(client_page.code("notifications"), python=True, env=demo.variables) as process:
        process.expect(r"^\d+ created lamp$")
        process.expect(r"^\d+ online lamp$")


def test_the_certificates_of_a_client_are_given_as_the_page_says(client_page, start, tmp_path):
    """The lines run where there is such a file."""
    trustme.CA().cert_pem.write_to_path(tmp_path / "mdash.pem")
    with start(client_page.code("tls"), python=True, cwd=tmp_path) as process:
        assert process.wait() == 0
