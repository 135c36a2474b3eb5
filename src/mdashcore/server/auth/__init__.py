"""Authentication: from the headers of a request to the account that it acts for."""

from mdashcore.server.auth.authenticator import (
    SESSION_COOKIE,
    Authenticator,
    Browser,
    Principal,
    bearer,
    browser_of,
    query_value,
)
from mdashcore.server.auth.passwords import Passwords

__all__ = [
    "SESSION_COOKIE",
    "Authenticator",
    "Browser",
    "Passwords",
    "Principal",
    "bearer",
    "browser_of",
    "query_value",
]
