"""The schema of a store: every collection of documents, with the type of its records, in one place.

A collection keeps the form of its documents across versions: a field that is added has a default, and a field that is
no longer needed is ignored when it is read. Backups, `store check` and the documentation read `COLLECTIONS`.
"""

from __future__ import annotations

from typing import Any, Final

import attrs
import msgspec

from mdashcore.firmware_entry import FirmwareEntry
from mdashcore.hub.records.store import Collection
from mdashcore.identity import Account, ApiKey, Device
from mdashcore.job import Job, JobPiece
from mdashcore.ota import Update, UpdateState
from mdashcore.rollout import Member, Rollout
from mdashcore.shadow import Shadow

__all__ = [
    "ACCOUNTS",
    "ADMINS",
    "COLLECTIONS",
    "DEVICES",
    "FIRMWARE",
    "JOBS",
    "JOB_MARKS",
    "JOB_PIECES",
    "KEYS",
    "KEY_OWNERS",
    "NODES",
    "PRESENCE",
    "ROLLOUTS",
    "ROLLOUT_MEMBERS",
    "ROLLOUT_ROSTERS",
    "SAVED_FILTERS",
    "SESSIONS",
    "SHADOWS",
    "TOKEN_OWNERS",
    "UPDATES",
    "UPDATE_HISTORIES",
    "USAGE",
    "AdminRoster",
    "BrowserSession",
    "FilterRecord",
    "History",
    "JobMark",
    "KeyOwner",
    "NodeRecord",
    "PastUpdate",
    "PresenceRecord",
    "Roster",
    "TokenOwner",
    "UsageRecord",
    "admin_entry",
]

MAX_PAST: Final = 20  # ended updates kept of a device, newest first: a year of them, in 8 KB


@attrs.frozen
class KeyOwner:
    """An entry in the index of secrets: the place of the key."""

    account: str
    id: str


@attrs.frozen
class TokenOwner:
    """An entry in the index of tokens: the place of the device."""

    account: str
    id: str


@attrs.frozen
class AdminRoster:
    """The accounts that are admins, each as ``NAME/ID``."""

    admins: list[str]
    leaving: list[str] = attrs.field(factory=list)
    """Accounts whose removal has begun. None of them can become an admin, because it will be gone soon."""

    def has(self, account: Account) -> bool:
        """Return whether the account is an admin."""
        return admin_entry(account) in self.admins


def admin_entry(account: Account) -> str:
    """Return the entry of an account in the roster."""
    return f"{account.name}/{account.id}"


@attrs.frozen
class UsageRecord:
    """The part of its limits that an account uses in the store."""

    devices: int = 0
    keys: int = 0
    image_bytes: int = 0
    """Bytes of complete images."""
    arriving: dict[str, int] = attrs.field(factory=dict)
    """Bytes reserved for images that are being uploaded, by the blob's key."""
    firmware: int = 0
    """Images in the library."""

    def with_(self, what: str, number: int) -> UsageRecord:
        """Return a copy with another number of `what`."""
        changes: dict[str, Any] = {what: number}
        return attrs.evolve(self, **changes)

    @property
    def all_image_bytes(self) -> int:
        """Bytes of complete images and of those that are being uploaded."""
        return self.image_bytes + sum(self.arriving.values())


@attrs.frozen
class BrowserSession:
    """A session of an account. Only the browser has its secret."""

    account: str
    id: str
    """Public id of the session. Subscribers use it to close their sockets when the session ends."""
    hash: str
    credential: str
    """`Account.credential` when the session was opened."""
    created_at: float
    """Unix seconds."""
    used_at: float
    """Unix seconds, late by `SESSION_TOUCH` at most."""


@attrs.frozen
class NodeRecord:
    """A node that runs, or ran until a moment ago."""

    seen: float
    """Unix seconds of the newest sign of life. It is for people; no node decides by it."""


@attrs.frozen
class PresenceRecord:
    """Whether a device is connected."""

    session: int = 0
    """Number of connections that the device has had."""

    node: str | None = None
    """The node that holds the connection, or `None` if the device is offline."""

    since: float | None = None
    """Unix seconds of the last change between online and offline."""

    last_seen: float | None = None
    """Unix seconds of the newest sign of the device, as known when the record was written."""

    @property
    def online(self) -> bool:
        """Whether the device is connected to a node."""
        return self.node is not None


@attrs.frozen
class PastUpdate:
    """The summary of an update that has ended."""

    id: str
    state: UpdateState
    reason: str
    created: float
    started: float | None
    ended: float
    name: str
    """The name of the image."""
    version: str | None
    build_id: str | None
    size: int

    @classmethod
    def of(cls, update: Update) -> PastUpdate:
        image = update.image
        return cls(
            update.id,
            update.state,
            update.reason,
            update.created,
            update.started,
            update.changed,
            image.name,
            image.version,
            image.build_id,
            image.size,
        )


@attrs.frozen
class History:
    """The updates of a device that have ended, the newest first."""

    past: tuple[PastUpdate, ...] = ()

    def with_(self, update: Update) -> History:
        """Return a copy with an update that has ended, or this very object if it has that update already."""
        if any(past.id == update.id for past in self.past):
            return self
        return History((PastUpdate.of(update), *self.past)[:MAX_PAST])

    @property
    def took_zips(self) -> bool:
        """Whether the device runs an image from a firmware zip, as far as is known."""
        newest = next((past for past in self.past if past.state is UpdateState.COMMITTED), None)
        return newest is not None and newest.build_id is not None

    def describe(self) -> list[dict[str, Any]]:
        """Return the updates as plain values."""
        return [attrs.asdict(past) for past in self.past]


@attrs.frozen
class Roster:
    """A piece of a rollout's devices, in order."""

    devices: tuple[str, ...]


@attrs.frozen
class JobMark:
    """A sign that the pieces of a job are being written or removed."""

    pieces: int | None = None
    """Their number; `None` if it is not known."""


@attrs.frozen
class FilterRecord:
    """The saved filters of an account."""

    lines: dict[str, str]
    """Each filter on one line, by its name."""


ACCOUNTS: Final = Collection("accounts", Account, key="ACCOUNT", holds="an account with its password's hash")
ADMINS: Final = Collection("admins", AdminRoster, key="roster", holds="the accounts that are admins")
KEYS: Final = Collection("keys", ApiKey, key="ACCOUNT/KEY", holds="an API key with its secret's hash")
KEY_OWNERS: Final = Collection("key_owners", KeyOwner, key="HASH", holds="where the key with this secret is")
DEVICES: Final = Collection("devices", Device, key="ACCOUNT/DEVICE", holds="a device with its token's hash")
TOKEN_OWNERS: Final = Collection("token_owners", TokenOwner, key="HASH", holds="where the device with this token is")
PRESENCE: Final = Collection("presence", PresenceRecord, key="ACCOUNT/DEVICE", holds="whether the device is connected")
SHADOWS: Final = Collection(
    "shadows",
    Shadow,
    load=Shadow.from_stored,
    dump=lambda shadow: msgspec.Raw(shadow.to_stored_json()),
    key="ACCOUNT/DEVICE",
    holds="the device's shadow",
)
FIRMWARE: Final = Collection("firmware", FirmwareEntry, key="ACCOUNT/IMAGE", holds="an image in the library")
UPDATES: Final = Collection(
    "updates", Update, load=Update.from_stored, dump=Update.to_stored, key="ACCOUNT/DEVICE", holds="the newest update"
)
UPDATE_HISTORIES: Final = Collection(
    "update_histories", History, key="ACCOUNT/DEVICE", holds="the updates that have ended, in short"
)
ROLLOUTS: Final = Collection(
    "rollouts", Rollout, load=Rollout.from_stored, dump=Rollout.to_stored, key="ACCOUNT/ROLLOUT", holds="a rollout"
)
ROLLOUT_ROSTERS: Final = Collection(
    "rollout_rosters", Roster, key="ACCOUNT/ROLLOUT/PIECE", holds="the ids of a thousand devices of the rollout"
)
ROLLOUT_MEMBERS: Final = Collection(
    "rollout_members", Member, key="ACCOUNT/ROLLOUT/DEVICE", holds="how the rollout goes on that device"
)
JOBS: Final = Collection("jobs", Job, load=Job.from_stored, dump=Job.to_stored, key="ACCOUNT/JOB", holds="a job")
JOB_MARKS: Final = Collection(
    "job_marks", JobMark, key="ACCOUNT/JOB", holds="that the results of the job are being created or removed"
)
JOB_PIECES: Final = Collection(
    "job_pieces",
    JobPiece,
    load=JobPiece.from_stored,
    dump=lambda piece: piece,
    key="ACCOUNT/JOB/PIECE",
    holds="the results of 128 devices of the job",
)
SAVED_FILTERS: Final = Collection(
    "saved_filters", FilterRecord, key="ACCOUNT", holds="the saved filters of the account"
)
USAGE: Final = Collection(
    "usage", UsageRecord, key="ACCOUNT", holds="how much of its limits the account uses", exported=False
)
SESSIONS: Final = Collection(
    "sessions", BrowserSession, key="ACCOUNT/HASH", holds="a login of a browser", exported=False
)
NODES: Final = Collection("nodes", NodeRecord, key="NODE", holds="the sign of life of a server process", exported=False)

COLLECTIONS: Final[dict[str, Collection[Any]]] = {
    collection.name: collection
    for collection in (
        ACCOUNTS,
        ADMINS,
        KEYS,
        KEY_OWNERS,
        DEVICES,
        TOKEN_OWNERS,
        PRESENCE,
        SHADOWS,
        FIRMWARE,
        UPDATES,
        UPDATE_HISTORIES,
        ROLLOUTS,
        ROLLOUT_ROSTERS,
        ROLLOUT_MEMBERS,
        JOBS,
        JOB_MARKS,
        JOB_PIECES,
        SAVED_FILTERS,
        USAGE,
        SESSIONS,
        NODES,
    )
}
"""Every collection by its name, in the order of an export: a document that refers to another one comes after it."""
