"""The keys of documents, logs and blobs in Redis.

All keys of a script have one hash tag, and with it one slot of a cluster::

    {mdash:documents:C}:value:K   VERSION SP BODY            a document of collection C
    {mdash:documents:C}:index     sorted set of its keys     every score is 0: they stand in the order of their bytes
    {mdash:documents:C}:version   the last version given     for all its keys: a deleted key cannot get it again
    {mdash:log:L}:entries         stream                     an entry's id is OFFSET-1
    {mdash:log:L}:end             the next offset            stays when entries are trimmed
    {mdash:blobs}:heads           hash of keys               GENERATION SP SIZE of each
    {mdash:blobs}:index           sorted set of its keys
    {mdash:blobs}:data:G          the bytes of a generation  expire, until a head names them

Beside them ``{mdash:format}`` has the number of this form: see `mdash_backends.redis`.

A cluster spreads collections and logs over its nodes, but never one collection: the largest has to fit in one node.
Finer tags would need an index that spans slots, which could not be kept consistent.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from functools import lru_cache
from typing import Final

import attrs

from mdash_backends._redis_client import RedisClient, slot_of

__all__ = ["KeyFamily", "blobs_family", "decode_key", "documents_family", "encode_key", "index_pages", "log_family"]

SCAN_PAGE: Final = 64  # keys that a scan has in memory, with their documents: 2 MB if each has 32 KiB

MAX_CACHED_NAMES: Final = 4096  # collections and logs whose key names are cached


def encode_key(text: str) -> bytes:
    """Encode a key. Order and prefixes of the bytes are those of the text. Any text is accepted, also half a
    surrogate.
    """
    return text.encode("utf-8", "surrogatepass")


def decode_key(raw: bytes) -> str:
    """Decode a key that `encode_key` has encoded."""
    return raw.decode("utf-8", "surrogatepass")


@attrs.frozen
class KeyFamily:
    """The keys that share a hash tag."""

    slot: int
    prefix: bytes
    """The tag in its braces, and a colon."""

    def __call__(self, name: bytes) -> bytes:
        return self.prefix + name


@lru_cache(MAX_CACHED_NAMES)
def _family(*parts: str) -> KeyFamily:
    # A tag ends at its first closing brace: escaped in the parts, it ends where it should.
    tag = encode_key(":".join(part.replace("%", "%25").replace("}", "%7D") for part in parts))
    return KeyFamily(slot_of(tag), b"{%b}:" % tag)


async def index_pages(
    client: RedisClient, family: KeyFamily, prefix: str, after: str = ""
) -> AsyncGenerator[list[bytes], None]:
    """Yield the keys in a family's index that start with a prefix and are greater than `after`, a page at a time.

    A page starts after the last key of the page before, so a key that exists all the time is given once.
    """
    raw, last = encode_key(prefix), encode_key(after)
    start, stop = b"(" + last if last >= raw and last else b"[" + raw, b"(" + raw + b"\xff"  # 0xFF is in no UTF-8
    while True:
        command = (b"ZRANGEBYLEX", family(b"index"), start, stop, b"LIMIT", 0, SCAN_PAGE)
        page: list[bytes] = await client.call(family.slot, *command)
        if page:
            yield page
        if len(page) < SCAN_PAGE:
            return
        start = b"(" + page[-1]


def documents_family(prefix: str, collection: str) -> KeyFamily:
    """Return the keys of a collection."""
    return _family(prefix, "documents", collection)


def log_family(prefix: str, log: str) -> KeyFamily:
    """Return the keys of a log."""
    return _family(prefix, "log", log)


def blobs_family(prefix: str) -> KeyFamily:
    """Return the keys of all blobs."""
    return _family(prefix, "blobs")
