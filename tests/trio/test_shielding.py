"""Changes that are finished, whether or not their caller waits."""

from __future__ import annotations

import pytest
import trio

from mdashcore._errors import NotFound, StorageError
from mdashcore.trio.shielding import SHIELD_GRACE, WRITES_TIMEOUT, finish, shielded

BOTH = pytest.mark.parametrize("run", [finish, shielded])


@BOTH
async def test_what_comes_of_it(run):
    """Its result, or its error, as they are."""

    async def good():
        await trio.lowlevel.checkpoint()
        return 7

    async def bad():
        await trio.lowlevel.checkpoint()
        raise NotFound("no such thing")

    assert await run(good) == 7
    with pytest.raises(NotFound, match="no such thing"):
        await run(bad)


@BOTH
async def test_it_goes_on_without_the_caller(autojump_clock, run):
    """Not stopped between two of its steps, however early the other leaves."""
    done = []

    async def change():
        for step in range(2):
            await trio.sleep(1)
            done.append(step)

    with trio.move_on_after(0.5) as client:
        await run(change)
    await trio.lowlevel.checkpoint()
    assert client.cancelled_caught or run is shielded  # which may have no checkpoint left
    assert done == [0, 1]


@BOTH
async def test_it_has_an_end(autojump_clock, run):
    """The storage never answers; `finish` counts from the moment when its caller has left."""
    with trio.move_on_after(0.5):
        with pytest.raises(StorageError if run is shielded else trio.Cancelled):
            await run(trio.sleep_forever)
        await trio.lowlevel.checkpoint()
    assert trio.current_time() == pytest.approx(WRITES_TIMEOUT if run is shielded else 0.5 + SHIELD_GRACE)


async def test_a_caller_may_wait_long(autojump_clock):
    """A removal of a large account takes more than `GRACE`."""

    async def change():
        await trio.sleep(10 * SHIELD_GRACE)

    await finish(change)
    assert trio.current_time() == pytest.approx(10 * SHIELD_GRACE)
