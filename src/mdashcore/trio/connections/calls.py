"""Calls of devices, on whichever node a device is connected."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeAlias

import msgspec

from mdashcore import notifications
from mdashcore._checked import number
from mdashcore._connection_limits import ConnectionLimits
from mdashcore._errors import DeviceOffline, InvalidInput, MdashError, StorageError, TooLarge
from mdashcore.hub import Hub
from mdashcore.identity import DeviceKey
from mdashcore.jsonrpc import RawJson
from mdashcore.trio.connections.link import Link
from mdashcore.trio.shielding import shielded

__all__ = ["AskNode", "Calls", "DeviceCall", "LocalCaller", "OutcomeCallback", "make_call"]

MAX_PARAMS: Final = ConnectionLimits().max_frame  # bytes of a device's frame: larger params can never be sent

_TIMEOUT: Final = number()


class DeviceCall(msgspec.Struct, gc=False):
    """A call of a device, in the form in which one node requests it from another."""

    account: str
    id: str
    method: str
    params: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    timeout: float | None = None
    """Seconds, or `None` for a notification, which the device does not answer."""

    @property
    def key(self) -> DeviceKey:
        """The device."""
        return DeviceKey(self.account, self.id)

    @property
    def raw_params(self) -> RawJson | None:
        return bytes(self.params) if isinstance(self.params, msgspec.Raw) else None

    @classmethod
    def of(cls, key: DeviceKey, method: str, params: RawJson | None, timeout: float | None) -> DeviceCall:
        """Return the call for params that may be `None`."""
        return cls(key.account, key.id, method, msgspec.UNSET if params is None else msgspec.Raw(params), timeout)


AskNode: TypeAlias = Callable[[str, DeviceCall], Awaitable[RawJson]]
"""Requests a call from another node, which is named by its id."""

OutcomeCallback: TypeAlias = Callable[[RawJson | MdashError], None]
"""Called with the outcome of a call: the device's result, or the error."""


class Calls:
    """Calls of devices that are connected to this node or another.

    Args:
        node: the id of this node.
        link: returns the link of a device that is connected here.
        ask: requests a call from another node; `None` if there can be no other nodes.
        default_timeout: seconds for a call without a timeout of its own.
    """

    def __init__(
        self,
        hub: Hub,
        node: str,
        link: Callable[[DeviceKey], Link | None],
        *,
        ask: AskNode | None,
        default_timeout: float,
    ) -> None:
        self._hub = hub
        self._node = node
        self._link = link
        self._ask = ask
        self.default_timeout = default_timeout

    async def call(
        self, key: DeviceKey, method: str, params: RawJson | None = None, *, timeout: float | None = None
    ) -> RawJson:
        """Call a device. Returns its result.

        Args:
            timeout: seconds.

        Raises:
            NotFound: the account has no such device.
            DeviceOffline: the device is not connected.
            RpcError, InvalidAnswer, CallTimeout, Busy, TooLarge: as `Link.call`.
        """
        node = await self._locate(key)
        return await self._route(node, self._request(key, method, params, timeout))

    async def call_shown(
        self,
        key: DeviceKey,
        method: str,
        params: RawJson | None = None,
        *,
        timeout: float | None = None,
        on_outcome: OutcomeCallback = lambda outcome: None,
    ) -> RawJson:
        """Do the same as `call`, and notify subscribers of the call if it can be made.

        A device of this node answers while the notification is being stored; the result is returned when both are
        done. For a device of another node the notification is stored first.

        Args:
            on_outcome: called with the outcome of the call, also if the notification could not be stored.

        Raises:
            StorageError: the notification could not be stored. A device of this node was called all the same, and
                its answer was waited for.
        """
        node = await self._locate(key)
        request = self._request(key, method, params, timeout)
        _check_size(params)
        show = _Show(partial(self._show, key, method, params))
        if node == self._node:
            making = make_call(self._link(key), request, meanwhile=show.run)
        else:
            await show.run()
            show.check()
            making = self._route(node, request)
        try:
            result = await making
        except MdashError as exc:
            on_outcome(exc)
            show.check()
            raise
        on_outcome(result)
        show.check()
        return result

    async def notify_shown(self, key: DeviceKey, method: str, params: RawJson | None = None) -> None:
        """Send a notification to a device and show it to subscribers. Raises as `call`, except the device's errors."""
        node = await shielded(partial(self.show, key, method, params))
        await self._route(node, DeviceCall.of(key, method, params, None))

    async def show(self, key: DeviceKey, method: str, params: RawJson | None) -> str:
        """Notify subscribers of a call that the caller makes. Returns the node that the device is connected to.

        Shield it from cancellation where the store may have to be waited for: a notification that is stored has to be
        counted and published too.

        Raises:
            NotFound, DeviceOffline, TooLarge: the call cannot be made, and was not notified.
        """
        node = await self._locate(key)
        _check_size(params)
        await self._show(key, method, params)
        return node

    async def call_local(self, call: DeviceCall) -> RawJson:
        """Call a device that is connected to this node. Raises `DeviceOffline` for any other."""
        return await make_call(self._link(call.key), call)

    async def _show(self, key: DeviceKey, method: str, params: RawJson | None) -> None:
        await self._hub.feed.emit(key.account, notifications.RPC_IN + method, key.id, params)

    async def _locate(self, key: DeviceKey) -> str:
        """Return the node that a device is connected to. Raises `NotFound`, `DeviceOffline`."""
        if self._link(key) is not None:
            return self._node
        if self._ask is not None:
            node = (await self._hub.presence.get(key)).node
            if node is not None:
                return node
        await self._hub.registry.get(key)
        raise DeviceOffline(f"device {key.id!r} is not connected")

    def _request(self, key: DeviceKey, method: str, params: RawJson | None, timeout: float | None) -> DeviceCall:
        if timeout is not None:
            _TIMEOUT.check("timeout", timeout)
        if params is not None and type(params) is not bytes:
            raise InvalidInput(f"the params of a device's method are raw JSON, as bytes, not {type(params).__name__}")
        return DeviceCall.of(key, method, params, self.default_timeout if timeout is None else timeout)

    async def _route(self, node: str, call: DeviceCall) -> RawJson:
        if node == self._node or self._ask is None:
            return await self.call_local(call)
        return await self._ask(node, call)


class _Show:
    """The notification of a call. A client that leaves does not stop it, and its error waits for the call's outcome."""

    __slots__ = ("_error", "_notify")

    def __init__(self, notify: Callable[[], Awaitable[None]]) -> None:
        self._notify = notify
        self._error: StorageError | None = None

    async def run(self) -> None:
        """Notify subscribers. Raises no `StorageError`."""
        try:
            await shielded(self._notify)
        except StorageError as exc:
            self._error = exc

    def check(self) -> None:
        """Raise the error of `run`, if any."""
        if self._error is not None:
            raise self._error


def _check_size(params: RawJson | None) -> None:
    if params is not None and len(params) > MAX_PARAMS:
        raise TooLarge(f"params of {len(params)} bytes; a frame has at most {MAX_PARAMS}")


async def make_call(
    link: Link | None, call: DeviceCall, *, meanwhile: Callable[[], Awaitable[object]] | None = None
) -> RawJson:
    """Make a call over the link of its device. Returns the result, ``true`` for a notification.

    Args:
        meanwhile: as for `Link.call`; not called for a notification.

    Raises:
        DeviceOffline: there is no link.
        MdashError: as `Link.call`.
    """
    if link is None:
        raise DeviceOffline(f"device {call.id!r} is not connected")
    if call.timeout is not None:
        return await link.call(call.method, call.raw_params, timeout=call.timeout, meanwhile=meanwhile)
    link.notify(call.method, call.raw_params)
    return b"true"


class LocalCaller:
    """The `DeviceCaller` of updates: a node drives only updates of its own devices."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def call(
        self, key: DeviceKey, method: str, params: RawJson | None = None, *, timeout: float | None = None
    ) -> RawJson:
        """Call a device that is connected to this node. Raises `DeviceOffline` for any other."""
        timeout = self._calls.default_timeout if timeout is None else timeout
        return await self._calls.call_local(DeviceCall.of(key, method, params, timeout))
