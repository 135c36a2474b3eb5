"""Documents in Redis: a string for each, which begins with its version."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from mdash_backends._redis_client import RedisClient, Script
from mdash_backends._redis_keys import KeyFamily, decode_key, documents_family, encode_key, index_pages
from mdashcore._errors import VersionConflict
from mdashcore.storage import Document

__all__ = ["PUT_LUA", "RedisDocuments"]

# A document's version, from the head of its value; 0 if there is none.
_ACTUAL_LUA = """
local actual = tonumber(string.match(redis.call('GETRANGE', KEYS[1], 0, 19), '^%d+')) or 0
if ARGV[1] ~= '' and tonumber(ARGV[1]) ~= actual then return -1 - actual end
"""

# Puts a document, which gets the next version. KEYS: value, index, version; ARGV: expected or empty, key, body.
PUT_LUA = (
    _ACTUAL_LUA
    + """
local version = redis.call('INCR', KEYS[3])
redis.call('SET', KEYS[1], string.format('%.0f ', version) .. ARGV[3])
if actual == 0 then redis.call('ZADD', KEYS[2], 0, ARGV[2]) end
"""
)

# The new version, or -1 - the present one.
_PUT = Script(PUT_LUA + "return version")

# KEYS: value, index; ARGV: expected or empty, key. 1; 0 if there was none; or as `_PUT`.
_DELETE = Script(
    _ACTUAL_LUA
    + """
redis.call('ZREM', KEYS[2], ARGV[2])
return redis.call('UNLINK', KEYS[1])
"""
)


class RedisDocuments:
    """A document store with a string for each document, which begins with its version."""

    def __init__(self, client: RedisClient, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    async def get(self, collection: str, key: str) -> Document | None:
        family = self._keys(collection)
        value = await self._client.call(family.slot, b"GET", family(b"value:" + encode_key(key)))
        return None if value is None else _document(key, value)

    async def put(self, collection: str, key: str, body: bytes, *, expected: int | None = None) -> int:
        family, raw = self._keys(collection), encode_key(key)
        keys = (family(b"value:" + raw), family(b"index"), family(b"version"))
        arguments = (b"" if expected is None else expected, raw, bytes(body))
        version: int = await self._client.run(_PUT, family.slot, keys, *arguments)
        if version < 0:
            raise VersionConflict(collection, key, expected=expected or 0, actual=-1 - version)
        return version

    async def delete(self, collection: str, key: str, *, expected: int | None = None) -> bool:
        family, raw = self._keys(collection), encode_key(key)
        keys = (family(b"value:" + raw), family(b"index"))
        gone: int = await self._client.run(_DELETE, family.slot, keys, b"" if expected is None else expected, raw)
        if gone < 0:
            raise VersionConflict(collection, key, expected=expected or 0, actual=-1 - gone)
        return gone == 1

    async def scan(self, collection: str, prefix: str = "", *, after: str = "") -> AsyncIterator[Document]:
        family = self._keys(collection)
        async with aclosing(index_pages(self._client, family, prefix, after)) as pages:
            async for page in pages:
                values = await self._client.call(family.slot, b"MGET", *(family(b"value:" + raw) for raw in page))
                for raw, value in zip(page, values, strict=True):
                    if value is not None:
                        yield _document(decode_key(raw), value)

    def _keys(self, collection: str) -> KeyFamily:
        return documents_family(self._prefix, collection)


def _document(key: str, value: bytes) -> Document:
    version, _, body = value.partition(b" ")
    return Document(key, int(version), body)
