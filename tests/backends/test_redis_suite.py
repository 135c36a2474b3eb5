from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from mdashcore.storage import Backend, open_backend
from mdashcore.testing import BackendSuite


class TestRedis(BackendSuite):
    """A server that keeps nothing on disk."""

    @pytest.fixture(autouse=True)
    def _use(self, redis_server: Any) -> None:
        self.server = redis_server

    def open(self, name: str) -> AbstractAsyncContextManager[Backend]:
        return open_backend(f"{self.server.url}/0?prefix={name}")

class TestDurable(BackendSuite):
    @pytest.fixture(autouse=True)
    def _use(self, durable_redis: Any) -> None:
        self.server = durable_redis

    def open(self, name: str) -> AbstractAsyncContextManager[Backend]:
        return open_backend(f"{self.server.url}/0?prefix={name}&durable=1")
