"""Series of stored notifications: the same as if each notification were looked at alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdash_backends.memory import MemoryBlobs, MemoryBus, MemoryDocuments, MemoryLogs
from mdashcore import _json
from mdashcore.hub import Hub, series_reader
from mdashcore.hub.notification_reader import log_name
from mdashcore.hub.series_reader import SeriesRequest
from mdashcore.identity import DeviceKey
from mdashcore.notifications import Notification
from mdashcore.storage import Backend, LogEntry

LAMP = DeviceKey("alice", "lamp")


class DamagedLogs(MemoryLogs):
    """A log of which some entries cannot be read."""

    def __init__(self):
        super().__init__()
        self.damaged = set()

    async def read(self, log, start, limit):
        return [
            LogEntry(entry.offset, entry.time, b"", "torn") if entry.offset in self.damaged else entry
            for entry in await super().read(log, start, limit)
        ]


@pytest.fixture(scope="session")
def make_hub(tools):
    """Makes a hub at second 1000 and its logs."""

    def make(monotonic=lambda: 0.0):
        logs = DamagedLogs()
        backend = Backend(MemoryDocuments(), logs, MemoryBlobs(), MemoryBus())
        return Hub(backend, now=lambda: 1000.0, monotonic=monotonic, entropy=tools.entropy(), signal=tools.signal), logs

    return make


def report(value):
    """The data of an update that reports a value under `t`."""
    return _json.encode({"shadow": {"state": {"reported": {"t": value}}, "version": 1, "timestamp": 1}})


numbers = st.integers(-50, 50) | st.floats(-50, 50)
data = st.one_of(
    numbers.map(report),
    st.sampled_from(["7", None, True, [1], {"u": 2}]).map(report),
    st.just(b'{"shadow":{"state":null,"version":3,"timestamp":1}}'),
    st.just(b'{"shadow":{"state":{"reported":null},"version":3,"timestamp":1}}'),
    st.just(b'{"shadow":{"state":{"reported":{"t":1e999}},"version":3,"timestamp":1}}'),
    st.just(b'{"shadow":{"state":{"desired":{"t":5}},"version":3,"timestamp":1}}'),
    st.just(b'{"name":"Pump"}'),
)
entries = st.tuples(
    st.sampled_from(["lamp", "lamp", "lamp2"]),
    st.just("updated") | st.sampled_from(["rpc.out.updated", "online"]),
    data,
    st.integers(880, 1010),
)


@given(
    log=st.lists(entries, max_size=25),
    step=st.integers(1, 7),
    keep=st.integers(0, 25),
    damaged=st.frozensets(st.integers(0, 24), max_size=3),
    points=st.integers(1, 5),
)
def test_a_series_law(tools, make_hub, log, step, keep, damaged, points):
    """Of what is kept and can be read, the numbers that the device has reported within the range. Times are in any
    order, values of any type, and other devices and notifications in between. So much is read in one step as may be."""
    hub, logs = make_hub()
    for device, name, value, time in log:
        stored = Notification(name, device, None if name == "online" else value).encode()
        tools.run(logs.append(log_name("alice"), float(time), [stored]))
    tools.run(logs.trim(log_name("alice"), keep))
    logs.damaged = damaged
    query = SeriesRequest({"t": ("t",)}, points, 900.0, 1000.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mdashcore.hub.records.logs.READ_STEP", step)
        found = tools.run(hub.series.read(LAMP, query))
    expected = {}
    for offset, (device, name, value, time) in enumerate(log):
        if offset < len(log) - keep or offset in damaged or (device, name) != ("lamp", "updated"):
            continue
        try:
            number = _json.decode(value)["shadow"]["state"]["reported"]["t"]
        except Exception:  # noqa: S112 - the reference: whatever is no number there
            continue
        if isinstance(number, int | float) and 900 <= time <= 1000:
            bucket = min(points - 1, int((time - 900) * points / 100))
            expected.setdefault(bucket, []).append(float(number))
    assert [(point.min, point.max, point.count) for point in found.points["t"]] == [
        (min(values), max(values), len(values)) for _, values in sorted(expected.items())
    ]
    for point, (_, values) in zip(found.points["t"], sorted(expected.items()), strict=True):
        assert point.avg == pytest.approx(sum(values) / len(values), abs=1e-9)
    assert found.is_complete


def append(tools, logs, time, name, data=None, device="lamp"):
    tools.run(logs.append(log_name("alice"), float(time), [Notification(name, device, data).encode()]))


def test_a_pause_after_each_notification(tools, make_hub):
    """One may be large: the pass holds the loop no longer than for one of them."""
    hub, logs = make_hub()
    pauses = 0

    async def pause():
        nonlocal pauses
        pauses += 1

    for second in range(20):
        append(tools, logs, 900 + second, "updated", report(second))
    found = tools.run(hub.series.read(LAMP, SeriesRequest({"t": ("t",)}, 10), pause))
    assert sum(point.count for point in found.points["t"]) == 20
    assert pauses >= 20


def test_all_that_is_stored(tools, make_hub):
    """Without a range it goes from the oldest notification to now, and says what was read; of an empty log, an hour."""
    hub, logs = make_hub()
    query = SeriesRequest({"t": ("t",)}, 10)
    found = tools.run(hub.series.read(LAMP, query))
    assert (found.start, found.end, found.read_from, found.is_complete) == (-2600.0, 1000.0, None, True)
    append(tools, logs, 500, "created")
    append(tools, logs, 600, "online")
    append(tools, logs, 650, "updated", report(1))
    append(tools, logs, 700, "offline")
    found = tools.run(hub.series.read(LAMP, query))
    assert (found.start, found.end, found.read_from) == (500.0, 1000.0, 500.0)
    assert [(gap.start, gap.end) for gap in found.gaps] == [(500.0, 600.0), (700.0, 1000.0)]
    assert [(point.time, point.count) for point in found.points["t"]] == [(650.0, 1)]


def test_a_device_that_connects_in_the_moment_of_its_registration(tools, make_hub):
    """It is online from then on: of the same time the later notification counts."""
    hub, logs = make_hub()
    append(tools, logs, 900, "created")
    append(tools, logs, 900, "online")
    assert tools.run(hub.series.read(LAMP, SeriesRequest({"t": ("t",)}, 10))).gaps == []


def test_of_the_time_before_the_log_no_gap_is_told(tools, make_hub):
    """Nothing is known of it."""
    hub, logs = make_hub()
    append(tools, logs, 990, "online")
    found = tools.run(hub.series.read(LAMP, SeriesRequest({"t": ("t",)}, 10, 0.0, 1000.0)))
    assert (found.read_from, found.gaps) == (990.0, [])


@pytest.mark.parametrize("bound", ["entries", "time", "old"])
def test_a_pass_has_bounds(tools, make_hub, monkeypatch, bound):
    """It ends after so many notifications, or so much time, and says that it is not complete; it ends too when
    so many notifications, one after the other, were before the range: then nothing is missing."""
    clock = iter(range(10_000))
    hub, logs = make_hub(monotonic=lambda: float(next(clock)) if bound == "time" else 0.0)
    for second in range(600):
        append(tools, logs, 300 + second, "updated", report(second))
    monkeypatch.setattr(series_reader, "MAX_PASS_ENTRIES", 100 if bound == "entries" else 1000)
    monkeypatch.setattr(series_reader, "MAX_OLD_RUN", 30 if bound == "old" else 1000)
    start = 850.0 if bound == "old" else 0.0
    found = tools.run(hub.series.read(LAMP, SeriesRequest({"t": ("t",)}, 1, start, 1000.0)))
    assert found.points["t"][0].max == 599
    assert found.is_complete == (bound == "old")
    assert found.read_from == {"entries": 772.0, "time": 644.0, "old": 772.0}[bound]
    assert found.points["t"][0].count == {"entries": 128, "time": 256, "old": 50}[bound]
