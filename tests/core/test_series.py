"""Series: the values of a device over time in buckets, and the gaps in which it was offline."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdashcore._errors import InvalidInput
from mdashcore.series import Gap, PresenceEvent, Series, gaps, number_at

times = st.floats(-10, 110) | st.integers(-10, 110).map(float)
values = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(times, values), max_size=60), st.integers(1, 13), st.integers(0, 9), st.randoms())
def test_a_bucket_has_what_a_list_of_its_values_has(added, points, start, random):
    """Count, extremes and mean are those of the values between its begin and the next one, in whatever order these
    came. The last bucket includes the end of the range. No mean leaves its extremes, however large the values are."""
    end = start + 91.7
    series = Series(start, end, points)
    random.shuffle(added)
    for each in added:
        series.add(*each)
    edges = [start + (end - start) * number / points for number in range(points)]
    expected = []
    for number, edge in enumerate(edges):
        is_last = number == points - 1
        inside = [
            value for time, value in added if edge <= time and (time <= end if is_last else time < edges[number + 1])
        ]
        if inside:
            expected.append((edge, min(inside), max(inside), len(inside), sum(value / len(inside) for value in inside)))
    found = series.points()
    assert [(each.time, each.min, each.max, each.count) for each in found] == [each[:4] for each in expected]
    for point, (*_, mean) in zip(found, expected, strict=True):
        assert point.min <= point.avg <= point.max
        assert point.avg == pytest.approx(mean, rel=1e-9, abs=1e-9 * max(abs(point.min), abs(point.max)))


@pytest.mark.parametrize(("start", "end", "points"), [(5, 5, 1), (6, 5, 1), (1e9, 1e9 + 1e-7, 2), (float("nan"), 1, 1)])
def test_a_range_that_cannot_be_divided(start, end, points):
    """It is empty or reversed, or doubles do not tell its buckets apart."""
    with pytest.raises(InvalidInput):
        Series(start, end, points)


@pytest.mark.parametrize(
    ("reported", "number"),
    [
        ({"a": {"b": 1}}, 1.0),
        ({"a": {"b": -2.5}}, -2.5),
        ({"a": {"b": True}}, 1.0),
        ({"a": {"b": "7"}}, None),
        ({"a": {"b": None}}, None),
        ({"a": {"b": {"c": 1}}}, None),
        ({"a": {"b": [1]}}, None),
        ({"a": {"b": 10**400}}, None),
        ({"a": [1]}, None),
        ({"a": 3}, None),
        ([], None),
        (None, None),
    ],
)
def test_the_number_at_a_place(reported, number):
    """A number or a boolean; whatever else stands there, or on the way, is no number."""
    assert number_at(reported, ("a", "b")) == number


states = st.sampled_from(["online", "offline", "created", "deleted"])


@given(
    st.lists(st.tuples(st.integers(-5, 25), states), max_size=12, unique_by=lambda each: each[0]),
    st.booleans(),
    st.randoms(),
)
def test_gaps_are_the_seconds_without_a_connection(events, is_online, random):
    """Each second is in a gap or not, by the last event before it; before the first, by what that one has changed."""
    ordered = sorted(events)
    random.shuffle(events)
    found = gaps([PresenceEvent(*each) for each in events], 0, 20, is_online=is_online)
    for second in range(20):
        before = [name for time, name in ordered if time <= second]
        first = ordered[0][1] in ("offline", "deleted") if ordered else is_online
        online = before[-1] == "online" if before else first
        assert any(gap.start <= second < gap.end for gap in found) != online, second
    assert all(one.end < other.start for one, other in pairwise(found))
    assert all(0 <= gap.start < gap.end <= 20 for gap in found)


def test_a_device_that_was_offline_all_the_time():
    """One gap as long as the range, whether or not its last event is known."""
    assert gaps([], 5, 9, is_online=False) == [Gap(5, 9)]
    assert gaps([PresenceEvent(1, "offline")], 5, 9, is_online=False) == [Gap(5, 9)]
    assert gaps([], 5, 9, is_online=True) == []
