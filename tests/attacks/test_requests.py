"""Requests are work too, also those of strangers: odd ones are refused before they cost much."""

from __future__ import annotations

import contextlib
from typing import Any

import trio

CONNECTIONS = 12  # before there were bounds, eight of them took a call from 10 to 700 ms


def request(line: str, key: str, body: bytes = b"", more: bytes = b"") -> bytes:
    """A request of one account."""
    head = f"{line} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + more + b"\r\n" + body


NESTED = b"[" + b",".join([b"[]"] * 43_000) + b"]"  # 128 KiB

FLAT = b"{" + b",".join(b'"%d":1' % number for number in range(12_000)) + b"}"

DEVICE = "/api/v2/devices/d1"


def form(field: bytes) -> bytes:
    """The body of a new rollout."""
    parts = b'name="rollout"\r\n\r\n' + field, b'name="file"; filename="fw.bin"\r\n\r\n' + b"\xe9" * 1024
    return b"".join(b"--x\r\nContent-Disposition: form-data; %b\r\n" % part for part in parts) + b"--x--\r\n"


def attacks(key: str) -> dict[str, tuple[bytes, bytes]]:
    """What is sent again and again, and the status of its answers."""
    return {
        "thousands of fields": (request("GET /healthz", key, more=b"a:\r\n" * 4000), b"431"),
        "requests that cost a millisecond": (request(f"GET {DEVICE}", key), b"200"),
        "files, a packet full": (b"GET /ui/app.js HTTP/1.1\r\nHost: x\r\n\r\n" * 100, b"200"),
        "nested params": (request(f"POST {DEVICE}/rpc/X", key, NESTED), b"413"),
        "a nested shadow": (request(f"POST {DEVICE}/shadow", key, b'{"state":{"reported":{"a":%b}}}' % NESTED), b"413"),
        "a flat shadow": (request(f"POST {DEVICE}/shadow", key, b'{"state":{"reported":%b}}' % FLAT), b"413"),
        "a nested rollout": (
            request(
                "POST /api/v2/rollouts?bare=1",
                key,
                form(b'{"devices":%b}' % (b"[" + b",".join([b"[]"] * 340_000) + b"]")),
                more=b"Content-Type: multipart/form-data; boundary=x\r\n",
            ),
            b"413 429",  # some have to wait for others of the account
        ),
    }


TELLING = {"thousands of fields", "files, a packet full", "a flat shadow", "a nested rollout"}  # of those


async def test_many_requests_harm_no_other_client(attacked: Any, bystander: Any, every: bool) -> None:
    """A dozen connections ask as fast as they are answered: another tenant's calls stay as quick as they were."""
    key = await attacked.account("eve")
    await attacked.devices("eve", ["d1"])
    for what, (data, status) in attacks(key).items():
        if not every and what not in TELLING:
            continue
        answered = trio.Event()

        async def attack(data: bytes = data, status: bytes = status, answered: trio.Event = answered) -> None:
            while True:
                with contextlib.suppress(trio.BrokenResourceError):
                    async with await attacked.stream() as stream:
                        await stream.send_all(data)
                        while (said := await stream.receive_some(2**16)) != b"":
                            if said.startswith(b"HTTP/1.1 "):
                                assert said[9:12] in status, said
                                answered.set()
                                await stream.send_all(data)

        async with trio.open_nursery() as nursery:
            for _ in range(CONNECTIONS):
                nursery.start_soon(attack)
            await answered.wait()
            await bystander.call_unharmed(what)
            nursery.cancel_scope.cancel()
    assert attacked.log == ""
