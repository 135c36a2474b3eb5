"""Who may do what: accounts, their devices and API keys, and the secrets that prove it.

Randomness comes in as an argument, secrets go out once: what is kept is a SHA-256 digest. A fast hash is
right here, and only here, because a token has 256 random bits, which nobody can search; a password has not,
and is hashed by Argon2id at the edge of the server.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Final

import attrs

from mdashcore._errors import InvalidInput, NotFound, Unauthenticated

__all__ = [
    "ENTROPY_BYTES",
    "Account",
    "ApiKey",
    "Device",
    "DeviceKey",
    "check_account_name",
    "check_device_id",
    "check_label",
    "check_secret",
    "hash_token",
    "is_key",
    "make_id",
    "make_token",
]

ENTROPY_BYTES: Final = 32  # 256 bits

DEVICE_PREFIX: Final = "mdd"
KEY_PREFIX: Final = "mdk"
SESSION_PREFIX: Final = "mds"

MAX_LABEL: Final = 256  # characters of a name for people: longer ones are pasted by mistake

MAX_SHOWN: Final = 128  # characters of an id that an error repeats: no id is longer

_KEY = re.compile(r"mdk_[A-Za-z0-9_-]{43}", re.ASCII)

_ACCOUNT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}", re.ASCII)  # no ":": HTTP Basic ends a name there
_DEVICE_ID = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._~:@+=-]{1,128}", re.ASCII)  # stands in a URL path as it is

_SURROGATE = re.compile("[\ud800-\udfff]")  # half a character: neither UTF-8 nor JSON can hold it


@attrs.frozen
class Account:
    """A user, and the border of everything that is theirs."""

    name: str
    password_hash: str
    """Argon2id, in PHC string format."""
    admin: bool
    """May manage the accounts; sees nothing of their devices. In the store a copy: the roster of admins decides."""
    created_at: float
    """Unix seconds."""
    removing: bool = False
    """Its removal has begun: nobody logs in, and nobody else gets the name before everything of it is gone."""
    rehashed_from: str = ""
    """The `credential` of before, where the hash of an unchanged password was made anew."""

    id: str = ""
    """Tells it from an earlier or a later account of its name; empty for accounts of older versions."""

    @property
    def credential(self) -> str:
        """What changes with the password, and only with it. No secret opens anything with it."""
        return self.rehashed_from or hash_token(self.password_hash)


@attrs.frozen
class DeviceKey:
    """The one name of a device in a service: its account, and its id within that account.

    ``str(key)`` is the form that stores know, and `parse` reads it.

    Raises:
        InvalidInput: no account has such a name, or no device such an id.

    >>> str(DeviceKey("alice", "lamp"))
    'alice/lamp'
    """

    account: str
    id: str

    def __attrs_post_init__(self) -> None:
        check_account_name(self.account)
        check_device_id(self.id)

    def __str__(self) -> str:
        return f"{self.account}/{self.id}"

    @classmethod
    def parse(cls, text: str) -> DeviceKey:
        """Read what ``str(key)`` has written. Raises `InvalidInput`.

        >>> DeviceKey.parse("alice/lamp")
        DeviceKey(account='alice', id='lamp')
        """
        account, _, id = text.partition("/")
        return cls(account, id)

    @classmethod
    def find(cls, account: str, id: str) -> DeviceKey:
        """Make the key of a device that is asked for. Raises `NotFound` where none can have this name."""
        try:
            return cls(account, id)
        except InvalidInput:
            raise NotFound(f"no device {id[:MAX_SHOWN]!r}") from None


@attrs.frozen
class Device:
    """A registered device. Its id is unique within its account only."""

    account: str
    id: str
    name: str
    token_hash: str
    """Empty from when the device's removal begins: no token has it."""
    created_at: float
    """Unix seconds."""
    delta_limit: int | None = None
    """Bytes of the largest frame with a delta that it is sent; 0: any; None: that of its platform, if there is one."""

    @property
    def key(self) -> DeviceKey:
        """Its name in the service."""
        return DeviceKey(self.account, self.id)


@attrs.frozen
class ApiKey:
    """A key that acts for its account."""

    account: str
    id: str
    name: str
    hash: str
    created_at: float
    """Unix seconds."""
    used_at: float | None = None
    """Unix seconds, late by an hour at most; None: never."""


def make_token(prefix: str, entropy: bytes) -> str:
    """A secret: the prefix tells people, and scanners of leaked secrets, what it is.

    >>> make_token("mdd", bytes(32))
    'mdd_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'
    """
    if len(entropy) != ENTROPY_BYTES:
        raise InvalidInput(f"a token is made of {ENTROPY_BYTES} random bytes")
    return f"{prefix}_{base64.urlsafe_b64encode(entropy).rstrip(b'=').decode()}"


def is_key(secret: str) -> bool:
    """Whether a secret has the form of an API key, as `make_token` makes it; also one that was never issued.

    >>> is_key(make_token("mdk", bytes(32))), is_key("mdk_short"), is_key("a password")
    (True, False, False)
    """
    return _KEY.fullmatch(secret) is not None


def make_id(prefix: str, entropy: bytes) -> str:
    """An identifier that is no secret: 60 bits, written in base 32.

    >>> make_id("dev", bytes(8))
    'dev_aaaaaaaaaaaa'
    """
    if len(entropy) < 8:
        raise InvalidInput("an identifier is made of at least 8 random bytes")
    return f"{prefix}_{base64.b32encode(entropy)[:12].decode().lower()}"


def check_secret(secret: object) -> str:
    """Return the secret, if it can be one. Raises `Unauthenticated` for what is no text: `None`, or bytes."""
    if not isinstance(secret, str):
        raise Unauthenticated("no credentials were given")
    return secret


def hash_token(token: str) -> str:
    """What is kept of a token: SHA-256 in hexadecimal. Raises `Unauthenticated` for what is no text."""
    token = check_secret(token)
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def check_account_name(name: object) -> str:
    """The name, if an account may have it. Raises `InvalidInput`."""
    if not isinstance(name, str) or not _ACCOUNT_NAME.fullmatch(name):
        raise InvalidInput(
            "a user name has 1 to 64 characters of A-Z a-z 0-9 . _ @ + - and starts with a letter or digit"
        )
    return name


def check_device_id(id: object) -> str:
    """The id, if a device may have it. Raises `InvalidInput`."""
    if not isinstance(id, str) or not _DEVICE_ID.fullmatch(id):
        raise InvalidInput("a device id has 1 to 128 characters of A-Z a-z 0-9 . _ ~ : @ + = -")
    return id


def check_label(name: object) -> str:
    """A name for people: any Unicode text of at most 256 characters. Raises `InvalidInput`."""
    if not isinstance(name, str) or len(name) > MAX_LABEL or _SURROGATE.search(name):
        raise InvalidInput(f"a name is text of at most {MAX_LABEL} characters")
    return name
