"""Ages: what a step of the wall clock does not change, and how two processes follow one."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdashcore.hub.clock import MIN_STEP, Age, Ages, Clock

YEAR = 365 * 86_400.0

STEPS = st.one_of(st.floats(-60 * YEAR, 60 * YEAR), st.sampled_from([-3600.0, -1.5, -0.5, 0.5, 1.5, 3600.0]))


@attrs.define
class Machine:
    """Clocks as a machine has them."""

    wall: float = 1e9
    time: float = 50.0

    def clock(self):
        return Clock(lambda: self.wall, lambda: self.time)

    def passes(self, seconds):
        self.wall += seconds
        self.time += seconds


@attrs.define
class Record:
    """What is stored."""

    created: float
    used: float

    def move(self, by):
        self.created += by
        self.used += by


@given(st.lists(st.tuples(STEPS, st.floats(0, YEAR)), max_size=10))
def test_no_step_makes_a_record_older_or_younger(course):
    """Whatever the wall clock is set to, and whether what is stored has followed it or not."""
    machine = Machine()
    record = Record(machine.wall - 100.0, machine.wall)
    age = Ages(clock := machine.clock(), 1).of("r", record.created, record.used)
    expected = 100.0
    for number, (step, seconds) in enumerate(course):
        machine.wall += step
        if number % 2:
            if by := age.correction(record.created, offset := clock.offset):
                record.move(by)
                age.followed = offset
            assert abs(age.now(record.created) - machine.wall) <= MIN_STEP + 1e-3
        machine.passes(seconds)
        expected += seconds
        assert age.now(record.created) - record.created == pytest.approx(expected, abs=1e-3)


@given(st.lists(st.tuples(STEPS, st.integers(0, 1)), max_size=10))
def test_two_processes_move_a_record_once(steps):
    """They share the machine, notice a step one after the other, and meet at the store."""
    machine = Machine()
    record = Record(machine.wall - 100.0, machine.wall)
    ages = [Ages(machine.clock(), 1).of("r", record.created, record.used) for _ in range(2)]
    for step, first in steps:
        machine.wall += step
        for age in (ages[first], ages[1 - first]):
            offset = machine.wall - machine.time
            if by := age.correction(record.created, offset):
                record.move(by)
                age.followed = offset
        for age in ages:
            assert abs(age.now(record.created) - machine.wall) <= MIN_STEP + 1e-3


def test_a_clock_that_was_never_set_moves_nothing():
    """Also if another machine stored the record, by a clock an hour ahead; but the node that takes it over moves
    it once, as events of the future would count for an hour longer.
    """
    machine = Machine()
    clock = machine.clock()
    record = Record(machine.wall - 10.0, machine.wall)
    age = Age(clock, record.created, record.used)
    assert age.correction(record.created, clock.offset) == 0.0
    record.move(3600.0)  # by the other
    assert age.correction(record.created, clock.offset) == 0.0
    assert age.now(record.created) - record.created == 10.0

    ahead = Age(clock, record.created, record.used)
    assert ahead.now(record.created) == record.used
    assert ahead.correction(record.created, clock.offset) == 0.0


@given(
    course=st.lists(st.tuples(st.floats(0, 0.9e9), st.floats(0, 3600.0)), min_size=1, max_size=5),
    is_set=st.booleans(),
    off=st.floats(0, 3600.0),
)
def test_a_clock_that_has_lost_the_date_moves_nothing_into_the_past(course, is_set, off):
    """A machine boots in 1970, or in other years before. Whether its clock is set right then or it stops before, the
    next process finds what is stored as old as it is, but for the time in which no process ran.
    """
    machine = Machine()
    record = Record(machine.wall - 100.0, machine.wall)
    machine.passes(off)
    right = machine.wall - machine.time
    machine.wall = course[0][0]
    age = Age(clock := machine.clock(), record.created, record.used)
    ran = 0.0
    for machine.wall, seconds in course:
        assert age.correction(record.created, clock.offset) == 0.0
        assert age.now(record.created) - record.created == pytest.approx(100.0 + ran, abs=1e-3)
        machine.passes(seconds)
        ran += seconds
        record.used = age.now(record.created)
    machine.wall = right + machine.time
    if is_set:
        if by := age.correction(record.created, offset := clock.offset):
            record.move(by)
            age.followed = offset
        assert abs(age.now(record.created) - machine.wall) <= MIN_STEP + 1e-3
    found = Age(machine.clock(), record.created, record.used)
    assert -1e-3 <= found.now(record.created) - record.created - 100.0 - ran <= off + MIN_STEP + 1e-3


def test_small_steps_add_up():
    """Half a second is of no matter; a hundred of them are."""
    machine = Machine()
    clock = machine.clock()
    age = Age(clock, machine.wall, machine.wall)
    created = machine.wall
    moved = 0.0
    for _ in range(100):
        machine.wall += 0.5
        if by := age.correction(created + moved, offset := clock.offset):
            moved += by
            age.followed = offset
    assert moved == pytest.approx(50.0, abs=MIN_STEP)


def test_a_process_that_is_stopped_between_its_two_reads_sees_no_step():
    """It reads again where that took long."""
    machine = Machine()
    stops = iter([300.0])

    def wall():
        read = machine.wall
        machine.passes(next(stops, 0.0))
        return read

    assert Clock(wall, lambda: machine.time).offset == machine.wall - machine.time


def test_ages_are_kept_while_they_are_used_and_some_of_the_others():
    """The record that was met first is still of the age that it had then, whatever the clock did since."""
    machine = Machine()
    ages = Ages(machine.clock(), most=2)
    held = ages.of("held", 0.0, 0.0)
    for key in ("a", "b", "c"):
        ages.of(key, machine.wall, machine.wall)
    machine.wall += YEAR
    assert ages.of("held", 0.0, 0.0) is held
    assert ages.of("c", machine.wall - YEAR, machine.wall - YEAR).now(0.0) == 0.0
    assert ages.of("a", machine.wall - YEAR, machine.wall - YEAR).now(0.0) == YEAR
