"""HTTP/2 is not spoken: what floods other servers over it is one request here, and it is refused."""

from __future__ import annotations

from typing import Any

import pytest
import trio

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FLOODS = {
    "PING": bytes.fromhex("0000080600000000000000000000000000"),
    "SETTINGS": bytes.fromhex("000000040000000000"),
    "WINDOW_UPDATE": bytes.fromhex("00000408000000000000000001"),
    "HEADERS": bytes.fromhex("000001010500000001") + b"\x82",
}
CONNECTIONS = 100  # 2000 streams of one connection were 50 MB; so many connections are 100 requests, each refused

STORE = 8  # files that the store may open meanwhile

MEMORY = 10 * 2**20  # bytes: 100 kB for each of those connections, buffers of TLS included

OTHERS = [pytest.param(name, marks=pytest.mark.proof) for name in FLOODS if name != "SETTINGS"]
"""Those that need not be sent each time: no frame is looked at."""


@pytest.mark.parametrize("flood", ["SETTINGS", *OTHERS])
async def test_a_flood_of_frames_harms_no_other_client(attacked: Any, bystander: Any, flood: str) -> None:
    """Whatever follows the preface is thrown away for a moment, and the connection closed: another tenant's calls stay
    as quick as they were, while connection after connection does so."""
    answered = trio.Event()
    before = attacked.descriptors

    async def attack() -> None:
        while True:
            async with await attacked.stream() as stream:
                try:
                    await stream.send_all(PREFACE)
                    for _ in range(200):
                        await stream.send_all(FLOODS[flood] * 1000)
                except trio.BrokenResourceError:
                    pass  # that was enough
                try:
                    if (await stream.receive_some(2**12)).startswith(b"HTTP/1.1 505 "):
                        answered.set()
                except trio.BrokenResourceError:
                    pass  # reset, by a machine so busy that its answer was overtaken

    async with trio.open_nursery() as nursery:
        nursery.start_soon(attack)
        await bystander.call_unharmed(f"a flood of {flood}")
        with trio.fail_after(60):
            await answered.wait()
        nursery.cancel_scope.cancel()
    await attacked.until(lambda: attacked.descriptors <= before + STORE, "connections are left", within=10)
    assert attacked.log == ""


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
async def test_many_connections_leave_nothing(open_attacked: Any, tls: bool) -> None:
    """Each with a preface, a request without an end, and a client that neither reads nor goes away."""
    async with open_attacked(tls=tls) as server:
        await (await server.stream()).aclose()
        before = server.descriptors
        streams = []
        with server.peak_memory() as grown:
            for _ in range(CONNECTIONS):
                stream = await server.stream()
                streams.append(stream)
                await stream.send_all(PREFACE + FLOODS["SETTINGS"] + FLOODS["HEADERS"])
            await server.until(lambda: server.descriptors <= before + STORE, "connections are left", within=20)
        assert grown() < MEMORY
        for stream in streams:
            await trio.aclose_forcefully(stream)
        assert server.log == ""
