"""The documents of a store that were read or written last, for a store that one process writes.

To read a document takes a thread, and that takes longer than all the rest of a device's reconnect. A cached document is
always the newest that was committed: the owner reports each commit, and a read during which its document was committed
is not kept.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, TypeAlias

from mdashcore.storage import Document

__all__ = ["DocumentCache", "DocumentName"]

MAX_CACHED_BODIES: Final = 2**23  # of bodies that are kept: all documents of some thousand devices
MAX_CACHED_BODY: Final = 2**17  # bytes of one of them: the largest shadow with its timestamps
DOCUMENT_OVERHEAD: Final = 400  # bytes that a document takes beside its body

DocumentName: TypeAlias = tuple[str, str]
"""Collection and key."""


class DocumentCache:
    """The cache of one store.

    ::

        if (document := cache.get(name)) is None:
            read = cache.begin_read(name)
            document = ...
            cache.end_read(name, read, document)
    """

    def __init__(self) -> None:
        self._documents: OrderedDict[DocumentName, Document] = OrderedDict()  # the one that was used last is the last
        self._size = 0
        self._reads: dict[DocumentName, object] = {}  # the last read of each document that is being read

    def get(self, name: DocumentName) -> Document | None:
        """Return a document; `None` if it is not cached."""
        document = self._documents.get(name)
        if document is not None:
            self._documents.move_to_end(name)
        return document

    def begin_read(self, name: DocumentName) -> object:
        """Announce that a document is read from the store. Returns a token for `end_read`."""
        token = self._reads[name] = object()
        return token

    def end_read(self, name: DocumentName, token: object, document: Document | None) -> None:
        """Keep a document that was read, unless it was committed meanwhile. `None` stands for none, or a failure."""
        if self._reads.get(name) is token:
            del self._reads[name]
            if document is not None:
                self._keep(name, document)

    def committed(self, name: DocumentName, document: Document | None) -> None:
        """Report a commit. `None` stands for a removed document, or for one that has to be read again."""
        self._reads.pop(name, None)
        if document is None:
            self._drop(name)
        else:
            self._keep(name, document)

    def clear(self) -> None:
        """Drop all documents: others may have written them."""
        self._documents.clear()
        self._reads.clear()
        self._size = 0

    def _keep(self, name: DocumentName, document: Document) -> None:
        self._drop(name)
        if len(document.body) > MAX_CACHED_BODY:
            return
        self._documents[name] = document
        self._size += len(document.body) + DOCUMENT_OVERHEAD
        while self._size > MAX_CACHED_BODIES:
            self._drop(next(iter(self._documents)))

    def _drop(self, name: DocumentName) -> None:
        document = self._documents.pop(name, None)
        if document is not None:
            self._size -= len(document.body) + DOCUMENT_OVERHEAD
