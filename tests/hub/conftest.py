"""The hub without a loop: its coroutines are run by hand, one step after the other, in whatever order a test wants."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Sequence
from itertools import chain, count
from math import inf
from typing import Any

import attrs
import pytest

from mdash_backends.memory import MemoryBlobs, MemoryBus, MemoryDocuments, MemoryLogs
from mdashcore._errors import StorageError, VersionConflict
from mdashcore.hub.records.contention import Contention
from mdashcore.storage import Backend, Document


class Pause:
    """Gives the word to the others."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class SteppedSignal:
    """What writers wait with. Any length of time has passed with the next step."""

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        self._is_set = True

    async def wait(self, seconds: float) -> bool:
        await Pause()
        while seconds == inf and not self._is_set:
            await Pause()
        return self._is_set


class SteppedDocuments:
    """A store in memory that pauses before and after every verb, as one at the other end of a network does.

    Before the verbs that `conflicts` names another writer is quicker, so many times.
    """

    def __init__(self) -> None:
        self.inner = MemoryDocuments()
        self.conflicts = 0
        self.puts = 0
        self.gets = 0

    async def get(self, collection: str, key: str) -> Document | None:
        self.gets += 1
        await Pause()
        found = await self.inner.get(collection, key)
        await Pause()
        return found

    async def put(self, collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
        await Pause()
        self.puts += 1
        if self.conflicts and expected is not None:
            self.conflicts -= 1
            raise VersionConflict(collection, key, expected=expected, actual=expected + 1)
        version = await self.inner.put(collection, key, body, expected=expected)
        await Pause()
        return version

    async def delete(self, collection: str, key: str, *, expected: int | None = None) -> bool:
        await Pause()
        deleted = await self.inner.delete(collection, key, expected=expected)
        await Pause()
        return deleted

    async def scan(self, collection: str, prefix: str = "", *, after: str = "") -> AsyncIterator[Document]:
        async for document in self.inner.scan(collection, prefix, after=after):
            await Pause()
            yield document


@attrs.define
class Outcome:
    """What a coroutine came to."""

    value: Any = None
    error: Exception | None = None


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end; what it returns or raises."""
    while True:
        try:
            coroutine.send(None)
        except StopIteration as done:
            return done.value


def interleave(coroutines: Sequence[Coroutine[Any, Any, Any]], choices: Sequence[int]) -> list[Outcome]:
    """Run coroutines side by side: each number of `choices` gives one of those that are left its next step.

    After the last number they have their steps in turns.
    """
    outcomes = [Outcome() for _ in coroutines]
    left = list(range(len(coroutines)))
    numbers = chain(choices, count())
    while left:
        chosen = left[next(numbers) % len(left)]
        try:
            coroutines[chosen].send(None)
        except StopIteration as done:
            outcomes[chosen].value = done.value
            left.remove(chosen)
        except Exception as exc:
            outcomes[chosen].error = exc
            left.remove(chosen)
    return outcomes


class Left(BaseException):
    """What a loop throws into a coroutine whose result is not wanted any more."""


def stop(coroutine: Coroutine[Any, Any, Any], steps: int, error: BaseException) -> bool:
    """Run a coroutine for so many steps, and throw `error` into it then; False if it had come to its end before.

    A store pauses before and after every verb, so a write that is stopped may have happened or not.
    """
    try:
        for _ in range(steps):
            coroutine.send(None)
        coroutine.throw(error)
    except StopIteration:
        return False
    except type(error):
        return True
    raise AssertionError("it goes on, whatever was thrown into it")


@attrs.define
class Tools:
    """What the tests of the hub are made with. A fixture, and made anew by each example of a property."""

    run: Callable[[Coroutine[Any, Any, Any]], Any] = run
    interleave: Callable[..., list[Outcome]] = interleave
    stop: Callable[[Coroutine[Any, Any, Any], int, BaseException], bool] = stop
    stops: tuple[Callable[[], BaseException], ...] = (Left, lambda: StorageError("away"))
    """What a change may be stopped by: a client that leaves, a storage that fails."""
    pause: Callable[[], Awaitable[None]] = Pause
    signal: Callable[[], SteppedSignal] = SteppedSignal

    def documents(self) -> SteppedDocuments:
        """An empty store."""
        return SteppedDocuments()

    def backend(self) -> Backend:
        """An empty backend on such a store."""
        return Backend(SteppedDocuments(), MemoryLogs(), MemoryBlobs(), MemoryBus())

    def contention(self) -> Contention:
        """How writers wait for each other."""
        return Contention(self.entropy(), SteppedSignal)

    def entropy(self) -> Callable[[int], bytes]:
        """Random bytes that are all different, and the same in each run."""
        numbers = count(1)
        return lambda size: next(numbers).to_bytes(8, "little").ljust(size, b"\0")[:size]


@pytest.fixture(scope="session")
def tools() -> Tools:
    """As `Tools` says."""
    return Tools()
