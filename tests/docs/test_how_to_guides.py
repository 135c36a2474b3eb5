"""The how-to guides: their commands, programs and files, used as they stand there."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import socket
import ssl
import time
import tomllib
from pathlib import Path

import pytest
import trustme

from mdashcore.cli import cli
from mdashcore.server.config import load_config
from mdashcore.storage import backend_schemes

ROOT = Path(__file__).parents[2]
ADMIN = "admin:SECRET"  # as the pages say


@pytest.fixture(scope="module")
def served(start, page):
    """The first command of "Run the server", on a free port; its address."""
    install, serve = page("docs/how_to_guides/run_the_server.md").code("start").splitlines()
    assert re.fullmatch(r"pip install 'mdashcore\[server\]'", install)
    with start(f"exec {serve} --bind 127.0.0.1:0") as process:
        yield process.expect(r"^Listening on http://(\S+)$")[1]


@pytest.fixture
def as_admin(served):
    """The environment of somebody who uses that server."""
    return {"MDASH_SERVER": f"http://{served}", "MDASH_USER": ADMIN}


# Run the server


def test_users_are_made_as_the_page_says(page, mdash, served):
    """A user, a key of theirs, and the list."""
    commands = page("docs/how_to_guides/run_the_server.md").code("users").splitlines()
    said = "".join(mdash(command, env={"MDASH_SERVER": f"http://{served}"}) for command in commands)
    assert re.search(r"^mdk_\S+$", said, re.MULTILINE)
    assert re.search(r"^alice\tuser\t", said, re.MULTILINE)


@pytest.mark.parametrize("path", ["docs/how_to_guides/run_the_server.md", "docs/reference/configuration.md"])
def test_configuration_files_can_be_loaded(page, tmp_path, path):
    """Each file that a page shows is one that `--config` takes."""
    file = tmp_path / "mdash.toml"
    file.write_text(page(path).code("config"))
    config = load_config(file)
    assert config.users[0].admin
    assert config.certfile


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


def test_the_unit_starts_what_there_is(page, tmp_path):
    """What the systemd unit runs is a command line that `mdash` takes, with variables that it reads."""
    unit = configparser.ConfigParser(interpolation=None, strict=False, comment_prefixes=("#",))
    unit.optionxform = str
    unit.read_string(page("docs/how_to_guides/run_the_server.md").code("unit"))
    program, command, *arguments = shlex.split(unit["Service"]["ExecStart"])
    assert program.endswith("/bin/mdash")
    (tmp_path / "mdash.toml").touch()
    serve = cli.commands[command]
    serve.make_context(command, [word.replace("/etc/mdash", str(tmp_path)) for word in arguments])
    read = {option.envvar for option in serve.params}
    variables = {word.split("=")[0] for word in unit["Service"]["Environment"].split()}
    assert variables <= read
    assert set(re.findall(r"MDASH_\w+", page("docs/how_to_guides/run_the_server.md").text)) <= read


def test_every_kind_of_storage_is_named(page):
    """By the scheme of its URL."""
    section = page("docs/how_to_guides/run_the_server.md").section("## Storage")
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    assert {scheme for cell in cells for scheme in re.findall(r"`(\w+)://", cell)} == set(backend_schemes())


def test_a_backup_goes_into_another_storage(page, mdash, start, as_admin, tmp_path, monkeypatch):
    """As the page says; the server that runs on it knows the users."""
    monkeypatch.chdir(tmp_path)
    *commands, serve = page("docs/how_to_guides/run_the_server.md").code("backup").splitlines()
    for command in commands:
        mdash(command.replace("/var/lib/mdash", str(tmp_path / "store")), env=as_admin)
    serve = serve.replace("/var/lib/mdash", str(tmp_path / "store"))
    with start(f"exec {serve} --bind 127.0.0.1:0") as process:
        url = process.expect(r"^Listening on (\S+)$")[1]
        assert "admin" in mdash("mdash user list", env={**as_admin, "MDASH_SERVER": url})


@pytest.fixture
def certificate(tmp_path):
    """A file with a certificate, its chain and its key."""
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "mdash.pem")
    return tmp_path / "mdash.pem"


NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    {code}
}}
"""


@pytest.fixture
def proxy(request, page, start, served, certificate, tmp_path):
    """One of the proxies, with the configuration of the page; its port."""
    program = shutil.which(request.param)
    if program is None and not os.environ.get("CI"):
        pytest.skip(f"THIS MACHINE HAS NO {request.param}")
    code = page("docs/how_to_guides/run_the_server.md").code(request.param)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        free_port = sock.getsockname()[1]
    places = {
        "127.0.0.1:8080": served,
        "listen 443": f"listen 127.0.0.1:{free_port}",
        "bind :443": f"bind 127.0.0.1:{free_port}",
        "/etc/nginx/cert.pem": str(certificate),
        "/etc/nginx/key.pem": str(certificate),
        "/etc/haproxy/mdash.pem": str(certificate),
    }
    for name, value in places.items():
        code = code.replace(name, value)
    file = tmp_path / "proxy.conf"
    file.write_text(NGINX.format(code=code, folder=tmp_path) if request.param == "nginx" else code)
    command = f"{program} -c {file} -p {tmp_path} -e stderr" if request.param == "nginx" else f"{program} -db -f {file}"
    with start(f"exec {command}"):
        yield free_port


@pytest.mark.parametrize("proxy", ["nginx", "haproxy"], indirect=True)
def test_a_proxy_may_reuse_its_connections(mdash, as_admin, proxy):
    """With the page's configuration: requests, and then a WebSocket, on connections that the proxy keeps."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    key = re.search(r"mdk_\S+", mdash("mdash key add proxy", env=as_admin))[0]

    def ask(target: str, *fields: str) -> bytes:
        lines = [f"GET {target} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {key}", *fields, "", ""]
        with connect(proxy) as plain, context.wrap_socket(plain) as sock:
            sock.sendall("\r\n".join(lines).encode())
            return sock.makefile("rb").readline()

    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    for _ in range(3):
        assert b" 200 " in ask("/healthz")
        assert b" 200 " in ask("/api/v2/devices")
        said = ask("/api/v2/notify", *upgrade, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
        assert b" 101 " in said


def connect(port: int) -> socket.socket:
    """A connection to a program that is about to listen."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=5)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


# Connect a device


def test_a_virtual_device_connects(page, mdash, start, as_admin, served):
    """Registered by the page's command, connected by the next one."""
    guide = page("docs/how_to_guides/connect_a_device.md")
    token = mdash(guide.code("add"), env=as_admin).split()[1]
    command = guide.code("virtual").replace("127.0.0.1:8080", served).replace("TOKEN", token)
    with start(f"exec {command}") as device:
        device.expect("connected")
        assert "virtual-device" in mdash("mdash call lamp Sys.GetInfo", env=as_admin)


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
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


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
