"""The few requests that most of the traffic is made of, without a framework: both lanes answer them with this."""

from __future__ import annotations

from typing import Final, NamedTuple

from mdashcore import _json, jsonrpc
from mdashcore._errors import InvalidInput
from mdashcore.identity import DeviceKey
from mdashcore.server.http.conditions import Conditions
from mdashcore.server.service import Service
from mdashcore.server.shielding import SOON, shielded
from mdashcore.trio.connections.calls import MAX_PARAMS, BegunCall
from mdashcore.trio.connections.link import Outcome

__all__ = ["MAX_BODY", "Versioned", "begin_call", "call", "read_shadow", "update_shadow"]


MAX_BODY: Final = MAX_PARAMS  # bytes: what a device's frame can hold, four times the largest shadow. To decode a
# megabyte takes up to 0.2 s, in which nothing else is done


class Versioned(NamedTuple):
    """What is answered of a shadow."""

    body: bytes | None
    """JSON; None where the client has this version already."""
    version: int


async def call(service: Service, key: DeviceKey, method: str, body: bytes, timeout: str | None) -> bytes:
    """Call a method of a device: its bare result, exactly as the device wrote it.

    Args:
        body: the params as JSON; empty, or ``null``, for none.
        timeout: seconds, as the request gave them.

    Raises:
        InvalidInput: the params, the method's name or the time-out.
        MdashError: as `Node.call_for_user`.
    """
    params, seconds = _prepare(service, method, body, timeout)
    return await service.node.user_calls.call(key, method, params, timeout=seconds)


async def begin_call(
    service: Service, key: DeviceKey, method: str, body: bytes, timeout: str | None, done: Outcome
) -> BegunCall | None:
    """The same without waiting for the answer, as `Node.begin_for_user`."""
    params, seconds = _prepare(service, method, body, timeout)
    return await service.node.user_calls.begin(key, method, params, done, timeout=seconds)


def _prepare(service: Service, method: str, body: bytes, timeout: str | None) -> tuple[bytes | None, float]:
    """The params, and the seconds."""
    params = body.strip()
    if params:
        _json.decode(params, max_depth=_json.MAX_DEPTH - 1)  # the frame around them is a level too
    if len(method) > jsonrpc.MAX_METHOD:
        raise InvalidInput(f"a method's name has at most {jsonrpc.MAX_METHOD} characters")
    seconds = service.call_timeout(timeout)
    return (params if params and params != b"null" else None), seconds


async def read_shadow(service: Service, key: DeviceKey, conditions: Conditions | None = None) -> Versioned:
    """The shadow: ``{"state", "metadata", "version", "timestamp"}``. Raises `NotFound`, `PreconditionFailed`."""
    await service.hub.registry.get(key)
    shadow = await service.hub.shadows.get(key)
    if conditions is not None:
        conditions.check_match(shadow.version)
        if conditions.is_known(shadow.version):
            return Versioned(None, shadow.version)
    return Versioned(_json.encode(shadow.document()), shadow.version)


async def update_shadow(
    service: Service, key: DeviceKey, body: bytes, conditions: Conditions | None = None
) -> Versioned:
    """Update it: what was accepted, with the new version. Raises `NotFound`, and as `Shadows.update`."""
    await service.hub.registry.get(key)
    document = _json.decode(body) if body.strip() else None
    # A client that leaves must not keep from the device, and from those who listen, what is stored already.
    condition = None if conditions is None else conditions.allow
    change = await service.hub.shadows.update(key, document, condition=condition, patience=SOON, protect=shielded)
    return Versioned(_json.encode(change.accepted_document()), change.version)
