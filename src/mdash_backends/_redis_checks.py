"""What is checked of Redis servers before their data is used: role, eviction, persistence, and the form of the data."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from coredis.exceptions import ResponseError

from mdash_backends._redis_client import ANY_SLOT, RedisClient, slot_of
from mdashcore._errors import StorageError

__all__ = ["check_format", "check_server", "is_cluster"]

_log = logging.getLogger(__name__)

REDIS_FORMAT: Final = 1
"""The form of keys and values, in the key ``{PREFIX:format}``: a later form is not read as if it were this one."""


async def check_server(client: RedisClient, *, durable: bool) -> None:
    """Check that the server's settings allow it to keep data, as far as it shows them.

    Logs a warning for each setting that may lose data, and one for all that could not be checked: managed services
    forbid CONFIG, and some INFO.

    Raises:
        StorageError: the server cannot be reached, refuses the credentials, or would lose data.
    """
    info = await _ask(client, b"INFO")
    settings = {
        name: value
        for setting in (b"appendfsync", b"save")
        for name, value in ((await _ask(client, b"CONFIG GET", setting)) or {}).items()
    }
    _check_eviction(client, info or {})
    if durable:
        _check_durable(client, info or {}, settings)
    elif info is not None:
        _check_persistence(client, info, settings)
    unseen = [
        *(["maxmemory-policy"] if info is None else []),
        *(["appendonly"] if info is None and durable else []),
        *(["appendfsync"] if durable and "appendfsync" not in settings else []),
    ]
    if unseen:
        _log.warning(
            "%s: %s could not be checked, because this user may not use %s",
            client.home,
            " and ".join(unseen),
            "INFO" if info is None else "CONFIG",
        )


async def is_cluster(client: RedisClient) -> bool:
    """Whether the server is a node of a cluster, where a script may change keys of one slot only."""
    told = await client.call(ANY_SLOT, b"HELLO")
    return bool(told[b"mode"] == b"cluster")


def _check_eviction(client: RedisClient, info: Mapping[str, str]) -> None:
    """Refuse a server that removes keys when its memory is full. Of ours, only unfinished blobs are volatile."""
    policy = info.get("maxmemory_policy", "")
    if not policy.startswith("allkeys-"):
        return
    if info.get("maxmemory") != "0":
        raise StorageError(
            f"{client.home}: with maxmemory-policy {policy} it forgets devices when its memory is full; "
            "noeviction is needed, with which it refuses writes instead"
        )
    _log.warning(
        "%s: maxmemory-policy is %s: once it has a maxmemory it would forget devices, and is refused; set noeviction",
        client.home,
        policy,
    )


def _check_durable(client: RedisClient, info: Mapping[str, str], settings: Mapping[str, str]) -> None:
    if info.get("aof_enabled", "1") != "1" or settings.get("appendfsync", "always") != "always":
        raise StorageError(
            f"{client.home}: the URL says durable=1, and the server has not appendonly yes and appendfsync always"
        )


def _check_persistence(client: RedisClient, info: Mapping[str, str], settings: Mapping[str, str]) -> None:
    if info.get("aof_enabled") != "0":
        return
    if settings.get("save") == "":
        _log.warning(
            "%s: it keeps nothing on a disk: its next restart loses everything; set appendonly yes", client.home
        )
    else:
        _log.warning(
            "%s: it keeps snapshots only: a crash loses what was written since the last one; set appendonly yes",
            client.home,
        )


async def check_format(client: RedisClient, tag: bytes) -> None:
    """Check that the data, if there is any, has the form that this program knows, and say it where nothing does."""
    slot, key = slot_of(tag), b"{%b}" % tag  # with braces, as all keys: a user may be allowed no others
    stored = await client.call(slot, b"GET", key)
    if stored is None:
        with suppress(StorageError):  # a server that is full is opened all the same
            await client.call(slot, b"SET", key, REDIS_FORMAT, b"NX")
    elif stored != b"%d" % REDIS_FORMAT:
        found = stored[:20].decode(errors="replace")
        raise StorageError(f"{client.home}: the data is of format {found}; this program knows format {REDIS_FORMAT}")


async def _ask(client: RedisClient, *command: bytes) -> dict[str, str] | None:
    """Return the server's answer about itself; `None` if the user may not ask."""
    try:
        answer = await client.call(ANY_SLOT, *command)
    except StorageError as exc:
        if isinstance(exc.__cause__, ResponseError):
            return None
        raise
    if isinstance(answer, dict):
        return {name.decode(): value.decode() for name, value in answer.items()}
    return dict(line.split(":", 1) for line in answer.decode().splitlines() if ":" in line)
