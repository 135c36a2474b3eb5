"""Lists in pages, their cursors and filters, in each store: the laws that hypothesis holds the one in memory to."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import trio
from listed_fleet import FILTERS, IDS, ORDERS, Fleet, check_filter, check_given_once, check_parts

from mdashcore.storage import open_backend

KINDS = ["create", "create", "remove", "rename", "tag", "online", "offline", "report", "report"]

CHANGES_BEFORE = 60  # of a dozen devices, so that most have a name, a build, tags and a presence


@pytest.fixture(params=["memory", "file", "sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    """The address of an empty store."""
    if request.param == "redis":
        server = request.getfixturevalue("redis_server")
        server.command("FLUSHALL")
        return f"{server.url}/0?prefix=lists"
    return "memory://" if request.param == "memory" else f"{request.param}://{tmp_path / 'store'}"


def some(random: Random, number: int) -> list[tuple[str, str, int]]:
    """Changes of devices."""
    return [(random.choice(KINDS), random.choice(IDS), random.randrange(20)) for _ in range(number)]


def test_lists_are_the_same_in_every_store(url: str) -> None:
    """In every order: the pages are the sorted list in parts, and each device that keeps its place is given once
    whatever changes between two pages. A filter finds the same in every order, and counts it.
    """
    random = Random(7)

    async def run() -> None:
        async with open_backend(url) as backend:
            fleet = await Fleet.on(backend).changed(some(random, CHANGES_BEFORE))
            for limit, order in enumerate(ORDERS):
                await check_parts(fleet, order, 1 + limit % 4)
                await check_given_once(fleet, order, 1 + limit % 3, [some(random, 2) for _ in range(3)])
            for number, terms in enumerate(FILTERS):
                await check_filter(fleet, ORDERS[number % len(ORDERS)], terms)
            assert len(await fleet.ids()) > len(IDS) / 3

    trio.run(run)
