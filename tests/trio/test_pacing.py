"""Work that waits for its turn: a bounded part is under way, and the rest goes on in its order."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st

from mdashcore.storage import DURABLE, INSTANT, SHARED
from mdashcore.trio.pacing import STORE_CALLERS, STORE_CALLERS_IN_GROUPS, Gate, store_callers
from mdashcore.trio.spreading import spread


@example(most=2, times=[1.0] * 4)
@given(most=st.integers(1, 5), times=st.lists(st.floats(0.1, 9.0), max_size=30))
def test_so_many_are_inside(most: int, times: list[float]) -> None:
    """Never more than that, in the order in which they came, and nothing is lost: also by those that fail.

    Tasks that are let in at the same moment run in any order.
    """
    inside, entered, busiest = 0, dict[int, float](), 0

    async def work(gate: Gate, place: int, seconds: float) -> None:
        nonlocal inside, busiest
        try:
            async with gate:
                entered[place] = trio.current_time()
                inside += 1
                busiest = max(busiest, inside)
                await trio.sleep(seconds)
                inside -= 1
                if place % 3 == 0:
                    raise ValueError
        except ValueError:
            pass

    async def run() -> None:
        gate = Gate(most)
        async with trio.open_nursery() as nursery:
            for place, seconds in enumerate(times):
                nursery.start_soon(work, gate, place, seconds)
                await trio.testing.wait_all_tasks_blocked()
        assert gate.waiting == 0

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))
    assert [entered[place] for place in range(len(times))] == sorted(entered.values())
    assert busiest == min(most, len(times))


async def test_one_that_is_cancelled_leaves_its_place(autojump_clock: object) -> None:
    """While it waits, or inside."""
    gate = Gate(1)

    async def stay() -> None:
        async with gate:
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stay)
        nursery.start_soon(stay)
        await trio.testing.wait_all_tasks_blocked()
        assert gate.waiting == 1
        nursery.cancel_scope.cancel()
    assert gate.waiting == 0
    with trio.fail_after(1):
        async with gate:
            pass


async def test_waiting_for_a_short_queue(autojump_clock: object) -> None:
    """It is not waited for where it is short, and else until it is."""
    gate = Gate(1)

    async def stay() -> None:
        async with gate:
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(stay)
        await trio.testing.wait_all_tasks_blocked()
        started = trio.current_time()
        await gate.wait_short(4)
        assert trio.current_time() == started
        await gate.wait_short(2)
        assert trio.current_time() - started == pytest.approx(2)
        await gate.wait_short(1)
        assert trio.current_time() - started == pytest.approx(3)


async def test_several_wait_for_a_short_queue(autojump_clock: object) -> None:
    """Each of them goes on, whichever began to wait first: the listeners of IPv4 and IPv6 have one gate."""
    gate = Gate(1)

    async def stay() -> None:
        async with gate:
            await trio.sleep(1)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(stay)
            await trio.testing.wait_all_tasks_blocked()
            for length in (1, 2, 1, 3):
                nursery.start_soon(gate.wait_short, length)
                await trio.testing.wait_all_tasks_blocked()


@given(number=st.integers(0, 20), seconds=st.floats(0.0, 100.0))
def test_spread_evenly(number: int, seconds: float) -> None:
    """Each step at its time, the first immediately, and the end at the end; without steps there is none to wait for."""
    times: list[float] = []

    async def run() -> None:
        started = trio.current_time()
        await spread([lambda: times.append(trio.current_time() - started)] * number, seconds)
        assert trio.current_time() - started == pytest.approx(seconds if number else 0.0)

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))
    assert times == pytest.approx([seconds * place / number for place in range(number)])


@pytest.mark.parametrize(
    ("capabilities", "callers"),
    [
        ({INSTANT}, STORE_CALLERS),
        ({SHARED}, STORE_CALLERS),
        ({SHARED, DURABLE}, STORE_CALLERS),
        ({DURABLE}, STORE_CALLERS_IN_GROUPS),
    ],
    ids=["memory", "Redis", "durable Redis", "SQLite"],
)
def test_a_store_on_a_disk_of_its_own_has_more_callers(capabilities: set[str], callers: int) -> None:
    """Of a fleet that comes back: it commits what comes together at the same time."""
    assert store_callers(capabilities) == callers
