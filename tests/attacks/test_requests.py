"""Requests are work too, also those of strangers: odd ones are refused before they cost much."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import trio

CONNECTIONS = 12  # before there were bounds, eight of them took a call from 10 to 700 ms


def request(line: str, key: str, body: bytes = b"", more: bytes = b"") -> bytes:
    """A request of one account."""
    head = f"{line} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + more + b"\r\n" + body


def attacks(key: str) -> dict[str, tuple[bytes, bytes]]:
    """What is sent again and again, and the status of its answers."""
    return {
        "thousands of fields": (request("GET /healthz", key, more=b"a:\r\n" * 4000), b"431"),
        "requests that cost a millisecond": (request("GET /api/v2/devices/d1", key), b"200"),
    }


@pytest.mark.parametrize("what", attacks(""))
async def test_many_requests_harm_nobody(attacked: Any, bystander: Any, what: str) -> None:
    """A dozen connections ask as fast as they are answered: another tenant's calls stay as quick as they were."""
    key = await attacked.account("eve")
    await attacked.devices("eve", ["d1"])
    data, status = attacks(key)[what]
    answered = 0

    async def attack() -> None:
        nonlocal answered
        while True:
            with contextlib.suppress(trio.BrokenResourceError):
                async with await attacked.stream() as stream:
                    await stream.send_all(data)
                    while (said := await stream.receive_some(2**16)) != b"":
                        if said.startswith(b"HTTP/1.1 "):
                            assert said[9:12] == status
                            answered += 1
                            await stream.send_all(data)

    async with trio.open_nursery() as nursery:
        for _ in range(CONNECTIONS):
            nursery.start_soon(attack)
        await bystander.call_unharmed(what, 60)
        assert answered > 0
        nursery.cancel_scope.cancel()
    assert attacked.log == ""
