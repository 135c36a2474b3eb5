"""A part of a fleet on plain sockets: devices that connect, stay, report, and by themselves go to another server.

Reads ``{"ports", "devices", "source"}``: the servers, ids and tokens, and the number of the first loopback address to
connect from. Then one command a line, each answered by one line:

    {"do": "connect"}                        all connect             {"seconds", "tries"}
    {"do": "report", "seconds", "rate"}      reports, as many a second; without a rate, as many as are answered
                                                                     {"seconds", "reports"}
    {"do": "watch", "rate"}                  after the next loss     {"lost", "back", "tries", "reports"}

`watch` ends when all devices are connected again, at the monotonic time `back`. A device counts as connected when its
first request was answered, because a server may answer 101 before it has taken up the device.
"""

from __future__ import annotations

import heapq
import json
import os
import random
import select
import socket
import time
from collections import deque
from typing import Any, Final

from benchmarks.load.storm import HANDSHAKE, frame

AT_ONCE = 128  # handshakes on their way: below a server's backlog, also for the handshakes of eight processes
FIRST_DELAY = 1.0  # seconds at most, by chance, until a device that was cut off dials: as clients should
MAX_DELAY = 8.0  # seconds at most between two tries: it doubles from the first one on
PATIENCE = 60.0  # seconds for a handshake and its first answer
PER_ADDRESS = 20_000  # connections from one loopback address: the system has 28 000 ports for each
ACTIVE = 128  # devices of this process that report at the same time, if there is no rate
BIND_NO_PORT: Final = 24  # IP_BIND_ADDRESS_NO_PORT (ip(7)): a port is taken for each destination

FIRST, REPORT = 1, 2
ASK = frame(b'{"id":%d,"method":"Dash.Shadow.Get"}' % FIRST)

OFFLINE, DIALING, SHAKING, ASKED, READY = range(5)


class Device:
    """A device and its socket."""

    __slots__ = ("data", "delay", "epoch", "number", "server", "sock", "state", "token", "waiting")

    def __init__(self, number: int, token: bytes) -> None:
        self.number = number
        self.token = token
        self.server = number
        self.sock: socket.socket | None = None
        self.state = OFFLINE
        self.data = b""
        self.delay = FIRST_DELAY
        self.epoch = 0
        """Tries so far. A timer of an earlier one is void."""
        self.waiting = False
        """Whether a report is not answered yet."""


class Fleet:
    """All devices of this process."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._ports: list[int] = order["ports"]
        self._source: int = order["source"]
        self._devices = [Device(number, token.encode()) for number, (_, token) in enumerate(order["devices"])]
        self._by_descriptor: dict[int, Device] = {}
        self._epoll = select.epoll()
        self._queue: deque[Device] = deque()
        self._timers: list[tuple[float, int, int]] = []
        """When, the device, and its epoch: the device dials, or has taken too long."""
        self._dialing = self.ready = self.tries = self.lost = self.reports = 0
        self._count = 0
        self._closed_loop = False

    def __len__(self) -> int:
        return len(self._devices)

    def connect(self) -> None:
        """Have all devices dial, as many at the same time as may."""
        self._queue.extend(self._devices)
        self._dial_next()

    def turn(self, until: float) -> bool:
        """Handle what has come, waiting for it until a time. Returns whether there is a command on stdin."""
        now = time.monotonic()
        if self._timers:
            until = min(until, self._timers[0][0])
        commanded = False
        for descriptor, mask in self._epoll.poll(max(0.0, until - now), 1024):
            if descriptor == 0:
                commanded = True
            elif (device := self._by_descriptor.get(descriptor)) is not None:
                self._handle(device, mask)
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            _, number, epoch = heapq.heappop(self._timers)
            self._on_timer(self._devices[number], epoch)
        return commanded

    def listen(self) -> None:
        """Take commands from stdin too."""
        self._epoll.register(0, select.EPOLLIN)

    def report_by_turns(self, count: int) -> None:
        """Have the next devices report that are connected and wait for no answer."""
        for _ in range(len(self._devices)):
            if count <= 0:
                return
            device = self._devices[self._count % len(self._devices)]
            self._count += 1
            if device.state == READY and not device.waiting:
                self._report(device)
                count -= 1

    def report_always(self, on: bool) -> None:
        """Have some devices report again as soon as they are answered."""
        self._closed_loop = on
        if on:
            self.report_by_turns(ACTIVE)

    # One device

    def _dial_next(self) -> None:
        while self._queue and self._dialing < AT_ONCE:
            self._dial(self._queue.popleft())

    def _dial(self, device: Device) -> None:
        self.tries += 1
        self._dialing += 1
        device.epoch += 1
        device.state, device.data, device.waiting = DIALING, b"", False
        sock = device.sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_IP, BIND_NO_PORT, 1)
        address = self._source + device.number // PER_ADDRESS
        sock.bind((f"127.0.{address // 250}.{address % 250 + 1}", 0))
        sock.connect_ex(("127.0.0.1", self._ports[device.server % len(self._ports)]))
        self._by_descriptor[sock.fileno()] = device
        self._epoll.register(sock.fileno(), select.EPOLLIN | select.EPOLLOUT)
        self._in(PATIENCE, device)

    def _in(self, seconds: float, device: Device) -> None:
        heapq.heappush(self._timers, (time.monotonic() + seconds, device.number, device.epoch))

    def _on_timer(self, device: Device, epoch: int) -> None:
        if device.epoch != epoch:
            return
        if device.state == OFFLINE:
            self._queue.append(device)
            self._dial_next()
        elif device.state != READY:
            self._lose(device)

    def _lose(self, device: Device) -> None:
        """Close the socket, and dial another server after a while."""
        assert device.sock is not None
        del self._by_descriptor[device.sock.fileno()]
        device.sock.close()
        device.sock = None
        if device.state == READY:
            self.ready -= 1
            self.lost += 1
        else:
            self._dialing -= 1
        device.state = OFFLINE
        device.server += random.randrange(1, max(2, len(self._ports)))  # any other: the next one alone is too small
        device.epoch += 1
        self._in(random.uniform(0, device.delay), device)
        device.delay = min(MAX_DELAY, 2 * device.delay)
        self._dial_next()

    def _handle(self, device: Device, mask: int) -> None:
        assert device.sock is not None
        try:
            if device.state == DIALING:
                if error := device.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise OSError(error, os.strerror(error))
                device.sock.send(HANDSHAKE % device.token)
                device.state = SHAKING
                self._epoll.modify(device.sock.fileno(), select.EPOLLIN)
                return
            data = device.sock.recv(2**14)
            if not data:
                raise OSError("closed")
            device.data += data
            if device.state == SHAKING:
                self._shake(device)
            if device.state > SHAKING:
                self._frames(device)
        except BlockingIOError:
            pass
        except OSError:
            self._lose(device)

    def _shake(self, device: Device) -> None:
        head, end, rest = device.data.partition(b"\r\n\r\n")
        if end:
            if not head.startswith(b"HTTP/1.1 101 "):
                raise OSError("refused")
            assert device.sock is not None
            device.sock.send(ASK)
            device.state, device.data = ASKED, rest

    def _frames(self, device: Device) -> None:
        data, start = device.data, 0
        while len(data) >= start + 2:
            size, body = data[start + 1], start + 2
            if size == 126:
                size, body = int.from_bytes(data[body : body + 2], "big"), body + 2
            if size == 127 or len(data) < body + size:
                break
            self._frame(device, data[start] & 15, data[body : body + size])
            start = body + size
        device.data = data[start:]

    def _frame(self, device: Device, opcode: int, body: bytes) -> None:
        assert device.sock is not None
        if opcode == 8:
            raise OSError("closed")
        if opcode == 9:
            device.sock.send(b"\x8a" + frame(body)[1:])
        elif b'"method"' in body:
            if (id := json.loads(body).get("id")) is not None:  # a request of the server to a new device
                device.sock.send(frame(b'{"id":%d,"error":{"code":404,"message":"No handler"}}' % id))
        elif device.state == ASKED:
            device.state, device.delay = READY, FIRST_DELAY
            self._dialing -= 1
            self.ready += 1
            self._dial_next()
        elif device.waiting:
            device.waiting = False
            self.reports += 1
            if self._closed_loop:
                self._report(device)

    def _report(self, device: Device) -> None:
        assert device.sock is not None
        text = b'{"id":%d,"method":"Dash.Shadow.Update","params":{"state":{"reported":{"n":%d,"ok":true}}}}'
        try:
            device.sock.send(frame(text % (REPORT, self._count % 1000)))  # below 126 bytes, as `frame` needs
        except OSError:  # it is noticed when it is read
            return
        device.waiting = True


class Commander:
    """Reads commands, and answers each when it is done."""

    def __init__(self, fleet: Fleet, unread: bytes) -> None:
        self._fleet = fleet
        self._unread = unread
        self._command: dict[str, Any] | None = None
        self._since = 0.0
        self._before = (0, 0, 0)
        self._sent = 0.0

    def run(self) -> None:
        """Run until stdin ends."""
        self._fleet.listen()
        self._take_command()
        while True:
            if (
                self._fleet.turn(time.monotonic() + 0.02 if self._command else time.monotonic() + 1)
                and not self._read()
            ):
                return
            if self._command is not None and (answer := self._check(self._command)) is not None:
                print(json.dumps(answer), flush=True)
                self._command = None

    def _read(self) -> bool:
        data = os.read(0, 2**12)
        self._unread += data
        self._take_command()
        return bool(data)

    def _take_command(self) -> None:
        """Begin the next command. There is one at a time: the other end waits for its answer."""
        line, end, rest = self._unread.partition(b"\n")
        if end:
            self._unread = rest
            self._begin(json.loads(line))

    def _begin(self, command: dict[str, Any]) -> None:
        fleet = self._fleet
        self._command, self._since, self._sent = command, time.monotonic(), 0.0
        self._before = (fleet.tries, fleet.lost, fleet.reports)
        if command["do"] == "connect":
            fleet.connect()
        elif command["do"] == "report" and not command.get("rate"):
            fleet.report_always(True)

    def _check(self, command: dict[str, Any]) -> dict[str, Any] | None:
        """Return the answer to a command if it is done."""
        fleet, now = self._fleet, time.monotonic()
        tries, lost, reports = self._before
        seconds = now - self._since
        if rate := command.get("rate"):
            due = int(rate * seconds - self._sent)
            fleet.report_by_turns(due)
            self._sent += due
        if command["do"] == "report":
            if seconds < command["seconds"]:
                return None
            fleet.report_always(False)
            return {"seconds": seconds, "reports": fleet.reports - reports}
        if fleet.ready < len(fleet) or (command["do"] == "watch" and fleet.lost == lost):
            return None
        if command["do"] == "watch":
            return {
                "lost": fleet.lost - lost,
                "back": now,
                "tries": fleet.tries - tries,
                "reports": fleet.reports - reports,
            }
        return {"seconds": seconds, "tries": fleet.tries - tries}


def main() -> None:
    data = b""
    while b"\n" not in data:  # unbuffered: the loop reads what follows
        data += os.read(0, 2**16)
    line, _, rest = data.partition(b"\n")
    Commander(Fleet(json.loads(line)), rest).run()


if __name__ == "__main__":
    main()
