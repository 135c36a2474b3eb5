"""What the other tests of this folder measure with really measures."""

from __future__ import annotations

import trio


async def test_a_quiet_server_keeps_its_pace(attacked, bystander):
    """Without an attack, the bystander's calls are as before."""
    found = await bystander.call_unharmed("nothing")
    assert len(found.sorted) == 200
    assert 0 < found.p50 <= found.p95


async def test_connections_are_seen(open_attacked, standing_by):
    """Descriptors and tasks of the server go up with its connections, and down when they end."""
    async with open_attacked(tls=True) as server, standing_by(server) as bystander:
        await bystander.call_unharmed("nothing", 20)
        before, tasks = server.descriptors, await server.tasks()
        streams = [await server.stream() for _ in range(5)]
        await server.until(lambda: server.descriptors >= before + 5, "the connections are not there")
        assert await server.tasks() >= tasks + 5
        for stream in streams:
            await trio.aclose_forcefully(stream)
        await server.until(lambda: server.descriptors == before, "the connections are still there")


async def test_memory_is_seen(attacked):
    """What the server keeps shows in its memory."""
    with attacked.peak_memory() as grown:
        await attacked.account("alice")
        await attacked.devices("alice", [f"d{number}" for number in range(200)], {"text": "x" * 20_000})
        async with attacked.http() as client:
            assert (await client.get("/devices")).status_code == 401
    assert grown() > 100_000
