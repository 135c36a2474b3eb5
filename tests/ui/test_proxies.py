"""The proxies that `deploy/` has a configuration for, each in front of a server: the real proxy, with the very file.

Only ports and certificates are changed, and the time-outs that a test would have to wait for.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.cookies import SimpleCookie
from pathlib import Path
from types import SimpleNamespace

import attrs
import httpx
import pytest
import trio
import trustme
from children import default_signals
from playwright.sync_api import expect
from ports import free_port
from websockets.frames import Opcode

from mdashcore import firmware
from mdashcore.server.config import load_config
from mdashcore.server.run import RunningServer, open_server
from mdashcore.trio.agent import Agent
from mdashcore.trio.node import NodeSettings
from mdashcore.virtual_device import FirmwareBuild, VirtualDevice

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs/how_to_guides/behind_a_proxy.md"

FILES = ("nginx.conf", "Caddyfile", "haproxy.cfg")
PROGRAMS = {"nginx.conf": "nginx", "Caddyfile": "caddy", "haproxy.cfg": "haproxy"}

IDLE = 1.5  # seconds in place of 60, after which a proxy closes a WebSocket that carries nothing
PING_INTERVAL = 0.3  # seconds in place of 15
ANSWER = 2  # seconds in place of 130 that an answer may take

NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log stderr;
events {{ worker_connections 512; }}
http {{
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder}; access_log {folder}/others.log;
    include {folder}/nginx.conf;
}}
"""

CADDY = """
	admin off
	skip_install_trust
	storage file_system {folder}/caddy
	http_port {plain}
	servers {{"""

HEADS = {
    "nginx.conf": ("client_header_timeout 10s", "client_header_timeout {:g}ms"),
    "Caddyfile": ("read_header 10s", "read_header {:g}ms"),
    "haproxy.cfg": ("timeout http-request 10s", "timeout http-request {:g}ms"),
}
"""The time that a client has to send the head of a request: how it is written, and in milliseconds."""

NEIGHBOURS = {
    "nginx.conf": ("location /", 'location = / {{ default_type text/html; return 200 "{}"; }}\n    location /'),
    "Caddyfile": ("handle @mdash", 'header Content-Type text/html\n\trespond / "{}"\n\thandle @mdash'),
    "haproxy.cfg": (
        "use_backend mdash",
        "http-request return status 200 content-type text/html string '{}' if {{ path / }}\n    use_backend mdash",
    ),
}
"""How to serve another page at the root of the host: what is replaced, and by what."""

NEIGHBOUR = "<h1>A neighbour</h1>"


@attrs.frozen(eq=False)
class Site:
    """A server as it is seen through a proxy."""

    file: str
    """The configuration of the proxy."""
    server: RunningServer
    host: str
    port: int
    plain_port: int
    """The port without TLS."""
    context: ssl.SSLContext
    """Trusts the certificate of the proxy."""
    authority: Path
    """The file with what `context` trusts."""

    @property
    def origin(self) -> str:
        """Without the path."""
        return f"https://{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """With the path below which the server is."""
        return self.origin + self.server.service.settings.root_path

    @property
    def device_url(self) -> str:
        """Where devices connect."""
        return f"wss{self.url.removeprefix('https')}/api/v2/rpc"

    def client(self, *, key: str | None = None, address: str | None = None) -> httpx.Client:
        """A client of the REST API, from a local address of its own."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        transport = httpx.HTTPTransport(local_address=address, verify=self.context)
        return httpx.Client(transport=transport, base_url=f"{self.url}/api/v2", headers=headers, timeout=30)


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until the process listens there."""
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except ConnectionRefusedError:
            assert process.poll() is None, "the proxy does not start"
            assert time.monotonic() < deadline, "the proxy does not listen"
            time.sleep(0.02)
        else:
            return


def wait_for_certificate(port: int, context: ssl.SSLContext) -> None:
    """Wait until a proxy that makes its own certificate has it: it listens before."""
    deadline = time.monotonic() + 30
    while True:
        try:
            with (
                socket.create_connection(("127.0.0.1", port)) as plain,
                context.wrap_socket(plain, server_hostname="localhost"),
            ):
                return
        except ssl.SSLError:
            assert time.monotonic() < deadline, "no certificate"
            time.sleep(0.02)


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    """The text with each of the first in place of the second; all have to be there."""
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


def here(file: str, text: str, server: RunningServer, ports: tuple[int, int], pem: Path) -> str:
    """A configuration with this test's ports, certificate and time-outs."""
    port, plain = ports
    address = f"127.0.0.1:{server.port}"
    common = ("127.0.0.1:8080", address)
    match file:
        case "nginx.conf":
            if not socket.has_dualstack_ipv6():
                text = re.sub(r"^ *listen \[::\].*\n", "", text, flags=re.MULTILINE)
            text = text.replace("listen [::]:443", f"listen [::1]:{port}").replace(
                "listen [::]:80", f"listen [::1]:{plain}"
            )
            return replaced(
                text,
                common,
                ("listen 443", f"listen 127.0.0.1:{port}"),
                ("listen 80;", f"listen 127.0.0.1:{plain};"),
                ("/etc/nginx/mdash.crt", str(pem)),
                ("/etc/nginx/mdash.key", str(pem)),
                ("/var/log/nginx/mdash.log", str(pem.with_name("access.log"))),
                ("/var/log/nginx/error.log", str(pem.with_name("error.log"))),
                ("proxy_read_timeout 60s", f"proxy_read_timeout {IDLE * 1000:g}ms"),
                ("proxy_read_timeout 130s", f"proxy_read_timeout {ANSWER}s"),
            )
        case "haproxy.cfg":
            if os.geteuid() != 0:  # only root can become another user
                text = re.sub(r"^    (chroot|user|group) .*\n", "", text, flags=re.MULTILINE)
            return replaced(
                text,
                common,
                ("log /dev/log local0", "log stdout format raw local0"),
                ("bind [::]:443 v4v6", f"bind 127.0.0.1:{port}"),
                ("bind [::]:80 v4v6", f"bind 127.0.0.1:{plain}"),
                ("/etc/haproxy/mdash.pem", str(pem)),
                ("timeout tunnel 60s", f"timeout tunnel {IDLE * 1000:g}ms"),
                ("timeout server 130s", f"timeout server {ANSWER}s"),
            )
        case _:  # the address of the site and of the server are in the environment, the certificate is Caddy's own
            options = CADDY.format(folder=pem.parent, plain=plain)
            return replaced(
                text,
                ("\n\tservers {", options),
                ("read_timeout 60s", f"read_timeout {IDLE}s"),
                ("lb_try_duration 5s", "lb_try_duration 500ms"),
            )


@attrs.define
class Stand:
    """A server, and the proxies in front of it. A proxy is started when a test wants it."""

    server: RunningServer
    folder: Path
    prefix: str
    stack: ExitStack
    head: float = 10
    """Seconds that a client has to send the head of a request."""
    _sites: dict[str, Site] = attrs.field(factory=dict)

    def sites(self, *files: str) -> list[Site]:
        """The server through each of the proxies, which are started together."""
        started = [(file, *self._start(file)) for file in files if file not in self._sites]
        for file, process, port, plain in started:
            wait_for(port, process)
            folder = self.folder / file
            authority = folder / "caddy/pki/authorities/local/root.crt" if file == "Caddyfile" else folder / "ca.pem"
            context = ssl.create_default_context(cafile=authority)
            wait_for_certificate(port, context)
            self._sites[file] = Site(file, self.server, "localhost", port, plain, context, authority)
        return [self._sites[file] for file in files]

    def _start(self, file: str) -> tuple[subprocess.Popen[bytes], int, int]:
        program = shutil.which(PROGRAMS[file])
        if program is None:
            words = f"{PROGRAMS[file]} is not installed: see tests/run"
            (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(words)
        folder = self.folder / file
        folder.mkdir()
        port, plain = free_port(), free_port()
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / "ca.pem")
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(folder / "mdash.pem")
        shutil.copy(ROOT / "deploy" / file, folder / file)
        if self.prefix:
            self._share(file)
        text = (folder / file).read_text(encoding="utf-8")
        text = here(file, text, self.server, (port, plain), folder / "mdash.pem")
        old, new = HEADS[file]
        (folder / file).write_text(replaced(text, (old, new.format(self.head * 1000))))
        environment = {
            **os.environ,
            "MDASH_SITE": f"https://localhost:{port}",
            "MDASH_SERVERS": f"127.0.0.1:{self.server.port}",
        }
        match file:
            case "nginx.conf":
                (folder / "main.conf").write_text(NGINX.format(folder=folder))
                command = [program, "-c", f"{folder}/main.conf", "-p", f"{folder}", "-e", "stderr"]
            case "haproxy.cfg":
                command = [program, "-db", "-f", f"{folder}/haproxy.cfg"]
            case _:
                command = [program, "run", "--adapter", "caddyfile", "--config", f"{folder}/Caddyfile"]
        log = self.stack.enter_context((folder / "log").open("wb"))
        with default_signals():
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        self.stack.callback(process.wait)
        self.stack.callback(process.terminate)
        return process, port, plain

    def _share(self, file: str) -> None:
        """Change the file as the guide says for a host that is shared, and serve another page at the host's root."""
        guide = GUIDE.read_text(encoding="utf-8")
        (lines,) = re.findall(rf"^<!-- test: share {re.escape(file)} -->\n```sh\n(.*?)^```$", guide, re.M | re.S)
        place = f"{self.folder / file}/{file}"
        command = re.sub(rf"/etc/{PROGRAMS[file]}/\S+", place, lines)
        assert place in command
        subprocess.run(["bash", "-euc", command], check=True)
        old, new = NEIGHBOURS[file]
        text = Path(place).read_text(encoding="utf-8")
        Path(place).write_text(text.replace(old, new.format(NEIGHBOUR), 1))


@contextmanager
def open_stand(portal, folder: Path, hasher, password: str, prefix: str = "") -> Iterator[Stand]:
    """A server with the configuration of ``deploy/mdash.toml``, and an admin "alice" on it."""
    config = load_config(ROOT / "deploy/mdash.toml")
    config = attrs.evolve(config, bind="127.0.0.1:0", store="memory://", root_path=prefix)
    settings = NodeSettings(ping_interval=PING_INTERVAL)
    with (
        portal.wrap_async_context_manager(open_server(config, node_settings=settings)) as server,
        ExitStack() as stack,
    ):
        server.service.passwords._hasher = hasher
        server.service.passwords._refusal_delay = 0.0
        portal.call(partial(server.service.hub.accounts.register, "alice", hasher.hash(password), admin=True))
        yield Stand(server, folder, prefix, stack)


@pytest.fixture(scope="module")
def own_host(portal, tmp_path_factory, cheap_hasher, password):
    """The proxies with a host that is the server's alone."""
    with open_stand(portal, tmp_path_factory.mktemp("proxies"), cheap_hasher, password) as stand:
        yield stand


@pytest.fixture(scope="module")
def shared_host(portal, tmp_path_factory, cheap_hasher, password):
    """The proxies with the server below ``/mdash/``, and another service at ``/``."""
    with open_stand(portal, tmp_path_factory.mktemp("shared"), cheap_hasher, password, "/mdash") as stand:
        yield stand


@pytest.fixture
def site(request, own_host):
    """The server behind one of the proxies."""
    return own_host.sites(request.param)[0]


@pytest.fixture
def register(portal):
    """Registers a device of alice; its token."""

    def run(server: RunningServer, id: str) -> str:
        return str(portal.call(server.service.hub.create_device, "alice", id).token)

    return run


def write_image(file: Path, size: int) -> Path:
    """Write a firmware for a "lamp" with a part of this size."""
    manifest = {"name": "lamp", "platform": "esp32", "version": "2.0", "build_id": "20260301-100000/new"}
    with file.open("w+b") as target:
        firmware.write_image(target, manifest, {"app": os.urandom(size)})
    return file


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """A firmware of 8 MB for a "lamp"."""
    return write_image(tmp_path_factory.mktemp("image") / "fw.zip", 8_000_000)


@pytest.fixture
def connect(portal):
    """Connects a device that answers with `handle`, until the test ends: ``connect(site, id, token, handle)``."""
    running = []

    def run(site, id, token, handle, reported=None):
        hello = [] if reported is None else [("Dash.Shadow.Update", {"state": {"reported": reported}})]

        async def keep(*, task_status):
            agent = Agent(site.device_url, token, handle, hello=lambda: hello, ssl_context=site.context)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(agent.run)
                await agent.wait_connected()
                task_status.started()

        running.append(portal.start_task(keep)[0])

    yield run
    for each in running:
        each.cancel()


@pytest.fixture
def visit(browser, problems):
    """Opens an address in a browser of its own; what the page complains of fails the test."""
    context = browser.new_context(locale="en-GB", reduced_motion="reduce", ignore_https_errors=True)
    context.set_default_timeout(20_000)

    def open_(url):
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(f"thrown: {error}"))
        page.on("requestfinished", lambda request: asked.append(request.url))
        page.on("websocket", lambda socket: sockets.append(socket.url))
        page.goto(url)
        return page

    asked = open_.asked = []
    sockets = open_.sockets = []
    yield open_
    context.close()


def log_in(page, password):
    """Log in as a person does, and go to the devices."""
    page.get_by_label("User", exact=True).fill("alice")
    page.get_by_label("Password").fill(password)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Home", level=1)).to_be_visible()
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Devices").click()
    expect(page.get_by_role("heading", name="Devices", level=1)).to_be_visible()


@pytest.mark.parametrize("site", FILES, indirect=True)
def test_a_person_behind_a_proxy(site, visit, connect, register, image, password, wait_until):
    """Over HTTP/2 and TLS: logs in, sees a device come online, and sends 8 MB to it and to a rollout."""
    token = register(site.server, f"lamp-{site.port}")
    lamp = f"lamp-{site.port}"
    page = visit(site.url)
    log_in(page, password)
    (cookie,) = page.context.cookies()
    assert (cookie["name"], cookie["secure"], cookie["path"]) == ("__Host-mdash_session", True, "/")
    assert page.evaluate("performance.getEntriesByType('navigation')[0].nextHopProtocol") in ("h2", "h3")
    row = page.get_by_role("row").filter(has_text=lamp)
    expect(row).to_contain_text("Offline")
    wait_until(page, lambda: visit.sockets)
    assert visit.sockets == [f"wss://localhost:{site.port}/api/v2/notify?start={visit.sockets[0].rpartition('=')[2]}"]

    written = trio.Event()

    async def handle(method, params):
        if method == "OTA.Write":
            written.set()
            await trio.sleep_forever()
        return True

    build = {"app": "lamp", "arch": "esp32", "fw_version": "1.0", "fw_id": "1", "is_committed": True, "status": 0}
    connect(site, lamp, token, handle, {"ota": build})
    expect(row).to_contain_text("Online")
    expect(row).to_contain_text("esp32")

    page.goto(f"{site.url}/#/device/{lamp}/ota")
    page.get_by_label("Firmware to send").set_input_files(image)
    form = page.get_by_role("form", name="Update")
    expect(form).to_contain_text("It fits this device")
    form.get_by_role("button", name="Update the device").click()
    expect(page.get_by_role("list", name=re.compile("Now: Transferring"))).to_be_visible()

    page.goto(f"{site.url}/#/rollouts/new")
    page.get_by_label("All devices").check()
    page.get_by_label("Firmware (.zip").set_input_files(image)
    page.get_by_label("Name").fill("All lamps")
    page.get_by_label("Wait for my approval").check()
    page.get_by_role("button", name="Review…").click()
    page.get_by_role("button", name=re.compile(r"Start for \d")).click()
    expect(page.get_by_role("heading", name="All lamps", level=1)).to_be_visible()


@pytest.mark.parametrize("site", FILES, indirect=True)
def test_the_server_knows_the_client(site, open_raw, portal, password, caplog):
    """Whatever the client says of itself: its address in the log, an id of the request that it has not chosen,
    and TLS in cookie and answers. Without TLS it is sent to the port with TLS."""
    caplog.set_level(logging.WARNING)
    forged = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "http", "Forwarded": "for=203.0.113.9;proto=http"}
    forged |= {"X-Request-Id": "another-request"}
    with site.client(address="127.0.0.5") as client:
        for given, status in [("wrong", 401), (password, 200)]:
            response = client.post("/login", json={"user": "alice", "password": given}, headers=forged)
            assert response.status_code == status
        (cookie,) = SimpleCookie(response.headers["set-cookie"]).values()
        assert (cookie.key, cookie["secure"]) == ("__Host-mdash_session", True)
        for path in ("/session", "/devices"):
            assert client.get(path, headers=forged).headers.get_list("strict-transport-security") == [
                "max-age=31536000"
            ]
        assert client.get("/session").json()["user"] == "alice"
        logs = client.post("/logs", json={"limit": 1000}, headers={"Accept-Encoding": "gzip"})
        assert logs.headers.get_list("content-encoding") == (["gzip"] if len(logs.content) >= 1024 else [])
        page = client.get(f"{site.url}/ui/app.js", headers={"Accept-Encoding": "gzip"})
        assert page.headers.get_list("content-encoding") == ["gzip"]
        assert page.content.startswith(b"//"), "compressed twice"
        for path in ("/session", "/devices", "/rpc", "/notify"):
            id = client.get(path, headers=forged).headers["x-request-id"]
            assert id != forged["X-Request-Id"], path
            assert len(id) == {"nginx.conf": 32, "haproxy.cfg": 36, "Caddyfile": 16}[site.file], "who has given it"
    assert 'login failed: address=127.0.0.5 name="alice"' in caplog.text
    assert forged["X-Request-Id"] not in caplog.text
    sent = httpx.get(f"http://localhost:{site.plain_port}/api/v2/session?x=1", follow_redirects=False)
    assert sent.status_code in (301, 308)
    assert re.fullmatch(r"https://localhost(:\d+)?/api/v2/session\?x=1", sent.headers["location"])


def test_caddy_warns_of_nothing_in_its_file():
    """It is written as `caddy fmt` writes it; of any other file Caddy complains at each start."""
    program = shutil.which("caddy")
    if program is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("there is no caddy")
    file = ROOT / "deploy/Caddyfile"
    done = subprocess.run([program, "fmt", file], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == file.read_text(encoding="utf-8")


def test_a_proxy_without_its_server(tmp_path):
    """No log has the query of an address, not even where the proxy complains. A head that is not ended is cut off."""
    query = "access_token=very-secret"
    with ExitStack() as stack:
        away = SimpleNamespace(port=free_port())
        sites = Stand(away, tmp_path, "", stack, head=IDLE).sites(*FILES)
        unfinished = []
        for site in sites:
            plain = socket.create_connection(("127.0.0.1", site.port), timeout=20)
            sock = stack.enter_context(site.context.wrap_socket(plain, server_hostname="localhost"))
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
            unfinished.append(sock)
            sent = httpx.get(f"http://localhost:{site.plain_port}/sent?{query}")
            assert sent.status_code in (301, 308)
            if site.file != "haproxy.cfg":  # which would try again for seconds, and has one form for all lines
                with httpx.Client(verify=site.context, timeout=20) as client:
                    assert client.get(f"{site.origin}/api/v2/rpc?{query}").status_code == 502
        for sock in unfinished:
            while sock.recv(4096):
                pass
    written = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert b"/api/v2/rpc" in written[Path("nginx.conf/access.log")]
    assert b"/api/v2/rpc" in written[Path("Caddyfile/log")]
    assert b"/sent" in written[Path("haproxy.cfg/log")]
    assert [path for path, text in written.items() if b"very-secret" in text] == []


@pytest.mark.parametrize("site", FILES, indirect=True)
def test_a_proxy_may_reuse_its_connections(site, open_raw, portal):
    """Requests, and then a WebSocket, on connections that the proxy keeps."""
    key = portal.call(site.server.service.hub.accounts.create_key, "alice").secret

    async def walk() -> None:
        for _ in range(3):
            async with open_raw(site, context=site.context) as raw:
                fields = f"Host: localhost:{site.port}\r\nAuthorization: Bearer {key}"
                for path in ("/healthz", "/api/v2/limits", "/healthz"):
                    await raw.send(f"GET {path} HTTP/1.1\r\n{fields}\r\n\r\n".encode())
                    assert (await raw.response()).status == 200
            async with open_raw(site, context=site.context) as raw:
                assert (await raw.handshake(key, path="/api/v2/notify")).status == 101

    portal.call(walk)


@pytest.mark.parametrize("size", [1_000_000, pytest.param(8_000_000, marks=pytest.mark.proof)])
def test_what_takes_long_is_not_cut_off(own_host, portal, register, open_raw, frame_bytes, tmp_path, size):
    """Through all three: a silent device stays connected beyond the proxy's idle time-out, and an upload is answered
    when the device has the whole image, though any other answer that takes so long is cut off."""
    sites = own_host.sites(*FILES)
    accounts = own_host.server.service.hub.accounts
    key = portal.call(accounts.create_key, "alice").secret
    data = write_image(tmp_path / "fw.zip", size).read_bytes()
    tokens = [
        (register(own_host.server, f"long{n}-{size}"), register(own_host.server, f"idle{n}-{size}"))
        for n in range(len(sites))
    ]
    cut = {site: trio.Event() for site in sites if site is not sites[FILES.index("Caddyfile")]}

    async def update(site: Site, id: str, token: str) -> None:
        device = VirtualDevice(id, tmp_path / id, build=FirmwareBuild(app="lamp"), slot_size=2**24)
        ending = trio.Event()

        async def handle(method, params):
            if method == "OTA.End":
                ending.set()
                for event in [cut[site]] if site in cut else cut.values():
                    await event.wait()
            return await device.handle(method, params)

        agent = Agent(site.device_url, token, handle, ssl_context=site.context)
        client = httpx.AsyncClient(
            base_url=f"{site.url}/api/v2",
            headers={"Authorization": f"Bearer {key}"},
            verify=site.context,
            timeout=60,
        )
        async with client, trio.open_nursery() as nursery:
            nursery.start_soon(agent.run)
            await agent.wait_connected()

            async def upload() -> None:
                url = f"/devices/{id}/ota?chunk_size=2944&in_flight=16&force=1"
                answer = await client.post(url, files={"file": ("fw.zip", data)})
                assert (answer.status_code, answer.json()) == (200, True)
                nursery.cancel_scope.cancel()

            nursery.start_soon(upload)
            await ending.wait()
            if site in cut:  # Caddy has no time-out for answers: the server has one
                slow = await client.post(f"/devices/{id}/rpc/Sys.GetInfo?timeout=60")
                assert slow.status_code == 504
                cut[site].set()

    async def stay(site: Site, token: str) -> None:
        async with open_raw(site, context=site.context) as raw:
            assert (await raw.handshake(token)).status == 101
            end = trio.current_time() + 2 * IDLE
            while trio.current_time() < end:
                frame = await raw.frame()
                assert frame is not None
                assert frame.opcode in (Opcode.PING, Opcode.TEXT)
                if frame.opcode is Opcode.PING:
                    await raw.send(frame_bytes(Opcode.PONG, bytes(frame.data)))

    async def walk() -> None:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for n, site in enumerate(sites):
                    nursery.start_soon(update, site, f"long{n}-{size}", tokens[n][0])
                    nursery.start_soon(stay, site, tokens[n][1])

    portal.call(walk)


@pytest.mark.parametrize("file", FILES)
def test_the_page_below_a_path(shared_host, file, visit, tmp_path, password):
    """A person comes without the slash, logs in, registers a device, and sees it come online: all below the path. The
    lines to copy lead there too, the cookie goes to no neighbour, and the browser's storage stays empty."""
    (site,) = shared_host.sites(file)
    page = visit(site.url)
    assert page.url.startswith(f"{site.url}/")
    log_in(page, password)
    (cookie,) = page.context.cookies()
    assert (cookie["name"], cookie["path"]) == ("__Secure-mdash_session", "/mdash/")

    id = f"lamp-{site.port}"
    page.get_by_role("button", name="Register").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Id").fill(id)
    dialog.get_by_role("button", name="Register").click()
    shown = page.get_by_role("dialog").filter(has_text="mdash device")
    line = shown.locator("code", has_text="mdash device --server").inner_text()
    server, token = re.fullmatch(r"mdash device --server (\S+) --token (\S+)", line).groups()
    assert server == f"wss{site.url.removeprefix('https')}"
    assert f"dash.server={server}/api/v2/rpc" in shown.inner_text()

    command = [sys.executable, "-m", "mdashcore.cli", "device", "--server", server, "--token", token, "--quiet"]
    command += ["--cafile", str(site.authority), "--id", id, "--folder", str(tmp_path / id)]
    with default_signals():
        device = subprocess.Popen(command)
    with device:
        expect(shown.get_by_text("It is connected.")).to_be_visible()
        shown.get_by_role("button", name="Done").click()
        page.goto(f"{site.url}/#/device/{id}/shadow")
        expect(page.get_by_text("fw_version").first).to_be_visible()
        device.terminate()

    assert page.evaluate("[localStorage.length, sessionStorage.length]") == [0, 0]
    paths = {url.removeprefix(site.origin) for url in visit.asked}
    assert len(paths) > 10
    assert all(path.startswith("/mdash") for path in paths), paths

    neighbour = visit(f"{site.origin}/")
    assert neighbour.evaluate("document.cookie") == ""
    expect(neighbour.get_by_role("heading", name="A neighbour")).to_be_visible()
