"""``redis://`` and ``rediss://``: several processes share their data through a Redis or Valkey server.

    redis://[USER[:PASSWORD]@]HOST[:PORT][/DB][?OPTION=VALUE&...]

Every part is percent-decoded. ``rediss`` is TLS, with the server's certificate and name always checked. Options:

    prefix        the beginning of every key and channel, ``mdash`` by default: services with different prefixes can
                  share a database. Letters, digits, ``_ . : -``, at most 64.
    timeout       seconds that the server may take for an answer before a call fails; 2 by default
    durable       ``1`` says that the server has every write on disk before it answers, and claims `DURABLE`
    ssl_ca_certs  PEM file of the authorities to trust, instead of the system's (``rediss`` only)
    ssl_certfile, ssl_keyfile
                  PEM files of a client certificate (``rediss`` only)

Whether a write survives a power cut depends on the server's settings (``appendonly yes`` and ``appendfsync always``),
which the server may not show to every user. So the URL has to say it, and settings that are shown must not contradict
it. Even then a replica that takes over has only the writes that had reached it: Redis does not wait for replicas.

The server is Redis from 6.0, or Valkey. It must not evict keys: ``maxmemory-policy`` is
``noeviction`` (or ``volatile-...``: only unfinished blobs have a time to live). In a cluster the URL names one node;
calls follow the redirections to the others, and fail while the slot of their keys is being moved. A user needs no
more than ``ACL SETUSER mdash on >PASSWORD ~{mdash:* &mdash:bus:* +@all -@dangerous +info``.
"""

from __future__ import annotations

import math
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import attrs

try:
    from coredis.exceptions import ResponseError
except ModuleNotFoundError:
    raise ModuleNotFoundError("it needs coredis: pip install 'mdashcore[redis]'", name="coredis") from None

from mdash_backends._redis_bus import RedisBus
from mdash_backends._redis_client import ANY_SLOT, RedisClient, Target, background_tasks, slot_of
from mdash_backends._redis_stores import RedisBlobs, RedisDocuments, RedisLogs
from mdash_backends._redis_writer import put_and_append
from mdashcore._errors import InvalidInput, StorageError
from mdashcore.storage import ATOMIC, DURABLE, ORDERED, SHARED, Backend

__all__ = ["open_redis"]

DEFAULT_PORT: Final = 6379  # the registered one

REDIS_FORMAT: Final = 1
"""The form of keys and values, in the key ``{PREFIX:format}``: a later form is not read as if it were this one."""

MAX_URL_TIMEOUT: Final = 60.0  # seconds: after that a caller has gone

_PREFIX: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")

_OPTIONS: Final = ("prefix", "timeout", "durable")

_TLS_OPTIONS: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


@asynccontextmanager
async def open_redis(url: str) -> AsyncIterator[Backend]:
    """Open the backend. The docstring of the module describes its URLs.

    Raises:
        InvalidInput: the URL is malformed.
        StorageError: the server cannot be reached, refuses the credentials, or would lose data.
    """
    config = _parse(url)
    async with background_tasks() as tasks:
        client = RedisClient(config.target, tasks)
        info = await _check_server(client, durable=config.durable)
        await _check_format(client, f"{config.prefix}:format".encode())
        is_alone = _is_alone(info)
        yield Backend(
            documents=RedisDocuments(client, config.prefix),
            logs=RedisLogs(client, config.prefix),
            blobs=RedisBlobs(client, config.prefix),
            bus=RedisBus(client, tasks, config.prefix),
            put_and_append=partial(put_and_append, client, config.prefix) if is_alone else None,
            capabilities=frozenset(
                {SHARED, ORDERED, *([ATOMIC] if is_alone else []), *([DURABLE] if config.durable else [])}
            ),
        )


@attrs.frozen
class _Config:
    target: Target
    prefix: str
    durable: bool


def _parse(url: str) -> _Config:
    """Parse a URL. Errors never show it, because it may hold a password."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, DEFAULT_PORT if parts.port is None else parts.port
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise InvalidInput("the Redis URL is not well-formed; percent-encode what is special in a password") from None
    if not host:
        raise InvalidInput("a Redis URL names a host: redis://HOST[:PORT][/DB]")
    if parts.fragment:
        raise InvalidInput("a Redis URL has no fragment; write # as %23")
    known = _OPTIONS + (_TLS_OPTIONS if parts.scheme == "rediss" else ())
    options = dict(pairs)
    for name, _ in pairs:
        if name in _TLS_OPTIONS and name not in known:
            raise InvalidInput(f"the option {name} is for rediss:// URLs")
        if name not in known:
            raise InvalidInput(f"no option {name!r} in a Redis URL; there are: {', '.join(known)}")
    if len(options) != len(pairs):
        raise InvalidInput("an option stands twice in the Redis URL")
    return _Config(
        Target(
            host,
            port,
            db=_database(parts),
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            tls=_tls(options) if parts.scheme == "rediss" else None,
            timeout=_timeout(options.get("timeout", "2")),
        ),
        prefix=_prefix(options.get("prefix", "mdash")),
        durable=_flag("durable", options.get("durable", "0")),
    )


def _database(parts: SplitResult) -> int:
    text = parts.path.removeprefix("/")
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 4):
        raise InvalidInput("the path of a Redis URL is the number of a database, as in redis://HOST/0")
    return int(text)


def _timeout(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_URL_TIMEOUT:
        raise InvalidInput(f"timeout in a Redis URL is a number of seconds, at most {MAX_URL_TIMEOUT:g}")
    return seconds


def _prefix(text: str) -> str:
    if not _PREFIX.fullmatch(text):
        raise InvalidInput("prefix in a Redis URL is 1 to 64 letters, digits and _ . : -")
    return text


def _flag(name: str, text: str) -> bool:
    if text not in ("0", "1"):
        raise InvalidInput(f"{name} in a Redis URL is 0 or 1")
    return text == "1"


def _tls(options: Mapping[str, str]) -> ssl.SSLContext:
    authorities, certificate, key = map(options.get, _TLS_OPTIONS)
    if key and not certificate:
        raise InvalidInput("ssl_keyfile in a Redis URL needs ssl_certfile")
    try:
        context = ssl.create_default_context(cafile=authorities)
        if certificate:
            context.load_cert_chain(certificate, key, password="")  # else it would ask the terminal
    except (OSError, ssl.SSLError) as exc:
        raise InvalidInput(f"the certificates that the Redis URL names cannot be loaded: {exc}") from exc
    return context


def _is_alone(info: Mapping[str, str]) -> bool:
    """Whether the server is known to be no node of a cluster: then a script may change keys of any slots."""
    return info.get("redis_mode") in ("standalone", "sentinel") or info.get("cluster_enabled") == "0"


async def _check_server(client: RedisClient, *, durable: bool) -> dict[str, str]:
    """Check that the server is there, and that its settings allow it to keep data. Settings that it hides are not
    checked.
    """
    info = await _ask(client, b"INFO")
    if info.get("maxmemory_policy", "").startswith("allkeys-") and info.get("maxmemory") != "0":
        policy = info["maxmemory_policy"]
        raise StorageError(f"{client.target}: with maxmemory-policy {policy} it forgets keys; noeviction is needed")
    if not durable:
        return info
    settings = await _ask(client, b"CONFIG GET", b"appendfsync")
    if info.get("aof_enabled", "1") != "1" or settings.get("appendfsync", "always") != "always":
        raise StorageError(
            f"{client.target}: the URL says durable=1, and the server has not appendonly yes and appendfsync always"
        )
    return info


async def _check_format(client: RedisClient, tag: bytes) -> None:
    """Check that the data, if there is any, has the form that this program knows, and say it where nothing does."""
    slot, key = slot_of(tag), b"{%b}" % tag  # with braces, as all keys: a user may be allowed no others
    stored = await client.call(slot, b"GET", key)
    if stored is None:
        with suppress(StorageError):  # a server that is full is opened all the same
            await client.call(slot, b"SET", key, REDIS_FORMAT, b"NX")
    elif stored != b"%d" % REDIS_FORMAT:
        found = stored[:20].decode(errors="replace")
        raise StorageError(f"{client.target}: the data is of format {found}; this program knows format {REDIS_FORMAT}")


async def _ask(client: RedisClient, *command: bytes) -> dict[str, str]:
    """Return the server's answer about itself; an empty dict if the user may not ask."""
    try:
        answer = await client.call(ANY_SLOT, *command)
    except StorageError as exc:
        if isinstance(exc.__cause__, ResponseError):
            return {}
        raise
    if isinstance(answer, dict):
        return {name.decode(): value.decode() for name, value in answer.items()}
    return dict(line.split(":", 1) for line in answer.decode().splitlines() if ":" in line)
