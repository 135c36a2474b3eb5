"""Notifications that were stored at the same time reach observers in the order of their offsets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdash_backends.memory import MemoryBus, MemoryLogs
from mdashcore.hub import delivery_order
from mdashcore.hub.delivery_order import DeliveryOrder
from mdashcore.hub.feed import Feed
from mdashcore.hub.feed_item import FeedItem

STEPS = st.lists(
    st.one_of(
        st.just(("begin",)),
        st.tuples(st.just("store"), st.integers(0, 9), st.integers(0, 2)),
        st.tuples(st.just("end"), st.integers(0, 9), st.booleans()),
    ),
    max_size=60,
)


@given(STEPS)
def test_all_that_is_stored_is_delivered_once_and_in_order(steps: list[tuple[Any, ...]]) -> None:
    """Whatever order the appends end in, fail in, or leave offsets to other processes in.

    Nothing waits once no append is running.
    """
    order = DeliveryOrder()
    running: dict[int, int | None] = {}
    """By ticket: the offset that the store has given to the append, if it has."""
    end = 0
    delivered: list[int] = []
    stored: list[int] = []

    def finish(ticket: int, is_told: bool) -> None:
        offset = running.pop(ticket)
        is_told = is_told and offset is not None
        if is_told:
            stored.append(offset)  # type: ignore[arg-type]
        found = order.end(ticket, FeedItem(offset, b"") if is_told and offset is not None else None)
        delivered.extend(item.offset for item in found)

    for name, *more in steps:
        if name == "begin":
            running[order.begin()] = None
        elif name == "store" and (waiting := [ticket for ticket, offset in running.items() if offset is None]):
            end += more[1]  # entries of another process
            running[waiting[more[0] % len(waiting)]] = end
            end += 1
        elif name == "end" and running:
            finish(list(running)[more[0] % len(running)], more[1])
    for ticket in list(running):
        finish(ticket, True)
    assert delivered == sorted(stored)


def test_an_item_waits_only_for_earlier_ones() -> None:
    """The next one is delivered while later ones are being stored; a gap delays others only while it may be filled."""
    order = DeliveryOrder()
    first, second, third = (order.begin() for _ in range(3))
    assert _offsets(order.end(first, FeedItem(0, b""))) == [0]
    assert _offsets(order.end(third, FeedItem(2, b""))) == []
    later = order.begin()
    assert _offsets(order.end(second)) == [2]  # the append of 1 has failed, and `later` cannot have it
    assert _offsets(order.end(later, FeedItem(3, b""))) == [3]


def test_few_wait_for_an_append_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a bound the oldest is delivered; a subscriber then reads the missing one from the log."""
    monkeypatch.setattr(delivery_order, "MAX_WAITING", 3)
    order = DeliveryOrder()
    order.begin()
    delivered = [_offsets(order.end(order.begin(), FeedItem(offset, b""))) for offset in range(1, 6)]
    assert delivered == [[], [], [], [1, 2, 3, 4], [5]]


def _offsets(items: Sequence[FeedItem]) -> list[int]:
    return [item.offset for item in items]


def test_observers_get_what_a_slow_store_wakes_in_any_order() -> None:
    """Callers of a store that are woken backwards: observers hear of the notifications forwards."""

    class Backwards(MemoryLogs):
        """Lets the caller of each append go on after the callers of all later ones."""

        def __init__(self) -> None:
            super().__init__()
            self.waiting: list[anyio.Event] = []

        async def append(self, log: str, time: float, bodies: Sequence[bytes]) -> int:
            offset = await super().append(log, time, bodies)
            event = anyio.Event()
            self.waiting.append(event)
            await event.wait()
            return offset

    async def main() -> None:
        logs = Backwards()
        heard: list[int] = []
        feed = Feed(logs, MemoryBus(), now=lambda: 1.0, on_emit=lambda account, item: heard.append(item.offset))
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(feed.emit, "alice", "rpc.out.Log", "d1")
            await anyio.wait_all_tasks_blocked()
            for event in reversed(logs.waiting):
                event.set()
                await anyio.wait_all_tasks_blocked()
        assert heard == [0, 1, 2, 3, 4]

    anyio.run(main)
