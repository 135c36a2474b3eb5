"""``redis://`` and its relatives: several processes share their data through Redis or Valkey.

    redis://[USER[:PASSWORD]@]HOST[:PORT][,HOST...][/DB][?OPTION=VALUE&...]
    redis+sentinel://[USER[:PASSWORD]@]HOST[:PORT][,HOST...]/SERVICE[/DB][?OPTION=VALUE&...]

Every part is percent-decoded. ``rediss`` and ``rediss+sentinel`` are TLS, with the servers' certificates and names
always checked. Of several hosts any will do that takes writes: the nodes of a cluster, or a master and its replicas.
With ``+sentinel`` the hosts are Sentinels, on port 26379 by default, which name the master. Options:

    prefix        the beginning of every key and channel, ``mdash`` by default: services with different prefixes can
                  share a database. Letters, digits, ``_ . : -``, at most 64.
    timeout       seconds that the server may take for an answer before a call fails; 2 by default
    durable       ``1`` says that the server has every write on disk before it answers, and claims `DURABLE`
    ssl_ca_certs  PEM file of the authorities to trust, instead of the system's (``rediss`` only)
    ssl_certfile, ssl_keyfile
                  PEM files of a client certificate (``rediss`` only)
    sentinel_username, sentinel_password
                  credentials for the Sentinels (``+sentinel`` only); those before the hosts are for the master

Whether a write survives a power cut depends on the server's settings (``appendonly yes`` and ``appendfsync always``),
which the server may not show to every user. So the URL has to say it, and settings that are shown must not contradict
it. Even then a replica that takes over has only the writes that had reached it: Redis does not wait for replicas.

The server is Redis from 6.0, or Valkey. It must not evict keys: ``maxmemory-policy`` is
``noeviction`` (or ``volatile-...``: only unfinished blobs have a time to live). In a cluster calls follow the
redirections of the nodes, also while a slot is being moved. A user needs no more than
``ACL SETUSER mdash on >PASSWORD ~{mdash:* &mdash:bus:* +@all -@dangerous +info``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

try:
    import hiredis  # noqa: F401 - every module below needs it
except ModuleNotFoundError:
    raise ModuleNotFoundError("it needs hiredis: pip install 'mdashcore[redis]'", name="hiredis") from None

from mdash_backends._redis_blobs import RedisBlobs
from mdash_backends._redis_bus import RedisBus
from mdash_backends._redis_checks import ServerChecks, check_format
from mdash_backends._redis_client import RedisClient, background_tasks
from mdash_backends._redis_documents import RedisDocuments
from mdash_backends._redis_logs import RedisLogs
from mdash_backends._redis_url import parse_redis_url
from mdash_backends._redis_writer import put_and_append
from mdashcore.storage import ATOMIC, DURABLE, ORDERED, SHARED, Backend

__all__ = ["open_redis"]


@asynccontextmanager
async def open_redis(url: str) -> AsyncIterator[Backend]:
    """Open the backend. The docstring of the module describes its URLs.

    Raises:
        InvalidInput: the URL is malformed.
        StorageError: the server cannot be reached, refuses the credentials, or would lose data.
    """
    config = parse_redis_url(url)
    async with background_tasks() as tasks:
        client = RedisClient(config.home, config.server, tasks)
        await ServerChecks(client, durable=config.durable).begin()
        is_alone = not await client.is_cluster()
        format_tag = f"{config.prefix}:format".encode()
        await check_format(client, format_tag)
        yield Backend(
            documents=RedisDocuments(client, config.prefix),
            logs=RedisLogs(client, config.prefix),
            blobs=RedisBlobs(client, config.prefix),
            bus=RedisBus(client, tasks, prefix=config.prefix, db=config.server.db, probe=b"{%b}" % format_tag),
            put_and_append=partial(put_and_append, client, config.prefix) if is_alone else None,
            capabilities=frozenset(
                {SHARED, ORDERED, *([ATOMIC] if is_alone else []), *([DURABLE] if config.durable else [])}
            ),
        )
