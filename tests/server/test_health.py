"""The health of a server: what load balancers and service managers are told, whatever the store does."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import httpx
import pytest
import trio
import trio.testing

from mdash_backends.memory import MemoryBlobs, MemoryBus, MemoryDocuments, MemoryLogs
from mdashcore._errors import Damaged, StorageError
from mdashcore.hub import Hub
from mdashcore.hub.nodes import BEAT_INTERVAL, DEAD_AFTER
from mdashcore.server.health import PROBE_AGE, PROBE_TIMEOUT, Health, Readiness
from mdashcore.storage import SHARED, Backend
from mdashcore.trio.node import open_node

READY = Readiness(store=True, cluster=True, accepting=True)


class Documents(MemoryDocuments):
    """Documents of which one is asked for; the test says what happens then."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.trouble: Any = None
        self.frozen = False

    async def get(self, collection: str, key: str) -> Any:
        self.asked += collection == "accounts"
        if self.trouble is not None:
            await self.trouble()
        return await super().get(collection, key)

    async def put(self, collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
        if self.frozen:
            raise StorageError("the store is away")
        return await super().put(collection, key, body, expected=expected)


@attrs.define
class Case:
    """The health of a node in virtual time."""

    health: Health
    documents: Documents


@pytest.fixture
async def case() -> Any:
    """On a store that several nodes could share."""
    documents = Documents()
    backend = Backend(documents, MemoryLogs(), MemoryBlobs(), MemoryBus(), frozenset({SHARED}))
    hub = Hub(backend, now=trio.current_time, monotonic=trio.current_time, entropy=os.urandom)
    async with open_node(hub) as node:
        yield Case(Health(node), documents)


def raising(error: Exception) -> Any:
    """Trouble: the store fails."""

    async def fail() -> None:
        raise error

    return fail


async def hang(*, shielded: bool) -> None:
    """Trouble: the store never answers, and may not even be told that nothing waits for it."""
    with trio.CancelScope(shield=shielded):
        await trio.sleep(1_000)


async def test_a_server_that_works_is_ready(anyone: httpx.AsyncClient, server: Any) -> None:
    """Without credentials; HEAD tells the same."""
    checks = {"store": True, "cluster": True, "accepting": True}
    for path, body in {"livez": {"status": "ok"}, "readyz": {"status": "ready", "checks": checks}}.items():
        answer = await anyone.get(f"{server.url}/{path}")
        assert (answer.status_code, answer.json()) == (200, body)
        assert (await anyone.head(f"{server.url}/{path}")).status_code == 200


async def test_a_server_that_shuts_down_is_not_ready(anyone: httpx.AsyncClient, server: Any) -> None:
    """The answer names the part. The process lives, and its store works."""
    server.service.health.drain()
    answer = await anyone.get(f"{server.url}/readyz")
    assert answer.status_code == 503
    assert answer.json() == {
        "status": "not ready",
        "checks": {"store": True, "cluster": True, "accepting": False},
        "error": {"code": 503, "message": "not ready: accepting"},
    }
    for path in ("livez", "healthz"):
        assert (await anyone.get(f"{server.url}/{path}")).status_code == 200


@pytest.mark.parametrize("shielded", [False, True])
async def test_a_store_that_hangs(
    autojump_clock: Any, case: Case, shielded: bool, server_log: Callable[[], str]
) -> None:
    """Each answer comes in time, and says so; a moment after the store is back it is ready again."""
    case.documents.trouble = partial(hang, shielded=shielded)
    for _ in range(5):
        with trio.fail_after(PROBE_TIMEOUT + 0.01):
            assert (await case.health.check()).failing == ["store"]
        with trio.fail_after(PROBE_TIMEOUT + 0.01):
            assert not await case.health.store_answers()
        await trio.sleep(PROBE_AGE)
    case.documents.trouble = None
    await trio.sleep(1_000)
    assert await case.health.store_answers()
    assert await case.health.check() == READY
    assert server_log().count("the storage is not well: no answer") == 1
    assert server_log().count("the storage is well again") == 1


async def test_a_slow_store_is_well_for_all_that_ask(
    autojump_clock: Any, case: Case, server_log: Callable[[], str]
) -> None:
    """An answer that comes in time counts for all that have waited for it, also if another question begins in the same
    moment."""

    async def slow() -> None:
        await trio.sleep(PROBE_TIMEOUT / 2)

    case.documents.trouble = slow
    async with trio.open_nursery() as nursery:

        async def ask(after: float) -> None:
            await trio.sleep(after)
            assert await case.health.check() == READY

        for n in range(200):
            nursery.start_soon(ask, n * PROBE_TIMEOUT / 100)
    assert "not well" not in server_log()


async def test_a_store_that_fails(autojump_clock: Any, case: Case, server_log: Callable[[], str]) -> None:
    """Whatever it raises; a damaged document is an answer. The log has one line for the whole time."""
    for error in (StorageError("away"), ValueError("a bug"), TimeoutError()):
        case.documents.trouble = raising(error)
        await trio.sleep(PROBE_AGE)
        assert (await case.health.check()).failing == ["store"]
        assert await case.health.store_answers()  # with an error
    case.documents.trouble = raising(Damaged("accounts/nobody"))
    await trio.sleep(PROBE_AGE)
    assert await case.health.check() == READY
    assert server_log().count("is not well") == 1


async def test_strangers_cost_the_store_one_read_a_second(autojump_clock: Any, case: Case) -> None:
    """However many ask, and however slow it is."""

    async def ask() -> None:
        for _ in range(100):
            assert await case.health.store_works()
            await trio.sleep(0.1)

    case.documents.trouble = partial(trio.sleep, 0.5)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(ask)
    assert 1 < case.documents.asked <= (trio.current_time() - began) / PROBE_AGE + 1


async def test_a_node_that_other_nodes_take_for_dead(autojump_clock: Any, case: Case) -> None:
    """It is not ready as soon as its last sign of life is too old, until the next is stored."""
    case.documents.frozen = True
    await trio.sleep(DEAD_AFTER - BEAT_INTERVAL - 0.1)
    assert await case.health.check() == READY
    await trio.sleep(BEAT_INTERVAL + 0.2)
    assert (await case.health.check()).failing == ["cluster"]
    case.documents.frozen = False
    await trio.sleep(2 * BEAT_INTERVAL)
    assert await case.health.check() == READY
