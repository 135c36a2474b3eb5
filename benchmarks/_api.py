"""The few requests that all servers understand, for setting up and for checking."""

from __future__ import annotations

import http.client
import json
from typing import Any

__all__ = ["Api"]


class Api:
    """A client on one kept connection."""

    def __init__(self, port: int, key: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def call(self, device: str, method: str, params: object) -> Any:
        """Call a method of a device, and return its result."""
        return self._request("POST", f"{device}/rpc/{method}", params)

    def update(self, device: str, document: object) -> Any:
        """Update a shadow, and return the answer."""
        return self._request("POST", f"{device}/shadow", document)

    def shadow(self, device: str) -> Any:
        """Return the shadow: ``{"state", "version"}`` and more."""
        return self._request("GET", f"{device}/shadow")

    def device(self, id: str) -> Any:
        """Return a device; all of them for an empty id."""
        return self._request("GET", id)

    def raw_list(self) -> bytes:
        """Return the list of all devices as it is sent."""
        return self._raw("GET", "")

    def close(self) -> None:
        self._connection.close()

    def _request(self, method: str, path: str, value: object = None) -> Any:
        return json.loads(self._raw(method, path, value))

    def _raw(self, method: str, path: str, value: object = None) -> bytes:
        body = None if method == "GET" else json.dumps(value)
        self._connection.request(method, f"/api/v2/devices/{path}".rstrip("/"), body, self._headers)
        response = self._connection.getresponse()
        text = response.read()
        assert response.status == 200, (response.status, text)
        return text
