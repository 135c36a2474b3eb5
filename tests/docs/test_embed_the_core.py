"""The programs of "Embed the core", each run as it stands there, with a device that talks to it over a real socket."""

from __future__ import annotations

import json
import socket

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

ADDRESS = '"127.0.0.1", 8080'
FASTER = {"asyncio.sleep(1)": "asyncio.sleep(0.1)", "timeout=2.0": "timeout=0.5"}  # a reader has more time
UPDATE = {"method": "Dash.Shadow.Update", "params": {"state": {"reported": {"on": True}}}}
GET = {"id": 5, "method": "Dash.Shadow.Get"}
STORED = {"jsonrpc": "2.0", "id": 5, "result": {"reported": {"on": True}}}


@pytest.fixture(scope="module")
def guide(page):
    return page("docs/how_to_guides/embed_the_core.md")


@pytest.fixture
def embedded(guide, start, free_address):
    """Starts a program of the page at a free address."""
    host, _, port = free_address.partition(":")

    def started(mark: str):
        code = guide.code(mark)
        assert ADDRESS in code
        for stands, wanted in {ADDRESS: f'"{host}", {port}', **FASTER}.items():
            code = code.replace(stands, wanted)
        return start(code, python=True)

    return started


@pytest.fixture
def dial(free_address):
    """Connects as a device with a token."""

    def dialled(token: str):
        url = f"ws://{free_address}/api/v2/rpc"
        return connect(url, additional_headers={"Authorization": f"Bearer {token}"}, max_size=2**17)

    return dialled


@pytest.fixture
def connected(free_address):
    """Connects as a peer that sends lines."""
    host, _, port = free_address.partition(":")
    return lambda: socket.create_connection((host, int(port)), timeout=5)


def test_an_asyncio_server_has_under_30_lines(guide):
    """Empty lines are not counted."""
    lines = [line for line in guide.code("asyncio").splitlines() if line.strip()]
    assert len(lines) < 30


def test_in_an_asyncio_server(embedded, dial):
    """A device connects, its report is stored, and a call goes to it and comes back."""
    with embedded("asyncio") as server:
        token = server.expect(r"^mdd_\S+$")[0]
        with dial(token) as device:
            call = json.loads(device.recv(timeout=5))
            assert (call["method"], call["id"]) == ("Sys.GetInfo", 1)
            device.send(json.dumps({"id": 1, "result": {"app": "lamp"}}))
            device.send(json.dumps(UPDATE))
            device.send(json.dumps(GET))
            assert json.loads(device.recv(timeout=5)) == STORED
            server.expect('^Sys.GetInfo {"app": "lamp"}$')
        with dial(token) as device:  # stored, not only remembered by the connection
            device.recv(timeout=5)
            device.send(json.dumps(GET))
            assert json.loads(device.recv(timeout=5)) == STORED
    assert "Traceback" not in server.said


def test_the_virtual_device_connects_to_it(guide, embedded, start, free_address):
    """With the command of the page."""
    with embedded("asyncio") as server:
        token = server.expect(r"^mdd_\S+$")[0]
        command = guide.code("device").replace("127.0.0.1:8080", free_address).replace("TOKEN", token)
        with start(f"exec {command}"):
            server.expect('^Sys.GetInfo {"app":"virtual-')


def test_in_a_synchronous_loop(embedded, connected):
    """The same over a line of a blocking socket; a call that is not answered is given up by the clock."""
    with embedded("sync") as server:
        server.expect("^listening$")
        with connected() as sock, sock.makefile("rwb") as line:
            assert json.loads(line.readline())["method"] == "Sys.GetInfo"
            report, question = json.dumps(UPDATE).encode(), json.dumps(GET).encode()
            line.write(report + b"\n" + question[:10])  # a frame may come in pieces
            line.flush()
            line.write(question[10:] + b"\n")
            line.flush()
            assert json.loads(line.readline()) == STORED
            server.expect("^Sys.GetInfo was not answered$")
        assert server.wait() == 0
    assert "Traceback" not in server.said


def test_in_a_synchronous_loop_an_answer_arrives(embedded, connected):
    """An answer in time is the call's result."""
    with embedded("sync") as server:
        server.expect("^listening$")
        with connected() as sock, sock.makefile("rwb") as line:
            id = json.loads(line.readline())["id"]
            line.write(json.dumps({"id": id, "result": 7}).encode() + b"\n")
            line.flush()
            server.expect("^Sys.GetInfo 7$")


def test_the_larger_server(embedded, dial):
    """Calls wait for answers, deltas are pushed, the newest connection wins, a bad token is refused with 401."""
    with embedded("server") as server:
        token = server.expect(r"^mdd_\S+$")[0]
        server.expect("^lamp device 'lamp' is not connected$")
        with pytest.raises(InvalidStatus) as refused:
            dial("mdd_wrong")
        assert refused.value.response.status_code == 401
        with dial(token) as device:
            call = _expect(device, "Sys.GetInfo")
            device.send(json.dumps({"id": call["id"], "result": {"app": "lamp"}}))
            assert _expect(device, "Shadow.Delta")["params"]["state"] == {"on": True}
            server.expect('^lamp {"app": "lamp"}$')
            with dial(token) as newer:
                assert _expect(newer, "Shadow.Delta")["params"]["state"] == {"on": True}
                with pytest.raises(ConnectionClosed):
                    _expect(device, "nothing")
                server.forget()
                _expect(newer, "Sys.GetInfo")
                server.expect("^lamp Sys.GetInfo was not answered within 0.5 s$")
        server.expect("^lamp device 'lamp' is not connected$")
    assert "Traceback" not in server.said


def _expect(device, method: str):
    """The next frame with that method."""
    while True:
        frame = json.loads(device.recv(timeout=5))
        if frame.get("method") == method:
            return frame
