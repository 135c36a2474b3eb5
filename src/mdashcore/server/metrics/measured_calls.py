"""The calls of devices for users, measured."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Final, TypeAlias

from mdashcore._errors import CallTimeout, DeviceOffline, InvalidAnswer, RpcError
from mdashcore.identity import DeviceKey
from mdashcore.jsonrpc import RawJson
from mdashcore.trio.connections.user_calls import UserCalls

__all__ = ["CALL_OUTCOMES", "MeasuredCalls", "outcome_of"]

CALL_OUTCOMES: Final = ("ok", "error", "timeout", "offline", "refused")
"""The outcomes of a call: the device's result; its error or an unreadable answer; no answer in time; no connection; and
``refused`` if the call was not made. A call whose client has gone has no outcome."""

RecordCall: TypeAlias = Callable[[float, str], None]
"""Receives the seconds and the outcome of a call."""


def outcome_of(error: Exception) -> str:
    """Return the outcome that an error stands for."""
    if isinstance(error, RpcError | InvalidAnswer):
        return "error"
    if isinstance(error, CallTimeout):
        return "timeout"
    return "offline" if isinstance(error, DeviceOffline) else "refused"


class MeasuredCalls(UserCalls):
    """Makes calls as `UserCalls` does, and records each.

    Args:
        calls: makes the calls.
        record: called at the end of each call.
    """

    def __init__(self, calls: UserCalls, record: RecordCall) -> None:
        super().__init__(calls._calls, calls._updates, calls._on_update_event)
        self._record = record

    async def call(self, key: DeviceKey, method: str, params: RawJson | None = None, *, timeout: float) -> RawJson:
        """Do the same as `UserCalls.call`."""
        started = perf_counter()
        try:
            result = await super().call(key, method, params, timeout=timeout)
        except Exception as exc:
            self._record(perf_counter() - started, outcome_of(exc))
            raise
        self._record(perf_counter() - started, "ok")
        return result
