"""Stores that break one sentence of the contract each, and the suite's test that has to fail on them.

A mutant is a class that changes one thing of a correct store. What survives the test that is named with it fails the
build; so does a test that fails on the correct store.
"""

from __future__ import annotations

import pickle
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mdash_backends.memory import MemoryBlobs, MemoryBus, MemoryDocuments, MemoryLogs
from mdashcore.storage import DURABLE, INSTANT, ORDERED, SHARED, Backend
from mdashcore.testing import BackendSuite

KINDS = (MemoryDocuments, MemoryLogs, MemoryBlobs, MemoryBus)

Open = Callable[[str], AbstractAsyncContextManager[Backend]]

CAUGHT = (Exception,)
"""What a suite's test ends with where it catches something: mostly `AssertionError`, alone or in a group."""


def stores_of(mutant: type) -> Iterable[Any]:
    """The four stores, of which one is the mutant's."""
    return (mutant() if issubclass(mutant, kind) else kind() for kind in KINDS)


def in_memory(mutant: type, *capabilities: str) -> Open:
    """A store in memory that says it has these capabilities."""

    @asynccontextmanager
    async def open_(name: str) -> AsyncIterator[Backend]:
        yield Backend(*stores_of(mutant), frozenset(capabilities))

    return open_


def shared(mutant: type) -> Open:
    """A store in memory that all openers of one name have together; a mutant is told with `opened` of each of them."""
    known: dict[str, tuple[Any, ...]] = {}

    @asynccontextmanager
    async def open_(name: str) -> AsyncIterator[Backend]:
        stores = known.setdefault(name, tuple(stores_of(mutant)))
        views = [
            store.opened() if isinstance(store, mutant) and hasattr(store, "opened") else store for store in stores
        ]
        yield Backend(*views, frozenset({SHARED}))

    return open_


def on_disk(mutant: type, folder: Path) -> Open:
    """A store that pickles all that it has into a file with every write, and reads it when it is opened."""

    @asynccontextmanager
    async def open_(name: str) -> AsyncIterator[Backend]:
        file = folder / name
        stores = pickle.loads(file.read_bytes()) if file.exists() else tuple(stores_of(mutant))  # noqa: S301

        def save() -> None:
            part = file.with_suffix(".part")
            part.write_bytes(pickle.dumps(stores))
            part.replace(file)

        saving = [store if isinstance(store, MemoryBus) else Saves(store, save) for store in stores]
        yield Backend(*saving, frozenset({DURABLE}))
        save()

    return open_


class Saves:
    """A store that is saved after each of its verbs, unless it says that it `saves_at_close`."""

    def __init__(self, store: Any, save: Callable[[], None]) -> None:
        self._store = store
        self._save = save

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._store, name)
        if name in ("scan", "get", "read", "size", "end") or getattr(self._store, "saves_at_close", False):
            return verb

        async def saved(*arguments: Any, **options: Any) -> Any:
            result = await verb(*arguments, **options)
            self._save()
            return result

        return saved


@pytest.fixture
def run_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs one test of the suite: ``run_suite(test, store, kind)``, of one of the kinds below."""
    monkeypatch.setattr("mdash_backends._bus_queue.BUS_QUEUE", 250)  # so that a flood takes no seconds

    def run(test: str, store: type, kind: str = "memory", time_limit: float = 60.0) -> None:
        openers = {
            "memory": in_memory(store),
            "instant": in_memory(store, INSTANT),
            "ordered": in_memory(store, ORDERED),
            "shared": shared(store),
            "disk": on_disk(store, tmp_path),
        }

        class Suite(BackendSuite):
            flood = 350
            topics = 200

            def open(self, name: str) -> AbstractAsyncContextManager[Backend]:
                return openers[kind](name)

            @asynccontextmanager
            async def failing(self, name: str, backend: Backend) -> AsyncIterator[None]:
                for broken in (backend.documents, backend.logs, backend.blobs, backend.bus):
                    broken.fails = True  # type: ignore[attr-defined]
                yield
                for broken in (backend.documents, backend.logs, backend.blobs, backend.bus):
                    broken.fails = False  # type: ignore[attr-defined]

        Suite.time_limit = time_limit
        getattr(Suite(), test)()

    return run


@pytest.fixture
def assert_caught(run_suite: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs one test of the suite on a mutant, and fails if the mutant survives."""
    # A broken bus is waited for in vain. On a busy machine a correct one may need longer than this.
    monkeypatch.setattr("mdashcore.testing._bus_suite.MESSAGE_TIMEOUT", 0.5)

    def check(test: str, mutant: type, kind: str = "memory", time_limit: float = 60.0) -> None:
        try:
            run_suite(test, mutant, kind, time_limit)
        except CAUGHT:
            return
        pytest.fail(f"{mutant.__name__} survives {test}")

    return check
