"""The documents of a process that dies at some write."""

from __future__ import annotations

from math import inf
from typing import Any

import trio

from mdashcore._errors import StorageError


class Mortal:
    """The documents as one process sees them. After its death it changes nothing any more."""

    def __init__(self, inner: Any, writes: float = inf) -> None:
        self.inner = inner
        self.alive = True
        self.writes = writes
        """How many are left until it dies."""
        self.dying = trio.Event()

    async def get(self, collection: str, key: str) -> Any:
        return await self.inner.get(collection, key)

    def scan(self, collection: str, prefix: str = "") -> Any:
        return self.inner.scan(collection, prefix)

    async def put(self, collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
        self._count()
        return int(await self.inner.put(collection, key, body, expected=expected))

    async def delete(self, collection: str, key: str, *, expected: int | None = None) -> bool:
        self._count()
        return bool(await self.inner.delete(collection, key, expected=expected))

    def _count(self) -> None:
        self.writes -= 1
        if self.writes < 0:
            self.alive = False
            self.dying.set()
        if not self.alive:
            raise StorageError("this process is dead")
