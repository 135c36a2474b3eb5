"""mdashcore: JSON-RPC sessions, device shadows and firmware updates, without I/O.

This package's top level is the sans-IO core. Importing it loads no event loop, socket or web framework:

* `Connection` is one live JSON-RPC peer: bytes in, events out;
* `Shadow` is a device's state, desired and reported, as a value with pure functions;
* `ota.Update` is a firmware update as a value, moved on by a table;
* `storage` is the contract for backends.

`mdashcore.hub` makes a service of them on any event loop, `mdashcore.trio` runs it on Trio, and
`mdashcore.server` puts REST and a gateway around it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

from mdashcore._errors import (
    AlreadyExists,
    AnswerTooLarge,
    Busy,
    CallTimeout,
    Conflict,
    Damaged,
    DeviceOffline,
    Forbidden,
    InsufficientStorage,
    InvalidAnswer,
    InvalidFirmware,
    InvalidInput,
    InvalidSetting,
    InvalidShadowUpdate,
    LimitReached,
    LocalProtocolError,
    MdashError,
    NotFound,
    Overloaded,
    PreconditionFailed,
    ProtocolError,
    RemoteProtocolError,
    RpcError,
    ShadowConflict,
    ShuttingDown,
    StorageError,
    TooLarge,
    Unauthenticated,
    UnsupportedContent,
    VersionConflict,
)

if TYPE_CHECKING:
    from mdashcore import firmware, jsonrpc, ota, storage
    from mdashcore._connection import Connection
    from mdashcore._connection_limits import ConnectionLimits
    from mdashcore._events import (
        CallTimedOut,
        ConnectionClosed,
        Event,
        FrameRejected,
        NotificationReceived,
        RequestReceived,
        ResponseReceived,
    )
    from mdashcore.identity import DeviceKey
    from mdashcore.notifications import Notification
    from mdashcore.shadow import Shadow
else:  # hidden from type checkers, because it would make them accept any name

    def __getattr__(name: str) -> object:
        """Import a name when it is first used, so that a program does not wait for what it does not use."""
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = import_module(f"{__name__}.{_PLACES[name]}")
        found = globals()[name] = module if name == _PLACES[name] else getattr(module, name)
        return found


_PLACES: Final = {
    "Connection": "_connection",
    "ConnectionLimits": "_connection_limits",
    "CallTimedOut": "_events",
    "ConnectionClosed": "_events",
    "Event": "_events",
    "FrameRejected": "_events",
    "NotificationReceived": "_events",
    "RequestReceived": "_events",
    "ResponseReceived": "_events",
    "DeviceKey": "identity",
    "Notification": "notifications",
    "Shadow": "shadow",
    "firmware": "firmware",
    "jsonrpc": "jsonrpc",
    "ota": "ota",
    "storage": "storage",
}
"""The module of each name that is imported when it is first used."""


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__version__ = "0.1.0"

__all__ = [
    "AlreadyExists",
    "AnswerTooLarge",
    "Busy",
    "CallTimedOut",
    "CallTimeout",
    "Conflict",
    "Connection",
    "ConnectionClosed",
    "ConnectionLimits",
    "Damaged",
    "DeviceKey",
    "DeviceOffline",
    "Event",
    "Forbidden",
    "FrameRejected",
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
    "Notification",
    "NotificationReceived",
    "Overloaded",
    "PreconditionFailed",
    "ProtocolError",
    "RemoteProtocolError",
    "RequestReceived",
    "ResponseReceived",
    "RpcError",
    "Shadow",
    "ShadowConflict",
    "ShuttingDown",
    "StorageError",
    "TooLarge",
    "Unauthenticated",
    "UnsupportedContent",
    "VersionConflict",
    "firmware",
    "jsonrpc",
    "ota",
    "storage",
]
