"""Calls of devices for which no task waits."""

from __future__ import annotations

import attrs

from mdashcore._errors import CallTimeout
from mdashcore.identity import DeviceKey
from mdashcore.server import operations
from mdashcore.server.service import Service
from mdashcore.trio.connections.link import Link, ResultCallback, late
from mdashcore.trio.connections.user_calls import UPDATE_EVENTS

__all__ = ["BegunCall", "begin_call"]


@attrs.frozen
class BegunCall:
    """A call that no task waits for. The code that has begun it has to end it in time."""

    _link: Link
    _id: int
    _method: str
    timeout: float
    """Seconds."""

    def abandon(self) -> None:
        """Forget the call: its callback is not called any more."""
        self._link.abandon(self._id)

    def give_up(self) -> CallTimeout:
        """Abandon the call after its time-out. Returns the error to report."""
        self.abandon()
        return late(self._method, self.timeout)


async def begin_call(
    service: Service, key: DeviceKey, method: str, body: bytes, timeout: str | None, done: ResultCallback
) -> BegunCall | None:
    """Start `operations.call` without waiting for the answer.

    Args:
        done: called with the outcome of the call.

    Returns:
        `None` if the method changes an update, or the device is not connected; use `operations.call` then.

    Raises:
        MdashError: as `operations.call`, if the error is known before an answer.
    """
    params, seconds = operations.prepare_call(service, method, body, timeout)
    link = None if method in UPDATE_EVENTS else service.node.devices.link(key)
    if link is None:
        return None
    call = BegunCall(link, link.begin(method, params, done), method, seconds)
    try:
        await service.node.calls.show(key, method, params)
    except BaseException:
        call.abandon()
        raise
    return call
