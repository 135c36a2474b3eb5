"""Blobs in Redis: a string for each, which a head names only after it is complete."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import aclosing, suppress
from typing import Final

import anyio
import attrs

from mdash_backends._redis_client import RedisClient, Script
from mdash_backends._redis_keys import blobs_family, decode_key, encode_key, index_pages
from mdashcore._errors import NotFound, StorageError, TooLarge

__all__ = ["RedisBlobs"]

BLOB_PIECE: Final = 2**18  # bytes of a blob in one command: it delays the commands behind it by a millisecond or two

MAX_BLOB: Final = 2**29  # bytes: Redis' limit for a string

STAGING_TIME: Final = 3600  # seconds after which an unfinished blob is removed; each piece starts them again

MAX_TRIES: Final = 32  # exchanges that other writers may win meanwhile: more at the same time are a flood

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
        self._family = blobs_family(prefix)

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
        async with aclosing(index_pages(self._client, self._family, prefix)) as pages:
            async for page in pages:
                for raw in page:
                    yield decode_key(raw)

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
