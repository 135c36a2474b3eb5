"""The order in which several workers take the tests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spread import QUICK, spread

FOLDERS = st.lists(st.sampled_from(["attacks", "core", "hub", "server", "ui"]), max_size=200).map(sorted)


def parts(order, workers):
    """What pytest-xdist gives to each worker."""
    left = list(order)
    for worker in range(workers):
        size = len(left) // (workers - worker)
        yield left[:size]
        left = left[size:]


@given(FOLDERS, st.integers(1, 8))
def test_each_test_is_run_once(folders, workers):
    """Whatever there is, and however many workers."""
    assert sorted(spread(folders, workers)) == list(range(len(folders)))


@pytest.mark.parametrize("workers", [2, 4, 6])
def test_every_worker_ends_with_quick_tests(workers):
    """Each has its share of each folder before them, and another one first."""
    folders = ["attacks"] * 50 + ["core"] * 900 + ["hub"] * 300 + ["server"] * 800 + ["ui"] * 240
    for part in parts(spread(folders, workers), workers):
        kinds = [folders[index] for index in part]
        slow = [kind for kind in kinds if kind not in QUICK]
        assert kinds[: len(slow)] == slow
        assert len(kinds) > len(slow)
        assert {
            kind: round(slow.count(kind) * workers / folders.count(kind), 1) for kind in set(slow)
        } == pytest.approx({"attacks": 1, "server": 1, "ui": 1}, abs=0.2)
    firsts = {folders[part[0]] for part in parts(spread(folders, workers), workers)}
    assert len(firsts) == min(workers, 3)
