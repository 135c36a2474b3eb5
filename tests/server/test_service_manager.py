"""What the server tells the service manager that has started it: the datagrams that arrive at a real socket."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys

import pytest
import trio
from children import default_signals

from mdashcore.server.service_manager import ServiceManager

WATCHDOG = 8.0  # seconds, of the autojump clock


class Receiver:
    """The socket of a service manager."""

    def __init__(self, address):
        self.address = address
        self.socket = trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    async def bind(self):
        await self.socket.bind(self.address.replace("@", "\0") if self.address.startswith("@") else self.address)

    async def receive(self):
        """The next message, by name."""
        with trio.fail_after(30):
            message = await self.socket.recv(4096)
        return dict(line.split("=", 1) for line in message.decode().split("\n"))

    def waiting(self):
        """The messages that have arrived."""
        found = []
        while True:
            try:
                found.append(self.socket._sock.recv(4096, socket.MSG_DONTWAIT).decode())
            except BlockingIOError:
                return found


@pytest.fixture
def address(tmp_path):
    """The path of a socket."""
    return str(tmp_path / "notify")


@pytest.fixture
async def receiver(address):
    """Bound to the address."""
    receiver = Receiver(address)
    await receiver.bind()
    with receiver.socket:
        yield receiver


@pytest.mark.parametrize("form", ["{folder}/notify", "@mdash-{pid}/notify"], ids=["path", "abstract"])
async def test_a_service_from_its_start_to_its_end(tmp_path, form):
    """READY when it accepts connections, RELOADING and READY around a reload, signs of life, and STOPPING."""
    receiver = Receiver(form.format(folder=tmp_path, pid=os.getpid()))
    await receiver.bind()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MDASH_")}
    environment |= {"NOTIFY_SOCKET": receiver.address, "WATCHDOG_USEC": "400000"}
    command = [sys.executable, "-m", "mdashcore.cli", "serve", "--bind", "127.0.0.1:0", "--store", "memory://"]
    with default_signals(), receiver.socket:
        process = await trio.lowlevel.open_process(command, env=environment, stderr=subprocess.DEVNULL)
        try:
            told = await receiver.receive()
            assert told["READY"] == "1"
            host, _, port = told["STATUS"].removeprefix("Listening on http://").partition(":")
            await (await trio.open_tcp_stream(host, int(port))).aclose()
            assert await receiver.receive() == {"WATCHDOG": "1"}
            process.send_signal(signal.SIGHUP)
            while (told := await receiver.receive()) == {"WATCHDOG": "1"}:
                pass
            assert told["RELOADING"] == "1"
            assert int(told["MONOTONIC_USEC"]) > 0
            assert (await receiver.receive())["READY"] == "1"
            process.send_signal(signal.SIGTERM)
            while (told := await receiver.receive()) == {"WATCHDOG": "1"}:
                pass
            assert told["STOPPING"] == "1"
            assert await process.wait() == 0
            assert not receiver.waiting()
        finally:
            process.kill()


async def test_signs_of_life_come_in_each_half_of_the_time(receiver, address, autojump_clock):
    """Also if the store takes as long for its answer as it may."""
    manager = ServiceManager(address, WATCHDOG)
    times = []

    async def answers():
        await trio.sleep(WATCHDOG / 4 - 0.01)
        return True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(manager.keep_alive, answers)
        for _ in range(5):
            await trio.sleep(WATCHDOG / 2)
            times.append(receiver.waiting())
        nursery.cancel_scope.cancel()
    assert times == [["WATCHDOG=1"]] * 5


@pytest.mark.parametrize("failure", ["says no", "does not answer"])
async def test_without_an_answer_of_the_store_there_is_no_sign_of_life(
    receiver, address, autojump_clock, caplog, failure
):
    """The log says so once. When it answers again, the signs go on."""
    manager = ServiceManager(address, WATCHDOG)
    works = True

    async def answers():
        if not works and failure == "does not answer":
            await trio.sleep_forever()
        return works

    async with trio.open_nursery() as nursery:
        nursery.start_soon(manager.keep_alive, answers)
        await trio.sleep(WATCHDOG)
        assert len(receiver.waiting()) >= 2
        works = False
        await trio.sleep(WATCHDOG)
        receiver.waiting()
        await trio.sleep(10 * WATCHDOG)
        assert not receiver.waiting()
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
        works = True
        await trio.sleep(WATCHDOG)
        assert len(receiver.waiting()) >= 2
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("environment", "watchdog"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "1000000"}, 0.0),
        ({"NOTIFY_SOCKET": "vsock:2:1234", "WATCHDOG_USEC": "1000000"}, 0.0),
        ({"NOTIFY_SOCKET": "/run/x"}, 0.0),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "1500000"}, 1.5),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "7"}, 1.5),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "8"}, 0.0),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "-1"}, 0.0),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "²"}, 0.0),
    ],
)
async def test_what_the_environment_says(environment, watchdog):
    """The watchdog counts only for this process, and with a socket to tell; what cannot be read is none."""
    manager = ServiceManager.from_environment(environment, pid=7)
    assert manager.watchdog == watchdog
    if not watchdog:
        await manager.keep_alive(None)  # returns


def test_a_manager_that_has_gone_stops_nothing(address, caplog):
    """The log says it once, not for each message."""
    manager = ServiceManager(address, WATCHDOG)
    for _ in range(3):
        manager.notify_stopping()
    (record,) = caplog.records
    assert "READY" not in record.getMessage()
    assert "the service manager cannot be told STOPPING=1: No such file" in record.getMessage()
