"""The memory backend keeps the whole contract."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from mdashcore.storage import Backend, open_backend
from mdashcore.testing import BackendSuite


class TestMemory(BackendSuite):
    """Found and opened as any other backend."""

    def open(self, name: str) -> AbstractAsyncContextManager[Backend]:
        return open_backend("memory://")
