"""The conformance suite for `put_and_append`: a document and a log entry, both or neither."""

from __future__ import annotations

import itertools
import unittest
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

import anyio
import pytest

from mdashcore._errors import StorageError, VersionConflict
from mdashcore.storage import ATOMIC, DURABLE, INSTANT, Backend, LogEntry, PutAndAppend
from mdashcore.testing._kill import Acknowledge
from mdashcore.testing._suite import CANCEL_STEPS, INSTANT_TRIES, StorageSuite, cancel_after, run_immediately

__all__ = ["AtomicStepSuite"]

STEP_WRITERS: Final = 8

KILL_AFTER_STEPS: Final = 40  # acknowledged steps, before the process is killed


class AtomicStepSuite(StorageSuite):
    """The contract of `put_and_append`, for backends that have it, and of `ATOMIC`."""

    def test_atomic_or_optional(self) -> None:
        """`put_and_append`, if the backend has it, writes a document and an entry, or neither. Of several writers of
        one version exactly one succeeds, and only its entry is there.
        """

        async def test(backend: Backend, both: PutAndAppend) -> None:
            version, offset = await both("c", "k", b"0", expected=0, log="l", time=1.0, entry=b"0")
            assert (version > 0, offset) == (True, 0)
            outcomes: list[tuple[int, int]] = []

            async def write(number: int) -> None:
                body = b"%d" % number
                try:
                    outcomes.append(await both("c", "k", body, expected=version, log="l", time=2.5, entry=body))
                except VersionConflict:
                    return

            async with anyio.create_task_group() as tasks:
                for number in range(1, STEP_WRITERS + 1):
                    tasks.start_soon(write, number)
            [(newer, offset)] = outcomes
            assert (newer > version, offset) == (True, 1)
            document = await backend.documents.get("c", "k")
            assert document is not None
            assert document.version == newer
            assert list(await backend.logs.read("l", 0, 10)) == [
                LogEntry(0, 1.0, b"0"),
                LogEntry(1, 2.5, document.body),
            ]
            for expected in (0, version):
                with pytest.raises(VersionConflict):
                    await both("c", "k", b"9", expected=expected, log="l", time=3.0, entry=b"9")
            assert await backend.logs.end("l") == 2
            assert await backend.logs.append("l", 3.0, [b"3"]) == 2

        self._on_step(test)

    def test_atomic_steps_beside_other_writes(self) -> None:
        """Steps of different documents into one log, beside puts, appends and conflicts at the same time: each has its
        own result, and the log has each entry once.
        """

        async def test(backend: Backend, both: PutAndAppend) -> None:
            versions = {f"k{n}": await backend.documents.put("c", f"k{n}", b"0") for n in range(STEP_WRITERS)}
            offsets: list[int] = []

            async def step(key: str, version: int, body: bytes) -> None:
                newer, offset = await both("c", key, body, expected=version, log="l", time=1.0, entry=body)
                offsets.append(offset)
                found = await backend.documents.get("c", key)
                assert found is not None
                assert (found.version, found.body) == (newer, body)

            async def conflict(key: str, version: int) -> None:
                with pytest.raises(VersionConflict):
                    await both("c", key, b"9", expected=version + 10**6, log="l", time=1.0, entry=b"9")

            async def append(body: bytes) -> None:
                offsets.append(await backend.logs.append("l", 1.0, [body]))

            async with anyio.create_task_group() as tasks:
                for n, (key, version) in enumerate(versions.items()):
                    tasks.start_soon(step, key, version, b"%d" % n)
                    tasks.start_soon(conflict, key, version)
                    tasks.start_soon(append, b"%d" % (100 + n))
                    tasks.start_soon(backend.documents.put, "c", f"new{n}", b"1")
            entries = await backend.logs.read("l", 0, 4 * STEP_WRITERS)
            assert sorted(offsets) == [entry.offset for entry in entries] == list(range(2 * STEP_WRITERS))
            bodies = sorted(int(entry.body) for entry in entries)
            assert bodies == [*range(STEP_WRITERS), *range(100, 100 + STEP_WRITERS)]

        self._on_step(test)

    def test_atomic_a_cancelled_step_is_never_half_done(self) -> None:
        """Wherever a step is cancelled: document and entry are there, or neither."""

        async def test(name: str) -> None:
            async with self.open(name) as backend:
                both = _step_of(backend)
                for steps in range(CANCEL_STEPS):
                    version = await backend.documents.put("c", f"{steps}", b"0")
                    await backend.logs.append("l", 1.0, [b"0"])

                    async def write(steps: int = steps, version: int = version) -> None:
                        body = b"%d" % (steps + 1)
                        await both("c", f"{steps}", body, expected=version, log="l", time=1.0, entry=body)

                    ended = await cancel_after(steps, write)
                    await backend.logs.append("l", 1.0, [b"0"])  # what is still on its way is done before this
                    found = await backend.documents.get("c", f"{steps}")
                    assert found is not None
                    bodies = [entry.body for entry in await backend.logs.read("l", 0, 10 * CANCEL_STEPS)]
                    assert (found.body != b"0") == (b"%d" % (steps + 1) in bodies), "one was written without the other"
                    if ended:
                        break

        self.run_if(ATOMIC, test)

    def test_atomic_survives_a_kill(self) -> None:
        """After the process was killed with SIGKILL the document says the same as the last entry."""

        async def write(backend: Backend, acknowledge: Acknowledge) -> None:
            version = 0
            for n in itertools.count():
                step = _step_of(backend)
                version, _ = await step("c", "k", b"%d" % n, expected=version, log="l", time=1.0, entry=b"%d" % n)
                acknowledge()

        async def check(backend: Backend, count: int) -> None:
            document = await backend.documents.get("c", "k")
            end = await backend.logs.end("l")
            assert end >= count, f"{count} were acknowledged, {end} are there"
            assert document is not None
            assert int(document.body) == end - 1, "one was written without the other"

        for capability in (ATOMIC, DURABLE):
            self.name_if(capability, self.loops[0])
        self.run_killed(write, check, after=KILL_AFTER_STEPS)

    def test_atomic_failures_leave_both_or_neither(self) -> None:
        """While the system below the store fails, a step that raises `StorageError` is done as a whole, or not."""

        async def test(backend: Backend, fail: Callable[[], AbstractAsyncContextManager[None]]) -> None:
            if ATOMIC not in backend.capabilities:
                raise unittest.SkipTest("the backend does not say that it is atomic")
            both = _step_of(backend)
            version, _ = await both("c", "k", b"0", expected=0, log="l", time=1.0, entry=b"0")
            failures = 0
            async with fail():
                try:
                    await both("c", "k", b"1", expected=version, log="l", time=1.0, entry=b"1")
                except StorageError:
                    failures += 1
            document = await backend.documents.get("c", "k")
            assert document is not None
            assert await backend.logs.end("l") == int(document.body) + 1, "one was written without the other"

        self.run_failing(test)

    def test_atomic_instant(self) -> None:
        """A step of a backend that is `INSTANT`, too, never waits."""

        async def test(name: str) -> None:
            async with self.open(name) as backend:
                if backend.put_and_append is None:
                    return
                version = 0
                for n in range(INSTANT_TRIES):
                    step = backend.put_and_append("c", "k", b"0", expected=version, log="l", time=1.0, entry=b"0")
                    version, offset = run_immediately(step)
                    assert offset == n

        self.run_if(INSTANT, test)

    def _on_step(self, test: Callable[[Backend, PutAndAppend], Awaitable[None]]) -> None:
        async def opened(backend: Backend) -> None:
            if backend.put_and_append is None:
                raise unittest.SkipTest("the backend does not write a document and a log entry in one step")
            await test(backend, backend.put_and_append)

        self.run_open(opened)


def _step_of(backend: Backend) -> PutAndAppend:
    assert backend.put_and_append is not None, "a backend that says it is ATOMIC has put_and_append"
    return backend.put_and_append
