"""Search in stored notifications: part by part the same as looking at each one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdash_backends.memory import MemoryBlobs, MemoryBus, MemoryDocuments, MemoryLogs
from mdashcore import _json
from mdashcore.hub import Hub, log_search
from mdashcore.hub.log_search import LogSearch
from mdashcore.notifications import is_event
from mdashcore.storage import Backend

DATA = [None, b'{"data":"Out of MEMORY"}', b'{"data":"say \\"hi\\""}', b'{"n":1e999}', b'"\\u00c4rger"', b'{"data":1}']


def make_hub(tools, now=lambda: 1000.0, monotonic=lambda: 0.0):
    backend = Backend(MemoryDocuments(), MemoryLogs(), MemoryBlobs(), MemoryBus())
    return Hub(backend, now=now, monotonic=monotonic, entropy=tools.entropy(), signal=tools.signal)


def search_all(tools, hub, limit, **wanted):
    """Follow the cursor to the end; the offsets that were found, and the number of parts."""
    found, before, parts = [], None, 0
    while True:
        part = tools.run(hub.log_search.search("alice", LogSearch(**wanted, before=before, limit=limit)))
        assert len(part.frames) <= limit
        found[:0] = [_json.decode(frame.replace(b"1e999", b"1"))["offset"] for frame in part.frames]
        parts += 1
        if part.next is None:
            return found, parts
        assert before is None or part.next < before
        before = part.next


@given(
    log=st.lists(
        st.tuples(
            st.sampled_from(["online", "rpc.out.Log", "rpc.out.Lo", "data"]),
            st.sampled_from(["d1", "d2"]),
            st.sampled_from(DATA),
            st.integers(0, 20),
        ),
        max_size=25,
    ),
    text=st.sampled_from(["", "out of memory", 'say "hi"', "ärger", "1e999", "d1", "DATA", "LOG", "nothing"]),
    device=st.none() | st.sampled_from(["d1", "d3"]),
    names=st.sampled_from([(), ("online",), ("rpc.out.*", "data"), ("rpc.out.Lo",)]),
    start=st.none() | st.integers(0, 20),
    end=st.none() | st.integers(0, 20),
    limit=st.integers(1, 6),
    keep=st.integers(0, 25),
    most=st.integers(1, 12),
)
def test_a_search_law(tools, log, text, device, names, start, end, limit, keep, most):
    """All that fits of what is kept, once, in the order of offsets, in parts of any size; of what is older, the events.
    The text is looked for in name, id and data: not in the names of these members, but as a person reads them.
    """
    second = 0
    hub = make_hub(tools, now=lambda: float(second))
    for name, id, data, time in log:
        second = time
        tools.run(hub.feed.emit("alice", name, id, data))
    tools.run(hub.feed._logs.trim("notifications/alice", keep))

    def fits(offset, name, id, data, time):
        shown = (data or b"").decode()
        read = {DATA[2]: 'data say "hi"', DATA[4]: "Ärger"}.get(data, "")
        return (
            (offset >= len(log) - keep or is_event(name, data))
            and any(text.casefold() in part.casefold() for part in (name, id, shown, read))
            and device in (None, id)
            and (not names or name in names or ("rpc.out.*" in names and name.startswith("rpc.out.")))
            and (start is None or time >= start)
            and (end is None or time <= end)
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mdashcore.hub.records.logs.READ_STEP", 3)
        patch.setattr(log_search, "MAX_SEARCHED", most)
        found, _ = search_all(tools, hub, limit, text=text, device=device, names=names, start=start, end=end)
    assert found == [offset for offset, each in enumerate(log) if fits(offset, *each)]


def test_a_pause_after_each_notification(tools):
    """One may be large: the search holds the loop no longer than for one of them. So it does among older events."""
    hub, pauses = make_hub(tools), 0

    async def pause():
        nonlocal pauses
        pauses += 1

    for _ in range(20):
        tools.run(hub.feed.emit("alice", "online", "d1"))
        tools.run(hub.feed.emit("alice", "updated", "d1", b'["\\n"%b]' % (b',"x"' * 1000)))
    tools.run(hub.feed._logs.trim("notifications/alice", 20))
    part = tools.run(hub.log_search.search("alice", LogSearch("xx"), pause))
    assert part.frames == ()
    assert pauses >= part.checked > 20  # those of the log, and events that are older


@pytest.mark.parametrize("bound", ["entries", "time", "bytes", "earlier"])
def test_a_part_has_bounds(tools, monkeypatch, bound):
    """So many notifications, so much time, so many bytes; and it ends where all are earlier than the wanted time."""
    clock = iter(range(1000))
    second = 0.0
    monotonic = (lambda: float(next(clock))) if bound == "time" else lambda: 0.0
    hub = make_hub(tools, now=lambda: second, monotonic=monotonic)
    for second in range(300):  # noqa: B007 - the clock of the hub
        tools.run(hub.feed.emit("alice", "n", "d1", b'"%b"' % (b"x" * 100)))
    monkeypatch.setattr(log_search, "MAX_SEARCHED", 100 if bound == "entries" else 10_000)
    monkeypatch.setattr(log_search, "MAX_FOUND_BYTES", 1000 if bound == "bytes" else 10_000_000)
    monkeypatch.setattr(log_search, "MAX_EARLIER_RUN", 10 if bound == "earlier" else 1000)
    text, start = ("x", None) if bound == "bytes" else ("nothing", 280.0 if bound == "earlier" else None)
    part = tools.run(hub.log_search.search("alice", LogSearch(text, start=start, limit=1000)))
    assert (part.next is None) == (bound == "earlier")
    assert part.checked == {"entries": 128, "time": 128, "bytes": 7, "earlier": 64}[bound]
    assert part.reached == 300 - part.checked
