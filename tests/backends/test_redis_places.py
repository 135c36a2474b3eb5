"""The lines in which calls to Redis wait: no crowd in one of them holds up another, and no place is ever lost."""

from __future__ import annotations

from collections import defaultdict

import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from mdash_backends._redis_places import CallPlaces

MOST = 3

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("call"), st.sampled_from("abc")),
        st.tuples(st.just("end"), st.integers(0, 9)),
        st.tuples(st.just("give up"), st.integers(0, 9)),
        st.tuples(st.just("give up at its turn"), st.just(0)),
    ),
    max_size=60,
)


class Calls:
    """Calls, each a task that takes a place and holds it until it ends."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.places = CallPlaces(MOST)
        self.nursery = nursery
        self.served: list[tuple[str, int]] = []
        self.begun: defaultdict[str, int] = defaultdict(int)
        self.waiting: dict[tuple[str, int], trio.CancelScope] = {}
        self.running: dict[tuple[str, int], trio.Event] = {}

    async def begin(self, line: str) -> None:
        """Begin a call; returns when it is served or waits."""
        self.begun[line] += 1
        self.nursery.start_soon(self._run, (line, self.begun[line]))
        await wait_all_tasks_blocked()

    async def _run(self, call: tuple[str, int]) -> None:
        with trio.CancelScope() as scope:
            self.waiting[call] = scope
            try:
                if not self.places.acquire_nowait():
                    await self.places.acquire(call[0])
            finally:
                del self.waiting[call]
            end = self.running[call] = trio.Event()
            self.served.append(call)
            try:
                await end.wait()
            finally:
                del self.running[call]
                self.places.release()


@given(STEPS)
def test_no_place_is_lost(steps: list[tuple[str, object]]) -> None:
    """As many calls run as there are places, or all of them; each line is served in order. Calls that are cancelled
    while they wait, or just when their turn comes, take no place with them.
    """

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            calls = Calls(nursery)
            for what, which in steps:
                running, waiting = [*calls.running.values()], [*calls.waiting.values()]
                if what == "call":
                    await calls.begin(str(which))
                elif what == "end" and isinstance(which, int) and running:
                    running[which % len(running)].set()
                elif what == "give up" and isinstance(which, int) and waiting:
                    waiting[which % len(waiting)].cancel()
                elif what == "give up at its turn" and running:
                    running[0].set()
                    for scope in waiting:
                        scope.cancel()
                await wait_all_tasks_blocked()
                assert len(calls.running) == min(MOST, len(calls.running) + len(calls.waiting))
            while calls.running:
                next(iter(calls.running.values())).set()
                await wait_all_tasks_blocked()
            assert not calls.waiting
            for line in "abc":
                served = [number for name, number in calls.served if name == line]
                assert served == sorted(served)
            assert [calls.places.acquire_nowait() for _ in range(MOST + 1)] == [True] * MOST + [False]

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_lines_take_turns() -> None:
    """However many wait in one line, the first of another waits for one of them; a line that was left has no turn."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            calls = Calls(nursery)
            for line in "aaa" + "aaaa" + "bb" + "c" + "dd":  # the first three have places
                await calls.begin(line)
            calls.waiting["c", 1].cancel()
            for _ in range(8):
                next(iter(calls.running.values())).set()
                await wait_all_tasks_blocked()
            assert [line for line, _ in calls.served] == [*"aaa", *"abd", *"abd", *"aa"]
            for end in [*calls.running.values()]:
                end.set()

    trio.run(main, clock=MockClock(autojump_threshold=0))
