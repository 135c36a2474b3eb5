"""The cache of documents: what it returns is what was committed last."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mdash_backends import _document_cache as module
from mdash_backends._document_cache import DocumentCache
from mdashcore.storage import Document

NAMES = [("c", "a"), ("c", "b"), ("d", "a")]

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "end", "commit", "remove", "fail", "get"]), st.integers(0, 2), st.integers(0, 9)
    ),
    max_size=60,
)


@given(STEPS)
def test_a_cached_document_is_the_newest(steps: list[tuple[str, int, int]]) -> None:
    """Whatever reads are under way while documents are committed, removed, or may have been."""
    cache = DocumentCache()
    stored: dict[Any, Document] = {}
    reads: list[tuple[Any, object, Document | None]] = []
    for version, (step, which, number) in enumerate(steps):
        name = NAMES[which]
        if step == "begin":
            reads.append((name, cache.begin_read(name), stored.get(name)))  # sees the store of this moment
        elif step == "end" and reads:
            name, token, document = reads.pop(number % len(reads))
            cache.end_read(name, token, document)
        elif step == "commit":
            stored[name] = Document(name[1], version, b"x")
            cache.committed(name, stored[name])
        elif step == "remove":
            stored.pop(name, None)
            cache.committed(name, None)
        elif step == "fail":
            stored[name] = Document(name[1], version, b"y")  # it is on the disk, which the writer does not know
            cache.committed(name, None)
        found = cache.get(name)
        assert found is None or found == stored[name]


def test_it_holds_few_bytes(monkeypatch: Any) -> None:
    """The documents that were used last stay, and a large one is not kept at all."""
    monkeypatch.setattr(module, "MAX_CACHED_BODIES", 10 * (100 + module.DOCUMENT_OVERHEAD))
    cache = DocumentCache()
    for n in range(30):
        cache.committed(("c", str(n)), Document(str(n), 1, bytes(100)))
        cache.get(("c", "0"))
    assert [n for n in range(30) if cache.get(("c", str(n)))] == [0, *range(21, 30)]
    cache.committed(("c", "0"), Document("0", 2, bytes(module.MAX_CACHED_BODY + 1)))
    assert cache.get(("c", "0")) is None
