"""Every error that this package raises on purpose.

::

    MdashError
    ├── ProtocolError             code, message
    │   ├── LocalProtocolError    the caller asked for something that is not allowed
    │   └── RemoteProtocolError   the peer did; the connection has to be closed
    ├── RpcError                  the peer answered a call with an error: code, message, data
    ├── CallTimeout               the peer did not answer in time
    ├── InvalidAnswer             the answer of the peer cannot be read
    │   └── AnswerTooLarge        the answer is too large: size, limit
    ├── DeviceOffline             no live connection to that device
    ├── InvalidInput              an argument cannot be accepted, nothing was changed
    │   ├── InvalidShadowUpdate
    │   ├── InvalidFirmware
    │   └── InvalidSetting        a setting makes no sense; a ValueError too
    ├── TooLarge                  more bytes than the limit allows
    ├── UnsupportedContent        a body with an unknown content coding
    ├── Unauthenticated           no credentials, or not valid ones
    ├── Forbidden                 the account may not do this
    ├── NotFound                  does not exist for this account
    ├── Conflict                  does not fit the present state
    │   ├── AlreadyExists
    │   └── ShadowConflict        the update's version is not the current one
    ├── PreconditionFailed        a condition of the request does not hold
    ├── Busy                      a bound is reached; try again later: retry_after
    │   ├── LimitReached          the account has as much as it may have: limit
    │   ├── Overloaded            the process has no room for another request's body
    │   └── ShuttingDown          the process accepts no new connections of devices and subscribers
    ├── InsufficientStorage       the disk is almost full
    └── StorageError              the storage backend failed; its own error is the __cause__
        ├── Damaged               a stored object cannot be read, now or later
        └── VersionConflict       a compare-and-set lost: expected, actual

`STATUS` maps each class to its status on the wire.

The text of an error is for people: it names the wrong value and the reason, and contains no secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

__all__ = [
    "STATUS",
    "AlreadyExists",
    "AnswerTooLarge",
    "Busy",
    "CallTimeout",
    "Conflict",
    "Damaged",
    "DeviceOffline",
    "Forbidden",
    "InsufficientStorage",
    "InvalidAnswer",
    "InvalidFirmware",
    "InvalidInput",
    "InvalidSetting",
    "InvalidShadowUpdate",
    "LimitReached",
    "LocalProtocolError",
    "MdashError",
    "NotFound",
    "Overloaded",
    "PreconditionFailed",
    "ProtocolError",
    "RemoteProtocolError",
    "RpcError",
    "ShadowConflict",
    "ShuttingDown",
    "StorageError",
    "TooLarge",
    "Unauthenticated",
    "UnsupportedContent",
    "VersionConflict",
]


class MdashError(Exception):
    """The root of all errors of this package."""


class ProtocolError(MdashError):
    """JSON-RPC was used wrongly, on one side or the other."""

    def __init__(self, message: str, *, code: int = -32600) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        """A JSON-RPC error code for the other side."""


class LocalProtocolError(ProtocolError):
    """The caller asked for something that the protocol, or a bound of the connection, does not allow."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something after which the connection cannot go on. Close the transport."""


class RpcError(MdashError):
    """The peer answered a call with an error, which is passed on unchanged."""

    def __init__(self, code: int, message: str, data: object = None) -> None:
        super().__init__(f"{message} (code {code})")
        self.code = code
        self.message = message
        self.data = data
        """The error's `data` member; `None` if it has none."""


class CallTimeout(MdashError):
    """The peer did not answer a call in time; a later answer is ignored."""


class InvalidAnswer(MdashError):
    """The peer answered a call in a form that cannot be read. Another call would bring the same."""


class AnswerTooLarge(InvalidAnswer):
    """The peer answered a call with a frame that is larger than the limit. The connection stays open."""

    def __init__(self, size: int | None, limit: int) -> None:
        of = "more" if size is None else f"{size} bytes, more"
        super().__init__(f"the answer is too large: a frame of {of} than the {limit} that are taken")
        self.size = size
        """Bytes of the frame; `None` if it is known only that the frame is larger than `limit`."""
        self.limit = limit
        """The limit in bytes."""


class DeviceOffline(MdashError):
    """There is no live connection to that device."""


class InvalidInput(MdashError):
    """An argument or a request cannot be accepted. Nothing was changed."""


class InvalidShadowUpdate(InvalidInput):
    """A shadow update is not well formed, or is nested too deeply."""


class InvalidFirmware(InvalidInput):
    """A firmware image must not be given to a device."""

    def __init__(self, message: str, *, device_words: str = "Malformed archive") -> None:
        super().__init__(message)
        self.device_words = device_words
        """The words of Mongoose OS for such an image. They say less than this error, but its users know them."""


class InvalidSetting(InvalidInput, ValueError):
    """A limit or another setting makes no sense: it is negative, zero, NaN, or of a wrong type. The text names it."""


class TooLarge(MdashError):
    """There are more bytes than the limit, which the text names."""


class UnsupportedContent(MdashError):
    """The body is in a form that cannot be read here, such as an unknown content coding."""


class Unauthenticated(MdashError):
    """Credentials are missing, unknown or revoked. The text never says which."""


class Forbidden(MdashError):
    """The account is known, and may not do this."""


class NotFound(MdashError):
    """The object does not exist, or belongs to another account. The error does not say which."""


class Conflict(MdashError):
    """The request does not fit the present state. Nothing was changed."""


class AlreadyExists(Conflict):
    """The id is taken."""


class ShadowConflict(Conflict):
    """The version given with a shadow update is not the current one."""


class PreconditionFailed(MdashError):
    """A condition that the request makes does not hold. Nothing was changed."""


class Busy(MdashError):
    """A bound is reached. Nothing was done, and trying again later can succeed."""

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds to wait before the next try."""


class LimitReached(Busy):
    """The account has as much as it may have. Nothing was done; trying again helps only after it has less.

    `retry_after` is 0 if time alone does not change that.
    """

    def __init__(self, limit: str, message: str, *, retry_after: float = 0.0) -> None:
        super().__init__(message, retry_after=retry_after)
        self.limit = limit
        """The name of the limit: a field of `mdashcore.hub.limits.AccountLimits`."""


class Overloaded(Busy):
    """The process has no room, whichever account asks. Nothing was done, and trying again later can succeed."""


class ShuttingDown(Busy):
    """The process is shutting down. Another process, or this one after its next start, will serve the client."""


class InsufficientStorage(MdashError):
    """The disk is almost full, and the room that is left is kept for the reports of devices. Nothing was stored."""


class StorageError(MdashError):
    """The storage backend failed. The `__cause__` is the error of its own library."""


class Damaged(StorageError):
    """A stored object cannot be read, and trying again never helps. The text names the object."""


class VersionConflict(StorageError):
    """A compare-and-set found another version than it expected. Nothing was written."""

    def __init__(self, collection: str, key: str, *, expected: int, actual: int) -> None:
        super().__init__(f"{collection}/{key}: expected version {expected}, found {actual}")
        self.expected = expected
        self.actual = actual
        """The version found; 0 if there is no document."""


STORAGE_UNAVAILABLE: Final = "the storage is not available"
"""The text of a `StorageError` for clients: its own exposes internals. A client knows the error by it."""


STATUS: Final[Mapping[type[MdashError], int]] = MappingProxyType(
    {
        InvalidInput: 400,
        Unauthenticated: 401,
        Forbidden: 403,
        NotFound: 404,
        Conflict: 409,
        PreconditionFailed: 412,
        TooLarge: 413,
        UnsupportedContent: 415,
        RpcError: 422,  # the request was understood, and the device refused; 502 and 500 mean broken servers
        Busy: 429,
        Overloaded: 503,
        ShuttingDown: 503,
        ProtocolError: 400,
        InvalidAnswer: 502,  # not 503 (offline) and not 504 (too late): the device answers, but in a wrong form
        DeviceOffline: 503,
        Damaged: 500,
        StorageError: 503,
        InsufficientStorage: 507,
        CallTimeout: 504,
        MdashError: 500,
    }
)
"""The HTTP status of every error: that of its nearest class in this table. Devices get the same number as the
code of a JSON-RPC error, because Mongoose OS itself uses HTTP's numbers there.
"""


def status_of(error: MdashError) -> int:
    """Return the HTTP status of an error, from `STATUS`."""
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)
