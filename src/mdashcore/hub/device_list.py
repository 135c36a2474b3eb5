"""The device list of an account: each device joined by id with its presence and its shadow.

Lists and rollouts use this one join. If the store scans in the order of keys, the join holds a page of each part, for
any number of devices. Otherwise it also holds the registry and the presence of the account, both of which are small.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing
from typing import Any, Protocol, TypeAlias, TypeVar

import attrs

from mdashcore._errors import Damaged, NotFound
from mdashcore.hub.pausing import Pause, never_pause
from mdashcore.hub.presence import OFFLINE_RECORD
from mdashcore.hub.records.schema import PresenceRecord
from mdashcore.hub.records.store import Records, scoped
from mdashcore.identity import Device, DeviceKey
from mdashcore.selection import ANY_DEVICE, DeviceFacts, Facts, Selection
from mdashcore.shadow import Shadow
from mdashcore.storage import Document

__all__ = ["DeviceList", "ListedDevice", "unreadable_device"]

T = TypeVar("T")


class RowsOf(Protocol):
    """Reads the summary of an account."""

    async def __call__(self, account: str, *, counts_changes: bool, pause: Pause) -> Mapping[str, DeviceFacts]: ...


async def _no_rows(account: str, *, counts_changes: bool, pause: Pause) -> Mapping[str, DeviceFacts]:
    return {}


@attrs.frozen
class ListedDevice:
    """A device with all data that a list shows of it."""

    device: Device
    presence: PresenceRecord
    shadow: Shadow
    damaged: tuple[str, ...] = ()
    """Those of ``device``, ``presence`` and ``shadow`` that cannot be read, and are replaced by empty values."""

    def facts_with(self, row: DeviceFacts | None = None) -> Facts:
        """Return the facts that a filter tests.

        Args:
            row: what the summary of the account has of the device, if a term reads that.
        """
        device, presence = self.device, self.presence
        return Facts(
            device.id,
            device.name,
            presence.online,
            self._state,
            device.tags,
            presence.since,
            presence.last_seen,
            None if "device" in self.damaged else device.created_at,
            None if row is None else row.update_state,
            None if row is None else row.update_changed,
            0 if row is None else row.presence_changes,
            self.damaged if row is None else row.damaged,
        )

    def _state(self) -> dict[str, Any]:
        return {"desired": self.shadow.desired, "reported": self.shadow.reported, "delta": self.shadow.delta}


def unreadable_device(key: DeviceKey) -> Device:
    """Return the replacement of a device that is damaged in the store."""
    return Device(key.account, key.id, key.id, "", 0.0)


class DeviceList:
    """The devices of every account.

    Args:
        ordered: whether the store scans in the order of keys.
        now: returns the Unix time in seconds, for filters by age.
    """

    def __init__(
        self,
        devices: Records[Device],
        presence: Records[PresenceRecord],
        shadows: Records[Shadow],
        *,
        ordered: bool,
        now: Callable[[], float],
    ) -> None:
        self._devices = devices
        self._presence = presence
        self._shadows = shadows
        self._ordered = ordered
        self._now = now
        self.rows_of: RowsOf = _no_rows
        """Returns what only the summary of an account has, by device. A `Hub` sets it."""

    async def select(
        self,
        account: str,
        selection: Selection = ANY_DEVICE,
        pause: Pause = never_pause,
        *,
        after: str = "",
        with_shadows: bool = True,
    ) -> AsyncGenerator[ListedDevice, None]:
        """Yield the account's devices that a selection matches, sorted by id.

        A device that is created or removed in the meantime may be among them or not.

        Args:
            pause: awaited after each document that was read.
            after: yield only devices whose id is greater than this text.
            with_shadows: whether shadows are read; else all of them are empty.

        Raises:
            NotFound: after the last device, if a device that the selection names is missing.
            TooLarge: the selection reads the summary of the account, which has too many devices for one.
            StorageError: the store fails in the middle.
        """
        missing = set(selection.devices or ())
        rows: Mapping[str, DeviceFacts] = {}
        if selection.reads_summary:
            rows = await self.rows_of(account, counts_changes=selection.counts_changes, pause=pause)
        now = self._now()
        async with aclosing(self._every(account, pause, after, with_shadows=with_shadows)) as every:
            async for each in every:
                missing.discard(each.device.id)
                if selection.matches(each.facts_with(rows.get(each.device.id)), now):
                    yield each
        if missing:
            raise NotFound(f"no device {min(missing)!r}")

    async def _every(
        self, account: str, pause: Pause, after: str, *, with_shadows: bool
    ) -> AsyncGenerator[ListedDevice, None]:
        prefix = scoped(account, "")
        start = prefix + after if after else ""
        async with AsyncExitStack() as stack:
            presence = await self._presence_of(prefix, start, pause, stack)
            shadow = await self._shadows_of(prefix, start, pause, stack) if with_shadows else _nothing
            registered = await stack.enter_async_context(aclosing(self._registered(prefix, start, pause)))
            async for document in registered:
                damaged: list[str] = []
                device = _read(self._devices, document, damaged, "device")
                id = document.key.removeprefix(prefix)
                yield ListedDevice(
                    unreadable_device(DeviceKey(account, id)) if device is None else device,
                    _read(self._presence, await _found(presence, document.key), damaged, "presence") or OFFLINE_RECORD,
                    _read(self._shadows, await _found(shadow, document.key), damaged, "shadow") or Shadow(),
                    tuple(damaged),
                )

    async def _registered(self, prefix: str, start: str, pause: Pause) -> AsyncGenerator[Document, None]:
        """Yield the documents of the registry behind a key, sorted by id."""
        if not self._ordered:
            found = await _gathered(self._devices, prefix, pause)
            for key in sorted(key for key in found if key > start):
                yield found[key]
                await pause()
            return
        async with aclosing(self._devices.documents(prefix, after=start)) as documents:
            async for document in documents:
                yield document
                await pause()

    async def _presence_of(self, prefix: str, start: str, pause: Pause, stack: AsyncExitStack) -> _Find:
        if self._ordered:
            follower = _Follower(self._presence.documents(prefix, after=start), pause)
            return (await stack.enter_async_context(aclosing(follower))).find
        found = await _gathered(self._presence, prefix, pause)

        async def find(key: str) -> Document | None:
            return found.get(key)

        return find

    async def _shadows_of(self, prefix: str, start: str, pause: Pause, stack: AsyncExitStack) -> _Find:
        if self._ordered:
            follower = _Follower(self._shadows.documents(prefix, after=start), pause)
            return (await stack.enter_async_context(aclosing(follower))).find
        return self._shadows.document


_Find: TypeAlias = Callable[[str], Awaitable[Document | None]]
"""Finds a device's document by its key. Called in the order of keys."""


class _Follower:
    """Finds documents by following a scan in the order of keys."""

    def __init__(self, scan: AsyncGenerator[Document, None], pause: Pause) -> None:
        self._scan = scan
        self._pause = pause
        self._last: Document | None = None
        self._ended = False

    async def find(self, key: str) -> Document | None:
        while not self._ended and (self._last is None or self._last.key < key):
            self._last = await anext(self._scan, None)
            self._ended = self._last is None
            await self._pause()  # many documents may belong to removed devices
        return self._last if self._last is not None and self._last.key == key else None

    async def aclose(self) -> None:
        await self._scan.aclose()


async def _nothing(key: str) -> Document | None:
    return None


async def _gathered(records: Records[Any], prefix: str, pause: Pause) -> dict[str, Document]:
    found: dict[str, Document] = {}
    async with aclosing(records.documents(prefix)) as documents:
        async for document in documents:
            found[document.key] = document
            await pause()
    return found


async def _found(find: _Find, key: str) -> Document | None:
    """Return the document under a key, with its damage if the store reports that by raising."""
    try:
        return await find(key)
    except Damaged as exc:
        return Document(key, 0, b"", damage=str(exc))


def _read(records: Records[T], document: Document | None, damaged: list[str], name: str) -> T | None:
    """Return the value of a document, or `None` if it is missing or damaged. Adds `name` to `damaged` if damaged."""
    try:
        return None if document is None else records.read(document)
    except Damaged:
        damaged.append(name)
        return None
