"""What is remembered of devices that send what cannot be read: pure, with the time as an argument."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdashcore._errors import Busy
from mdashcore.trio.connections.conduct import (
    FIRST_PENALTY,
    FORGIVEN_TIME,
    MAX_CONDUCT_RECORDS,
    MAX_REJECTED,
    MOST_PENALTY,
    NOTIFY_INTERVAL,
    REJECTED_TIME,
    Conduct,
)


def misbehave(conduct: Conduct, device: str, now: float) -> float:
    """Send garbage until it has consequences: the penalty."""
    verdicts = [conduct.reject(device, "not-json", now) for _ in range(MAX_REJECTED)]
    assert [verdict.penalty for verdict in verdicts[:-1]] == [0.0] * (MAX_REJECTED - 1)
    return verdicts[-1].penalty


def test_a_kind_is_told_once_in_a_minute() -> None:
    """With how many there were since the last time; each kind and each device for itself."""
    conduct = Conduct()
    assert [conduct.reject("a", "not-json", n).notify for n in range(5)] == [1, 0, 0, 0, 0]
    assert conduct.reject("a", "binary", 5).notify == 1
    assert conduct.reject("b", "not-json", 5).notify == 1
    assert conduct.reject("a", "not-json", NOTIFY_INTERVAL).notify == 5


def test_too_much_of_it_has_consequences() -> None:
    """The penalty grows with each time, to a bound; it ends, and is forgiven after an hour."""
    conduct = Conduct()
    now, penalties = 0.0, []
    for _ in range(10):
        conduct.check("a", now)
        penalties.append(misbehave(conduct, "a", now))
        with pytest.raises(Busy) as refused:
            conduct.check("a", now + 1)
        assert refused.value.retry_after == penalties[-1] - 1
        conduct.check("b", now)
        now += penalties[-1]
        conduct.check("a", now)
    assert penalties[0] == FIRST_PENALTY
    assert all(later == min(2 * earlier, MOST_PENALTY) for earlier, later in itertools.pairwise(penalties))
    assert misbehave(conduct, "a", now + FORGIVEN_TIME + 1) == FIRST_PENALTY


@given(st.lists(st.floats(0, 30), max_size=200))
def test_a_little_of_it_has_none(pauses: list[float]) -> None:
    """A penalty comes exactly where so many frames came within the time since the last one."""
    conduct, now, since = Conduct(), 0.0, []
    for pause in pauses:
        now += pause
        since = [*since, now][-MAX_REJECTED:]
        expected = len(since) == MAX_REJECTED and now - since[0] < REJECTED_TIME
        assert (conduct.reject("a", "not-json", now).penalty > 0) == expected
        since = [] if expected else since


def test_memory_is_bounded() -> None:
    """However many devices misbehave, a bounded number is remembered: the ones that did it last."""
    conduct = Conduct()
    for n in range(3 * MAX_CONDUCT_RECORDS):
        conduct.reject(str(n), "not-json", n / 1000)
        if n % 1000 == 0:
            conduct.reject("a", "not-json", n / 1000)
    assert len(conduct._records) <= MAX_CONDUCT_RECORDS
    assert len(conduct._records["a"].times) == 13
