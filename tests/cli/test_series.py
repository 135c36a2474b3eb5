"""``mdash series``: what a device has reported over time."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest


def test_series(demo, mdash):
    """A line for each part of the time that has a number; a place without one is said; the same as CSV and JSON."""
    state = {"state": {"reported": {"t": 4, "cold": True}}}
    device = mdash("devices", "add", "shelf", env=demo.by_key)
    assert device.code == 0
    for value in (4, -2):
        state["state"]["reported"]["t"] = value
        headers = {"Authorization": f"Bearer {demo.key}"}
        httpx.post(f"{demo.url}/api/v2/devices/shelf/shadow", json=state, headers=headers).raise_for_status()
    found = mdash("series", "shelf", "t", "cold", "none", "--from", "1h", "--points", "1", env=demo.by_key)
    rows = [line.split("\t") for line in found.out.splitlines()]
    assert [(row[0], *row[2:]) for row in rows] == [("t", "-2", "1", "4", "2"), ("cold", "1", "1", "1", "2")]
    assert "no number at none" in found.err
    document = json.loads(mdash("series", "shelf", "t", "--json", env=demo.by_key).out)
    assert document["series"][0]["path"] == "t"
    lines = mdash("series", "shelf", "t", "--csv", env=demo.by_key).out.splitlines()
    assert lines[0] == "path,time,min,avg,max,count"


def test_wrong_times_are_refused(mdash):
    """Before the server is asked, with the forms that a time has."""
    for time in ("yesterday", "5x", "2026-01-01T00:00:00"):
        found = mdash("series", "shelf", "t", "--from", time)
        assert (found.code, "15m" in found.err) == (2, True)


@pytest.mark.parametrize("complete", ["true", "false"])
def test_a_table_that_is_cut_is_said(mdash, complete):
    """Beside the table, not in it."""

    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("X-Complete", complete)
            self.send_header("Content-Length", "6")
            self.end_headers()
            self.wfile.write(b"path\r\n")

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        server.timeout = 30  # seconds until a command that does not ask fails the test
        serving = threading.Thread(target=server.handle_request)
        serving.start()
        env = {"MDASH_SERVER": f"http://127.0.0.1:{server.server_port}", "MDASH_KEY": "mdk_x"}
        found = mdash("series", "shelf", "t", "--csv", env=env)
        serving.join()
    assert (found.code, found.out.strip()) == (0, "path")
    assert ("older values are missing" in found.err) == (complete == "false")
