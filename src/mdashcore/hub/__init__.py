"""What the service does, on any event loop: it awaits the storage protocols, and where writers meet, each other.

A `Hub` knows accounts, devices, shadows, updates and notifications. It holds no connection: a holder of connections
(a `Node` of `mdashcore.trio`, or an embedder's own server) registers as a `HubObserver` and is notified of what
concerns it.
"""

from mdashcore.hub.accounts import CreatedKey
from mdashcore.hub.device_session import DeviceSession
from mdashcore.hub.feed import FeedItem, LogQuery
from mdashcore.hub.hub import Hub, HubObserver
from mdashcore.hub.limits import AccountLimits
from mdashcore.hub.records.contention import Signal
from mdashcore.hub.records.schema import PresenceRecord
from mdashcore.hub.registry import CreatedDevice
from mdashcore.hub.updates.performer import DeviceCaller
from mdashcore.identity import Device, DeviceKey

__all__ = [
    "AccountLimits",
    "CreatedDevice",
    "CreatedKey",
    "Device",
    "DeviceCaller",
    "DeviceKey",
    "DeviceSession",
    "FeedItem",
    "Hub",
    "HubObserver",
    "LogQuery",
    "PresenceRecord",
    "Signal",
]
