"""What a store holds: every collection of documents, with the type of its records, in one place.

A collection keeps the form of its documents across versions: a field that is added has a default, one that is no longer
needed is ignored when it is read. `COLLECTIONS` is read by backups, by `store check` and by the documentation.
"""

from __future__ import annotations

from typing import Any, Final

import attrs

from mdashcore.hub.records.store import Collection
from mdashcore.identity import Account, ApiKey, Device
from mdashcore.ota import State, Update
from mdashcore.rollout import Member, Rollout
from mdashcore.shadow import Shadow

__all__ = [
    "ACCOUNTS",
    "ADMINS",
    "COLLECTIONS",
    "DEVICES",
    "KEYS",
    "KEY_OWNERS",
    "NODES",
    "PRESENCE",
    "ROLLOUTS",
    "ROLLOUT_MEMBERS",
    "ROLLOUT_ROSTERS",
    "SESSIONS",
    "SHADOWS",
    "TOKEN_OWNERS",
    "UPDATES",
    "UPDATE_HISTORIES",
    "USAGE",
    "AccountUse",
    "AdminRoster",
    "BrowserSession",
    "History",
    "KeyOwner",
    "NodeRecord",
    "PastUpdate",
    "PresenceRecord",
    "Roster",
    "TokenOwner",
    "admin_entry",
]

MAX_PAST: Final = 20  # ended updates kept of a device, newest first: a year of them, in 8 KB


@attrs.frozen
class KeyOwner:
    """What the index of secrets knows: where the key is."""

    account: str
    id: str


@attrs.frozen
class TokenOwner:
    """What the index of tokens knows: where the device is."""

    account: str
    id: str


@attrs.frozen
class AdminRoster:
    """The accounts that are admins, each as ``NAME/ID``."""

    admins: list[str]
    leaving: list[str] = attrs.field(factory=list)
    """Accounts whose removal has begun: none of them becomes an admin, on whom others would then rely."""

    def has(self, account: Account) -> bool:
        """Whether the account is an admin."""
        return admin_entry(account) in self.admins


def admin_entry(account: Account) -> str:
    """Return the entry of an account in the roster."""
    return f"{account.name}/{account.id}"


@attrs.frozen
class AccountUse:
    """What an account has in the store."""

    devices: int = 0
    keys: int = 0
    image_bytes: int = 0
    """Of whole images."""
    arriving: dict[str, int] = attrs.field(factory=dict)
    """Bytes that are kept free for images on their way into the store, by the blob's key."""

    def with_(self, what: str, number: int) -> AccountUse:
        """The same with another number of `what`."""
        changes: dict[str, Any] = {what: number}
        return attrs.evolve(self, **changes)

    @property
    def all_image_bytes(self) -> int:
        """Those that are here and those that arrive."""
        return self.image_bytes + sum(self.arriving.values())


@attrs.frozen
class BrowserSession:
    """A session of an account. Its secret is with the browser only."""

    account: str
    id: str
    """Public id of the session. Subscribers use it to close their sockets when the session ends."""
    hash: str
    credential: str
    """`Account.credential` when the session was opened."""
    created_at: float
    """Unix seconds."""
    used_at: float
    """Unix seconds, late by `TOUCH` at most."""


@attrs.frozen
class NodeRecord:
    """A node that runs, or did until a moment ago."""

    seen: float
    """Unix seconds of the newest sign of life, for people: nobody decides by it."""


@attrs.frozen
class PresenceRecord:
    """Whether a device is connected."""

    session: int = 0
    """Counts the device's connections."""

    node: str | None = None
    """The node that holds the connection; None while there is none."""

    since: float | None = None
    """Unix seconds of the last change between online and offline."""

    last_seen: float | None = None
    """Unix seconds when the device was last heard of, as known when the record was written."""

    @property
    def online(self) -> bool:
        return self.node is not None


@attrs.frozen
class PastUpdate:
    """An update that has ended, in short."""

    id: str
    state: State
    reason: str
    created: float
    started: float | None
    ended: float
    name: str
    """Of the image."""
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
        """The same with an update that has ended; the very same object if that is in it already."""
        if any(past.id == update.id for past in self.past):
            return self
        return History((PastUpdate.of(update), *self.past)[:MAX_PAST])

    @property
    def took_zips(self) -> bool:
        """Whether the device runs what came in a firmware zip, as far as is known."""
        newest = next((past for past in self.past if past.state is State.COMMITTED), None)
        return newest is not None and newest.build_id is not None

    def describe(self) -> list[dict[str, Any]]:
        """Return the updates as plain values."""
        return [attrs.asdict(past) for past in self.past]


@attrs.frozen
class Roster:
    """A piece of a rollout's devices, in order."""

    devices: tuple[str, ...]


ACCOUNTS: Final = Collection("accounts", Account, key="ACCOUNT", holds="an account with its password's hash")
ADMINS: Final = Collection("admins", AdminRoster, key="roster", holds="the accounts that are admins")
KEYS: Final = Collection("keys", ApiKey, key="ACCOUNT/KEY", holds="an API key with its secret's hash")
KEY_OWNERS: Final = Collection("key_owners", KeyOwner, key="HASH", holds="where the key with this secret is")
DEVICES: Final = Collection("devices", Device, key="ACCOUNT/DEVICE", holds="a device with its token's hash")
TOKEN_OWNERS: Final = Collection("token_owners", TokenOwner, key="HASH", holds="where the device with this token is")
PRESENCE: Final = Collection("presence", PresenceRecord, key="ACCOUNT/DEVICE", holds="whether the device is connected")
SHADOWS: Final = Collection(
    "shadows", Shadow, load=Shadow.from_stored, dump=Shadow.to_stored, key="ACCOUNT/DEVICE", holds="the device's shadow"
)
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
USAGE: Final = Collection(
    "usage", AccountUse, key="ACCOUNT", holds="how much of its limits the account uses", exported=False
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
        UPDATES,
        UPDATE_HISTORIES,
        ROLLOUTS,
        ROLLOUT_ROSTERS,
        ROLLOUT_MEMBERS,
        USAGE,
        SESSIONS,
        NODES,
    )
}
"""Every collection by its name, in the order of an export: what points to something comes after it."""
