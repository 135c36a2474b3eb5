"""Calls of devices, whichever node they are connected to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import attrs
import msgspec

from mdashcore import notifications
from mdashcore._checked import number
from mdashcore._connection import ConnectionLimits
from mdashcore._errors import CallTimeout, DeviceOffline, InvalidInput, TooLarge
from mdashcore.hub import Hub
from mdashcore.identity import DeviceKey
from mdashcore.jsonrpc import RawJson
from mdashcore.trio.connections.link import Link, Outcome, late

__all__ = ["Ask", "BegunCall", "Calls", "DeviceCall", "LocalCaller", "make_call"]

MAX_PARAMS: Final = ConnectionLimits().max_frame  # bytes of a device's frame: params that could never be sent

_TIMEOUT: Final = number()


class DeviceCall(msgspec.Struct, gc=False):
    """A call of a device, as one node asks another one for it."""

    account: str
    id: str
    method: str
    params: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    timeout: float | None = None
    """Seconds; None for a notification, which is not answered by the device."""

    @property
    def key(self) -> DeviceKey:
        """The device."""
        return DeviceKey(self.account, self.id)

    @property
    def raw_params(self) -> RawJson | None:
        return bytes(self.params) if isinstance(self.params, msgspec.Raw) else None

    @classmethod
    def of(cls, key: DeviceKey, method: str, params: RawJson | None, timeout: float | None) -> DeviceCall:
        """The same from params that may be none."""
        return cls(key.account, key.id, method, msgspec.UNSET if params is None else msgspec.Raw(params), timeout)


Ask: TypeAlias = Callable[[str, DeviceCall], Awaitable[RawJson]]
"""Has another node, named by its id, make a call."""


@attrs.frozen
class BegunCall:
    """A call that nobody waits for in a task. Who has begun it has to see that it ends in time."""

    _link: Link
    _id: int
    _method: str
    timeout: float
    """Seconds."""

    def abandon(self) -> None:
        """Nobody is to be told any more."""
        self._link.abandon(self._id)

    def give_up(self) -> CallTimeout:
        """The same, as its time is over: what to say of it."""
        self.abandon()
        return late(self._method, self.timeout)


class Calls:
    """How to reach a device.

    Args:
        node: the id of this node.
        link: finds the link of a device that is connected here.
        ask: reaches the other nodes, if there can be any.
        default_timeout: seconds for a call that does not say.
    """

    def __init__(
        self,
        hub: Hub,
        node: str,
        link: Callable[[DeviceKey], Link | None],
        *,
        ask: Ask | None,
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
        """Call a device; its result.

        Args:
            timeout: seconds.

        Raises:
            NotFound: the account has no such device.
            DeviceOffline: it is not connected.
            RpcError, InvalidAnswer, CallTimeout, Busy, TooLarge: as `Link.call`.
        """
        node = await self._whereabouts(key)
        return await self._do(node, self._request(key, method, params, timeout))

    async def call_shown(
        self, key: DeviceKey, method: str, params: RawJson | None = None, *, timeout: float | None = None
    ) -> RawJson:
        """`call`, and show it among the notifications if it can be made at all."""
        node = await self._show(key, method, params)
        return await self._do(node, self._request(key, method, params, timeout))

    async def begin_shown(
        self, key: DeviceKey, method: str, params: RawJson | None, done: Outcome, timeout: float
    ) -> BegunCall | None:
        """`call_shown` without waiting for the answer, of which `done` is told; None if the device is not here."""
        link = self._link(key)
        if link is None:
            return None
        await self._show(key, method, params)
        return BegunCall(link, link.begin(method, params, done), method, timeout)

    async def notify_shown(self, key: DeviceKey, method: str, params: RawJson | None = None) -> None:
        """Tell a device something, and show it. Raises as `call`, but for the device's answer."""
        node = await self._show(key, method, params)
        await self._do(node, DeviceCall.of(key, method, params, None))

    async def do_here(self, call: DeviceCall) -> RawJson:
        """Make a call to a device that is connected to this node; for any other it raises `DeviceOffline`."""
        return await make_call(self._link(call.key), call)

    async def _whereabouts(self, key: DeviceKey) -> str:
        """The node that a device is connected to. Raises `NotFound`, `DeviceOffline`."""
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

    async def _do(self, node: str, call: DeviceCall) -> RawJson:
        if node == self._node or self._ask is None:
            return await self.do_here(call)
        return await self._ask(node, call)

    async def _show(self, key: DeviceKey, method: str, params: RawJson | None) -> str:
        node = await self._whereabouts(key)
        if params is not None and len(params) > MAX_PARAMS:
            raise TooLarge(f"params of {len(params)} bytes; a frame has at most {MAX_PARAMS}")
        await self._hub.feed.emit(key.account, notifications.RPC_IN + method, key.id, params)
        return node


async def make_call(link: Link | None, call: DeviceCall) -> RawJson:
    """Make a call over the link of its device; return the result, ``true`` for a notification.

    Raises:
        DeviceOffline: there is no link.
        MdashError: as `Link.call`.
    """
    if link is None:
        raise DeviceOffline(f"device {call.id!r} is not connected")
    if call.timeout is not None:
        return await link.call(call.method, call.raw_params, timeout=call.timeout)
    link.notify(call.method, call.raw_params)
    return b"true"


class LocalCaller:
    """The `DeviceCaller` of updates: a node moves on those of its own devices only."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def call(
        self, key: DeviceKey, method: str, params: RawJson | None = None, *, timeout: float | None = None
    ) -> RawJson:
        """Call a device that is connected here; any other is `DeviceOffline`."""
        timeout = self._calls.default_timeout if timeout is None else timeout
        return await self._calls.do_here(DeviceCall.of(key, method, params, timeout))
