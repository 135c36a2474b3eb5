"""Authentication: maps the headers of a request to the account for which it acts."""

from mdashcore.server.auth.authenticator import (
    Authenticator,
    Browser,
    Principal,
    bearer,
    browser_of,
    client_address,
    is_basic,
    session_cookie,
)
from mdashcore.server.auth.callers import caller_name
from mdashcore.server.auth.passwords import Passwords
from mdashcore.server.auth.session_cookie import SESSION_COOKIE, SessionCookie

__all__ = [
    "SESSION_COOKIE",
    "Authenticator",
    "Browser",
    "Passwords",
    "Principal",
    "SessionCookie",
    "bearer",
    "browser_of",
    "caller_name",
    "client_address",
    "is_basic",
    "session_cookie",
]
