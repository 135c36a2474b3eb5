"""Accounts, their devices and API keys, and the secrets that authenticate them.

Randomness is an argument, and a secret is returned once: only its SHA-256 digest is stored. A fast hash is
enough for a token, because a token has 256 random bits, which cannot be searched. A password has fewer,
and is hashed with Argon2id at the edge of the server.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any, Final

import attrs
import msgspec

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
    "hash_foreign_token",
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

MAX_SHOWN_ID: Final = 128  # characters of an id that an error repeats: no valid id is longer

MIN_DISTINCT: Final = 8  # different characters of a token that was made elsewhere: random ones of 16 have more

_FOREIGN_TOKEN = re.compile("[!-~]{16,256}")  # it travels in a header
_FOREIGN_WORDS: Final = "16 to 256 visible ASCII characters without spaces"
_DIGEST = re.compile("[0-9A-Fa-f]{64}")

_KEY = re.compile(r"mdk_[A-Za-z0-9_-]{43}", re.ASCII)

_ACCOUNT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}", re.ASCII)  # no ":", which ends the name in HTTP Basic
_DEVICE_ID = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._~:@+=-]{1,128}", re.ASCII)  # fits into a URL path unquoted

_SURROGATE = re.compile("[\ud800-\udfff]")  # half a character: neither UTF-8 nor JSON can hold it


@attrs.frozen
class Account:
    """A user. All devices, keys and logs belong to one account."""

    name: str
    password_hash: str
    """Argon2id, in PHC string format."""
    admin: bool
    """Whether the user may manage accounts. An admin sees nothing of their devices. This is a copy for the store: the
    roster of admins decides.
    """
    created_at: float
    """Unix seconds."""
    removing: bool = False
    """Whether its removal has begun. From then on no login succeeds. The name is free after all its data is gone."""
    rehashed_from: str = ""
    """The earlier `credential`, if the hash of an unchanged password was computed again."""

    id: str = ""
    """Distinguishes this account from an earlier or later one of its name. Empty for accounts of older versions."""

    @property
    def credential(self) -> str:
        """A value that changes with the password, and only with it. It is no secret and cannot be used to log in."""
        return self.rehashed_from or hash_token(self.password_hash)


class DeviceKey(msgspec.Struct, frozen=True, gc=False):
    """The name of a device in a service: its account, and its id within that account.

    ``str(key)`` is the form that stores use, and `parse` reads it.

    Raises:
        InvalidInput: no account can have such a name, or no device such an id.

    >>> str(DeviceKey("alice", "lamp"))
    'alice/lamp'
    """

    account: str
    id: str

    def __post_init__(self) -> None:
        check_account_name(self.account)
        check_device_id(self.id)

    def __str__(self) -> str:
        return f"{self.account}/{self.id}"

    @classmethod
    def parse(cls, text: str) -> DeviceKey:
        """Read the text that ``str(key)`` has written. Raises `InvalidInput` for other text.

        >>> DeviceKey.parse("alice/lamp")
        DeviceKey(account='alice', id='lamp')
        """
        account, _, id = text.partition("/")
        return cls(account, id)

    @classmethod
    def find(cls, account: str, id: str) -> DeviceKey:
        """Return the key of a requested device. Raises `NotFound` if no device can have this name."""
        try:
            return cls(account, id)
        except InvalidInput:
            raise NotFound(f"no device {id[:MAX_SHOWN_ID]!r}") from None


@attrs.frozen
class Device:
    """A registered device. Its id is unique within its account only."""

    account: str
    id: str
    name: str
    token_hash: str
    """SHA-256 of the token. Empty after the device's removal has begun: then no token matches."""
    created_at: float
    """Unix seconds."""
    delta_limit: int | None = None
    """Bytes of the largest frame with a delta that the device is sent. 0 means no limit. With `None` the limit of its
    platform applies, if there is one.
    """
    tags: dict[str, Any] = attrs.field(factory=dict)
    """Names with text or `True`, as `mdashcore.tags` checks them."""
    is_announced: bool = True
    """Whether the notification of its registration was stored. Only an import that was interrupted leaves it out."""

    @property
    def key(self) -> DeviceKey:
        """The device's name in the service."""
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
    """Unix seconds of the last use, late by an hour at most; `None` if the key was never used."""


def make_token(prefix: str, entropy: bytes) -> str:
    """Return a secret. Its prefix tells people, and scanners of leaked secrets, its kind.

    Args:
        prefix: `DEVICE_PREFIX`, `KEY_PREFIX` or `SESSION_PREFIX`.
        entropy: 32 random bytes.

    Raises:
        InvalidInput: `entropy` has another length.

    >>> make_token("mdd", bytes(32))
    'mdd_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'
    """
    if len(entropy) != ENTROPY_BYTES:
        raise InvalidInput(f"a token is made of {ENTROPY_BYTES} random bytes")
    return f"{prefix}_{base64.urlsafe_b64encode(entropy).rstrip(b'=').decode()}"


def is_key(secret: str) -> bool:
    """Return whether a secret has the form of an API key, as `make_token` makes it. The key need not exist.

    >>> is_key(make_token("mdk", bytes(32))), is_key("mdk_short"), is_key("a password")
    (True, False, False)
    """
    return _KEY.fullmatch(secret) is not None


def make_id(prefix: str, entropy: bytes) -> str:
    """Return an identifier that is no secret: 60 bits, written in base 32.

    >>> make_id("dev", bytes(8))
    'dev_aaaaaaaaaaaa'
    """
    if len(entropy) < 8:
        raise InvalidInput("an identifier is made of at least 8 random bytes")
    return f"{prefix}_{base64.b32encode(entropy)[:12].decode().lower()}"


def check_secret(secret: object) -> str:
    """Return the secret. Raises `Unauthenticated` if it is not text."""
    if not isinstance(secret, str):
        raise Unauthenticated("no credentials were given")
    return secret


def hash_token(token: str) -> str:
    """Return the stored form of a token: SHA-256 in hexadecimal. Raises `Unauthenticated` if it is not text."""
    token = check_secret(token)
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def hash_foreign_token(token: object, digest: object = None) -> str:
    """Return the stored form of a token that another service has made.

    Args:
        token: the token, 16 to 256 visible ASCII characters, of which 8 differ; `None` if only its hash is known.
        digest: its SHA-256 in hexadecimal, in place of the token.

    Raises:
        InvalidInput: neither or both are given, or the token is too weak, or no token at all.
    """
    if (token is None) is (digest is None):
        raise InvalidInput("a token or its SHA-256 is needed, one of them")
    text = digest if token is None else token
    form, words = (_DIGEST, "64 hexadecimal digits") if token is None else (_FOREIGN_TOKEN, _FOREIGN_WORDS)
    if not isinstance(text, str) or not form.fullmatch(text):
        raise InvalidInput(f"that is no token: {words} are needed" if token is not None else f"a SHA-256 has {words}")
    if len(set(text.lower())) < MIN_DISTINCT:
        raise InvalidInput(f"the token is too weak: at least {MIN_DISTINCT} of its characters have to differ")
    if text.startswith(f"{KEY_PREFIX}_"):
        raise InvalidInput("that is an API key, and no token of a device")
    return text.lower() if token is None else hash_token(text)


def check_account_name(name: object) -> str:
    """Return the name if an account may have it. Raises `InvalidInput` otherwise."""
    if not isinstance(name, str) or not _ACCOUNT_NAME.fullmatch(name):
        raise InvalidInput(
            "a user name has 1 to 64 characters of A-Z a-z 0-9 . _ @ + - and starts with a letter or digit"
        )
    return name


def check_device_id(id: object) -> str:
    """Return the id if a device may have it. Raises `InvalidInput` otherwise."""
    if not isinstance(id, str) or not _DEVICE_ID.fullmatch(id):
        raise InvalidInput("a device id has 1 to 128 characters of A-Z a-z 0-9 . _ ~ : @ + = -")
    return id


def check_label(name: object) -> str:
    """Return a name for people: any Unicode text of at most 256 characters. Raises `InvalidInput` for other values."""
    if not isinstance(name, str) or len(name) > MAX_LABEL or _SURROGATE.search(name):
        raise InvalidInput(f"a name is text of at most {MAX_LABEL} characters")
    return name
