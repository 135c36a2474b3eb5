"""The REST app: Quart-Trio for most routes, with the guards and the uploads in front of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, cast

from quart import Response, g, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from mdashcore._errors import Forbidden, MdashError, StorageError, status_of
from mdashcore.server import errors
from mdashcore.server.api._request import answer
from mdashcore.server.api.compatibility import instead_of
from mdashcore.server.asgi import App, FramingGuard, Receive, Scope, Send, is_from_page, root_path
from mdashcore.server.auth import Principal
from mdashcore.server.direct_requests import DirectConnection
from mdashcore.server.endpoints import API, Access
from mdashcore.server.http.bodies import BodyGuard
from mdashcore.server.http.fairness import FairApp
from mdashcore.server.http.forwarded import ProxiedApp
from mdashcore.server.http.guards import check_request
from mdashcore.server.http.request_id import RequestIdApp
from mdashcore.server.http.root_path import RootPathApp
from mdashcore.server.lanes.fast_lane import SECURITY_HEADERS
from mdashcore.server.openapi import ALL_ENDPOINTS, PUBLIC_PATHS
from mdashcore.server.service import Service
from mdashcore.server.static import StaticFiles
from mdashcore.server.uploads.firmware_upload import FirmwareRoute
from mdashcore.server.uploads.rollout_upload import RolloutRoute
from mdashcore.server.uploads.update_upload import UploadRoute

__all__ = ["App", "Receive", "Scope", "Send", "create_app", "create_quart_app", "routes"]

_log = logging.getLogger(__name__)

PRINCIPAL = "mdashcore.principal"  # in a scope: the principal of the request, if an outer layer has authenticated it

_SERVED = {each.name: each for each in ALL_ENDPOINTS if each.handler is not None}
"""The endpoints that Quart serves, by the names that they have in its map."""

_NO_KEYS = {
    Access.ADMIN: "only an admin, with user name and password, may do this",
    Access.USER: "a key cannot do this: log in, or use the user name and the password",
}


def create_app(service: Service, *, in_front: Callable[[App], App] = lambda app: app) -> App:
    """Create the whole REST API as an ASGI app, for any server that runs on Trio.

    Args:
        in_front: returns an app that answers some paths by itself, and passes the others to the given one.

    The app heeds the `root_path` of its scopes: links, cookies and redirects lead below it. WebSockets are not part of
    the app: `mdashcore.server.gateway` serves them.
    """
    settings = service.settings
    quart = create_quart_app(service)
    paths = quart.url_map.bind("")

    async def authenticate(scope: Scope) -> str | None:
        if not needs_login(scope["path"]):
            return None
        found = scope[PRINCIPAL] = await service.authenticator.of_request(scope)
        return found.account

    def limit_of(scope: Scope) -> int:
        try:
            endpoint, _ = paths.match(scope["path"], method=scope["method"])
        except HTTPException:  # no such path, or another method
            return 0
        return _SERVED[endpoint].body_limit(settings.max_body)

    guarded = BodyGuard(
        cast(App, quart),
        service.bodies,
        limit_of=limit_of,
        timeout=settings.body_timeout,
        authenticate=authenticate,
    )
    uploads = UploadRoute(service, RolloutRoute(service, FirmwareRoute(service, guarded)))
    whole = FramingGuard(FairApp(in_front(StaticFiles(uploads))))
    proxied = ProxiedApp(RootPathApp(whole), service.proxies, settings.hsts_max_age)
    return RequestIdApp(proxied, service.proxies)


def routes(app: App) -> list[tuple[str, str]]:
    """List method and path of every route of an app made by `create_app`. Parameters are in angle brackets."""
    found: list[tuple[str, str]] = []
    layer: Any = app
    while not isinstance(layer, QuartTrio):
        found += getattr(layer, "routes", ())
        found += [(each.method, each.path) for each in (getattr(layer, "endpoint", None),) if each is not None]
        layer = layer.inner
    for rule in layer.url_map.iter_rules():
        found += [(method, rule.rule) for method in sorted(rule.methods or ()) if method not in ("HEAD", "OPTIONS")]
    return found


def needs_login(path: str) -> bool:
    """Return whether a path requires a login."""
    return path.startswith("/api/") and path.rstrip("/") not in PUBLIC_PATHS


def nothing_at(path: str, root: str = "") -> str:
    """Return the error message for a path that is not served."""
    instead = instead_of(path)
    return f"nothing is served at {root}{path}" + (f": {instead}" if instead else "")


def _check_access(access: Access, principal: Principal) -> None:
    """Raise `Forbidden` if the principal may not call an endpoint of this access."""
    if principal.key is not None or (access is Access.ADMIN and not principal.admin):
        raise Forbidden(_NO_KEYS[access])


def create_quart_app(service: Service) -> QuartTrio:
    """Create the Quart part without the guards. Put it behind `BodyGuard` before it serves requests."""
    app = QuartTrio("mdashcore.server", static_folder=None)
    app.asgi_http_class = DirectConnection
    app.config.update(
        MDASH_SERVICE=service,
        PROVIDE_AUTOMATIC_OPTIONS=False,
        MAX_CONTENT_LENGTH=None,  # `BodyGuard` counts the bytes
        BODY_TIMEOUT=None,
        RESPONSE_TIMEOUT=None,  # answers are small and complete, and the stream has a time-out of its own
    )
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False  # merging answers with redirects, which API clients do not follow
    for endpoint in _SERVED.values():
        app.add_url_rule(endpoint.path, endpoint.name, endpoint.handler, methods=[endpoint.method])

    @app.before_request
    async def authenticate() -> None:
        scope = cast(Scope, request.scope)
        if (known := scope.get(PRINCIPAL)) is not None:
            g.principal = known
        elif needs_login(request.path) and not (request.endpoint in _SERVED and _SERVED[request.endpoint].is_socket):
            g.principal = await service.authenticator.of_request(scope)

    @app.before_request
    async def check() -> None:
        endpoint = g.endpoint = _SERVED.get(request.endpoint or "")
        if endpoint is not None and endpoint.path.startswith(API):
            check_request(cast(Scope, request.scope), endpoint.parameters, conditional=endpoint.conditional)
            if endpoint.access in _NO_KEYS:
                _check_access(endpoint.access, g.principal)

    @app.after_request
    async def secure(response: Response) -> Response:
        for name, value in SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @app.errorhandler(MdashError)
    async def our_error(error: MdashError) -> Response:
        if isinstance(error, StorageError):
            _log.error("%s %s failed: %s", request.method, request.path, error)
        response = answer(errors.body(error), status_of(error))
        response.headers.update(errors.headers(error, from_page=is_from_page(cast(Scope, request.scope))))
        return response

    @app.errorhandler(HTTPException)
    async def http_error(error: HTTPException) -> Response:
        status = error.code or 500
        words = (
            nothing_at(request.path, root_path(cast(Scope, request.scope)))
            if status == 404
            else error.description or ""
        )
        response = answer(errors.plain_body(status, words), status)
        if status == 405:
            response.headers["Allow"] = ", ".join(sorted(getattr(error, "valid_methods", None) or ()))
        return response

    @app.errorhandler(Exception)
    async def unexpected(error: Exception) -> Response:
        _log.error("%s %s failed", request.method, request.path, exc_info=error)
        return answer(errors.plain_body(500, "internal error"), 500)

    return app
