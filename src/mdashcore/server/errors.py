"""Errors on the wire: each is ``{"error": {"code", "message"}}``, with the status of `mdashcore._errors.STATUS`."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Any, Final

from mdashcore import _json
from mdashcore._errors import (
    Busy,
    Damaged,
    LimitReached,
    MdashError,
    RpcError,
    StorageError,
    Unauthenticated,
    UnsupportedContent,
    status_of,
)
from mdashcore.hub.limits import is_per_process

__all__ = ["body", "headers", "message", "problem"]


def body(error: MdashError) -> dict[str, Any]:
    """What a client gets to read. A device's own error keeps its code, message and data."""
    if isinstance(error, RpcError):
        found: dict[str, Any] = {"code": error.code, "message": error.message}
        if error.data is not None:
            found["data"] = error.data
        return {"error": found}
    found = problem(status_of(error), message(error))
    if isinstance(error, LimitReached):
        found["error"]["limit"] = error.limit
    return found


def message(error: MdashError) -> str:
    """What a client is told of an error: its text, but of the storage only that it fails, not where and how it is."""
    if isinstance(error, Damaged):
        return "what is stored of this is damaged; the server's log and `mdash store check` name it"
    return "the storage is not available" if isinstance(error, StorageError) else str(error)


def problem(status: int, message: str) -> dict[str, Any]:
    """The same for what is no error of ours: an unknown path, say."""
    return {"error": {"code": status, "message": message or HTTPStatus(status).phrase}}


BEARER: Final = 'Bearer realm="mdash"'
BASIC: Final = 'Basic realm="mdash", charset="UTF-8"'


def headers(error: MdashError, *, from_page: bool = False) -> dict[str, str]:
    """The headers that belong to an error.

    Args:
        from_page: a web page asks, which has a login of its own: an offer of Basic would make the browser open another.
    """
    if isinstance(error, Unauthenticated):
        return {"WWW-Authenticate": BEARER if from_page else f"{BEARER}, {BASIC}"}
    if isinstance(error, UnsupportedContent):
        return {"Accept-Encoding": "identity"}
    if isinstance(error, Busy) and not (isinstance(error, LimitReached) and not is_per_process(error.limit)):
        return {"Retry-After": str(math.ceil(error.retry_after))}
    return {}


def encoded(error: MdashError) -> bytes:
    """`body`, as JSON."""
    return _json.encode(body(error))
