"""The conformance suite for keys and scans of document stores."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import ClassVar, Final

import anyio

from mdashcore.storage import DocumentStore
from mdashcore.testing._document_suite import DOCUMENT_ROUNDS, DOCUMENT_WRITERS, DocumentSuite
from mdashcore.testing._suite import MANY_RECORDS, ODD_KEYS

__all__ = ["DocumentScanSuite"]

SCANNED_KEYS: Final = 20  # documents of a scan whose reader does something after each


class DocumentScanSuite(DocumentSuite):
    """The contract of keys and scans: every text is a key, and a scan gives every document once."""

    many: ClassVar[int] = MANY_RECORDS
    """Documents that are scanned at least once: more than a page of the store."""

    def test_documents_odd_keys(self) -> None:
        """Every text is a key of its own: none escapes, none falls together with another."""

        async def test(documents: DocumentStore) -> None:
            for n, key in enumerate(ODD_KEYS):
                await documents.put("things", key, b"%d" % n, expected=0)
            for n, key in enumerate(ODD_KEYS):
                found = await documents.get("things", key)
                assert found is not None, f"{key!r} is gone"
                assert (found.key, found.body) == (key, b"%d" % n)
            keys = [document.key async for document in documents.scan("things")]
            assert sorted(keys) == sorted(ODD_KEYS)
            for key in ODD_KEYS:
                assert await documents.delete("things", key)

        self.on_documents(test)

    def test_documents_collections_are_apart(self) -> None:
        """A collection and a key are two texts, not one: `a` with `b/c` is not `a/b` with `c`, nor `A` with `b/c`."""

        async def test(documents: DocumentStore) -> None:
            places = [("a", "b/c"), ("a/b", "c"), ("A", "b/c"), ("a", "B/c"), ("ab", "/c"), ("a:b", "c"), ("a", "b:c")]
            for n, (collection, key) in enumerate(places):
                await documents.put(collection, key, b"%d" % n, expected=0)
            for n, (collection, key) in enumerate(places):
                found = await documents.get(collection, key)
                assert found is not None
                assert (found.key, found.body) == (key, b"%d" % n)
            for collection in {collection for collection, _ in places}:
                keys = [document.key async for document in documents.scan(collection)]
                assert sorted(keys) == sorted(key for other, key in places if other == collection)
            for number, (collection, key) in enumerate(places, 1):
                assert await documents.delete(collection, key)
                left = [place for place in places if await documents.get(*place) is not None]
                assert left == places[number:]

        self.on_documents(test)

    def test_documents_scan_many(self) -> None:
        """A scan gives every document of more than a page, once."""

        async def test(documents: DocumentStore) -> None:
            async def write(start: int) -> None:
                for n in range(start, self.many, DOCUMENT_WRITERS):
                    await documents.put("things", f"k{n}", b"%d" % n)

            async with anyio.create_task_group() as tasks:
                for start in range(DOCUMENT_WRITERS):
                    tasks.start_soon(write, start)
            found = sorted([int(document.body) async for document in documents.scan("things", "k")])
            assert found == list(range(self.many))

        self.run_open_once(lambda backend: test(backend.documents))

    def test_documents_scan_by_prefix(self) -> None:
        """A scan gives all documents whose key starts with the prefix, literally, of its collection only."""

        async def test(documents: DocumentStore) -> None:
            for key in ODD_KEYS:
                await documents.put("things", key, b"1")
                await documents.put("others", key, b"2")
            for prefix in ("", "a", "a/", "%", "*", "[", "x" * 299, "none of them", "\u00e9"):
                found = [(d.key, d.body) async for d in documents.scan("things", prefix)]
                assert sorted(found) == sorted((key, b"1") for key in ODD_KEYS if key.startswith(prefix))

        self.on_documents(test)

    def test_documents_scan_lets_its_reader_write(self) -> None:
        """The reader of a scan may use every verb meanwhile, and a scan that it leaves early holds nothing."""

        async def test(documents: DocumentStore) -> None:
            for n in range(SCANNED_KEYS):
                await documents.put("things", f"k{n}", b"0")
            seen: list[str] = []
            async for document in documents.scan("things", "k"):
                seen.append(document.key)
                await documents.put("things", "written meanwhile", b"1")
                await documents.put("others", document.key, document.body)
                assert await documents.get("others", document.key) is not None
                assert await documents.delete("others", document.key)
            assert sorted(seen) == sorted(f"k{n}" for n in range(SCANNED_KEYS))
            left = documents.scan("things", "k")
            await anext(left)
            await documents.put("things", "k0", b"2")
            if isinstance(left, AsyncGenerator):
                await left.aclose()
            assert await documents.delete("things", "k0")

        self.on_documents(test)

    def test_documents_scans_are_apart(self) -> None:
        """Scans that are read in turns give each its own documents, also of one collection."""

        async def test(documents: DocumentStore) -> None:
            for n in range(SCANNED_KEYS):
                await documents.put("things", f"k{n}", b"0")
                await documents.put("others", f"o{n}", b"0")
            scans = [documents.scan(collection) for collection in ("things", "others", "things")]
            seen: list[list[str]] = [[], [], []]
            for _ in range(SCANNED_KEYS):
                for scan, keys in zip(scans, seen, strict=True):
                    keys.append((await anext(scan)).key)
            for scan, keys, letter in zip(scans, seen, "kok", strict=True):
                assert sorted(keys) == sorted(f"{letter}{n}" for n in range(SCANNED_KEYS))
                assert [document async for document in scan] == []

        self.on_documents(test)

    def test_documents_scan_while_writing(self) -> None:
        """A document that exists all through a scan is given exactly once, whatever is written and deleted
        meanwhile.
        """

        async def test(documents: DocumentStore) -> None:
            stable = {f"stable-{n}" for n in range(60)}
            for n, key in enumerate(sorted(stable)):
                await documents.put("things", key, b"0")
                await documents.put("things", f"fleeting-{n}", b"0")
            done = anyio.Event()

            async def disturb() -> None:
                n = 0
                while not done.is_set():
                    await documents.put("things", f"stable-{n % 60}", b"%d" % n)
                    await documents.delete("things", f"fleeting-{n % 60}")
                    await documents.put("things", f"new-{n % 200}", b"%d" % n)
                    n += 7
                    await anyio.lowlevel.checkpoint()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(disturb)
                for _ in range(DOCUMENT_ROUNDS):
                    seen: list[str] = []
                    async for document in documents.scan("things"):
                        seen.append(document.key)
                        await anyio.lowlevel.checkpoint()
                    assert len(seen) == len(set(seen)), "a key was given twice"
                    assert stable <= set(seen), f"missed: {sorted(stable - set(seen))}"
                done.set()

        self.on_documents(test)
