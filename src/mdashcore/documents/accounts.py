"""Keys, users, sessions, limits, stored notifications, and the service itself."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired, Required, TypedDict

from mdashcore.documents._members import AccountName, DamagedParts, Label, Password, member

__all__ = [
    "AccountUse",
    "AllLimits",
    "CreatedKey",
    "DiskDocument",
    "HealthDocument",
    "KeyDocument",
    "LimitDocument",
    "LimitsDocument",
    "Login",
    "Logout",
    "LogsQuery",
    "MeDocument",
    "NewKey",
    "NewUser",
    "NotificationDocument",
    "NotifyQuery",
    "PasswordChange",
    "ServiceDocument",
    "SessionDocument",
    "UsedLimit",
    "UserChange",
    "UserDocument",
]


class KeyDocument(TypedDict):
    """An API key, without its secret."""

    id: str
    name: str
    created_at: str | None
    last_used: Annotated[str | None, member("may be an hour too early; `null` is never")]
    damaged: NotRequired[DamagedParts]


class CreatedKey(KeyDocument):
    """A key that was just made."""

    key: Annotated[str, member("the key, which is shown this once")]


class NewKey(TypedDict, total=False):
    """A key to make."""

    name: Annotated[Label, member("optional text of at most 256 characters", "")]


class NotificationDocument(TypedDict):
    """A notification."""

    name: Annotated[str, member("what happened: `online`, `rpc.in.METHOD`, `ota.STATE`, …")]
    id: Annotated[str, member("the device's id, or the rollout's")]
    data: NotRequired[Any]
    offset: Annotated[int, member("its place in the account's log", ge=0)]
    time: Annotated[float, member("Unix seconds")]


class LogsQuery(TypedDict, total=False):
    """The selection of stored notifications."""

    start: Annotated[int, member("the smallest offset wanted", 0, ge=0, le=2**63 - 1)]
    before: Annotated[
        int,
        member(
            "only smaller offsets, and of those the newest ones; a number beyond the end means the newest of all",
            ge=0,
            le=2**63 - 1,
        ),
    ]
    limit: Annotated[int, member("how many at most", 100, ge=1, le=1000)]
    id: Annotated[str | None, member("only of this device")]
    name: Annotated[str | None, member("only of this name; or of names that begin so, with `*` at the end: `rpc.in.*`")]


LogSearchQuery = TypedDict(
    "LogSearchQuery",
    {
        "text": Annotated[
            str, member("a part of the name, of the id, or of the data, in any case; up to 256 characters", "")
        ],
        "id": Annotated[str, member("only of this device")],
        "name": Annotated[
            str,
            member(
                "only of this name, or with `*` at the end of names that begin so; several with a bar between: "
                "`online|offline`"
            ),
        ],
        "from": Annotated[str, member("not before this time, as Unix seconds or RFC 3339")],
        "to": Annotated[str, member("not after this time")],
        "before": Annotated[int, member("`next` of the answer before", ge=0, le=2**53)],
        "limit": Annotated[int, member("how many at most", 100, ge=1, le=1000)],
    },
    total=False,
)
LogSearchQuery.__doc__ = """The parameters of a search in the stored notifications."""


class FoundNotificationsDocument(TypedDict):
    """A part of a search."""

    notifications: Annotated[list[NotificationDocument], member("those that were found, the oldest first")]
    next: Annotated[int | None, member("where to go on, by `before`; `null`: all that is kept was searched")]
    reached: Annotated[
        float | None, member("Unix seconds of the oldest notification that was checked; `null` if none was")
    ]
    checked: Annotated[int, member("the number of notifications that were checked")]


class NotifyQuery(TypedDict, total=False):
    """The parameters of a stream of notifications."""

    start: Annotated[
        int, member("the offset of the first notification; without it, only new ones are sent", ge=0, lt=10**18)
    ]


class MeDocument(TypedDict):
    """The user of a request."""

    name: str
    admin: Annotated[bool, member("whether this request may manage users")]


class UserDocument(TypedDict):
    """A user."""

    name: str
    admin: bool
    created_at: str | None
    removing: NotRequired[Annotated[bool, member("`true`: it is half removed")]]
    damaged: NotRequired[DamagedParts]


class NewUser(TypedDict, total=False):
    """A user to create."""

    name: Required[
        Annotated[AccountName, member("1 to 64 characters of `A-Z a-z 0-9 . _ @ + -`, a letter or digit first")]
    ]
    password: Required[Annotated[Password, member("at most 1024 characters")]]
    admin: Annotated[bool | None, member("whether it may manage users", False)]


class UserChange(TypedDict, total=False):
    """What changes of a user."""

    password: Required[Annotated[Password, member("the new password, at most 1024 characters")]]
    admin: Annotated[bool | None, member("whether it may manage users; as before if not given")]


class PasswordChange(TypedDict):
    """A change of one's own password."""

    old: Annotated[str, member("the password so far")]
    new: Annotated[Password, member("the new one, at most 1024 characters")]


class Login(TypedDict):
    """A login."""

    user: Annotated[str, member("the user's name")]
    password: Annotated[str, member("the user's password")]


class Logout(TypedDict, total=False):
    """The end of a session."""

    everywhere: Annotated[bool, member("end all sessions of the account", False)]


class SessionDocument(TypedDict):
    """The user that is logged in, and what a page of theirs begins with."""

    user: Annotated[str | None, member("`null` without a login")]
    admin: bool
    devices: Annotated[int | None, member("the number of the account's devices; `null` without a login")]
    log_end: Annotated[
        int | None,
        member("the offset of the account's next notification, for `/notify?start=`; `null` without a login"),
    ]


class LimitDocument(TypedDict):
    """A limit of accounts."""

    name: str
    limit: int
    per: Annotated[
        str,
        member("`service`, however many servers share the store, or `process`", pattern="^(service|process)$"),
    ]


class UsedLimit(LimitDocument):
    """A limit, and an account's use of it."""

    use: Annotated[int, member("for `per` `process`, that of the server that answers")]


class LimitsDocument(TypedDict):
    """The limits of an account."""

    name: str
    limits: list[UsedLimit]


class AccountUse(TypedDict):
    """An account's use of each limit."""

    name: str
    use: dict[str, int]


class DiskDocument(TypedDict):
    """The store's disk, in bytes."""

    free: Annotated[int | None, member("`null` where the storage does not know")]
    floor: Annotated[int, member("below it images are refused")]


class AllLimits(TypedDict):
    """The limits, and the use of every account."""

    limits: list[LimitDocument]
    accounts: list[AccountUse]
    disk: DiskDocument


class ServiceDocument(TypedDict):
    """The service."""

    name: str
    version: str
    api: Annotated[str, member("the path of the API")]
    health: Annotated[str, member("the path of the health check")]
    openapi: Annotated[str, member("the path of the description of the API")]


class ReadinessChecks(TypedDict):
    """The parts of the service, each with whether it is ready."""

    store: Annotated[bool, member("whether the store answers within three seconds")]
    cluster: Annotated[bool, member("whether the other servers on the store take this one for alive")]
    accepting: Annotated[bool, member("whether the server is not shutting down")]


class ReadinessDocument(TypedDict):
    """Whether the service should get requests."""

    status: Annotated[str, member("`ready` or `not ready`")]
    checks: ReadinessChecks


class HealthDocument(TypedDict):
    """The state of the service."""

    status: str
