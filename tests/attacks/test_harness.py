"""What the other tests of this folder measure with really measures."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager

import pytest
import trio


@contextmanager
def busy_cores():
    """Keep every core of the machine busy."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in os.sched_getaffinity(0)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


async def test_a_quiet_server_keeps_its_pace(attacked, bystander):
    """Without an attack no call takes long by the server's doing, whatever else the machine does."""
    with busy_cores():
        found = await bystander.call_unharmed("nothing")
    assert len(found.sorted) == len(found.wall) > 20  # of fewer, a p95 is the worst
    assert 0 < found.p50 <= found.p95 <= found.wall_p95


async def test_work_that_does_not_give_way_is_seen(attacked, bystander):
    """A server that does something else for 30 ms at a time is caught, also on a busy machine."""
    await attacked.command("block", 0.03)
    with busy_cores(), pytest.raises(AssertionError, match="during work"):
        await bystander.call_unharmed("work", 6, tries=1)


async def test_connections_are_seen(open_attacked, standing_by):
    """Descriptors and tasks of the server go up with its connections, and down when they end."""
    async with open_attacked(tls=True) as server, standing_by(server) as bystander:
        await bystander.call_unharmed("nothing", 20)
        before = server.descriptors
        streams = [await server.stream() for _ in range(5)]
        await server.until(lambda: server.descriptors >= before + 5, "the connections are not there")
        tasks = await server.tasks()
        for stream in streams:
            await trio.aclose_forcefully(stream)
        await server.until(lambda: server.descriptors == before, "the connections are still there")
        with trio.fail_after(10):
            while await server.tasks() > tasks - 5:
                pass


async def test_memory_is_seen(attacked):
    """What the server keeps shows in its memory."""
    with attacked.peak_memory() as grown:
        await attacked.account("alice")
        await attacked.devices("alice", [f"d{number}" for number in range(200)], {"text": "x" * 20_000})
        async with attacked.http() as client:
            assert (await client.get("/devices")).status_code == 401
    assert grown() > 100_000
