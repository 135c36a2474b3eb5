"""The lanes in which a server can answer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mdashcore.server.service import ServiceSettings


@pytest.fixture
def lane() -> str:
    """The usual one; a module may have all its tests run in `every_lane` by a fixture of this name."""
    return "immediate"


@pytest.fixture(params=["immediate", "fast lane", "no epoll", "slow lane"])
def every_lane(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of them: the fast one without a task, with one, and with one where the system has no epoll; Hypercorn's."""
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
