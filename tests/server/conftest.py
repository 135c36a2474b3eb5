"""The lanes in which a server can answer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mdashcore.server.service import ServiceSettings


@pytest.fixture
def lane() -> str:
    """The usual one; a module may have all its tests run in `every_lane` by a fixture of this name."""
    return "immediate"


LANES = ("immediate", "fast lane", "slow lane")


@pytest.fixture(params=LANES)
def every_lane(request: pytest.FixtureRequest) -> str:
    """Each of them: the fast one without a task, and with one; Hypercorn's."""
    return str(request.param)


@pytest.fixture(params=[*LANES, "no epoll"])
def every_lane_and_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each lane, and the fast one with a task where the system has no epoll: what is read, and when, is then other."""
    if request.param == "no epoll":
        monkeypatch.setattr("mdashcore.trio.transport.readiness.select", SimpleNamespace())
    return str(request.param)


@pytest.fixture
def settings(lane: str) -> ServiceSettings:
    """The lane's; a test may give others by parametrizing with this name."""
    return ServiceSettings(fast_lane=lane != "slow lane")


@pytest.fixture
def instant(lane: str) -> bool:
    """Whether the store of `server` says that it never waits; a test may deny that by parametrizing with this name."""
    return lane == "immediate"
