"""JSON-RPC messages as values, and what their members may be."""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from mdashcore import _json
from mdashcore._errors import InvalidInput, RpcError

__all__ = [
    "APPLICATION_ERROR",
    "INTERNAL_ERROR",
    "INVALID_PARAMS",
    "INVALID_REQUEST",
    "METHOD_NOT_FOUND",
    "PARSE_ERROR",
    "ErrorObject",
    "Invalid",
    "Message",
    "RawJson",
    "Request",
    "Response",
]

# Section 5.1 of the specification.
PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
APPLICATION_ERROR: Final = -32000

MAX_ID: Final = 256  # bytes: every answer repeats the id, and has to fit into a frame; a UUID has 38
MAX_METHOD: Final = 256  # characters: names appear in errors, events and logs; real ones have 30 at most

ID_STARTS: Final = frozenset(b'"-0123456789n')  # a string, a number, or null

RawJson: TypeAlias = bytes
"""One valid JSON text in UTF-8."""


class ErrorObject(msgspec.Struct, frozen=True, gc=False):
    """The `error` member of a response (section 5.1)."""

    code: int
    message: str
    data: RawJson | None = None

    def exception(self) -> RpcError:
        """Return the error as an exception."""
        try:
            data = None if self.data is None else _json.decode(self.data)
        except InvalidInput:  # valid JSON that no Python value can hold, such as 1e999
            data = self.data.decode() if self.data else None
        return RpcError(self.code, self.message, data)


class Request(msgspec.Struct, frozen=True, gc=False):
    """A call; or a notification, if `id` is `None` (section 4)."""

    method: str
    params: RawJson | None = None
    id: RawJson | None = None
    """Raw JSON of the id. It is echoed unchanged and never interpreted."""


class Response(msgspec.Struct, frozen=True, gc=False):
    """The answer to a call (section 5): `error`, or else `result`."""

    id: RawJson | None
    result: RawJson | None = None
    """`None` if the message has no result member: some devices leave out a null."""
    error: ErrorObject | None = None


class Invalid(msgspec.Struct, frozen=True, gc=False):
    """A text, or a member of a batch, that is not a message. It says how to answer if it was a request."""

    error: ErrorObject
    id: RawJson | None = None
    is_request: bool = True
    """False if it does not look like a request. It may have been an answer, which must not be answered."""


Message: TypeAlias = Request | Response | Invalid
"""The result of decoding a message."""


def is_id(raw: RawJson) -> bool:
    """Return whether JSON can be the id of a message."""
    return raw[0] in ID_STARTS and len(raw) <= MAX_ID
