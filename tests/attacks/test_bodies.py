"""Bodies without a purpose, or without an end, take a bounded part of the memory and of other clients' time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

MIB = 2**20

PIECE = b"x" * 2**14


@asynccontextmanager
async def connected(attacked) -> AsyncIterator[trio.abc.Stream]:
    """A connection, cut off at the end."""
    stream = await attacked.stream()
    try:
        yield stream
    finally:
        await trio.aclose_forcefully(stream)


async def ask(stream: trio.abc.Stream, head: str, body: bytes, *, declared: int | None = None) -> bytes:
    """Send a request, as far as the server takes it within a moment: what it has answered by then."""
    length = len(body) if declared is None else declared
    lines = [head, "Host: x", f"Content-Length: {length}", "\r\n"]
    answer = b""

    async def send() -> None:
        try:
            await stream.send_all("\r\n".join(lines).encode())
            for start in range(0, len(body), len(PIECE)):
                await stream.send_all(body[start : start + len(PIECE)])
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    with trio.move_on_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            try:
                while b"\r\n\r\n" not in answer:
                    part = await stream.receive_some(4096)
                    if not part:
                        break
                    answer += part
            except trio.BrokenResourceError:
                pass
            nursery.cancel_scope.cancel()
    return answer


STRANGERS = {
    "login": ("POST /api/v2/login HTTP/1.1", b" 413 "),
    "session": ("PUT /api/v2/session HTTP/1.1", b" 405 "),
    "health": ("GET /healthz HTTP/1.1", b" 200 "),
    "nothing": ("POST /nothing HTTP/1.1", b" 404 "),
    "page": ("GET /ui/app.js HTTP/1.1", b" 200 "),
    "list": ("GET /api/v2/devices HTTP/1.1", b" 401 "),
    "call": ("POST /api/v2/devices/d1/rpc/X HTTP/1.1", b" 401 "),
    "image": ("POST /api/v2/devices/d1/ota HTTP/1.1", b" 401 "),
}


async def test_bodies_of_strangers_are_not_read(attacked, bystander):
    """Connections that each send 1 MiB hold 64 KiB each at most, wherever they send it, and each is answered."""
    connections = 400
    answers: list[tuple[str, bytes]] = []

    async def flood(kind: str) -> None:
        async with connected(attacked) as stream:
            answers.append((kind, (await ask(stream, STRANGERS[kind][0], b"x" * MIB))[8:13]))
            await trio.sleep_forever()

    with attacked.peak_memory() as grown:
        async with trio.open_nursery() as nursery:
            for number in range(connections):
                nursery.start_soon(flood, list(STRANGERS)[number % len(STRANGERS)])
            await bystander.call_unharmed("bodies of strangers")
            await attacked.until(lambda: len(answers) == connections, "not all are answered")
            nursery.cancel_scope.cancel()
        assert grown() < connections * 2**16 + 16 * MIB
    assert set(answers) == {(kind, status) for kind, (_, status) in STRANGERS.items()}
    await bystander.call_unharmed("nothing", 20)


@pytest.mark.parametrize(("path", "size"), [("/api/v2/logs", MIB), ("/api/v2/devices/d1/rpc/X", 2**17)])
async def test_bodies_that_never_end_have_a_bound_in_sum(open_attacked, standing_by, path, size):
    """An account beyond its share is answered 429; beyond the sum those that have waited the longest are answered 503.
    All others go on, and the log says it once."""
    room = 8 * size
    async with open_attacked(settings={"max_bodies": room}) as server, standing_by(server) as bystander:
        keys = [await server.account(f"attacker{number}") for number in range(8)]
        for number in range(8):
            await server.devices(f"attacker{number}", ["d1"])
        refused: list[bytes] = []

        async def hang(key: str) -> None:
            head = f"POST {path} HTTP/1.1\r\nAuthorization: Bearer {key}"
            async with connected(server) as stream:
                if answer := await ask(stream, head, b"x" * (size // 2), declared=size):
                    refused.append(answer)

        with server.peak_memory() as grown:
            async with trio.open_nursery() as nursery:
                for key in 8 * keys:
                    nursery.start_soon(hang, key)
                await server.until(
                    lambda: len(refused) >= 64 - 24, "there is room for all"
                )  # less what came with heads
                async with server.http(await server.account("alice")) as client:
                    assert (await client.post("/logs", content=b" " * (size // 2) + b"{}")).status_code == 200
                await bystander.call_unharmed("bodies that never end")
                nursery.cancel_scope.cancel()
            assert grown() < 24 * MIB + 64 * 2**16
        statuses = {answer[9:12] for answer in refused}
        assert statuses <= {b"429", b"503"}
        assert b"503" in statuses
        assert all(b"\nretry-after: 5\r" in answer.lower() for answer in refused)
        assert server.log.count(f"request bodies fill the {room} bytes") == 1


async def test_bodies_in_tiny_chunks_delay_no_other_client(attacked, bystander):
    """Each chunk is work, however little is in it."""
    key = await attacked.account("attacker")
    lines = ["POST /api/v2/logs HTTP/1.1", "Host: x", f"Authorization: Bearer {key}", "Transfer-Encoding: chunked"]

    async def flood() -> None:
        while True:
            async with connected(attacked) as stream:
                try:
                    await stream.send_all("\r\n".join([*lines, "\r\n"]).encode())
                    for _ in range(64):
                        await stream.send_all(b"1\r\n \r\n" * 2**11)
                except trio.BrokenResourceError:
                    pass

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(flood)
        await bystander.call_unharmed("tiny chunks")
        nursery.cancel_scope.cancel()


async def test_tiny_requests_in_one_packet_delay_no_other_client(attacked, bystander):
    """Pipelined ones, of either lane, and from many connections."""
    key = await attacked.account("attacker")
    await attacked.devices("attacker", ["d1"])

    async def flood(path: str) -> None:
        packet = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode() * 100
        async with connected(attacked) as stream, trio.open_nursery() as nursery:

            async def send() -> None:
                while True:
                    await stream.send_all(packet)

            nursery.start_soon(send)
            while await stream.receive_some(2**16):
                pass
            raise AssertionError("the server has ended the connection")

    async with trio.open_nursery() as nursery:
        for number in range(16):
            nursery.start_soon(flood, ("/api/v2/devices/d1/shadow", "/api/v2/me")[number % 2])
        await bystander.call_unharmed("tiny requests")
        nursery.cancel_scope.cancel()
