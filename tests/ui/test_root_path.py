"""The dashboard of a server that shares its host with others, below a path, behind a real proxy."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time

import pytest
from forked import CHEAP_MDASH, Forked
from playwright.sync_api import expect

NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    server {{
        listen 127.0.0.1:{port};
        location /mdash/ {{
            proxy_pass http://{server};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $http_connection;
        }}
        location / {{ default_type text/html; return 200 "<h1>A neighbour</h1>"; }}
    }}
}}
"""


@pytest.fixture(scope="module")
def behind(tmp_path_factory):
    """A server below ``/mdash``, behind nginx; the address of nginx."""
    nginx = shutil.which("nginx")
    if nginx is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("nginx is not installed: see tests/run")
    folder = tmp_path_factory.mktemp("nginx")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MDASH_")}
    command = ["serve", "--bind", "127.0.0.1:0", "--store", "memory://"]
    command += ["--root-path", "/mdash", "--register-user", "alice:correct horse", "--log-level", "warning"]
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    output, its_output = os.pipe()
    process = Forked(*CHEAP_MDASH, *command, stdout=its_output, env=environment)
    os.close(its_output)
    with os.fdopen(output) as lines:
        address = re.search(r"http://(\S+)/mdash", lines.readline())[1]
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, server=address))
        proxy = subprocess.Popen([nginx, "-c", str(folder / "nginx.conf"), "-p", str(folder), "-e", "stderr"])
        with proxy:
            _wait_for(port)
            yield f"http://127.0.0.1:{port}"
            proxy.terminate()
        process.kill()


def _wait_for(port):
    """Until something listens there."""
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, "nginx does not start"
            time.sleep(0.05)
        else:
            return


@pytest.fixture
def visit(browser, problems):
    """Opens an address in a browser of its own; what the page complains of fails the test."""
    context = browser.new_context(locale="en-GB", reduced_motion="reduce")
    context.set_default_timeout(10_000)

    def open_(url):
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(f"thrown: {error}"))
        page.on("requestfinished", lambda request: asked.append(request.url))
        page.goto(url)
        return page

    asked = open_.asked = []
    yield open_
    context.close()


def test_the_page_below_a_path(behind, visit, portal, tmp_path):
    """A person comes without the slash, logs in, registers a device, and sees it come online: all below the path. The
    lines to copy lead there too, the cookie goes to no neighbour, and the browser's storage stays empty."""
    page = visit(f"{behind}/mdash")
    assert page.url.startswith(f"{behind}/mdash/")
    page.get_by_label("User", exact=True).fill("alice")
    page.get_by_label("Password").fill("correct horse")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Devices", level=1)).to_be_visible()
    (cookie,) = page.context.cookies()
    assert (cookie["name"], cookie["path"]) == ("mdash_session", "/mdash/")

    page.get_by_role("button", name="Register").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Id").fill("lamp")
    dialog.get_by_role("button", name="Register").click()
    shown = page.get_by_role("dialog").filter(has_text="mdash device")
    line = shown.locator("code", has_text="mdash device --server").inner_text()
    server, token = re.fullmatch(r"mdash device --server (\S+) --token (\S+)", line).groups()
    assert server == f"ws{behind.removeprefix('http')}/mdash"
    assert f"dash.server={server}/api/v2/rpc" in shown.inner_text()

    command = ["device", "--server", server, "--token", token, "--quiet", "--id", "lamp"]
    device = Forked(*CHEAP_MDASH, *command, "--folder", str(tmp_path / "lamp"))
    try:
        expect(shown.get_by_text("It is connected.")).to_be_visible()
        page.keyboard.press("Escape")
        page.goto(f"{behind}/mdash/#/device/lamp/shadow")
        expect(page.get_by_text("fw_version").first).to_be_visible()
    finally:
        device.kill()

    assert page.evaluate("[localStorage.length, sessionStorage.length]") == [0, 0]
    paths = {url.removeprefix(behind) for url in visit.asked}
    assert len(paths) > 10
    assert all(path.startswith("/mdash") for path in paths), paths

    neighbour = visit(f"{behind}/")
    assert neighbour.evaluate("document.cookie") == ""
    expect(neighbour.get_by_role("heading", name="A neighbour")).to_be_visible()
