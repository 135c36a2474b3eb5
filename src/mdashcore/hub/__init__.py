"""The device service on any event loop: it awaits the storage protocols, and its writers await each other's turns.

A `Hub` knows accounts, devices, shadows, updates and notifications. It holds no connection. A holder of connections
(a `Node` of `mdashcore.trio`, or an embedder's own server) registers as a `HubObserver`, and the hub calls its methods
when something changes that concerns connections.
"""

from mdashcore.hub.accounts import Accounts, CreatedApiKey
from mdashcore.hub.device_list import DeviceList, ListedDevice
from mdashcore.hub.device_session import DeviceSession
from mdashcore.hub.feed import Feed, FeedItem, LogQuery
from mdashcore.hub.hub import Hub
from mdashcore.hub.images import Images
from mdashcore.hub.jobs.preview import JobPreview
from mdashcore.hub.jobs.service import Jobs
from mdashcore.hub.leases import Leases
from mdashcore.hub.limits import AccountLimits
from mdashcore.hub.maintenance.retention import Retention
from mdashcore.hub.observer import HubObserver
from mdashcore.hub.presence import Presence, PresenceClaim
from mdashcore.hub.records.contention import Signal
from mdashcore.hub.records.schema import BrowserSession, PresenceRecord, UsageRecord
from mdashcore.hub.registry import CreatedDevice, Registry
from mdashcore.hub.rollouts.service import Rollouts
from mdashcore.hub.sessions import CreatedSession, Sessions
from mdashcore.hub.shadows import Shadows
from mdashcore.hub.updates.performer import DeviceCaller, UpdatePerformer
from mdashcore.hub.updates.service import Updates
from mdashcore.hub.updates.store import blob_key
from mdashcore.hub.usage import Usage
from mdashcore.identity import Account, ApiKey, Device, DeviceKey

__all__ = [
    "Account",
    "AccountLimits",
    "Accounts",
    "ApiKey",
    "BrowserSession",
    "CreatedApiKey",
    "CreatedDevice",
    "CreatedSession",
    "Device",
    "DeviceCaller",
    "DeviceKey",
    "DeviceList",
    "DeviceSession",
    "Feed",
    "FeedItem",
    "Hub",
    "HubObserver",
    "Images",
    "JobPreview",
    "Jobs",
    "Leases",
    "ListedDevice",
    "LogQuery",
    "Presence",
    "PresenceClaim",
    "PresenceRecord",
    "Registry",
    "Retention",
    "Rollouts",
    "Sessions",
    "Shadows",
    "Signal",
    "UpdatePerformer",
    "Updates",
    "Usage",
    "UsageRecord",
    "blob_key",
]
