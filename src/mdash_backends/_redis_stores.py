"""Documents, logs and blobs in Redis: the keys, and the scripts that change several of them in one step.

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

import secrets
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from functools import lru_cache
from typing import Final

import anyio
import attrs

from mdash_backends._redis_client import RedisClient, Script, slot_of
from mdashcore._errors import NotFound, StorageError, TooLarge, VersionConflict
from mdashcore.storage import Document, LogEntry, check_begin

__all__ = ["PUT_LUA", "RedisBlobs", "RedisDocuments", "RedisLogs", "documents_family", "encode_key", "log_family"]

SCAN_PAGE: Final = 64  # keys that a scan has in memory, with their documents: 2 MB if each has 32 KiB

BLOB_PIECE: Final = 2**18  # bytes of a blob in one command: it delays the commands behind it by a millisecond or two

MAX_BLOB: Final = 2**29  # bytes: Redis' limit for a string

STAGING_TIME: Final = 3600  # seconds after which an unfinished blob is removed; each piece starts them again

MAX_TRIES: Final = 32  # exchanges that other writers may win meanwhile: more at the same time are a flood

MAX_EXACT: Final = 2**53  # a script's numbers are doubles

MAX_OFFSET: Final = 2**63 - 1  # a stream's ids are unsigned 64-bit numbers; Redis' counters are signed

MAX_CACHED_NAMES: Final = 4096  # collections and logs whose key names are cached


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

# KEYS: entries, end; ARGV: time, bodies. The offset of the first.
_APPEND = Script("""
local first = tonumber(redis.call('GET', KEYS[2]) or '0')
for i = 2, #ARGV do
  redis.call('XADD', KEYS[1], string.format('%.0f-1', first + i - 2), 't', ARGV[1], 'b', ARGV[i])
end
redis.call('INCRBY', KEYS[2], #ARGV - 1)
return first
""")

# KEYS: entries, end; ARGV: offset. The end of the log: if it is beyond the offset, nothing was changed.
_BEGIN = Script("""
local last = tonumber(redis.call('GET', KEYS[2]) or '0')
if last <= tonumber(ARGV[1]) then
  redis.call('UNLINK', KEYS[1])
  redis.call('SET', KEYS[2], ARGV[1])
end
return last
""")

# KEYS: entries, end; ARGV: entries to keep, offset from which on none is removed. MINID would need Redis 6.2.
_TRIM = Script("""
local after = tonumber(redis.call('GET', KEYS[2]) or '0') - tonumber(ARGV[2])
return redis.call('XTRIM', KEYS[1], 'MAXLEN', '=', string.format('%.0f', math.max(tonumber(ARGV[1]), after)))
""")

# KEYS: data; ARGV: bytes, seconds to live. The number of bytes now.
_STAGE = Script("""
local size = redis.call('APPEND', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return size
""")

# KEYS: heads, index, new data, old data; ARGV: key, old head, new head, size. An empty head stands for none.
# Returns nil if the heads were exchanged; otherwise the present head.
_EXCHANGE = Script("""
local head = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if head ~= ARGV[2] then return head end
if ARGV[3] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
  redis.call('ZREM', KEYS[2], ARGV[1])
else
  if redis.call('STRLEN', KEYS[3]) ~= tonumber(ARGV[4]) then
    return redis.error_reply('ERR the blob took so long that a part of it has expired')
  end
  redis.call('PERSIST', KEYS[3])
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
  redis.call('ZADD', KEYS[2], 0, ARGV[1])
end
if ARGV[2] ~= '' then redis.call('UNLINK', KEYS[4]) end
return false
""")


def encode_key(text: str) -> bytes:
    """Encode a key. Order and prefixes of the bytes are those of the text. Any text is accepted, also half a
    surrogate.
    """
    return text.encode("utf-8", "surrogatepass")


def _decode(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


@attrs.frozen
class _Family:
    """The keys that share a hash tag."""

    slot: int
    prefix: bytes
    """The tag in its braces, and a colon."""

    def __call__(self, name: bytes) -> bytes:
        return self.prefix + name


@lru_cache(MAX_CACHED_NAMES)
def _family(*parts: str) -> _Family:
    # A tag ends at its first closing brace: escaped in the parts, it ends where it should.
    tag = encode_key(":".join(part.replace("%", "%25").replace("}", "%7D") for part in parts))
    return _Family(slot_of(tag), b"{%b}:" % tag)


async def _index_pages(
    client: RedisClient, family: _Family, prefix: str, after: str = ""
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
        async with aclosing(_index_pages(self._client, family, prefix, after)) as pages:
            async for page in pages:
                values = await self._client.call(family.slot, b"MGET", *(family(b"value:" + raw) for raw in page))
                for raw, value in zip(page, values, strict=True):
                    if value is not None:
                        yield _document(_decode(raw), value)

    def _keys(self, collection: str) -> _Family:
        return documents_family(self._prefix, collection)


def documents_family(prefix: str, collection: str) -> _Family:
    """Return the keys of a collection."""
    return _family(prefix, "documents", collection)


def log_family(prefix: str, log: str) -> _Family:
    """Return the keys of a log."""
    return _family(prefix, "log", log)


def _document(key: str, value: bytes) -> Document:
    version, _, body = value.partition(b" ")
    return Document(key, int(version), body)


class RedisLogs:
    """A log store with a stream for each log."""

    def __init__(self, client: RedisClient, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    async def append(self, log: str, time: float, bodies: Sequence[bytes]) -> int:
        family = self._keys(log)
        keys = (family(b"entries"), family(b"end"))
        arguments = (repr(float(time)).encode(), *map(bytes, bodies))
        first: int = await self._client.run(_APPEND, family.slot, keys, *arguments)
        return first

    async def begin(self, log: str, offset: int) -> None:
        check_begin(offset, 0)
        family = self._keys(log)
        end: int = await self._client.run(_BEGIN, family.slot, (family(b"entries"), family(b"end")), offset)
        check_begin(offset, end)

    async def read(self, log: str, start: int, limit: int) -> Sequence[LogEntry]:
        if limit <= 0 or start > MAX_OFFSET:
            return ()
        family = self._keys(log)
        command = (b"XRANGE", family(b"entries"), max(0, start), b"+", b"COUNT", min(limit, MAX_OFFSET))
        entries = await self._client.call(family.slot, *command)
        return tuple(LogEntry(int(id.partition(b"-")[0]), float(time), body) for id, (_, time, _, body) in entries)

    async def end(self, log: str) -> int:
        family = self._keys(log)
        return int(await self._client.call(family.slot, b"GET", family(b"end")) or 0)

    async def trim(self, log: str, keep: int, *, before: int | None = None) -> None:
        family = self._keys(log)
        keys = (family(b"entries"), family(b"end"))
        numbers = (min(max(0, number), MAX_EXACT) for number in (keep, MAX_EXACT if before is None else before))
        await self._client.run(_TRIM, family.slot, keys, *numbers)

    def _keys(self, log: str) -> _Family:
        return log_family(self._prefix, log)


@attrs.frozen
class _BlobHead:
    """The place and size of a blob."""

    generation: bytes
    size: int

    def encode(self) -> bytes:
        return b"%b %d" % (self.generation, self.size)

    @classmethod
    def decode(cls, raw: bytes) -> _BlobHead:
        generation, _, size = raw.partition(b" ")
        return cls(generation, int(size))


class RedisBlobs:
    """A blob store with a string for each blob. A head names the string only after it is complete."""

    def __init__(self, client: RedisClient, prefix: str) -> None:
        self._client = client
        self._family = _family(prefix, "blobs")

    async def put(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        generation = secrets.token_hex(16).encode()
        try:
            size = await self._stage(generation, chunks)
        except BaseException:
            with anyio.CancelScope(shield=True), suppress(StorageError):  # else it expires
                await self._client.call(self._family.slot, b"UNLINK", self._data(generation))
            raise
        # From here on the server may have put it in its place although no answer arrived: it must not be removed.
        await self._exchange(key, _BlobHead(generation, size))
        return size

    async def read(self, key: str, offset: int, size: int) -> bytes:
        for _ in range(MAX_TRIES):
            if (head := await self._head(key)) is None:
                raise NotFound(f"no blob {key!r}")
            stop = min(offset + size, head.size)
            starts = range(offset, stop, BLOB_PIECE)
            found = b"".join([await self._piece(head, start, min(start + BLOB_PIECE, stop)) for start in starts])
            if len(found) == max(0, stop - offset):
                return found  # else it was replaced meanwhile
        raise StorageError(f"the blob {key!r} is replaced all the time")

    async def size(self, key: str) -> int | None:
        head = await self._head(key)
        return None if head is None else head.size

    async def delete(self, key: str) -> bool:
        return await self._exchange(key, None)

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        async with aclosing(_index_pages(self._client, self._family, prefix)) as pages:
            async for page in pages:
                for raw in page:
                    yield _decode(raw)

    async def _head(self, key: str) -> _BlobHead | None:
        raw = await self._client.call(self._family.slot, b"HGET", self._family(b"heads"), encode_key(key))
        return None if raw is None else _BlobHead.decode(raw)

    def _data(self, generation: bytes) -> bytes:
        return self._family(b"data:" + generation)

    async def _piece(self, head: _BlobHead, start: int, stop: int) -> bytes:
        command = (b"GETRANGE", self._data(head.generation), start, stop - 1)
        piece: bytes = await self._client.call(self._family.slot, *command)
        return piece

    async def _stage(self, generation: bytes, chunks: AsyncIterable[bytes]) -> int:
        """Write a generation that no head names yet. Returns its size in bytes."""
        size = 0
        waiting = bytearray()
        async for chunk in chunks:
            waiting += chunk
            while len(waiting) >= BLOB_PIECE:
                size = await self._append(generation, size, bytes(waiting[:BLOB_PIECE]))
                del waiting[:BLOB_PIECE]
        if waiting:
            size = await self._append(generation, size, bytes(waiting))
        return size

    async def _append(self, generation: bytes, size: int, piece: bytes) -> int:
        if size + len(piece) > MAX_BLOB:
            raise TooLarge(f"a blob in Redis has at most {MAX_BLOB} bytes")
        now = await self._client.run(_STAGE, self._family.slot, [self._data(generation)], piece, STAGING_TIME)
        if now != size + len(piece):
            raise StorageError("the blob came so slowly that its beginning has expired")
        return size + len(piece)

    async def _exchange(self, key: str, new: _BlobHead | None) -> bool:
        """Replace the present head of a key. Returns `False` if there is none before and after."""
        old = await self._head(key)
        for _ in range(MAX_TRIES):
            some = new or old
            if some is None:
                return False
            heads = [b"" if head is None else head.encode() for head in (old, new)]
            data = [self._data((head or some).generation) for head in (new, old)]
            keys = [self._family(b"heads"), self._family(b"index"), *data]
            found = await self._client.run(_EXCHANGE, self._family.slot, keys, encode_key(key), *heads, some.size)
            if found is None:
                return True
            old = _BlobHead.decode(found) if found else None
        raise StorageError(f"the blob {key!r} is changed by too many at once")
