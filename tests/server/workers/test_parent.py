"""The parent of the workers, as a worker sees it."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import trio
import trio.testing

from mdashcore.server.metrics.app import METRICS_PATH
from mdashcore.server.metrics.registry import Metrics
from mdashcore.server.workers.channel import Channel
from mdashcore.server.workers.parent import GATHER_TIMEOUT, Parent


async def no_app(scope: Any, receive: Any, send: Any) -> None:
    """Never called."""
    raise AssertionError


async def test_without_an_answer_of_the_parent_metrics_are_503(autojump_clock: trio.testing.MockClock) -> None:
    """In less than the time-out of Prometheus: a text without metrics would count as a good answer."""
    ours, theirs = trio.socket.socketpair()
    answers: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        answers.append(message)

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    with theirs:
        parent = Parent(Channel(trio.SocketStream(ours)))
        app = Metrics(parent).app(None, no_app)
        started = trio.current_time()
        await app({"type": "http", "method": "GET", "path": METRICS_PATH, "headers": []}, receive, send)
        assert trio.current_time() - started <= GATHER_TIMEOUT
        ours.close()
    assert answers[0]["status"] == 503
    assert b"retry-after" in dict(answers[0]["headers"])
