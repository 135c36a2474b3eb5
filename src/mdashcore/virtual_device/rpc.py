"""The dispatch of requests to the device's services: `Args`, `Method` and the `RPC.*` service.

Argument errors have the code and the words of Mongoose OS: 400, `filename is required`.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import attrs

from mdashcore._errors import RpcError

__all__ = ["MAX_CHUNK", "Args", "DeviceService", "Method", "RpcService"]

BAD_REQUEST: Final = 400
NOT_FOUND: Final = 404
SERVER_ERROR: Final = 500
FAILED_CODE: Final = -1  # the answer of Mongoose OS if it has no better code

MAX_CHUNK: Final = 3072
"""Bytes that one call can write: in base64 they fill a frame of 4096 bytes, the longest a device reads."""


class Args:
    """The params of one request, read by name and type. Other params are ignored, as on devices.

    An optional argument that is absent or null gives the default. A wrong type is error 400.
    """

    def __init__(self, params: object) -> None:
        if params is None:
            params = {}
        if not isinstance(params, Mapping):
            raise RpcError(BAD_REQUEST, "params must be an object")
        self._values: Mapping[str, Any] = params

    def value(self, name: str) -> Any:
        """Return the argument unchanged, of any type but null."""
        found = self._values.get(name)
        if found is None:
            raise RpcError(BAD_REQUEST, f"{name} is required")
        return found

    def text(self, name: str, default: str | None = None) -> str:
        found = self._get(name, default)
        if not isinstance(found, str):
            raise RpcError(BAD_REQUEST, f"{name} must be a string")
        return found

    def integer(self, name: str, default: int | None = None) -> int:
        found = self._get(name, default)
        if isinstance(found, float) and found.is_integer():  # JSON does not tell 1.0 from 1
            found = int(found)
        if not isinstance(found, int) or isinstance(found, bool):
            raise RpcError(BAD_REQUEST, f"{name} must be an integer")
        return found

    def flag(self, name: str) -> bool:
        found = self._get(name, False)
        if not isinstance(found, bool):
            raise RpcError(BAD_REQUEST, f"{name} must be true or false")
        return found

    def data(self, name: str, default: str | None = None) -> bytes:
        """Return base64 text (RFC 4648, padded) as at most `MAX_CHUNK` bytes."""
        text = self.text(name, default)
        if len(text) > MAX_CHUNK // 3 * 4:
            raise RpcError(BAD_REQUEST, f"{name} is longer than {MAX_CHUNK} bytes")
        try:
            return binascii.a2b_base64(text, strict_mode=True)
        except ValueError:  # binascii.Error, or a character outside ASCII
            raise RpcError(BAD_REQUEST, f"{name} is not base64") from None

    def _get(self, name: str, default: object) -> object:
        return self.value(name) if default is None or self._values.get(name) is not None else default


@attrs.frozen
class Method:
    """One entry of the dispatch table."""

    handler: Callable[[Args], Any]
    """Returns the JSON-able result, or raises `RpcError`. It does not wait, so requests never interleave."""

    args_fmt: str = ""
    """The format that `RPC.Describe` shows, for json_scanf, as on Mongoose OS."""


class DeviceService(Protocol):
    """A part of the device that answers requests."""

    def methods(self) -> dict[str, Method]: ...


class RpcService:
    """`RPC.List`, `RPC.Describe` and `RPC.Ping`, over the dispatch table itself."""

    def __init__(self, table: Mapping[str, Method]) -> None:
        self._table = table

    def methods(self) -> dict[str, Method]:
        return {
            "RPC.List": Method(lambda args: list(self._table)),
            "RPC.Describe": Method(self._describe, "{name: %T}"),
            "RPC.Ping": Method(lambda args: {"channel_info": "websocket"}),
        }

    def _describe(self, args: Args) -> dict[str, str]:
        name = args.text("name")
        if name not in self._table:
            raise RpcError(NOT_FOUND, "name not found")
        return {"name": name, "args_fmt": self._table[name].args_fmt}
