"""Calls of devices for users: they are notified to subscribers, and their effects on updates are applied."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from mdashcore import ota
from mdashcore._errors import Conflict, InvalidAnswer, MdashError, RpcError
from mdashcore.hub.updates.service import Updates
from mdashcore.identity import DeviceKey
from mdashcore.jsonrpc import RawJson
from mdashcore.trio.connections.calls import Calls

__all__ = ["UPDATE_EVENTS", "UserCalls"]

UPDATE_EVENTS: Final[dict[str, ota.UpdateEvent]] = {
    "OTA.Commit": ota.CommitAccepted(),
    "OTA.Revert": ota.RevertAccepted(),
    "OTA.End": ota.TransferEnded(),
}
"""By method: the event that a user's successful call means for the device's update."""


def _update_event(method: str, outcome: RawJson | MdashError) -> ota.UpdateEvent | None:
    """Return the event that the outcome of a call means for the device's update, if any."""
    if not isinstance(outcome, MdashError):
        return UPDATE_EVENTS.get(method)
    if method == ota.End.method and isinstance(outcome, RpcError | InvalidAnswer):
        return ota.TransferEnded()  # most devices refuse a part of an image, and have given the transfer up then
    if (
        method == ota.Commit.method
        and isinstance(outcome, RpcError)
        and ota.lacks_method(outcome.code, outcome.message)
    ):
        return ota.CommitUnsupported()
    return None


class UserCalls:
    """The methods of devices, called by users.

    Args:
        on_update_event: called with the event that a call means for the device's update.
    """

    def __init__(
        self, calls: Calls, updates: Updates, on_update_event: Callable[[DeviceKey, ota.UpdateEvent], None]
    ) -> None:
        self._calls = calls
        self._updates = updates
        self._on_update_event = on_update_event

    async def call(self, key: DeviceKey, method: str, params: RawJson | None = None, *, timeout: float) -> RawJson:
        """Call a device for a user.

        Args:
            timeout: seconds.

        Raises:
            MdashError: as `Calls.call`.
        """
        apply = partial(self._apply, key, method)
        return await self._calls.call_shown(key, method, params, timeout=timeout, on_outcome=apply)

    def _apply(self, key: DeviceKey, method: str, outcome: RawJson | MdashError) -> None:
        """Apply what a call means for the device's update."""
        if (event := _update_event(method, outcome)) is not None:
            self._on_update_event(key, event)

    async def notify(self, key: DeviceKey, method: str, params: RawJson | None = None) -> None:
        """Send a notification to a device for a user. Raises as `call`, except the device's errors."""
        await self._calls.notify_shown(key, method, params)

    async def end_transfer(self, key: DeviceKey) -> None:
        """Call `OTA.End`, to end a transfer that the device holds and that no update continues.

        The device then decides what it does: most refuse a partial image, some restart.

        Raises:
            Conflict: the transfer is that of an update.
            MdashError: as `call`.
        """
        update = await self._updates.get(key)
        if update is not None and not ota.can_end_transfer(update):
            raise Conflict(f"the transfer is that of the present update, which is {update.state}")
        await self.call(key, ota.End.method, timeout=ota.End.call_timeout)
