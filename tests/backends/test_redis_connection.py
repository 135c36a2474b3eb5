"""A connection to Redis that all callers share, over a stream that the test answers, in virtual time."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from mdash_backends._redis_connection import MAX_WAIT, SILENCE_STEPS, NodeConnection
from mdash_backends._redis_errors import ConnectionLost
from mdash_backends._redis_pipeline import Pipeline

TIMEOUT = 2.0  # seconds of silence
OTHER = b">1\r\n+other\r\n"


class Home:
    """A server whose bytes are those of the test. What is sent to it is dropped."""

    timeout = TIMEOUT

    def __init__(self) -> None:
        self.answers, self._received = trio.open_memory_channel[bytes](100)

    async def connect(self, tasks: Any, on_push: Any = None) -> Pipeline:
        pipeline = Pipeline(self, "10.0.0.1", 6379, on_push)
        tasks.start_soon(pipeline.run)
        return pipeline

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self._received.receive()

    async def send(self, item: bytes) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self._received.close()


def test_no_answer_takes_longer_than_the_longest_wait() -> None:
    """Also of a command that is sent while the answer to an earlier one is due, and comes at the last moment."""
    home = Home()

    async def test() -> None:
        async def nothing(node: NodeConnection) -> None:
            await trio.lowlevel.checkpoint()

        async def other_answers() -> None:
            while True:
                await home.answers.send(OTHER)
                await trio.sleep(TIMEOUT / 2)

        async def second() -> None:
            started = trio.current_time()
            with pytest.raises(ConnectionLost) as caught:
                await node.call(b"GET", b"second")
            assert isinstance(caught.value.__cause__, TimeoutError)
            step = TIMEOUT / SILENCE_STEPS
            assert MAX_WAIT - step <= trio.current_time() - started <= MAX_WAIT + 2 * step

        async with anyio.create_task_group() as tasks:
            node = NodeConnection(home, tasks, nothing)
            tasks.start_soon(other_answers)
            async with trio.open_nursery() as callers:
                callers.start_soon(node.call, b"GET", b"first")
                await wait_all_tasks_blocked()
                await trio.sleep(1)
                callers.start_soon(second)
                await trio.sleep(MAX_WAIT - 2)
                await home.answers.send(b"+first\r\n")
            tasks.cancel_scope.cancel()

    trio.run(test, clock=MockClock(autojump_threshold=0))
