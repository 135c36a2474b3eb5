"""Calls of a device, and its shadow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from mdashcore.client._http import Resource
from mdashcore.documents import AcceptedShadow, ShadowDocument

__all__ = ["CallRequests"]

CALL_MARGIN: Final = 10.0  # seconds beyond a call's own time-out: the server says that the device did not answer

CALL_TIMEOUT: Final = 10.0  # seconds, as on the server


class CallRequests(Resource):
    """What `Client` does with one device: calls, and reads and changes of its shadow."""

    async def call(self, device: str, method: str, params: Any = None, *, timeout: float | None = None) -> Any:
        """Call a method of a device, and return its result.

        Args:
            params: any JSON value; `None` sends none.
            timeout: seconds that the device has for the answer, at most 120; 10 if not given.

        Raises:
            RpcError: the device answers with an error.
            DeviceOffline: it is not connected.
            CallTimeout: it does not answer in time.
            InvalidAnswer: its answer cannot be read.
        """
        query = None if timeout is None else {"timeout": f"{timeout:.3f}"}
        limit = (CALL_TIMEOUT if timeout is None else timeout) + CALL_MARGIN
        return await self._http.fetch(
            "POST", "devices", device, "rpc", method, json=params, query=query, timeout=max(limit, self._http.timeout)
        )

    async def shadow(self, device: str) -> ShadowDocument:
        """Return a device's shadow. Raises `NotFound`."""
        return cast(ShadowDocument, await self._http.fetch("GET", "devices", device, "shadow"))

    async def update_shadow(
        self,
        device: str,
        *,
        desired: Mapping[str, Any] | None = None,
        reported: Mapping[str, Any] | None = None,
        version: int | None = None,
    ) -> AcceptedShadow:
        """Merge values into a device's shadow. A value of `None` removes its key. Returns what was accepted.

        Args:
            version: the current version, as a lock.

        Raises:
            Conflict: the shadow has another version.
            TooLarge: the shadow would grow too large.
        """
        sections = {"desired": desired, "reported": reported}
        state = {name: section for name, section in sections.items() if section is not None}
        document = {"state": state, **({} if version is None else {"version": version})}
        return cast(AcceptedShadow, await self._http.fetch("POST", "devices", device, "shadow", json=document))
