"""Long work gives way: one slice at a time, and each owner in turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

import pytest
import trio

from mdashcore.trio.turns import WORK_SLICE, Turn, waiting_tasks


async def work(owner: Hashable, done: list[Hashable], slices: int) -> None:
    """Do so many slices of an owner's work."""
    turn = Turn(owner)
    for _ in range(slices):
        await turn.give_way()
        done.append(owner)


async def test_owners_take_turns() -> None:
    """However many tasks each of them has: one slice of one, one of the next."""
    done: list[Hashable] = []
    async with trio.open_nursery() as nursery:
        for owner, tasks in (("many", 20), ("few", 2), (None, 1)):
            for _ in range(tasks):
                nursery.start_soon(work, owner, done, 20 // tasks)
    first = done[:30]
    assert Counter(first) == {"many": 10, "few": 10, None: 10}
    assert all(len(set(first[place : place + 3])) == 3 for place in range(0, 30, 3))


async def test_all_others_have_a_turn_between_two_slices() -> None:
    """Also while many wait for one."""
    done: list[Hashable] = []
    seen: list[int] = []

    async def other() -> None:
        while len(done) < 60:
            seen.append(len(done))
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        for owner in range(6):
            nursery.start_soon(work, owner, done, 10)
    assert set(range(59)) <= set(seen)


async def test_a_task_that_stops_waiting_delays_no_other() -> None:
    """Wherever in the queue it was."""
    done: list[Hashable] = []
    async with trio.open_nursery() as nursery:
        scopes = [trio.CancelScope() for _ in range(4)]

        async def waiting(scope: trio.CancelScope, owner: Hashable) -> None:
            with scope:
                await Turn(owner).give_way()
                pytest.fail("it was its turn all the same")

        for scope, owner in zip(scopes, ("a", "a", "b", "b"), strict=True):
            nursery.start_soon(waiting, scope, owner)
        for scope in scopes:
            scope.cancel()
        nursery.start_soon(work, "a", done, 3)
        nursery.start_soon(work, "b", done, 3)
    assert Counter(done) == {"a": 3, "b": 3}


async def test_a_pause_is_short_until_the_slice_is_used_up() -> None:
    """Then the others of all owners come first."""
    turn = Turn("a")
    turn.count(WORK_SLICE / 2)
    assert turn.left == WORK_SLICE / 2
    await turn.pause()
    assert turn.left == WORK_SLICE / 2
    turn.count(WORK_SLICE)
    await turn.pause()
    assert turn.left == WORK_SLICE


async def test_waiting_tasks_are_counted() -> None:
    """All that have begun to wait, of every owner, until their turn has come."""
    done: list[Hashable] = []
    seen: list[int] = []
    async with trio.open_nursery() as nursery:
        for owner, tasks in (("many", 3), (None, 1)):
            for _ in range(tasks):
                nursery.start_soon(work, owner, done, 1)
        while len(done) < 4:
            seen.append(waiting_tasks())
            await trio.lowlevel.checkpoint()
    assert max(seen) >= 3  # of four, one may have had its turn by the first look
    assert waiting_tasks() == 0
