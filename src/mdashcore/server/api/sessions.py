"""``/login``, ``/logout``, ``/session``: the dashboard's login, in place of a key; and ``/me/password``."""

from __future__ import annotations

from typing import Literal, cast

from quart import Response, request

from mdashcore import identity
from mdashcore._errors import Forbidden, InvalidInput, Unauthenticated
from mdashcore.documents import Login, Logout, MeDocument, PasswordChange, SessionDocument
from mdashcore.hub.sessions import MAX_SESSION_TIME
from mdashcore.server.api._request import answer, body_object, members, principal, service
from mdashcore.server.asgi import Scope
from mdashcore.server.auth import browser_of, client_address, session_cookie
from mdashcore.server.endpoints import API, SMALL_BODY, Access, Routes
from mdashcore.trio.shielding import finish

routes: Routes = Routes(API)


@routes.post(
    "/login",
    access=Access.PUBLIC,
    body=Login,
    max_body=SMALL_BODY,
    answers={200: SessionDocument},
    errors=(401, 403, 429),
)
async def login() -> Response:
    """Open a session. The cookie is in the answer."""
    browser_of(_scope()).check_not_foreign()  # else a page of another origin could log the user in to another account
    value = await body_object()
    members(value, Login)
    name, password = value.get("user"), value.get("password")
    if not isinstance(name, str) or not isinstance(password, str):
        raise InvalidInput("user and password are text")
    if identity.is_key(password):
        raise InvalidInput("that is an API key, no password: a key logs nobody in, and is sent with each request")
    account = await service().passwords.check(name, password, client_address(_scope()))
    created = await service().hub.sessions.create(account)
    response = answer(await _session_document(account.name, admin=account.admin))
    _set_cookie(response, created.secret, round(MAX_SESSION_TIME))
    return response


@routes.post("/logout", body=Logout, max_body=SMALL_BODY, answers={200: Literal[True]})
async def logout() -> Response:
    """End the session of the request and close its sockets; with `everywhere`, those of all sessions."""
    session = principal().session
    if session is None:
        raise InvalidInput("there is no session to end: the request came with a key or a password")
    value = await body_object()
    members(value, Logout)
    everywhere = value.get("everywhere", False)
    if not isinstance(everywhere, bool):
        raise InvalidInput("everywhere is true or false")
    sessions = service().hub.sessions
    await finish(lambda: sessions.forget(session.account) if everywhere else sessions.end(session))
    response = answer(True)
    _set_cookie(response, "", 0)
    return response


@routes.get("/session", access=Access.PUBLIC, answers={200: SessionDocument}, errors=(403, 429))
async def get_session() -> Response:
    """Answer with the user who is logged in, how many devices the account has, and where its notifications end.

    What is read after this answer, and the notifications from `log_end` on, are together the state of the account.
    Without a login `user` is null.
    """
    try:
        found = await service().authenticator.of_request(_scope())
    except Unauthenticated:
        unknown: SessionDocument = {"user": None, "admin": False, "devices": None, "log_end": None}
        return answer(unknown)
    return answer(await _session_document(found.account, admin=found.admin))


async def _session_document(account: str, *, admin: bool) -> SessionDocument:
    hub = service().hub
    log_end = await hub.feed.end(account)
    return {"user": account, "admin": admin, "devices": (await hub.usage.of(account)).devices, "log_end": log_end}


@routes.put("/me/password", access=Access.USER, body=PasswordChange, max_body=SMALL_BODY, answers={200: MeDocument})
async def change_password() -> Response:
    """Change the caller's own password. All sessions end; a caller with one gets another."""
    found = principal()
    value = await body_object()
    members(value, PasswordChange)
    if not isinstance(value.get("old"), str):
        raise InvalidInput("old is text: the password so far")
    passwords, accounts = service().passwords, service().hub.accounts
    try:
        await passwords.check(found.account, value["old"], client_address(_scope()))
    except Unauthenticated:
        raise Forbidden("the old password is wrong") from None  # 401 would mean that the session has ended
    digest = await passwords.hash(value.get("new"), name=found.account, address=client_address(_scope()))
    account = await finish(lambda: accounts.set_password(found.account, digest))
    document: MeDocument = {"name": account.name, "admin": account.admin}
    response = answer(document)
    if found.session is not None:
        created = await service().hub.sessions.create(account)
        _set_cookie(response, created.secret, round(MAX_SESSION_TIME))
    return response


def _scope() -> Scope:
    return cast(Scope, request.scope)


def _set_cookie(response: Response, value: str, max_age: int) -> None:
    cookie = session_cookie(_scope())
    response.set_cookie(
        cookie.name, value, max_age=max_age, path=cookie.path, secure=cookie.secure, httponly=True, samesite="Strict"
    )
