"""Callers that wait for a state of an update, in virtual time."""

from __future__ import annotations

from math import inf

import pytest
import trio
import trio.testing

from mdashcore._errors import NotFound
from mdashcore.identity import DeviceKey
from mdashcore.trio.drivers.update_waiters import UpdateWaiters

KEY = DeviceKey("alice", "d1")
UPDATE = object()


class Looks:
    """A caller that looks at an update: it takes its answers one by one, and does something before each."""

    def __init__(self, *answers):
        self.times = []
        self._answers = list(answers)

    async def __call__(self):
        self.times.append(trio.current_time())
        found = self._answers.pop(0)
        await trio.lowlevel.checkpoint()
        return found() if callable(found) else found


async def test_a_change_while_a_caller_looks_is_not_missed(autojump_clock):
    """The caller looks again, however long the interval is."""
    waiters = UpdateWaiters()
    looks = Looks(lambda: waiters.wake(KEY), UPDATE)
    with trio.fail_after(1):
        assert await waiters.wait(KEY, looks, lambda: inf) is UPDATE
    assert len(looks.times) == 2


async def test_without_a_change_a_caller_looks_after_each_interval(autojump_clock):
    """The intervals are asked for one by one."""
    waiters, intervals = UpdateWaiters(), iter([15.0, 2.0])
    looks = Looks(None, None, UPDATE)
    assert await waiters.wait(KEY, looks, lambda: next(intervals)) is UPDATE
    assert [time - looks.times[0] for time in looks.times] == pytest.approx([0, 15, 17])


@pytest.mark.parametrize(
    ("account", "ends"), [("alice", UPDATE), ("bob", None), ("alic", None)], ids=["own", "other", "prefix"]
)
async def test_only_the_callers_of_an_account_are_woken(autojump_clock, account, ends):
    """Those of all its devices."""
    waiters, found = UpdateWaiters(), None
    async with trio.open_nursery() as nursery:

        async def wait():
            nonlocal found
            found = await waiters.wait(KEY, Looks(None, UPDATE), lambda: inf)
            nursery.cancel_scope.cancel()

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        waiters.wake_account(account)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert found is ends


@pytest.mark.parametrize("how", ["found", "raised", "cancelled"])
async def test_nothing_is_left_of_a_caller(autojump_clock, how):
    """However its wait ends."""

    def gone():
        raise NotFound("no update any more")

    waiters = UpdateWaiters()
    looks = Looks(*{"found": [UPDATE], "raised": [None, gone], "cancelled": [None]}[how])
    with trio.move_on_after(20):
        try:
            await waiters.wait(KEY, looks, lambda: inf if how == "cancelled" else 1.0)
        except NotFound:
            assert how == "raised"
    assert not waiters._waiters
