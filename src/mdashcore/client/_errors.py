"""Errors of a server as exceptions: the same classes as in the server, found by status."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from mdashcore import _json
from mdashcore._errors import (
    STORAGE_UNAVAILABLE,
    Busy,
    CallTimeout,
    Conflict,
    DeviceOffline,
    Forbidden,
    InsufficientStorage,
    InvalidAnswer,
    InvalidInput,
    LimitReached,
    MdashError,
    NotFound,
    Overloaded,
    PreconditionFailed,
    RpcError,
    StorageError,
    TooLarge,
    Unauthenticated,
    UnsupportedContent,
)

__all__ = ["ServerUnreachable", "UnexpectedAnswer", "error_of", "retry_after", "unreachable"]

_CLASSES: Final[Mapping[int, type[MdashError]]] = MappingProxyType(
    {
        400: InvalidInput,
        401: Unauthenticated,
        403: Forbidden,
        404: NotFound,
        409: Conflict,
        412: PreconditionFailed,
        413: TooLarge,
        415: UnsupportedContent,
        502: InvalidAnswer,
        504: CallTimeout,
        507: InsufficientStorage,
    }
)


class ServerUnreachable(MdashError):
    """The server cannot be reached, or does not answer. It may have got the request."""


class UnexpectedAnswer(MdashError):
    """The answer is none of an mdash server: the address is another server's, or a proxy answers for it."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}, and not in the words of an mdash server")
        self.status = status
        """The HTTP status of the answer."""


def retry_after(value: str | None) -> float:
    """Return the seconds of the header ``Retry-After``; 0 if it is missing or a date."""
    return float(value) if value and value.isdigit() and len(value) < 6 else 0.0


def unreachable(server: str, error: BaseException) -> ServerUnreachable:
    """Return the error for a failed connection."""
    return ServerUnreachable(f"cannot connect to {server}: {_reason(error) or type(error).__name__}")


def _reason(error: BaseException) -> str:
    """Return the reason of a failed connection. Libraries wrap the system's errors, one for each address."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(map(_reason, error.exceptions)))
    if isinstance(error, OSError) and error.errno and error.strerror:
        of_system = not isinstance(error, (socket.gaierror, ssl.SSLError))
        return os.strerror(error.errno) if of_system else str(error.strerror)
    inner = error.__cause__ or (None if isinstance(error, OSError) else error.__context__)
    return (inner is not None and _reason(inner)) or str(error)


def error_of(status: int, body: bytes | None, retry_after: float = 0.0) -> MdashError:
    """Return the error that an unsuccessful answer stands for.

    Args:
        retry_after: seconds of the header ``Retry-After``; 0 if there is none.
    """
    try:
        error = _json.decode(body or b"")["error"]
        code, message = int(error["code"]), str(error["message"])
    except (InvalidInput, LookupError, TypeError, ValueError):
        return UnexpectedAnswer(status)
    return _by_status(status, code, message, error, retry_after)


def _by_status(status: int, code: int, message: str, error: Mapping[str, Any], retry_after: float) -> MdashError:
    if status == 422:
        return RpcError(code, message, error.get("data"))
    if status == 429:
        limit = error.get("limit")
        if limit is not None:
            return LimitReached(str(limit), message, retry_after=retry_after)  # 0: time alone does not help
        return Busy(message, retry_after=retry_after or 1.0)
    if status == 503:
        if retry_after:
            return Overloaded(message, retry_after=retry_after)
        return StorageError(message) if message == STORAGE_UNAVAILABLE else DeviceOffline(message)
    return _CLASSES.get(status, MdashError)(message)
