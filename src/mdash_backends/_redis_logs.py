"""Logs in Redis: a stream for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mdash_backends._redis_client import RedisClient, Script
from mdash_backends._redis_keys import KeyFamily, log_family
from mdashcore.storage import LogEntry, check_begin

__all__ = ["RedisLogs"]

MAX_EXACT: Final = 2**53  # a script's numbers are doubles

MAX_OFFSET: Final = 2**63 - 1  # a stream's ids are unsigned 64-bit numbers; Redis' counters are signed

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

    def _keys(self, log: str) -> KeyFamily:
        return log_family(self._prefix, log)
