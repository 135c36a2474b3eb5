"""Authenticates a request by its headers."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable

import attrs

from mdashcore import identity
from mdashcore._errors import Forbidden, Unauthenticated
from mdashcore.hub import Hub
from mdashcore.hub.records.schema import BrowserSession
from mdashcore.identity import Account
from mdashcore.server.asgi import ON_KNOWN, Scope, header, root_path
from mdashcore.server.auth.passwords import Passwords
from mdashcore.server.auth.session_cookie import SessionCookie
from mdashcore.server.query import ACCESS_TOKEN, query_value

__all__ = ["Authenticator", "Browser", "Principal", "bearer", "client_address", "is_basic", "session_cookie"]


@attrs.frozen
class Principal:
    """The account that a request acts for, and its credential."""

    account: str
    admin: bool = False
    """Whether it may manage accounts. Only a login with a password may; a key may not."""
    key: str | None = None
    """The id of the API key, if the credential was a key."""
    session: BrowserSession | None = None
    """The browser session, if the credential was a session."""

    @property
    def revocable(self) -> str | None:
        """The id by which this principal's sockets are closed: the key's or the session's."""
        return self.key if self.session is None else self.session.id


@attrs.frozen
class Browser:
    """The part of a request that a browser adds by itself: its cookie, and the origin of the page that sends it.

    A browser sends the cookie with every request, also for a page of another origin. So the cookie authenticates a
    request that can change or reveal anything only if the browser says that the page is of this server.
    """

    secrets: tuple[str, ...] = ()
    """Candidates for the session's secret. Another page of the domain may have set cookies of the same name."""
    safe: bool = False
    """Whether the request only reads, and the browser hides its answer from other origins."""
    origin: str | None = None
    fetch_site: str | None = None
    """The header ``Sec-Fetch-Site``."""
    host: str | None = None

    @classmethod
    def of(cls, get: Callable[[str], str | None], *, safe: bool, cookie: SessionCookie) -> Browser:
        """Make the value from a request's headers; `get` looks them up by their lower-case names."""
        return cls(cookie.secrets(get("cookie")), safe, get("origin"), get("sec-fetch-site"), get("host"))

    def check_not_foreign(self) -> None:
        """Raise `Forbidden` for a request of a page of another origin. Clients other than browsers may pass."""
        if (self.fetch_site is not None or self.origin is not None) and not self._is_own():
            raise Forbidden("a page of another origin has sent this request")

    def check_own_page(self) -> None:
        """Raise `Forbidden` unless the browser says that a page of this server has sent the request."""
        self.check_not_foreign()
        if not self._is_own():
            raise Forbidden("with a session cookie, a request that changes something needs Origin or Sec-Fetch-Site")

    def _is_own(self) -> bool:
        """Return whether the page is of this server, by `Sec-Fetch-Site` or `Origin`, which no page can set."""
        if self.fetch_site is not None:
            return self.fetch_site == "same-origin"  # right also behind a proxy that has changed the host
        scheme, _, netloc = (self.origin or "").partition("://")
        return scheme in ("http", "https") and netloc != "" and netloc.lower() == (self.host or "").lower()


class Authenticator:
    """Authenticates requests by ``Bearer`` key, ``Basic`` user and password, ``?access_token=``, or the session cookie.

    A password in the form of a key is looked up only as a key, whatever the user's name is.
    """

    def __init__(self, hub: Hub, passwords: Passwords) -> None:
        self._hub = hub
        self._passwords = passwords

    async def of_request(self, scope: Scope) -> Principal:
        """Authenticate an HTTP request. Raises as `authenticate`."""
        query = scope["query_string"].decode("latin-1")
        authorization = header(scope, b"authorization")
        found = await self.authenticate(authorization, query, browser_of(scope), client_address(scope))
        if (on_known := scope.get(ON_KNOWN)) is not None:
            on_known(found.account)
        return found

    async def authenticate(
        self, authorization: str | None, query: str = "", browser: Browser = Browser(), address: str = ""
    ) -> Principal:
        """Authenticate a request.

        Args:
            authorization: the value of that header, if there is one.
            query: the query string as it was sent.
            browser: used if neither the header nor the query has a credential.
            address: the client's IP address, for which wrong passwords are counted.

        Raises:
            Unauthenticated: there is no valid credential.
            Forbidden: the cookie is valid, but a page of another origin has sent it.
            Busy: there were too many wrong passwords.
        """
        if authorization is None:
            token = _access_token(query)
            if token is None and browser.secrets:
                return await self._by_session(browser)
            if token is None:
                raise Unauthenticated("authentication is required: a Bearer API key, or Basic user and password")
            return await self._by_key(token)
        scheme, _, value = authorization.strip().partition(" ")
        if scheme.lower() == "bearer":
            return await self._by_key(value.strip())
        if is_basic(authorization):
            if browser.fetch_site != "none":
                browser.check_not_foreign()  # a browser adds a password by itself, as it does a cookie
            name, password = _basic(value.strip())
            if identity.is_key(password):  # for clients that support only user and password in a URL
                return await self._by_key(password)
            account = await self._passwords.check(name, password, address)
            return Principal(account.name, admin=account.admin)
        raise Unauthenticated("authentication is required: a Bearer API key, or Basic user and password")

    async def _by_session(self, browser: Browser) -> Principal:
        session, account = await self._first_session(browser.secrets)
        if not browser.safe:
            browser.check_own_page()
        elif browser.fetch_site != "none":  # "none" means that a person opened the address, without a page
            browser.check_not_foreign()
        return Principal(account.name, admin=account.admin, session=session)

    async def _first_session(self, secrets: tuple[str, ...]) -> tuple[BrowserSession, Account]:
        for secret in secrets:
            try:
                return await self._hub.sessions.authenticate(secret)
            except Unauthenticated:
                continue
        raise Unauthenticated("the session has ended; log in again")

    async def _by_key(self, secret: str) -> Principal:
        key = await self._hub.accounts.authenticate_key(secret)
        return Principal(key.account, key=key.id)


def browser_of(scope: Scope) -> Browser:
    """Return the browser's part of an HTTP request."""
    reads = scope["method"] in ("GET", "HEAD") and "/rpc/" not in scope["path"]  # GET also calls devices
    return Browser.of(lambda name: header(scope, name.encode()), safe=reads, cookie=session_cookie(scope))


def session_cookie(scope: Scope) -> SessionCookie:
    """Return the cookie of the page that an HTTP request belongs to."""
    return SessionCookie.of(scope["scheme"], root_path(scope))


def client_address(scope: Scope) -> str:
    """Return the IP address of an HTTP request's client; empty if it has none."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def bearer(authorization: str | None) -> str:
    """Return the token of a device's request. Raises `Unauthenticated` if there is none."""
    scheme, _, value = (authorization or "").strip().partition(" ")
    if scheme.lower() != "bearer" or not value.strip():
        raise Unauthenticated("a device connects with Authorization: Bearer TOKEN")
    return value.strip()


def is_basic(authorization: str | None) -> bool:
    """Return whether the header has a user and a password, whose check may take seconds."""
    return (authorization or "").strip().partition(" ")[0].lower() == "basic"


def _access_token(query: str) -> str | None:
    return query_value(query, ACCESS_TOKEN) if "access_token=" in query else None


def _basic(value: str) -> tuple[str, str]:
    try:
        name, colon, password = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise Unauthenticated("the Basic credentials cannot be read") from None
    if not colon:
        raise Unauthenticated("the Basic credentials cannot be read")
    return name, password
