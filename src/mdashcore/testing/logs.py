"""The conformance suite for log stores: every sentence of the contract in `mdashcore.storage`, as a test."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdashcore._errors import InvalidInput, StorageError
from mdashcore.storage import MAX_OFFSET, Backend, LogEntry, LogStore
from mdashcore.testing._log_capabilities import LOG_ROUNDS, LOG_WRITERS, LogCapabilitySuite
from mdashcore.testing._log_model import LOG_OPERATIONS, replay_logs
from mdashcore.testing._suite import CANCEL_STEPS, ODD_KEYS, cancel_after, expect_failure

__all__ = ["LogStoreSuite"]

ODD_BODIES = [
    b'{ "b" : [ ] ,\t"a": 1.0 }',
    b'{\n  "a": [\r\n    1\n  ]\n}\n',
    b" 1 ",
    b'{"a":1,"a":2}',
    b"1e999",
    b"-0",
    b"1E5",
    b"9" * 5000,
    b'"\\u00e9\\/\xc3\xa9 \xe2\x80\xa8\\n"',
    '"caf\u00e9 cafe\u0301 \u212b \u00c5"'.encode(),
]
"""JSON that a parser and an encoder do not give back unchanged."""

ODD_TIMES = [0.0, -1.5, -0.000001, 1e-9, 1_700_000_000.123456, 1_700_000_000.9999999, 2.0**40 + 0.25, 1e300]
"""Times that are rounded by a store which keeps them as text, in milliseconds, or without a sign."""

LARGEST_ENTRY = 2**20  # bytes of an entry: eight of the largest frames that a device may send


class LogStoreSuite(LogCapabilitySuite):
    """The contract of log stores: offsets, order, trimming."""

    def test_log_offsets_count_from_zero(self) -> None:
        """The first entry has offset 0; entries of one append follow each other; `end` is the next offset."""

        async def test(logs: LogStore) -> None:
            assert await logs.end("l") == 0
            assert list(await logs.read("l", 0, 10)) == []
            assert await logs.append("l", 1.5, [b"0"]) == 0
            assert await logs.append("l", 2.5, [b"1", b"2", b"3"]) == 1
            assert await logs.end("l") == 4
            times = [1.5, 2.5, 2.5, 2.5]
            expected = [LogEntry(n, times[n], b"%d" % n) for n in range(4)]
            assert list(await logs.read("l", 0, 10)) == expected

        self._on_logs(test)

    def test_log_read_from_anywhere(self) -> None:
        """A read gives the entries from an offset on, at most as many as asked for."""

        async def test(logs: LogStore) -> None:
            await logs.append("l", 1.0, [b"%d" % n for n in range(100)])
            for start in (0, 1, 49, 50, 51, 98, 99, 100, 1000):
                for limit in (1, 2, 99, 100, 1000):
                    offsets = [entry.offset for entry in await logs.read("l", start, limit)]
                    assert offsets == list(range(100))[start : start + limit]

        self._on_logs(test)

    def test_log_logs_are_apart(self) -> None:
        """Every text names a log of its own."""

        async def test(logs: LogStore) -> None:
            for n, name in enumerate(ODD_KEYS):
                assert await logs.append(name, float(n), [b"%d" % n]) == 0
            for n, name in enumerate(ODD_KEYS):
                assert list(await logs.read(name, 0, 10)) == [LogEntry(0, float(n), b"%d" % n)]

        self._on_logs(test)

    def test_log_trim_keeps_the_newest(self) -> None:
        """After a trim the newest entries are there, under their offsets, and the next append goes on."""

        async def test(logs: LogStore) -> None:
            await logs.trim("l", 5)
            await logs.append("l", 1.0, [b"%d" % n for n in range(20)])
            await logs.trim("l", 100)
            assert len(await logs.read("l", 0, 100)) == 20
            await logs.trim("l", 5)
            assert [entry.offset for entry in await logs.read("l", 0, 100)] == [15, 16, 17, 18, 19]
            assert [entry.offset for entry in await logs.read("l", 3, 2)] == [15, 16]
            assert await logs.append("l", 2.0, [b"20"]) == 20
            await logs.trim("l", 0)
            assert list(await logs.read("l", 0, 100)) == []
            assert await logs.end("l") == 21
            assert await logs.append("l", 3.0, [b"21"]) == 21
            assert list(await logs.read("l", 0, 100)) == [LogEntry(21, 3.0, b"21")]

        self._on_logs(test)

    def test_log_trim_spares_what_comes_meanwhile(self) -> None:
        """With `before`, no entry from that offset on is removed, however many have been appended since it was
        chosen.
        """

        async def test(logs: LogStore) -> None:
            await logs.trim("l", 0, before=3)
            await logs.append("l", 1.0, [b"%d" % n for n in range(10)])
            await logs.trim("l", 8, before=5)
            assert [entry.offset for entry in await logs.read("l", 0, 100)] == list(range(2, 10))
            await logs.trim("l", 0, before=5)
            assert [entry.offset for entry in await logs.read("l", 0, 100)] == list(range(5, 10))
            await logs.trim("l", 0, before=2)
            assert [entry.offset for entry in await logs.read("l", 0, 100)] == list(range(5, 10))
            await logs.trim("l", 0, before=100)
            assert list(await logs.read("l", 0, 100)) == []
            assert await logs.append("l", 2.0, [b"10"]) == 10

        self._on_logs(test)

    def test_log_begins_at_an_offset(self) -> None:
        """The entry after `begin` has its offset, no earlier one is left, and `begin` never leads back."""

        async def test(logs: LogStore) -> None:
            for offset in (5_000_000, 10**15, 10**15 + 2):
                await logs.begin("l", offset)
                assert await logs.end("l") == offset
                assert list(await logs.read("l", 0, 10)) == []
                assert await logs.append("l", 1.0, [b"0", b"1"]) == offset
                assert [entry.offset for entry in await logs.read("l", 0, 10)] == [offset, offset + 1]
            for offset in (-1, 0, 10**15 + 3, MAX_OFFSET + 1):
                with pytest.raises(InvalidInput):
                    await logs.begin("l", offset)
            assert [entry.body for entry in await logs.read("l", 0, 10)] == [b"0", b"1"]
            await logs.trim("l", 1)
            assert await logs.append("l", 1.0, [b"2"]) == 10**15 + 4
            assert [entry.body for entry in await logs.read("l", 0, 10)] == [b"1", b"2"]

        self._on_logs(test)

    def test_log_concurrent_appends(self) -> None:
        """Offsets are neither skipped nor repeated, and the entries of one append stay together."""

        async def test(logs: LogStore) -> None:
            firsts: dict[int, int] = {}

            async def write(writer: int) -> None:
                for n in range(LOG_ROUNDS):
                    bodies = [b"[%d,%d,%d]" % (writer, n, i) for i in range(3)]
                    firsts[await logs.append("l", 1.0, bodies)] = writer * LOG_ROUNDS + n
                    await anyio.lowlevel.checkpoint()

            async with anyio.create_task_group() as tasks:
                for writer in range(LOG_WRITERS):
                    tasks.start_soon(write, writer)
            total = LOG_WRITERS * LOG_ROUNDS * 3
            assert sorted(firsts) == list(range(0, total, 3))
            entries = await logs.read("l", 0, total + 1)
            assert [entry.offset for entry in entries] == list(range(total))
            for first, number in firsts.items():
                for i in range(3):
                    assert entries[first + i].body == b"[%d,%d,%d]" % (*divmod(number, LOG_ROUNDS), i)

        self._on_logs(test)

    def test_log_visible_in_order(self) -> None:
        """A reader during writes never sees an entry before those with smaller offsets."""

        async def test(logs: LogStore) -> None:
            total = LOG_WRITERS * LOG_ROUNDS

            async def write() -> None:
                for _ in range(LOG_ROUNDS):
                    await logs.append("l", 1.0, [b"1"])
                    await anyio.lowlevel.checkpoint()

            async with anyio.create_task_group() as tasks:
                for _ in range(LOG_WRITERS):
                    tasks.start_soon(write)
                cursor = 0
                while cursor < total:
                    for entry in await logs.read("l", cursor, 7):
                        assert entry.offset == cursor, f"{entry.offset} was visible before {cursor}"
                        cursor += 1
                    await anyio.lowlevel.checkpoint()

        self._on_logs(test)

    def test_log_an_acknowledged_entry_is_there(self) -> None:
        """After an append has returned, a read from its offset gives its entries."""

        async def test(logs: LogStore) -> None:
            for n in range(LOG_WRITERS * LOG_ROUNDS):
                offset = await logs.append("l", 1.0, [b"%d" % n])
                assert [entry.body for entry in await logs.read("l", offset, 1)] == [b"%d" % n]
                assert await logs.end("l") == offset + 1

        self._on_logs(test)

    def test_log_many_and_large_entries(self) -> None:
        """A thousand entries in one append, all of them in one read, and an entry of a megabyte."""

        async def test(logs: LogStore) -> None:
            await logs.append("l", 1.0, [b"%d" % n for n in range(1000)])
            large = b'"%b"' % (b"x" * (LARGEST_ENTRY - 2))
            assert await logs.append("l", 2.0, [large]) == 1000
            assert list(await logs.read("l", 1000, 10)) == [LogEntry(1000, 2.0, large)]
            assert [entry.body for entry in await logs.read("l", 0, 1000)] == [b"%d" % n for n in range(1000)]
            assert [entry.offset for entry in await logs.read("l", 100, 800)] == list(range(100, 900))

        self._on_logs(test)

    def test_log_bodies_come_back_byte_for_byte(self) -> None:
        """Bodies come back with their spaces, line breaks, order and numbers, whatever their size."""

        async def test(logs: LogStore) -> None:
            await logs.append("l", 1.0, ODD_BODIES)
            assert [entry.body for entry in await logs.read("l", 0, 100)] == ODD_BODIES

        self._on_logs(test)

    def test_log_times_come_back(self) -> None:
        """Any finite time comes back as the same number, to the last bit."""

        async def test(logs: LogStore) -> None:
            for offset, time in enumerate(ODD_TIMES):
                assert await logs.append("l", time, [b"1"]) == offset
            assert [entry.time for entry in await logs.read("l", 0, 100)] == ODD_TIMES

        self._on_logs(test)

    def test_log_a_body_is_not_shared(self) -> None:
        """A buffer that the caller changes afterwards does not change the store; a body comes back as `bytes`."""

        async def test(logs: LogStore) -> None:
            buffer: Any = bytearray(b"[1]")
            await logs.append("l", 1.0, [buffer])
            buffer[1:2] = b"2"
            (entry,) = await logs.read("l", 0, 10)
            assert type(entry.body) is bytes
            assert entry.body == b"[1]"

        self._on_logs(test)

    def test_log_a_trim_loses_no_append(self) -> None:
        """An entry that is appended during trims is there, if its offset is not below their `before`."""

        async def test(logs: LogStore) -> None:
            total = LOG_WRITERS * LOG_ROUNDS
            seen: set[int] = set()

            async def write(writer: int) -> None:
                for n in range(LOG_ROUNDS):
                    body = b"[%d,%d]" % (writer, n)
                    offset = await logs.append("l", 1.0, [body])
                    for _ in range(writer % 4):  # then the running trims have ended
                        await anyio.lowlevel.checkpoint()
                    entries = await logs.read("l", offset, 1)
                    assert [(e.offset, e.body) for e in entries] == [(offset, body)], "an append was lost"
                    seen.add(offset)
                    await anyio.lowlevel.checkpoint()

            async def trim() -> None:
                while len(seen) < total:
                    await logs.trim("l", 0, before=next(n for n in itertools.count() if n not in seen))
                    await anyio.lowlevel.checkpoint()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(trim)
                for writer in range(LOG_WRITERS):
                    tasks.start_soon(write, writer)
            assert await logs.end("l") == total
            assert await logs.append("l", 1.0, [b"0"]) == total

        self._on_logs(test)

    def test_log_a_cancelled_append_is_never_half_done(self) -> None:
        """Wherever an append is cancelled: all its entries are there or none, and the offsets have no gap."""

        async def test(logs: LogStore) -> None:
            for steps in range(CANCEL_STEPS):
                bodies = [b"[%d,%d]" % (steps, i) for i in range(3)]
                if await cancel_after(steps, lambda bodies=bodies: logs.append("l", 1.0, bodies)):  # type: ignore[misc]
                    break
                await logs.append("l", 1.0, [b"0"])
            await logs.append("l", 1.0, [b"0"])
            entries = await logs.read("l", 0, 4 * CANCEL_STEPS + 10)
            assert [entry.offset for entry in entries] == list(range(len(entries)))
            assert await logs.end("l") == len(entries)
            bodies = [entry.body for entry in entries if entry.body != b"0"]
            for first in range(0, len(bodies), 3):
                number = bodies[first][1:].partition(b",")[0]
                assert bodies[first : first + 3] == [b"[%b,%d]" % (number, i) for i in range(3)]

        self._on_logs(test)

    def test_log_failures_are_storage_errors(self) -> None:
        """While the system below the store fails, every verb that fails raises `StorageError`; afterwards the store
        works.
        """

        async def test(backend: Backend, fail: Callable[[], AbstractAsyncContextManager[None]]) -> None:
            logs = backend.logs
            await logs.append("l", 1.0, [b"0", b"1"])
            failures: list[StorageError] = []
            async with fail():
                async with expect_failure(failures):
                    await logs.append("l", 1.0, [b"2"])
                async with expect_failure(failures):
                    await logs.read("l", 0, 10)
                async with expect_failure(failures):
                    await logs.end("l")
                async with expect_failure(failures):
                    await logs.trim("l", 10)
                async with expect_failure(failures):
                    await logs.begin("other", 10)
            assert failures, "nothing has failed: `failing` has to make the store fail"
            end = await logs.end("l")
            assert end in (2, 3)
            assert await logs.append("l", 2.0, [b"3"]) == end
            assert [entry.body for entry in await logs.read("l", 0, 10)][:2] == [b"0", b"1"]

        self.run_failing(test)

    def test_log_random_operations(self) -> None:
        """Any sequence of operations has the same results as on a plain list."""

        @given(st.lists(LOG_OPERATIONS, max_size=30))
        @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
        def replay(operations: list[tuple[Any, ...]]) -> None:
            self._on_logs(lambda logs: replay_logs(logs, operations))

        replay()

    def _on_logs(self, test: Callable[[LogStore], Awaitable[None]]) -> None:
        async def opened(backend: Backend) -> None:
            await test(backend.logs)

        self.run_open(opened)
