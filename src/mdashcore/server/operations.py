"""The few requests that most of the traffic consists of. Both lanes answer them with this module."""

from __future__ import annotations

from typing import Final, NamedTuple

from mdashcore import _json
from mdashcore._errors import InvalidInput
from mdashcore._messages import MAX_METHOD
from mdashcore.identity import DeviceKey
from mdashcore.server.http.conditions import Conditions
from mdashcore.server.service import Service
from mdashcore.trio.connections.calls import MAX_PARAMS
from mdashcore.trio.shielding import WRITES_TIMEOUT, shielded

__all__ = ["MAX_BODY", "Versioned", "call", "prepare_call", "read_shadow", "update_shadow"]


MAX_BODY: Final = MAX_PARAMS  # bytes: the largest frame of a device, four times the largest shadow. Decoding a megabyte
# takes up to 0.2 s, during which nothing else runs


class Versioned(NamedTuple):
    """The answer to a request for a shadow."""

    body: bytes | None
    """JSON; `None` if the client has this version already."""
    version: int


async def call(service: Service, key: DeviceKey, method: str, body: bytes, timeout: str | None) -> bytes:
    """Call a method of a device. Returns the bare result, exactly as the device wrote it.

    Args:
        body: the params as JSON; empty or ``null`` for none.
        timeout: seconds, as text of the request.

    Raises:
        InvalidInput: the params, the method's name or the time-out are invalid.
        MdashError: as `UserCalls.call`.
    """
    params, seconds = prepare_call(service, method, body, timeout)
    return await service.node.user_calls.call(key, method, params, timeout=seconds)


def prepare_call(service: Service, method: str, body: bytes, timeout: str | None) -> tuple[bytes | None, float]:
    """Return the params and the time-out in seconds. Raises `InvalidInput`."""
    params = body.strip()
    if params:
        _json.decode_foreign(params, max_depth=_json.MAX_DEPTH - 1)  # the frame around the params is one more level
    if len(method) > MAX_METHOD:
        raise InvalidInput(f"a method's name has at most {MAX_METHOD} characters")
    seconds = service.call_timeout(timeout)
    return (params if params and params != b"null" else None), seconds


async def read_shadow(service: Service, key: DeviceKey, conditions: Conditions | None = None) -> Versioned:
    """Read the shadow: ``{"state", "metadata", "version", "timestamp"}``. Raises `NotFound`, `PreconditionFailed`."""
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
    """Update the shadow. Returns the accepted document with the new version. Raises as `Shadows.update`."""
    await service.hub.registry.get(key)
    document = _json.decode_foreign(body) if body.strip() else None
    # A change that is stored has to reach the device and the subscribers, also when the client leaves.
    condition = None if conditions is None else lambda shadow: conditions.allow(shadow.version)
    change = await service.hub.shadows.update(
        key, document, condition=condition, patience=WRITES_TIMEOUT, protect=shielded
    )
    return Versioned(change.accepted_json(), change.version)
