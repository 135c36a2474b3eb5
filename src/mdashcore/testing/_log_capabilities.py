"""The conformance suite for what a log store promises with a capability."""

from __future__ import annotations

import itertools
from typing import Any

import anyio

from mdashcore.storage import DURABLE, INSTANT, SHARED, Backend, LogEntry, LogStore
from mdashcore.testing._kill import Acknowledge
from mdashcore.testing._suite import INSTANT_TRIES, StorageSuite, run_immediately

__all__ = ["LOG_ROUNDS", "LOG_WRITERS", "LogCapabilitySuite"]

LOG_WRITERS = 8
LOG_ROUNDS = 10

KILL_AFTER_APPENDS = 40  # acknowledged appends, before the process is killed


class LogCapabilitySuite(StorageSuite):
    """The contract of log stores that are `DURABLE`, `SHARED` or `INSTANT`."""

    def test_log_survives_a_kill(self) -> None:
        """An acknowledged entry exists after the process was killed with SIGKILL, without a word to the store."""

        async def write(backend: Backend, acknowledge: Acknowledge) -> None:
            for n in itertools.count():
                await backend.logs.append("l", float(n), [b"%d" % n])
                acknowledge()

        async def check(backend: Backend, count: int) -> None:
            entries = await backend.logs.read("l", 0, count + 100)
            assert len(entries) >= count, f"{count} were acknowledged, {len(entries)} are there"
            assert list(entries) == [LogEntry(n, float(n), b"%d" % n) for n in range(len(entries))]
            assert await backend.logs.append("l", 0.0, [b"0"]) == len(entries)

        self.run_killed(write, check, after=KILL_AFTER_APPENDS)

    def test_log_durable(self) -> None:
        """An acknowledged entry exists when the store is opened again; offsets go on, also after a full trim."""

        async def test(name: str) -> None:
            async with self.open(name) as backend:
                await backend.logs.append("l", 1.25, [b"0", b"1"])
                await backend.logs.append("trimmed", 1.0, [b"0", b"1"])
                await backend.logs.trim("trimmed", 0)
                await backend.logs.begin("moved", 7)
            async with self.open(name) as backend:
                assert list(await backend.logs.read("l", 0, 10)) == [LogEntry(0, 1.25, b"0"), LogEntry(1, 1.25, b"1")]
                assert await backend.logs.append("l", 2.0, [b"2"]) == 2
                assert await backend.logs.append("trimmed", 2.0, [b"2"]) == 2
                assert await backend.logs.append("moved", 2.0, [b"7"]) == 7

        self.run_if(DURABLE, test)

    def test_log_shared(self) -> None:
        """Two openers of the store append to one sequence."""

        async def test(name: str) -> None:
            async with self.open(name) as one, self.open(name) as two:
                assert await one.logs.append("l", 1.0, [b"0"]) == 0
                assert await two.logs.append("l", 1.0, [b"1"]) == 1
                assert await one.logs.append("l", 1.0, [b"2"]) == 2
                assert [entry.body for entry in await two.logs.read("l", 0, 10)] == [b"0", b"1", b"2"]

        self.run_if(SHARED, test)

    def test_log_shared_under_load(self) -> None:
        """Entries that two openers append at the same time make one sequence; no read of either is stale."""

        async def test(name: str) -> None:
            async with self.open(name) as one, self.open(name) as two:
                firsts: list[int] = []

                async def write(writes: LogStore, reads: LogStore) -> None:
                    for _ in range(LOG_ROUNDS):
                        first = await writes.append("l", 1.0, [b"0", b"1"])
                        firsts.append(first)
                        assert [entry.offset for entry in await reads.read("l", first, 2)] == [first, first + 1]
                        assert await reads.end("l") >= first + 2

                async with anyio.create_task_group() as tasks:
                    for _ in range(LOG_WRITERS // 2):
                        tasks.start_soon(write, one.logs, two.logs)
                        tasks.start_soon(write, two.logs, one.logs)
                total = 2 * LOG_WRITERS * LOG_ROUNDS
                assert sorted(firsts) == list(range(0, total, 2))
                for backend in (one, two):
                    entries = await backend.logs.read("l", 0, total + 1)
                    assert [(e.offset, e.body) for e in entries] == [(n, b"%d" % (n % 2)) for n in range(total)]
                await one.logs.trim("l", 3)
                assert [entry.offset for entry in await two.logs.read("l", 0, 10)] == [total - 3, total - 2, total - 1]

        self.run_if(SHARED, test)

    def test_log_instant(self) -> None:
        """No verb ever waits, however long the log."""

        async def test(name: str) -> None:
            async with self.open(name) as backend:
                logs: Any = backend.logs
                for n in range(INSTANT_TRIES):
                    assert run_immediately(logs.end("l")) == 2 * n
                    assert run_immediately(logs.append("l", 1.0, [b"0", b"1"])) == 2 * n
                    assert [entry.offset for entry in run_immediately(logs.read("l", 2 * n, 10))] == [2 * n, 2 * n + 1]
                run_immediately(logs.trim("l", 10))
                assert len(run_immediately(logs.read("l", 0, 3 * INSTANT_TRIES))) == 10
                run_immediately(logs.begin("l", 10 * INSTANT_TRIES))
                assert run_immediately(logs.end("l")) == 10 * INSTANT_TRIES

        self.run_if(INSTANT, test)
