"""What is checked of Redis servers before their data is used: role, eviction, persistence, and the form of the data."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Final

import anyio
import attrs

from mdash_backends._redis_client import MAX_NODES, RedisClient, slot_of
from mdash_backends._redis_connection import NodeConnection
from mdash_backends._redis_errors import REDIS_FAILURES, ReplyError, reason, unexpected_is_lost
from mdashcore._errors import StorageError

__all__ = ["ServerChecks", "check_format"]

_log = logging.getLogger(__name__)

REDIS_FORMAT: Final = 1
"""The form of keys and values, in the key ``{PREFIX:format}``: a later form is not read as if it were this one."""


@attrs.frozen
class _Fault:
    """What is wrong with a server's settings."""

    text: str
    loses_data: bool
    """Whether a server with it is refused at the start."""


class ServerChecks:
    """Checks whether the servers' settings allow them to keep data, as far as they show them.

    Every master is checked at the start. Later a server is checked when a connection to it is made: it may be a new
    node, a replica that took over, or the same server with other settings. Then it is too late to refuse it, so what
    loses data is logged as an error. Other faults, and settings that could not be seen, are logged as warnings: managed
    services forbid CONFIG, and some INFO. A fault is logged once as long as it lasts.

    Args:
        durable: whether the servers have to have every write on disk before they answer.
    """

    def __init__(self, client: RedisClient, *, durable: bool) -> None:
        self._client = client
        self._durable = durable
        self._known: dict[str, frozenset[_Fault]] = {}  # by server's name: at most MAX_NODES

    async def begin(self) -> None:
        """Check every master, and from now on each server to which a connection is made.

        Raises:
            StorageError: no server can be reached, the credentials are refused, or a server would lose data.
        """
        found: dict[_Fault, list[str]] = defaultdict(list)
        for server, faults in (await self._check_masters()).items():
            self._known[server] = faults
            for fault in faults:
                found[fault].append(server)
        for fault, servers in found.items():
            text = f"{', '.join(servers)}: {fault.text}"
            if fault.loses_data:
                raise StorageError(text)
            _log.warning("%s", text)
        self._client.inspect = self._inspect

    async def _check_masters(self) -> dict[str, frozenset[_Fault]]:
        """Return the faults by server. A master of a cluster that is away is checked when it is back."""
        checked: dict[str, frozenset[_Fault]] = {}
        failures: list[Exception] = []

        async def check(node: NodeConnection) -> None:
            try:
                faults = await self._faults(node)
            except REDIS_FAILURES as exc:
                failures.append(exc)
            else:
                checked[node.server_name] = faults

        masters = await self._client.masters()
        async with anyio.create_task_group() as tasks:
            for node in masters:
                tasks.start_soon(check, node)
        if failures and not checked:  # an announced address may lead nowhere: the URL's server can have all slots
            await check(self._client.home_node)
        if failures and not checked:
            raise StorageError(f"{self._client.home}: {reason(failures[0])}") from failures[0]
        return checked

    async def _inspect(self, node: NodeConnection) -> None:
        with suppress(*REDIS_FAILURES):  # the connection is lost again: the next one is checked
            faults = await self._faults(node)
            for fault in self._news(node.server_name, faults):
                _log.log(logging.ERROR if fault.loses_data else logging.WARNING, "%s: %s", node.server_name, fault.text)

    def _news(self, server: str, faults: frozenset[_Fault]) -> Iterable[_Fault]:
        """Return the faults that the server did not have when it was checked last."""
        news = faults - self._known.get(server, frozenset())
        if len(self._known) >= MAX_NODES:
            self._known.clear()
        self._known[server] = faults
        return news

    async def _faults(self, node: NodeConnection) -> frozenset[_Fault]:
        """Return what is wrong with a server's settings. Raises one of `REDIS_FAILURES`."""
        info = await _ask(node, b"INFO")
        settings = {
            name: value
            for setting in (b"appendfsync", b"save")
            for name, value in ((await _ask(node, b"CONFIG", b"GET", setting)) or {}).items()
        }
        found = [*_eviction_faults(info or {})]
        if self._durable:
            found += _durability_faults(info or {}, settings)
        elif info is not None:
            found += _persistence_faults(info, settings)
        unseen = [
            *(["maxmemory-policy"] if info is None else []),
            *(["appendonly"] if info is None and self._durable else []),
            *(["appendfsync"] if self._durable and "appendfsync" not in settings else []),
        ]
        if unseen:
            command = "INFO" if info is None else "CONFIG"
            names = " and ".join(unseen)
            found.append(_Fault(f"{names} could not be checked, because this user may not use {command}", False))
        return frozenset(found)


def _eviction_faults(info: Mapping[str, str]) -> Iterator[_Fault]:
    """Yield a fault if the server removes keys when its memory is full. Of ours, only unfinished blobs are volatile."""
    policy = info.get("maxmemory_policy", "")
    if not policy.startswith("allkeys-"):
        return
    if info.get("maxmemory") != "0":
        yield _Fault(
            f"with maxmemory-policy {policy} it forgets devices when its memory is full; "
            "noeviction is needed, with which it refuses writes instead",
            loses_data=True,
        )
    else:
        yield _Fault(
            f"maxmemory-policy is {policy}: once it has a maxmemory it would forget devices, and is refused; "
            "set noeviction",
            loses_data=False,
        )


def _durability_faults(info: Mapping[str, str], settings: Mapping[str, str]) -> Iterator[_Fault]:
    if info.get("aof_enabled", "1") != "1" or settings.get("appendfsync", "always") != "always":
        yield _Fault(
            "the URL says durable=1, and the server has not appendonly yes and appendfsync always", loses_data=True
        )


def _persistence_faults(info: Mapping[str, str], settings: Mapping[str, str]) -> Iterator[_Fault]:
    if info.get("aof_enabled") != "0":
        return
    if settings.get("save") == "":
        text = "it keeps nothing on a disk: its next restart loses everything; set appendonly yes"
    else:
        text = "it keeps snapshots only: a crash loses what was written since the last one; set appendonly yes"
    yield _Fault(text, loses_data=False)


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


async def _ask(node: NodeConnection, *command: bytes) -> dict[str, str] | None:
    """Return the server's answer about itself; `None` if the user may not ask. Raises one of `REDIS_FAILURES`."""
    try:
        answer = await node.call(*command)
    except ReplyError:
        return None
    with unexpected_is_lost():
        if isinstance(answer, dict):
            return {name.decode(): value.decode() for name, value in answer.items()}
        return dict(line.split(":", 1) for line in answer.decode().splitlines() if ":" in line)
