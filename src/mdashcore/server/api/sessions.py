"""``/login``, ``/logout``, ``/session``: the dashboard's login, in place of a key; and ``/me/password``."""

from __future__ import annotations

from typing import cast

from quart import Blueprint, Response, request

from mdashcore._errors import Forbidden, InvalidInput, Unauthenticated
from mdashcore.hub.sessions import TOTAL
from mdashcore.server.api._request import SMALL_BODY, answer, body_object, members, principal, service, takes_body
from mdashcore.server.asgi import Scope
from mdashcore.server.auth import browser_of, client_address, session_cookie
from mdashcore.server.shielding import finish

routes: Blueprint = Blueprint("sessions", __name__)


@routes.post("/login")
@takes_body(SMALL_BODY)
async def login() -> Response:
    """Open a session: ``{"user", "password"}``. The cookie is in the answer."""
    browser_of(_scope()).check_not_foreign()  # else a page of another origin could log the user in to another account
    value = await body_object()
    members(value, "user", "password")
    name, password = value.get("user"), value.get("password")
    if not isinstance(name, str) or not isinstance(password, str):
        raise InvalidInput("user and password are text")
    account = await service().passwords.check(name, password, client_address(_scope()))
    created = await service().hub.sessions.create(account)
    response = answer({"user": account.name, "admin": account.admin})
    _set_cookie(response, created.secret, round(TOTAL))
    return response


@routes.post("/logout")
@takes_body(SMALL_BODY)
async def logout() -> Response:
    """End the session of the request and close its sockets; ``{"everywhere": true}``: all sessions of the account."""
    session = principal().session
    if session is None:
        raise InvalidInput("there is no session to end: the request came with a key or a password")
    value = await body_object()
    members(value, "everywhere")
    everywhere = value.get("everywhere", False)
    if not isinstance(everywhere, bool):
        raise InvalidInput("everywhere is true or false")
    sessions = service().hub.sessions
    await finish(lambda: sessions.forget(session.account) if everywhere else sessions.end(session))
    response = answer(True)
    _set_cookie(response, "", 0)
    return response


@routes.get("/session")
async def get_session() -> Response:
    """Answer with the user who is logged in. Without a login the answer is ``"user": null`` and no error."""
    try:
        found = await service().authenticator.of_request(_scope())
    except Unauthenticated:
        return answer({"user": None, "admin": False})
    return answer({"user": found.account, "admin": found.admin})


@routes.put("/me/password")
@takes_body(SMALL_BODY)
async def change_password() -> Response:
    """Change the caller's own password: ``{"old", "new"}``. All sessions end; a caller with one gets another."""
    found = principal()
    if found.key is not None:
        raise Forbidden("a key cannot change the password; log in, or use the user name and the password")
    value = await body_object()
    members(value, "old", "new")
    if not isinstance(value.get("old"), str):
        raise InvalidInput("old is text: the password so far")
    passwords, accounts = service().passwords, service().hub.accounts
    try:
        await passwords.check(found.account, value["old"], client_address(_scope()))
    except Unauthenticated:
        raise Forbidden("the old password is wrong") from None  # 401 would mean that the session has ended
    digest = await passwords.hash(value.get("new"), name=found.account, address=client_address(_scope()))
    account = await finish(lambda: accounts.set_password(found.account, digest))
    response = answer({"name": account.name, "admin": account.admin})
    if found.session is not None:
        created = await service().hub.sessions.create(account)
        _set_cookie(response, created.secret, round(TOTAL))
    return response


def _scope() -> Scope:
    return cast(Scope, request.scope)


def _set_cookie(response: Response, value: str, max_age: int) -> None:
    cookie = session_cookie(_scope())
    response.set_cookie(
        cookie.name, value, max_age=max_age, path=cookie.path, secure=cookie.secure, httponly=True, samesite="Strict"
    )
