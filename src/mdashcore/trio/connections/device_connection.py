"""The connection of one device: everything that it causes, from `online` to `offline`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import attrs
import trio

from mdashcore import _json, jsonrpc, notifications
from mdashcore._errors import Damaged, MdashError, NotFound, StorageError
from mdashcore._events import FrameRejected
from mdashcore.hub import Hub
from mdashcore.hub.deltas import (
    DELTA_METHOD,
    MAX_DELTA_LIMIT,
    MIN_DELTA_LIMIT,
    delta_frame_size,
    delta_limit,
    reported_platform,
)
from mdashcore.hub.device_session import DeviceSession
from mdashcore.identity import DeviceKey
from mdashcore.shadow import Change
from mdashcore.trio.background import Background, Retry
from mdashcore.trio.connections.conduct import Conduct
from mdashcore.trio.connections.link import POLICY_VIOLATION, TRY_AGAIN_LATER, Link, PeerEvent
from mdashcore.trio.connections.presence_feed import PresenceFeed
from mdashcore.trio.transport.stream import PingableStream

__all__ = ["CONNECTION_REPLACED", "TOKEN_REVOKED", "DeviceConnection"]

_log = logging.getLogger(__name__)

TOKEN_REVOKED: Final = "the device token was revoked"  # noqa: S105 - the reason in a close frame

CONNECTION_REPLACED: Final = "a newer connection has replaced this one"


@attrs.define(eq=False)
class DeviceConnection:
    """A device's live session on this node."""

    hub: Hub
    background: Background
    key: DeviceKey
    token_hash: str
    """The hash of the token with which the device has connected."""
    session: int
    link: Link
    stream: PingableStream
    conduct: Conduct
    presence_feed: PresenceFeed
    delta_limits: Mapping[str, int]
    api: DeviceSession = attrs.field(init=False)
    _retry: Retry = attrs.field(init=False)
    _offline_allowed: bool = attrs.field(init=False, default=False)
    _release_waits: trio.Event | None = attrs.field(init=False, default=None)
    pushed: int = attrs.field(init=False, default=-1)
    """The version of the newest delta that was sent, or that does not have to be sent."""
    _introducing: bool = attrs.field(init=False, default=True)
    """Whether the device is new here, and may still say which platform it has."""
    _held_back: int = attrs.field(init=False, default=-1)
    """The version of a delta that is not sent before the device has said that."""
    _flushing: bool = attrs.field(init=False, default=False)
    _checking: bool = attrs.field(init=False, default=False)
    _check_again: bool = attrs.field(init=False, default=False)

    def __attrs_post_init__(self) -> None:
        self.api = DeviceSession(self.hub, self.key)
        self._retry = self.background.retry()
        self.link.on_rejected = self.on_rejected

    @property
    def last_heard(self) -> float:
        """Unix seconds when the device last sent any bytes."""
        return self.hub.now() - (trio.current_time() - self.stream.last_received)

    async def is_valid(self) -> bool:
        """Return whether the token with which the device has connected is still valid."""
        try:
            current = await self.hub.registry.get(self.key)
        except NotFound:
            return False
        return current.token_hash == self.token_hash

    async def announce(self) -> None:
        """Notify `online`, and push a delta that waits."""
        try:
            await self.presence_feed.notify(self.key, notifications.ONLINE)
            self.allow_offline()
            await self._push_waiting()
        except StorageError as exc:
            self.give_up(exc)
        finally:
            self.allow_offline()

    async def introduce(self, *, introduction_delay: float, call_timeout: float) -> None:
        """Ask the device for its build unless it reports it by itself. Then push a delta that was held back."""
        if self.link.connection.closed:
            return
        try:
            await trio.sleep(introduction_delay)
            if not self.api.introduced and not self.link.connection.closed:
                await self._ask_introduction(call_timeout)
            self._introducing = False
            if self._held_back >= 0 and self._held_back == self.pushed:
                self.pushed = -1
                await self._push_waiting()
        except StorageError as exc:
            self.give_up(exc)

    def allow_offline(self) -> None:
        """Allow `offline` to be notified, after `online` was, or because it never will be."""
        self._offline_allowed = True
        if self._release_waits is not None:
            self._release_waits.set()

    async def handle(self, event: PeerEvent) -> None:
        """Handle a report or a request of the device."""
        try:
            await self.api.handle(event, self.link)
        except StorageError as exc:
            self.give_up(exc)
        if self.api.holds_progress and not self._flushing:
            self._flushing = True
            self.background.spawn(self._flush_progress)

    async def _flush_progress(self) -> None:
        try:
            while self.api.holds_progress:
                await trio.sleep(self.api.flush_wait())
                if self.api.flush_wait() == 0:  # else progress was notified in the meantime, and more was reported
                    await self.background.persist(self.api.flush)
        finally:
            self._flushing = False

    def on_rejected(self, event: FrameRejected) -> None:
        """Notify subscribers of a rejected frame, and close a device that sends too many of them."""
        now = trio.current_time()
        verdict = self.conduct.reject(self.token_hash, event.kind, now)
        if verdict.notify:
            self.background.spawn(partial(self._notify_rejected, event, verdict.notify))
        if event.number == self.link.connection.limits.max_corrections and self._may_log(now):
            words = "%s of %s sends what cannot be read (%s); nothing of that is answered any more"
            _log.warning(words, self.key.id, self.key.account, event.reason)
        if verdict.penalty and not self.link.connection.closed:
            words = "%s of %s is closed, and not let in for %d s: it sends too much that cannot be read"
            _log.warning(words, self.key.id, self.key.account, verdict.penalty)
            reason = f"too much that cannot be read; connect again in {verdict.penalty:.0f} s"
            self.link.close(POLICY_VIOLATION, reason)

    def _may_log(self, now: float) -> bool:
        return self.conduct.count(self.token_hash, "log", now) > 0

    async def _notify_rejected(self, event: FrameRejected, count: int) -> None:
        data: dict[str, object] = {
            "kind": event.kind,
            "reason": event.reason,
            "data": event.head.decode("utf-8", "backslashreplace"),
        }
        data |= {"size": event.size} if event.size is not None else {}
        data |= {"count": count} if count > 1 else {}
        await self.hub.feed.emit(self.key.account, notifications.REJECTED, self.key.id, _json.encode(data))

    async def release(self) -> bool:
        """Release the presence after the connection's end. Returns `False` if a newer connection exists: else the
        device is offline.
        """
        last_seen = self.last_heard
        try:
            await self.background.persist(self.api.flush)
        except Damaged as exc:
            _log.error("the last progress of %s is lost: %s", self.key, exc)
        if not self._offline_allowed:
            self._release_waits = trio.Event()
            await self._release_waits.wait()
        is_offline = await self.presence_feed.release(self.key, self.session, last_seen)
        self._retry.succeeded()
        return is_offline

    def shadow_changed(self, change: Change) -> None:
        """Push the delta that is left after a change, if any."""
        if (delta := change.delta_document()) is not None:
            self._push(delta)
        elif change.version > self.pushed:
            self.pushed = change.version  # an older delta that comes late, or waits to be sent, does not exist any more
            self.link.forget_latest()

    def give_up(self, error: StorageError) -> None:
        """Close the connection, because a report or a notification is lost. After a reconnect both ends begin anew."""
        self._retry.failed(error)
        _log.info("closing %s: %s", self.key, error)
        self.link.close(TRY_AGAIN_LATER, "storage is not available")

    async def check(self) -> None:
        """Check everything that another node may have changed: the token, a newer connection, the shadow.

        Runs one check at a time. A call during a check causes another one after it. A damaged record leaves the
        connection as it is.
        """
        self._check_again = True
        if self._checking:
            return
        self._checking = True
        try:
            while self._check_again and not self.link.connection.closed:
                self._check_again = False
                await self.background.persist(self._check)
        except Damaged:
            pass  # it is logged; the device can still be called
        finally:
            self._checking = False

    async def _check(self) -> None:
        if not await self.is_valid():
            self.link.close(POLICY_VIOLATION, TOKEN_REVOKED)
            return
        try:
            presence = await self.hub.presence.get(self.key)
        except Damaged:  # it is logged; a message about a change does not find this node
            await self._push_waiting()
            return
        if presence.session > self.session:
            self.link.close(POLICY_VIOLATION, CONNECTION_REPLACED)
        elif not presence.online:  # other nodes have declared this node dead, and its devices offline
            self.link.close(TRY_AGAIN_LATER, "connect again")
        else:
            await self._push_waiting()

    async def _push_waiting(self) -> None:
        try:
            delta = (await self.hub.shadows.get(self.key)).delta_document()
        except Damaged:
            return  # the damage is logged; the device can still be called and updated
        if delta is not None:
            self._push(delta)

    def _push(self, delta: dict[str, Any]) -> None:
        if delta["version"] <= self.pushed:
            return  # of two concurrent changes the newer one came first
        self.pushed = delta["version"]
        params = _json.encode(delta)
        if delta_frame_size(params) > MIN_DELTA_LIMIT:
            self.background.spawn(partial(self._push_large, self.pushed, params))
        else:
            self._send_delta(params)

    def _send_delta(self, params: bytes) -> None:
        try:
            self.link.notify_latest(DELTA_METHOD, params)
        except MdashError:
            self.link.abort()  # the device does not read: after its next connect it gets the delta of that time

    async def _push_large(self, version: int, params: bytes) -> None:
        """Push a delta that may exceed the device's limit. In that case notify subscribers instead."""
        key, hub = self.key, self.hub
        try:
            device, shadow = await hub.registry.get(key), await hub.shadows.get(key)
        except NotFound:
            return
        except StorageError as exc:
            self.give_up(exc)
            return
        limit = min(delta_limit(device, shadow, self.delta_limits) or MAX_DELTA_LIMIT, MAX_DELTA_LIMIT)
        if self.pushed != version:
            return  # a newer delta was pushed, or none is left
        if (size := delta_frame_size(params)) <= limit:
            self._send_delta(params)
        elif self._introducing and device.delta_limit is None and reported_platform(shadow) is None:
            self._held_back = version
        elif self.conduct.count(self.token_hash, notifications.DELTA_WITHHELD, trio.current_time()):
            data = _json.encode({"size": size, "limit": limit, "version": version})
            await hub.feed.emit(key.account, notifications.DELTA_WITHHELD, key.id, data)

    async def _ask_introduction(self, call_timeout: float) -> None:
        params = jsonrpc.dumps({"utc_time": int(self.hub.now())})
        try:
            result = await self.link.call("Sys.GetInfo", params, timeout=call_timeout)
            await self.api.introduce(jsonrpc.loads(result))
        except Damaged:
            pass  # the damage is logged; the device can still be called and updated
        except StorageError:
            raise
        except MdashError:
            pass  # not every device has the method, or answers what a shadow can hold: its build stays unknown
