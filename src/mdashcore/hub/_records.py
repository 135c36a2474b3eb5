"""Typed records over a document store: the one place where stored JSON becomes objects, and back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Generic, TypeVar

import attrs
import cattrs

from mdashcore import _json
from mdashcore._errors import Busy, InvalidInput, StorageError, VersionConflict
from mdashcore.storage import DocumentStore

__all__ = ["MAX_TRIES", "Record", "Records", "scoped"]

MAX_TRIES: Final = 32  # of a compare-and-set: more concurrent writers of one document are a flood

T = TypeVar("T")

_converter = cattrs.Converter()


def scoped(account: str, id: str) -> str:
    """The key of something that belongs to an account. Neither part can hold a slash."""
    return f"{account}/{id}"


@attrs.frozen
class Record(Generic[T]):
    """A value and the version under which it is stored."""

    value: T
    version: int


class Records(Generic[T]):
    """One collection of documents, all of one type."""

    def __init__(
        self,
        documents: DocumentStore,
        collection: str,
        type: type[T],
        *,
        load: Callable[[Any], T] | None = None,
        dump: Callable[[T], Any] | None = None,
    ) -> None:
        self._documents = documents
        self._collection = collection
        self._load = load or (lambda value: _converter.structure(value, type))
        self._dump = dump or _converter.unstructure

    async def get(self, key: str) -> Record[T] | None:
        """The record, or None.

        Raises:
            StorageError: what is stored cannot be read as this type.
        """
        document = await self._documents.get(self._collection, key)
        return None if document is None else self._record(key, document.body, document.version)

    async def put(self, key: str, value: T, *, expected: int | None = None) -> int:
        """Write; returns the new version. Raises `VersionConflict`."""
        return await self._documents.put(self._collection, key, _json.encode(self._dump(value)), expected=expected)

    async def delete(self, key: str, *, expected: int | None = None) -> bool:
        """Remove; False where there was none."""
        return await self._documents.delete(self._collection, key, expected=expected)

    async def scan(self, prefix: str = "") -> AsyncIterator[tuple[str, T]]:
        """Every key and value under a prefix."""
        async for document in self._documents.scan(self._collection, prefix):
            yield document.key, self._record(document.key, document.body, document.version).value

    async def versions(self) -> AsyncIterator[tuple[str, int]]:
        """Every key and the version of its document."""
        async for document in self._documents.scan(self._collection):
            yield document.key, document.version

    async def change(self, key: str, function: Callable[[T | None], T | None]) -> T | None:
        """Replace a record by what `function` makes of it, atomically; None leaves it as it is.

        `function` may be called several times, and may raise to change nothing.

        Returns:
            what is stored afterwards, or None where nothing was written.

        Raises:
            Busy: others changed it all the time.
        """
        for _ in range(MAX_TRIES):
            found = await self.get(key)
            value = function(None if found is None else found.value)
            if value is None:
                return None
            try:
                await self.put(key, value, expected=0 if found is None else found.version)
            except VersionConflict:
                continue
            return value
        raise Busy(f"{self._collection}/{key} is being changed by too many at once")

    async def remove(self, key: str, condition: Callable[[T], bool]) -> bool:
        """Remove a record if `condition` holds for it; False where it does not, or where there is none.

        Raises:
            Busy: others changed it all the time.
        """
        for _ in range(MAX_TRIES):
            found = await self.get(key)
            if found is None or not condition(found.value):
                return False
            try:
                return await self.delete(key, expected=found.version)
            except VersionConflict:
                continue
        raise Busy(f"{self._collection}/{key} is being changed by too many at once")

    def _record(self, key: str, body: bytes, version: int) -> Record[T]:
        try:
            return Record(self._load(_json.decode(body)), version)
        except StorageError as exc:
            raise StorageError(f"{self._collection}/{key}: {exc}") from exc
        except (cattrs.BaseValidationError, InvalidInput, ValueError, TypeError, KeyError, AttributeError) as exc:
            raise StorageError(f"{self._collection}/{key} is damaged: {exc}") from exc
