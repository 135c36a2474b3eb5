"""The lane, the settings and the device of most tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from mdashcore.server.service import ServiceSettings
from mdashcore.trio.node import NodeSettings

LANES = ("immediate", "fast lane", "slow lane")
"""The fast lane without a task, and with one; and Hypercorn's."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that is marked with `every_lane`, and uses a server, in each of them.

    With ``every_lane("no epoll")`` it also runs in the fast lane of a system without epoll: what is read, and when, is
    then other. A test that is parametrized with `lane` runs in those lanes only.
    """
    mark = metafunc.definition.get_closest_marker("every_lane")
    is_chosen = any(each.args[0] == "lane" for each in metafunc.definition.iter_markers("parametrize"))
    if mark is not None and "lane" in metafunc.fixturenames and not is_chosen:
        metafunc.parametrize("lane", [*LANES, *mark.args], indirect=True)


@pytest.fixture
def lane(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The lane in which the server answers: the usual one unless a test is marked with `every_lane`."""
    lane: str = getattr(request, "param", LANES[0])
    if lane == "no epoll":
        monkeypatch.setattr("mdashcore.trio.transport.readiness.select", SimpleNamespace())
    return lane


@pytest.fixture
def settings(lane: str) -> ServiceSettings:
    """The lane's; a test may give others by parametrizing with this name."""
    return ServiceSettings(fast_lane=lane != "slow lane")


@pytest.fixture
def instant(lane: str) -> bool:
    """Whether the store of `server` says that it never waits; a test may deny that by parametrizing with this name."""
    return lane == "immediate"


@pytest.fixture
def node_settings() -> NodeSettings:
    """The server asks no device for its build during a test; one may parametrize with others."""
    # No pings: the client of the tests fails if one comes while it is closing.
    return NodeSettings(introduction_delay=60, ping_interval=3600)


@pytest.fixture
async def device(alice: Any) -> AsyncIterator[Any]:
    """A connected device, d1."""
    async with await alice.connect("d1") as connected:
        await alice.told("online", "d1")
        yield connected
