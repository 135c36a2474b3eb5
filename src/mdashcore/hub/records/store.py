"""Typed records over a document store: the one place where stored JSON becomes objects, and back."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, Final, Generic, TypeVar

import attrs
import cattrs
import msgspec

from mdashcore import _json
from mdashcore._errors import Damaged, InvalidInput, StorageError, VersionConflict
from mdashcore.hub.pausing import Pause
from mdashcore.hub.records.contention import Contention, Race
from mdashcore.storage import Document, DocumentStore

__all__ = ["Collection", "Record", "Records", "is_generated_id", "scoped", "split"]

_log = logging.getLogger(__name__)

MAX_GENERATED_ID: Final = 64  # characters: generated ids have 16, and a longer one must not reach a store as a key

MAX_LOGGED_DOCUMENTS: Final = 1000  # damaged ones of a collection: with more, the store itself is broken

T = TypeVar("T")

_converter = cattrs.Converter()


def scoped(account: str, id: str) -> str:
    """Return the key of a record that belongs to an account. Neither part can hold a slash; see also `DeviceKey`."""
    return f"{account}/{id}"


def split(key: str) -> tuple[str, str]:
    """Return the two parts of a key that `scoped` has made: the account, and the id within it."""
    account, _, id = key.partition("/")
    return account, id


def is_generated_id(id: str) -> bool:
    """Return whether `make_id` can have made an id: any other one must not reach a store as a key."""
    return 0 < len(id) <= MAX_GENERATED_ID and id.isascii() and id.replace("_", "").isalnum()


class Record(msgspec.Struct, Generic[T], frozen=True):
    """A value and the version under which it is stored."""

    value: T
    version: int


def _structure(value: Any, type: type[T]) -> T:
    if not isinstance(value, dict):  # cattrs would accept a list, and use all defaults
        raise ValueError("not an object")
    return _converter.structure(value, type)


@attrs.frozen(kw_only=True)
class Collection(Generic[T]):
    """A collection of documents, all of one type."""

    name: str = attrs.field(kw_only=False)
    type: type[T] = attrs.field(kw_only=False)
    key: str
    """The form of its keys."""
    holds: str
    """What a document holds."""
    load: Callable[[Any], T] | None = None
    """Makes a value of decoded JSON; without it, cattrs does."""
    decode: Callable[[bytes], T] | None = None
    """Makes a value of a document's body, in place of `load`: for a view that reads few of its members."""
    dump: Callable[[T], Any] = _converter.unstructure
    """Makes a value that msgspec encodes: of JSON values, or `msgspec.Raw` for what is JSON already."""
    exported: bool = True
    """Whether a backup has it. Other collections mean nothing in another store, or are created anew."""

    def read(self, document: Document) -> T:
        """Return the value of a document. Raises `Damaged`, which names the document."""
        name = f"{self.name}/{document.key}"
        try:
            if self.decode is not None:
                return self.decode(document.body)
            value = _json.decode(document.body)
            return self.load(value) if self.load is not None else _structure(value, self.type)
        except StorageError as exc:
            raise Damaged(f"{name}: {exc}") from exc
        except (cattrs.BaseValidationError, InvalidInput, ValueError, TypeError, KeyError, AttributeError) as exc:
            raise Damaged(f"{name} is damaged: {exc}") from exc


class Records(Generic[T]):
    """The records of one collection.

    Args:
        contention: how writers of the same document wait for each other.
    """

    def __init__(
        self, documents: DocumentStore, collection: Collection[T], *, contention: Contention = Contention()
    ) -> None:
        self._logged: set[str] = set()
        self._contention = contention
        self._documents = documents
        self._collection = collection.name
        self._schema = collection

    async def get(self, key: str) -> Record[T] | None:
        """Return the record, or `None` if there is none.

        Raises:
            Damaged: the document cannot be read as this type. It is logged, once.
        """
        try:
            document = await self._documents.get(self._collection, key)
            return None if document is None else self._record(document)
        except Damaged as exc:
            self._log_damage(key, exc)
            raise

    def encode(self, value: T) -> bytes:
        """Return the stored form of a value."""
        return _json.encode(self._schema.dump(value))

    async def put(self, key: str, value: T, *, expected: int | None = None) -> int:
        """Write a record. Returns its new version. Raises `VersionConflict`."""
        return await self._documents.put(self._collection, key, self.encode(value), expected=expected)

    async def delete(self, key: str, *, expected: int | None = None) -> bool:
        """Remove a record. Returns `False` if there was none."""
        return await self._documents.delete(self._collection, key, expected=expected)

    async def scan(self, prefix: str = "", damaged: list[str] | None = None) -> AsyncIterator[tuple[str, T]]:
        """Yield every key and value under a prefix. Skips damaged documents, and logs each once.

        Args:
            damaged: receives the keys of the damaged documents, without the prefix.
        """
        async for document in self._documents.scan(self._collection, prefix):
            try:
                value = self.read(document)
            except Damaged:
                if damaged is not None:
                    damaged.append(document.key.removeprefix(prefix))
            else:
                yield document.key, value

    async def scan_all(self, pause: Pause, damaged: list[str] | None = None) -> AsyncGenerator[tuple[str, T], None]:
        """Yield every key and value of the collection, with a pause before each. Close it with `aclosing`.

        Args:
            damaged: receives the keys of the damaged documents.
        """
        async with aclosing(self.documents()) as documents:
            async for document in documents:
                await pause()
                try:
                    value = self.read(document)
                except Damaged:
                    if damaged is not None:
                        damaged.append(document.key)
                else:
                    yield document.key, value

    async def documents(self, prefix: str = "", *, after: str = "") -> AsyncGenerator[Document, None]:
        """Yield every document under a prefix as it is stored, for `read`.

        Args:
            after: as for `DocumentStore.scan`; only for a store that is `ORDERED`.
        """
        options = {"after": after} if after else {}
        scan = self._documents.scan(self._collection, prefix, **options)
        try:
            async for document in scan:
                yield document
        finally:
            if isinstance(scan, AsyncGenerator):
                await scan.aclose()

    async def document(self, key: str) -> Document | None:
        """Return the document as it is stored, or `None` if there is none. Raises `Damaged`."""
        return await self._documents.get(self._collection, key)

    def read(self, document: Document) -> T:
        """Return the value of a document. Raises `Damaged`, which is logged, once."""
        try:
            return self._record(document).value
        except Damaged as exc:
            self._log_damage(document.key, exc)
            raise

    async def keys(self, prefix: str = "") -> list[str]:
        """Return every key under a prefix, also those of damaged documents."""
        return [document.key async for document in self._documents.scan(self._collection, prefix)]

    async def versions(self) -> AsyncIterator[tuple[str, int]]:
        """Yield every key and the version of its document."""
        async for document in self._documents.scan(self._collection):
            yield document.key, document.version

    def race(self, key: str) -> Race:
        """Return a `Race` for a compare-and-set of this record that is tried until it succeeds."""
        return Race(self._contention, f"{self._collection}/{key}")

    async def change(
        self, key: str, function: Callable[[T | None], T | None], *, replace_damaged: bool = False
    ) -> T | None:
        """Replace a record by the result of `function`, atomically. If that is `None`, the record stays as it is.

        Never fails because of other writers. `function` may be called several times, and may raise to change nothing.

        Args:
            replace_damaged: treat a damaged record as a missing one.

        Returns:
            The stored value, or `None` if nothing was written.
        """
        race = self.race(key)
        while True:
            expected: int | None
            try:
                found = await self.get(key)
                expected = 0 if found is None else found.version
            except Damaged:
                if not replace_damaged:
                    raise
                found = expected = None
            value = function(None if found is None else found.value)
            if value is None:
                return None
            try:
                await self.put(key, value, expected=expected)
            except VersionConflict:
                await race.lost()
            else:
                return value

    async def remove(self, key: str, condition: Callable[[T], bool]) -> bool:
        """Remove a record if `condition` holds for it. Returns whether it was removed."""
        race = self.race(key)
        while True:
            found = await self.get(key)
            if found is None or not condition(found.value):
                return False
            try:
                return await self.delete(key, expected=found.version)
            except VersionConflict:
                await race.lost()

    def _record(self, document: Document) -> Record[T]:
        if document.damage is not None:
            raise Damaged(document.damage)
        return Record(self._schema.read(document), document.version)

    def _log_damage(self, key: str, damage: Damaged) -> None:
        """Log a damaged document, once: lists are read again and again."""
        if key not in self._logged and len(self._logged) < MAX_LOGGED_DOCUMENTS:
            self._logged.add(key)
            _log.error("%s/%s cannot be read, and is passed over: %s", self._collection, key, damage)
