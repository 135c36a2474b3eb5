"""More connections than the process has file descriptors: strangers take them from each other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import attrs
import pytest
import trio

DESCRIPTORS = 150

BODY = b"Host: x\r\nContent-Length: 4000\r\n\r\n"

LOGIN = b'{"user": "invented", "password": "guessed"}'


@attrs.frozen
class Stranger:
    """What a stranger does with each connection, and then nothing more."""

    sends: bytes = b""
    then: bytes = b""
    """Sent again and again, every fifth of a second."""
    shakes_hands: bool = True
    """Whether TLS begins, where the server speaks it."""


STRANGERS = {
    "silent": Stranger(),
    "half a head": Stranger(b"GET /healthz HTTP/1.1\r\n"),
    "a head without an end": Stranger(b"GET /healthz HTTP/1.1\r\nX: ", then=b"x"),
    "half a WebSocket handshake": Stranger(b"GET /api/v2/rpc HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"),
    "a body not begun": Stranger(b"POST /api/v2/login HTTP/1.1\r\n" + BODY),
    "a body begun": Stranger(b"POST /api/v2/login HTTP/1.1\r\n" + BODY + b"{"),
    "a body without an end": Stranger(b"POST /api/v2/login HTTP/1.1\r\n" + BODY, then=b" "),
    "a body that waits for leave": Stranger(b"POST /api/v2/login HTTP/1.1\r\nExpect: 100-continue\r\n" + BODY),
    "half a chunk": Stranger(b"POST /api/v2/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"),
    "a refused body": Stranger(b"POST /nothing HTTP/1.1\r\n" + BODY, then=b"x"),
    "a login": Stranger(
        b"POST /api/v2/login HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(LOGIN), LOGIN)
    ),
    "idle": Stranger(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
    "not reading": Stranger(b"GET /ui/app.js HTTP/1.1\r\nHost: x\r\n\r\n" * 200),
}

STRANGERS_UNDER_TLS = {
    "no handshake": Stranger(shakes_hands=False),
    "half a handshake": Stranger(b"\x16\x03\x01\x02\x00\x01\x00", shakes_hands=False),
    **{kind: STRANGERS[kind] for kind in ("silent", "a body not begun", "a refused body", "a login", "idle")},
}


TELLING = {
    False: {"a head without an end", "a refused body", "a login", "not reading"},
    True: {"no handshake", "idle"},
}
"""Kinds of strangers that stand for the others; by whether it is TLS."""

MEASURED = {"a body without an end", "a login", "idle"}
"""Those that are also measured by how long another account's calls take: what costs a server most, and least."""


class Crowd:
    """Connections of strangers that come and do not go."""

    def __init__(self, server: Any, stranger: Stranger) -> None:
        self._server = server
        self._stranger = stranger
        self._streams: list[trio.abc.Stream] = []

    async def come(self, number: int) -> None:
        """Open so many more connections."""
        slots = trio.Semaphore(16)
        async with trio.open_nursery() as nursery:
            for _ in range(number):
                await slots.acquire()
                nursery.start_soon(self._open, slots)

    async def _open(self, slots: trio.Semaphore) -> None:
        try:
            stream: trio.abc.Stream = await trio.open_tcp_stream(self._server.host, self._server.port)
            try:
                if self._server.tls and self._stranger.shakes_hands:
                    stream = await self._server.secure(stream)
                with trio.move_on_after(0.1):  # what does not read is not written to for ever
                    await stream.send_all(self._stranger.sends)
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
            self._streams.append(stream)
        except (trio.BrokenResourceError, OSError):
            pass  # the server has ended it already
        finally:
            slots.release()

    async def go_on(self) -> None:
        """Send what comes again and again."""
        while self._stranger.then:
            for stream in tuple(self._streams):
                with trio.move_on_after(0.01), suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await stream.send_all(self._stranger.then)
            await trio.sleep(0.2)

    async def see_answered(self) -> None:
        """Read an answer on each connection: each has to get one."""
        for stream in self._streams:
            data = b""
            while b"HTTP/1.1 200" not in data:
                part = await stream.receive_some(2**14)
                assert part, "the connection was ended"
                data += part

    async def ask_again(self) -> None:
        """Send the same once more on each connection."""
        for stream in self._streams:
            await stream.send_all(self._stranger.sends)

    async def leave(self) -> None:
        """Cut all connections off."""
        while self._streams:
            await trio.aclose_forcefully(self._streams.pop(0))


@asynccontextmanager
async def crowd_of(server: Any, stranger: Stranger) -> AsyncIterator[Crowd]:
    """A crowd, which leaves at the end."""
    crowd = Crowd(server, stranger)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crowd.go_on)
        try:
            yield crowd
        finally:
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await crowd.leave()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
async def test_strangers_lock_no_client_out(open_attacked: Any, standing_by: Any, tls: bool, every: bool) -> None:
    """With more connections of strangers than descriptors, whatever these wait for: new clients are answered, changes
    are stored, a device and its calls go on, on the same connections; the log has one line for it, and no traceback."""
    async with open_attacked(descriptors=DESCRIPTORS, tls=tls) as server, standing_by(server) as bystander:
        key = await server.account("alice")
        before, started = server.descriptors, trio.current_time()
        for kind, stranger in (STRANGERS_UNDER_TLS if tls else STRANGERS).items():
            if not every and kind not in TELLING[tls]:
                continue
            async with crowd_of(server, stranger) as crowd:
                await crowd.come(DESCRIPTORS + 20)
                for number in range(2):
                    async with server.http(key) as http:
                        device = f"{kind}-{number}".replace(" ", "-")
                        assert (await http.post("/devices", json={"id": device})).status_code == 201, kind
                        assert (await http.get(f"/devices/{device}")).status_code == 200, kind
                    await crowd.come(DESCRIPTORS // 4)
                await bystander.call(10)
                if kind in MEASURED:
                    await bystander.call_unharmed(f"a crowd of strangers: {kind}")
        await server.until(lambda: server.descriptors <= before + 8, "connections are left")  # files of the store
        logged = [line for line in server.log.splitlines() if "mdashcore.login" not in line]
        assert 1 <= len(logged) <= 1 + (trio.current_time() - started) // 60, logged
        assert all("no file descriptors for more connections" in line for line in logged)


async def test_clients_that_are_known_go_last(open_attacked: Any, standing_by: Any) -> None:
    """An account that leaves more bodies unsent than there are descriptors locks no other out; the connections that it
    has idle outlive a crowd of strangers."""
    async with open_attacked(descriptors=DESCRIPTORS) as server, standing_by(server) as bystander:
        key = await server.account("alice")
        await server.devices("alice", ["d1"])
        auth = f"Authorization: Bearer {key}\r\n".encode()
        async with crowd_of(server, Stranger(b"GET /api/v2/me HTTP/1.1\r\nHost: x\r\n" + auth + b"\r\n")) as idle:
            await idle.come(20)
            await idle.see_answered()
            async with crowd_of(server, STRANGERS["a body not begun"]) as strangers:
                await strangers.come(2 * DESCRIPTORS)
                await bystander.call_unharmed("a crowd of strangers")
            await idle.ask_again()
            await idle.see_answered()
        for head in (b"POST /api/v2/devices/d1/rpc/X HTTP/1.1\r\n", b"POST /api/v2/logs HTTP/1.1\r\n"):
            async with crowd_of(server, Stranger(head + auth + BODY)) as attacker:
                await attacker.come(DESCRIPTORS + 20)
                for _ in range(2):
                    async with server.http(key) as http:
                        assert (await http.get("/devices/d1")).status_code == 200
                    await attacker.come(DESCRIPTORS // 4)


async def test_when_all_are_in_use(open_attacked: Any) -> None:
    """If all connections are WebSockets, which are not ended for room, new ones are closed immediately, ten a second;
    when some have gone, others are let in."""
    async with open_attacked(descriptors=DESCRIPTORS) as server:
        key = await server.account("alice")
        handshake = (
            f"GET /api/v2/notify HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        ).encode()

        async def listen() -> Any:
            stream = await server.stream()
            try:
                await stream.send_all(handshake)
                answer = await stream.receive_some(2**12)
            except trio.BrokenResourceError:
                answer = b""
            if answer.startswith(b"HTTP/1.1 101"):
                return stream
            await trio.aclose_forcefully(stream)
            return None

        listeners = []
        while (listener := await listen()) is not None:
            listeners.append(listener)
        assert DESCRIPTORS // 2 < len(listeners) < DESCRIPTORS - 40  # a quarter of so few is kept
        for listener in listeners[:40]:
            await trio.aclose_forcefully(listener)
        with trio.fail_after(30):
            while (listener := await listen()) is None:
                pass
        for one in [*listeners[40:], listener]:
            await trio.aclose_forcefully(one)
        assert server.log.count("\n") == server.log.count("no file descriptors for more connections") == 1
