"""Errors on the wire: each is ``{"error": {"code", "message"}}``, with the status of `mdashcore._errors.STATUS`."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Any, Final

from mdashcore import _json
from mdashcore._errors import (
    STORAGE_UNAVAILABLE,
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
from mdashcore.server.traffic import count_refusal

__all__ = ["body", "headers", "message", "plain_body"]


def body(error: MdashError) -> dict[str, Any]:
    """Return the document of an error for the wire. A device's own error keeps its code, message and data."""
    if isinstance(error, Busy):
        count_refusal(error)
    if isinstance(error, RpcError):
        found: dict[str, Any] = {"code": error.code, "message": error.message}
        if error.data is not None:
            found["data"] = error.data
        return {"error": found}
    found = plain_body(status_of(error), message(error))
    if isinstance(error, LimitReached):
        found["error"]["limit"] = error.limit
    return found


def message(error: MdashError) -> str:
    """Return the text of an error for the client. The text of a storage error is replaced: it exposes internals."""
    if isinstance(error, Damaged):
        return "what is stored of this is damaged; the server's log and `mdash store check` name it"
    return STORAGE_UNAVAILABLE if isinstance(error, StorageError) else str(error)


def plain_body(status: int, message: str) -> dict[str, Any]:
    """Return the document of an HTTP error that is no `MdashError`, such as an unknown path."""
    return {"error": {"code": status, "message": message or HTTPStatus(status).phrase}}


BEARER_CHALLENGE: Final = 'Bearer realm="mdash"'
BASIC_CHALLENGE: Final = 'Basic realm="mdash", charset="UTF-8"'


def headers(error: MdashError, *, from_page: bool = False) -> dict[str, str]:
    """Return the headers that belong to an error.

    Args:
        from_page: whether a web page sent the request. A page has a login of its own: with an offer of Basic the
            browser would open another one.
    """
    if isinstance(error, Unauthenticated):
        return {"WWW-Authenticate": BEARER_CHALLENGE if from_page else f"{BEARER_CHALLENGE}, {BASIC_CHALLENGE}"}
    if isinstance(error, UnsupportedContent):
        return {"Accept-Encoding": "identity"}
    if isinstance(error, Busy) and error.retry_after:
        return {"Retry-After": str(math.ceil(error.retry_after))}
    return {}


def encoded(error: MdashError) -> bytes:
    """Return `body` as JSON."""
    return _json.encode(body(error))
