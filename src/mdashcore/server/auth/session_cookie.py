"""The cookie that holds a browser session's secret: its name and attributes, in one place.

A browser takes a cookie whose name begins with ``__Host-`` only over TLS, for the whole host, and not from another host
of the same domain (RFC 6265bis). So no other host can set one. Under a path prefix, where neighbours share the host,
``__Secure-`` is used, which still requires TLS. Without TLS the name has no prefix.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

__all__ = ["SESSION_COOKIE", "SessionCookie"]

SESSION_COOKIE: Final = "mdash_session"

MAX_TRIED: Final = 8  # cookies of this name: other hosts of the domain may have set some, and each costs two reads

_SECRET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}:mds_[A-Za-z0-9_-]{43}")
"""The form of a secret. Values of another form are not looked up."""


@attrs.frozen
class SessionCookie:
    """The cookie's name, and where the browser sends it."""

    name: str
    path: str
    secure: bool

    @classmethod
    def of(cls, scheme: str, prefix: str = "") -> SessionCookie:
        """Return the cookie for pages of this scheme, under this path prefix.

        >>> SessionCookie.of("https")
        SessionCookie(name='__Host-mdash_session', path='/', secure=True)
        >>> SessionCookie.of("https", "/mdash")
        SessionCookie(name='__Secure-mdash_session', path='/mdash/', secure=True)
        >>> SessionCookie.of("http")
        SessionCookie(name='mdash_session', path='/', secure=False)
        """
        secure = scheme == "https"
        mark = "" if not secure else "__Secure-" if prefix else "__Host-"
        return cls(mark + SESSION_COOKIE, f"{prefix.rstrip('/')}/", secure)

    def secrets(self, header: str | None) -> tuple[str, ...]:
        """Return the candidates for a session's secret: the first few cookies of the right name and form."""
        found: dict[str, None] = {}
        for pair in (header or "").split(";"):
            name, _, value = pair.strip().partition("=")
            if name == self.name and _SECRET.fullmatch(value):
                found[value] = None
                if len(found) == MAX_TRIED:
                    break
        return tuple(found)
