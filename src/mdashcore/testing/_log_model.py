"""Lists of entries, as the model of a log store."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from mdashcore.storage import LogEntry, LogStore

__all__ = ["LOG_OPERATIONS", "replay_logs"]

_LOGS = st.sampled_from(["a", "A", "a/b"])
LOG_OPERATIONS = st.one_of(
    st.tuples(st.just("append"), _LOGS, st.integers(1, 5)),
    st.tuples(st.just("read"), _LOGS, st.integers(0, 40), st.integers(1, 10)),
    st.tuples(st.just("trim"), _LOGS, st.integers(0, 10), st.none() | st.integers(0, 40)),
    st.tuples(st.just("begin"), _LOGS, st.integers(0, 5)),
    st.tuples(st.just("end"), _LOGS),
)


async def replay_logs(logs: LogStore, operations: list[tuple[Any, ...]]) -> None:
    """Run all operations on the store and on lists, and compare after each step."""
    model: dict[str, list[LogEntry]] = {}
    ends: dict[str, int] = {}
    for name, log, *arguments in operations:
        entries, end = model.setdefault(log, []), ends.setdefault(log, 0)
        if name == "append":
            bodies = [b"%d" % (end + i) for i in range(arguments[0])]
            assert await logs.append(log, float(end), bodies) == end
            entries += [LogEntry(end + i, float(end), body) for i, body in enumerate(bodies)]
            ends[log] = end + len(bodies)
        elif name == "read":
            start, limit = arguments
            assert list(await logs.read(log, start, limit)) == [e for e in entries if e.offset >= start][:limit]
        elif name == "trim":
            keep, before = arguments
            await logs.trim(log, keep, before=before)
            old = [e for e in entries[: max(0, len(entries) - keep)] if before is None or e.offset < before]
            del entries[: len(old)]
        elif name == "begin":
            ends[log] = end + arguments[0]
            await logs.begin(log, ends[log])
            entries.clear()
        else:
            assert await logs.end(log) == end
