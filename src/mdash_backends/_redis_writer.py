"""A document and a log entry in Redis, both or neither.

In a cluster each of the two has a slot of its own, and no script can change both.
"""

from __future__ import annotations

from mdash_backends._redis_client import RedisClient, Script
from mdash_backends._redis_documents import PUT_LUA
from mdash_backends._redis_keys import documents_family, encode_key, log_family
from mdashcore._errors import VersionConflict

__all__ = ["put_and_append"]

# KEYS: value, index, version, entries, end; ARGV: expected, key, body, time, entry. The new version and the offset
# of the entry, or -1 - the version that is there.
_PUT_AND_APPEND = Script(
    PUT_LUA
    + """
local offset = tonumber(redis.call('GET', KEYS[5]) or '0')
redis.call('XADD', KEYS[4], string.format('%.0f-1', offset), 't', ARGV[4], 'b', ARGV[5])
redis.call('INCR', KEYS[5])
return {version, offset}
"""
)


async def put_and_append(
    client: RedisClient,
    prefix: str,
    collection: str,
    key: str,
    body: bytes,
    *,
    expected: int,
    log: str,
    time: float,
    entry: bytes,
) -> tuple[int, int]:
    """Write a document and a log entry in one script, as `PutAndAppend` says; not in a cluster."""
    documents, logs, raw = documents_family(prefix, collection), log_family(prefix, log), encode_key(key)
    keys = (documents(b"value:" + raw), documents(b"index"), documents(b"version"), logs(b"entries"), logs(b"end"))
    arguments = (expected, raw, bytes(body), repr(float(time)).encode(), bytes(entry))
    found: list[int] | int = await client.run(_PUT_AND_APPEND, documents.slot, keys, *arguments)
    if isinstance(found, int):
        raise VersionConflict(collection, key, expected=expected, actual=-1 - found)
    version, offset = found
    return version, offset
