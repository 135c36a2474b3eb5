"""What is removed because of its age: only what two checks in a row have found too old, whatever the clock did."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdash_backends.memory import MemoryBus, MemoryDocuments, MemoryLogs
from mdashcore._errors import StorageError
from mdashcore.hub.accounts import Accounts
from mdashcore.hub.clock import Clock
from mdashcore.hub.feed import Feed
from mdashcore.hub.maintenance.retention import Retention
from mdashcore.hub.records import logs as module

KEEP = 100.0  # seconds


class Store:
    """Logs of accounts on a clock that a test sets, and what removes from them."""

    def __init__(self, tools, *, keep=KEEP, accounts=("alice",)):
        self.tools = tools
        self.now = 1e6
        self.ahead = 0.0
        """Seconds by which the wall clock was set since the process has started: what else it shows has gone by."""
        self.logs = MemoryLogs()
        self.documents = MemoryDocuments()
        self.keep = keep
        self.accounts = Accounts(
            self.documents, now=self.clock, entropy=tools.entropy(), on_revoked=lambda account, key: None
        )
        for account in accounts:
            tools.run(self.accounts.register(account, "hash"))
        self.start()

    def clock(self):
        return self.now

    def start(self):
        """Start, or start again: only what is stored stays."""
        self.feed = Feed(self.logs, MemoryBus(), now=self.clock, keep_seconds=self.keep)
        self.retention = Retention(self.accounts, self.feed, Clock(lambda: self.now, lambda: self.now - self.ahead))

    def emit(self, *times, account="alice"):
        for self.now in times:
            self.tools.run(self.feed.emit(account, "n", "d1"))

    def check(self, now):
        """How often others had their turn."""
        self.now = now

        async def check():
            return [None async for _ in self.retention.check()]

        return len(self.tools.run(check()))

    def left(self, account="alice"):
        return [entry.offset for entry in self.logs._logs[f"notifications/{account}"]]


def prefix(times, oldest):
    """How many entries at the beginning of a log are too old."""
    return next((number for number, time in enumerate(times) if time >= oldest), len(times))


@given(
    times=st.lists(st.integers(0, 500), max_size=60),
    checks=st.lists(st.integers(0, 1000), max_size=8),
    step=st.integers(1, 5),
)
def test_two_checks_in_a_row_have_to_agree(tools, times, checks, step):
    """Whatever the clock showed when something was stored, and when it was checked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PAGE_STEP", step)
        patch.setattr(module, "READ_STEP", 2 * step)
        store = Store(tools)
        store.emit(*times)
        gone, before = 0, 0
        for now in checks:
            store.check(now)
            found = max(gone, gone + prefix(times[gone:], now - KEEP))
            gone = max(gone, min(found, before))
            before = found
            assert not times or store.left() == list(range(gone, len(times)))


def test_a_clock_that_jumps_for_a_moment_removes_nothing(tools):
    """A year ahead, at one check of three, and again later; then the month has really gone by."""
    store = Store(tools)
    store.emit(1000, 1010, 1020)
    for now in (1030, 1e8, 1040, 1e9, 1050):
        store.check(now)
        assert store.left() == [0, 1, 2]
    store.check(1200)
    assert store.left() == [0, 1, 2]
    store.check(1205)
    assert store.left() == []


def test_a_restart_between_two_checks_starts_anew(tools):
    """A clock that is wrong at the boot is judged by the second check of the same process."""
    store = Store(tools)
    store.emit(1000, 1010)
    for _ in range(3):
        store.start()
        store.check(1e9)
        assert store.left() == [0, 1]
    store.check(1020)
    assert store.left() == [0, 1]


def test_an_account_of_which_nothing_is_heard_any_more(tools):
    """Its notifications go as well; those of other accounts stay."""
    store = Store(tools, accounts=("alice", "bob"))
    store.emit(1000, account="alice")
    store.emit(1100, account="bob")
    store.check(1150)
    store.check(1151)
    assert (store.left("alice"), store.left("bob")) == ([], [0])


def test_a_clock_that_was_wrong_costs_no_young_notification(tools):
    """Before it was set the clock stood at 0: what is behind such entries is not taken for old with them."""
    store = Store(tools)
    store.emit(10**6, 0, 1, 10**6 + 10, 10**6 + 50)
    for now, left in ((10**6 + 60, [0, 1, 2, 3, 4]), (10**6 + 105, [0, 1, 2, 3, 4]), (10**6 + 106, [3, 4])):
        store.check(now)
        assert store.left() == left


def test_what_comes_between_the_look_and_the_removal_stays(tools):
    """Another node appends just then."""
    store = Store(tools)
    store.emit(1000)
    trim = store.logs.trim

    async def late(log, keep, *, before=None):
        await store.logs.append(log, store.now, [b"{}"])
        await trim(log, keep, before=before)

    store.logs.trim = late
    store.check(2000)
    store.check(2001)
    assert store.left() == [1]


def test_notifications_may_be_kept_at_any_age(tools):
    """With no bound nothing is even read."""
    store = Store(tools, keep=inf)
    store.emit(1, 2, 3)
    assert store.check(1e12) == store.check(2e12) == 0
    assert store.left() == [0, 1, 2]


def test_a_long_log_is_read_in_large_pieces(tools):
    """Ten thousand notifications that are all too old, in some more than a hundred reads; a log with nothing old in
    one."""
    store = Store(tools)
    store.emit(*range(1000, 1000 + 10_000))
    assert store.check(1e6) < 170
    store.check(1e6)
    assert store.left() == []
    store.emit(1e6)
    assert store.check(1e6) == 1


def test_a_log_that_cannot_be_read_keeps_no_other_from_it(tools, caplog):
    """It is named, and looked at again at the next check."""
    store = Store(tools, accounts=("alice", "bob"))
    store.emit(1000, account="alice")
    store.emit(1000, account="bob")
    read = store.logs.read

    async def fail(log, start, limit):
        if log.endswith("alice"):
            raise StorageError("damaged")
        return await read(log, start, limit)

    store.logs.read = fail
    store.check(2000)
    store.check(2001)
    assert (store.left("alice"), store.left("bob")) == ([0], [])
    assert "alice" in caplog.text
    store.logs.read = read
    store.check(2002)
    store.check(2003)
    assert store.left("alice") == []


@given(steps=st.lists(st.tuples(st.floats(-1e9, 1e9), st.integers(1, 60)), max_size=6))
def test_a_wall_clock_that_is_set_ages_nothing(tools, steps):
    """What has lain here for less than `KEEP` seconds is there at every check, and soon after that it is gone."""
    store = Store(tools)
    time, stored = 0.0, []

    def passes(seconds):
        nonlocal time
        time += seconds
        store.now += seconds

    for step, seconds in [*steps, *[(0.0, 30)] * 12]:
        store.ahead += step
        store.now += step
        store.emit(store.now)
        stored.append(time)
        passes(seconds)
        store.check(store.now)
        left = store.left()
        assert [n for n, at in enumerate(stored) if time - at < KEEP] == [n for n in left if time - stored[n] < KEEP]
    oldest = min(time - stored[n] for n in store.left()[:1])
    assert oldest < 2 * KEEP + 200, oldest
