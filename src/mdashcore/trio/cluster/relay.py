"""Calls of a device that another node holds: the request of one node, and the answer of the other.

``Device.Call`` has the device, the method, its params and the time-out. Its result is the device's result or the
device's own error, as raw JSON. An error of the node itself is a JSON-RPC error with the number of `STATUS`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from mdashcore._errors import InvalidInput, MdashError, RpcError
from mdashcore.jsonrpc import RawJson
from mdashcore.trio.cluster.peers import Peers
from mdashcore.trio.connections.calls import DeviceCall

__all__ = ["CALL_METHOD", "answer", "ask"]

CALL_METHOD: Final = "Device.Call"

RELAY_GRACE: Final = 2.0  # seconds more than the device has, so that the node that holds it times out first


class _DeviceError(msgspec.Struct, gc=False):
    code: int
    message: str
    data: object = None


class _Answer(msgspec.Struct, gc=False, omit_defaults=True):
    """A device's answer. The result counts only without an error."""

    result: msgspec.Raw = msgspec.Raw(b"null")
    error: _DeviceError | None = None


async def ask(peers: Peers, node: str, call: DeviceCall) -> RawJson:
    """Request a call from another node. Returns the device's result.

    Raises:
        RpcError: the device's own error.
        MdashError: the error that the other node has raised; `CallTimeout` if it did not answer at all.
    """
    request = msgspec.json.encode(call)
    raw = await peers.call(node, CALL_METHOD, request, timeout=(call.timeout or 0.0) + RELAY_GRACE)
    try:
        reply = msgspec.json.decode(raw, type=_Answer)
    except msgspec.MsgspecError as exc:
        raise MdashError(f"the answer of {node} is not understood: {exc}") from None
    if (error := reply.error) is not None:
        raise RpcError(error.code, error.message, error.data)
    return bytes(reply.result)


async def answer(params: RawJson | None, perform: Callable[[DeviceCall], Awaitable[RawJson]]) -> RawJson:
    """Make the call that another node requests. Returns the answer. Raises as `perform`, except the device's error."""
    try:
        call = msgspec.json.decode(params or b"null", type=DeviceCall)
    except msgspec.MsgspecError as exc:
        raise InvalidInput(f"not a call: {exc}") from None
    try:
        return msgspec.json.encode(_Answer(result=msgspec.Raw(await perform(call))))
    except RpcError as exc:
        return msgspec.json.encode(_Answer(error=_DeviceError(exc.code, exc.message, exc.data)))
