"""`Hub`: the parts of the service put together, and what concerns more than one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from mdashcore import _json, identity, notifications
from mdashcore._checked import Check, instance, number, whole
from mdashcore._errors import NotFound
from mdashcore.hub.accounts import Accounts
from mdashcore.hub.clock import Clock
from mdashcore.hub.deltas import check_delta_limit
from mdashcore.hub.device_list import DeviceList
from mdashcore.hub.feed import KEEP_SECONDS, Feed, FeedItem
from mdashcore.hub.images import FREE_DISK, Images
from mdashcore.hub.limits import AccountLimits
from mdashcore.hub.maintenance.retention import Retention
from mdashcore.hub.nodes import Nodes
from mdashcore.hub.presence import Presence
from mdashcore.hub.records.contention import AnyioSignal, Contention, Signal
from mdashcore.hub.registry import CreatedDevice, Registry
from mdashcore.hub.rollouts.service import Rollouts
from mdashcore.hub.sessions import Sessions
from mdashcore.hub.shadows import Shadows
from mdashcore.hub.updates.service import Updates
from mdashcore.hub.usage import Usage
from mdashcore.identity import DeviceKey
from mdashcore.ota import Build
from mdashcore.shadow import DEFAULT_LIMITS, Change, Limits
from mdashcore.storage import ORDERED, SHARED, Backend, MessageBus

__all__ = ["Hub", "HubObserver"]

_CALLABLE: Final = Check("a function", callable)


class HubObserver(Protocol):
    """What a holder of connections is notified of. The hub calls the methods as soon as the change is stored.

    Subclass it and override what concerns you: each method does nothing by itself. None of them may wait: an observer
    that has to close a socket starts to close it, and returns.
    """

    def shadow_changed(self, key: DeviceKey, change: Change) -> None:
        """A device's shadow was updated, by whomever: if a delta is left, the device wants to know it."""
        return

    def device_revoked(self, key: DeviceKey) -> None:
        """A device's token is not valid any more: its connection has to be closed."""
        return

    def notified(self, account: str, item: FeedItem) -> None:
        """A notification was stored by this process. Of one that shares its store, the bus tells too."""
        return

    def build_reported(self, key: DeviceKey, build: Build) -> None:
        """A device said what it runs, all that it said on its present connection: an update may wait for that."""
        return

    def device_removed(self, key: DeviceKey) -> None:
        """A device does not exist any more."""
        return

    def key_revoked(self, account: str, key: str | None) -> None:
        """A key or session is not valid any more (None: any of the account's credentials may be the one).

        What it opened has to be closed; who has another that is valid comes back.
        """
        return


class Hub:
    """The service on one storage backend.

    Args:
        now: the wall clock, in Unix seconds: what is stored and shown. It may be set at any time.
        monotonic: seconds since any moment, by a clock that is never set, such as `time.monotonic`: limits count by it.
        entropy: that many bytes from a cryptographic random generator, such as `os.urandom`.
        signal: makes what a task waits with that has to wait for another one, or for a moment; for another event loop
            than those that anyio knows.
        limits: of each account. A `Node` and a server keep those that are per process.
        free_disk: bytes that images of firmware leave free on the disk.
        keep_log_seconds: as `Feed` has it: how old a notification may become. Without a `Node`, the embedder calls
            `retention.check` every `AGE_INTERVAL`, or logs are bounded in number and bytes only.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        entropy: Callable[[int], bytes],
        shadow_limits: Limits = DEFAULT_LIMITS,
        limits: AccountLimits = AccountLimits(),
        free_disk: int = FREE_DISK,
        keep_log_seconds: float = KEEP_SECONDS,
        signal: Callable[[], Signal] = AnyioSignal,
    ) -> None:
        instance(Limits).check("shadow_limits", shadow_limits)
        instance(AccountLimits).check("limits", limits)
        whole(0).check("free_disk", free_disk)
        instance(Backend).check("backend", backend)
        for name, function in {"now": now, "monotonic": monotonic, "entropy": entropy, "signal": signal}.items():
            _CALLABLE.check(name, function)
        number(infinite=True).check("keep_log_seconds", keep_log_seconds)
        contention = Contention(entropy, signal)
        documents = backend.documents
        self.now = now
        self.clock: Clock = Clock(now, monotonic)
        self.backend = backend
        self.bus: MessageBus = backend.bus
        self.limits = limits
        self.usage: Usage = Usage(documents, backend.blobs, limits, contention=contention)
        self.blobs: Images = Images(backend, self.usage, free_disk=free_disk)
        self._entropy = entropy
        self._observers: list[HubObserver] = []
        self.feed: Feed = Feed(backend.logs, backend.bus, now=now, keep_seconds=keep_log_seconds, on_told=self._told)
        exclusive = SHARED not in backend.capabilities
        self.accounts: Accounts = Accounts(
            documents,
            now=now,
            entropy=entropy,
            on_revoked=self._key_revoked,
            exclusive=exclusive,
            contention=contention,
            usage=self.usage,
        )
        self.sessions: Sessions = Sessions(
            documents,
            self.accounts,
            clock=self.clock,
            entropy=entropy,
            on_revoked=self._key_revoked,
            most=limits.sessions,
        )
        self.retention: Retention = Retention(self.accounts, self.feed, self.clock)
        self.registry: Registry = Registry(
            documents,
            now=now,
            entropy=entropy,
            on_revoked=self._device_revoked,
            is_removing=self.accounts.is_removing,
            contention=contention,
            usage=self.usage,
        )
        self.presence: Presence = Presence(documents, now=now, contention=contention)
        self.nodes: Nodes = Nodes(documents, now=now)
        self.shadows: Shadows = Shadows(
            documents,
            self.feed,
            now=now,
            on_change=self._shadow_changed,
            limits=shadow_limits,
            contention=contention,
            put_and_append=backend.put_and_append,
        )
        self.updates: Updates = Updates(
            documents,
            self.blobs,
            self.feed,
            self.shadows,
            clock=self.clock,
            entropy=entropy,
            check_device=self.registry.check_stays,
            contention=contention,
        )
        self.device_list: DeviceList = DeviceList(
            self.registry.records,
            self.presence.records,
            self.shadows.records,
            ordered=ORDERED in backend.capabilities,
        )
        self.rollouts: Rollouts = Rollouts(
            documents,
            self.blobs,
            self.feed,
            self.updates,
            self.registry,
            self.presence,
            self.device_list,
            clock=self.clock,
            entropy=entropy,
            contention=contention,
            limits=limits,
        )

    def add_observer(self, observer: HubObserver) -> None:
        """Tell `observer` from now on."""
        self._observers.append(observer)

    def remove_observer(self, observer: HubObserver) -> None:
        """Tell `observer` no more."""
        self._observers.remove(observer)

    def new_node_id(self) -> str:
        """A name for a process that holds connections, as no other has it."""
        return identity.make_id("node", self._entropy(8))

    # What concerns more than one part

    async def create_device(self, account: str, id: str | None = None, name: str | None = None) -> CreatedDevice:
        """Register a device and tell of it. Raises as `Registry.create`."""
        created = await self.registry.create(account, id, name)
        await self._forget(created.device.key)  # what an earlier device of that id reported while it went
        data = _json.encode({"name": created.device.name})
        await self.feed.emit(account, notifications.CREATED, created.device.id, data)
        return created

    async def rename_device(self, key: DeviceKey, name: str) -> None:
        """Give a device another name and tell of it. Raises as `Registry.rename`."""
        device = await self.registry.rename(key, name)
        await self.feed.emit(key.account, notifications.UPDATED, key.id, _json.encode({"name": device.name}))

    async def set_delta_limit(self, key: DeviceKey, limit: int | None) -> None:
        """Change how large a delta the device is sent, from the next one on, and tell of it.

        Args:
            limit: bytes of the frame; 0 for any; `None` for the limit of the device's platform.

        Raises:
            InvalidInput: no such limit.
            NotFound: no such device.
        """
        await self.registry.set_delta_limit(key, check_delta_limit(limit))
        await self.feed.emit(key.account, notifications.UPDATED, key.id, _json.encode({"delta_limit": limit}))

    async def remove_device(self, key: DeviceKey) -> None:
        """Remove a device with everything that is kept of it, and tell of it. Raises `NotFound`.

        Its token ends first, and the device itself goes last: a removal that was stopped is finished by the next one.
        """
        await self.registry.begin_removal(key)
        try:
            await self._forget(key)
        finally:
            for observer in self._observers:
                observer.device_removed(key)
        await self.registry.finish_removal(key)
        await self.feed.emit(key.account, notifications.DELETED, key.id)

    async def _forget(self, key: DeviceKey) -> None:
        await self.presence.forget(key)
        await self.shadows.forget(key)
        await self.updates.forget(key)

    async def remove_account(self, name: str) -> None:
        """Remove an account with everything that belongs to it. Raises `NotFound`; `Conflict` for the last admin.

        The account itself goes last: a removal that was stopped is finished by the next one, and nobody gets the name
        before. Meanwhile no password, session or device token of it is valid; its keys go first.
        """
        await self.accounts.begin_removal(name)
        await self.accounts.remove_keys(name)
        for device in await self.registry.of(name):
            self._device_revoked(device.key)  # all at once: to remove each takes a while
        await self.sessions.forget(name)
        await self.rollouts.forget(name)
        for device in await self.registry.of(name):
            try:
                await self.remove_device(device.key)
            except NotFound:
                continue  # somebody else was quicker
        await self.feed.forget(name)
        await self.usage.forget(name)
        await self.accounts.remove(name)

    # What the parts tell

    def build_reported(self, key: DeviceKey, build: Build) -> None:
        """A device said what it runs."""
        for observer in self._observers:
            observer.build_reported(key, build)

    def _told(self, account: str, item: FeedItem) -> None:
        for observer in self._observers:
            observer.notified(account, item)

    def _shadow_changed(self, key: DeviceKey, change: Change) -> None:
        for observer in self._observers:
            observer.shadow_changed(key, change)

    def _device_revoked(self, key: DeviceKey) -> None:
        for observer in self._observers:
            observer.device_revoked(key)

    def _key_revoked(self, account: str, key: str | None) -> None:
        for observer in self._observers:
            observer.key_revoked(account, key)
