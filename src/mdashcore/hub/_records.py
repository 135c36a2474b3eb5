"""Typed records over a document store: the one place where stored JSON becomes objects, and back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Generic, TypeVar

import attrs
import cattrs

from mdashcore import _json
from mdashcore._errors import InvalidInput, StorageError, VersionConflict
from mdashcore.hub._contention import Contention, Race, Turns
from mdashcore.storage import DocumentStore

__all__ = ["Record", "Records", "scoped"]

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
    """One collection of documents, all of one type.

    Args:
        load: makes a value of decoded JSON; without it, cattrs does.
        dump: makes JSON of a value.
        contention: what writers of one document need.
    """

    def __init__(
        self,
        documents: DocumentStore,
        collection: str,
        type: type[T],
        *,
        load: Callable[[Any], T] | None = None,
        dump: Callable[[T], Any] | None = None,
        contention: Contention = Contention(),
    ) -> None:
        self.turns = Turns(contention)
        """Of those who change a document, by its key."""
        self._contention = contention
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

    def race(self, key: str) -> Race:
        """For a compare-and-set of this record that is to be tried until it succeeds."""
        return Race(self._contention, f"{self._collection}/{key}")

    async def change(self, key: str, function: Callable[[T | None], T | None]) -> T | None:
        """Replace a record by what `function` makes of it, atomically; None leaves it as it is.

        It waits for its turn, and never fails because others change the record too. `function` may be called several
        times, and may raise to change nothing.

        Returns:
            what is stored afterwards, or None where nothing was written.
        """
        async with self.turns.of(key):
            race = self.race(key)
            while True:
                found = await self.get(key)
                value = function(None if found is None else found.value)
                if value is None:
                    return None
                try:
                    await self.put(key, value, expected=0 if found is None else found.version)
                except VersionConflict:
                    await race.lost()
                else:
                    return value

    async def remove(self, key: str, condition: Callable[[T], bool]) -> bool:
        """Remove a record if `condition` holds for it; False where it does not, or where there is none.

        It waits for its turn, as `change` does.
        """
        async with self.turns.of(key):
            race = self.race(key)
            while True:
                found = await self.get(key)
                if found is None or not condition(found.value):
                    return False
                try:
                    return await self.delete(key, expected=found.version)
                except VersionConflict:
                    await race.lost()

    def _record(self, key: str, body: bytes, version: int) -> Record[T]:
        try:
            return Record(self._load(_json.decode(body)), version)
        except StorageError as exc:
            raise StorageError(f"{self._collection}/{key}: {exc}") from exc
        except (cattrs.BaseValidationError, InvalidInput, ValueError, TypeError, KeyError, AttributeError) as exc:
            raise StorageError(f"{self._collection}/{key} is damaged: {exc}") from exc
