"""`Hub`: the parts of the service put together, and the operations that concern more than one of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from mdashcore import _json, identity, notifications
from mdashcore._checked import CALLABLE, instance, number, whole
from mdashcore._errors import NotFound
from mdashcore.hub.accounts import Accounts
from mdashcore.hub.clock import Clock
from mdashcore.hub.deltas import check_delta_limit
from mdashcore.hub.device_list import DeviceList
from mdashcore.hub.feed import KEEP_SECONDS, Feed, FeedItem
from mdashcore.hub.firmware.devices import FirmwareDevices
from mdashcore.hub.firmware.library import FirmwareLibrary
from mdashcore.hub.fleet.overview import FleetOverview
from mdashcore.hub.fleet.pages import DevicePages
from mdashcore.hub.fleet.summaries import Summaries
from mdashcore.hub.images import FREE_DISK, Images
from mdashcore.hub.jobs.service import Jobs
from mdashcore.hub.limits import AccountLimits
from mdashcore.hub.log_search import LogSearcher
from mdashcore.hub.maintenance.retention import Retention
from mdashcore.hub.nodes import Nodes
from mdashcore.hub.observer import HubObserver, check_observer
from mdashcore.hub.pausing import Together, one_by_one
from mdashcore.hub.presence import Presence
from mdashcore.hub.records.contention import AnyioSignal, Contention, Signal
from mdashcore.hub.registry import CreatedDevice, Registry
from mdashcore.hub.rollouts.service import Rollouts
from mdashcore.hub.saved_filters import SavedFilters
from mdashcore.hub.series_reader import SeriesReader
from mdashcore.hub.sessions import Sessions
from mdashcore.hub.shadows import Shadows
from mdashcore.hub.updates.service import Updates
from mdashcore.hub.usage import Usage
from mdashcore.identity import Device, DeviceKey
from mdashcore.ota import Build
from mdashcore.shadow import DEFAULT_LIMITS, Change, ShadowLimits
from mdashcore.storage import ORDERED, SHARED, Backend, MessageBus

__all__ = ["Hub"]


class Hub:
    """The service on one storage backend.

    ::

        async with open_backend("memory://") as backend:
            hub = Hub(backend, now=time.time, monotonic=time.monotonic, entropy=os.urandom)
            created = await hub.create_device("home", "lamp")

    **Which verbs refuse what does not exist.** The verbs of `registry` and `updates`, and `rename_device`,
    `set_delta_limit` and `remove_device` of the hub, raise `NotFound` for a device that is not registered. The other
    verbs take any valid `DeviceKey`, and each account is taken as it is: `create_device`, `shadows`, `presence` and
    `feed` read nothing of the registry, as that would cost each report a further read. An embedder whose callers are
    not authenticated by `registry.authenticate` or `accounts` checks first that the device or the account exists.

    Attributes:
        accounts: users and their API keys.
        registry: devices, and the device of a token. `create_device`, `rename_device` and `remove_device` of
            the hub also send notifications, and remove the device's data from the other parts.
        shadows: the shadow of each device: read and updated.
        presence: which device is connected, to which node, and since when.
        feed: notifications: emitted, read, and delivered to subscribers.
        series: what a device has reported over time.
        log_search: search in the stored notifications.
        updates: the newest firmware update of each device, and the ended ones before it.
        rollouts: images for many devices.
        firmware: the library of images that are kept for updates and rollouts.
        firmware_devices: which devices run an image of the library, or failed to.
        jobs: values of `desired` for many devices.
        sessions: browser sessions.
        saved_filters: filters of devices that have a name.
        device_list: devices joined with presence and shadow, and filtered.
        device_pages: the same in pages, in any order.
        fleet: the figures of all devices of an account.
        summaries: what is in memory of the accounts that are looked at. If several processes share the store, a `Node`
            keeps them right.
        retention: removes notifications that are too old.
        usage: the use of each account, counted for its limits.
        blobs: the images of firmware, within the limits.
        nodes: the processes that hold connections, if several share the store.
        limits: the limits of each account, as given.
        now: the wall clock, as given.
        clock: the wall clock and the monotonic clock, which measures limits.
        backend: the storage, as given.
        bus: its message bus.

    Args:
        now: the wall clock, in Unix seconds, for stored and shown times. It may be set at any time.
        monotonic: seconds since any moment, by a clock that is never set, such as `time.monotonic`. It measures limits.
        entropy: returns that many bytes from a cryptographic random generator, such as `os.urandom`.
        signal: creates a `Signal`, with which a task waits for another task or for a time. Needed only for an event
            loop that anyio does not support.
        together: calls several functions that read or write the store. By default one after the other.
        limits: the limits of each account. A `Node` and a server enforce those that are per process.
        free_disk: bytes that images of firmware leave free on the disk.
        keep_log_seconds: maximum age of a notification, as in `Feed`. Without a `Node`, the embedder calls
            `retention.check` and `usage.check` every hour, or logs are bounded in number and bytes only, and an account
            whose process was killed while it counted keeps a wrong number.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        entropy: Callable[[int], bytes],
        shadow_limits: ShadowLimits = DEFAULT_LIMITS,
        limits: AccountLimits = AccountLimits(),
        free_disk: int = FREE_DISK,
        keep_log_seconds: float = KEEP_SECONDS,
        signal: Callable[[], Signal] = AnyioSignal,
        together: Together = one_by_one,
    ) -> None:
        instance(ShadowLimits).check("shadow_limits", shadow_limits)
        instance(AccountLimits).check("limits", limits)
        whole(0).check("free_disk", free_disk)
        instance(Backend).check("backend", backend)
        for name, function in {"now": now, "monotonic": monotonic, "entropy": entropy, "signal": signal}.items():
            CALLABLE.check(name, function)
        CALLABLE.check("together", together)
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
        self.feed: Feed = Feed(
            backend.logs, backend.bus, now=now, keep_seconds=keep_log_seconds, on_emit=self._notified
        )
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
        self.saved_filters: SavedFilters = SavedFilters(documents, contention=contention)
        self.presence: Presence = Presence(documents, now=now, contention=contention)
        self.series: SeriesReader = SeriesReader(
            backend.logs, self.feed.reader, self.presence, now=now, monotonic=monotonic
        )
        self.log_search: LogSearcher = LogSearcher(
            backend.logs, self.feed.events, self.feed.reader, monotonic=monotonic
        )
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
            now=now,
        )
        self.summaries: Summaries = Summaries(
            documents, self.feed.events, now=now, monotonic=monotonic, contention=contention
        )
        self.device_list.rows_of = self.summaries.rows_of
        self.fleet: FleetOverview = FleetOverview(self.summaries, self.feed.events, now=now)
        self.device_pages: DevicePages = DevicePages(
            documents, self.device_list, self.shadows, self.summaries, self.usage, now=now
        )
        self.firmware: FirmwareLibrary = FirmwareLibrary(
            documents, self.blobs, self.feed, self.usage, now=now, entropy=entropy, contention=contention
        )
        self.firmware_devices: FirmwareDevices = FirmwareDevices(self.summaries)
        self.rollouts: Rollouts = Rollouts(
            documents,
            self.blobs,
            self.feed,
            self.updates,
            self.registry,
            self.presence,
            self.device_list,
            self.accounts,
            clock=self.clock,
            entropy=entropy,
            contention=contention,
            limits=limits,
        )
        self.jobs: Jobs = Jobs(
            documents,
            self.feed,
            self.shadows,
            self.registry,
            self.device_list,
            self.accounts,
            clock=self.clock,
            entropy=entropy,
            contention=contention,
            limits=limits,
            together=together,
        )

    def add_observer(self, observer: HubObserver) -> None:
        """Notify `observer` of every change from now on. Raises `InvalidSetting` if it lacks a method."""
        check_observer(observer)
        self._observers.append(observer)

    def remove_observer(self, observer: HubObserver) -> None:
        """Stop notifying `observer`."""
        self._observers.remove(observer)

    def new_node_id(self) -> str:
        """Return a unique id for a process that holds connections."""
        return identity.make_id("node", self._entropy(8))

    # Operations on more than one part

    async def create_device(
        self, account: str, id: str | None = None, name: str | None = None, tags: object = None
    ) -> CreatedDevice:
        """Register a device and notify subscribers. Raises the same errors as `Registry.create`."""
        created = await self.registry.create(account, id, name, tags)
        await self._forget(created.device.key)  # what an earlier device of that id reported during its removal
        await self._announce(created.device)
        return created

    async def adopt_device(
        self, account: str, id: str, token_hash: str, name: str | None = None, tags: object = None
    ) -> bool:
        """Register a device with a token that another service has made, and notify subscribers.

        Called again after an interruption, it does what is left to do. Subscribers may be notified twice then.

        Returns whether the device is new. Raises the same errors as `Registry.adopt`.
        """
        device, is_new = await self.registry.adopt(account, id, token_hash, name, tags, prepare=self._forget)
        if not device.is_announced:
            await self._announce(device)
            with suppress(NotFound):  # removed meanwhile
                await self.registry.set_announced(device.key)
        return is_new

    async def _announce(self, device: Device) -> None:
        data = _json.encode({"name": device.name} | ({"tags": device.tags} if device.tags else {}))
        await self.feed.emit(device.account, notifications.CREATED, device.id, data)

    async def rename_device(self, key: DeviceKey, name: str) -> None:
        """Rename a device and notify subscribers. Raises the same errors as `Registry.rename`."""
        device = await self.registry.rename(key, name)
        await self.feed.emit(key.account, notifications.UPDATED, key.id, _json.encode({"name": device.name}))

    async def set_delta_limit(self, key: DeviceKey, limit: int | None) -> None:
        """Change the largest delta that the device is sent, from the next one on, and notify subscribers.

        Args:
            limit: bytes of the frame; 0 for any; `None` for the limit of the device's platform.

        Raises:
            InvalidInput: the limit is not allowed.
            NotFound: the device does not exist.
        """
        await self.registry.set_delta_limit(key, check_delta_limit(limit))
        await self.feed.emit(key.account, notifications.UPDATED, key.id, _json.encode({"delta_limit": limit}))

    async def change_tags(self, key: DeviceKey, patch: object) -> bool:
        """Merge a patch (RFC 7396) into the device's tags, and notify subscribers. Returns whether that changes them.

        Raises:
            InvalidInput: the patch, or the number of tags that it leads to, is not allowed.
            NotFound: the device does not exist.
        """
        device, is_changed = await self.registry.change_tags(key, patch)
        if is_changed:
            await self.feed.emit(key.account, notifications.UPDATED, key.id, _json.encode({"tags": device.tags}))
        return is_changed

    async def remove_device(self, key: DeviceKey) -> None:
        """Remove a device with all its data, and notify subscribers. Raises `NotFound`.

        Its token is removed first, and the device itself last. So a removal that was interrupted can be called again.
        """
        await self.registry.begin_removal(key)
        node = None
        try:
            node = await self._forget(key)
        finally:
            for observer in self._observers:
                observer.device_removed(key, node)
        await self.registry.finish_removal(key)
        data = None if node is None else _json.encode({"online": True})
        await self.feed.emit(key.account, notifications.DELETED, key.id, data)

    async def _forget(self, key: DeviceKey) -> str | None:
        """Remove the data of a device. Returns the node that held its connection, if any."""
        node = await self.presence.forget(key)
        await self.shadows.forget(key)
        await self.updates.forget(key)
        return node

    async def remove_account(self, name: str) -> None:
        """Remove an account with all its data. Raises `NotFound`, or `Conflict` for the last admin.

        The account itself is removed last. So a removal that was interrupted can be called again, and the name stays
        taken until then. The password, sessions and device tokens are invalid from the start; keys are removed first.
        """
        await self.accounts.begin_removal(name)
        await self.accounts.remove_keys(name)
        for device in await self.registry.of(name):
            self._device_revoked(device.key)  # all first: to remove each takes a while
        await self.sessions.forget(name)
        await self.saved_filters.forget(name)
        await self.rollouts.forget(name)
        await self.jobs.forget(name)
        for device in await self.registry.of(name):
            try:
                await self.remove_device(device.key)
            except NotFound:
                continue  # another process has removed it
        await self.rollouts.forget(name)  # again: some may have been on their way into the store
        await self.jobs.forget(name)
        await self.firmware.removal.forget(name)
        await self.feed.forget(name)
        await self.usage.forget(name)
        self.summaries.forget(name)
        await self.accounts.remove(name)

    # Calls of the observers

    def build_reported(self, key: DeviceKey, build: Build) -> None:
        """Notify the observers of a device's build."""
        for observer in self._observers:
            observer.build_reported(key, build)

    def _notified(self, account: str, item: FeedItem) -> None:
        self.summaries.on_emitted(account, item)
        for observer in self._observers:
            observer.notified(account, item)

    def _shadow_changed(self, key: DeviceKey, change: Change) -> None:
        self.summaries.on_shadow_changed(key, change)
        for observer in self._observers:
            observer.shadow_changed(key, change)

    def _device_revoked(self, key: DeviceKey) -> None:
        for observer in self._observers:
            observer.device_revoked(key)

    def _key_revoked(self, account: str, key: str | None) -> None:
        for observer in self._observers:
            observer.key_revoked(account, key)
