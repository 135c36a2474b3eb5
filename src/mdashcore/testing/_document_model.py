"""A dict with versions, as the model of a document store."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from mdashcore._errors import VersionConflict
from mdashcore.storage import Document, DocumentStore

__all__ = ["DOCUMENT_OPERATIONS", "replay_documents"]

_KEYS = st.sampled_from(["a", "A", "a/b", "\u00e9"])
DOCUMENT_OPERATIONS = st.one_of(
    st.tuples(st.just("put"), _KEYS, st.integers(0, 9), st.sampled_from(["any", "right", "none", "wrong"])),
    st.tuples(st.just("delete"), _KEYS, st.sampled_from(["any", "right", "wrong"])),
    st.tuples(st.just("get"), _KEYS),
    st.tuples(st.just("scan"), st.sampled_from(["", "a", "a/", "z"])),
)


async def replay_documents(documents: DocumentStore, operations: list[tuple[Any, ...]]) -> None:
    """Run all operations on the store and on a dict, and compare after each step."""
    model: dict[str, Document] = {}
    last: dict[str, int] = {}
    for name, *arguments in operations:
        key = arguments[0]
        actual = model[key].version if key in model else 0
        if name == "put":
            expected = {"any": None, "right": actual, "none": 0, "wrong": actual + 1}[arguments[2]]
            body = b"%d" % arguments[1]
            try:
                version = await documents.put("things", key, body, expected=expected)
            except VersionConflict as exc:
                assert expected is not None and expected != actual  # noqa: PT018
                assert (exc.expected, exc.actual) == (expected, actual)
            else:
                assert expected in (None, actual)
                assert version > last.get(key, 0)
                model[key] = Document(key, version, body)
                last[key] = version
        elif name == "delete":
            expected = {"any": None, "right": actual, "wrong": actual + 1}[arguments[1]]
            try:
                assert await documents.delete("things", key, expected=expected) == (key in model)
                assert expected in (None, actual)
                model.pop(key, None)
            except VersionConflict:
                assert expected not in (None, actual)
        elif name == "scan":
            found = {document.key: document async for document in documents.scan("things", key)}
            assert found == {k: v for k, v in model.items() if k.startswith(key)}
        assert await documents.get("things", key) == model.get(key)
