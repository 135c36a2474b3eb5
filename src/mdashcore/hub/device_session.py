"""The methods that a device may call: one object per live connection, one table of methods."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from math import inf
from types import MappingProxyType
from typing import Any, Final, Protocol

import msgspec

from mdashcore import _json, jsonrpc, notifications
from mdashcore._errors import Damaged, InvalidInput, MdashError, RpcError, StorageError, status_of
from mdashcore._events import Event, NotificationReceived, RequestReceived
from mdashcore.hub.clock import Clock
from mdashcore.hub.feed import Feed
from mdashcore.hub.shadows import Shadows
from mdashcore.identity import DeviceKey
from mdashcore.ota import Build
from mdashcore.shadow import Change

__all__ = ["DEVICE_METHODS", "DeviceSession", "Peer"]


DEVICE_PROGRESS_INTERVAL: Final = 1.0  # seconds between two notifications of progress: as for the server's own

MAX_PROGRESS: Final = 128  # bytes of parameters that are checked for progress: real ones have 25

DEVICE_DAMAGED: Final = "what is stored of this device is damaged"


SHADOW_UPDATE: Final = "Dash.Shadow.Update"

_LOG_METHODS: Final = ("Log", "Dash.Log")


class Peer(Protocol):
    """The receiver of answers: a `Connection`, or an object that runs one."""

    def reply(self, ref: int, result: object) -> None:
        """Do the same as `Connection.reply`."""

    def reply_error(self, ref: int, error: RpcError) -> None:
        """Do the same as `Connection.reply_error`."""


class SessionHub(Protocol):
    """The part of a `Hub` that a session needs."""

    @property
    def shadows(self) -> Shadows:
        """The shadows that the device reads and reports to."""

    @property
    def feed(self) -> Feed:
        """The feed that gets the device's notifications."""

    @property
    def clock(self) -> Clock:
        """The clocks of this process."""

    def build_reported(self, key: DeviceKey, build: Build) -> None:
        """Do the same as `Hub.build_reported`."""


class DeviceSession:
    """The service's side of one connection of a device."""

    __slots__ = ("_build", "_held", "_hub", "_progress_notified", "key")

    def __init__(self, hub: SessionHub, key: DeviceKey) -> None:
        self._hub = hub
        self.key: DeviceKey = key
        self._build: Build | None = None
        self._progress_notified = -inf
        self._held: tuple[str, bytes | None] | None = None

    @property
    def introduced(self) -> bool:
        """Whether the device has reported its build in this session (`reported.ota`, or a heartbeat)."""
        return self._build is not None

    async def handle(self, event: Event, peer: Peer) -> None:
        """Handle an event of the device's connection: store reports, and answer requests on `peer`.

        Ignores other events than requests and notifications.

        Raises:
            StorageError: the event is lost, and a request is not answered.
        """
        if isinstance(event, RequestReceived):
            try:
                peer.reply(event.ref, await self.request(event.method, event.params))
            except RpcError as exc:
                peer.reply_error(event.ref, exc)
            except StorageError:
                raise
            except MdashError as exc:  # the result is too large for a frame
                peer.reply_error(event.ref, RpcError(jsonrpc.INTERNAL_ERROR, str(exc)))
        elif isinstance(event, NotificationReceived):
            await self.notification(event.method, event.params)

    async def request(self, method: str, params: bytes | None) -> object:
        """Handle a request of the device. Returns the result to reply.

        Raises:
            RpcError: the error to reply.
            StorageError: the reported data may be lost.
        """
        handler = DEVICE_METHODS.get(method)
        if handler is None:
            raise RpcError(jsonrpc.METHOD_NOT_FOUND, f"No handler for {method}")
        await self._flush_report(method)
        try:
            return await handler(self, params)
        except RpcError:
            raise
        except Damaged:
            raise RpcError(status_of(Damaged()), DEVICE_DAMAGED) from None
        except StorageError:
            raise
        except MdashError as exc:
            raise RpcError(status_of(exc), str(exc)) from exc

    async def notification(self, method: str, params: bytes | None) -> None:
        """Handle a notification of the device. Drops an invalid one, because a notification has no answer.

        Raises:
            StorageError: the notification was valid, and is lost.
        """
        if is_reported_progress(params) if method == SHADOW_UPDATE else is_progress(params):
            await self._receive_progress(method, params)
            return
        if self._held is not None:
            await (self._flush_report(method) if method in DEVICE_METHODS else self.flush())
        await self._forward(method, params)

    async def _flush_report(self, method: str) -> None:
        """Store a report that is held back before a method that reads or writes the shadow."""
        if self._held is not None and self._held[0] == SHADOW_UPDATE and method not in _LOG_METHODS:
            await self.flush()

    async def _forward(self, method: str, params: bytes | None) -> None:
        handler = DEVICE_METHODS.get(method)
        if handler is None:
            await self._notify(method, params)
            return
        try:
            await handler(self, params)
        except Damaged:
            await self._notify(method, _json.encode({"rejected": DEVICE_DAMAGED}))
        except StorageError:
            raise
        except MdashError as exc:
            await self._notify(method, _json.encode({"rejected": str(exc)}))

    @property
    def holds_progress(self) -> bool:
        """Whether progress of the device is held back, because the last notification was just sent; see `flush`."""
        return self._held is not None

    def flush_wait(self) -> float:
        """Return the seconds until `flush` should be called, 0 if nothing is held back."""
        passed = self._hub.clock.monotonic() - self._progress_notified
        return 0.0 if self._held is None else max(0.0, DEVICE_PROGRESS_INTERVAL - passed)

    async def flush(self) -> None:
        """Store or notify the newest progress that was held back.

        Raises:
            StorageError: it is still held back, unless newer progress has come meanwhile.
        """
        held, self._held = self._held, None
        if held is not None:
            self._progress_notified = self._hub.clock.monotonic()
            try:
                await self._forward(*held)
            except StorageError:
                if not self.holds_progress:
                    self._held = held
                raise

    async def _receive_progress(self, method: str, params: bytes | None) -> None:
        """Forward progress once in `DEVICE_PROGRESS_INTERVAL`: a device may report it for every chunk."""
        if self._held is not None and self._held[0] != method:
            await self.flush()
        self._held = method, params
        if self._hub.clock.monotonic() - self._progress_notified >= DEVICE_PROGRESS_INTERVAL:
            await self.flush()

    async def introduce(self, info: object) -> None:
        """Store the answer to `Sys.GetInfo` under `reported.ota`."""
        if not isinstance(info, dict) or not info:
            raise InvalidInput("Sys.GetInfo answers with an object")
        document: dict[str, Any] = {"state": {"reported": {"ota": _without_nulls(info)}}}
        self._receive_build(await self._hub.shadows.update(self.key, document))

    async def _shadow_update(self, params: bytes | None) -> object:
        change = await self._hub.shadows.update(self.key, _object(params))
        self._receive_build(change)
        return msgspec.Raw(change.accepted_json())

    async def _shadow_get(self, params: bytes | None) -> object:
        return (await self._hub.shadows.get(self.key)).document()["state"]

    async def _heartbeat(self, params: bytes | None) -> object:
        await self.introduce(_object(params))
        return True

    async def _log(self, params: bytes | None) -> object:
        await self._notify("Log", params)
        return True

    def _receive_build(self, change: Change) -> None:
        """Pass the build on if the device has reported one."""
        reported = change.reported
        if isinstance(reported, dict) and isinstance(ota := reported.get("ota"), dict):
            build = Build.from_wire(ota)
            self._build = build if self._build is None else self._build.followed_by(build)
            self._hub.build_reported(self.key, self._build)

    async def _notify(self, method: str, params: bytes | None) -> None:
        await self._hub.feed.emit(self.key.account, notifications.RPC_OUT + method, self.key.id, params)


class _Percent(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    percent: float = -1.0
    progress: float = -1.0
    progress_percent: float = -1.0

    @property
    def known(self) -> bool:
        return max(self.percent, self.progress, self.progress_percent) >= 0


class _Progress(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    ota: _Percent


class _Reported(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    reported: _Progress


class _Report(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    state: _Reported


_read_progress = msgspec.json.Decoder(_Progress).decode

_read_report = msgspec.json.Decoder(_Report).decode


def is_progress(params: bytes | None) -> bool:
    """Return whether parameters only hold the progress of a transfer, such as ``{"ota":{"percent":42}}``."""
    return _is_only_progress(params, _read_progress)


def is_reported_progress(params: bytes | None) -> bool:
    """Return whether a shadow update only reports the progress of a transfer: ``{"state":{"reported":{"ota":…}}}``."""
    return _is_only_progress(params, lambda text: _read_report(text).state.reported)


def _is_only_progress(params: bytes | None, read: Callable[[bytes], _Progress]) -> bool:
    if params is None or len(params) > MAX_PROGRESS or b'"ota"' not in params:
        return False
    try:
        return read(params).ota.known
    except _json.DECODE_ERRORS:
        return False


def _object(params: bytes | None) -> dict[str, Any]:
    value = None if params is None else _json.decode_foreign(params)
    if not isinstance(value, dict):
        raise InvalidInput("the parameters have to be an object")
    return value


def _without_nulls(value: Any) -> Any:
    """Return the value without nulls, which a shadow would take for deletions."""
    if isinstance(value, dict):
        return {key: _without_nulls(member) for key, member in value.items() if member is not None}
    if isinstance(value, list):
        return [_without_nulls(member) for member in value if member is not None]
    return value


DEVICE_METHODS: Final[Mapping[str, Callable[[DeviceSession, bytes | None], Awaitable[object]]]] = MappingProxyType(
    {
        SHADOW_UPDATE: DeviceSession._shadow_update,
        "Dash.Shadow.Get": DeviceSession._shadow_get,
        "Dash.Heartbeat": DeviceSession._heartbeat,  # devices of the first generation, once on open
        "Log": DeviceSession._log,
        "Dash.Log": DeviceSession._log,  # its older name
    }
)
"""The methods that a device can call. Subscribers get any other notification as ``rpc.out.METHOD``; any other
request is answered with error -32601."""
